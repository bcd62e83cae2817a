//! The table of single operations: fused, composed, and PyTorch's, in turns.
//!
//! The operations are those of `crates/clap-nn/benches`, whose programs serve as this one does; the optimiser is a case of ours.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use super::child::{PAUSE, Timer};
use super::machine::origin;
use super::report::{Report, Times};
use crate::args;

/// The benches of `clap-nn`.
const BENCHES: [&str; 4] = ["dense", "attention", "rows", "maps"];

/// The script that times their side.
const SCRIPT: &str = "bench_ops.py";

/// What is timed beside the operations of the benches.
const ADAM: &str = "adam htsat-tiny roberta";

/// The processes of one table.
struct Sides {
    fused: Timer,
    composed: Timer,
    theirs: Option<Timer>,
}

/// Measures, prints each line once it is known and, where asked, writes the table into a document.
pub(super) fn run(args: &args::Bench, threads: usize) -> anyhow::Result<()> {
    let mut report = Report::new(args.write.as_deref(), "ops")?;
    let programs = build()?;
    origin(&mut report, args, (SCRIPT, threads))?;
    report.line("")?;
    let names = ["operation", "direction", "fused, ms", "composed, ms"];
    let more = ["PyTorch, ms", "ratio"];
    report.header(&[&names[..], if args.python.is_some() { &more } else { &[] }].concat())?;
    for program in programs {
        let start = || Timer::program(&mut Command::new(&program), threads);
        let mut sides = Sides { fused: start()?, composed: start()?, theirs: script(args, threads)? };
        let names = sides.fused.ask("names")?;
        for name in names.split("; ").filter(|name| args.wants(&[name])) {
            for (direction, what) in [("forward", "forward"), ("both", "forward and backward")] {
                let lines = [format!("fused {direction} {name}"), format!("composed {direction} {name}")];
                let theirs = format!("{direction} {name}");
                report.row(&measure(&mut sides, [name, what], [&lines[0], &lines[1], &theirs], args)?)?;
            }
        }
    }
    if args.wants(&[ADAM]) {
        let mut sides =
            Sides { fused: Timer::ours(threads)?, composed: Timer::ours(threads)?, theirs: script(args, threads)? };
        let what = ["Adam on HTS-AT tiny + RoBERTa, ours with the gradient's norm", "step"];
        report.row(&measure(&mut sides, what, [ADAM, &format!("{ADAM} composed"), ADAM], args)?)?;
    }
    report.finish()
}

fn script(args: &args::Bench, threads: usize) -> anyhow::Result<Option<Timer>> {
    args.python.as_ref().map(|python| Timer::script(python, SCRIPT, threads)).transpose()
}

/// The cells of a row; `lines` are asked of the fused, the composed and PyTorch's side.
fn measure(sides: &mut Sides, what: [&str; 2], lines: [&str; 3], args: &args::Bench) -> anyhow::Result<Vec<String>> {
    let mut times = [Times::default(), Times::default(), Times::default()];
    // Round 0 is not kept: in it a side makes its case, and loads its packages, in the other's turn.
    for round in 0..=args.rounds.get() {
        let timers = [Some(&mut sides.fused), Some(&mut sides.composed), sides.theirs.as_mut()];
        for ((timer, line), times) in timers.into_iter().zip(lines).zip(&mut times) {
            if let Some(timer) = timer {
                times.0.extend(timer.time_if_any(line)?.filter(|_| round > 0));
                std::thread::sleep(PAUSE);
            }
        }
    }
    let cell = |times: &Times| if times.0.is_empty() { String::new() } else { times.cell(1e-3) };
    let mut cells = vec![what[0].to_owned(), what[1].to_owned(), cell(&times[0]), cell(&times[1])];
    if sides.theirs.is_some() {
        cells.extend([cell(&times[2]), format!("{:.2}", times[2].median() / times[0].median())]);
    }
    Ok(cells)
}

/// Builds the benches with the features of the whole workspace, so that candle is not compiled anew, and says where they are.
fn build() -> anyhow::Result<Vec<PathBuf>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["bench", "--workspace", "--no-run", "--message-format=json-render-diagnostics"]);
    for bench in BENCHES {
        command.args(["--bench", bench]);
    }
    let output = command.current_dir(crate::workspace()).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        bail!("the benches do not build: see above");
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    BENCHES.iter().map(|bench| executable(&messages, bench)).collect()
}

/// The program of a bench in the messages of cargo.
fn executable(messages: &str, bench: &str) -> anyhow::Result<PathBuf> {
    let of = |line: &str| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_bench = message.pointer("/target/kind/0")? == "bench" && message.pointer("/target/name")? == bench;
        is_bench.then(|| message.get("executable")?.as_str().map(PathBuf::from))?
    };
    messages.lines().find_map(of).with_context(|| format!("cargo named no program of the bench {bench}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bench_is_found_among_the_messages() {
        let messages = r#"{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"rows"},"executable":null}
{"reason":"compiler-artifact","target":{"kind":["bench"],"name":"rows"},"executable":"a/rows-1"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(executable(messages, "rows").unwrap(), PathBuf::from("a/rows-1"));
        assert!(executable(messages, "maps").is_err());
    }
}
