//! Clips that are not to be used: a list of ids, as [`crate::overlap`] finds them, that opening a data set leaves out.
//!
//! A CSV table with a column `id` (others may say why), or a text with one id a line, where lines that begin with `#` say nothing.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use crate::{Error, Result, Sample};

/// What a list of exclusions did to a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Excluded {
    /// Different ids on the list.
    pub listed: usize,
    /// Clips it took out.
    pub removed: usize,
    /// Ids on the list that no clip has: those of another split, or of another data set.
    pub not_found: usize,
}

/// Takes the clips of the list at `path` out of samples.
pub(crate) fn exclude(path: &Path, samples: &mut Vec<Sample>) -> Result<Excluded> {
    let ids = read(path)?;
    let before = samples.len();
    let mut found = HashSet::new();
    samples.retain(|sample| match ids.get(&sample.id) {
        Some(id) => {
            found.insert(id.clone());
            false
        }
        None => true,
    });
    Ok(Excluded { listed: ids.len(), removed: before - samples.len(), not_found: ids.len() - found.len() })
}

fn read(path: &Path) -> Result<HashSet<String>> {
    let bytes = fs::read(path).map_err(|cause| Error::io(path, cause))?;
    let fail = |reason: String| Error::ExclusionList { path: path.to_owned(), reason };
    let text = std::str::from_utf8(&bytes).map_err(|error| fail(format!("not UTF-8 ({error})")))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if path.extension().is_none_or(|extension| !extension.eq_ignore_ascii_case("csv")) {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        return Ok(lines.map(str::to_owned).collect());
    }
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let names = reader.headers().map_err(|error| fail(error.to_string()))?;
    let Some(column) = names.iter().position(|name| name.trim() == "id") else {
        let found = names.iter().map(str::to_owned).collect();
        return Err(Error::MissingColumn { path: path.to_owned(), wanted: "`id`".to_owned(), found });
    };
    let mut ids = HashSet::new();
    for row in reader.records() {
        let row = row.map_err(|error| fail(error.to_string()))?;
        ids.extend(row.get(column).filter(|id| !id.is_empty()).map(str::to_owned));
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_tree::Tree;
    use crate::{OpenOptions, open};

    fn tree() -> Tree {
        let tree = Tree::new();
        tree.wav("a, b.wav", 10).wav("c.wav", 11).wav("d.wav", 12);
        tree.write("metadata.csv", "file_name,text,split\n\"a, b.wav\",x,train\nc.wav,y,train\nd.wav,z,valid\n");
        tree
    }

    fn opened(tree: &Tree, list: &str, split: Option<&str>) -> (Vec<String>, Excluded) {
        let options = OpenOptions {
            split: split.map(str::to_owned),
            exclude: Some(tree.path(list)),
            strict: true,
            ..OpenOptions::default()
        };
        let data = open(&tree.path(""), &options).unwrap();
        (data.samples.into_iter().map(|sample| sample.id).collect(), data.excluded.unwrap())
    }

    #[test]
    fn listed_clips_are_left_out_and_counted() {
        let tree = tree();
        tree.write(
            "list.csv",
            "score,id,reason\n1,\"a, b.wav\",same sound\n1,\"a, b.wav\",again\n0.9,d.wav,\n1,gone.wav,\n",
        );
        let meant = Excluded { listed: 3, removed: 2, not_found: 1 };
        assert_eq!(opened(&tree, "list.csv", None), (vec!["c.wav".to_owned()], meant));
        let (ids, excluded) = opened(&tree, "list.csv", Some("train"));
        assert_eq!((ids.len(), excluded.removed, excluded.not_found), (1, 1, 2));
        tree.write("list.txt", "\u{feff}# not these\r\na, b.wav\r\n\r\n d.wav \n");
        let meant = Excluded { listed: 2, removed: 2, not_found: 0 };
        assert_eq!(opened(&tree, "list.txt", None), (vec!["c.wav".to_owned()], meant));
    }

    #[test]
    fn lists_that_are_none_are_refused_by_name() {
        let tree = tree();
        let open = |list: &str| {
            let options = OpenOptions { exclude: Some(tree.path(list)), ..OpenOptions::default() };
            open(&tree.path(""), &options).unwrap_err().to_string()
        };
        assert!(open("absent.csv").contains("absent.csv"));
        tree.write("names.csv", "name,why\nc.wav,x\n");
        assert!(open("names.csv").contains("no column `id`; its columns are: name, why"));
        tree.write("ragged.csv", "id,why\nc.wav\n");
        assert!(open("ragged.csv").contains("ragged.csv"));
        tree.write("bytes.txt", b"\xff\xfe");
        assert!(open("bytes.txt").contains("not UTF-8"));
        tree.write("all.txt", "a, b.wav\nc.wav\nd.wav\n");
        let error = open("all.txt");
        assert!(error.contains("no usable clip") && error.contains("all.txt"), "{error}");
    }
}
