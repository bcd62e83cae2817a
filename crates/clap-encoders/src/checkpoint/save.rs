//! Writing a model folder that `transformers` loads, all of it or nothing.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use clap_audio::FeatureConfig;
use serde_json::Value;

use super::hf;
use crate::config::ClapConfig;
use crate::error::{Error, Result};
use crate::tokenizer::ClapTokenizer;

/// Writes `config.json`, `preprocessor_config.json`, `model.safetensors` and the tokenizer's files to `folder`.
///
/// `tensors` are the model's weights under Hugging Face's names, on any device; the buffers that `transformers` expects are
/// added where they are not among `tensors`, and parts of LAION's model that `transformers` has no place for go to a file of their own,
/// [`EXTRA`]. The folder appears complete or not at all: it is written beside its final place, flushed to disk and renamed. An
/// older model folder of that name is replaced, with all that is in it. Should the process end between the two renames, the
/// older folder is beside its place under a hidden name, and the next save puts it back first. One process at a time may save
/// to a place.
///
/// # Errors
/// Where something cannot be written, or `folder` exists and is neither empty nor a folder whose `config.json` has the
/// `model_type` of CLAP.
pub fn save_folder(
    folder: &Path,
    config: &ClapConfig,
    features: &FeatureConfig,
    tensors: &HashMap<String, Tensor>,
    tokenizer: &ClapTokenizer,
) -> Result<()> {
    save_folder_with(folder, config, features, tensors, tokenizer, |_| Ok(()))
}

/// [`save_folder`] with further files: `more` writes them into the folder that it is given, before that gets its name.
///
/// # Errors
/// As [`save_folder`], and what `more` returns.
pub fn save_folder_with(
    folder: &Path,
    config: &ClapConfig,
    features: &FeatureConfig,
    tensors: &HashMap<String, Tensor>,
    tokenizer: &ClapTokenizer,
    more: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    config.validate()?;
    let draft = Draft::beside(folder)?;
    let at = |name: &str| draft.path.join(name);

    let config_path = at("config.json");
    write_json(&config_path, &hf::config_json(config).map_err(Error::json(&config_path))?)?;
    let path = at("preprocessor_config.json");
    write_json(&path, &hf::preprocessor_json(features).map_err(Error::json(&path))?)?;

    let path = at("model.safetensors");
    let buffers = hf::buffers(config)?;
    let mut all: BTreeMap<&str, &Tensor> = buffers.iter().map(|(key, tensor)| (key.as_str(), tensor)).collect();
    let mut extra = BTreeMap::new();
    for (key, tensor) in tensors {
        let has_place = all.contains_key(key.as_str()) || !hf::is_ignorable(key) || hf::is_configured(config, key);
        if has_place { &mut all } else { &mut extra }.insert(key.as_str(), tensor);
    }
    // They are written as private temporary files; whoever may read the other files may read the weights.
    let permissions = fs::metadata(&config_path).map_err(Error::io(&config_path))?.permissions();
    write_tensors(&path, all, permissions.clone())?;
    if !extra.is_empty() {
        write_tensors(&at(EXTRA), extra, permissions)?;
    }

    tokenizer.save(&at("tokenizer.json"))?;
    write_json(&at("tokenizer_config.json"), &hf::tokenizer_json(config))?;
    write_json(&at("special_tokens_map.json"), &hf::special_tokens_json(config.text_config.model_type))?;
    more(&draft.path)?;
    draft.publish(folder)
}

/// Of a model folder: tensors that came with the model and that `transformers` has no place for, LAION's tagging head for example. They
/// are kept for a conversion back.
pub const EXTRA: &str = "laion_extra.safetensors";

fn write_tensors(path: &Path, tensors: BTreeMap<&str, &Tensor>, permissions: fs::Permissions) -> Result<()> {
    // `transformers` refuses a file that does not say whose tensors it holds.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(tensors, Some(metadata), path)
        .map_err(|e| Error::checkpoint(path, format!("cannot be written: {e}")))?;
    fs::set_permissions(path, permissions).map_err(Error::io(path))
}

fn write_json(path: &Path, json: &Value) -> Result<()> {
    let mut text = serde_json::to_string_pretty(json).map_err(Error::json(path))?;
    text.push('\n');
    fs::write(path, text).map_err(Error::io(path))
}

/// A folder under a provisional name, removed unless it is published.
struct Draft {
    path: PathBuf,
}

impl Draft {
    fn beside(folder: &Path) -> Result<Self> {
        let path = sibling(folder, NEW)?;
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(Error::io(parent))?;
        }
        recover(folder)?;
        if exists(folder)? && !is_replaceable(folder)? {
            return Err(Error::input(
                folder.display().to_string(),
                "this exists and is no model folder; it is not replaced, give another name",
            ));
        }
        remove(&path)?;
        fs::create_dir(&path).map_err(Error::io(&path))?;
        Ok(Self { path })
    }

    /// Flushes the draft to disk and gives it its name.
    fn publish(self, folder: &Path) -> Result<()> {
        for entry in fs::read_dir(&self.path).map_err(Error::io(&self.path))? {
            let path = entry.map_err(Error::io(&self.path))?.path();
            sync(&path)?;
        }
        sync(&self.path)?;
        let old = sibling(folder, OLD)?;
        let replaced = match fs::rename(folder, &old) {
            Ok(()) => true,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => false,
            Err(e) => return Err(Error::io(folder)(e)),
        };
        if let Err(e) = fs::rename(&self.path, folder) {
            if replaced {
                // Best effort: the error below is what matters.
                let _ = fs::rename(&old, folder);
            }
            return Err(Error::io(folder)(e));
        }
        if replaced {
            remove(&old)?;
        }
        match folder.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => sync(parent),
            _ => Ok(()),
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Gone already once published.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Of hidden names beside a folder: the folder that is being written, and the one that it replaces.
const NEW: &str = "clap-new";
const OLD: &str = "clap-old";

/// `.NAME.TAG` beside `folder`, so that a rename stays within one file system.
pub(super) fn sibling(folder: &Path, tag: &str) -> Result<PathBuf> {
    let Some(name) = folder.file_name() else {
        return Err(Error::input(folder.display().to_string(), "this is no name for a model folder"));
    };
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(".");
    hidden.push(tag);
    Ok(folder.with_file_name(hidden))
}

/// Clears what a save that was cut short left: an older folder that lost its name gets it back, one that was replaced goes.
fn recover(folder: &Path) -> Result<()> {
    let old = sibling(folder, OLD)?;
    if exists(&old)? && !exists(folder)? && is_model_folder(&old) {
        return fs::rename(&old, folder).map_err(Error::io(&old));
    }
    remove(&old)
}

/// True where there is something under that name.
fn exists(path: &Path) -> Result<bool> {
    path.try_exists().map_err(Error::io(path))
}

/// True for an empty folder and for a model folder.
fn is_replaceable(path: &Path) -> Result<bool> {
    if !path.is_dir() {
        return Ok(false);
    }
    let is_empty = fs::read_dir(path).map_err(Error::io(path))?.next().is_none();
    Ok(is_empty || is_model_folder(path))
}

/// True where `config.json` says that this is a CLAP model.
fn is_model_folder(path: &Path) -> bool {
    let json = fs::read(path.join("config.json")).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
    json.is_some_and(|json| json["model_type"] == hf::MODEL_TYPE)
}

/// Removes a folder with all that is in it, if it is there.
fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path)(e)),
        _ => Ok(()),
    }
}

/// Waits until a file or folder is on disk. Folders cannot be opened everywhere; where they cannot, their entries are in the
/// operating system's care.
pub(super) fn sync(path: &Path) -> Result<()> {
    if cfg!(windows) && path.is_dir() {
        return Ok(());
    }
    File::open(path).and_then(|file| file.sync_all()).map_err(Error::io(path))
}
