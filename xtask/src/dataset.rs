//! `cargo xtask dataset`: make data sets, and say which are known.

mod list;

use std::io::Write;

use anyhow::Context as _;
use clap_data::{OpenOptions, PackOptions};

use crate::args;
use crate::exit::Exit;

pub(crate) fn run(args: args::Dataset) -> anyhow::Result<Exit> {
    match args {
        args::Dataset::List(args) => list::run(&args),
        args::Dataset::Pack(args) => pack(&args),
    }
}

/// Writes each split of the source as a folder of shards.
fn pack(args: &args::Pack) -> anyhow::Result<Exit> {
    let table = args.table.open_options();
    let splits = clap_data::splits(&args.source, &table)?;
    let options = PackOptions { per_shard: args.per_shard.get() };
    let named = splits.into_iter().map(Some);
    let splits: Vec<Option<String>> = if named.len() == 0 { vec![None] } else { named.collect() };
    let mut classes = None;
    for split in splits {
        let open = OpenOptions { split: split.clone(), strict: args.strict, ..table.clone() };
        let data = clap_data::open(&args.source, &open)?;
        for skipped in &data.skipped {
            eprintln!("skipped {skipped}");
        }
        if !data.skipped.is_empty() {
            eprintln!("{} bad clips skipped", data.skipped.len());
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
    // The candidates of a classification are part of the data; what one split lacks another may have.
    if let Some(classes) = classes.filter(|classes| !classes.is_empty()) {
        let path = args.out.join("classes.json");
        std::fs::write(&path, serde_json::to_string_pretty(&classes)? + "\n")
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(Exit::Done)
}
