//! The numbers of an inspection as rows, for the terminal and the page alike.

use std::collections::BTreeSet;

use clap_data::{Inspection, Spread, Summary};
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};

use crate::info::clock;

/// A line of the table: what it is, and a cell for each column.
pub(super) struct Row {
    pub(super) name: String,
    pub(super) cells: Vec<String>,
    /// Belongs to the row above it.
    pub(super) is_part: bool,
    /// Says that something is wrong, where a cell is not empty.
    pub(super) is_fault: bool,
}

/// The columns: each split, and all of them where there are several.
pub(super) fn columns(found: &Inspection) -> Vec<&Summary> {
    let mut columns: Vec<&Summary> = found.splits.iter().collect();
    if columns.len() > 1 {
        columns.push(&found.all);
    }
    columns
}

/// Every number, a row each.
pub(super) fn rows(found: &Inspection) -> Vec<Row> {
    let mut rows = Rows { columns: columns(found), rows: Vec::new() };
    rows.add("clips", |of| of.clips.to_string());
    rows.add("length of all", |of| clock(of.seconds));
    rows.spread("seconds a clip", |of| of.durations.as_ref(), 2);
    if found.all.unknown_lengths > found.all.broken + found.all.not_finite {
        rows.add("of unknown length", |of| count(of.unknown_lengths));
    }
    rows.parts("sample rate", |of| of.sample_rates.iter().map(|(rate, n)| (*rate, format!("{rate} Hz"), *n)).collect());
    rows.parts("channels", |of| of.channels.iter().map(|(number, n)| (*number, number.to_string(), *n)).collect());
    rows.parts("encoding", |of| of.encodings.iter().map(|(name, n)| (name.clone(), name.clone(), *n)).collect());
    if found.all.rms_db.is_some() {
        rows.spread("level in dB", |of| of.rms_db.as_ref(), 1);
    }
    rows.add("captions", |of| of.captions.to_string());
    rows.add("different captions", |of| of.distinct_captions.to_string());
    rows.parts("captions a clip", |of| {
        of.captions_per_clip.iter().map(|(number, n)| (*number, number.to_string(), *n)).collect()
    });
    rows.spread("words a caption", |of| of.caption_words.as_ref(), 0);
    if found.all.caption_tokens.is_some() {
        rows.spread("tokens a caption", |of| of.caption_tokens.as_ref(), 0);
    }
    rows.add("labels", |of| of.labels.len().to_string());
    rows.add("clips a label", |of| {
        let mut counts: Vec<usize> = of.labels.values().copied().collect();
        counts.sort_unstable();
        match counts.as_slice() {
            [] => String::new(),
            counts => format!("{} ({} to {})", counts[counts.len() / 2], counts[0], counts[counts.len() - 1]),
        }
    });
    rows.add("clips without a label", |of| count(of.unlabelled));
    rows.fault("left out on opening", |of| of.left_out);
    rows.fault("broken", |of| of.broken);
    if !found.headers_only {
        rows.fault("not finite", |of| of.not_finite);
        rows.fault("silent", |of| of.silent);
        rows.fault("clipped", |of| of.clipped);
    }
    rows.rows
}

/// The table of the terminal, with what is there twice below it.
pub(super) fn table(found: &Inspection) -> String {
    let mut table = Table::new();
    table.load_preset(NOTHING);
    let columns = columns(found);
    table.set_header([""].into_iter().chain(columns.iter().map(|of| of.split.as_str())));
    for Row { name, cells, is_part, .. } in rows(found) {
        let name = if is_part { format!("  {name}") } else { name };
        table.add_row([name].into_iter().chain(cells));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let mut text = table.to_string();
    for line in repeats(found) {
        text.push_str("\n ");
        text.push_str(&line);
    }
    text
}

/// Sentences about what is there more than once.
pub(super) fn repeats(found: &Inspection) -> Vec<String> {
    let repeats = &found.repeats;
    let mut lines = vec![format!(
        "{} captions are shared by several clips; {} clips share theirs",
        repeats.captions, repeats.clips_sharing_captions
    )];
    if repeats.ids > 0 {
        lines.push(format!("{} ids are in several splits: {} …", repeats.ids, repeats.listed_ids.join(", ")));
    }
    if !found.headers_only {
        let across = match (found.splits.len(), repeats.sounds_across_splits) {
            (1, _) => String::new(),
            (_, n) => format!(", {n} of them across splits"),
        };
        lines.push(format!("{} sounds are there more than once{across}", repeats.sounds));
    }
    lines
}

/// Nothing is easier to pass over than a 0.
fn count(number: usize) -> String {
    if number == 0 { String::new() } else { number.to_string() }
}

struct Rows<'a> {
    columns: Vec<&'a Summary>,
    rows: Vec<Row>,
}

impl Rows<'_> {
    fn push(&mut self, name: String, cells: Vec<String>, is_part: bool, is_fault: bool) {
        self.rows.push(Row { name, cells, is_part, is_fault });
    }

    fn add(&mut self, name: &str, cell: impl Fn(&Summary) -> String) {
        let cells = self.columns.iter().map(|of| cell(of)).collect();
        self.push(name.to_owned(), cells, false, false);
    }

    fn fault(&mut self, name: &str, number: impl Fn(&Summary) -> usize) {
        let cells = self.columns.iter().map(|of| count(number(of))).collect();
        self.push(name.to_owned(), cells, false, true);
    }

    /// `1.92 (0.04 to 4.00)`: the median and the extremes.
    fn spread<'s>(&'s mut self, name: &str, spread: impl Fn(&'s Summary) -> Option<&'s Spread>, digits: usize) {
        let cell = |spread: &Spread| {
            format!("{:.digits$} ({:.digits$} to {:.digits$})", spread.median, spread.min, spread.max)
        };
        let cells = self.columns.iter().map(|of| spread(of).map(cell).unwrap_or_default()).collect();
        self.push(format!("{name}: median, range"), cells, false, false);
    }

    /// A row for each value that any column has, under one for the name; a single value takes the name's row.
    fn parts<K: Ord + Clone>(&mut self, name: &str, parts: impl Fn(&Summary) -> Vec<(K, String, usize)>) {
        let found: Vec<Vec<(K, String, usize)>> = self.columns.iter().map(|of| parts(of)).collect();
        let values: BTreeSet<(K, String)> =
            found.iter().flatten().map(|(key, text, _)| (key.clone(), text.clone())).collect();
        if let [(_, only)] = &values.iter().collect::<Vec<_>>()[..] {
            let cells = found.iter().map(|parts| if parts.is_empty() { String::new() } else { only.clone() }).collect();
            self.push(name.to_owned(), cells, false, false);
            return;
        }
        self.push(name.to_owned(), vec![String::new(); found.len()], false, false);
        for (key, text) in values {
            let number =
                |parts: &Vec<(K, String, usize)>| parts.iter().find(|part| part.0 == key).map_or(0, |part| part.2);
            let cells = found.iter().map(|parts| count(number(parts))).collect();
            self.push(text, cells, true, false);
        }
    }
}
