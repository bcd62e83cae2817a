//! `cargo xtask dataset`: say which data sets are known, look at some, and make new ones of them.

mod inspect;
pub(crate) mod list;
mod overlap;
mod pack;
mod page;
mod split;
mod summary_table;

use std::num::NonZeroUsize;
use std::path::Path;

use clap_data::{DataSet, OpenOptions, Skipped};

use crate::args;
use crate::exit::{Exit, failure};
use crate::table;

pub(crate) fn run(args: args::Dataset, threads: Option<NonZeroUsize>) -> anyhow::Result<Exit> {
    let threads = threads.or_else(|| std::thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN);
    match args {
        args::Dataset::List(args) => list::run(&args),
        args::Dataset::Inspect(args) => inspect::run(&args, threads),
        args::Dataset::Pack(args) => pack::run(&args, threads),
        args::Dataset::Split(args) => split::run(&args, threads),
        args::Dataset::Overlap(args) => overlap::run(&args, threads),
    }
}

/// Opens a data set and says what was left out of it.
fn open(path: &Path, options: &OpenOptions) -> anyhow::Result<DataSet> {
    let data = clap_data::open(path, options)?;
    tell(&data.skipped);
    if let Some(excluded) = &data.excluded {
        eprintln!("{}", table::excluded(excluded));
    }
    Ok(data)
}

/// The clips that were left out, and how many.
fn tell(skipped: &[Skipped]) {
    for clip in skipped {
        eprintln!("skipped {clip}");
    }
    if !skipped.is_empty() {
        eprintln!("{} skipped", skipped.len());
    }
}

/// Refuses to write over a file unless that was asked for, before any work is done.
fn check_new(file: Option<&Path>, overwrite: bool) -> anyhow::Result<()> {
    match file {
        Some(file) if file.exists() && !overwrite => {
            let text = format!("{} is there already; --overwrite replaces it", file.display());
            Err(failure(Exit::Usage, text))
        }
        _ => Ok(()),
    }
}
