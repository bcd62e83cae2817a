//! Writing WebDataset shards: `0.tar`, `1.tar`, … of `<key>.<ext>` + `<key>.json`, and `sizes.json`.
//!
//! The layout is that of laion-audio-630k (`utils/make_tar_utils.py`): 512 pairs a shard, the description with `text`,
//! `tag` and `original_data`. Sounds keep their bytes. Headers carry no time, owner or machine, so the same samples give
//! the same files. Each file is written under a temporary name and renamed when complete.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::webdataset::AUDIO_EXTENSIONS;
use crate::{AudioSource, Error, Result, Sample};

/// Long enough to recognise a file by, short enough for any tar header.
const MAX_KEY: usize = 40;

/// How to write shards.
#[derive(Debug, Clone)]
pub struct PackOptions {
    /// Pairs in a shard; the last may have fewer.
    pub per_shard: usize,
}

impl Default for PackOptions {
    fn default() -> Self {
        Self { per_shard: 512 }
    }
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackSummary {
    /// The shards in order.
    pub shards: Vec<PathBuf>,
    /// Pairs in all of them.
    pub samples: usize,
    /// Bytes of all of them.
    pub bytes: u64,
}

/// Writes samples as shards into `out_dir`, which is made if need be and must not hold shards.
///
/// The key of a sample is the end of its id without folder and extension, in ASCII letters, digits, `-` and `_`, numbered
/// where two would be alike.
///
/// # Errors
/// [`Error::OutputExists`], [`Error::Io`], or [`Error::Pack`] for a sound that cannot be read; no file is left under its
/// final name unless it is complete.
pub fn pack(samples: &[Sample], out_dir: &Path, options: &PackOptions) -> Result<PackSummary> {
    fs::create_dir_all(out_dir).map_err(|cause| Error::io(out_dir, cause))?;
    check_empty(out_dir)?;
    let mut keys = Keys::default();
    let mut sizes = Map::new();
    let mut summary = PackSummary { shards: Vec::new(), samples: samples.len(), bytes: 0 };
    for (number, chunk) in samples.chunks(options.per_shard.max(1)).enumerate() {
        let name = format!("{number}.tar");
        let path = out_dir.join(&name);
        summary.bytes += write_whole(&path, |file| write_shard(chunk, file, &path, &mut keys))?;
        summary.shards.push(path);
        sizes.insert(name, Value::from(chunk.len()));
    }
    // Last, so that a folder with this file is a finished one.
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

/// Writes a JSON file of one line.
pub(crate) fn write_json(path: &Path, value: &Value) -> Result<()> {
    let text = format!("{value}\n");
    write_whole(path, |file| file.write_all(text.as_bytes()).map_err(|cause| Error::io(path, cause)))?;
    Ok(())
}

fn write_shard(samples: &[Sample], file: &mut BufWriter<File>, path: &Path, keys: &mut Keys) -> Result<()> {
    let pairs = samples.iter().map(|sample| (sample, keys.next(&sample.id), description(sample)));
    write_pairs(pairs, file, path)
}

/// Writes a shard of samples, each with its key and its description.
pub(crate) fn write_pairs<'a>(
    pairs: impl IntoIterator<Item = (&'a Sample, String, Map<String, Value>)>,
    file: &mut BufWriter<File>,
    path: &Path,
) -> Result<()> {
    let mut archive = tar::Builder::new(file);
    for (sample, key, description) in pairs {
        let (bytes, extension) = sound(sample)?;
        let description = Value::Object(description).to_string().into_bytes();
        let members = [(format!("{key}.{extension}"), bytes), (format!("{key}.json"), description)];
        for (name, bytes) in members {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(tar::EntryType::Regular);
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            header.set_size(bytes.len() as u64);
            archive.append_data(&mut header, &name, bytes.as_slice()).map_err(|cause| Error::io(path, cause))?;
        }
    }
    archive.finish().map_err(|cause| Error::io(path, cause))
}

/// The bytes of a sample's sound and the extension they go under.
fn sound(sample: &Sample) -> Result<(Vec<u8>, String)> {
    let fail = |reason: String| Error::Pack { what: sample.audio.name(), reason };
    let bytes = sample.audio.bytes().map_err(|error| fail(error.to_string()))?;
    let known = |extension: &String| AUDIO_EXTENSIONS.contains(&extension.as_str());
    let extension = sample.audio.extension().filter(known);
    let extension = extension
        // A sound inside a table goes by the name it had.
        .or_else(|| extension_of(&sample.id).filter(known))
        .or_else(|| content_extension(&bytes).map(str::to_owned))
        .ok_or_else(|| fail(format!("not a sound by name or content; known are {}", AUDIO_EXTENSIONS.join(", "))))?;
    Ok((bytes, extension))
}

/// The extension of a sound kept under a foreign name, by its first bytes.
fn content_extension(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'A', b'V', b'E', ..] => Some("wav"),
        [b'f', b'L', b'a', b'C', ..] => Some("flac"),
        [b'O', b'g', b'g', b'S', ..] => Some("ogg"),
        [b'I', b'D', b'3', ..] => Some("mp3"),
        [b'F', b'O', b'R', b'M', ..] => Some("aiff"),
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

/// Writes a file under a temporary name and renames it once it is complete and on disk; returns its length.
pub(crate) fn write_whole(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> Result<()>) -> Result<u64> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let part = path.with_file_name(name);
    let written = (|| {
        let mut file = BufWriter::new(File::create(&part).map_err(|cause| Error::io(&part, cause))?);
        write(&mut file)?;
        let fail = |cause| Error::io(&part, cause);
        let file = file.into_inner().map_err(|error| fail(error.into_error()))?;
        file.sync_all().map_err(fail)?;
        let length = file.metadata().map_err(fail)?.len();
        fs::rename(&part, path).map_err(fail)?;
        Ok(length)
    })();
    if written.is_err() {
        // Best effort: the error that is returned matters more than the leftover.
        let _ = fs::remove_file(&part);
    }
    written
}

impl AudioSource {
    /// The extension of the file or member in lower case; a hint, never trusted for decoding.
    fn extension(&self) -> Option<String> {
        match self {
            Self::File(path) => extension_of(path.file_name()?.to_str()?),
            Self::Member { name, .. } => extension_of(name),
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
mod tests {
    use super::*;
    use crate::test_tree::Tree;
    use crate::{OpenOptions, open};

    fn tree() -> Tree {
        let tree = Tree::new();
        let mut table = "file_name,text,label,licence\n".to_owned();
        for clip in 0..5 {
            tree.wav(&format!("some/folder/clip.{clip}.wav"), 100 + clip);
            table += &format!("some/folder/clip.{clip}.wav,caption {clip},label {},CC0\n", clip % 2);
        }
        tree.wav("other/clip.0.wav", 7).wav("no_extension", 9);
        table += "other/clip.0.wav,same name,label 0,CC0\nno_extension,bare,label 0,CC0\n";
        tree.write("metadata.csv", table);
        tree
    }

    #[test]
    fn packing_keeps_bytes_and_words() {
        let tree = tree();
        let source = open(&tree.path(""), &OpenOptions::default()).unwrap();
        let summary = pack(&source.samples, &tree.path("shards"), &PackOptions { per_shard: 3 }).unwrap();
        assert_eq!((summary.shards.len(), summary.samples), (3, 7));
        let sizes = fs::read_to_string(tree.path("shards/sizes.json")).unwrap();
        assert_eq!(sizes, "{\"0.tar\":3,\"1.tar\":3,\"2.tar\":1}\n");

        let strict = OpenOptions { strict: true, ..OpenOptions::default() };
        let packed = open(&tree.path("shards"), &strict).unwrap();
        assert_eq!(packed.samples.len(), source.samples.len());
        for (before, after) in source.samples.iter().zip(&packed.samples) {
            assert_eq!(before.audio.bytes().unwrap(), after.audio.bytes().unwrap());
            assert_eq!(before.audio.load(8000).unwrap(), after.audio.load(8000).unwrap());
            assert_eq!((&before.captions, &before.labels), (&after.captions, &after.labels));
            assert_eq!(before.meta, after.meta);
        }
        let ids: Vec<&str> = packed.samples.iter().map(|sample| sample.id.as_str()).collect();
        assert_eq!(ids, ["clip_0", "clip_1", "clip_2", "clip_3", "clip_4", "clip_0_2", "no_extension"]);
        assert_eq!(packed.samples[6].audio.name(), tree.path("shards/2.tar/no_extension.wav").display().to_string());
    }

    #[test]
    fn packing_twice_and_repacking_give_the_same_bytes() {
        let tree = tree();
        let source = open(&tree.path(""), &OpenOptions::default()).unwrap();
        let options = PackOptions { per_shard: 4 };
        pack(&source.samples, &tree.path("a"), &options).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(1100));
        pack(&source.samples, &tree.path("b"), &options).unwrap();
        let shards = open(&tree.path("a"), &OpenOptions::default()).unwrap();
        pack(&shards.samples, &tree.path("c"), &options).unwrap();
        for name in ["0.tar", "1.tar", "sizes.json"] {
            let first = fs::read(tree.path("a").join(name)).unwrap();
            assert!(first == fs::read(tree.path("b").join(name)).unwrap(), "{name} differs between two runs");
            assert!(first == fs::read(tree.path("c").join(name)).unwrap(), "{name} differs when packed again");
        }
    }

    #[test]
    fn a_failure_leaves_nothing_that_looks_finished() {
        let tree = tree();
        let source = open(&tree.path(""), &OpenOptions::default()).unwrap();
        fs::remove_file(tree.path("some/folder/clip.3.wav")).unwrap();
        let out = tree.path("shards");
        let error = pack(&source.samples, &out, &PackOptions { per_shard: 2 }).unwrap_err();
        assert!(error.to_string().contains("clip.3.wav"), "{error}");
        let mut left: Vec<_> = fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["0.tar"]);
        let error = pack(&source.samples, &out, &PackOptions::default()).unwrap_err();
        assert!(matches!(error, Error::OutputExists { .. }), "{error}");
    }

    #[test]
    fn keys_are_short_plain_and_unique() {
        let mut keys = Keys::default();
        assert_eq!(keys.next("../../etc/Größe 1.flac"), "Gr__e_1");
        assert_eq!(keys.next("x/gr__e_1"), "gr__e_1_2");
        assert_eq!(keys.next("..."), "clip");
        let long = keys.next(&"long_name_".repeat(20));
        assert!(long.len() <= MAX_KEY && long.ends_with("long_name_"), "{long}");
    }
}
