//! `cargo xtask bench`: how fast the towers and a training step are, beside PyTorch in turns, as a table.
//!
//! This program owns the cases, the turns, the table and the file. Each case runs in a process of its own, so that memory is that of one
//! case: ours is this program with `--serve`, theirs a script of `tests/reference`; both answer a case's line with the seconds of one run.

mod case;
mod child;
mod curve;
mod flops;
mod loader;
mod machine;
mod models;
mod ops;
mod peak;
mod report;
mod retrieval;
mod towers;
mod workload;

use std::io::Write as _;
use std::num::NonZeroUsize;

use crate::args;
use crate::exit::Exit;

/// Answers on standard input, times one case, or makes the table.
pub(crate) fn run(args: &args::Bench, threads: Option<NonZeroUsize>) -> anyhow::Result<Exit> {
    if args.serve {
        child::serve()?;
    } else if let Some(line) = &args.case {
        time(line, args.rounds)?;
    } else {
        let threads = threads.map_or_else(rayon::current_num_threads, NonZeroUsize::get);
        match (&args.curve, &args.retrieval, &args.python) {
            (Some(folder), _, Some(python)) => curve::run(args, folder, python, threads)?,
            (_, Some(folder), Some(python)) => retrieval::run(args, folder, python, threads)?,
            _ if args.ops => ops::run(args, threads)?,
            _ if args.loader => loader::run(args, threads)?,
            _ => models::run(args, threads)?,
        }
    }
    Ok(Exit::Done)
}

/// Prints the seconds of each round of one case, in this process, as a profiler wants it.
fn time(line: &str, rounds: NonZeroUsize) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let mut stopwatch = child::Stopwatch::start(line)?;
    for _ in 0..rounds.get() {
        writeln!(out, "{}", stopwatch.time()?)?;
    }
    Ok(())
}
