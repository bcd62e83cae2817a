//! What a data set is made of: lengths, formats, words, labels, what is there twice, and sounds that are broken, silent or cut
//! off at full scale.
//!
//! Every sound is decoded, on all threads, unless headers are enough. The numbers are plain values; drawing them is the
//! caller's.

mod level;
mod spread;

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::num::NonZeroUsize;

use clap_audio::{AudioInfo, decode_reader};
use serde::Serialize;

use crate::ordered::ordered;
use crate::overlap::{PcmHash, RATE};
use crate::{AudioSource, DataSet, Sample};

pub use self::level::Level;
pub use self::spread::{Bin, Spread};

/// Repeated texts, ids and sounds that are listed; all are counted.
const LISTED: usize = 20;

/// How to look at a data set.
pub struct InspectOptions<'a> {
    /// Read headers only: no levels, no repeated sounds, and damage behind a header goes unnoticed.
    pub headers_only: bool,
    /// Threads that decode.
    pub threads: NonZeroUsize,
    /// How many tokens a text has, where that is to be counted.
    pub tokens: Option<&'a dyn Fn(&str) -> usize>,
}

/// What was found.
#[derive(Debug, Clone, Serialize)]
pub struct Inspection {
    /// The data set's name.
    pub name: String,
    /// Whether sounds were not decoded.
    pub headers_only: bool,
    /// Each split, in the order given.
    pub splits: Vec<Summary>,
    /// All of them together.
    pub all: Summary,
    /// What is there more than once.
    pub repeats: Repeats,
    /// Sounds with something wrong, the worst first.
    pub faults: Vec<Fault>,
    /// What opening the data set left out, as `what: reason`.
    pub left_out: Vec<String>,
}

/// The numbers of some clips.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// The split's name; `all` for everything.
    pub split: String,
    /// Clips, broken ones included.
    pub clips: usize,
    /// Rows, members and shards that opening left out.
    pub left_out: usize,
    /// The sum of the known lengths.
    pub seconds: f64,
    /// Clips whose length nobody states: broken ones, and streams where only headers were read.
    pub unknown_lengths: usize,
    /// Lengths in seconds.
    pub durations: Option<Spread>,
    /// Clips by the rate of their files.
    pub sample_rates: BTreeMap<u32, usize>,
    /// Clips by the channels of their files.
    pub channels: BTreeMap<usize, usize>,
    /// Clips by container and codec, as `ogg vorbis`.
    pub encodings: BTreeMap<String, usize>,
    /// Levels in decibels of full scale (root mean square), digital silence left out.
    pub rms_db: Option<Spread>,
    /// Captions of all clips.
    pub captions: usize,
    /// Different ones among them.
    pub distinct_captions: usize,
    /// Clips by the number of their captions.
    pub captions_per_clip: BTreeMap<usize, usize>,
    /// Lengths of the captions in words.
    pub caption_words: Option<Spread>,
    /// Lengths of the captions in tokens, where a tokenizer was given.
    pub caption_tokens: Option<Spread>,
    /// Clips by label.
    pub labels: BTreeMap<String, usize>,
    /// Clips without a label.
    pub unlabelled: usize,
    /// Sounds that cannot be decoded.
    pub broken: usize,
    /// Sounds with a sample that is no number.
    pub not_finite: usize,
    /// Sounds that nobody hears.
    pub silent: usize,
    /// Sounds cut off at full scale.
    pub clipped: usize,
}

/// What is wrong with a sound; the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// It cannot be decoded.
    Broken,
    /// A sample is NaN, infinite or absurdly large.
    NotFinite,
    /// Its peak is below -60 dB.
    Silent,
    /// Three or more samples in a row are at full scale.
    Clipped,
}

/// A sound with something wrong.
#[derive(Debug, Clone, Serialize)]
pub struct Fault {
    /// The clip's id.
    pub id: String,
    /// Its split.
    pub split: String,
    /// What it is.
    pub kind: FaultKind,
    /// More about it.
    pub reason: String,
    /// Among those of a kind, the greater the worse.
    #[serde(skip)]
    severity: f64,
}

/// What is there more than once.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Repeats {
    /// Captions that several clips have.
    pub captions: usize,
    /// Clips that share a caption with another.
    pub clips_sharing_captions: usize,
    /// The captions that most clips have, and how many; the most frequent first.
    pub frequent_captions: Vec<(String, usize)>,
    /// Ids that several splits have.
    pub ids: usize,
    /// The first of them.
    pub listed_ids: Vec<String>,
    /// Sounds that several clips have, sample for sample at 48 kHz and 16 bits.
    pub sounds: usize,
    /// Those among them that are in more than one split.
    pub sounds_across_splits: usize,
    /// Clips that have them, as `split/id`, those across splits first.
    pub listed_sounds: Vec<Vec<String>>,
}

/// One sound, heard.
#[derive(Debug, Clone)]
struct Heard {
    info: AudioInfo,
    seconds: Option<f64>,
    /// Of decoded ones.
    level: Option<(Level, PcmHash)>,
}

/// Looks at every clip of the splits of one data set. `progress` is told how many are done.
pub fn inspect(splits: &[DataSet], options: &InspectOptions<'_>, progress: &mut dyn FnMut(usize)) -> Inspection {
    let samples: Vec<&Sample> = splits.iter().flat_map(|split| &split.samples).collect();
    let mut heard = Vec::with_capacity(samples.len());
    let headers_only = options.headers_only;
    let listen = |sample: &&Sample| listen(&sample.audio, headers_only);
    let taken = ordered(&samples, options.threads, listen, |index, sound| {
        heard.push(sound);
        progress(index + 1);
        Ok::<(), Infallible>(())
    });
    let Ok(()) = taken;

    let mut faults = Vec::new();
    let mut summaries = Vec::new();
    let mut start = 0;
    for split in splits {
        let end = start + split.samples.len();
        let heard = &heard[start..end];
        let found = split.samples.iter().zip(heard).filter_map(|(sample, sound)| fault(sample, &split.split, sound));
        faults.extend(found);
        let clips: Vec<&Sample> = split.samples.iter().collect();
        summaries.push(summary(&split.split, &clips, heard, split.skipped.len(), options));
        start = end;
    }
    faults.sort_by(|a, b| a.kind.cmp(&b.kind).then(b.severity.total_cmp(&a.severity)));
    let left_out = splits.iter().map(|split| split.skipped.len()).sum();
    Inspection {
        name: splits.first().map(|split| split.name.clone()).unwrap_or_default(),
        headers_only: options.headers_only,
        all: summary("all", &samples, &heard, left_out, options),
        splits: summaries,
        repeats: repeats(splits, &heard),
        faults,
        left_out: splits.iter().flat_map(|split| &split.skipped).map(ToString::to_string).collect(),
    }
}

/// Reads a sound's header and, unless that is all, the sound.
fn listen(audio: &AudioSource, headers_only: bool) -> clap_audio::Result<Heard> {
    let reader = audio.reader()?;
    let info = reader.info().clone();
    if headers_only {
        return Ok(Heard { seconds: info.seconds(), info, level: None });
    }
    let wave = decode_reader(reader)?;
    let (seconds, level) = (wave.seconds(), Level::of(&wave.samples));
    let hash = PcmHash::of(&wave.resample(RATE)?);
    Ok(Heard { info, seconds: Some(seconds), level: Some((level, hash)) })
}

fn fault(sample: &Sample, split: &str, sound: &clap_audio::Result<Heard>) -> Option<Fault> {
    let (kind, reason, severity) = match sound {
        Err(error @ clap_audio::Error::NotFinite { .. }) => (FaultKind::NotFinite, error.to_string(), 0.0),
        Err(error) => (FaultKind::Broken, error.to_string(), 0.0),
        Ok(heard) => {
            let (level, _) = heard.level?;
            if level.is_silent() {
                let peak = match level.peak {
                    0.0 => "every sample is 0".to_owned(),
                    peak => format!("peak at {:.0} dB", 20.0 * peak.log10()),
                };
                (FaultKind::Silent, peak, f64::from(-level.peak))
            } else if level.clipped > 0 {
                let share = level.clipped_share();
                (FaultKind::Clipped, format!("{} samples, {:.2} %", level.clipped, 100.0 * share), share)
            } else {
                return None;
            }
        }
    };
    Some(Fault { id: sample.id.clone(), split: split.to_owned(), kind, reason, severity })
}

fn summary(
    split: &str,
    samples: &[&Sample],
    heard: &[clap_audio::Result<Heard>],
    left_out: usize,
    options: &InspectOptions<'_>,
) -> Summary {
    let whole: Vec<&Heard> = heard.iter().flatten().collect();
    let seconds: Vec<f64> = whole.iter().filter_map(|sound| sound.seconds).collect();
    let captions: Vec<&str> = samples.iter().flat_map(|sample| &sample.captions).map(String::as_str).collect();
    let mut distinct = captions.clone();
    distinct.sort_unstable();
    distinct.dedup();
    let words = captions.iter().map(|caption| caption.split_whitespace().count() as f64).collect();
    let tokens = |tokens: &dyn Fn(&str) -> usize| captions.iter().map(|caption| tokens(caption) as f64).collect();
    let kinds = |wanted: FaultKind| {
        let found = samples.iter().zip(heard).filter_map(|(sample, sound)| fault(sample, split, sound));
        found.filter(|fault| fault.kind == wanted).count()
    };
    Summary {
        split: split.to_owned(),
        clips: samples.len(),
        left_out,
        seconds: seconds.iter().sum(),
        unknown_lengths: samples.len() - seconds.len(),
        durations: Spread::of(seconds, false),
        sample_rates: counts(whole.iter().map(|sound| sound.info.sample_rate)),
        channels: counts(whole.iter().map(|sound| sound.info.channels)),
        encodings: counts(whole.iter().map(|sound| encoding(&sound.info))),
        rms_db: Spread::of(whole.iter().filter_map(|sound| sound.level?.0.rms_db()).collect(), false),
        captions: captions.len(),
        distinct_captions: distinct.len(),
        captions_per_clip: counts(samples.iter().map(|sample| sample.captions.len())),
        caption_words: Spread::of(words, true),
        caption_tokens: options.tokens.and_then(|count| Spread::of(tokens(count), true)),
        labels: counts(samples.iter().flat_map(|sample| sample.labels.iter().cloned())),
        unlabelled: samples.iter().filter(|sample| sample.labels.is_empty()).count(),
        broken: kinds(FaultKind::Broken),
        not_finite: kinds(FaultKind::NotFinite),
        silent: kinds(FaultKind::Silent),
        clipped: kinds(FaultKind::Clipped),
    }
}

/// `wave pcm_s16le`, `flac 24 bits`, `ogg vorbis`.
fn encoding(info: &AudioInfo) -> String {
    let codec = if info.codec == info.container { String::new() } else { format!(" {}", info.codec) };
    let bits = match info.bits_per_sample {
        Some(bits) if !info.codec.starts_with("pcm_") => format!(" {bits} bits"),
        _ => String::new(),
    };
    format!("{}{codec}{bits}", info.container)
}

fn counts<K: Ord>(keys: impl Iterator<Item = K>) -> BTreeMap<K, usize> {
    let mut counts = BTreeMap::new();
    for key in keys {
        *counts.entry(key).or_default() += 1;
    }
    counts
}

fn repeats(splits: &[DataSet], heard: &[clap_audio::Result<Heard>]) -> Repeats {
    let clips: Vec<(usize, &Sample)> =
        (0..).zip(splits).flat_map(|(n, split)| split.samples.iter().map(move |s| (n, s))).collect();
    let texts = counts(clips.iter().flat_map(|(_, sample)| &sample.captions).map(String::as_str));
    let mut frequent: Vec<(String, usize)> =
        texts.iter().filter(|(_, count)| **count > 1).map(|(text, count)| ((*text).to_owned(), *count)).collect();
    frequent.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let shares = |sample: &Sample| sample.captions.iter().any(|caption| texts[caption.as_str()] > 1);

    let mut by_id: BTreeMap<&str, usize> = BTreeMap::new();
    let mut by_sound: HashMap<PcmHash, Vec<usize>> = HashMap::new();
    for (place, ((_, sample), sound)) in clips.iter().zip(heard).enumerate() {
        *by_id.entry(&sample.id).or_default() += 1;
        if let Ok(Heard { level: Some((_, hash)), .. }) = sound {
            by_sound.entry(*hash).or_default().push(place);
        }
    }
    let ids: Vec<&str> = by_id.into_iter().filter(|(_, count)| *count > 1).map(|(id, _)| id).collect();
    let mut sounds: Vec<Vec<usize>> = by_sound.into_values().filter(|places| places.len() > 1).collect();
    let is_across = |places: &Vec<usize>| places.iter().any(|place| clips[*place].0 != clips[places[0]].0);
    sounds.sort_by_key(|places| (!is_across(places), places[0]));
    let name = |place: &usize| {
        let (split, sample) = clips[*place];
        format!("{}/{}", splits[split].split, sample.id)
    };
    Repeats {
        captions: frequent.len(),
        clips_sharing_captions: clips.iter().filter(|(_, sample)| shares(sample)).count(),
        frequent_captions: frequent.into_iter().take(LISTED).collect(),
        ids: ids.len(),
        listed_ids: ids.into_iter().take(LISTED).map(str::to_owned).collect(),
        sounds: sounds.len(),
        sounds_across_splits: sounds.iter().filter(|places| is_across(places)).count(),
        listed_sounds: sounds.iter().take(LISTED).map(|places| places.iter().map(name).collect()).collect(),
    }
}

#[cfg(test)]
mod tests;
