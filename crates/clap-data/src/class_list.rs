//! The classes of a data set: `classes.json` as a list of names or in LAION's form `{name: index}`, or the labels found.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{Error, Result, Sample};

/// The name of the file that lists classes.
const FILE_NAME: &str = "classes.json";

/// The class names of a `classes.json`, in its order.
///
/// LAION's loader numbers the classes of a `{name: index}` object by the position of their keys and never looks at the
/// indices (`training/data.py`); so does this one.
///
/// # Errors
/// [`Error::ClassList`] for anything but a list of distinct, non-empty names or such an object.
pub fn read_class_list(path: &Path) -> Result<Vec<String>> {
    let bytes = fs::read(path).map_err(|cause| Error::io(path, cause))?;
    parse_class_list(&bytes).map_err(|reason| Error::ClassList { path: path.to_owned(), reason })
}

/// The names in the bytes of a `classes.json`, or what is wrong with it.
pub(crate) fn parse_class_list(bytes: &[u8]) -> std::result::Result<Vec<String>, String> {
    let value: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let names: Vec<String> = match value {
        Value::Array(names) => names
            .into_iter()
            .map(|name| match name {
                Value::String(name) => Ok(name),
                other => Err(format!("{other} is no name")),
            })
            .collect::<std::result::Result<_, _>>()?,
        Value::Object(names) => names.into_iter().map(|(name, _)| name).collect(),
        _ => return Err("neither a list nor an object".to_owned()),
    };
    let mut seen = HashSet::new();
    if let Some(name) = names.iter().find(|name| name.trim().is_empty() || !seen.insert(name.as_str())) {
        return Err(format!("the name `{name}` is empty or there twice"));
    }
    if names.is_empty() {
        return Err("no class in it".to_owned());
    }
    Ok(names)
}

/// Every label of the samples once, sorted.
pub fn labels_of<'a>(samples: impl IntoIterator<Item = &'a Sample>) -> Vec<String> {
    let labels: BTreeSet<&str> = samples.into_iter().flat_map(|sample| &sample.labels).map(String::as_str).collect();
    labels.into_iter().map(str::to_owned).collect()
}

/// The `classes.json` of the first folder that has one.
pub(crate) fn find(folders: &[Option<&Path>]) -> Option<PathBuf> {
    folders.iter().flatten().map(|folder| folder.join(FILE_NAME)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<String>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE_NAME);
        fs::write(&path, text).unwrap();
        read_class_list(&path)
    }

    #[test]
    fn both_forms_keep_their_order() {
        assert_eq!(read(r#"["rain", "dog"]"#).unwrap(), ["rain", "dog"]);
        assert_eq!(read(r#"{"rain": 7, "dog": 0}"#).unwrap(), ["rain", "dog"]);
    }

    #[test]
    fn other_contents_are_refused_by_name() {
        for text in ["[1]", "3", "[]", r#"["a", "a"]"#, r#"[" "]"#, "["] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains("classes.json"), "{error}");
        }
    }
}
