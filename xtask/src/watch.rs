//! `cargo xtask watch`: how a run stands, drawn anew while it goes on.
//!
//! It reads the run's log as it grows and asks for its lock, so it may begin and end at any time, also of a run that another
//! machine trains on a shared disk.

mod frame;
mod graph;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap_train::{History, RunFolder};
use console::Term;

use self::frame::Frame;
use crate::args;
use crate::exit::{Exit, failure};

/// Time between two looks at the log.
const PAUSE: Duration = Duration::from_millis(500);
/// Columns where there is no terminal to ask.
const WIDTH: usize = 100;
/// Columns that are used of a wider terminal.
const WIDEST: usize = 120;

pub(crate) fn run(args: &args::Watch) -> anyhow::Result<Exit> {
    let run = find(&args.run)?;
    let mut history = History::open(&run)?;
    let mut term = Term::stdout();
    if args.once || !term.is_term() {
        let width = term.size_checked().map_or(WIDTH, |(_, columns)| usize::from(columns).min(WIDEST));
        for line in frame(&run, &history)?.lines(width) {
            writeln!(term, "{}", line.trim_end())?;
        }
        return Ok(Exit::Done);
    }
    let mut drawn = 0;
    loop {
        let (rows, columns) = term.size();
        let (rows, width) = (usize::from(rows), usize::from(columns).min(WIDEST));
        let mut lines = frame(&run, &history)?.lines(width);
        // Lines that have scrolled away cannot be drawn over.
        lines.truncate(rows.saturating_sub(1));
        draw(&mut term, &lines, drawn, width)?;
        drawn = lines.len();
        if history.ended.is_some() {
            return Ok(Exit::Done);
        }
        std::thread::sleep(PAUSE);
        history.update()?;
    }
}

/// The folder of the run that is meant.
fn find(run: &Path) -> anyhow::Result<PathBuf> {
    if run == Path::new("latest") {
        let none = || failure(Exit::Model, format!("there is no run in {}", crate::runs().display()));
        return crate::newest_run(RunFolder::metrics).ok_or_else(none);
    }
    if !RunFolder::metrics(run).is_file() {
        return Err(failure(Exit::Model, format!("{}: is no run's folder: it has no metrics.jsonl", run.display())));
    }
    Ok(run.to_owned())
}

fn frame<'a>(run: &'a Path, history: &'a History) -> anyhow::Result<Frame<'a>> {
    let written = std::fs::metadata(RunFolder::metrics(run)).and_then(|log| log.modified()).ok();
    let quiet = written.and_then(|at| at.elapsed().ok());
    Ok(Frame { run, history, open: RunFolder::is_open(run)?, quiet })
}

/// Draws over the last `before` lines, in one piece so that nothing flickers.
fn draw(term: &mut Term, lines: &[String], before: usize, width: usize) -> std::io::Result<()> {
    let mut text = String::new();
    if before > 0 {
        text.push_str(&format!("\r\x1b[{before}A"));
    }
    for line in lines {
        text.push_str(&console::truncate_str(line, width.saturating_sub(1), "…"));
        text.push_str("\x1b[K\n");
    }
    text.push_str("\x1b[J");
    term.write_all(text.as_bytes())?;
    term.flush()
}
