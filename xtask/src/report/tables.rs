//! The tables of a report: models beside each other, differences on the same clips, the paper's rows.

use std::fmt::Write as _;

use clap_eval::{Difference, HEADLINES, Interval, Record, Task};

use super::paper::{self, Certainty};
use super::{Entry, Gathered, Group};
use crate::eval::BOOTSTRAP_SEED;

/// Rows and columns of text.
pub(super) struct Table {
    pub(super) title: String,
    pub(super) note: String,
    pub(super) head: Vec<String>,
    pub(super) rows: Vec<Vec<Cell>>,
}

#[derive(Clone, Default)]
pub(super) struct Cell {
    pub(super) text: String,
    /// An interval or a p-value.
    pub(super) small: String,
    /// The best of its column.
    pub(super) best: bool,
}

impl Cell {
    fn plain(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }
}

/// A metric of a record that people look at first.
struct Metric {
    label: String,
    /// As the record calls it.
    name: &'static str,
    /// As an outcome calls it.
    full: &'static str,
}

/// All tables.
pub(super) fn of(gathered: &Gathered) -> anyhow::Result<Vec<Table>> {
    let mut tables = Vec::new();
    for group in &gathered.groups {
        tables.push(models(group));
        tables.extend(differences(group, gathered)?);
    }
    tables.extend(paper::TABLES.iter().filter_map(|table| beside_the_paper(table, gathered)));
    Ok(tables)
}

fn metrics(group: &Group) -> Vec<Metric> {
    let measured = |name: &str| group.entries.iter().any(|entry| entry.record.metrics.contains_key(name));
    match group.task {
        Task::Probe | Task::FineTune => {
            [("accuracy", "acc"), ("macro recall", "mean_per_class_recall"), ("mAP", "map"), ("ROC area", "mauc")]
                .into_iter()
                .filter(|(_, name)| measured(name))
                .map(|(label, name)| Metric { label: label.to_owned(), name, full: name })
                .collect()
        }
        task => HEADLINES
            .iter()
            .filter_map(|headline| {
                let classification = headline.name.strip_prefix("zeroshot_");
                let name = match task {
                    Task::Classification => classification?,
                    _ if classification.is_some() => return None,
                    _ => headline.name,
                };
                let label = headline.label.trim_start_matches("zero-shot ").to_owned();
                measured(name).then_some(Metric { label, name, full: headline.name })
            })
            .collect(),
    }
}

/// The models of a group, a row each.
fn models(group: &Group) -> Table {
    let metrics = metrics(group);
    let value = |record: &Record, metric: &Metric| record.get(metric.name).ok();
    let best: Vec<Option<f64>> = metrics
        .iter()
        .map(|metric| {
            let values = group.entries.iter().filter_map(|entry| value(&entry.record, metric));
            // Of ranks the least.
            if metric.name.ends_with("_rank") { values.reduce(f64::min) } else { values.reduce(f64::max) }
        })
        .collect();
    let row = |entry: &Entry| {
        let record = &entry.record;
        let cells = metrics.iter().zip(&best).map(|(metric, best)| {
            let Some(found) = value(record, metric) else { return Cell::default() };
            let small = record.intervals.get(metric.name);
            Cell {
                text: number(metric.name, found),
                small: small.map_or_else(String::new, |[low, high]| {
                    format!("{} – {}", number(metric.name, *low), number(metric.name, *high))
                }),
                best: group.entries.len() > 1 && *best == Some(found),
            }
        });
        std::iter::once(Cell::plain(entry.label.clone())).chain(cells).collect()
    };
    let first = group.entries.first().map(|entry| &entry.record);
    let clips = first.and_then(|record| record.get("num_samples").ok()).unwrap_or_default();
    Table {
        title: group.title(),
        note: format!("{clips} clips. 95 % intervals by a bootstrap over the clips; best in bold."),
        head: std::iter::once("model".to_owned()).chain(metrics.iter().map(|metric| metric.label.clone())).collect(),
        rows: group.entries.iter().map(row).collect(),
    }
}

/// What each further model is better by than the first, where both are of the same clips.
fn differences(group: &Group, gathered: &Gathered) -> anyhow::Result<Option<Table>> {
    let mut splits = group.entries.iter().filter_map(|entry| Some(&gathered.splits[entry.split?]));
    let Some(first) = splits.next() else { return Ok(None) };
    let metrics = metrics(group);
    let mut rows = Vec::new();
    for other in splits.filter(|other| other.is_of_the_same(first)) {
        let found = other.outcome.compare(&first.outcome, BOOTSTRAP_SEED)?;
        let cell = |metric: &Metric| match found.get(metric.full) {
            Some(Difference { difference, interval: Interval { low, high }, p }) => {
                let signed = |value: f64| {
                    format!("{}{}", if value >= 0.0 { "+" } else { "−" }, number(metric.name, value.abs()))
                };
                Cell {
                    text: signed(*difference),
                    small: format!("{} – {}, p {p:.3}", signed(*low), signed(*high)),
                    best: *p < 0.05,
                }
            }
            None => Cell::default(),
        };
        rows.push(std::iter::once(Cell::plain(other.model.clone())).chain(metrics.iter().map(cell)).collect());
    }
    Ok((!rows.is_empty()).then(|| Table {
        title: format!("{}, less {}", group.title(), first.model),
        note: "Paired: both models on the same draws of clips. p is two-sided, and not corrected for the number of metrics; below 0.05 in bold."
            .to_owned(),
        head: std::iter::once("model".to_owned()).chain(metrics.iter().map(|metric| metric.label.clone())).collect(),
        rows,
    }))
}

/// A table of the paper with ours below, where ours has a value for it.
fn beside_the_paper(table: &paper::PaperTable, gathered: &Gathered) -> Option<Table> {
    let mut ours: Vec<(String, Vec<Cell>)> = Vec::new();
    for (place, column) in table.columns.iter().enumerate() {
        let of_column = |group: &&Group| {
            group.dataset == column.dataset && group.task == column.task && is_reported(&group.dataset, &group.split)
        };
        for entry in gathered.groups.iter().filter(of_column).flat_map(|group| &group.entries) {
            let Ok(value) = entry.record.get(column.metric) else { continue };
            let model = &entry.label;
            let row = match ours.iter().position(|(name, _)| name == model) {
                Some(row) => row,
                None => {
                    ours.push((model.clone(), vec![Cell::default(); table.columns.len()]));
                    ours.len() - 1
                }
            };
            let small = entry.record.intervals.get(column.metric);
            let small =
                small.map_or_else(String::new, |[low, high]| format!("{:.1} – {:.1}", 100.0 * low, 100.0 * high));
            ours[row].1[place] = Cell { text: format!("{:.1}", 100.0 * value), small, best: false };
        }
    }
    if ours.is_empty() {
        return None;
    }
    let theirs = table.rows.iter().map(|(name, cells)| {
        let cell = |value: &Option<paper::Value>| match value {
            None => Cell::plain("–"),
            Some(value) => {
                let doubt = if value.certainty == Certainty::Unchecked { "?" } else { "" };
                Cell::plain(format!("{:.1}{doubt}", value.per_cent))
            }
        };
        std::iter::once(Cell::plain(*name)).chain(cells.iter().map(cell)).collect()
    });
    let ours = ours.into_iter().map(|(name, cells)| {
        std::iter::once(Cell { text: name, best: true, ..Cell::default() }).chain(cells).collect()
    });
    Some(Table {
        title: format!("The paper's {}{}", &table.title[..1].to_lowercase(), &table.title[1..]),
        note: format!(
            "{} Per cent. A value with ? comes from notes on the paper and was checked against nothing; the others are quoted by later papers. Ours in bold.",
            table.note
        ),
        head: std::iter::once("model".to_owned())
            .chain(table.columns.iter().map(|column| column.title.to_owned()))
            .collect(),
        rows: theirs.chain(ours).collect(),
    })
}

/// Whether papers report on this split: a benchmark's own choice, or all of it, as a whole or fold by fold.
fn is_reported(dataset: &str, split: &str) -> bool {
    let evaluate = clap_data::benchmarks().iter().find(|known| known.name == dataset);
    match evaluate.and_then(|benchmark| benchmark.evaluate.as_deref()) {
        Some(evaluate) => evaluate == split,
        None => split == "all" || split.ends_with(" folds"),
    }
}

/// A rank, or a share.
fn number(name: &str, value: f64) -> String {
    if name.ends_with("_rank") { format!("{value:.1}") } else { format!("{value:.3}") }
}

pub(super) fn markdown(tables: &[Table]) -> String {
    let mut text = "# Evaluations\n".to_owned();
    for Table { title, note, head, rows } in tables {
        let bar = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let safe = |text: &str| text.replace('|', "\\|").replace('\n', " ");
        text.push_str(&format!("\n## {}\n\n{note}\n\n", safe(title)));
        text.push_str(&bar(head.iter().map(|name| safe(name)).collect()));
        text.push_str(&bar(vec!["---".to_owned(); head.len()]));
        for row in rows {
            let cell = |Cell { text, small, best }: &Cell| {
                let text = if *best { format!("**{}**", safe(text)) } else { safe(text) };
                if small.is_empty() { text } else { format!("{text} ({small})") }
            };
            text.push_str(&bar(row.iter().map(cell).collect()));
        }
    }
    text
}

/// Every metric of every record, a line each.
pub(super) fn csv(gathered: &Gathered) -> anyhow::Result<String> {
    let mut text = "dataset,split,task,model,metric,value,low,high\n".to_owned();
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    for group in &gathered.groups {
        for Entry { record, label, .. } in &group.entries {
            for (name, value) in &record.metrics {
                let Some(value) = value.as_f64() else { continue };
                let [low, high] = match record.intervals.get(name) {
                    Some([low, high]) => [low.to_string(), high.to_string()],
                    None => Default::default(),
                };
                let of = [&group.dataset, &group.split, group.task.name(), label].map(quoted).join(",");
                writeln!(text, "{of},{},{value},{low},{high}", quoted(name))?;
            }
        }
    }
    Ok(text)
}
