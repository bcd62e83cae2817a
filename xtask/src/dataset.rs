//! `cargo xtask dataset`: make data sets, and say which are known.

mod list;

use std::io::Write;

use clap_data::{Debias, DebiasCounts, OpenOptions, PackOptions, TagSentence};

use crate::args;
use crate::caption::report;
use crate::exit::Exit;
use crate::splits::{each_split, write_classes};

pub(crate) fn run(args: args::Dataset) -> anyhow::Result<Exit> {
    match args {
        args::Dataset::List(args) => list::run(&args),
        args::Dataset::Pack(args) => pack(&args),
    }
}

/// Writes each split of the source as a folder of shards.
fn pack(args: &args::Pack) -> anyhow::Result<Exit> {
    let table = args.table.open_options();
    let options = PackOptions { per_shard: args.per_shard.get() };
    let sentence: TagSentence = args.template.parse()?;
    let debias = args.debias.then(Debias::default);
    let mut counts = DebiasCounts::new();
    let mut classes = None;
    for split in each_split(&args.source, &table, None)? {
        let open = OpenOptions { split: split.clone(), strict: args.strict, ..table.clone() };
        let mut data = clap_data::open(&args.source, &open)?;
        for skipped in &data.skipped {
            eprintln!("skipped {skipped}");
        }
        if !data.skipped.is_empty() {
            eprintln!("{} bad clips skipped", data.skipped.len());
        }
        sentence.retell(&mut data.samples);
        if let Some(list) = &debias {
            for (word, count) in list.samples(&mut data.samples) {
                *counts.entry(word).or_default() += count;
            }
        }
        let out = split.map_or_else(|| args.out.clone(), |split| args.out.join(split));
        let done = clap_data::pack(&data.samples, &out, &options)?;
        writeln!(
            std::io::stdout(),
            "{}: {} clips in {} shards, {:.1} MB",
            out.display(),
            done.samples,
            done.shards.len(),
            done.bytes as f64 / 1e6
        )?;
        classes.get_or_insert(data.classes);
    }
    write_classes(&args.out, &classes.unwrap_or_default())?;
    report(&counts);
    Ok(Exit::Done)
}
