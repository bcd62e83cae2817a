//! `cargo xtask dataset list`: the benchmarks that are known by name, and which of them are on this machine.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap_data::{Benchmark, benchmark_at, benchmarks};
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ContentArrangement, Table};
use serde::Serialize;

use crate::args;
use crate::exit::{Exit, failure};

/// Names the folder where there is no `--root`.
const ROOT: &str = "CLAP_DATASETS";

/// One line of output.
#[derive(Serialize)]
struct Line<'a> {
    name: &'a str,
    title: &'a str,
    about: &'a str,
    clips: usize,
    hours: f64,
    classes: usize,
    multi_label: bool,
    splits: Vec<Split<'a>>,
    evaluate: Option<&'a str>,
    templates: &'a [String],
    licence: &'a str,
    home: &'a str,
    /// Where it is, and what of it.
    found: Vec<Found>,
}

#[derive(Serialize)]
struct Split<'a> {
    name: &'a str,
    clips: usize,
}

/// A folder with the layout of a benchmark.
#[derive(Clone, Serialize)]
pub(crate) struct Found {
    pub(crate) folder: PathBuf,
    splits: Vec<String>,
}

/// Where benchmarks are looked for: the folder that is named, that of the environment, or the repository's.
pub(crate) fn root(named: Option<&Path>) -> PathBuf {
    let named = named.map(Path::to_owned).or_else(|| std::env::var_os(ROOT).map(PathBuf::from));
    named.unwrap_or_else(|| crate::workspace().join("datasets"))
}

pub(super) fn run(args: &args::DatasetList) -> anyhow::Result<Exit> {
    let root = root(args.root.as_deref());
    let found = look(&root)?;
    let lines: Vec<Line<'_>> = benchmarks()
        .iter()
        .map(|benchmark| {
            let here = found.iter().filter(|(name, _)| *name == benchmark.name).map(|(_, found)| found.clone());
            line(benchmark, here.collect())
        })
        .collect();
    let mut out = std::io::stdout().lock();
    if args.json {
        for line in &lines {
            serde_json::to_writer(&mut out, line)?;
            writeln!(out)?;
        }
        return Ok(Exit::Done);
    }
    writeln!(out, "{}\n", table(&lines))?;
    for line in &lines {
        writeln!(out, "{}: {}\n    {}\n    licence: {}", line.name, line.about, line.home, line.licence)?;
        for Found { folder, splits } in &line.found {
            let splits = if splits.is_empty() { String::new() } else { format!(" ({})", splits.join(", ")) };
            writeln!(out, "    here: {}{splits}", folder.display())?;
        }
    }
    let count = lines.iter().filter(|line| !line.found.is_empty()).count();
    eprintln!("{count} of {} found in {}", lines.len(), root.display());
    Ok(Exit::Done)
}

/// The benchmarks in a folder and in those directly in it, by name.
pub(crate) fn look(root: &Path) -> anyhow::Result<Vec<(&'static str, Found)>> {
    let entries =
        root.read_dir().map_err(|error| failure(Exit::Data, format!("--root {}: {error}", root.display())))?;
    let mut folders: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    folders.retain(|path| path.is_dir());
    folders.sort();
    folders.insert(0, root.to_owned());
    let mut found = Vec::new();
    for folder in folders {
        // A folder that cannot be read is none of ours to complain about here.
        if let Ok(Some(benchmark)) = benchmark_at(&folder) {
            let splits = benchmark.splits_at(&folder)?;
            found.push((benchmark.name.as_str(), Found { folder, splits }));
        }
    }
    Ok(found)
}

fn line(benchmark: &Benchmark, found: Vec<Found>) -> Line<'_> {
    let splits = benchmark.splits.iter().map(|split| Split { name: &split.name, clips: split.clips }).collect();
    Line {
        name: &benchmark.name,
        title: &benchmark.title,
        about: &benchmark.about,
        clips: benchmark.clips,
        hours: benchmark.hours,
        classes: benchmark.classes.len(),
        multi_label: benchmark.multi_label,
        splits,
        evaluate: benchmark.evaluate.as_deref(),
        templates: &benchmark.templates,
        licence: &benchmark.licence,
        home: &benchmark.home,
        found,
    }
}

fn table(lines: &[Line<'_>]) -> String {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["name", "clips", "hours", "classes", "splits", "here"]);
    for line in lines {
        let classes = match line.classes {
            0 => "captions".to_owned(),
            count if line.multi_label => format!("{count}, several a clip"),
            count => count.to_string(),
        };
        let here = if line.found.is_empty() { "no" } else { "yes" };
        let hours = if line.hours < 100.0 { format!("{:.1}", line.hours) } else { format!("{:.0}", line.hours) };
        table.add_row([line.name.to_owned(), line.clips.to_string(), hours, classes, splits(line), here.to_owned()]);
    }
    for column in table.column_iter_mut().skip(1).take(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

/// `train 36796, val 4170`, or `10 folds`.
fn splits(line: &Line<'_>) -> String {
    if line.splits.iter().all(|split| split.name.starts_with("fold")) {
        return format!("{} folds", line.splits.len());
    }
    let splits: Vec<String> = line.splits.iter().map(|split| format!("{} {}", split.name, split.clips)).collect();
    splits.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_benchmark_has_a_row() {
        let lines: Vec<Line<'_>> = benchmarks().iter().map(|benchmark| line(benchmark, Vec::new())).collect();
        let text = table(&lines);
        assert_eq!(text.lines().count(), 9, "{text}");
        assert!(text.contains("10 folds") && text.contains("train 36796, val 4170, eval 10231"), "{text}");
    }
}
