//! The page of an inspection: one file, plots as SVG, spectrograms as PNG, nothing to fetch.

mod bars;

use std::fmt::Write as _;

use base64::Engine as _;
use clap_audio::{Scratch, Waveform};
use clap_data::{DataSet, FaultKind, Inspection, Sample, Spread};
use html_escape::{encode_double_quoted_attribute, encode_text};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

use super::summary_table::{columns, repeats, rows};
use crate::args;
use crate::front_end::FrontEnd;
use crate::info::clock;
use crate::picture::{self, Panel, Picture};

/// Rows of a list; the JSON object has all.
const LISTED: usize = 50;

/// Labels drawn, the most frequent ones.
const LABELS: usize = 30;

/// Only the beginning of a longer clip is drawn: a model's window.
const DRAWN_S: usize = 10;

/// The whole document.
pub(super) fn page(found: &Inspection, data: &[DataSet], pictures: usize, seed: u64) -> anyhow::Result<String> {
    let mut html = String::new();
    let name = encode_text(&found.name);
    write!(
        html,
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>{name}</title>\n<style>\n{}</style></head>\n<body>\n<h1>{name}</h1>\n",
        include_str!("page/style.css")
    )?;
    if found.headers_only {
        html.push_str("<p>Read from the headers of the sound files; nothing was decoded.</p>\n");
    }
    cards(&mut html, found)?;
    plots(&mut html, found)?;
    numbers(&mut html, found)?;
    faults(&mut html, found)?;
    twice(&mut html, found)?;
    spectrograms(&mut html, data, pictures, seed)?;
    html.push_str("</body></html>\n");
    Ok(html)
}

/// What a kind of fault is called.
pub(super) fn kind(kind: FaultKind) -> &'static str {
    match kind {
        FaultKind::Broken => "broken",
        FaultKind::NotFinite => "not finite",
        FaultKind::Silent => "silent",
        FaultKind::Clipped => "clipped",
    }
}

/// The numbers to be seen first.
fn cards(html: &mut String, found: &Inspection) -> std::fmt::Result {
    let all = &found.all;
    html.push_str("<div class=\"cards\">\n");
    let hours = if all.seconds < 7200.0 {
        format!("{:.1} min", all.seconds / 60.0)
    } else {
        format!("{:.1} h", all.seconds / 3600.0)
    };
    let plain = [
        (all.clips.to_string(), "clips"),
        (hours, "of sound"),
        (found.splits.len().to_string(), if found.splits.len() == 1 { "split" } else { "splits" }),
        (all.distinct_captions.to_string(), "different captions"),
        (all.labels.len().to_string(), "labels"),
    ];
    for (value, name) in plain {
        writeln!(html, "<div><b>{value}</b><span>{name}</span></div>")?;
    }
    let wrong = [
        (all.left_out, "left out"),
        (all.broken, "broken"),
        (all.not_finite, "not finite"),
        (all.silent, "silent"),
        (all.clipped, "clipped"),
        (found.repeats.sounds_across_splits, "sounds in several splits"),
    ];
    for (count, name) in wrong.into_iter().filter(|(count, _)| *count > 0) {
        writeln!(html, "<div class=\"fault\"><b>{count}</b><span>{name}</span></div>")?;
    }
    html.push_str("</div>\n");
    Ok(())
}

fn plots(html: &mut String, found: &Inspection) -> std::fmt::Result {
    let all = &found.all;
    html.push_str("<h2>How it is spread</h2>\n<div class=\"plots\">\n");
    let mut spread = |title: &str, spread: &Option<Spread>, unit: &str| -> std::fmt::Result {
        let Some(spread) = spread else { return Ok(()) };
        let note =
            format!("median {}, 5 to 95 %: {} to {}", Short(spread.median), Short(spread.p05), Short(spread.p95));
        figure(html, title, &note, &bars::histogram(&spread.histogram, unit))
    };
    spread("Length of clips", &all.durations, "seconds")?;
    spread("Level", &all.rms_db, "dB of full scale (RMS)")?;
    spread("Words of captions", &all.caption_words, "words")?;
    spread("Tokens of captions", &all.caption_tokens, "tokens")?;
    let mut formats: Vec<(String, usize)> = Vec::new();
    formats.extend(all.sample_rates.iter().map(|(rate, count)| (format!("{rate} Hz"), *count)));
    formats.extend(all.channels.iter().map(|(channels, count)| (channel_name(*channels), *count)));
    formats.extend(all.encodings.iter().map(|(encoding, count)| (encoding.clone(), *count)));
    figure(html, "Rates, channels, encodings", "clips", &bars::named(&formats))?;
    if all.captions_per_clip.len() > 1 {
        let counts: Vec<(String, usize)> =
            all.captions_per_clip.iter().map(|(captions, clips)| (captions.to_string(), *clips)).collect();
        figure(html, "Captions of a clip", "clips", &bars::named(&counts))?;
    }
    let mut labels: Vec<(String, usize)> = all.labels.iter().map(|(label, count)| (label.clone(), *count)).collect();
    labels.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    if !labels.is_empty() {
        let (count, alone) = (labels.len(), labels.iter().filter(|(_, clips)| *clips == 1).count());
        let note = match (count > LABELS, alone) {
            (true, alone) => format!("the {LABELS} most frequent of {count}; {alone} have one clip"),
            (false, alone) => format!("{count}; {alone} have one clip"),
        };
        labels.truncate(LABELS);
        // Two columns of bars where one would be as long as everything else.
        let half = labels.len().div_ceil(2).max(12).min(labels.len());
        figure(html, "Labels", &note, &bars::named(&labels[..half]))?;
        if half < labels.len() {
            figure(html, "Labels", "continued", &bars::named(&labels[half..]))?;
        }
    }
    html.push_str("</div>\n");
    Ok(())
}

fn channel_name(channels: usize) -> String {
    match channels {
        1 => "mono".to_owned(),
        2 => "stereo".to_owned(),
        n => format!("{n} channels"),
    }
}

/// A number with about three digits.
struct Short(f64);

impl std::fmt::Display for Short {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = match self.0.abs() {
            value if value >= 100.0 || value.fract() == 0.0 => 0,
            value if value >= 10.0 => 1,
            _ => 2,
        };
        write!(f, "{:.digits$}", self.0)
    }
}

fn figure(html: &mut String, title: &str, note: &str, content: &str) -> std::fmt::Result {
    writeln!(
        html,
        "<figure><figcaption>{}<small>{}</small></figcaption>\n{content}</figure>",
        encode_text(title),
        encode_text(note)
    )
}

fn numbers(html: &mut String, found: &Inspection) -> std::fmt::Result {
    html.push_str("<h2>Numbers</h2>\n<div class=\"wide\"><table class=\"numbers\">\n<thead><tr><th></th>");
    for column in columns(found) {
        write!(html, "<th>{}</th>", encode_text(&column.split))?;
    }
    html.push_str("</tr></thead>\n");
    for row in rows(found) {
        let class = if row.is_part {
            "part"
        } else if row.is_fault {
            "fault"
        } else {
            ""
        };
        write!(html, "<tr class=\"{class}\"><th>{}</th>", encode_text(&row.name))?;
        for cell in row.cells {
            write!(html, "<td>{}</td>", encode_text(&cell))?;
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</table></div>\n");
    Ok(())
}

/// A table with a head; cells are text.
fn list(html: &mut String, head: &[&str], rows: &[Vec<String>]) -> std::fmt::Result {
    html.push_str("<div class=\"wide\"><table>\n<thead><tr>");
    for name in head {
        write!(html, "<th>{}</th>", encode_text(name))?;
    }
    html.push_str("</tr></thead>\n");
    for row in rows {
        html.push_str("<tr>");
        for cell in row {
            write!(html, "<td class=\"id\">{}</td>", encode_text(cell))?;
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</table></div>\n");
    Ok(())
}

fn faults(html: &mut String, found: &Inspection) -> std::fmt::Result {
    html.push_str("<h2>What is wrong</h2>\n");
    if found.faults.is_empty() && found.left_out.is_empty() {
        html.push_str("<p>Nothing was found.</p>\n");
        return Ok(());
    }
    if !found.faults.is_empty() {
        let faults = found.faults.iter().take(LISTED);
        let row = |fault: &clap_data::Fault| {
            vec![kind(fault.kind).to_owned(), fault.split.clone(), fault.id.clone(), fault.reason.clone()]
        };
        list(html, &["fault", "split", "clip", ""], &faults.map(row).collect::<Vec<_>>())?;
        if found.faults.len() > LISTED {
            writeln!(html, "<p>and {} more</p>", found.faults.len() - LISTED)?;
        }
    }
    if !found.left_out.is_empty() {
        let rows: Vec<Vec<String>> = found.left_out.iter().take(LISTED).map(|line| vec![line.clone()]).collect();
        list(html, &["left out on opening"], &rows)?;
    }
    Ok(())
}

fn twice(html: &mut String, found: &Inspection) -> std::fmt::Result {
    html.push_str("<h2>What is there more than once</h2>\n");
    for line in repeats(found) {
        writeln!(html, "<p>{}.</p>", encode_text(&line))?;
    }
    let captions = &found.repeats.frequent_captions;
    if !captions.is_empty() {
        let rows: Vec<Vec<String>> =
            captions.iter().map(|(text, count)| vec![count.to_string(), text.clone()]).collect();
        list(html, &["clips", "caption"], &rows)?;
    }
    let sounds = &found.repeats.listed_sounds;
    if !sounds.is_empty() {
        let rows: Vec<Vec<String>> = sounds.iter().map(|clips| vec![clips.join(", ")]).collect();
        list(html, &["clips with the same sound"], &rows)?;
    }
    Ok(())
}

/// Log-mel pictures of clips drawn by the seed; one that cannot be decoded is left out.
fn spectrograms(html: &mut String, data: &[DataSet], count: usize, seed: u64) -> anyhow::Result<()> {
    let clips: Vec<(&DataSet, &Sample)> =
        data.iter().flat_map(|split| split.samples.iter().map(move |sample| (split, sample))).collect();
    let count = count.min(clips.len());
    if count == 0 {
        return Ok(());
    }
    let mut drawn = rand::seq::index::sample(&mut ChaCha8Rng::seed_from_u64(seed), clips.len(), count).into_vec();
    drawn.sort_unstable();
    let front_end = FrontEnd::new(&args::FrontEnd { config: None, preset: None, long_audio: None, seed: 0 })?;
    let mel = front_end.extractor.config().mel();
    let log_mel = front_end.extractor.log_mel();
    let mut scratch = Scratch::default();
    write!(html, "<h2>Clips drawn at random</h2>\n<p>Log-mel spectrograms as a model hears them; seed {seed}.</p>\n")?;
    html.push_str("<div class=\"plots\">\n");
    for (split, sample) in drawn.into_iter().map(|clip| clips[clip]) {
        let Ok(Waveform { mut samples, sample_rate }) = sample.audio.load(mel.sample_rate) else { continue };
        let seconds = samples.len() as f64 / f64::from(sample_rate);
        samples.truncate(DRAWN_S * sample_rate as usize);
        let values = log_mel.compute(&samples, &mut scratch).data;
        let frame_s = front_end.seconds(mel.hop_length);
        let panel = Panel { title: String::new(), values, first_s: 0.0, frame_s };
        let title = format!("{}  {}", sample.id, clock(seconds));
        let subtitle = format!("{}, {}", split.split, sample.labels.join(", "));
        let (png, ..) = picture::png(&Picture { title, subtitle, panels: &[panel], mel: &mel });
        write!(
            html,
            "<figure><img alt=\"{}\" src=\"data:image/png;base64,{}\">",
            encode_double_quoted_attribute(&sample.id),
            base64::engine::general_purpose::STANDARD.encode(png)
        )?;
        for caption in &sample.captions {
            write!(html, "<p>{}</p>", encode_text(caption))?;
        }
        html.push_str("</figure>\n");
    }
    html.push_str("</div>\n");
    Ok(())
}
