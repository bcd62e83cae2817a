//! What can go wrong in a training run.

use std::path::{Path, PathBuf};

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Each variant names the key, file or step at fault and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A configuration file that is not TOML, or a value of another type.
    #[error("{origin}: {message}")]
    Toml {
        /// The file.
        origin: String,
        /// The parser's message, with the line.
        message: String,
    },
    /// A key that no configuration has.
    #[error("{origin}: unknown key `{key}`; did you mean `{nearest}`?")]
    UnknownKey {
        /// The file, or "the override".
        origin: String,
        /// The key, with its section.
        key: String,
        /// The known key that looks most like it.
        nearest: String,
    },
    /// A key whose value makes no run.
    #[error("configuration: {key} {reason}")]
    Config {
        /// The key, with its section.
        key: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// A file or folder that cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The data set cannot be opened.
    #[error("configuration: {key}: {source}")]
    Data {
        /// The key that names the data.
        key: String,
        /// The reason, naming the file.
        #[source]
        source: clap_data::Error,
    },
    /// A clip cannot be used, and `data.strict` is set.
    #[error("{what}: {reason} (data.strict stops at the first bad clip)")]
    BadClip {
        /// The clip.
        what: String,
        /// Why it cannot be used.
        reason: String,
    },
    /// No step could be taken.
    #[error(
        "no batch had two readable clips: {skipped} of {clips} training clips were skipped; metrics.jsonl says why"
    )]
    NothingTrained {
        /// Training clips.
        clips: usize,
        /// Those that could not be read.
        skipped: usize,
    },
    /// The front end refuses its configuration.
    #[error("configuration: features: {0}")]
    Features(#[source] clap_audio::Error),
    /// The model, its tokenizer or a checkpoint folder.
    #[error(transparent)]
    Model(#[from] clap_encoders::Error),
    /// The metrics.
    #[error(transparent)]
    Eval(#[from] clap_eval::Error),
    /// A tensor operation; outside a bug this is a device out of memory.
    #[error("tensor operation: {0}")]
    Tensor(#[from] candle_core::Error),
    /// The loss or the gradient is no longer a number.
    #[error(
        "step {step}: the {what} is {value}; checkpoints written before are kept. Lower optim.lr, lengthen schedule.warmup or \
         set optim.grad_clip_norm"
    )]
    Diverged {
        /// The step.
        step: u64,
        /// Loss or gradient norm.
        what: &'static str,
        /// Its value.
        value: f64,
    },
    /// The saved state of a run cannot be used.
    #[error("{}: {reason}", path.display())]
    State {
        /// The state file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl Error {
    pub(crate) fn config(key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Config { key: key.into(), reason: reason.into() }
    }

    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }
}
