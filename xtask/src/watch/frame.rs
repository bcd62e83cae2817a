//! How a run stands, as lines of a terminal.

use std::path::Path;
use std::time::Duration;

use clap_train::{Ending, History, Step};
use console::style;

use super::graph::{blocks, braille};
use crate::progress::minutes;
use crate::table;

/// Rows of the loss curve.
const ROWS: usize = 7;
/// Columns left of a curve: name and value.
const MARGIN: usize = 28;
/// A process that logs nothing for so long is worth a look.
const QUIET: Duration = Duration::from_secs(60);

/// What there is to show.
pub(super) struct Frame<'a> {
    pub(super) run: &'a Path,
    pub(super) history: &'a History,
    /// Whether a process trains the run, where that can be known.
    pub(super) open: Option<bool>,
    /// Time since the last event, where that can be known.
    pub(super) quiet: Option<Duration>,
}

impl Frame<'_> {
    /// The lines, for a terminal of so many columns.
    pub(super) fn lines(&self, width: usize) -> Vec<String> {
        let mut lines = vec![self.state(), self.progress(width)];
        if !self.history.steps.is_empty() {
            lines.push(String::new());
            self.loss(&mut lines, width);
            lines.push(String::new());
            self.numbers(&mut lines, width);
        }
        self.evaluations(&mut lines);
        self.trouble(&mut lines);
        lines
    }

    /// Which run, and whether it goes on.
    fn state(&self) -> String {
        let run = self.run.canonicalize().unwrap_or_else(|_| self.run.to_owned());
        let name = run.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let quiet = self.quiet.unwrap_or_default();
        let state = match (&self.history.ended, self.open) {
            (Some(done), _) => style(ending(done.ending).to_owned()).green(),
            (None, Some(true)) if quiet > QUIET => {
                style(format!("open, but silent for {}", minutes(quiet.as_secs_f64()))).yellow()
            }
            (None, Some(true)) => style("training".to_owned()).green(),
            (None, Some(false)) => {
                style(format!("stopped; go on with  cargo xtask train --resume {}", self.run.display())).red()
            }
            (None, None) => style(format!("last event {} ago", minutes(quiet.as_secs_f64()))).yellow(),
        };
        format!("{}  {state}", style(name).bold())
    }

    /// A bar, the place in the run and its time.
    fn progress(&self, width: usize) -> String {
        let step = self.history.steps.last().copied().unwrap_or_default();
        let (over, start) = (self.history.ended.is_some(), self.history.start.clone().unwrap_or_default());
        let share = if over { 1.0 } else { step.progress.clamp(0.0, 1.0) };
        let columns = width.saturating_sub(76).clamp(8, 30);
        let full = (share * columns as f64).round() as usize;
        let time = match &self.history.ended {
            Some(done) => minutes(done.elapsed),
            None => format!("{} so far, {} left", minutes(step.elapsed), minutes(step.eta)),
        };
        format!(
            "{}{}  {:.0} %  epoch {} of {}  step {} of {}  {time}",
            style("━".repeat(full)).cyan(),
            style("─".repeat(columns - full)).dim(),
            100.0 * share,
            step.epoch,
            start.epochs,
            step.step,
            start.total_steps,
        )
    }

    fn loss(&self, lines: &mut Vec<String>, width: usize) {
        let losses: Vec<f64> = self.history.steps.iter().map(|step| step.loss).collect();
        let columns = width.saturating_sub(10).clamp(10, 100);
        let (rows, low, high) = braille(&losses, columns, ROWS);
        let steps = [self.history.steps.first(), self.history.steps.last()].map(|step| step.map_or(0, |s| s.step));
        lines.push(format!("loss of steps {} to {}, now {:.3}", steps[0], steps[1], losses[losses.len() - 1]));
        for (i, row) in rows.iter().enumerate() {
            let label = match i {
                0 => format!("{high:.3}"),
                _ if i + 1 == ROWS => format!("{low:.3}"),
                _ => String::new(),
            };
            lines.push(format!("{} {}", style(format!("{label:>8}")).dim(), style(row).cyan()));
        }
    }

    /// One line each: what, how much now, and its curve.
    fn numbers(&self, lines: &mut Vec<String>, width: usize) {
        let steps = &self.history.steps;
        let columns = width.saturating_sub(MARGIN).clamp(8, 60);
        let mut line = |name: &str, text: &dyn Fn(f64) -> String, of: &dyn Fn(&Step) -> Option<f64>| {
            let values: Vec<f64> = steps.iter().filter_map(of).collect();
            if let Some(last) = values.last() {
                let curve = style(blocks(&values, columns)).cyan();
                lines.push(format!("{name:<14}{:>11}   {curve}", text(*last)));
            }
        };
        line("logit scale", &|value| format!("{value:.2}"), &|step| Some(step.logit_scale));
        line("learning rate", &|value| format!("{value:.2e}"), &|step| Some(step.lr));
        line("gradient norm", &|value| format!("{value:.3}"), &|step| Some(step.grad_norm));
        line("step", &|value| format!("{value:.3} s"), &|step| Some(step.seconds));
        line("data wait", &|value| format!("{value:.3} s"), &|step| Some(step.data_wait));
        line("clips/s", &|value| format!("{value:.1}"), &|step| {
            (step.seconds > 0.0).then(|| step.clips as f64 / step.seconds)
        });
        line("memory", &|value| format!("{value:.2} GB"), &|step| Some(step.memory? as f64 / 1e9));
        let done = self.history.done();
        lines.push(format!(
            "since the start: {:.1} clips/s, {:.1} % of the time waiting for data",
            done.clips_per_second,
            100.0 * done.data_wait
        ));
    }

    /// The best evaluation and the last one.
    fn evaluations(&self, lines: &mut Vec<String>) {
        let Some(last) = self.history.evals.last() else {
            lines.push("no evaluation yet".to_owned());
            return;
        };
        let name = format!("last, epoch {}", last.epoch);
        let mut columns = vec![(name.as_str(), &last.metrics)];
        let best = self.history.best().map(|best| (format!("best, epoch {}", best.epoch), &best.metrics));
        if let Some((name, metrics)) = &best {
            columns.insert(0, (name, metrics));
        }
        lines.push(String::new());
        lines.extend(table::metrics(&columns).lines().map(str::to_owned));
    }

    fn trouble(&self, lines: &mut Vec<String>) {
        let (warnings, skipped) = (&self.history.warnings, self.history.skipped.len());
        if let Some(last) = warnings.last() {
            lines.push(style(format!("warnings: {}, the last: {last}", warnings.len())).yellow().to_string());
        }
        if skipped > 0 {
            lines.push(style(format!("clips left out: {skipped}")).yellow().to_string());
        }
    }
}

fn ending(ending: Ending) -> &'static str {
    match ending {
        Ending::Unfinished => "not over",
        Ending::Epochs => "over: all epochs are done",
        Ending::Time => "over: the time budget is spent",
        Ending::Requested => "stopped on request",
        Ending::Data => "over: the stream of training clips ended",
    }
}
