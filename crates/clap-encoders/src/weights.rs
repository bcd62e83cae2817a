//! The weight file of a folder: which of its possible names is there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::checkpoint::{Checkpoint, EXTRA};
use crate::error::{Error, Result};

/// Endings of weight files.
const ENDINGS: [&str; 6] = ["safetensors", "pt", "pth", "ckpt", "bin", "th"];

/// Names of the weights in folders of `transformers`, best first.
const NAMES: [&str; 2] = ["model.safetensors", "pytorch_model.bin"];

/// Of a model in parts: it names them.
const INDEX: &str = "model.safetensors.index.json";

/// True where the name of a file ends as those of weight files do: `.pt`, `.safetensors`, `.ckpt` and others.
#[must_use]
pub fn is_weight_file(path: &Path) -> bool {
    path.extension().and_then(|ending| ending.to_str()).is_some_and(|ending| ENDINGS.contains(&ending))
}

/// Opens the weights of a folder of `transformers`: `model.safetensors`, its shards, `pytorch_model.bin`, or a single `.pt`.
pub(crate) fn open_weights(folder: &Path) -> Result<Checkpoint> {
    for name in NAMES {
        let path = folder.join(name);
        if path.is_file() {
            let extra = folder.join(EXTRA);
            return match extra.is_file() && path.extension().is_some_and(|e| e == "safetensors") {
                true => Checkpoint::open_safetensors(&[path, extra]),
                false => Checkpoint::open(&path),
            };
        }
    }
    let index = folder.join(INDEX);
    if index.is_file() {
        let shards: Vec<PathBuf> = shard_names(&index)?.into_iter().map(|name| folder.join(name)).collect();
        if let Some(absent) = shards.iter().find(|path| !path.is_file()) {
            return Err(Error::checkpoint(
                &index,
                format!("it names {}, which is not there; is the download complete?", absent.display()),
            ));
        }
        return Checkpoint::open_safetensors(&shards);
    }
    match single(folder, |path| path.extension().is_some_and(|e| e == "pt"))? {
        Some(path) => Checkpoint::open(&path),
        None => Err(Error::MissingFile { folder: folder.to_owned(), file: "model.safetensors (or pytorch_model.bin)" }),
    }
}

/// The one file of a folder that is such, or `None` where there is none or several.
pub(crate) fn single(folder: &Path, is_such: impl Fn(&Path) -> bool) -> Result<Option<PathBuf>> {
    let entries = std::fs::read_dir(folder).map_err(Error::io(folder))?;
    let mut such = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_file() && is_such(path));
    Ok(such.next().filter(|_| such.next().is_none()))
}

/// The files that an index of a sharded model names, each beside the index.
///
/// # Errors
/// Where the index cannot be read, names no file, or one that lies elsewhere.
pub(crate) fn shard_names(index: &Path) -> Result<BTreeSet<String>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let text = std::fs::read_to_string(index).map_err(Error::io(index))?;
    let Index { weight_map } = serde_json::from_str(&text).map_err(Error::json(index))?;
    let names: BTreeSet<String> = weight_map.into_values().collect();
    if names.is_empty() {
        return Err(Error::checkpoint(index, "its `weight_map` names no file"));
    }
    // A backslash separates folders on Windows alone; an index is the same everywhere.
    let is_plain = |name: &str| Path::new(name).file_name() == Some(name.as_ref()) && !name.contains(['/', '\\', ':']);
    match names.iter().find(|name| !is_plain(name)) {
        Some(name) => {
            Err(Error::checkpoint(index, format!("it names `{name}`; a shard is a plain file name beside the index")))
        }
        None => Ok(names),
    }
}
