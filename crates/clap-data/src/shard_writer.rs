//! Writing WebDataset shards: `0.tar`, `1.tar`, … of `<key>.<ext>` + `<key>.json`, and `sizes.json`.
//!
//! The layout is that of laion-audio-630k (`utils/make_tar_utils.py`): 512 pairs a shard, sounds as 48 kHz mono FLAC of 16
//! bits, the description with `text`, `tag` and `original_data`. Headers carry no time, owner or machine, and clips are
//! encoded side by side but written in their order, so the same samples give the same files. Each file is written under a
//! temporary name and renamed when complete; a journal beside them lets a stopped run go on.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::BufWriter;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use clap_audio::{AudioReader, decode_reader};
use serde_json::{Map, Value, json};

use crate::flac;
use crate::members::AUDIO_EXTENSIONS;
use crate::ordered::ordered;
pub use crate::shard_journal::close_pack;
use crate::shard_journal::{Journal, Written};
use crate::whole_file::{Part, write_json};
use crate::{AudioSource, Error, Result, Sample, Skipped};

/// Long enough to recognise a file by, short enough for any tar header.
const MAX_KEY: usize = 40;

/// The rate of LAION-CLAP's shards and of every published model.
const LAION_RATE: u32 = 48_000;

/// How to write shards.
#[derive(Debug, Clone)]
pub struct PackOptions {
    /// Pairs in a shard; the last may have fewer.
    pub per_shard: usize,
    /// What becomes of the sounds.
    pub sound: PackedSound,
    /// Whether a clip that cannot be read is an error rather than left out and counted.
    pub strict: bool,
    /// Threads that decode and encode.
    pub threads: NonZeroUsize,
}

/// What becomes of a sound on its way into a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PackedSound {
    /// Mono FLAC of 16 bits, channels averaged, rounded without dither. A file that is just that already keeps its bytes.
    Flac {
        /// Samples per second; each sound's own when `None`.
        sample_rate: Option<u32>,
    },
    /// The file as it is, not even decoded.
    Kept,
}

impl Default for PackOptions {
    fn default() -> Self {
        Self {
            per_shard: 512,
            sound: PackedSound::Flac { sample_rate: Some(LAION_RATE) },
            strict: false,
            threads: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
        }
    }
}

/// What was written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PackSummary {
    /// The shards in order.
    pub shards: Vec<PathBuf>,
    /// Pairs in all of them.
    pub samples: usize,
    /// Bytes of all of them.
    pub bytes: u64,
    /// Clips left out, those of an earlier run that this one went on with included.
    pub skipped: Vec<Skipped>,
    /// How many of the shards an earlier run had finished.
    pub found: usize,
}

/// Writes samples as shards into `out_dir`, which is made if need be. `progress` is told how many of the samples are dealt
/// with, first those of shards that an earlier, stopped call with the same samples and options has finished; this one goes on
/// with the next, and the files come out as if nothing had happened.
///
/// The key of a sample is the end of its id without folder and extension, in ASCII letters, digits, `-` and `_`, numbered
/// where two would be alike.
///
/// # Errors
/// [`Error::OutputExists`] or [`Error::OtherPack`] for a folder that holds other shards, [`Error::Io`], [`Error::Empty`] if no
/// sound could be read, and, when strict, [`Error::Pack`] for the first that cannot. No file is left under its final name
/// unless it is complete.
pub fn pack(
    samples: &[Sample],
    out_dir: &Path,
    options: &PackOptions,
    progress: &mut dyn FnMut(usize),
) -> Result<PackSummary> {
    let summary = pack_one_of_several(samples, out_dir, options, progress)?;
    close_pack(out_dir)?;
    Ok(summary)
}

/// As [`pack`], for one of the folders of a larger job: until [`close_pack`] the same call finds its work done, so that a job
/// that is stopped in a later folder can be started again.
///
/// # Errors
/// As [`pack`].
pub fn pack_one_of_several(
    samples: &[Sample],
    out_dir: &Path,
    options: &PackOptions,
    progress: &mut dyn FnMut(usize),
) -> Result<PackSummary> {
    fs::create_dir_all(out_dir).map_err(|cause| Error::io(out_dir, cause))?;
    let (mut journal, mut fingerprint) = Journal::open(out_dir, samples, options)?;
    let (found, start) = (journal.shards.len(), journal.next());
    progress(start);
    // Keys do not depend on which clips turn out to be bad.
    let mut keys = Keys::default();
    let keys: Vec<String> = samples.iter().map(|sample| keys.next(&sample.id)).collect();
    let mut skipped = Vec::new();
    let mut shard: Option<Shard> = None;
    let read = |sample: &Sample| options.sound.read(sample);
    ordered(&samples[start..], options.threads, read, |index, sound| {
        let index = start + index;
        let sample = &samples[index];
        fingerprint.add(sample);
        match sound {
            Ok((bytes, extension)) => {
                let open = match &mut shard {
                    Some(open) => open,
                    None => shard.insert(Shard::create(journal.shard(journal.shards.len()))?),
                };
                open.add(&keys[index], &extension, &bytes, description(sample))?;
            }
            Err(reason) if options.strict => return Err(Error::Pack { what: sample.audio.name(), reason }),
            Err(reason) => skipped.push(Skipped { what: sample.audio.name(), reason }),
        }
        if let Some(full) = shard.take_if(|shard| shard.pairs == options.per_shard.max(1)) {
            journal.add(full.finish(index + 1, fingerprint.so_far(), std::mem::take(&mut skipped))?)?;
        }
        progress(index + 1);
        Ok(())
    })?;
    if let Some(last) = shard {
        journal.add(last.finish(samples.len(), fingerprint.so_far(), std::mem::take(&mut skipped))?)?;
    }
    if let (Some(first), true) = (skipped.first(), journal.shards.is_empty()) {
        let (path, first) = (out_dir.to_owned(), first.to_string());
        close_pack(out_dir)?;
        return Err(Error::Empty { path, skipped: skipped.len(), first });
    }
    let mut summary = PackSummary { shards: Vec::new(), samples: 0, bytes: 0, skipped: Vec::new(), found };
    let mut sizes = Map::new();
    for (number, shard) in journal.shards.iter().enumerate() {
        sizes.insert(format!("{number}.tar"), Value::from(shard.pairs));
        summary.shards.push(journal.shard(number));
        summary.samples += shard.pairs;
        summary.bytes += shard.bytes;
        summary.skipped.extend_from_slice(&shard.skipped);
    }
    // Those behind the last full shard.
    summary.skipped.append(&mut skipped);
    // Last, so that a folder with this file and without a journal is a finished one.
    write_json(&out_dir.join("sizes.json"), &Value::Object(sizes))?;
    Ok(summary)
}

/// Refuses a folder that holds shards.
pub(crate) fn check_empty(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(|cause| Error::io(folder, cause))? {
        let path = entry.map_err(|cause| Error::io(folder, cause))?.path();
        if path.extension().is_some_and(|extension| extension == "tar") || path.ends_with("sizes.json") {
            return Err(Error::OutputExists { path: folder.to_owned() });
        }
    }
    Ok(())
}

/// Writes a whole shard of samples whose sounds stay as they are, each with its key and its description; returns its length.
pub(crate) fn write_pairs<'a>(
    path: &Path,
    pairs: impl IntoIterator<Item = (&'a Sample, String, Map<String, Value>)>,
) -> Result<u64> {
    let mut shard = Shard::create(path.to_owned())?;
    for (sample, key, description) in pairs {
        let read = PackedSound::Kept.read(sample);
        let (bytes, extension) = read.map_err(|reason| Error::Pack { what: sample.audio.name(), reason })?;
        shard.add(&key, &extension, &bytes, description)?;
    }
    shard.close()
}

/// A shard under construction.
struct Shard {
    path: PathBuf,
    part: Part,
    archive: tar::Builder<BufWriter<File>>,
    pairs: usize,
}

impl Shard {
    fn create(path: PathBuf) -> Result<Self> {
        let (part, file) = Part::create(&path)?;
        Ok(Self { path, part, archive: tar::Builder::new(file), pairs: 0 })
    }

    fn add(&mut self, key: &str, extension: &str, sound: &[u8], description: Map<String, Value>) -> Result<()> {
        let description = Value::Object(description).to_string();
        for (extension, bytes) in [(extension, sound), ("json", description.as_bytes())] {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(tar::EntryType::Regular);
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            header.set_size(bytes.len() as u64);
            let name = format!("{key}.{extension}");
            self.archive.append_data(&mut header, &name, bytes).map_err(|cause| Error::io(&self.path, cause))?;
        }
        self.pairs += 1;
        Ok(())
    }

    fn finish(self, next: usize, fingerprint: String, skipped: Vec<Skipped>) -> Result<Written> {
        Ok(Written { pairs: self.pairs, bytes: self.close()?, next, fingerprint, skipped })
    }

    /// Returns the shard's length.
    fn close(self) -> Result<u64> {
        let file = self.archive.into_inner().map_err(|cause| Error::io(&self.path, cause))?;
        self.part.finish(file)
    }
}

impl PackedSound {
    /// The bytes of a sound and the extension they go under.
    fn read(self, sample: &Sample) -> std::result::Result<(Vec<u8>, String), String> {
        let name = sample.audio.name();
        let bytes = sample.audio.bytes().map_err(|error| error.to_string())?;
        match self {
            Self::Kept => kept(sample, bytes),
            Self::Flac { sample_rate } => flac(&name, bytes, sample_rate)
                .map(|bytes| (bytes, "flac".to_owned()))
                // A sound's own errors name it already.
                .map_err(|reason| reason.strip_prefix(&format!("{name}: ")).map(str::to_owned).unwrap_or(reason)),
        }
    }
}

/// A sound as mono FLAC.
fn flac(name: &str, bytes: Vec<u8>, sample_rate: Option<u32>) -> std::result::Result<Vec<u8>, String> {
    let said = |error: clap_audio::Error| error.to_string();
    let reader = AudioReader::from_bytes(name, bytes.as_slice()).map_err(said)?;
    let info = reader.info().clone();
    let wave = decode_reader(reader).map_err(said)?;
    let sample_rate = sample_rate.unwrap_or(wave.sample_rate);
    let is_done = info.container == "flac" && info.channels == 1 && info.bits_per_sample == Some(16);
    if is_done && wave.sample_rate == sample_rate {
        return Ok(bytes);
    }
    flac::encode_flac(&wave.resample(sample_rate).map_err(said)?)
}

/// A sound as it is, and its extension.
pub(crate) fn kept(sample: &Sample, bytes: Vec<u8>) -> std::result::Result<(Vec<u8>, String), String> {
    let known = |extension: &String| AUDIO_EXTENSIONS.contains(&extension.as_str());
    let extension = sample.audio.extension().filter(known);
    let extension = extension
        // A sound inside a table goes by the name it had.
        .or_else(|| extension_of(&sample.id).filter(known))
        .or_else(|| content_extension(&bytes).map(str::to_owned));
    match extension {
        Some(extension) => Ok((bytes, extension)),
        None => Err(format!("not a sound by name or content; known are {}", AUDIO_EXTENSIONS.join(", "))),
    }
}

/// The extension of a sound kept under a foreign name, by its first bytes.
fn content_extension(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'A', b'V', b'E', ..] => Some("wav"),
        [b'f', b'L', b'a', b'C', ..] => Some("flac"),
        [b'O', b'g', b'g', b'S', ..] => Some("ogg"),
        [b'I', b'D', b'3', ..] => Some("mp3"),
        [b'F', b'O', b'R', b'M', ..] => Some("aiff"),
        [b'.', b's', b'n', b'd', ..] => Some("au"),
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => Some("m4a"),
        // The sync word of ADTS has layer 0, that of MP3 layer 3.
        [0xff, second, ..] if second & 0xf6 == 0xf0 => Some("aac"),
        [0xff, second, ..] if second & 0xe6 == 0xe2 => Some("mp3"),
        _ => None,
    }
}

/// `text` is a string where there is one caption, as most readers expect, and a list where there are several.
pub(crate) fn description(sample: &Sample) -> Map<String, Value> {
    let text = match sample.captions.as_slice() {
        [only] => json!(only),
        captions => json!(captions),
    };
    let original_data = if sample.meta.is_null() { json!({}) } else { sample.meta.clone() };
    let fields = [("text", text), ("tag", json!(sample.labels)), ("original_data", original_data)];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Hands out keys, no two alike even where upper and lower case are one.
#[derive(Default)]
pub(crate) struct Keys {
    taken: HashSet<String>,
}

impl Keys {
    pub(crate) fn next(&mut self, id: &str) -> String {
        let name = id.rsplit('/').next().unwrap_or(id);
        let stem = match name.rsplit_once('.') {
            Some((stem, extension)) if AUDIO_EXTENSIONS.contains(&extension.to_ascii_lowercase().as_str()) => stem,
            _ => name,
        };
        let plain = |letter: char| {
            if letter.is_ascii_alphanumeric() || letter == '-' { letter } else { '_' }
        };
        let stem: String = stem.chars().map(plain).collect();
        // The end of a name tells recordings apart, its beginning repeats their folder.
        let mut end = &stem[stem.len().saturating_sub(MAX_KEY)..];
        if end.len() < stem.len()
            && let Some((_, whole_words)) = end.split_once('_').filter(|(_, rest)| !rest.is_empty())
        {
            end = whole_words;
        }
        let end = end.trim_start_matches('_');
        let end = if end.is_empty() { "clip" } else { end };
        let mut key = end.to_owned();
        let mut number = 2;
        while !self.taken.insert(key.to_ascii_lowercase()) {
            key = format!("{end}_{number}");
            number += 1;
        }
        key
    }
}

impl AudioSource {
    /// The extension of the file or member in lower case; a hint, never trusted for decoding.
    fn extension(&self) -> Option<String> {
        match self {
            Self::File(path) => extension_of(path.file_name()?.to_str()?),
            Self::Member { name, .. } | Self::Memory { name, .. } => extension_of(name),
            #[cfg(feature = "parquet")]
            Self::Row { .. } => None,
        }
    }
}

fn extension_of(name: &str) -> Option<String> {
    let (_, extension) = name.rsplit_once('.')?;
    Some(extension.to_ascii_lowercase())
}

#[cfg(test)]
mod tests;
