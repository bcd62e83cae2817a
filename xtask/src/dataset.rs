//! `cargo xtask dataset`: make data sets.

use clap_data::{OpenOptions, PackOptions};

use crate::args;
use crate::exit::Exit;

pub(crate) fn run(args: args::Dataset) -> anyhow::Result<Exit> {
    match args {
        args::Dataset::Pack(args) => pack(&args),
    }
}

/// Writes each split of the source as a folder of shards.
fn pack(args: &args::Pack) -> anyhow::Result<Exit> {
    let splits = clap_data::splits(&args.source)?;
    let options = PackOptions { per_shard: args.per_shard.get() };
    let named = splits.into_iter().map(Some);
    let splits: Vec<Option<String>> = if named.len() == 0 { vec![None] } else { named.collect() };
    for split in splits {
        let open = OpenOptions { split: split.clone(), strict: args.strict, ..OpenOptions::default() };
        let data = clap_data::open(&args.source, &open)?;
        for skipped in &data.skipped {
            eprintln!("skipped {skipped}");
        }
        let out = split.map_or_else(|| args.out.clone(), |split| args.out.join(split));
        let done = clap_data::pack(&data.samples, &out, &options)?;
        println!(
            "{}: {} clips in {} shards, {:.1} MB",
            out.display(),
            done.samples,
            done.shards.len(),
            done.bytes as f64 / 1e6
        );
    }
    Ok(Exit::Done)
}
