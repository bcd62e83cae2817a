//! The events of a run, read back from its `metrics.jsonl`, while the run goes on or after it.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, Result};
use crate::event::{Done, Eval, Event, Metrics, Start, Step};
use crate::run_folder::RunFolder;

/// What a run's log holds so far.
#[derive(Debug, Default)]
pub struct History {
    log: PathBuf,
    /// Bytes of the log that are taken in.
    read: u64,
    /// The last line of them. Where it does not end there any more, the log was cut back by a run that goes on.
    last_line: Vec<u8>,
    /// Warnings and clips that were told of.
    told: HashSet<String>,
    /// What the run consists of, as its latest process says.
    pub start: Option<Start>,
    /// Every step.
    pub steps: Vec<Step>,
    /// Every evaluation.
    pub evals: Vec<Eval>,
    /// Every warning, once.
    pub warnings: Vec<String>,
    /// Every clip that was left out, once, and why.
    pub skipped: Vec<(String, String)>,
    /// Epoch of the best checkpoint; 0 before there is one.
    pub best_epoch: u64,
    /// Its end, unless it has none yet or went on after it.
    pub ended: Option<Done>,
}

impl History {
    /// Reads the log of the run at `run` to its end.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn open(run: &Path) -> Result<Self> {
        let mut history = Self { log: RunFolder::metrics(run), ..Self::default() };
        history.update()?;
        Ok(history)
    }

    /// Takes in what was logged since; `true` where that is anything. A log that was cut back is read anew.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn update(&mut self) -> Result<bool> {
        let log = self.log.clone();
        self.read_on().map_err(|e| Error::io(&log, e))
    }

    fn read_on(&mut self) -> std::io::Result<bool> {
        let mut file = File::open(&self.log)?;
        let mut news = false;
        if !self.goes_on_in(&mut file)? {
            *self = Self { log: std::mem::take(&mut self.log), ..Self::default() };
            news = true;
        }
        file.seek(SeekFrom::Start(self.read))?;
        let mut reader = BufReader::new(file);
        let mut line = Vec::new();
        // What has no end yet is being written, or was when the process was killed.
        while reader.read_until(b'\n', &mut line)? > 0 && line.ends_with(b"\n") {
            self.read += line.len() as u64;
            if let Some(event) = parse(&line) {
                self.take(event);
            }
            std::mem::swap(&mut self.last_line, &mut line);
            line.clear();
            news = true;
        }
        Ok(news)
    }

    /// Whether the last line taken in is still where it was; lines hold the time, so no other is alike.
    fn goes_on_in(&self, file: &mut File) -> std::io::Result<bool> {
        let length = self.last_line.len();
        if file.metadata()?.len() < self.read {
            return Ok(false);
        }
        file.seek(SeekFrom::Start(self.read - length as u64))?;
        let mut there = Vec::with_capacity(length);
        file.take(length as u64).read_to_end(&mut there)?;
        Ok(there == self.last_line)
    }

    pub(crate) fn take(&mut self, event: Event) {
        match event {
            Event::Start(start) => {
                self.start = Some(start);
                self.ended = None;
            }
            // A process that goes on says these again.
            Event::Warning { message } if self.told.insert(message.clone()) => self.warnings.push(message),
            Event::Skipped { what, reason } if self.told.insert(what.clone()) => self.skipped.push((what, reason)),
            Event::Step(step) => self.steps.push(step),
            Event::Eval(eval) => self.evals.push(eval),
            Event::Checkpoint { epoch, best: true, .. } => self.best_epoch = epoch,
            Event::Done(done) => self.ended = Some(done),
            Event::Initialised { .. } | Event::Warning { .. } | Event::Skipped { .. } | Event::Checkpoint { .. } => {}
        }
    }

    /// The best evaluation.
    #[must_use]
    pub fn best(&self) -> Option<&Eval> {
        self.evals.iter().rfind(|eval| eval.best)
    }

    /// The metrics of the best evaluation and of the last one.
    #[must_use]
    pub fn best_and_last(&self) -> [Metrics; 2] {
        [self.best(), self.evals.last()].map(|eval| eval.map(|eval| eval.metrics.clone()).unwrap_or_default())
    }

    /// The end of the run, or what it would be if the run had ended with the last event of the log.
    #[must_use]
    pub fn done(&self) -> Done {
        if let Some(done) = &self.ended {
            return done.clone();
        }
        let [best, last] = self.best_and_last();
        let sum = |of: fn(&Step) -> f64| self.steps.iter().map(of).sum::<f64>();
        let step = self.steps.last().copied().unwrap_or_default();
        Done {
            steps: step.step,
            epochs: step.epoch,
            clips_seen: self.steps.iter().map(|step| step.clips as u64).sum(),
            clips_per_second: step.clips_per_second,
            data_wait: sum(|step| step.data_wait) / sum(|step| step.seconds).max(1e-9),
            elapsed: step.elapsed,
            skipped: self.skipped.len(),
            last,
            best,
            best_epoch: self.best_epoch,
            ..Done::default()
        }
    }

    /// The most resident memory of any step, in bytes.
    #[must_use]
    pub fn peak_memory(&self) -> Option<u64> {
        self.steps.iter().filter_map(|step| step.memory).max()
    }
}

/// The event of a line; none where it is damaged or of an unknown kind.
fn parse(line: &[u8]) -> Option<Event> {
    serde_json::from_slice(line).ok().or_else(|| {
        // JSON has no number for a metric that is none: null.
        let mut event: HashMap<String, Value> = serde_json::from_slice(line).ok()?;
        for field in event.values_mut() {
            if let Value::Object(metrics) = field {
                metrics.retain(|_, value| !value.is_null());
            }
        }
        event.retain(|_, value| !value.is_null());
        serde_json::from_value(Value::Object(event.into_iter().collect())).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Ending;
    use std::fs::{self, OpenOptions};
    use std::io::Write as _;

    /// A log and what is read of it.
    fn log(text: &str) -> (tempfile::TempDir, History) {
        let run = tempfile::tempdir().unwrap();
        fs::write(RunFolder::metrics(run.path()), text).unwrap();
        let history = History::open(run.path()).unwrap();
        (run, history)
    }

    fn step(step: u64, elapsed: f64) -> String {
        let step = Step { step, elapsed, loss: 1.0 / step as f64, clips: 8, ..Step::default() };
        serde_json::to_string(&Event::Step(step)).unwrap() + "\n"
    }

    fn append(run: &Path, text: &str) {
        let mut file = OpenOptions::new().append(true).open(RunFolder::metrics(run)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn numbers(history: &History) -> Vec<u64> {
        history.steps.iter().map(|step| step.step).collect()
    }

    #[test]
    fn lines_are_taken_in_once_and_whole() {
        let (run, mut history) = log(&step(1, 0.1));
        assert!(!history.update().unwrap());
        let (half, rest) = (&step(2, 0.2)[..20], &step(2, 0.2)[20..]);
        append(run.path(), half);
        assert!(!history.update().unwrap());
        append(run.path(), rest);
        append(run.path(), "{\"event\":\"of a later version\"}\nno JSON\n");
        append(run.path(), &step(3, 0.3));
        assert!(history.update().unwrap() && !history.update().unwrap());
        assert_eq!(numbers(&history), [1, 2, 3]);
        assert_eq!(history.done().clips_seen, 24);
    }

    #[test]
    fn a_log_that_was_cut_back_is_read_anew() {
        let (run, mut history) = log(&[step(1, 0.1), step(2, 0.2), step(3, 0.3)].concat());
        fs::write(RunFolder::metrics(run.path()), step(1, 0.1)).unwrap();
        assert!(history.update().unwrap());
        assert_eq!(numbers(&history), [1]);
        // Cut back and as long again as it was.
        append(run.path(), &[step(2, 0.7), step(3, 0.8)].concat());
        history.update().unwrap();
        fs::write(RunFolder::metrics(run.path()), [step(1, 0.1), step(2, 1.7), step(3, 1.8), step(4, 1.9)].concat())
            .unwrap();
        assert!(history.update().unwrap());
        assert_eq!(numbers(&history), [1, 2, 3, 4]);
        assert_eq!(history.steps[1].elapsed, 1.7);
    }

    #[test]
    fn a_run_that_goes_on_has_not_ended() {
        let done = Event::Done(Done { ending: Ending::Requested, steps: 1, ..Done::default() });
        let done = serde_json::to_string(&done).unwrap() + "\n";
        let (run, mut history) = log(&[step(1, 0.1), done].concat());
        assert_eq!(history.done().ending, Ending::Requested);
        append(run.path(), "{\"event\":\"start\",\"epochs\":3,\"resumed_at\":1}\n");
        history.update().unwrap();
        assert_eq!(history.done().ending, Ending::Unfinished);
        assert_eq!(history.start.as_ref().unwrap().epochs, 3);
    }

    #[test]
    fn logs_of_other_versions_and_odd_numbers_are_read() {
        let (_run, history) = log(concat!(
            "{\"event\":\"step\",\"step\":1,\"loss\":2,\"new\":[1]}\n",
            "{\"event\":\"eval\",\"step\":1,\"metrics\":{\"a\":null,\"b\":0.5},\"selected\":null,\"best\":true}\n",
            "{\"event\":\"warning\",\"message\":\"slow\"}\n{\"event\":\"warning\",\"message\":\"slow\"}\n",
            "{\"event\":\"skipped\",\"what\":\"a\",\"reason\":\"x\"}\n{\"event\":\"skipped\",\"what\":\"a\",\"reason\":\"x\"}\n",
            "{\"event\":\"checkpoint\",\"path\":\"c\",\"epoch\":4,\"best\":true}\n",
        ));
        assert_eq!((history.steps[0].loss, history.steps[0].memory, history.peak_memory()), (2.0, None, None));
        assert_eq!(history.best_and_last(), [Metrics::from([("b".to_owned(), 0.5)]), history.evals[0].metrics.clone()]);
        assert_eq!((history.warnings.len(), history.skipped.len(), history.best_epoch), (1, 1, 4));
    }
}
