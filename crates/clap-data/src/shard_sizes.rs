//! `sizes.json`, the inventory beside shards: how many pairs each of them holds (`{"0.tar": 512, …}`).
//!
//! LAION-CLAP counts its epochs by this file and skips a split without one; here it is a check, and may be absent.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::skipped::Report;
use crate::{Error, Result};

/// The inventories of the folders met so far; `None` for a folder without a readable one.
#[derive(Default)]
pub(crate) struct ShardSizes {
    folders: HashMap<PathBuf, Option<Map<String, Value>>>,
}

impl ShardSizes {
    /// Reports a shard that holds more or fewer pairs than its inventory says, usable or not.
    pub(crate) fn check(&mut self, shard: &Path, held: usize, report: &mut Report) -> Result<()> {
        let folder = shard.parent().unwrap_or(Path::new(""));
        let Some(sizes) = self.of(folder, report)? else {
            return Ok(());
        };
        let name = shard.file_name().unwrap_or_default().to_string_lossy();
        let promised = match sizes.get(name.as_ref()) {
            Some(promised) if promised.as_u64() == Some(held as u64) => return Ok(()),
            Some(promised) => promised.to_string(),
            None => "nothing".to_owned(),
        };
        let reason = format!("it promises {promised} for {name}, which holds {held}");
        report.skip(inventory(folder).display().to_string(), reason)
    }

    /// How many pairs the inventory beside a shard promises for it, if it does.
    pub(crate) fn promised(&mut self, shard: &Path, report: &mut Report) -> Result<Option<u64>> {
        let sizes = self.of(shard.parent().unwrap_or(Path::new("")), report)?;
        let name = shard.file_name().unwrap_or_default().to_string_lossy();
        Ok(sizes.and_then(|sizes| sizes.get(name.as_ref())?.as_u64()))
    }

    /// Reports the shards that the inventory of a folder names and that are not among all its shards.
    pub(crate) fn check_absent(&mut self, folder: &Path, shards: &[PathBuf], report: &mut Report) -> Result<()> {
        for (name, promised) in self.absent(folder, shards, report)? {
            let reason = format!("it promises {promised} for {name}, which is not there");
            report.skip(inventory(folder).display().to_string(), reason)?;
        }
        Ok(())
    }

    /// The shards that the inventory of a folder names and that are not among all its shards, and what it promises for them.
    pub(crate) fn absent(
        &mut self,
        folder: &Path,
        shards: &[PathBuf],
        report: &mut Report,
    ) -> Result<Vec<(String, Value)>> {
        let present: HashSet<_> = shards
            .iter()
            .filter(|shard| shard.parent() == Some(folder))
            .filter_map(|shard| shard.file_name()?.to_str())
            .collect();
        let sizes = self.of(folder, report)?.into_iter().flatten();
        let absent = sizes.filter(|(name, _)| !present.contains(name.as_str()));
        Ok(absent.map(|(name, promised)| (name.clone(), promised.clone())).collect())
    }

    /// The inventory of a folder, read when it is first asked for.
    fn of(&mut self, folder: &Path, report: &mut Report) -> Result<Option<&Map<String, Value>>> {
        if !self.folders.contains_key(folder) {
            self.folders.insert(folder.to_owned(), read(&inventory(folder), report)?);
        }
        Ok(self.folders.get(folder).and_then(Option::as_ref))
    }
}

fn inventory(folder: &Path) -> PathBuf {
    folder.join("sizes.json")
}

fn read(path: &Path, report: &mut Report) -> Result<Option<Map<String, Value>>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(path, error)),
    };
    match serde_json::from_slice(&bytes) {
        Ok(sizes) => Ok(Some(sizes)),
        Err(error) => {
            report.skip(path.display().to_string(), error)?;
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_tree::Tree;

    fn check(tree: &Tree, found: &[(&str, usize)]) -> Vec<String> {
        let (mut sizes, mut report) = (ShardSizes::default(), Report::new(false));
        for (name, found) in found {
            sizes.check(&tree.path(name), *found, &mut report).unwrap();
        }
        report.skipped.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn differences_are_named() {
        let tree = Tree::new();
        tree.write("sizes.json", r#"{"0.tar": 1, "1.tar": 2}"#);
        let skipped = check(&tree, &[("0.tar", 1), ("1.tar", 1), ("2.tar", 1)]);
        assert_eq!(skipped.len(), 2, "{skipped:?}");
        assert!(skipped[0].contains("promises 2 for 1.tar, which holds 1"), "{skipped:?}");
        assert!(skipped[1].contains("promises nothing for 2.tar"), "{skipped:?}");
    }

    #[test]
    fn absent_shards_are_named() {
        let tree = Tree::new();
        tree.write("sizes.json", r#"{"0.tar": 1, "1.tar": 2}"#);
        let mut report = Report::new(false);
        ShardSizes::default().check_absent(&tree.path(""), &[tree.path("0.tar")], &mut report).unwrap();
        assert_eq!(report.skipped.len(), 1, "{:?}", report.skipped);
        assert!(report.skipped[0].reason.contains("promises 2 for 1.tar, which is not there"));
    }

    #[test]
    fn no_inventory_is_fine_and_a_broken_one_is_reported_once() {
        let tree = Tree::new();
        assert_eq!(check(&tree, &[("0.tar", 3)]), [] as [&str; 0]);
        tree.write("sizes.json", "what");
        let skipped = check(&tree, &[("0.tar", 3), ("1.tar", 3)]);
        assert_eq!(skipped.len(), 1, "{skipped:?}");
        assert!(skipped[0].contains("sizes.json"), "{skipped:?}");
    }
}
