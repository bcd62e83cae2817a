//! `cargo xtask dataset split`: new splits of a data set that share no group.

use std::collections::BTreeMap;
use std::io::Write;
use std::num::NonZeroUsize;

use clap_data::{OpenOptions, Partition, Sample};
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use serde_json::json;

use super::{open, pack};
use crate::args;
use crate::exit::Exit;
use crate::splits::write_classes;

/// Labels in the table; the JSON object has all.
const LISTED: usize = 20;

pub(crate) fn run(args: &args::Split, threads: NonZeroUsize) -> anyhow::Result<Exit> {
    let options = OpenOptions {
        split: args.split.clone(),
        strict: args.strict,
        exclude: args.exclude.clone(),
        ..args.table.open_options()
    };
    let data = open(&args.source, &options)?;
    let partition = clap_data::partition(&data.samples, &args.by, &args.fractions, args.seed)?;
    if args.out.exists() && std::fs::read_dir(&args.out)?.next().is_some() && !args.shards {
        return Err(clap_data::Error::NotEmpty { path: args.out.clone() }.into());
    }
    let mut packed = Vec::new();
    for (name, clips) in partition.splits.iter().filter(|(_, clips)| !clips.is_empty()) {
        let out = clap_data::split_folder(&args.out, name)?;
        if args.shards {
            let samples: Vec<Sample> = clips.iter().map(|clip| data.samples[*clip].clone()).collect();
            pack::shards(&samples, &out, &args.sounds, args.strict, threads)?;
            packed.push(out);
        } else {
            let samples: Vec<&Sample> = clips.iter().map(|clip| &data.samples[*clip]).collect();
            let written = clap_data::write_audiofolder(&samples, &out)?;
            eprintln!("{}: {} files linked, {} copied", out.display(), written.linked, written.copied);
        }
    }
    write_classes(&args.out, &data.classes)?;
    packed.iter().try_for_each(|folder| clap_data::close_pack(folder))?;
    let counts = Counts::of(&data.samples, &partition);
    let mut out = std::io::stdout();
    if args.json {
        writeln!(out, "{}", counts.json(&partition))?;
    } else {
        writeln!(out, "{}", counts.table(&partition))?;
    }
    Ok(Exit::Done)
}

/// Clips of each label in each split.
struct Counts<'a> {
    labels: BTreeMap<&'a str, Vec<usize>>,
}

impl<'a> Counts<'a> {
    fn of(samples: &'a [Sample], partition: &Partition) -> Self {
        let mut labels: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (place, (_, clips)) in partition.splits.iter().enumerate() {
            for label in clips.iter().flat_map(|clip| &samples[*clip].labels) {
                labels.entry(label).or_insert_with(|| vec![0; partition.splits.len()])[place] += 1;
            }
        }
        Self { labels }
    }

    fn json(&self, partition: &Partition) -> serde_json::Value {
        let names: Vec<&str> = partition.splits.iter().map(|(name, _)| name.as_str()).collect();
        let by_name = |counts: Vec<usize>| {
            let pairs = names.iter().zip(counts).map(|(name, count)| ((*name).to_owned(), count.into()));
            serde_json::Value::Object(pairs.collect())
        };
        let labels: serde_json::Map<String, serde_json::Value> =
            self.labels.iter().map(|(label, counts)| ((*label).to_owned(), by_name(counts.clone()))).collect();
        json!({
            "clips": by_name(partition.splits.iter().map(|(_, clips)| clips.len()).collect()),
            "groups": partition.groups,
            "ungrouped": partition.ungrouped,
            "labels": labels,
        })
    }

    fn table(&self, partition: &Partition) -> String {
        let mut table = Table::new();
        table.load_preset(NOTHING);
        let names = partition.splits.iter().map(|(name, _)| name.as_str());
        table.set_header([""].into_iter().chain(names));
        let sizes: Vec<usize> = partition.splits.iter().map(|(_, clips)| clips.len()).collect();
        let total = sizes.iter().sum::<usize>().max(1);
        let row = |name: &str, counts: &[usize]| {
            [name.to_owned()].into_iter().chain(counts.iter().map(ToString::to_string)).collect::<Vec<_>>()
        };
        table.add_row(row("clips", &sizes));
        let shares = sizes.iter().map(|size| format!("{:.1} %", 100.0 * *size as f64 / total as f64));
        table.add_row([String::new()].into_iter().chain(shares));
        let held = |place: usize| self.labels.values().filter(|counts| counts[place] > 0).count();
        table.add_row(row("labels", &(0..sizes.len()).map(held).collect::<Vec<_>>()));
        let mut labels: Vec<(&&str, &Vec<usize>)> = self.labels.iter().collect();
        labels.sort_by_key(|(_, counts)| std::cmp::Reverse(counts.iter().sum::<usize>()));
        for (label, counts) in labels.iter().take(LISTED) {
            table.add_row(row(&format!("  {label}"), counts));
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let more = match labels.len().saturating_sub(LISTED) {
            0 => String::new(),
            n => format!("\n {n} more labels; --json has all"),
        };
        let ungrouped = match partition.ungrouped {
            0 => String::new(),
            n => format!(", {n} of them single clips that name none"),
        };
        format!("{table}{more}\n {} groups{ungrouped}", partition.groups)
    }
}
