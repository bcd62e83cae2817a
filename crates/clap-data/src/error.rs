//! What can go wrong with a data set as a whole; a single bad clip is a [`crate::Skipped`] instead.

use std::io;
use std::path::{Path, PathBuf};

/// The result of every fallible function of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a data set cannot be opened or written. Each message names the file at fault and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is nothing at the path.
    #[error("{}: no such file or folder", path.display())]
    NotFound {
        /// The path as it was given.
        path: PathBuf,
    },
    /// The path exists and is no data set.
    #[error(
        "{}: no data set here; expected .tar shards (or one folder of them per split), a metadata.csv or \
         metadata.jsonl with a file_name column, .parquet files, a table (.csv, .tsv, .jsonl) by its own name, or a benchmark \
         as it is published (`cargo xtask dataset list`)",
        path.display()
    )]
    Unrecognised {
        /// The folder or file.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("{}: {cause}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// A split was asked for that the data set does not have.
    #[error("{}: no split `{split}`; {}", path.display(), available_splits(available))]
    SplitMissing {
        /// The data set.
        path: PathBuf,
        /// The split asked for.
        split: String,
        /// The splits there are; empty when the data set is not split.
        available: Vec<String>,
    },
    /// A table lacks a column.
    #[error("{}: no column {wanted}; its columns are: {}", path.display(), listed(found))]
    MissingColumn {
        /// The table.
        path: PathBuf,
        /// The column, or the choice of columns, that is needed.
        wanted: String,
        /// The columns there are.
        found: Vec<String>,
    },
    /// A table that cannot be read as one.
    #[error("{}: {reason}", path.display())]
    Table {
        /// The table.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A separator that is none.
    #[error("separator `{separator}`: give one ASCII character such as `,` or `;`, or \\t for a tab")]
    Separator {
        /// The separator as it was given.
        separator: String,
    },
    /// Captions from a file, none of them for a clip of the data set.
    #[error("{}: not one of its ids is a clip's; its first is `{id}`, the first clip is `{clip}`", path.display())]
    NoCaptionMatches {
        /// The table of captions.
        path: PathBuf,
        /// Its first id; empty when it has none with a caption.
        id: String,
        /// The id of the first clip.
        clip: String,
    },
    /// A kind of file that this build does not read.
    #[error(
        "{}: this build is without the feature `{feature}` of clap-data; build again with `--features {feature}`",
        path.display()
    )]
    NeedsFeature {
        /// The file.
        path: PathBuf,
        /// The cargo feature.
        feature: &'static str,
    },
    /// Two metadata files in one folder.
    #[error("{}: both metadata.csv and metadata.jsonl; keep one of them", path.display())]
    TwoMetadataFiles {
        /// The folder.
        path: PathBuf,
    },
    /// A shard pattern that cannot be expanded.
    #[error("shard pattern `{pattern}`: {reason}")]
    ShardPattern {
        /// The pattern as it was given.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A class list that is not one.
    #[error("{}: {reason}; expected a JSON list of names, or an object {{name: index}}", path.display())]
    ClassList {
        /// The `classes.json`.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A caption template that cannot be filled.
    #[error("caption template `{template}`: {reason}")]
    Template {
        /// The template as it was given.
        template: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Something would have been left out, and the caller asked for strictness.
    #[error("{what}: {reason}")]
    Strict {
        /// The clip, row or shard.
        what: String,
        /// Why it would have been left out.
        reason: String,
    },
    /// Nothing usable is left.
    #[error("{}: no usable clip{}", path.display(), first_reason(*skipped, first))]
    Empty {
        /// The data set.
        path: PathBuf,
        /// How many clips, rows and shards were left out.
        skipped: usize,
        /// The first of them and why.
        first: String,
    },
    /// A list of exclusions took out every clip.
    #[error("{}: no usable clip: {} excludes all of them", path.display(), list.display())]
    AllExcluded {
        /// The data set.
        path: PathBuf,
        /// The list.
        list: PathBuf,
    },
    /// A list of exclusions that is none.
    #[error("{}: no list of clips to exclude: {reason}", path.display())]
    ExclusionList {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Shares of splits that make no whole.
    #[error("fractions: {reason}; write them as train=.8,valid=.1,test=.1")]
    Fractions {
        /// What is wrong with them.
        reason: String,
    },
    /// A column to group clips by that no clip has.
    #[error("no clip has a column {column}; there are: {}", found.join(", "))]
    GroupColumn {
        /// The column.
        column: String,
        /// The columns there are.
        found: Vec<String>,
    },
    /// A split whose name would lead out of the output folder.
    #[error("the split `{split}` cannot be a folder's name; rename it in the source")]
    SplitName {
        /// The name.
        split: String,
    },
    /// Files would be written among others.
    #[error("{}: not empty; choose another folder", path.display())]
    NotEmpty {
        /// The output folder.
        path: PathBuf,
    },
    /// Shards would be written over or among older ones.
    #[error("{}: holds shards already; remove them or choose another folder", path.display())]
    OutputExists {
        /// The output folder.
        path: PathBuf,
    },
    /// Shards that an earlier run began are not those of this run.
    #[error("{}: {reason}; remove what is there or choose another folder", path.display())]
    Resume {
        /// The shard or record that disagrees.
        path: PathBuf,
        /// How.
        reason: String,
    },
    /// Shards of another job that was stopped.
    #[error(
        "{}: holds part of a packing of other clips, or with other options; give those to go on with it, or remove the folder",
        path.display()
    )]
    OtherPack {
        /// The output folder.
        path: PathBuf,
    },
    /// Shards that cannot be streamed, or not in the way asked for.
    #[error("{what}: {reason}")]
    Stream {
        /// The pattern, URL or shard.
        what: String,
        /// Why not.
        reason: String,
    },
    /// Sounds of another kind where shards are needed.
    #[error("{}: no shards here, which streaming needs; `cargo xtask dataset pack` makes some", path.display())]
    NoShards {
        /// The path as it was given.
        path: PathBuf,
    },
    /// A clip's bytes could not be had while packing.
    #[error("{what}: {reason}")]
    Pack {
        /// The clip.
        what: String,
        /// Why it cannot be packed.
        reason: String,
    },
}

impl Error {
    pub(crate) fn io(path: &Path, cause: io::Error) -> Self {
        if cause.kind() == io::ErrorKind::NotFound {
            return Self::NotFound { path: path.to_owned() };
        }
        Self::Io { path: path.to_owned(), cause }
    }
}

fn available_splits(available: &[String]) -> String {
    if available.is_empty() {
        "it is one unsplit set: leave the split out".to_owned()
    } else {
        format!("there are: {}", available.join(", "))
    }
}

fn listed(columns: &[String]) -> String {
    if columns.is_empty() { "none".to_owned() } else { columns.join(", ") }
}

fn first_reason(skipped: usize, first: &str) -> String {
    if skipped == 0 { String::new() } else { format!(" ({skipped} left out, the first: {first})") }
}
