//! One clip with its words, and a set of them.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap_audio::{AudioReader, Channels, Waveform};
use serde_json::Value;

use crate::{Excluded, Skipped, caption};

/// The most bytes of an encoded sound, which is held in memory whole: 1.5 hours of 16-bit stereo at 48 kHz.
const MAX_SOUND: u64 = 1 << 30;

const SHRUNK: &str = "the shard is shorter than when it was opened";

/// One clip: where its sound is, and what is said about it. Decoding happens in [`AudioSource::load`].
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Unique in its data set: the key in a shard, or the name of the sound in a table.
    pub id: String,
    /// The sound.
    pub audio: AudioSource,
    /// At least one; made from the labels by [`crate::caption::sound_of`] when the source has none.
    pub captions: Vec<String>,
    /// Class names, possibly none.
    pub labels: Vec<String>,
    /// `original_data` of a shard, or the other columns of a table: licence, origin and the like.
    pub meta: Value,
}

/// Where the bytes of a sound file are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum AudioSource {
    /// A file of its own.
    File(PathBuf),
    /// A member of an uncompressed tar file.
    Member {
        /// The tar file.
        shard: PathBuf,
        /// The member's name in it.
        name: String,
        /// Where its first byte is in the tar file.
        offset: u64,
        /// Its length in bytes; the reader of the shard has checked that the file is that long.
        size: u64,
    },
    /// A row of a Parquet file.
    #[cfg(feature = "parquet")]
    Row {
        /// The file, open.
        file: std::sync::Arc<crate::ParquetFile>,
        /// The row, counted from 0.
        row: u64,
    },
    /// The bytes themselves, as a stream brought them.
    Memory {
        /// Where they came from, for messages: `https://host/0.tar/clip.flac`.
        name: String,
        /// The encoded sound.
        bytes: Arc<[u8]>,
    },
}

impl AudioSource {
    /// The sound as mono at `sample_rate` Hz (channels averaged).
    ///
    /// # Errors
    /// [`clap_audio::Error`] naming the file, or the shard and its member.
    pub fn load(&self, sample_rate: u32) -> clap_audio::Result<Waveform> {
        match self {
            Self::File(path) => clap_audio::load(path, sample_rate, Channels::Mean),
            Self::Memory { name, bytes } => clap_audio::load_bytes(name, bytes, sample_rate, Channels::Mean),
            _ => {
                let bytes = self
                    .bytes()
                    .map_err(|source| clap_audio::Error::Unreadable { path: PathBuf::from(self.name()), source })?;
                clap_audio::load_bytes(&self.name(), bytes, sample_rate, Channels::Mean)
            }
        }
    }

    /// The sound opened for reading: its header is read, and only as much of the rest as is asked for.
    ///
    /// # Errors
    /// As [`AudioSource::load`].
    pub fn reader(&self) -> clap_audio::Result<AudioReader<'static>> {
        match self {
            Self::File(path) => AudioReader::open(path),
            Self::Member { shard, offset, size, .. } => {
                let name = self.name();
                let section = Section::open(shard, *offset, *size)
                    .map_err(|source| clap_audio::Error::Unreadable { path: PathBuf::from(&name), source })?;
                AudioReader::from_reader(&name, section)
            }
            Self::Memory { name, bytes } => AudioReader::from_bytes(name, Arc::clone(bytes)),
            #[cfg(feature = "parquet")]
            Self::Row { .. } => {
                let name = self.name();
                let bytes = self
                    .bytes()
                    .map_err(|source| clap_audio::Error::Unreadable { path: PathBuf::from(&name), source })?;
                AudioReader::from_bytes(&name, bytes)
            }
        }
    }

    /// The encoded bytes as they are stored.
    ///
    /// # Errors
    /// Those of the file system; `UnexpectedEof` when a shard has shrunk since it was opened, `InvalidData` for more than
    /// 1 GiB.
    pub fn bytes(&self) -> io::Result<Vec<u8>> {
        match self {
            Self::File(path) => {
                check_size(fs::metadata(path)?.len())?;
                fs::read(path)
            }
            Self::Member { shard, offset, size, .. } => {
                check_size(*size)?;
                let mut file = File::open(shard)?;
                file.seek(SeekFrom::Start(*offset))?;
                // `take` before allocating: a shard that shrank must not cost `size` bytes of memory.
                let mut bytes = Vec::new();
                file.take(*size).read_to_end(&mut bytes)?;
                if bytes.len() as u64 != *size {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, SHRUNK));
                }
                Ok(bytes)
            }
            #[cfg(feature = "parquet")]
            Self::Row { file, row } => {
                let bytes = file.sound(*row)?;
                check_size(bytes.len() as u64)?;
                Ok(bytes)
            }
            Self::Memory { bytes, .. } => Ok(bytes.to_vec()),
        }
    }

    /// Bytes that it holds in memory itself.
    pub(crate) fn held_bytes(&self) -> usize {
        match self {
            Self::Memory { bytes, .. } => bytes.len(),
            _ => 0,
        }
    }

    /// The path of the file, `shard.tar/member` or `file.parquet row N`, for messages.
    pub fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Member { shard, name, .. } => format!("{}/{name}", shard.display()),
            #[cfg(feature = "parquet")]
            Self::Row { file, row } => format!("{} row {row}", file.path().display()),
            Self::Memory { name, .. } => name.clone(),
        }
    }
}

/// A part of a file, read as if it were one.
struct Section {
    file: File,
    start: u64,
    size: u64,
    /// The next byte, counted from `start`.
    at: u64,
}

impl Section {
    fn open(path: &Path, start: u64, size: u64) -> io::Result<Self> {
        let file = File::open(path)?;
        if start.checked_add(size).is_none_or(|end| end > file.metadata().map_or(0, |metadata| metadata.len())) {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, SHRUNK));
        }
        Ok(Self { file, start, size, at: 0 })
    }
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.size.saturating_sub(self.at);
        let count = usize::try_from(left).map_or(buffer.len(), |left| buffer.len().min(left));
        self.file.seek(SeekFrom::Start(self.start + self.at))?;
        let count = self.file.read(&mut buffer[..count])?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for Section {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let place = match to {
            SeekFrom::Start(place) => Some(place),
            SeekFrom::End(step) => self.size.checked_add_signed(step),
            SeekFrom::Current(step) => self.at.checked_add_signed(step),
        };
        // Behind the end is allowed, as in a file; there is nothing to read there.
        self.at = place.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a place before the start"))?;
        Ok(self.at)
    }
}

/// Refuses a sound too large to be held in memory.
pub(crate) fn check_size(bytes: u64) -> io::Result<()> {
    if bytes <= MAX_SOUND {
        return Ok(());
    }
    let reason = format!("a sound of {bytes} bytes; {MAX_SOUND} is the limit, cut the recording into parts");
    Err(io::Error::new(io::ErrorKind::InvalidData, reason))
}

/// Takes out repeated captions or labels; the first of each stays in its place.
pub(crate) fn dedupe(texts: &mut Vec<String>) {
    let mut seen = HashSet::with_capacity(texts.len());
    texts.retain(|text| seen.insert(text.clone()));
}

impl fmt::Display for AudioSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

/// The clips of one split, what was left out of it, and its classes.
#[derive(Debug, Clone, Default)]
pub struct DataSet {
    /// The folder's name, or the name by which a benchmark is known.
    pub name: String,
    /// The split, `!` and a split for all others, or `all` when none was asked for.
    pub split: String,
    /// The clips in the order of the source.
    pub samples: Vec<Sample>,
    /// Clips, rows and shards that could not be used, and inventories that disagree.
    pub skipped: Vec<Skipped>,
    /// What the list of [`crate::OpenOptions::exclude`] took out.
    pub excluded: Option<Excluded>,
    /// The candidates of zero-shot classification: the source's `classes.json`, else those of the benchmark it is, else the
    /// labels of all its splits, sorted.
    pub classes: Vec<String>,
    /// How a class is said where that is not its name with spaces for underscores; see [`DataSet::phrase`].
    pub phrases: BTreeMap<String, String>,
    /// The data set's own prompts of zero-shot classification, `{label}` standing for the class; empty where it has none.
    pub templates: Vec<String>,
    /// Whether a clip may be of several classes, so that accuracy of one answer says little.
    pub multi_label: bool,
}

impl DataSet {
    /// A class as words for a prompt: `Dishes, pots, and pans` of FSD50K's `Dishes_and_pots_and_pans`.
    #[must_use]
    pub fn phrase(&self, class: &str) -> String {
        caption::phrase(&self.phrases, class)
    }

    /// How many clips carry each label, by name.
    pub fn label_counts(&self) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        for label in self.samples.iter().flat_map(|sample| &sample.labels) {
            *counts.entry(label.as_str()).or_default() += 1;
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_tree::{Tree, wav};

    #[test]
    fn a_sound_is_bounded() {
        let tree = Tree::new();
        // A hole of the file system, not a gigabyte of disk.
        File::create(tree.path("1.wav")).unwrap().set_len(MAX_SOUND + 1).unwrap();
        let shard = tree.path("1.wav");
        for source in [
            AudioSource::File(shard.clone()),
            AudioSource::Member { shard, name: "1.wav".to_owned(), offset: 0, size: MAX_SOUND + 1 },
        ] {
            let error = source.bytes().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            assert!(error.to_string().contains("a sound of 1073741825 bytes"), "{error}");
        }
    }

    #[test]
    fn a_member_is_read_as_if_it_were_a_file() {
        let tree = Tree::new();
        let sound = wav(5000);
        tree.write("a.wav", &sound).tar("s.tar", &[("b.txt", b"x"), ("a.wav", &sound)]);
        let member =
            |size| AudioSource::Member { shard: tree.path("s.tar"), name: "a.wav".to_owned(), offset: 1536, size };
        let file = AudioSource::File(tree.path("a.wav"));
        let mut block = vec![0.0; 6000];
        for source in [&file, &member(sound.len() as u64)] {
            let mut reader = source.reader().unwrap();
            assert_eq!(reader.info().length.frames(), Some(5000));
            assert_eq!(reader.read(&mut block).unwrap(), 5000);
            assert_eq!(block[..5000], source.load(8000).unwrap().samples);
            reader = source.reader().unwrap();
            reader.seek(4000).unwrap();
            assert_eq!(reader.read(&mut block).unwrap(), 1000);
        }
        let error = member(1 << 40).reader().unwrap_err().to_string();
        assert!(error.contains("s.tar/a.wav") && error.contains("shorter"), "{error}");
    }

    #[test]
    fn the_first_of_repeated_texts_stays() {
        let mut texts = ["b", "a", "b", "c", "a"].map(str::to_owned).to_vec();
        dedupe(&mut texts);
        assert_eq!(texts, ["b", "a", "c"]);
    }
}
