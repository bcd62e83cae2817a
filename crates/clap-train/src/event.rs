//! What a run tells while it goes: one event type for the progress bar, the log file, TensorBoard and the report.
//!
//! Events are read back from logs of other versions, too: a field that a log lacks has its default, one that is unknown is
//! passed over.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Metrics by name, as clap-eval names them (`audio_to_text_R@10`, `acc1`, `chance_acc1`, …).
pub type Metrics = BTreeMap<String, f64>;

/// Receives the events of a run and may end it early. The libraries print nothing; a runner prints from here.
pub trait Observer {
    /// Called for every event, in order, from the training thread.
    fn event(&mut self, event: &Event);

    /// Asked after every step: `true` ends the run there, with its last evaluation and checkpoint.
    fn stop_requested(&mut self) -> bool {
        false
    }
}

/// An observer that ignores everything.
impl Observer for () {
    fn event(&mut self, _: &Event) {}
}

/// One event; in `metrics.jsonl` one line with the variant's name as `event`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// Everything is open and checked; training begins.
    Start(Start),
    /// Weights of the model were taken from a file.
    Initialised {
        /// Which, from where, and what was left out.
        message: String,
    },
    /// Something is questionable, but not wrong.
    Warning {
        /// What, and what to do.
        message: String,
    },
    /// A clip was left out; reported once per clip.
    Skipped {
        /// The clip.
        what: String,
        /// Why.
        reason: String,
    },
    /// One optimiser step.
    Step(Step),
    /// One evaluation on the validation clips.
    Eval(Eval),
    /// A checkpoint was written.
    Checkpoint {
        /// Its folder.
        path: PathBuf,
        /// Epoch it ends or is of, counted from 1.
        epoch: u64,
        /// Whether it is the best so far.
        best: bool,
    },
    /// The run is over; when an observer hears of it, its report is written.
    Done(Done),
}

/// What a run consists of.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Start {
    /// The run's folder.
    pub run: PathBuf,
    /// Training clips.
    pub train_clips: usize,
    /// Training clips that `data.exclude` took out.
    pub excluded_clips: usize,
    /// Validation clips; 0 without validation.
    pub valid_clips: usize,
    /// Candidate classes of the zero-shot evaluation.
    pub classes: usize,
    /// Scalars that train.
    pub parameters: usize,
    /// Steps of one epoch.
    pub steps_per_epoch: u64,
    /// Steps of all epochs; a time budget may end the run before.
    pub total_steps: u64,
    /// Epochs at most.
    pub epochs: u64,
    /// Time budget of the whole run.
    pub max_minutes: Option<f64>,
    /// Steps taken before, by a run that goes on.
    pub resumed_at: Option<u64>,
}

/// One optimiser step.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Step {
    /// Steps taken, this one included.
    pub step: u64,
    /// Epoch, counted from 1.
    pub epoch: u64,
    /// Share of the run that is done, by steps or by time, whichever is further.
    pub progress: f64,
    /// Contrastive loss of the batch.
    pub loss: f64,
    /// Temperature factor `exp(logit_scale_a)` that the loss was computed with.
    pub logit_scale: f64,
    /// Learning rate of the step.
    pub lr: f64,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Clips in the batch.
    pub clips: usize,
    /// Duration of the step, the wait for its data included.
    pub seconds: f64,
    /// Time the step waited for its data.
    pub data_wait: f64,
    /// Training clips per second since the start, evaluations left out.
    pub clips_per_second: f64,
    /// Resident memory of the process in bytes, where the system tells it; that of a GPU is not in it.
    pub memory: Option<u64>,
    /// Time since the run began.
    pub elapsed: f64,
    /// Expected time to the end of training.
    pub eta: f64,
}

/// One evaluation.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Eval {
    /// Steps taken before it.
    pub step: u64,
    /// Epochs begun before it; 0 is the untrained model.
    pub epoch: u64,
    /// All metrics.
    pub metrics: Metrics,
    /// Mean of the metrics that `eval.select` names.
    pub selected: f64,
    /// Whether it is the best so far.
    pub best: bool,
    /// Its duration.
    pub seconds: f64,
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// It has not: it goes on, or its process ended without a word. Never logged.
    #[default]
    Unfinished,
    /// All epochs are done.
    Epochs,
    /// The time budget is spent.
    Time,
    /// The observer asked for it.
    Requested,
    /// A stream ended before its epoch did.
    Data,
}

/// The end of a run.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Done {
    /// Why it ended.
    pub ending: Ending,
    /// Steps taken.
    pub steps: u64,
    /// Epochs begun.
    pub epochs: u64,
    /// Training clips seen, repetitions included.
    pub clips_seen: u64,
    /// Training clips per second, evaluations left out.
    pub clips_per_second: f64,
    /// Share of the steps' time that they waited for data, from 0 to 1; more of `data.workers` could win it.
    pub data_wait: f64,
    /// Wall-clock time of the whole run.
    pub elapsed: f64,
    /// Distinct clips that could not be used.
    pub skipped: usize,
    /// The last evaluation; empty without validation.
    pub last: Metrics,
    /// The best evaluation; empty without validation.
    pub best: Metrics,
    /// Epoch of the best evaluation.
    pub best_epoch: u64,
}
