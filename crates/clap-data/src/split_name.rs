//! What the name of a folder or file says about the split of a data set.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Names that mean a split of the data set above them, not a data set of their own.
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

/// Whether a name can only be a split's.
pub(crate) fn is_one(name: &str) -> bool {
    SPLIT_NAMES.contains(&name)
}

/// The split that a file's name says: `train` of `train.csv`, and of `train-00000-of-00004.parquet` with or without a
/// fingerprint at its end, as Hugging Face's `datasets` names the parts of a split.
pub(crate) fn of_file(file: &Path) -> Option<String> {
    let stem = stem_of(file);
    if is_one(&stem) {
        return Some(stem);
    }
    let (before, after) = stem.split_once("-of-")?;
    let (split, number) = before.rsplit_once('-')?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let count = after.split('-').next().unwrap_or_default();
    (!split.is_empty() && is_number(number) && is_number(count)).then(|| split.to_owned())
}

/// Files by their split, sorted; a file whose name says nothing is a split of its own.
pub(crate) fn by_split(files: Vec<PathBuf>) -> Vec<(String, Vec<PathBuf>)> {
    let mut splits: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for file in files {
        splits.entry(of_file(&file).unwrap_or_else(|| stem_of(&file))).or_default().push(file);
    }
    splits.into_iter().collect()
}

/// A file's name without its extension.
pub(crate) fn stem_of(file: &Path) -> String {
    file.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_in_names() {
        for (name, split) in [
            ("a/train.csv", Some("train")),
            ("valid.jsonl", Some("valid")),
            ("train-00000-of-00004.parquet", Some("train")),
            ("train.clean-100-00000-of-00004-0f1e2d3c.parquet", Some("train.clean-100")),
            ("clips.csv", None),
            ("one-of-many.csv", None),
            ("0000.parquet", None),
            ("-0-of-1.parquet", None),
        ] {
            assert_eq!(of_file(Path::new(name)).as_deref(), split, "{name}");
        }
        let files = ["test.parquet", "train-0-of-2.parquet", "train-1-of-2.parquet", "x.parquet"].map(PathBuf::from);
        let splits = by_split(files.to_vec());
        let counts: Vec<(&str, usize)> = splits.iter().map(|(name, files)| (name.as_str(), files.len())).collect();
        assert_eq!(counts, [("test", 1), ("train", 2), ("x", 1)]);
    }
}
