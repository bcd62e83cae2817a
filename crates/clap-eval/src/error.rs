//! What can be wrong with embeddings, captions and labels.

use std::path::{Path, PathBuf};

/// An evaluation that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is nothing to measure.
    #[error("no {what} to evaluate: the split is empty; check --data, --split and the list of skipped clips")]
    Empty {
        /// Clips, captions or classes.
        what: &'static str,
    },

    /// Embeddings that are no matrix.
    #[error("the {what} embeddings have shape {shape:?}; they must be (rows, width)")]
    NotAMatrix {
        /// Audio, text or class.
        what: &'static str,
        /// Their shape.
        shape: Vec<usize>,
    },

    /// Two sides from different models.
    #[error(
        "the {left} embeddings are {left_width} wide and the {right} embeddings {right_width}: \
         they come from different models; embed both sides with one model"
    )]
    WidthMismatch {
        /// First side.
        left: &'static str,
        /// Its width.
        left_width: usize,
        /// Second side.
        right: &'static str,
        /// Its width.
        right_width: usize,
    },

    /// A NaN or an infinity.
    #[error(
        "{what} embedding {row} is not finite (value {value} at {column}): \
         the model diverged or the clip was not checked; nothing was measured"
    )]
    NotFinite {
        /// Audio, text or class.
        what: &'static str,
        /// Row of the matrix.
        row: usize,
        /// Column of the matrix.
        column: usize,
        /// The value.
        value: f32,
    },

    /// Scores that `f32` cannot hold.
    #[error("the {left} and {right} embeddings are so great that their dot products overflow: normalise both sides")]
    TooGreat {
        /// First side.
        left: &'static str,
        /// Second side.
        right: &'static str,
    },

    /// A row that has no direction.
    #[error("{what} embedding {row} is zero: it has no direction and cannot be normalised")]
    ZeroRow {
        /// Audio, text or class.
        what: &'static str,
        /// Row of the matrix.
        row: usize,
    },

    /// As many of one thing as of another were expected.
    #[error("{left_count} {left} for {right_count} {right}: there must be one for each")]
    CountMismatch {
        /// What there is.
        left: &'static str,
        /// How many.
        left_count: usize,
        /// What it belongs to.
        right: &'static str,
        /// How many.
        right_count: usize,
    },

    /// A caption of a clip that is not there.
    #[error("caption {caption} belongs to clip {clip}, but there are {clips} clips")]
    CaptionOwner {
        /// Index of the caption.
        caption: usize,
        /// The clip it names.
        clip: usize,
        /// Number of clips.
        clips: usize,
    },

    /// A label that is not in the list of classes.
    #[error("clip {clip} has label {label}, but there are {classes} classes; check the class list of the data set")]
    LabelOutOfRange {
        /// Index of the clip.
        clip: usize,
        /// Its label.
        label: usize,
        /// Number of classes.
        classes: usize,
    },

    /// A query whose answer is not among the candidates.
    #[error("query {query} has target {target}, but there are {candidates} candidates")]
    TargetOutOfRange {
        /// Index of the query.
        query: usize,
        /// The target.
        target: usize,
        /// Number of candidates.
        candidates: usize,
    },

    /// A metric name that is not in the record.
    #[error("no metric is called {name:?}; there are {known}")]
    UnknownMetric {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },

    /// A line that is no record.
    #[error("not a record of an evaluation: {0}")]
    Json(#[from] serde_json::Error),

    /// A data set none of whose clips can be heard.
    #[error("none of the {clips} clips can be read; the first: {first}")]
    Unreadable {
        /// Number of clips.
        clips: usize,
        /// The first one and the reason.
        first: String,
    },

    /// A file of embeddings that cannot be used.
    #[error("{}: {reason}", path.display())]
    Embeddings {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },

    /// Some texts have an embedding in a file, and some have not.
    #[error("the embeddings are of {found} of {of} {what} only; the first that is missing: {missing:?}")]
    MissingText {
        /// Captions or prompts.
        what: &'static str,
        /// Texts with an embedding.
        found: usize,
        /// All of them.
        of: usize,
        /// The first without.
        missing: String,
    },

    /// A file or folder.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },

    /// The front end.
    #[error(transparent)]
    Audio(#[from] clap_audio::Error),

    /// The data set or the prompt.
    #[error(transparent)]
    Data(#[from] clap_data::Error),

    /// The model or its tokenizer.
    #[error(transparent)]
    Model(#[from] clap_encoders::Error),

    /// candle failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

/// Result of an evaluation.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn embeddings(path: &Path, reason: impl Into<String>) -> Self {
        Self::Embeddings { path: path.to_owned(), reason: reason.into() }
    }

    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}
