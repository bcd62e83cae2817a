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
    /// The model, and how it was measured where that tells it from another entry.
    label: String,
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
    let (mut entries, mut splits, mut runs) = (Vec::new(), Vec::new(), Vec::new());
    for folder in folders {
        if RunFolder::config(folder).is_file() {
            let name =
                folder.file_name().map_or_else(|| folder.display().to_string(), |name| name.to_string_lossy().into());
            runs.push(Run { name, history: History::open(folder)? });
            continue;
        }
        let mut opened: BTreeMap<PathBuf, usize> = BTreeMap::new();
        for (record, file) in results::records(folder)? {
            // Only these are measured on the embeddings of the folder.
            let is_of_embeddings = matches!(record.task, Task::Classification | Task::Retrieval);
            let split = match file.filter(|_| is_of_embeddings) {
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
            entries.push(Entry { label: record.model.clone(), record, split });
        }
    }
    let mut groups: BTreeMap<(String, String, Task), Vec<Entry>> = BTreeMap::new();
    for entry in entries {
        let Record { dataset, split, task, .. } = &entry.record;
        groups.entry((dataset.clone(), split.clone(), *task)).or_default().push(entry);
    }
    for entries in groups.values_mut() {
        tell_apart(entries);
        for entry in entries.iter() {
            if let Some(split) = entry.split {
                splits[split].model.clone_from(&entry.label);
            }
        }
    }
    let groups = groups.into_iter().map(|((dataset, split, task), entries)| Group { dataset, split, task, entries });
    Ok(Gathered { groups: groups.collect(), splits, runs })
}

/// Adds to the labels of entries of one model the settings in which they differ, and a number where there are none.
fn tell_apart(entries: &mut [Entry]) {
    let differing = |entry: &Entry| -> Vec<String> {
        let others = || entries.iter().filter(|other| other.record.model == entry.record.model);
        let settings = entry.record.settings.iter().filter(|(name, _)| *name != "data");
        settings
            .filter(|(name, value)| others().any(|other| other.record.settings.get(*name) != Some(value)))
            .map(|(name, value)| match value.as_str() {
                Some(text) => format!("{name} {text}"),
                None => format!("{name} {value}"),
            })
            .collect()
    };
    let labels: Vec<Vec<String>> = entries.iter().map(differing).collect();
    for (entry, settings) in entries.iter_mut().zip(labels).filter(|(_, settings)| !settings.is_empty()) {
        entry.label = format!("{} ({})", entry.record.model, settings.join(", "));
    }
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for entry in entries {
        let count = seen.entry(entry.label.clone()).or_default();
        *count += 1;
        if *count > 1 {
            entry.label = format!("{}, {count}", entry.label);
        }
    }
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
