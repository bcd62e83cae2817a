//! `cargo xtask report`: evaluations and training runs side by side, as Markdown, CSV and one page.

mod figures;
mod page;
mod paper;
mod tables;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap_eval::{Embedded, Outcome, Record, Task};
use clap_train::{History, RunFolder};

use crate::args;
use crate::exit::{Exit, failure};
use crate::results;

/// One record, and what it was measured on where that is there.
struct Entry {
    record: Record,
    /// Index among [`Gathered::splits`].
    split: Option<usize>,
}

/// A split as one model embeds it, measured again.
struct Split {
    model: String,
    /// Where the sounds are, as the record says.
    data: Option<PathBuf>,
    embedded: Embedded,
    outcome: Outcome,
}

/// Entries of the same clips and the same task.
struct Group {
    dataset: String,
    split: String,
    task: Task,
    entries: Vec<Entry>,
}

/// A training run.
struct Run {
    name: String,
    history: History,
}

/// Everything that a report is made of.
struct Gathered {
    groups: Vec<Group>,
    splits: Vec<Split>,
    runs: Vec<Run>,
}

pub(crate) fn run(args: args::Report) -> anyhow::Result<Exit> {
    let gathered = gather(&args.runs)?;
    if gathered.groups.is_empty() && gathered.runs.is_empty() {
        let text = "nothing to report: the folders hold neither results (cargo xtask eval --out DIR) nor training runs";
        return Err(failure(Exit::Data, text));
    }
    let out = args.out.unwrap_or_else(|| crate::runs().join("report"));
    fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    let tables = tables::of(&gathered)?;
    for (name, text) in [
        ("report.md", tables::markdown(&tables)),
        ("report.csv", tables::csv(&gathered)?),
        ("report.html", page::page(&gathered, &tables, args.sounds)?),
    ] {
        let path = out.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        println(&path)?;
    }
    Ok(Exit::Done)
}

fn println(path: &Path) -> anyhow::Result<()> {
    use std::io::Write as _;
    Ok(writeln!(std::io::stdout(), "{}", path.display())?)
}

fn gather(folders: &[PathBuf]) -> anyhow::Result<Gathered> {
    let mut groups: BTreeMap<(String, String, Task), Vec<Entry>> = BTreeMap::new();
    let (mut splits, mut runs) = (Vec::new(), Vec::new());
    for folder in folders {
        if RunFolder::config(folder).is_file() {
            let name =
                folder.file_name().map_or_else(|| folder.display().to_string(), |name| name.to_string_lossy().into());
            runs.push(Run { name, history: History::open(folder)? });
            continue;
        }
        let mut opened: BTreeMap<PathBuf, usize> = BTreeMap::new();
        for (record, file) in results::records(folder)? {
            let split = match file {
                None => None,
                Some(file) => Some(match opened.get(&file) {
                    Some(&known) => known,
                    None => {
                        let embedded = Embedded::load(&file)?;
                        let outcome = embedded.measure()?;
                        let data = record.settings.get("data").and_then(|path| path.as_str()).map(PathBuf::from);
                        splits.push(Split { model: record.model.clone(), data, embedded, outcome });
                        opened.insert(file, splits.len() - 1);
                        splits.len() - 1
                    }
                }),
            };
            let key = (record.dataset.clone(), record.split.clone(), record.task);
            groups.entry(key).or_default().push(Entry { record, split });
        }
    }
    let groups = groups.into_iter().map(|((dataset, split, task), entries)| Group { dataset, split, task, entries });
    Ok(Gathered { groups: groups.collect(), splits, runs })
}

impl Group {
    fn title(&self) -> String {
        let task = match self.task {
            Task::Classification => "zero-shot classification",
            Task::Retrieval => "retrieval",
            Task::Probe => "probe",
            Task::FineTune => "fine-tuning",
        };
        format!("{}, split {}: {task}", self.dataset, self.split)
    }
}

impl Split {
    /// Whether both are of the same clips, captions and labels, so that they can be compared clip by clip.
    fn is_of_the_same(&self, other: &Self) -> bool {
        let (a, b) = (&self.embedded, &other.embedded);
        (&a.clips, &a.captions, &a.caption_of, &a.classes, &a.labels)
            == (&b.clips, &b.captions, &b.caption_of, &b.classes, &b.labels)
    }
}
