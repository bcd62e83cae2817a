//! `cargo xtask dataset pack`: any data set as shards.

use std::io::Write;
use std::num::NonZeroUsize;
use std::path::Path;

use clap_data::{Debias, DebiasCounts, OpenOptions, PackOptions, PackSummary, Sample, TagSentence};

use super::{open, tell};
use crate::args;
use crate::caption::report;
use crate::counter::Counter;
use crate::exit::Exit;
use crate::splits::{EmptySplits, each_split, write_classes};

/// Writes each split of the source as a folder of shards.
pub(crate) fn run(args: &args::Pack, threads: NonZeroUsize) -> anyhow::Result<Exit> {
    let table = args.table.open_options();
    let sentence: TagSentence = args.template.parse()?;
    let debias = args.debias.then(Debias::default);
    let mut counts = DebiasCounts::new();
    let mut classes = None;
    let mut folders = Vec::new();
    let mut empty = EmptySplits::default();
    for split in each_split(&args.source, &table, None)? {
        // Before its clips are opened: a name may lead anywhere.
        let out = match &split {
            Some(split) => clap_data::split_folder(&args.out, split)?,
            None => args.out.clone(),
        };
        let options = OpenOptions { split, strict: args.strict, exclude: args.exclude.clone(), ..table.clone() };
        let Some(mut data) = empty.pass(open(&args.source, &options), args.strict)? else { continue };
        sentence.retell(&mut data.samples);
        if let Some(list) = &debias {
            for (word, count) in list.samples(&mut data.samples) {
                *counts.entry(word).or_default() += count;
            }
        }
        shards(&data.samples, &out, &args.sounds, args.strict, threads)?;
        classes.get_or_insert(data.classes);
        folders.push(out);
    }
    empty.finish(!folders.is_empty())?;
    write_classes(&args.out, &classes.unwrap_or_default())?;
    folders.iter().try_for_each(|folder| clap_data::close_pack(folder))?;
    report(&counts);
    Ok(Exit::Done)
}

/// Writes clips as shards and says what became of them; the caller closes the folder when all are done.
pub(super) fn shards(
    samples: &[Sample],
    out: &Path,
    sounds: &args::Sounds,
    strict: bool,
    threads: NonZeroUsize,
) -> anyhow::Result<PackSummary> {
    let options = PackOptions { per_shard: sounds.per_shard.get(), sound: sounds.packed(), strict, threads };
    let mut clips = Counter::new(samples.len(), "clips", "packed");
    let done = clap_data::pack_one_of_several(samples, out, &options, &mut |done| clips.set(done, ""))?;
    clips.finish();
    tell(&done.skipped);
    let found = match done.found {
        0 => String::new(),
        n => format!(" ({n} of them there already)"),
    };
    writeln!(
        std::io::stdout(),
        "{}: {} clips in {} shards{found}, {:.1} MB",
        out.display(),
        done.samples,
        done.shards.len(),
        done.bytes as f64 / 1e6
    )?;
    Ok(done)
}
