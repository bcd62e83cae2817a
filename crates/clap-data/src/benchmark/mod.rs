//! Data sets known by name, in the layouts in which their authors publish them.
//!
//! Each is described by files in `datasets/<name>/` of this crate: `dataset.toml` says where tables, sounds, labels and
//! captions are and how many clips each official split has, `classes.json` lists the classes in the official order,
//! `phrases.json` how a class is said where that is not its name, `ids.json` the identifiers that stand for the classes in
//! the tables. They lie in the crate and are compiled in: a package cannot reach files outside its own folder, and a
//! program that depends on this crate need not have this repository.
//!
//! [`crate::open`] recognises such a layout by itself. A clip whose sound is not there is not an error: the clips are
//! counted, and a split with fewer (or more) than the official one is one entry of [`crate::DataSet::skipped`].

mod audio_index;
mod class_folders;
mod recipe;
mod table;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

pub use recipe::{Benchmark, BenchmarkSplit, Seconds};

use crate::class_list::parse_class_list;
use crate::skipped::Report;
use crate::{Error, Result, Sample, caption, split_choice};
use recipe::Reader;

/// The files of one data set.
struct Files {
    name: &'static str,
    recipe: &'static str,
    classes: Option<&'static str>,
    phrases: Option<&'static str>,
    ids: Option<&'static str>,
}

macro_rules! files {
    ($name:literal $(, $field:ident = $file:literal)*) => {
        Files {
            recipe: include_str!(concat!("../../datasets/", $name, "/dataset.toml")),
            $($field: Some(include_str!(concat!("../../datasets/", $name, "/", $file))),)*
            ..Files { name: $name, recipe: "", classes: None, phrases: None, ids: None }
        }
    };
}

/// In the order of the paper's tables, then the large ones.
const FILES: [Files; 8] = [
    files!("esc-50", classes = "classes.json"),
    files!("urbansound8k", classes = "classes.json"),
    files!("fsd50k", classes = "classes.json", phrases = "phrases.json"),
    files!("vggsound", classes = "classes.json"),
    files!("gtzan", classes = "classes.json"),
    files!("audiocaps"),
    files!("clotho"),
    files!("audioset", classes = "classes.json", ids = "ids.json"),
];

static BENCHMARKS: LazyLock<Vec<Benchmark>> = LazyLock::new(|| {
    FILES.iter().map(read).collect::<std::result::Result<_, _>>().expect("a test reads each of these files")
});

fn read(files: &Files) -> std::result::Result<Benchmark, String> {
    let fail = |file: &str, reason: String| format!("datasets/{}/{file}: {reason}", files.name);
    let list = |file: &str, text: Option<&str>| match text {
        Some(text) => parse_class_list(text.as_bytes()).map_err(|reason| fail(file, reason)),
        None => Ok(Vec::new()),
    };
    let mut benchmark: Benchmark =
        toml::from_str(files.recipe).map_err(|error| fail("dataset.toml", error.to_string()))?;
    benchmark.name = files.name.to_owned();
    benchmark.classes = list("classes.json", files.classes)?;
    benchmark.ids = list("ids.json", files.ids)?;
    if let Some(text) = files.phrases {
        benchmark.phrases = serde_json::from_str(text).map_err(|error| fail("phrases.json", error.to_string()))?;
    }
    benchmark.prepare().map_err(|reason| fail("dataset.toml", reason))?;
    Ok(benchmark)
}

/// Every data set that is known by name.
#[must_use]
pub fn benchmarks() -> &'static [Benchmark] {
    &BENCHMARKS
}

/// The benchmark whose layout a folder has, by its tables and their columns, or by its class folders; sounds are not
/// looked for.
///
/// # Errors
/// Those of the file system, but for what is absent.
pub fn benchmark_at(folder: &Path) -> Result<Option<&'static Benchmark>> {
    for benchmark in benchmarks() {
        if !benchmark.splits_at(folder)?.is_empty() || benchmark.has_class_folders(folder)? {
            return Ok(Some(benchmark));
        }
    }
    Ok(None)
}

/// What was read of a benchmark's folder.
pub(crate) struct Reading {
    pub(crate) samples: Vec<Sample>,
    pub(crate) available: Vec<String>,
}

impl Benchmark {
    /// The splits, or folds, whose tables are in `folder`, in the official order.
    ///
    /// # Errors
    /// Those of the file system, but for what is absent.
    pub fn splits_at(&self, folder: &Path) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for split in &self.splits {
            if self.table_of(folder, split)?.is_some() {
                found.push(split.name.clone());
            }
        }
        Ok(found)
    }

    /// The clips of the splits that `wanted` takes, whose sounds are there. The counts are checked.
    pub(crate) fn read(&self, folder: &Path, wanted: Option<&str>, report: &mut Report) -> Result<Reading> {
        let available = self.splits_at(folder)?;
        let chosen: Vec<&BenchmarkSplit> = self
            .splits
            .iter()
            .filter(|split| available.contains(&split.name) && split_choice::takes(wanted, &split.name))
            .collect();
        let samples = match &self.reader {
            Reader::Table(table) => table::read(self, table, folder, &chosen, wanted, report)?,
            Reader::ClassFolders(layout) => class_folders::read(self, layout, folder, &chosen, wanted, report)?,
        };
        Ok(Reading { samples, available })
    }

    /// The first of a split's tables that is there and has the columns it should have.
    fn table_of(&self, folder: &Path, split: &BenchmarkSplit) -> Result<Option<PathBuf>> {
        for path in split.tables.iter().map(|table| folder.join(table)) {
            let is_table = match &self.reader {
                Reader::Table(table) => table.fits(&path, split)?,
                Reader::ClassFolders(_) => path.is_file(),
            };
            if is_table {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }

    fn has_class_folders(&self, folder: &Path) -> Result<bool> {
        match &self.reader {
            Reader::Table(_) => Ok(false),
            Reader::ClassFolders(layout) => Ok(class_folders::root(self, layout, folder)?.is_some()),
        }
    }

    /// A class as words; see [`crate::DataSet::phrase`].
    fn phrase(&self, class: &str) -> String {
        caption::phrase(&self.phrases, class)
    }

    /// Class names of what a table's cell calls them; the others are given back.
    fn class_names<'a>(&'a self, labels: impl Iterator<Item = &'a str>) -> (Vec<String>, Vec<&'a str>) {
        let (mut known, mut unknown) = (Vec::new(), Vec::new());
        for label in labels {
            match self.class_of.get(label) {
                Some(&class) => known.push(self.classes[class].clone()),
                None => unknown.push(label),
            }
        }
        (known, unknown)
    }
}

/// Counts of clips and of what is amiss with them, for one line a split.
#[derive(Default)]
struct Tally {
    /// Clips that were read.
    clips: usize,
    /// Clips of the table without a sound.
    absent: usize,
    first_absent: Option<String>,
    /// Labels that are no classes.
    unknown: usize,
    first_unknown: Option<String>,
    /// Clips without any label or caption.
    mute: usize,
}

impl Tally {
    fn absent(&mut self, id: &str) {
        self.absent += 1;
        self.first_absent.get_or_insert_with(|| id.to_owned());
    }

    fn unknown(&mut self, label: &str) {
        self.unknown += 1;
        self.first_unknown.get_or_insert_with(|| label.to_owned());
    }

    /// At most one entry about the number of clips and one about labels.
    fn report(self, benchmark: &Benchmark, what: &str, official: usize, report: &mut Report) -> Result<()> {
        let what = if what.is_empty() { benchmark.title.clone() } else { format!("{} {what}", benchmark.title) };
        if self.clips != official {
            let mut reason = format!("{} of {} clips", thousands(self.clips), thousands(official));
            if self.clips > official {
                reason = format!("{} clips, the official split has {}", thousands(self.clips), thousands(official));
            }
            if let Some(first) = &self.first_absent {
                reason += &format!("; {} without a sound file, the first: {first}", thousands(self.absent));
            }
            if benchmark.vanishing && self.absent > 0 {
                reason += " (videos vanish from YouTube)";
            }
            if self.mute > 0 {
                reason += &format!("; {} without a caption or a known label", thousands(self.mute));
            }
            report.skip(what.clone(), reason)?;
        }
        if let Some(first) = self.first_unknown {
            let reason =
                format!("labels that are none of its classes: {}, the first: {first}", thousands(self.unknown));
            report.skip(what, reason)?;
        }
        Ok(())
    }
}

/// `51197` as `51,197`.
fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn unreadable(path: &Path, error: csv::Error) -> Error {
    Error::io(path, std::io::Error::other(error))
}
