//! Writing an audiofolder: sound files and a `metadata.csv` that Hugging Face `datasets` and [`crate::open`] read alike.
//!
//! A file is not copied but given a second name (a hard link) where the file system can; a member of a shard becomes a file.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::members::{AUDIO_EXTENSIONS, check_relative};
use crate::shard_writer::{Keys, kept};
use crate::whole_file::write_whole;
use crate::{AudioSource, Error, Result, Sample};

/// Columns that mean something to readers of the format; others of these names are renamed.
const RESERVED: [&str; 8] = ["text", "caption", "captions", "label", "labels", "tag", "tags", "split"];

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AudiofolderSummary {
    /// Files that are second names of the originals.
    pub linked: usize,
    /// Files that are copies, because of another file system or because they came from a shard.
    pub copied: usize,
}

/// Writes `samples` as an audiofolder into `out_dir`, which is made if need be and must be empty.
///
/// # Errors
/// [`Error::NotEmpty`], [`Error::Io`], or [`Error::Pack`] for a sound that cannot be read. The metadata come last: a folder
/// without them is an unfinished one.
pub fn write_audiofolder(samples: &[&Sample], out_dir: &Path) -> Result<AudiofolderSummary> {
    fs::create_dir_all(out_dir).map_err(|cause| Error::io(out_dir, cause))?;
    if fs::read_dir(out_dir).map_err(|cause| Error::io(out_dir, cause))?.next().is_some() {
        return Err(Error::NotEmpty { path: out_dir.to_owned() });
    }
    let columns = Columns::of(samples);
    let mut names = Names::default();
    let mut summary = AudiofolderSummary::default();
    let mut table = csv::Writer::from_writer(Vec::new());
    let full = |error: csv::Error| Error::io(out_dir, std::io::Error::other(error));
    table.write_record(columns.header()).map_err(full)?;
    for sample in samples {
        let name = names.next(sample)?;
        let path = out_dir.join(&name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|cause| Error::io(folder, cause))?;
        }
        if place(&sample.audio, &path)? {
            summary.linked += 1;
        } else {
            summary.copied += 1;
        }
        table.write_record(columns.row(name, sample)).map_err(full)?;
    }
    let path = out_dir.join("metadata.csv");
    let text = table.into_inner().map_err(|error| full(error.into_error().into()))?;
    write_whole(&path, |file| std::io::Write::write_all(file, &text).map_err(|cause| Error::io(&path, cause)))?;
    Ok(summary)
}

/// Puts a sound at `path`; whether by a link.
fn place(audio: &AudioSource, path: &Path) -> Result<bool> {
    let fail = |error: std::io::Error| Error::Pack { what: audio.name(), reason: error.to_string() };
    if let AudioSource::File(source) = audio {
        // The file itself: a link to a symbolic link would lead out of the folder.
        let source = fs::canonicalize(source).map_err(fail)?;
        if fs::hard_link(&source, path).is_ok() {
            return Ok(true);
        }
    }
    let bytes = audio.bytes().map_err(fail)?;
    write_whole(path, |file| std::io::Write::write_all(file, &bytes).map_err(|cause| Error::io(path, cause)))?;
    Ok(false)
}

/// The columns of a table.
struct Columns {
    captions: &'static str,
    labels: &'static str,
    /// Keys of the clips' `meta`, in the order of their first appearance.
    meta: Vec<String>,
}

impl Columns {
    fn of(samples: &[&Sample]) -> Self {
        let single = |texts: fn(&Sample) -> &Vec<String>| samples.iter().all(|sample| texts(sample).len() <= 1);
        let mut seen = HashSet::new();
        let keys = samples.iter().filter_map(|sample| sample.meta.as_object()).flat_map(|meta| meta.keys());
        Self {
            captions: if single(|sample| &sample.captions) { "text" } else { "captions" },
            labels: if single(|sample| &sample.labels) { "label" } else { "labels" },
            // The name of the file in the source is the name here, or says nothing any more.
            meta: keys.filter(|key| *key != "file_name" && seen.insert(*key)).cloned().collect(),
        }
    }

    fn header(&self) -> Vec<String> {
        let plain = |key: &String| match RESERVED.contains(&key.as_str()) {
            true => format!("original_{key}"),
            false => key.clone(),
        };
        let own = ["file_name", self.captions, self.labels].map(str::to_owned);
        own.into_iter().chain(self.meta.iter().map(plain)).collect()
    }

    fn row(&self, file_name: String, sample: &Sample) -> Vec<String> {
        let meta = |key: &String| match sample.meta.get(key) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        let own = [file_name, cell(&sample.captions), cell(&sample.labels)];
        own.into_iter().chain(self.meta.iter().map(meta)).collect()
    }
}

/// One text as it is, unless a reader would take it for several; several as a JSON list.
fn cell(texts: &[String]) -> String {
    match texts {
        [] => String::new(),
        [only] if !only.trim_start().starts_with('[') && !only.contains(';') => only.clone(),
        several => Value::from(several).to_string(),
    }
}

/// Hands out names of files inside the folder, no two alike.
#[derive(Default)]
struct Names {
    taken: HashSet<String>,
    keys: Keys,
}

impl Names {
    /// The id where it is such a name, else a key as in a shard.
    fn next(&mut self, sample: &Sample) -> Result<String> {
        let id = &sample.id;
        let is_sound = |extension: &str| AUDIO_EXTENSIONS.contains(&extension.to_ascii_lowercase().as_str());
        let extension = Path::new(id).extension().and_then(|extension| extension.to_str());
        let hidden = Path::new(id).components().any(|part| part.as_os_str().to_string_lossy().starts_with('.'));
        let plain = extension.is_some_and(is_sound) && !hidden && check_relative(Path::new(id)).is_ok();
        if plain && self.taken.insert(id.to_lowercase()) {
            return Ok(id.clone());
        }
        let extension = match &sample.audio {
            AudioSource::File(path) => path.extension().and_then(|extension| extension.to_str()).map(str::to_owned),
            AudioSource::Member { name, .. } | AudioSource::Memory { name, .. } => {
                name.rsplit_once('.').map(|(_, extension)| extension.to_owned())
            }
            #[cfg(feature = "parquet")]
            AudioSource::Row { .. } => None,
        };
        let extension = match extension.filter(|extension| is_sound(extension)) {
            Some(extension) => extension,
            None => {
                let fail = |reason| Error::Pack { what: sample.audio.name(), reason };
                kept(sample, sample.audio.bytes().map_err(|error| fail(error.to_string()))?).map_err(fail)?.1
            }
        };
        loop {
            let name = format!("{}.{extension}", self.keys.next(id));
            if self.taken.insert(name.to_lowercase()) {
                return Ok(name);
            }
        }
    }
}

/// The path of a folder for a split inside another.
///
/// # Errors
/// [`Error::SplitName`] for a name that leads elsewhere.
pub fn split_folder(out_dir: &Path, split: &str) -> Result<PathBuf> {
    if crate::partition::is_folder_name(split) {
        Ok(out_dir.join(split))
    } else {
        Err(Error::SplitName { split: split.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_tree::{Tree, wav};
    use crate::{OpenOptions, open};

    fn strict() -> OpenOptions {
        OpenOptions { strict: true, ..OpenOptions::default() }
    }

    fn written(tree: &Tree, out: &str) -> (crate::DataSet, crate::DataSet, AudiofolderSummary) {
        let source = open(&tree.path(""), &strict()).unwrap();
        let samples: Vec<&Sample> = source.samples.iter().collect();
        let out = tree.path(out);
        let summary = write_audiofolder(&samples, &out).unwrap();
        let data = open(&out, &strict()).unwrap();
        (source, data, summary)
    }

    #[test]
    fn an_audiofolder_comes_back_as_it_was() {
        let tree = Tree::new();
        tree.wav("a/one.wav", 10).wav("two.wav", 20).wav("odd", 30);
        let rows = [
            r#"{"file_name": "a/one.wav", "text": ["a dog; a cat", "[sic]"], "label": "dog", "speaker": "x", "year": 3}"#,
            r#"{"file_name": "two.wav", "text": "one, \"two\"", "label": null, "split": "train", "tags": "kept"}"#,
            r#"{"file_name": "odd", "text": "[\"list\"] or not", "label": ["a;b", "c"]}"#,
        ];
        tree.write("metadata.jsonl", rows.join("\n"));
        let (before, after, summary) = written(&tree, "../out");
        assert_eq!(summary, AudiofolderSummary { linked: 3, copied: 0 });
        assert_eq!(
            after.samples.iter().map(|sample| &sample.id).collect::<Vec<_>>(),
            ["a/one.wav", "two.wav", "odd.wav"]
        );
        for (before, after) in before.samples.iter().zip(&after.samples) {
            assert_eq!((&before.captions, &before.labels), (&after.captions, &after.labels));
            assert_eq!(before.audio.bytes().unwrap(), after.audio.bytes().unwrap());
        }
        let meta = &after.samples[0].meta;
        assert_eq!((&meta["speaker"], &meta["year"]), (&Value::from("x"), &Value::from("3")));
        assert_eq!(after.samples[1].meta["original_tags"], "kept");
    }

    #[test]
    fn members_become_files() {
        let tree = Tree::new();
        let members =
            [("x.wav", wav(10)), ("x.json", br#"{"text": "a", "original_data": {"licence": "CC0"}}"#.to_vec())];
        tree.tar("0.tar", &members.each_ref().map(|(name, bytes)| (*name, bytes.as_slice())));
        let (before, after, summary) = written(&tree, "../out");
        assert_eq!(summary, AudiofolderSummary { linked: 0, copied: 1 });
        assert_eq!(after.samples[0].id, "x.wav");
        assert_eq!(after.samples[0].audio.bytes().unwrap(), before.samples[0].audio.bytes().unwrap());
        assert_eq!(after.samples[0].meta["licence"], "CC0");
    }

    #[test]
    fn nothing_is_written_among_other_files() {
        let tree = Tree::new();
        tree.wav("a.wav", 10).write("metadata.csv", "file_name,text\na.wav,x\n").write("../out/mine.txt", "x");
        let source = open(&tree.path(""), &strict()).unwrap();
        let error = write_audiofolder(&[&source.samples[0]], &tree.path("../out")).unwrap_err();
        assert!(matches!(error, Error::NotEmpty { .. }), "{error}");
        for split in ["..", "../x", "a/b", "", ".hidden", "a\\b"] {
            assert!(split_folder(Path::new("out"), split).is_err(), "{split}");
        }
        assert_eq!(split_folder(Path::new("out"), "train").unwrap(), Path::new("out/train"));
    }
}
