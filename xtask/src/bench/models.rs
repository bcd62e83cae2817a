//! The table of towers and training steps: ours alone, or beside PyTorch and ONNX Runtime in turns.

use super::case::Case;
use super::child::{PAUSE, Timer};
use super::flops::flops;
use super::machine::{Peak, origin};
use super::report::{Report, Times, three_digits};
use crate::args;

/// A line of the table.
struct Row {
    what: &'static str,
    /// The line of [`Case`] that this program runs.
    ours: &'static str,
    /// The line that `bench_models.py` runs.
    theirs: &'static str,
    /// The least ratio of their time to ours that we want.
    ratio: Option<f64>,
    /// The most memory that our first run may take, in GB.
    memory: Option<f64>,
}

/// A line whose case is the same on both sides.
const fn same(what: &'static str, case: &'static str, ratio: Option<f64>) -> Row {
    Row { what, ours: case, theirs: case, ratio, memory: None }
}

/// A training step; the goal of memory is that of 8 pairs.
const fn training(what: &'static str, case: &'static str) -> Row {
    Row { what, ours: case, theirs: case, ratio: Some(1.0), memory: Some(4.0) }
}

/// The table.
const ROWS: [Row; 17] = [
    same("HTS-AT tiny from mel, 1 clip", "htsat-tiny mel 1", Some(1.4)),
    same("HTS-AT tiny from mel, 8 clips", "htsat-tiny mel 8", Some(1.4)),
    Row {
        what: "HTS-AT tiny from mel, 8 clips",
        ours: "htsat-tiny mel 8",
        theirs: "onnx htsat-tiny mel 8",
        ratio: None,
        memory: None,
    },
    same("HTS-AT tiny fused from mel, 8 clips", "htsat-tiny-fused mel 8", Some(1.4)),
    same("HTS-AT tiny from mel, 8 clips, products in bfloat16", "htsat-tiny mel 8 bf16", Some(1.0)),
    same("PANN-14 from waveform, 1 clip", "pann-14 wave 1", None),
    same("PANN-14 from waveform, 8 clips", "pann-14 wave 8", Some(1.0)),
    same("PANN-10 from waveform, 8 clips", "pann-10 wave 8", None),
    same("PANN-6 from waveform, 8 clips", "pann-6 wave 8", None),
    same("RoBERTa, 16 texts padded to 77", "roberta 77 16", Some(1.0)),
    Row {
        what: "RoBERTa, 16 texts padded to 77",
        ours: "roberta 77 16",
        theirs: "onnx roberta 77 16",
        ratio: None,
        memory: None,
    },
    same("RoBERTa, 16 texts of 77 tokens", "roberta full 16", Some(1.0)),
    Row {
        what: "RoBERTa, 16 texts padded to their longest, theirs to 77",
        ours: "roberta own 16",
        theirs: "roberta 77 16",
        ratio: Some(3.0),
        memory: None,
    },
    same("RoBERTa, 16 texts padded to their longest", "roberta own 16", None),
    training("training step HTS-AT tiny + RoBERTa, 8 pairs", "train htsat-tiny roberta 8"),
    training("training step HTS-AT tiny + RoBERTa, 8 pairs, products in bfloat16", "train htsat-tiny roberta 8 bf16"),
    training("training step PANN-14 + BERT, 8 pairs", "train pann-14 bert 8"),
];

/// The script that times their side.
const SCRIPT: &str = "bench_models.py";

/// Measures, prints each line once it is known and, where asked, writes the table into a document.
pub(super) fn run(args: &args::Bench, threads: usize) -> anyhow::Result<()> {
    let mut report = Report::new(args.write.as_deref(), "models")?;
    origin(&mut report, args, (SCRIPT, threads))?;
    let peak = Peak::measure(threads)?;
    report.line(&format!(
        "Peaks in f32: {:.0} GFLOP/s in a matrix product of 2048 x 2048, of which the shares are, {:.0} in multiply-adds on registers.\n",
        peak.product, peak.multiply_adds
    ))?;
    let beside = args.python.is_some();
    let names = ["what", "ours, s", "GFLOP/s", "of peak", "peak memory, GB"];
    let more = ["against", "theirs, s", "ratio", "goal", "their peak memory, GB"];
    report.header(&[&names[..], if beside { &more } else { &[] }].concat())?;
    let mut shown = Vec::new();
    for line in ROWS.iter().filter(|line| args.wants(&[line.what, line.ours, line.theirs])) {
        // Alone, a case that has two counterparts is timed once.
        if beside || !shown.contains(&line.ours) {
            shown.push(line.ours);
            report.row(&measure(line, args, threads, &peak)?)?;
        }
    }
    report.finish()
}

impl Row {
    /// Whether the goals are reached, by the ratio of times and our memory in GB; without goals nothing.
    fn verdict(&self, ratio: f64, memory: f64) -> String {
        let told = |met: bool| if met { "yes" } else { "**missed**" };
        let ratio = self.ratio.map(|goal| format!("≥ {goal}: {}", told(ratio >= goal)));
        let memory = self.memory.map(|goal| format!("≤ {goal} GB: {}", told(memory <= goal)));
        ratio.into_iter().chain(memory).collect::<Vec<_>>().join("; ")
    }
}

/// The cells of a line.
fn measure(line: &Row, args: &args::Bench, threads: usize, peak: &Peak) -> anyhow::Result<Vec<String>> {
    let mut timer = Timer::ours(threads)?;
    let mut script = args.python.as_ref().map(|python| Timer::script(python, SCRIPT, threads)).transpose()?;
    let (mut ours, mut theirs) = (Times::default(), Times::default());
    // Neither side makes its case, nor loads its packages, in the other's turn.
    timer.time(line.ours)?;
    if let Some(script) = &mut script {
        script.time(line.theirs)?;
    }
    for _ in 0..args.rounds.get() {
        ours.0.push(timer.time(line.ours)?);
        if let Some(script) = &mut script {
            std::thread::sleep(PAUSE);
            theirs.0.push(script.time(line.theirs)?);
            std::thread::sleep(PAUSE);
        }
    }
    let rate = flops(&Case::parse(line.ours)?).map(|flops| flops / ours.median() / 1e9);
    let rate = rate
        .map_or_else(Default::default, |rate| (format!("{rate:.0}"), format!("{:.0} %", 100.0 * rate / peak.product)));
    let memory = timer.memory()?;
    let mut cells = vec![line.what.to_owned(), ours.cell(1.0), rate.0, rate.1, gigabytes(memory)];
    if let Some(script) = &mut script {
        let ratio = theirs.median() / ours.median();
        let against = if line.theirs.starts_with("onnx") { "ONNX Runtime" } else { "PyTorch" };
        cells.extend([
            against.to_owned(),
            theirs.cell(1.0),
            format!("{ratio:.2}"),
            line.verdict(ratio, memory.0),
            gigabytes(script.memory()?),
        ]);
    }
    Ok(cells)
}

/// The greatest size up to the end of the first run, and later where that is more.
fn gigabytes((first, all): (f64, f64)) -> String {
    if all > 1.01 * first { format!("{}, later {}", three_digits(first), three_digits(all)) } else { three_digits(all) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_runs_a_case() {
        for line in &ROWS {
            Case::parse(line.ours).unwrap();
            assert!(flops(&Case::parse(line.ours).unwrap()).is_some(), "{}", line.ours);
        }
    }

    #[test]
    fn goals_are_judged() {
        let line = training("", "");
        assert_eq!(line.verdict(1.0, 3.9), "≥ 1: yes; ≤ 4 GB: yes");
        assert_eq!(line.verdict(0.99, 4.1), "≥ 1: **missed**; ≤ 4 GB: **missed**");
        assert_eq!(same("", "", None).verdict(0.1, 9.0), "");
    }

    #[test]
    fn memory_tells_growth() {
        assert_eq!((gigabytes((1.0, 1.005)), gigabytes((1.0, 2.0))), ("1.00".into(), "1.00, later 2.00".into()));
    }
}
