//! How far a long piece of work is: a bar, or where nobody watches a line every ten seconds.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::progress::minutes;

/// Time between the lines.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Counts clips, steps or epochs.
pub(crate) struct Counter {
    bar: ProgressBar,
    verb: String,
    unit: &'static str,
    total: u64,
    started: Instant,
    /// What was done before this run; the estimate leaves it out.
    before: Option<u64>,
    last_line: Instant,
}

impl Counter {
    /// For `total` of `unit`; `verb` stands before the numbers.
    pub(crate) fn new(total: usize, unit: &'static str, verb: &str) -> Self {
        let total = total as u64;
        let bar = if std::io::stderr().is_terminal() { ProgressBar::new(total) } else { ProgressBar::hidden() };
        let style = format!("{{bar:24.cyan/dim}} {{prefix}}{{pos}}/{{len}} {unit}  {{msg}}");
        let style = ProgressStyle::with_template(&style).expect("the template is well formed");
        bar.set_style(style.progress_chars("━━─"));
        let verb = if verb.is_empty() { String::new() } else { format!("{verb} ") };
        bar.set_prefix(verb.clone());
        let now = Instant::now();
        Self { bar, verb, unit, total, started: now, before: None, last_line: now }
    }

    /// So many are done; `note` is told with them.
    pub(crate) fn set(&mut self, done: usize, note: &str) {
        let done = done as u64;
        let before = *self.before.get_or_insert(done);
        let rate = (done - before) as f64 / self.started.elapsed().as_secs_f64().max(1e-3);
        let left = match rate {
            0.0 => String::new(),
            rate => {
                let rest = self.total.saturating_sub(done) as f64;
                format!("{rate:.0} {}/s  {} left", self.unit, minutes(rest / rate))
            }
        };
        let text = if note.is_empty() { left } else { format!("{note}  {left}") };
        self.bar.set_position(done);
        self.bar.set_message(text.clone());
        if self.bar.is_hidden() && self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            eprintln!("{}{done}/{} {}  {text}", self.verb, self.total, self.unit);
        }
    }

    /// The total, where it is known only once the work has begun.
    pub(crate) fn of(&mut self, total: u64) {
        self.total = total;
        self.bar.set_length(total);
    }

    pub(crate) fn finish(self) {
        self.bar.finish_and_clear();
    }
}
