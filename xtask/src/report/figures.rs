//! The pictures of an evaluation: who was taken for whom, which captions are near which clips, and the space as a map with sounds.

use std::collections::HashMap;
use std::fmt::Write as _;

use base64::Engine as _;
use candle_core::Tensor;
use clap_audio::Waveform;
use clap_data::{AudioSource, OpenOptions};
use clap_eval::{Embedded, ZeroShotMetrics, tsne};
use html_escape::{encode_double_quoted_attribute as attribute, encode_text};

use super::Split;
use crate::picture::pixels_png;

/// Points of a map; t-SNE takes time by their square.
const MOST_POINTS: usize = 800;
/// Pairs of a heat map.
const MOST_PAIRS: usize = 120;
/// Classes whose names are written beside the confusion matrix.
const MOST_NAMES: usize = 60;
/// Confusions that are listed.
const LISTED: usize = 12;

/// Rate and seconds of a sound in the page.
const SOUND: (u32, f64) = (16_000, 3.0);

/// A matrix of shares of each true class, with only the classes that have clips or were answered.
pub(super) fn confusion(found: &ZeroShotMetrics, classes: &[String]) -> anyhow::Result<String> {
    let counts = found.confusion();
    let used: Vec<usize> = (0..classes.len())
        .filter(|&class| counts[class].iter().sum::<usize>() > 0 || counts.iter().any(|row| row[class] > 0))
        .collect();
    let named = used.len() <= MOST_NAMES;
    let (cell, left, top) = if named { (11.0, 150.0, 130.0) } else { (640.0 / used.len() as f64, 20.0, 20.0) };
    let side = cell * used.len() as f64;
    let (width, height) = (left + side + 12.0, top + side + 24.0);
    let mut svg =
        format!("<svg viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\" aria-label=\"confusion matrix\">\n");
    writeln!(svg, "<rect class=\"empty\" x=\"{left}\" y=\"{top}\" width=\"{side:.1}\" height=\"{side:.1}\"/>")?;
    for (row, &truth) in used.iter().enumerate() {
        let clips: usize = counts[truth].iter().sum();
        let y = top + cell * row as f64;
        if named {
            let baseline = y + cell * 0.8;
            writeln!(
                svg,
                "<text class=\"end tiny\" x=\"{:.1}\" y=\"{baseline:.1}\">{}</text>",
                left - 5.0,
                encode_text(&classes[truth])
            )?;
            let x = left + cell * (row as f64 + 0.8);
            writeln!(
                svg,
                "<text class=\"tiny\" transform=\"translate({x:.1},{:.1}) rotate(-90)\">{}</text>",
                top - 5.0,
                encode_text(&classes[truth])
            )?;
        }
        for (column, &answer) in used.iter().enumerate().filter(|(_, answer)| counts[truth][**answer] > 0) {
            let count = counts[truth][answer];
            let share = count as f64 / clips as f64;
            let kind = if truth == answer { "right" } else { "wrong" };
            let title = format!("{count} of {clips} {} taken for {}", classes[truth], classes[answer]);
            writeln!(
                svg,
                "<rect class=\"{kind}\" x=\"{:.1}\" y=\"{y:.1}\" width=\"{cell:.1}\" height=\"{cell:.1}\" fill-opacity=\"{:.2}\"><title>{}</title></rect>",
                left + cell * column as f64,
                0.15 + 0.85 * share,
                encode_text(&title)
            )?;
        }
    }
    writeln!(
        svg,
        "<text class=\"middle\" x=\"{:.1}\" y=\"{:.1}\">answer (rows: truth)</text>",
        left + side / 2.0,
        top + side + 18.0
    )?;
    svg.push_str("</svg>\n");
    Ok(svg)
}

/// The pairs of classes that are mistaken most often: `(truth, answer, clips, clips of the truth)`.
pub(super) fn mistaken(found: &ZeroShotMetrics) -> Vec<(usize, usize, usize, usize)> {
    let counts = found.confusion();
    let mut pairs: Vec<_> = (0..counts.len())
        .flat_map(|truth| (0..counts.len()).map(move |answer| (truth, answer)))
        .filter(|(truth, answer)| truth != answer && counts[*truth][*answer] > 0)
        .map(|(truth, answer)| (truth, answer, counts[truth][answer], counts[truth].iter().sum()))
        .collect();
    pairs.sort_by_key(|pair| std::cmp::Reverse(pair.2));
    pairs.truncate(LISTED);
    pairs
}

/// Similarities of some clips and their first captions as a picture; the diagonal should be bright.
pub(super) fn heat_map(embedded: &Embedded) -> anyhow::Result<Option<String>> {
    let Some(text) = &embedded.text else { return Ok(None) };
    let mut first = HashMap::new();
    for (caption, &clip) in embedded.caption_of.iter().enumerate() {
        first.entry(clip).or_insert(caption);
    }
    let clips = evenly((0..embedded.clips.len()).filter(|clip| first.contains_key(clip)).collect(), MOST_PAIRS);
    let rows = |matrix: &Tensor, rows: Vec<usize>| -> anyhow::Result<Tensor> {
        let rows: Vec<u32> = rows.into_iter().map(|row| row as u32).collect();
        Ok(matrix.index_select(&Tensor::new(rows, matrix.device())?, 0)?)
    };
    let captions = clips.iter().map(|clip| first[clip]).collect();
    let scores = rows(&embedded.audio, clips.clone())?.matmul(&rows(text, captions)?.t()?)?.to_vec2::<f32>()?;
    let flat: Vec<f32> = scores.concat();
    let low = flat.iter().copied().fold(f32::INFINITY, f32::min);
    let high = flat.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let shares: Vec<f32> = flat.iter().map(|score| (score - low) / (high - low).max(1e-9)).collect();
    let png = base64::engine::general_purpose::STANDARD.encode(pixels_png(clips.len(), &shares));
    Ok(Some(format!(
        "<img class=\"pixels\" alt=\"similarities\" src=\"data:image/png;base64,{png}\">\n\
         <p>{} clips (rows) and the first caption of each (columns); cosines from {low:.2}, dark, to {high:.2}.</p>\n",
        clips.len()
    )))
}

/// A map of clips and words, each modality moved to the same middle. Clips sound when the pointer is over them, where their files are found.
pub(super) fn map(split: &Split, sounds: usize) -> anyhow::Result<String> {
    let embedded = &split.embedded;
    let clips = evenly((0..embedded.clips.len()).collect(), MOST_POINTS);
    let (words, word_names) = match (&embedded.class_embeds, &embedded.text) {
        (Some(classes), _) => {
            let used = |class: &usize| embedded.labels.iter().any(|labels| labels.contains(class));
            (
                classes,
                (0..embedded.classes.len())
                    .filter(used)
                    .map(|class| (class, &embedded.classes[class]))
                    .collect::<Vec<_>>(),
            )
        }
        (None, Some(text)) => {
            let captions = evenly((0..embedded.captions.len()).collect(), MOST_POINTS / 2);
            (text, captions.into_iter().map(|caption| (caption, &embedded.captions[caption])).collect())
        }
        (None, None) => (&embedded.audio, Vec::new()),
    };
    // The two modalities lie in cones of their own (Liang et al. 2022, "Mind the Gap"); between them t-SNE would show that alone.
    let centred = |matrix: &Tensor, rows: Vec<u32>| -> anyhow::Result<Tensor> {
        let matrix = matrix.index_select(&Tensor::new(rows, matrix.device())?, 0)?;
        Ok(matrix.broadcast_sub(&matrix.mean_keepdim(0)?)?)
    };
    let mut parts = vec![centred(&embedded.audio, clips.iter().map(|&clip| clip as u32).collect())?];
    if !word_names.is_empty() {
        parts.push(centred(words, word_names.iter().map(|(row, _)| *row as u32).collect())?);
    }
    let places = tsne(&Tensor::cat(&parts, 0)?)?;
    let at = |place: &[f64; 2]| (360.0 + 340.0 * place[0], 360.0 + 340.0 * place[1]);
    let sources = sources(split);
    let audible = evenly(
        clips.iter().copied().filter(|&clip| sources.contains_key(embedded.clips[clip].as_str())).collect(),
        sounds,
    );
    let mut data = Vec::new();
    let mut svg =
        "<svg class=\"map\" viewBox=\"0 0 720 720\" role=\"img\" aria-label=\"map of the embeddings\">\n".to_owned();
    for (&clip, place) in clips.iter().zip(&places) {
        let (x, y) = at(place);
        let class = embedded.labels[clip].first();
        let sound = match audible.contains(&clip) {
            true => flac(&sources[embedded.clips[clip].as_str()]),
            false => None,
        };
        let number = sound.map(|sound| {
            data.push(sound);
            format!(" data-sound=\"{}\"", data.len() - 1)
        });
        let label = class.map_or_else(String::new, |&class| format!("{}: ", embedded.classes[class]));
        writeln!(
            svg,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\" fill=\"{}\"{}><title>{}</title></circle>",
            class.map_or_else(|| "var(--bar)".to_owned(), |&class| hue(class)),
            number.unwrap_or_default(),
            encode_text(&format!("{label}{}", embedded.clips[clip]))
        )?;
    }
    for ((row, name), place) in word_names.iter().zip(&places[clips.len()..]) {
        let (x, y) = at(place);
        let colour = if embedded.class_embeds.is_some() { hue(*row) } else { "var(--soft)".to_owned() };
        writeln!(
            svg,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"8\" height=\"8\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"><title>{}</title></rect>",
            x - 4.0,
            y - 4.0,
            encode_text(name)
        )?;
    }
    svg.push_str("</svg>\n");
    let kind = if embedded.class_embeds.is_some() { "prompts of classes" } else { "captions" };
    write!(
        svg,
        "<p>t-SNE of {} clips (dots) and {} {kind} (squares), each moved to the same middle; colours are classes.",
        clips.len(),
        word_names.len()
    )?;
    if !data.is_empty() {
        write!(svg, " {} clips sound under the pointer, after a first click anywhere.", data.len())?;
    }
    svg.push_str("</p>\n");
    if !data.is_empty() {
        let list: Vec<String> = data.iter().map(|sound| format!("\"data:audio/flac;base64,{sound}\"")).collect();
        writeln!(svg, "<script type=\"application/json\" class=\"sounds\">[{}]</script>", list.join(","))?;
    }
    Ok(svg)
}

/// The sounds of a split by the names of its clips; none where its data set is gone.
fn sources(split: &Split) -> HashMap<String, AudioSource> {
    let Some(path) = &split.data else { return HashMap::new() };
    let name = Some(split.embedded.split.clone()).filter(|name| name != "all");
    let opened = clap_data::open(path, &OpenOptions { split: name, ..OpenOptions::default() });
    let samples = opened.map(|data| data.samples).unwrap_or_default();
    samples.into_iter().map(|sample| (sample.id, sample.audio)).collect()
}

/// The beginning of a sound as FLAC in base64; `None` where it cannot be had.
fn flac(source: &AudioSource) -> Option<String> {
    let Waveform { mut samples, sample_rate } = source.load(SOUND.0).ok()?;
    samples.truncate((f64::from(sample_rate) * SOUND.1) as usize);
    let bytes = clap_data::encode_flac(&Waveform { samples, sample_rate }).ok()?;
    Some(base64::engine::general_purpose::STANDARD.encode(bytes))
}

/// A colour for each class: hues a golden angle apart, so that neighbours in the list differ.
fn hue(class: usize) -> String {
    format!("hsl({:.0},65%,52%)", (class as f64 * 137.508) % 360.0)
}

/// At most `count` of them, evenly spread.
fn evenly(all: Vec<usize>, count: usize) -> Vec<usize> {
    if all.len() <= count {
        return all;
    }
    (0..count).map(|i| all[i * all.len() / count]).collect()
}

/// What makes the clips of maps sound.
pub(super) const SCRIPT: &str = r#"<script>
const player = new Audio();
for (const figure of document.querySelectorAll('figure')) {
  const list = figure.querySelector('script.sounds');
  if (!list) continue;
  const sounds = JSON.parse(list.textContent);
  for (const dot of figure.querySelectorAll('[data-sound]')) {
    dot.addEventListener('mouseenter', () => { player.src = sounds[dot.dataset.sound]; player.play().catch(() => {}); });
    dot.addEventListener('mouseleave', () => player.pause());
  }
}
</script>
"#;

/// A name for an element that may be in an attribute.
pub(super) fn anchor(text: &str) -> String {
    attribute(&text.replace(|c: char| !c.is_alphanumeric(), "-")).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_spread_over_all() {
        assert_eq!(evenly((0..10).collect(), 4), [0, 2, 5, 7]);
        assert_eq!(evenly((0..3).collect(), 4), [0, 1, 2]);
    }

    #[test]
    fn names_are_escaped_and_confusions_counted() {
        use candle_core::Device;
        let audio = Tensor::new(&[[1f32, 0.0], [0.0, 1.0], [0.0, 1.0]], &Device::Cpu).unwrap();
        let classes = Tensor::new(&[[1f32, 0.0], [0.0, 1.0]], &Device::Cpu).unwrap();
        let found = clap_eval::zero_shot(&audio, &classes, &[0, 0, 1]).unwrap();
        let svg = confusion(&found, &["<b>dog</b>".to_owned(), "rain & wind".to_owned()]).unwrap();
        assert!(
            svg.contains("1 of 2 &lt;b&gt;dog&lt;/b&gt; taken for rain &amp; wind") && !svg.contains("<b>"),
            "{svg}"
        );
        assert_eq!(svg.matches("class=\"right\"").count(), 2);
        assert_eq!(svg.matches("class=\"wrong\"").count(), 1);
        assert_eq!(mistaken(&found), [(0, 1, 1, 2)]);
    }
}
