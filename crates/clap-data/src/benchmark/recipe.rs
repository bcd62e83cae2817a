//! `dataset.toml`: what a benchmark is, and where its layout keeps what.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;

use super::table::Pattern;

/// A data set known by name, as its `dataset.toml` and `classes.json` describe it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Benchmark {
    /// The name by which it is known here, and that of its folder: `esc-50`.
    #[serde(skip)]
    pub name: String,
    /// The name its authors gave it.
    pub title: String,
    /// What it holds, in one line.
    pub about: String,
    /// Its licence, in one line; the card has the rest.
    pub licence: String,
    /// Where to get it.
    pub home: String,
    /// Clips of all splits.
    pub clips: usize,
    /// Hours of sound.
    pub hours: f64,
    /// How long a clip is.
    pub seconds: Seconds,
    /// Whether a clip may be of several classes.
    #[serde(default)]
    pub multi_label: bool,
    /// Whether its clips are parts of videos that their owners may take away, so that some are always missing.
    #[serde(default)]
    pub vanishing: bool,
    /// Prompts of zero-shot classification; `{label}` stands for the class.
    pub templates: Vec<String>,
    /// The split that papers report on; all clips where it has none.
    pub evaluate: Option<String>,
    pub(super) reader: Reader,
    /// The official splits or folds.
    #[serde(default)]
    pub splits: Vec<BenchmarkSplit>,
    /// The classes in the official order; none where clips have captions instead.
    #[serde(skip)]
    pub classes: Vec<String>,
    /// How a class is said, where that is not its name with spaces for underscores.
    #[serde(skip)]
    pub phrases: BTreeMap<String, String>,
    /// What stands for the classes in the tables, in their order; empty where the names do.
    #[serde(skip)]
    pub(super) ids: Vec<String>,
    /// The class of a name, or of an identifier.
    #[serde(skip)]
    pub(super) class_of: HashMap<String, usize>,
}

/// How long a clip is, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seconds {
    /// The shortest, where that is known.
    pub shortest: Option<f64>,
    /// The longest.
    pub longest: f64,
}

/// An official split, or a fold, which is a split that others are trained against.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BenchmarkSplit {
    /// The name its authors gave it, or `fold` and its number.
    pub name: String,
    /// Clips it has officially.
    pub clips: usize,
    /// Where its table may be, by preference; the reader's own where none is named.
    #[serde(default)]
    pub(super) tables: Vec<String>,
    /// Values of columns by which its rows are told from those of other splits in the same table.
    #[serde(default)]
    pub(super) rows: BTreeMap<String, String>,
    /// Names of folders its sounds are in, at any depth; anywhere when empty. May name columns.
    #[serde(default)]
    pub(super) folders: Vec<Pattern>,
}

/// How a layout is read.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum Reader {
    /// Rows of CSV files name clips.
    Table(Table),
    /// A folder for each class.
    ClassFolders(ClassFolders),
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    /// Where the table of every split may be, by preference.
    #[serde(default)]
    pub(super) tables: Vec<String>,
    /// The columns of a table whose first line does not name them.
    #[serde(default)]
    pub(super) columns: Vec<String>,
    /// What a line begins with that is no row.
    pub(super) comment: Option<char>,
    /// Whether a blank follows each comma between cells.
    #[serde(default)]
    pub(super) spaced: bool,
    /// What a clip's file may be called, by preference and without the extension; the first names the clip.
    pub(super) files: Vec<Pattern>,
    /// Names of folders that sounds are in, for splits that name none.
    #[serde(default)]
    pub(super) folders: Vec<Pattern>,
    /// The column of the label or labels.
    pub(super) label: Option<String>,
    /// What separates the labels of a cell.
    pub(super) separator: Option<char>,
    /// The columns of captions.
    #[serde(default)]
    pub(super) captions: Vec<String>,
    /// The column that divides the rows into folds.
    pub(super) folds: Option<Folds>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Folds {
    pub(super) column: String,
    /// Clips of each fold; they are numbered from 1.
    pub(super) clips: Vec<usize>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClassFolders {
    /// Where the class folders may be, by preference; the folder itself when empty.
    pub(super) folders: Vec<String>,
}

impl Benchmark {
    /// Whether its splits are folds of one set.
    #[must_use]
    pub fn has_folds(&self) -> bool {
        matches!(&self.reader, Reader::Table(Table { folds: Some(_), .. }))
    }

    /// Makes splits of the folds, gives splits what they leave to the reader, and numbers the classes.
    pub(super) fn prepare(&mut self) -> Result<(), String> {
        if let Reader::Table(table) = &self.reader {
            if let Some(folds) = &table.folds {
                self.splits.extend(folds.clips.iter().zip(1..).map(|(&clips, number)| BenchmarkSplit {
                    name: format!("fold{number}"),
                    clips,
                    tables: Vec::new(),
                    rows: BTreeMap::from([(folds.column.clone(), number.to_string())]),
                    folders: Vec::new(),
                }));
            }
            for split in &mut self.splits {
                if split.tables.is_empty() {
                    split.tables.clone_from(&table.tables);
                }
                if split.folders.is_empty() {
                    split.folders.clone_from(&table.folders);
                }
                if split.tables.is_empty() {
                    return Err(format!("the split {} has no table", split.name));
                }
            }
            if table.files.is_empty() {
                return Err("no pattern for the files".to_owned());
            }
        }
        if !self.ids.is_empty() && self.ids.len() != self.classes.len() {
            return Err(format!("{} identifiers for {} classes", self.ids.len(), self.classes.len()));
        }
        let names = if self.ids.is_empty() { &self.classes } else { &self.ids };
        self.class_of = names.iter().cloned().zip(0..).collect();
        Ok(())
    }
}
