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
/// added. The folder appears complete or not at all: it is written beside its final place, flushed to disk and renamed. An
/// older model folder of that name is replaced.
///
/// # Errors
/// Where something cannot be written, or `folder` exists and is no model folder.
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

    let path = at("model.safetensors");
    let mut all: BTreeMap<&str, &Tensor> = tensors.iter().map(|(key, tensor)| (key.as_str(), tensor)).collect();
    let buffers = hf::buffers(config)?;
    all.extend(buffers.iter().map(|(key, tensor)| (key.as_str(), tensor)));
    // `transformers` refuses a file that does not say whose tensors it holds.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(all, Some(metadata), &path)
        .map_err(|e| Error::checkpoint(&path, format!("cannot be written: {e}")))?;

    let path = at("config.json");
    write_json(&path, &hf::config_json(config).map_err(Error::json(&path))?)?;
    let path = at("preprocessor_config.json");
    write_json(&path, &hf::preprocessor_json(features).map_err(Error::json(&path))?)?;
    tokenizer.save(&at("tokenizer.json"))?;
    write_json(&at("tokenizer_config.json"), &hf::tokenizer_json(config))?;
    write_json(&at("special_tokens_map.json"), &hf::special_tokens_json())?;
    more(&draft.path)?;
    draft.publish(folder)
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
        let path = sibling(folder, "new")?;
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(Error::io(parent))?;
        }
        if folder.is_dir() && !folder.join("config.json").is_file() {
            let mut entries = fs::read_dir(folder).map_err(Error::io(folder))?;
            if entries.next().is_some() {
                return Err(Error::input(
                    folder.display().to_string(),
                    "this folder has files and is no model folder; it is not replaced, give another name",
                ));
            }
        }
        match fs::remove_dir_all(&path) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io(&path)(e)),
        }
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
        let old = sibling(folder, "old")?;
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
            fs::remove_dir_all(&old).map_err(Error::io(&old))?;
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

/// `.NAME.TAG-PID` beside `folder`, so that a rename stays within one file system.
fn sibling(folder: &Path, tag: &str) -> Result<PathBuf> {
    let Some(name) = folder.file_name() else {
        return Err(Error::input(folder.display().to_string(), "this is no name for a model folder"));
    };
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{tag}-{}", std::process::id()));
    Ok(folder.with_file_name(hidden))
}

/// Waits until a file or folder is on disk. Folders cannot be opened everywhere; where they cannot, their entries are in the
/// operating system's care.
fn sync(path: &Path) -> Result<()> {
    if cfg!(windows) && path.is_dir() {
        return Ok(());
    }
    File::open(path).and_then(|file| file.sync_all()).map_err(Error::io(path))
}
