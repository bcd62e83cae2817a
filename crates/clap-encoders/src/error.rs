//! The errors of this crate: each names the path, key or value at fault and what to do about it.

use std::fmt;
use std::path::{Path, PathBuf};

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong between a model folder and an embedding.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A model configuration that describes no model.
    #[error("model config, key `{key}`: {reason}")]
    Config {
        /// Dotted path of the key, for example `audio_config.window_size`.
        key: String,
        /// What is wrong with its value and what would be right.
        reason: String,
    },
    /// A file that cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A JSON file that does not say what it should.
    #[error("{}: {reason}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The parser's reason, with line and column.
        reason: String,
    },
    /// A model folder without a file that it needs.
    #[error("{}: no {file} in this model folder; a model folder holds {LAYOUT}", folder.display())]
    MissingFile {
        /// The folder.
        folder: PathBuf,
        /// The file, or the alternatives.
        file: &'static str,
    },
    /// A weight file in a form that cannot be read.
    #[error("{}: {reason}", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A weight file whose keys or shapes are not those of the configured model.
    #[error("{origin}: the weights are not those of the configured model\n{report}")]
    Keys {
        /// The file, or `memory`.
        origin: String,
        /// Key by key.
        report: Box<KeyReport>,
    },
    /// A tokenizer that cannot be loaded, trained or applied.
    #[error("tokenizer {origin}: {reason}")]
    Tokenizer {
        /// The file, or what was asked of it.
        origin: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A model that cannot be fetched from the hub.
    #[error("model `{id}`: {reason}. Without a network, put {LAYOUT} into a folder and give the folder's path instead")]
    Hub {
        /// The model's id.
        id: String,
        /// What was asked for and what came back.
        reason: String,
    },
    /// A model that writes captions, which cannot be had.
    #[error(
        "caption model `{id}`: {reason}. Without a network, put config.json, tokenizer.json and model.safetensors (or \
         pytorch_model.bin) of a T5 into a folder and give the folder's path"
    )]
    CaptionModel {
        /// Its folder or id.
        id: String,
        /// What is missing, or what was asked of the hub and what came back.
        reason: String,
    },
    /// A compute device that cannot be used.
    #[error("device `{spec}`: {reason}")]
    Device {
        /// What was asked for.
        spec: String,
        /// Why not, and what would do.
        reason: String,
    },
    /// An input that the model cannot take.
    #[error("{what}: {reason}")]
    Input {
        /// Which input.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A sound file or a feature configuration at fault.
    #[error(transparent)]
    Audio(#[from] clap_audio::Error),
    /// A failure inside a tensor operation.
    #[error("{}", plain(.0))]
    Candle(#[from] candle_core::Error),
}

/// The files of a model folder, as every message that asks for them lists them.
const LAYOUT: &str = "config.json, preprocessor_config.json, model.safetensors (or pytorch_model.bin) and tokenizer.json (or \
                      vocab.json with merges.txt)";

/// candle's message without the backtrace that it appends where `RUST_BACKTRACE` is set.
pub(crate) fn plain(error: &candle_core::Error) -> String {
    let text = error.to_string();
    text.split("\n   0: ").next().unwrap_or(&text).to_owned()
}

impl Error {
    pub(crate) fn config(key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Config { key: key.into(), reason: reason.into() }
    }

    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), source }
    }

    pub(crate) fn json(path: &Path) -> impl FnOnce(serde_json::Error) -> Self {
        move |e| Self::Json { path: path.to_owned(), reason: e.to_string() }
    }

    pub(crate) fn checkpoint(path: &Path, reason: impl Into<String>) -> Self {
        Self::Checkpoint { path: path.to_owned(), reason: reason.into() }
    }

    pub(crate) fn tokenizer(origin: impl fmt::Display) -> impl FnOnce(tokenizers::Error) -> Self {
        move |e| Self::Tokenizer { origin: origin.to_string(), reason: e.to_string() }
    }

    pub(crate) fn input(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Input { what: what.into(), reason: reason.into() }
    }
}

/// What separates the keys of a weight file from those of the model.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct KeyReport {
    /// Keys that the model has and the file has not.
    pub missing: Vec<String>,
    /// Keys that the file has and the model has not.
    pub unexpected: Vec<String>,
    /// Keys of another shape: (key, the model's shape, the file's shape).
    pub mismatched: Vec<(String, Vec<usize>, Vec<usize>)>,
}

impl KeyReport {
    /// True where file and model agree.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.mismatched.is_empty()
    }
}

impl fmt::Display for KeyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = Vec::new();
        lines.extend(self.mismatched.iter().map(|(key, model, file)| {
            format!("  shape      {key}: the config asks for {model:?}, the file holds {file:?}")
        }));
        lines.extend(self.missing.iter().map(|key| format!("  missing    {key}")));
        lines.extend(self.unexpected.iter().map(|key| format!("  unexpected {key}")));
        f.write_str(&lines.join("\n"))
    }
}
