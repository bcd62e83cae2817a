//! What a table was made on: processor, compiler, commit, load, and the best that the machine can do.

use super::case::Case;
use super::child::{Timer, output};
use super::flops::flops;
use super::report::Report;
use crate::args;

/// The best rates of the machine in `f32` on all threads, in GFLOP/s.
pub(super) struct Peak {
    /// Of a matrix product of 2048 x 2048 by the `gemm` crate.
    pub(super) product: f64,
    /// Of fused multiply-adds on registers.
    pub(super) multiply_adds: f64,
}

impl Peak {
    /// The best of twenty runs each.
    pub(super) fn measure(threads: usize) -> anyhow::Result<Self> {
        let best = |line: &str| {
            let mut timer = Timer::ours(threads)?;
            let mut least = f64::INFINITY;
            for _ in 0..20 {
                least = least.min(timer.time(line)?);
            }
            let flops = flops(&Case::parse(line)?).expect("both are counted");
            anyhow::Ok(flops / least / 1e9)
        };
        Ok(Self { product: best("product 2048")?, multiply_adds: best("multiply-adds")? })
    }
}

/// Says where the numbers of a report come from; `script` is the one that times the other side.
pub(super) fn origin(report: &mut Report<'_>, args: &args::Bench, script: (&str, usize)) -> anyhow::Result<()> {
    place(report, args, script)?;
    report.line(&format!("Medians of n = {} rounds, in brackets the least and the greatest.", args.rounds))
}

/// The same without a word on rounds.
pub(super) fn place(
    report: &mut Report<'_>,
    args: &args::Bench,
    (script, threads): (&str, usize),
) -> anyhow::Result<()> {
    // Before anything of ours runs.
    let state = state();
    report.line(&format!("{};", machine(threads)))?;
    if let Some(python) = &args.python {
        report.line(&format!("{}.", Timer::script(python, script, threads)?.ask("versions")?))?;
    }
    report.line(&format!("{state}."))
}

/// Processor, threads, compiler.
fn machine(threads: usize) -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = cpu.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let model = field("model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let stepping = match (field("cpu family"), field("model")) {
        (Some(family), Some(model)) => format!(" (family {family}, model {model})"),
        _ => String::new(),
    };
    let cores = std::thread::available_parallelism().map_or(threads, usize::from);
    let rustc = output("rustc", ["--version"]);
    format!("{model}{stepping}, {cores} cores, {threads} threads; {rustc}, release profile, no `target-cpu`")
}

/// Commit, day and load.
fn state() -> String {
    let commit = output("git", ["rev-parse", "--short", "HEAD"]);
    let changed = !output("git", ["status", "--porcelain", "--untracked-files=no", "--", "crates", "xtask"]).is_empty();
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().map_or_else(String::new, |load| format!(", load average before the run {load}"));
    let day = jiff::Zoned::now().strftime("%Y-%m-%d").to_string();
    format!("Commit {commit}{}, {day}{load}", if changed { " with changes" } else { "" })
}
