//! Opening a data set: what is at a path, which splits it has, which classes.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::audiofolder::{self, Clip};
use crate::skipped::Report;
use crate::{
    AudioSource, DataSet, Error, Result, Sample, TextAugment, class_list, expand_braces, labels_of, webdataset,
};

/// Folder names that mean a split of the data set above them, not a data set of their own.
const SPLIT_NAMES: [&str; 13] = [
    "train",
    "training",
    "balanced_train",
    "unbalanced_train",
    "development",
    "dev",
    "valid",
    "val",
    "validation",
    "test",
    "testing",
    "eval",
    "evaluation",
];

/// How to open a data set.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    /// The split wanted; all of them when `None`.
    pub split: Option<String>,
    /// Whether one unusable clip, row or shard is an error rather than an entry of [`DataSet::skipped`].
    pub strict: bool,
    /// Which texts of a shard are its captions.
    pub augment: TextAugment,
}

/// What is at a path.
enum Layout {
    /// Shards of one split, and the folder they are in.
    Shards { folder: PathBuf, shards: Vec<PathBuf> },
    /// A folder with a metadata file, which may have a split column.
    Metadata { file: PathBuf },
    /// A folder of splits, sorted by name, each of one of the other layouts.
    Splits(Vec<(String, Layout)>),
}

/// Opens the data set at `path`, whatever its layout; sounds are not decoded.
///
/// `path` is one of
/// - a folder of shards: `*.tar`, with or without `sizes.json`;
/// - a folder with one such folder, or one audiofolder, per split;
/// - a single `.tar`, or a brace pattern such as `train/{0..3}.tar`;
/// - an audiofolder: a folder with a `metadata.csv` or `metadata.jsonl`, or that file.
///
/// The classes are those of a `classes.json` in the folder or the one above it, else the labels of all splits.
///
/// # Errors
/// [`Error`] if there is no data set, not the split wanted, nothing usable in it, or, when strict, anything left out.
pub fn open(path: &Path, options: &OpenOptions) -> Result<DataSet> {
    let layout = layout(path)?;
    let place = Place::of(path, &layout);
    let wanted = options.split.as_deref();
    let mut report = Report::new(options.strict);
    let mut found = layout.read(options.augment, wanted, &place, &mut report)?;
    if let Some(wanted) = wanted
        && found.available.iter().all(|split| split != wanted)
    {
        return Err(Error::SplitMissing {
            path: path.to_owned(),
            split: wanted.to_owned(),
            available: found.available,
        });
    }
    if found.samples.is_empty() {
        return Err(Error::Empty {
            path: path.to_owned(),
            skipped: report.skipped.len(),
            first: report.skipped.first().map(ToString::to_string).unwrap_or_default(),
        });
    }
    make_ids_unique(&mut found.samples);
    let folders: &[Option<&Path>] = match layout {
        Layout::Splits(_) => &[Some(&place.folder)],
        _ => &[Some(&place.folder), place.folder.parent()],
    };
    let classes = match class_list::find(folders) {
        Some(file) => class_list::read_class_list(&file)?,
        None => {
            let mut labels: BTreeSet<String> = labels_of(&found.samples).into_iter().collect();
            labels.extend(layout.other_labels(options.augment, wanted, found.other_labels)?);
            labels.into_iter().collect()
        }
    };
    Ok(DataSet {
        name: place.name,
        split: wanted.map(str::to_owned).or(place.split).unwrap_or_else(|| "all".to_owned()),
        samples: found.samples,
        skipped: report.skipped,
        classes,
    })
}

/// The splits of the data set at `path`, sorted; empty when it is not split.
///
/// # Errors
/// [`Error`] if there is no data set.
pub fn splits(path: &Path) -> Result<Vec<String>> {
    let layout = layout(path)?;
    let place = Place::of(path, &layout);
    match layout {
        Layout::Splits(splits) => Ok(splits.into_iter().map(|(name, _)| name).collect()),
        Layout::Metadata { file } => {
            let mut clips = audiofolder::read_folder(&file, &mut Report::new(false))?;
            Ok(splits_of(&mut clips, &place))
        }
        Layout::Shards { .. } => Ok(place.split.into_iter().collect()),
    }
}

/// Where a data set is and what its folder's name says about it.
struct Place {
    folder: PathBuf,
    name: String,
    split: Option<String>,
}

impl Place {
    fn of(path: &Path, layout: &Layout) -> Self {
        let folder = match layout {
            Layout::Shards { folder, .. } => folder.clone(),
            Layout::Metadata { file } => file.parent().unwrap_or(Path::new("")).to_owned(),
            Layout::Splits(_) => path.to_owned(),
        };
        let folder = if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder };
        // "." and ".." have no name of their own.
        let real = fs::canonicalize(&folder).unwrap_or_else(|_| folder.clone());
        let name_of = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
        let own = name_of(&real).unwrap_or_else(|| "data".to_owned());
        let is_split = !matches!(layout, Layout::Splits(_)) && SPLIT_NAMES.contains(&own.as_str());
        match real.parent().and_then(name_of) {
            Some(above) if is_split => Self { folder: real, name: above, split: Some(own) },
            _ => Self { folder: real, name: own, split: None },
        }
    }
}

/// What reading a layout gave.
#[derive(Default)]
struct Found {
    samples: Vec<Sample>,
    /// The splits there are.
    available: Vec<String>,
    /// Labels of splits that were read on the way and not wanted.
    other_labels: Vec<String>,
}

impl Layout {
    fn read(&self, augment: TextAugment, wanted: Option<&str>, place: &Place, report: &mut Report) -> Result<Found> {
        match self {
            Self::Shards { shards, .. } => {
                let available: Vec<String> = place.split.iter().cloned().collect();
                if wanted.is_some_and(|wanted| available.iter().all(|split| split != wanted)) {
                    return Ok(Found { available, ..Found::default() });
                }
                let samples = webdataset::read_shards(shards, augment, report)?;
                Ok(Found { samples, available, ..Found::default() })
            }
            Self::Metadata { file } => {
                let mut clips = audiofolder::read_folder(file, report)?;
                let available = splits_of(&mut clips, place);
                let is_wanted = |clip: &Clip| wanted.is_none() || clip.split.as_deref() == wanted;
                let (chosen, others): (Vec<Clip>, Vec<Clip>) = clips.into_iter().partition(is_wanted);
                Ok(Found {
                    samples: chosen.into_iter().map(|clip| clip.sample).collect(),
                    available,
                    other_labels: labels_of(others.iter().map(|clip| &clip.sample)),
                })
            }
            Self::Splits(splits) => {
                let mut found = Found::default();
                for (name, layout) in splits {
                    found.available.push(name.clone());
                    if wanted.is_none_or(|wanted| wanted == name) {
                        found.samples.extend(layout.read(augment, None, place, report)?.samples);
                    }
                }
                Ok(found)
            }
        }
    }

    /// The labels of the splits that were not wanted, reading them if need be; their faults are not this split's.
    fn other_labels(&self, augment: TextAugment, wanted: Option<&str>, known: Vec<String>) -> Result<Vec<String>> {
        let Self::Splits(splits) = self else {
            return Ok(known);
        };
        let mut labels = known;
        for (_, layout) in splits.iter().filter(|(name, _)| wanted.is_some_and(|wanted| wanted != name)) {
            let mut report = Report::new(false);
            labels.extend(match layout {
                Self::Shards { shards, .. } => labels_of(&webdataset::read_shards(shards, augment, &mut report)?),
                Self::Metadata { file } => {
                    labels_of(audiofolder::read_folder(file, &mut report)?.iter().map(|clip| &clip.sample))
                }
                Self::Splits(_) => Vec::new(),
            });
        }
        Ok(labels)
    }
}

/// The splits of an audiofolder's clips; a folder named like a split is that split.
fn splits_of(clips: &mut [Clip], place: &Place) -> Vec<String> {
    if let Some(split) = &place.split
        && clips.iter().all(|clip| clip.split.is_none())
    {
        for clip in clips.iter_mut() {
            clip.split = Some(split.clone());
        }
    }
    let splits: BTreeSet<&String> = clips.iter().filter_map(|clip| clip.split.as_ref()).collect();
    splits.into_iter().cloned().collect()
}

/// Finds out what is at a path.
fn layout(path: &Path) -> Result<Layout> {
    let unrecognised = || Error::Unrecognised { path: path.to_owned() };
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(cause) => {
            // A file may well have braces in its name, so patterns come second.
            return match path.to_str() {
                Some(pattern) if pattern.contains('{') => pattern_layout(path, pattern),
                _ => Err(Error::io(path, cause)),
            };
        }
    };
    if metadata.is_file() {
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        return if is_shard(path) {
            Ok(Layout::Shards { folder, shards: vec![path.to_owned()] })
        } else if ["metadata.csv", "metadata.jsonl"].iter().any(|name| path.ends_with(name)) {
            Ok(Layout::Metadata { file: path.to_owned() })
        } else {
            Err(unrecognised())
        };
    }
    if let Some(layout) = folder_layout(path)? {
        return Ok(layout);
    }
    let mut splits = Vec::new();
    for folder in entries(path)?.into_iter().filter(|entry| entry.is_dir()) {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !name.starts_with('.')
            && let Some(layout) = folder_layout(&folder)?
        {
            splits.push((name, layout));
        }
    }
    if splits.is_empty() { Err(unrecognised()) } else { Ok(Layout::Splits(splits)) }
}

/// Shards or a metadata file directly in a folder.
fn folder_layout(folder: &Path) -> Result<Option<Layout>> {
    if let Some(file) = audiofolder::metadata_file(folder)? {
        return Ok(Some(Layout::Metadata { file }));
    }
    let shards: Vec<PathBuf> = entries(folder)?.into_iter().filter(|path| is_shard(path) && path.is_file()).collect();
    if shards.is_empty() {
        return Ok(None);
    }
    Ok(Some(Layout::Shards { folder: folder.to_owned(), shards }))
}

fn pattern_layout(path: &Path, pattern: &str) -> Result<Layout> {
    let shards: Vec<PathBuf> = expand_braces(pattern)?.into_iter().map(PathBuf::from).collect();
    if let Some(other) = shards.iter().find(|shard| !is_shard(shard)) {
        return Err(Error::ShardPattern {
            pattern: pattern.to_owned(),
            reason: format!("{} does not end in .tar", other.display()),
        });
    }
    if !shards.iter().any(|shard| shard.is_file()) {
        return Err(Error::NotFound { path: path.to_owned() });
    }
    let folder = shards[0].parent().unwrap_or(Path::new("")).to_owned();
    Ok(Layout::Shards { folder, shards })
}

/// The entries of a folder; numbered names in the order of their numbers, so that 2.tar precedes 10.tar.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let fail = |cause| Error::io(folder, cause);
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder).map_err(fail)? {
        entries.push(entry.map_err(fail)?.path());
    }
    entries.sort_by_cached_key(|path| {
        let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<u64>().ok());
        (number.is_none(), number, path.clone())
    });
    Ok(entries)
}

/// Whether a name is that of a shard; temporary and hidden files are not.
fn is_shard(path: &Path) -> bool {
    let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    !hidden && path.extension().is_some_and(|extension| extension == "tar")
}

/// Shards written apart may number their keys alike, and splits may repeat file names; the later ones get the names of
/// their folder and shard in front.
fn make_ids_unique(samples: &mut [Sample]) {
    let mut seen: HashSet<String> = HashSet::with_capacity(samples.len());
    for sample in samples {
        if seen.contains(&sample.id) {
            let place = match &sample.audio {
                AudioSource::File(path) => path.parent().unwrap_or(path).to_owned(),
                AudioSource::Member { shard, .. } => shard.with_extension(""),
            };
            let parts: Vec<_> = place.components().rev().take(2).collect();
            let place: PathBuf = parts.into_iter().rev().collect();
            let id = format!("{}/{}", place.display(), sample.id);
            let numbered = (2..).map(|number| format!("{id}#{number}"));
            sample.id = std::iter::once(id.clone())
                .chain(numbered)
                .find(|id| !seen.contains(id))
                .expect("the numbers do not end");
        }
        seen.insert(sample.id.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_tree::{Tree, wav};

    fn split(name: &str) -> OpenOptions {
        OpenOptions { split: Some(name.to_owned()), ..OpenOptions::default() }
    }

    fn ids(data: &DataSet) -> Vec<&str> {
        data.samples.iter().map(|sample| sample.id.as_str()).collect()
    }

    /// A shard of clips by key and label.
    fn shard(tree: &Tree, name: &str, clips: &[(&str, &str)]) {
        let mut members = Vec::new();
        for (key, label) in clips {
            members.push((format!("{key}.wav"), wav(20)));
            members.push((format!("{key}.json"), format!(r#"{{"text": "{key}", "tag": ["{label}"]}}"#).into_bytes()));
        }
        let members: Vec<(&str, &[u8])> =
            members.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
        tree.tar(name, &members);
    }

    fn shards() -> Tree {
        let tree = Tree::new();
        for number in [0, 2, 10] {
            shard(
                &tree,
                &format!("train/{number}.tar"),
                &[(&format!("t{number}"), "dog"), (&format!("u{number}"), "rain")],
            );
        }
        shard(&tree, "valid/0.tar", &[("v", "wind")]);
        tree
    }

    #[test]
    fn a_folder_of_splits() {
        let tree = shards();
        let data = open(&tree.path(""), &split("train")).unwrap();
        assert_eq!((data.name.as_str(), data.split.as_str()), ("set", "train"));
        assert_eq!(ids(&data), ["t0", "u0", "t2", "u2", "t10", "u10"]);
        assert_eq!(data.classes, ["dog", "rain", "wind"], "of all splits");
        assert_eq!(open(&tree.path(""), &OpenOptions::default()).unwrap().samples.len(), 7);
        assert_eq!(splits(&tree.path("")).unwrap(), ["train", "valid"]);
        let error = open(&tree.path(""), &split("test")).unwrap_err().to_string();
        assert!(error.contains("no split `test`; there are: train, valid"), "{error}");
    }

    #[test]
    fn one_split_one_shard_one_pattern() {
        let tree = shards();
        for path in ["train", "train/0.tar", "train/{0..9}.tar"] {
            let data = open(&tree.path(path), &OpenOptions::default()).unwrap();
            assert_eq!((data.name.as_str(), data.split.as_str()), ("set", "train"), "{path}");
            assert_eq!(data.classes, ["dog", "rain"]);
        }
        assert_eq!(ids(&open(&tree.path("train/{2,10}.tar"), &split("train")).unwrap()), ["t2", "u2", "t10", "u10"]);
        let data = open(&tree.path("train/{0..1}.tar"), &OpenOptions::default()).unwrap();
        assert_eq!((data.samples.len(), data.skipped.len()), (2, 1));
        assert!(data.skipped[0].what.ends_with("1.tar"));
        let error = open(&tree.path("train"), &split("valid")).unwrap_err().to_string();
        assert!(error.contains("there are: train"), "{error}");
    }

    #[test]
    fn an_audiofolder_with_a_split_column() {
        let tree = Tree::new();
        tree.wav("a.wav", 9).wav("b.wav", 9);
        tree.write("metadata.csv", "file_name,text,label,split\na.wav,x,dog,train\nb.wav,y,rain,valid\n");
        for path in ["", "metadata.csv"] {
            let data = open(&tree.path(path), &split("valid")).unwrap();
            assert_eq!(ids(&data), ["b.wav"]);
            assert_eq!(data.classes, ["dog", "rain"]);
        }
        assert_eq!(splits(&tree.path("")).unwrap(), ["train", "valid"]);
        assert_eq!(open(&tree.path(""), &OpenOptions::default()).unwrap().split, "all");
        assert!(open(&tree.path(""), &split("test")).is_err());
    }

    #[test]
    fn audiofolders_by_split() {
        let tree = Tree::new();
        for (name, label) in [("train", "dog"), ("test", "rain")] {
            tree.wav(&format!("{name}/a.wav"), 9);
            tree.write(&format!("{name}/metadata.jsonl"), format!(r#"{{"file_name": "a.wav", "label": "{label}"}}"#));
        }
        assert_eq!(splits(&tree.path("")).unwrap(), ["test", "train"]);
        let data = open(&tree.path(""), &split("train")).unwrap();
        assert_eq!(data.samples[0].captions, ["The sound of dog"]);
        assert_eq!(data.classes, ["dog", "rain"]);
        let all = open(&tree.path(""), &OpenOptions::default()).unwrap();
        assert_eq!(ids(&all), ["a.wav", "set/train/a.wav"]);
        assert_eq!(open(&tree.path("train"), &split("train")).unwrap().samples.len(), 1);
        assert_eq!(splits(&tree.path("train")).unwrap(), ["train"]);
    }

    #[test]
    fn an_unsplit_set_has_no_splits() {
        let tree = Tree::new();
        shard(&tree, "0.tar", &[("a", "dog")]);
        assert_eq!(open(&tree.path(""), &OpenOptions::default()).unwrap().split, "all");
        let error = open(&tree.path(""), &split("train")).unwrap_err().to_string();
        assert!(error.contains("leave the split out"), "{error}");
    }

    #[test]
    fn class_lists_come_first() {
        let tree = shards();
        tree.write("classes.json", r#"["wind", "dog", "snow"]"#);
        for path in ["", "train"] {
            assert_eq!(open(&tree.path(path), &split("train")).unwrap().classes, ["wind", "dog", "snow"], "{path}");
        }
        tree.write("train/classes.json", r#"{"dog": 0}"#);
        assert_eq!(open(&tree.path("train"), &split("train")).unwrap().classes, ["dog"]);
    }

    #[test]
    fn keys_of_several_shards_may_be_alike() {
        let tree = Tree::new();
        shard(&tree, "train/0.tar", &[("1", "dog"), ("2", "dog")]);
        shard(&tree, "train/1.tar", &[("1", "rain"), ("3", "dog")]);
        let data = open(&tree.path(""), &OpenOptions::default()).unwrap();
        assert_eq!(ids(&data), ["1", "2", "train/1/1", "3"]);
        assert!(data.skipped.is_empty());
    }

    #[test]
    fn a_broken_shard_among_good_ones() {
        let tree = shards();
        tree.write("train/2.tar", "not a tar file. ".repeat(100));
        let data = open(&tree.path(""), &split("train")).unwrap();
        assert_eq!((data.samples.len(), data.skipped.len()), (4, 1));
        let strict = OpenOptions { strict: true, ..split("train") };
        assert!(open(&tree.path(""), &strict).unwrap_err().to_string().contains("2.tar"));
        let valid = OpenOptions { strict: true, ..split("valid") };
        assert_eq!(open(&tree.path(""), &valid).unwrap().samples.len(), 1, "the fault is another split's");
    }

    #[test]
    fn what_is_no_data_set() {
        let tree = Tree::new();
        tree.write("notes.txt", "x").write("empty/.hidden/0.tar", "x");
        for (path, word) in [
            ("absent", "no such file"),
            ("absent{0..1}.tar", "no such file"),
            ("absent{0..}.tar", "pattern"),
            ("notes.txt", "no data set here"),
            ("empty", "no data set here"),
        ] {
            let error = open(&tree.path(path), &OpenOptions::default()).unwrap_err().to_string();
            assert!(error.contains(word), "{path}: {error}");
        }
        tree.write("bad.tar", [0; 1024]);
        let error = open(&tree.path("bad.tar"), &OpenOptions::default()).unwrap_err().to_string();
        assert!(error.contains("no usable clip"), "{error}");
        tree.write("two/metadata.csv", "").write("two/metadata.jsonl", "");
        assert!(matches!(open(&tree.path("two"), &OpenOptions::default()), Err(Error::TwoMetadataFiles { .. })));
    }
}
