//! `cargo xtask dataset`: say which data sets are known, look at some, and make new ones of them.

mod inspect;
pub(crate) mod list;
mod overlap;
mod pack;
mod page;
mod split;
mod summary_table;

use std::io::IsTerminal as _;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::{Duration, Instant};

use clap_data::{DataSet, OpenOptions, Skipped};
use indicatif::{ProgressBar, ProgressStyle};

use crate::args;
use crate::exit::{Exit, failure};
use crate::progress::minutes;
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

/// Clips done, on a bar; where nobody watches, as a line every ten seconds.
struct Clips {
    bar: ProgressBar,
    total: usize,
    started: Instant,
    /// Clips that were done before this run; the estimate leaves them out.
    before: Option<usize>,
    last_line: Instant,
}

impl Clips {
    fn new(total: usize, verb: &'static str) -> Self {
        let bar = if std::io::stderr().is_terminal() { ProgressBar::new(total as u64) } else { ProgressBar::hidden() };
        let style = format!("{{bar:24.cyan/dim}} {verb} {{pos}}/{{len}} clips  {{msg}}");
        let style = ProgressStyle::with_template(&style).expect("the template is well formed");
        bar.set_style(style.progress_chars("━━─"));
        Self { bar, total, started: Instant::now(), before: None, last_line: Instant::now() }
    }

    fn set(&mut self, done: usize) {
        const LINE_EVERY: Duration = Duration::from_secs(10);
        let before = *self.before.get_or_insert(done);
        let elapsed = self.started.elapsed().as_secs_f64();
        let rate = (done - before) as f64 / elapsed.max(1e-3);
        let left = match rate {
            0.0 => String::new(),
            rate => format!("{rate:.0} clips/s  {} left", minutes((self.total - done) as f64 / rate)),
        };
        self.bar.set_position(done as u64);
        self.bar.set_message(left.clone());
        if self.bar.is_hidden() && self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            eprintln!("{done}/{} clips  {left}", self.total);
        }
    }

    fn finish(self) {
        self.bar.finish_and_clear();
    }
}
