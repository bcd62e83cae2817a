//! A process that times cases for another: one line in, one line out.
//!
//! A case's line is answered with the seconds of one run; a new case is made and run once beforehand. `first memory` and `memory` are answered
//! with the greatest resident size in bytes, up to that first run and so far; zero where the system does not tell. The scripts of
//! `tests/reference` speak the same.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};

use super::case::Case;
use super::workload::{Workload, workload};

/// Between two turns: threads that spin for more work must not do so in the other's turn.
pub(super) const PAUSE: Duration = Duration::from_millis(10);

/// A case that has run once.
pub(super) struct Stopwatch {
    workload: Workload,
    first_memory: u64,
}

impl Stopwatch {
    /// Makes the case of `line` and runs it once.
    pub(super) fn start(line: &str) -> anyhow::Result<Self> {
        let mut workload = workload(&Case::parse(line)?)?;
        workload()?;
        Ok(Self { workload, first_memory: peak_memory() })
    }

    /// Seconds of one run.
    pub(super) fn time(&mut self) -> anyhow::Result<f64> {
        let start = Instant::now();
        (self.workload)()?;
        Ok(start.elapsed().as_secs_f64())
    }
}

/// Answers standard input until it ends.
pub(super) fn serve() -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let mut current: Option<(String, Stopwatch)> = None;
    for line in std::io::stdin().lines() {
        let line = line?;
        match (&*line, &mut current) {
            ("memory", _) => writeln!(out, "{}", peak_memory())?,
            ("first memory", current) => {
                writeln!(out, "{}", current.as_ref().map_or(0, |(_, stopwatch)| stopwatch.first_memory))?;
            }
            (_, Some((name, stopwatch))) if *name == line => writeln!(out, "{}", stopwatch.time()?)?,
            _ => {
                // The last case's memory goes first.
                drop(current.take());
                let mut stopwatch = Stopwatch::start(&line)?;
                writeln!(out, "{}", stopwatch.time()?)?;
                current = Some((line, stopwatch));
            }
        }
        out.flush()?;
    }
    Ok(())
}

/// The greatest resident size so far, in bytes: `VmHWM` of Linux; zero elsewhere.
pub(super) fn peak_memory() -> u64 {
    memory("VmHWM:")
}

/// The resident size now, in bytes: `VmRSS` of Linux; zero elsewhere.
pub(super) fn resident_memory() -> u64 {
    memory("VmRSS:")
}

fn memory(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// The other end of [`serve`] and of the scripts.
pub(super) struct Timer {
    process: Child,
    input: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Timer {
    /// This program, computing on so many threads.
    pub(super) fn ours(threads: usize) -> anyhow::Result<Self> {
        Self::program(Command::new(std::env::current_exe()?).arg("bench"), threads)
    }

    /// A program of ours that serves, computing on so many threads.
    pub(super) fn program(command: &mut Command, threads: usize) -> anyhow::Result<Self> {
        Self::spawn(command.arg("--serve").env("RAYON_NUM_THREADS", threads.to_string()))
    }

    /// A script of `tests/reference`.
    pub(super) fn script(python: &Path, script: &str, threads: usize) -> anyhow::Result<Self> {
        let script = crate::workspace().join("tests/reference").join(script);
        let threads = ["--threads".to_owned(), threads.to_string()];
        Self::spawn(Command::new(python).arg(script).args(threads).env("HF_HUB_OFFLINE", "1"))
    }

    fn spawn(command: &mut Command) -> anyhow::Result<Self> {
        let name = command.get_program().to_owned();
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{} cannot be started", Path::new(&name).display()))?;
        let (input, answers) = (process.stdin.take(), process.stdout.take());
        let answers = BufReader::new(answers.context("a piped output")?);
        Ok(Self { process, input, answers })
    }

    /// Seconds of one run of a case.
    pub(super) fn time(&mut self, case: &str) -> anyhow::Result<f64> {
        self.number(case)
    }

    /// As [`Self::time`], or nothing where the other end says that it has no such case.
    pub(super) fn time_if_any(&mut self, case: &str) -> anyhow::Result<Option<f64>> {
        match self.ask(case)? {
            answer if answer == "none" => Ok(None),
            answer => number(case, &answer).map(Some),
        }
    }

    /// The greatest resident sizes up to the first run and so far, in GB.
    pub(super) fn memory(&mut self) -> anyhow::Result<(f64, f64)> {
        Ok((self.number("first memory")? / 1e9, self.number("memory")? / 1e9))
    }

    fn number(&mut self, line: &str) -> anyhow::Result<f64> {
        let answer = self.ask(line)?;
        number(line, &answer)
    }

    /// The answer to a line.
    pub(super) fn ask(&mut self, line: &str) -> anyhow::Result<String> {
        let mut answer = String::new();
        if let Some(input) = &mut self.input {
            // Where the process is gone, its silence tells.
            let _ = writeln!(input, "{line}");
            self.answers.read_line(&mut answer)?;
        }
        match answer.trim_end() {
            "" => Err(anyhow!("the process that times `{line}` stopped; what it said stands above")),
            answer => Ok(answer.to_owned()),
        }
    }
}

impl Drop for Timer {
    /// Ends the process by ending its input, and waits for its memory to be free.
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.process.wait();
    }
}

fn number(line: &str, answer: &str) -> anyhow::Result<f64> {
    answer.parse().with_context(|| format!("`{line}` was answered by `{answer}`, which is no number"))
}

/// The trimmed output of a program, empty where it cannot run.
pub(super) fn output<S: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = S>) -> String {
    let output = Command::new(program).args(arguments).current_dir(crate::workspace()).stderr(Stdio::null()).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}
