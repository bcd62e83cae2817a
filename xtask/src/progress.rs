//! What a person sees while a model trains: one bar, and a line for each evaluation.
//!
//! Where standard error is not a terminal the bar becomes a line every ten seconds.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap_train::event::{Eval, Event, Observer, Start, Step};
use indicatif::{ProgressBar, ProgressStyle};

/// Prints the events of a run to standard error.
pub(crate) struct Progress {
    bar: ProgressBar,
    terminal: bool,
    last_line: Option<Instant>,
    interrupted: Arc<AtomicBool>,
}

/// Time between the lines of a run that nobody watches on a terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// The bar counts thousandths of the run, since a time budget may end it before its last step.
const BAR_LENGTH: u64 = 1000;

impl Progress {
    pub(crate) fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self {
            bar: if terminal { ProgressBar::new(BAR_LENGTH) } else { ProgressBar::hidden() },
            terminal,
            last_line: None,
            interrupted: interrupted(),
        }
    }

    /// A line above the bar.
    fn line(&self, text: &str) {
        if self.terminal {
            self.bar.suspend(|| eprintln!("{text}"));
        } else {
            eprintln!("{text}");
        }
    }

    fn start(&mut self, start: &Start) {
        let valid = match start.valid_clips {
            0 => "no validation".to_owned(),
            n => format!("{n} validation clips, {} classes", start.classes),
        };
        let resumed = start.resumed_at.map_or_else(String::new, |step| format!(" goes on after step {step}"));
        self.line(&format!("run        {}{resumed}", start.run.display()));
        let excluded = match start.excluded_clips {
            0 => String::new(),
            n => format!(" ({n} excluded)"),
        };
        self.line(&format!("data       {} training clips{excluded}, {valid}", start.train_clips));
        let length = match start.max_minutes {
            Some(minutes) => format!("{} epochs or {minutes} minutes, whichever ends first", start.epochs),
            None => format!("{} epochs, {} steps", start.epochs, start.total_steps),
        };
        self.line(&format!("model      {:.2} M trainable parameters; {length}", start.parameters as f64 / 1e6));
        let style = ProgressStyle::with_template("{bar:24.cyan/dim} {msg}").expect("the template is well formed");
        self.bar.set_style(style.progress_chars("━━─"));
    }

    fn step(&mut self, step: &Step) {
        let text = format!(
            "epoch {} step {}  loss {:.3}  scale {:.1}  lr {:.1e}  {:.0} clips/s  {} left",
            step.epoch,
            step.step,
            step.loss,
            step.logit_scale,
            step.lr,
            step.clips_per_second,
            minutes(step.eta),
        );
        self.bar.set_position((step.progress * BAR_LENGTH as f64) as u64);
        self.bar.set_message(text.clone());
        let due = self.last_line.is_none_or(|at| at.elapsed() >= LINE_EVERY);
        if !self.terminal && due {
            self.last_line = Some(Instant::now());
            eprintln!("{:3.0} %  {text}", step.progress * 100.0);
        }
    }

    fn eval(&self, eval: &Eval) {
        let metric = |name: &str| eval.metrics.get(name).map_or_else(|| "–".to_owned(), |value| format!("{value:.3}"));
        self.line(&format!(
            "epoch {:>3}  top-1 {}  macro recall {}  R@10 audio→text {}  text→audio {}  ({:.1} s){}",
            eval.epoch,
            metric("zeroshot_acc1"),
            metric("zeroshot_mean_per_class_recall"),
            metric("audio_to_text_R@10"),
            metric("text_to_audio_R@10"),
            eval.seconds,
            if eval.best { "  best so far" } else { "" },
        ));
    }
}

impl Observer for Progress {
    fn stop_requested(&mut self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    fn event(&mut self, event: &Event) {
        match event {
            Event::Start(start) => self.start(start),
            Event::Initialised { message } => self.line(&format!("weights    {message}")),
            Event::Warning { message } => self.line(&format!("warning: {message}")),
            Event::Skipped { what, reason } => self.line(&format!("skipped {what}: {reason}")),
            Event::Step(step) => self.step(step),
            Event::Eval(eval) => self.eval(eval),
            Event::Checkpoint { .. } => {}
            Event::Done(_) => self.bar.finish_and_clear(),
        }
    }
}

/// Set by the first Ctrl-C, which ends the run with an evaluation and a checkpoint; the second ends the process.
fn interrupted() -> Arc<AtomicBool> {
    let flag = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&flag);
    let installed = ctrlc::set_handler(move || {
        if set.swap(true, Ordering::Relaxed) {
            std::process::abort();
        }
        eprintln!("stopping after this step, with an evaluation and a checkpoint; Ctrl-C again stops at once");
    });
    if let Err(error) = installed {
        tracing::warn!(%error, "Ctrl-C will end the process at once");
    }
    flag
}

/// `3:07` for 187 seconds.
pub(crate) fn minutes(seconds: f64) -> String {
    let seconds = seconds.max(0.0).round() as u64;
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    #[test]
    fn minutes_are_padded() {
        assert_eq!(super::minutes(187.4), "3:07");
        assert_eq!(super::minutes(-1.0), "0:00");
        assert_eq!(super::minutes(3600.0), "60:00");
    }
}
