//! Numbers as a person reads them: metrics with chance beside them, labels with their probabilities.

use std::collections::BTreeMap;

use clap_data::Excluded;
use clap_encoders::Score;
use clap_eval::{HEADLINES, Interval, Record};
use clap_train::Metrics;
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};

/// The first metrics of some evaluations of the same clips, a column each, and what guessing gives.
pub(crate) fn metrics(columns: &[(&str, &Metrics)]) -> String {
    let Some((_, any)) = columns.first() else { return String::new() };
    let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
    headlines(any, &names, |name| columns.iter().map(|(_, metrics)| cell(metrics, name)).collect())
}

/// The first metrics of one evaluation with their 95 % intervals, and what guessing gives.
pub(crate) fn evaluation(metrics: &Metrics, intervals: &BTreeMap<String, Interval>) -> String {
    let interval = |name: &str| {
        let Some(Interval { low, high }) = intervals.get(name) else { return String::new() };
        format!("{} – {}", number(name, *low), number(name, *high))
    };
    headlines(metrics, &["value", "95 % interval"], |name| vec![cell(metrics, name), interval(name)])
}

/// What a trained classifier is worth: LAION's metrics, their 95 % intervals and what guessing gives.
pub(crate) fn record(record: &Record) -> String {
    let mut table = Table::new();
    table.load_preset(NOTHING);
    table.set_header(["", "value", "95 % interval", "chance"]);
    let value = |name: &str| record.get(name).map_or_else(|_| String::new(), |value| number(name, value));
    let folds = record.metrics.keys().filter_map(|name| Some((name.strip_prefix("acc_")?, name.as_str())));
    let first = [
        ("accuracy", "acc", "chance_acc1"),
        ("accuracy among 5", "acc5", ""),
        ("macro recall", "mean_per_class_recall", "chance_acc1"),
        ("mAP", "map", "chance_map"),
        ("ROC area", "mauc", ""),
    ];
    let rows = first.map(|(label, name, chance)| (label.to_owned(), name, chance)).into_iter();
    let rows = rows.chain(folds.map(|(fold, name)| (format!("accuracy, {fold}"), name, "")));
    for (label, name, chance) in rows.filter(|(_, name, _)| record.metrics.contains_key(*name)) {
        let interval = record.intervals.get(name);
        let interval = interval.map_or_else(String::new, |ends| ends.map(|end| number(name, end)).join(" – "));
        table.add_row([label, value(name), interval, value(chance)]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let [clips, classes] = ["num_samples", "num_classes"].map(|name| record.get(name).unwrap_or_default());
    format!("{table}\n {clips} clips, {classes} classes")
}

fn cell(metrics: &Metrics, name: &str) -> String {
    metrics.get(name).map_or_else(String::new, |value| number(name, *value))
}

/// A rank, or a share.
fn number(name: &str, value: f64) -> String {
    if name.ends_with("_rank") { format!("{value:.0}") } else { format!("{value:.3}") }
}

/// A row for each headline that was measured: its label, `cells` of its name, and chance.
fn headlines(any: &Metrics, columns: &[&str], cells: impl Fn(&str) -> Vec<String>) -> String {
    let mut table = Table::new();
    table.load_preset(NOTHING);
    table.set_header([&[""], columns, &["chance"]].concat());
    for headline in HEADLINES.iter().filter(|headline| any.contains_key(headline.name)) {
        let mut row = vec![headline.label.to_owned()];
        row.extend(cells(headline.name));
        row.push(headline.chance.map_or_else(String::new, |chance| cell(any, chance)));
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let mut text = table.to_string();
    for note in notes(any) {
        text.push_str("\n ");
        text.push_str(&note);
    }
    text
}

/// Labels and their probabilities, as they come.
pub(crate) fn scores(scores: &[Score]) -> String {
    let mut table = Table::new();
    table.load_preset(NOTHING);
    for Score { label, score } in scores {
        table.add_row([format!("{score:.3}"), label.clone()]);
    }
    table.to_string()
}

/// What a list of exclusions did.
pub(crate) fn excluded(excluded: &Excluded) -> String {
    let Excluded { listed, removed, not_found } = excluded;
    format!("{removed} clips excluded; of {listed} ids on the list {not_found} are not in this data")
}

/// What the numbers are of, and how far they can be trusted.
fn notes(metrics: &Metrics) -> Vec<String> {
    let count = |name: &str| metrics.get(name).copied().unwrap_or_default() as usize;
    let mut notes = Vec::new();
    if metrics.contains_key("zeroshot_acc1") {
        let (clips, present) = (count("zeroshot_num_samples"), count("zeroshot_num_classes_present"));
        notes.push(format!("{clips} clips of {present} classes among {}", count("zeroshot_num_classes")));
    }
    if metrics.contains_key("zeroshot_map") {
        let (clips, present) = (count("zeroshot_num_samples"), count("zeroshot_num_classes_present"));
        let all = count("zeroshot_num_classes");
        notes.push(format!("{clips} clips, each of one or more classes; {present} of {all} classes have clips"));
    }
    if metrics.contains_key("audio_to_text_R@1") {
        let mut text = format!("{} clips, {} captions", count("num_samples"), count("num_captions"));
        let tied = count("audio_to_text_tied");
        if tied > 0 {
            text.push_str(&format!(
                "; for {tied} clips another clip has the same caption or score: the earlier one is ranked first"
            ));
        }
        notes.push(text);
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_stands_beside_chance() {
        let metrics: Metrics =
            [("zeroshot_acc1", 0.27), ("zeroshot_chance_acc1", 0.0093), ("zeroshot_num_samples", 167.0)]
                .map(|(name, value)| (name.to_owned(), value))
                .into();
        let text = super::metrics(&[("best", &metrics), ("last", &metrics)]);
        let line = text.lines().find(|line| line.contains("zero-shot top-1")).unwrap();
        assert_eq!(line.split_whitespace().collect::<Vec<_>>(), ["zero-shot", "top-1", "0.270", "0.270", "0.009"]);
        assert!(!text.contains("R@1") && text.contains("167 clips"));
    }
}
