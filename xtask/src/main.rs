//! `cargo xtask`: train, evaluate, embed, inspect data and test, on CPU, CUDA and Metal.
//!
//! This file parses and dispatches; each task is a module of its own name. Results go to standard output, talk to
//! standard error. Exit codes are documented in [`exit`].

#![expect(clippy::print_stderr, reason = "a program talks to its user there")]
#![cfg_attr(test, expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test"))]

mod args;
mod bench;
mod caption;
mod cargo;
mod check_gpu;
mod ci;
mod classify;
mod convert;
mod counter;
mod dataset;
mod embed;
mod eval;
mod exit;
mod front_end;
mod info;
mod mel;
mod model;
mod model_info;
mod picture;
mod progress;
mod report;
mod results;
mod splits;
mod table;
mod tokenizer;
mod train;
mod watch;

use args::{Command, Xtask};
use clap::Parser;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// glibc gives every buffer over 32 MB back to the kernel and faults it in again; a training step makes hundreds.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args = Xtask::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(args.log_level())
        .with_target(false)
        .without_time()
        .finish()
        .with(args.log_targets())
        .init();
    let done = prepare(&args).and_then(|()| match args.command {
        Command::Train(args) => train::run(args),
        Command::Watch(args) => watch::run(&args),
        Command::Eval(args) => eval::run(args),
        Command::Report(args) => report::run(args),
        Command::Embed(args) => embed::run(args),
        Command::Classify(args) => classify::run(&args),
        Command::Info(args) => info::run(&args),
        Command::Convert(args) => convert::run(&args),
        Command::Mel(args) => mel::run(&args),
        Command::Dataset(command) => dataset::run(command, args.threads),
        Command::Caption(args) => caption::run(&args),
        Command::Tokenizer(args) => tokenizer::run(args),
        Command::Bench(command) => bench::run(&command, args.threads),
        Command::CheckGpu(args) => check_gpu::run(&args),
        Command::Ci(args) => ci::run(args),
    });
    match done {
        Ok(code) => code.into(),
        Err(error) => exit::report(&error),
    }
}

/// Process-wide settings: the allocator keeps its pages, and one pool of threads serves everything.
fn prepare(args: &Xtask) -> anyhow::Result<()> {
    /// `mi_option_purge_delay` of mimalloc.h, which libmimalloc-sys does not name: the option before `use_numa_nodes`.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = libmimalloc_sys::mi_option_use_numa_nodes - 1;
    // SAFETY: `mi_option_set` stores one integer in a static table; it is called before any thread is started.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, -1) };
    if let Some(threads) = args.threads {
        rayon::ThreadPoolBuilder::new().num_threads(threads.get()).build_global()?;
    }
    Ok(())
}

/// The root of this repository.
fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the workspace")
}

/// The run in [`runs`] of which that part was written last: its log, or the link `best` or `latest`, which are made anew with
/// each checkpoint.
fn newest_run(part: impl Fn(&Path) -> PathBuf) -> Option<PathBuf> {
    let made = |run: &PathBuf| std::fs::symlink_metadata(part(run)).ok()?.modified().ok();
    let folders = std::fs::read_dir(runs()).into_iter().flatten().flatten().map(|entry| entry.path());
    folders.filter_map(|run| Some((made(&run)?, run))).max().map(|(_, run)| run)
}

/// Where runs are kept unless `--out` says otherwise.
fn runs() -> PathBuf {
    workspace().join("runs")
}
