//! The training loop.
//!
//! LAION-CLAP 1.1.7, `training/train.py::train_one_epoch`: set the learning rate, forward in training mode, symmetric
//! contrastive loss, backward, optimiser step, clamp the logit scales to `[0, ln 100]`. Evaluation happens before the first
//! step, every `eval.every` epochs and at the end; each one after the first writes a checkpoint.
//!
//! A run with the same configuration, data and machine gives the same numbers, unless `schedule.max_minutes` bounds it:
//! then the learning rate and the end depend on the clock.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap_data::{Loader, LoaderConfig, Skipped};
use clap_nn::{Checkpoints, Mode};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::collate::{Batch, Item};
use crate::config::TrainConfig;
use crate::error::{Error, Result};
use crate::event::{Done, Ending, Eval, Event, Metrics, Observer, Start, Step};
use crate::grad_cache;
use crate::loss::contrastive;
use crate::report;
use crate::run_folder::RunFolder;
use crate::setup::Setup;
use crate::state::{Position, STATE_FILE, TrainingState};
use crate::train_data::loader_config;

/// Trains and evaluates one model.
#[derive(Debug)]
pub struct Trainer {
    setup: Setup,
    folder: RunFolder,
    position: Position,
    /// Steps that were taken before this process.
    resumed_at: Option<u64>,
    budget: Budget,
    /// When the last checkpoint was written, in seconds of the run.
    saved: f64,
    last: Metrics,
    best: Metrics,
    skipped: HashSet<String>,
}

impl Trainer {
    /// Opens everything the configuration names and makes the run's folder.
    ///
    /// # Errors
    /// Everything that can be known to be wrong before the first step; the folder is made last.
    pub fn new(config: TrainConfig, run: &Path) -> Result<Self> {
        let started = Instant::now();
        let setup = Setup::open(config)?;
        let folder = RunFolder::create(run, &setup.config.to_toml()?)?;
        let budget = Budget::new(started, setup.config.schedule.max_minutes);
        Ok(Self {
            setup,
            folder,
            position: Position::default(),
            resumed_at: None,
            budget,
            saved: 0.0,
            last: Metrics::new(),
            best: Metrics::new(),
            skipped: HashSet::new(),
        })
    }

    /// Goes on with the run at `run` from its latest checkpoint, by its own configuration. On the same machine with as many
    /// threads the steps are those of a run that never stopped, bit for bit, unless `schedule.max_minutes` bounds it.
    ///
    /// # Errors
    /// Where there is no such run or no checkpoint yet, the run is over, another process trains it, or the checkpoint is not
    /// one of its model.
    pub fn resume(run: &Path) -> Result<Self> {
        let started = Instant::now();
        let checkpoint = RunFolder::latest(run);
        let cannot = |reason: &str| Error::State { path: run.to_owned(), reason: reason.to_owned() };
        if !RunFolder::config(run).is_file() {
            return Err(cannot("is no run's folder: it has no config.toml"));
        }
        if !checkpoint.join(STATE_FILE).is_file() {
            return Err(cannot("has no checkpoint to go on from: it stopped before its first one; start it anew"));
        }
        let state = TrainingState::load(&checkpoint.join(STATE_FILE))?;
        let position = state.position;
        let mut setup = Setup::open(TrainConfig::load(&RunFolder::config(run))?)?;
        if position.next(setup.steps_per_epoch).0 >= setup.config.schedule.epochs {
            return Err(cannot("is over: all its epochs are done. A new run may start from its model (model.init)"));
        }
        let budget = Budget::resumed(started, setup.config.schedule.max_minutes, &position);
        if budget.is_spent() {
            return Err(cannot(
                "is over: its schedule.max_minutes are spent. A new run may start from its model (model.init)",
            ));
        }
        setup.restore(&checkpoint, &state.optimizer)?;
        let folder = RunFolder::reopen(run, position.step)?;
        let [best, last] = report::best_and_last(run)?;
        Ok(Self {
            setup,
            folder,
            position,
            resumed_at: Some(position.step),
            budget,
            saved: position.elapsed,
            last,
            best,
            skipped: HashSet::new(),
        })
    }

    /// The opened parts of the run.
    #[must_use]
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// Trains to the end and writes the report. Sets the process's precision of products to the configuration's.
    ///
    /// # Errors
    /// [`Error::Diverged`] where the loss is no number any more, [`Error::BadClip`] with `data.strict`, and whatever the
    /// disk or the device refuses. Checkpoints written before stay.
    pub fn run(mut self, observer: &mut dyn Observer) -> Result<Done> {
        clap_nn::set_matmul_precision(self.setup.matmul_precision);
        self.announce(observer)?;
        if self.resumed_at.is_none() {
            self.evaluate(observer)?;
            self.budget.start_training();
            self.position.training_from = self.budget.training_from;
        }

        let ending = self.train(observer)?;
        if self.position.step == 0 {
            let (clips, skipped) = (self.setup.train.clips(), self.skipped.len());
            return Err(Error::NothingTrained { clips, skipped });
        }

        let done = self.done(ending);
        report::write(self.folder.path(), &self.setup.config, &done)?;
        self.tell(observer, Event::Done(done.clone()))?;
        Ok(done)
    }

    /// All epochs, or as many as the budget and the observer allow, the last evaluation included.
    fn train(&mut self, observer: &mut dyn Observer) -> Result<Ending> {
        let epochs = self.setup.config.schedule.epochs;
        let (first_epoch, first_batch) = self.position.next(self.setup.steps_per_epoch);
        for epoch in first_epoch..epochs {
            let batch = if epoch == first_epoch { first_batch } else { 0 };
            self.position = Position { epoch, batch, ..self.position };
            let mut loader = self.loader(epoch, batch)?;
            for mut batch in loader.by_ref() {
                let started = Instant::now();
                self.skip(observer, std::mem::take(&mut batch.failed))?;
                self.position.batch += 1;
                // One clip has nothing to be told apart from.
                if batch.items.len() >= 2 {
                    self.step(observer, batch.items, batch.waited, started)?;
                }
                let ending = if observer.stop_requested() {
                    Some(Ending::Requested)
                } else {
                    self.budget.is_spent().then_some(Ending::Time)
                };
                if let Some(ending) = ending {
                    self.evaluate(observer)?;
                    return Ok(ending);
                }
                let minutes = (self.budget.elapsed() - self.saved) / 60.0;
                if minutes >= self.setup.config.checkpoint.every_minutes && self.position.step > 0 {
                    let name = format!("step_{}", self.position.step);
                    self.save(observer, &name, epoch + 1, false)?;
                }
            }
            self.skip(observer, loader.leftover())?;
            if self.position.batch < self.setup.steps_per_epoch {
                // What the stream held is used up.
                self.evaluate(observer)?;
                return Ok(Ending::Data);
            }
            let every = self.setup.config.eval.every;
            let due = every > 0 && (epoch + 1).is_multiple_of(every) && self.budget.affords_evaluation();
            if due || epoch + 1 == epochs {
                self.evaluate(observer)?;
            }
        }
        Ok(Ending::Epochs)
    }

    /// One step: forward, loss, backward, update, clamp, log.
    fn step(
        &mut self,
        observer: &mut dyn Observer,
        items: Vec<Item>,
        waited: Duration,
        started: Instant,
    ) -> Result<()> {
        let Setup { config, device, model, tokenizer, extractor, max_tokens, vars, optimizer, schedule, .. } =
            &mut self.setup;
        let step = self.position.step;
        let clips = items.len();
        let batch = Batch::new(items, extractor, tokenizer, *max_tokens, device)?;
        let lr = schedule.lr_within(step, self.budget.fraction());
        let parameters: Vec<_> = vars.trainable().map(|(_, var)| var).collect();
        let checkpoints = Checkpoints::of(&parameters);
        let mut mode = Mode::train(step_rng(config.seed, step));
        let micro_batch = config.optim.micro_batch_size.filter(|size| *size < clips);
        if config.checkpoint_blocks || micro_batch.is_some() {
            mode = mode.checkpointed(&checkpoints);
        }

        // (B, D) each.
        let (audio, text) = match micro_batch {
            Some(size) => grad_cache::embeddings(model, &batch, size, &mut mode)?,
            None => (
                model.audio_embeds_t(&batch.input_features, &batch.is_longer, &mut mode)?,
                model.text_embeds_t(&batch.input_ids, &batch.attention_mask, &mut mode)?,
            ),
        };
        let scale = model.logit_scale_a().exp()?;
        let loss = contrastive(&audio, &text, &scale)?;
        let loss_value = f64::from(loss.to_scalar::<f32>()?);
        if !loss_value.is_finite() {
            return Err(Error::Diverged { step, what: "loss", value: loss_value });
        }
        let grads = checkpoints.backward(&loss)?;
        let grad_norm = optimizer.step(&grads, lr)?;
        if !grad_norm.is_finite() {
            return Err(Error::Diverged { step, what: "gradient norm", value: grad_norm });
        }
        optimizer.clamp_logit_scales()?;

        let untrained = if step == 0 { untrained(&optimizer.without_gradient(&grads)) } else { None };
        let logit_scale = f64::from(scale.to_scalar::<f32>()?);
        let seconds = (started.elapsed() + waited).as_secs_f64();
        self.position.training_seconds += seconds;
        self.position.data_wait += waited.as_secs_f64();
        self.position.step += 1;
        self.position.clips_seen += clips as u64;
        self.position.elapsed = self.budget.elapsed();
        if let Some(message) = untrained {
            self.tell(observer, Event::Warning { message })?;
        }
        let step = Step {
            step: self.position.step,
            epoch: self.position.epoch + 1,
            progress: self.progress(),
            loss: loss_value,
            logit_scale,
            lr,
            grad_norm,
            clips,
            seconds,
            data_wait: waited.as_secs_f64(),
            clips_per_second: self.clips_per_second(),
            elapsed: self.position.elapsed,
            eta: self.eta(),
        };
        self.tell(observer, Event::Step(step))
    }

    /// Measures the model and, once it is trained at all, writes a checkpoint.
    fn evaluate(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let started = Instant::now();
        let trained = self.position.step > 0;
        let mut best = trained;
        let epoch = if trained { self.position.epoch + 1 } else { 0 };
        if let Some(validation) = &self.setup.validation {
            let Setup { model, tokenizer, device, .. } = &self.setup;
            let outcome = validation.run(model, tokenizer, device, &mut |_, _| {})?;
            let metrics = outcome.metrics();
            let selected = mean_of(&metrics, &self.setup.config.eval.select)?;
            best = trained && self.position.best.is_none_or(|before| selected > before);
            if best {
                self.position.best = Some(selected);
                self.best = metrics.clone();
            }
            self.last = metrics.clone();
            self.skip(observer, outcome.skipped)?;
            let eval = Eval {
                step: self.position.step,
                epoch,
                metrics,
                selected,
                best,
                seconds: started.elapsed().as_secs_f64(),
            };
            self.tell(observer, Event::Eval(eval))?;
        }
        if best {
            self.position.best_epoch = epoch;
        }
        if trained {
            self.save(observer, &format!("epoch_{epoch}"), epoch, best)?;
        }
        self.budget.reserve_for_evaluation(started.elapsed());
        Ok(())
    }

    fn save(&mut self, observer: &mut dyn Observer, name: &str, epoch: u64, best: bool) -> Result<()> {
        let Setup { config, clap_config, extractor, tokenizer, vars, optimizer, .. } = &self.setup;
        let state = TrainingState { position: self.position, optimizer: optimizer.state()? };
        let path = self.folder.checkpoint(name, best, config.checkpoint.keep_all, &state, |path| {
            clap_encoders::save_folder(path, clap_config, extractor.config(), &vars.to_tensors(), tokenizer)?;
            Ok(())
        })?;
        self.saved = self.budget.elapsed();
        self.tell(observer, Event::Checkpoint { path, epoch, best })
    }

    /// The batches of an epoch from `batch` on.
    fn loader(&self, epoch: u64, batch: u64) -> Result<Loader<Item>> {
        let collate = Arc::clone(&self.setup.collate);
        let first_batch = usize::try_from(batch).unwrap_or(usize::MAX);
        let config = LoaderConfig { first_batch, ..loader_config(&self.setup.config, epoch) };
        self.setup.train.loader(config, collate)
    }

    /// The first events: what the run is, what is questionable, what the data sets leave out.
    fn announce(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let Setup { config, train, validation, vars, .. } = &self.setup;
        let valid = validation.as_ref().map(|v| v.data());
        let start = Start {
            run: self.folder.path().to_owned(),
            train_clips: train.clips(),
            excluded_clips: train.excluded().map_or(0, |excluded| excluded.removed),
            valid_clips: valid.map_or(0, |data| data.samples.len()),
            classes: valid.map_or(0, |data| data.classes.len()),
            parameters: vars.trainable_elements(),
            steps_per_epoch: self.setup.steps_per_epoch,
            total_steps: self.setup.schedule.total,
            epochs: config.schedule.epochs,
            max_minutes: config.schedule.max_minutes,
            resumed_at: self.resumed_at,
        };
        let skipped = train.skipped().iter().chain(valid.into_iter().flat_map(|data| &data.skipped)).cloned().collect();
        self.tell(observer, Event::Start(start))?;
        for message in self.setup.initialised.clone() {
            self.tell(observer, Event::Initialised { message })?;
        }
        for message in self.setup.warnings.clone() {
            self.tell(observer, Event::Warning { message })?;
        }
        self.skip(observer, skipped)
    }

    /// Reports clips that were left out, each once; the first one is an error where the configuration is strict.
    fn skip(&mut self, observer: &mut dyn Observer, skipped: Vec<Skipped>) -> Result<()> {
        for Skipped { what, reason } in skipped {
            if self.setup.config.data.strict {
                return Err(Error::BadClip { what, reason });
            }
            if self.skipped.insert(what.clone()) {
                self.tell(observer, Event::Skipped { what, reason })?;
            }
        }
        Ok(())
    }

    fn tell(&mut self, observer: &mut dyn Observer, event: Event) -> Result<()> {
        self.folder.log(&event)?;
        observer.event(&event);
        Ok(())
    }

    fn progress(&self) -> f64 {
        let steps = self.position.step as f64 / self.setup.schedule.total as f64;
        steps.max(self.budget.fraction()).min(1.0)
    }

    fn clips_per_second(&self) -> f64 {
        self.position.clips_seen as f64 / self.position.training_seconds.max(1e-9)
    }

    /// Seconds to the end of training: by the mean step, or by the budget where that ends sooner.
    fn eta(&self) -> f64 {
        let step = self.position.training_seconds / self.position.step.max(1) as f64;
        let steps = self.setup.schedule.total.saturating_sub(self.position.step) as f64 * step;
        steps.min(self.budget.remaining())
    }

    fn done(&self, ending: Ending) -> Done {
        Done {
            ending,
            steps: self.position.step,
            epochs: self.position.epoch + 1,
            clips_seen: self.position.clips_seen,
            clips_per_second: self.clips_per_second(),
            data_wait: self.position.data_wait / self.position.training_seconds.max(1e-9),
            elapsed: self.budget.elapsed(),
            skipped: self.skipped.len(),
            last: self.last.clone(),
            best: self.best.clone(),
            best_epoch: self.position.best_epoch,
        }
    }
}

/// The generator of one step's dropout: a function of seed and step, so that nothing has to be saved to continue.
fn step_rng(seed: u64, step: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(step);
    rng
}

/// A warning about parameters that no gradient reaches. `logit_scale_t` is expected: the loss has one temperature.
fn untrained(names: &[&str]) -> Option<String> {
    let names: Vec<&str> = names.iter().copied().filter(|name| *name != "logit_scale_t").collect();
    let first = names.first()?;
    Some(format!("{} parameters receive no gradient and stay as they are, the first: {first}", names.len()))
}

/// Mean of the named metrics.
fn mean_of(metrics: &Metrics, names: &[String]) -> Result<f64> {
    let mut sum = 0.0;
    for name in names {
        sum += metrics.get(name).ok_or_else(|| {
            let known: Vec<&str> = metrics.keys().map(String::as_str).collect();
            Error::config(
                "eval.select",
                format!("names {name}, which this evaluation has not; it has {}", known.join(", ")),
            )
        })?;
    }
    Ok(sum / names.len() as f64)
}

/// The wall clock of a run and how much of it training may use.
#[derive(Debug)]
struct Budget {
    started: Instant,
    /// Seconds that the run took before it was stopped.
    before: f64,
    /// End of the run in seconds from its start; infinite without a bound.
    deadline: f64,
    /// Kept back for the last evaluation, checkpoint and report.
    reserve: f64,
    /// When the first step began.
    training_from: f64,
}

impl Budget {
    fn new(started: Instant, max_minutes: Option<f64>) -> Self {
        let deadline = max_minutes.map_or(f64::INFINITY, |minutes| minutes * 60.0);
        Self { started, before: 0.0, deadline, reserve: 1.0, training_from: 0.0 }
    }

    /// The clock of a run that goes on; the time in which it stood still does not count.
    fn resumed(started: Instant, max_minutes: Option<f64>, position: &Position) -> Self {
        Self { before: position.elapsed, training_from: position.training_from, ..Self::new(started, max_minutes) }
    }

    fn elapsed(&self) -> f64 {
        self.before + self.started.elapsed().as_secs_f64()
    }

    fn start_training(&mut self) {
        self.training_from = self.elapsed();
    }

    /// The next evaluation may well be half as slow again as the last.
    fn reserve_for_evaluation(&mut self, last: Duration) {
        self.reserve = 1.0 + 1.5 * last.as_secs_f64();
    }

    /// Seconds left for training.
    fn remaining(&self) -> f64 {
        (self.deadline - self.reserve - self.elapsed()).max(0.0)
    }

    /// Share of the training time that is spent, from 0 to 1; 0 without a bound.
    fn fraction(&self) -> f64 {
        if self.deadline.is_infinite() {
            return 0.0;
        }
        let whole = self.deadline - self.reserve - self.training_from;
        if whole <= 0.0 { 1.0 } else { ((self.elapsed() - self.training_from) / whole).clamp(0.0, 1.0) }
    }

    /// Whether an evaluation now leaves time for the last one.
    fn affords_evaluation(&self) -> bool {
        self.remaining() > self.reserve
    }

    fn is_spent(&self) -> bool {
        self.remaining() <= 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::RngCore;

    #[test]
    fn the_budget_keeps_time_for_the_last_evaluation() {
        let mut budget = Budget::new(Instant::now(), Some(1.0));
        budget.start_training();
        budget.reserve_for_evaluation(Duration::from_secs(20));
        assert!((budget.remaining() - 29.0).abs() < 0.5 && !budget.is_spent());
        assert!(budget.fraction() < 0.02);
        budget.reserve_for_evaluation(Duration::from_secs(40));
        assert!(budget.is_spent() && budget.fraction() == 1.0);
    }

    #[test]
    fn without_a_bound_time_does_not_count() {
        let budget = Budget::new(Instant::now(), None);
        assert!(!budget.is_spent() && budget.fraction() == 0.0 && budget.remaining().is_infinite());
    }

    #[test]
    fn steps_draw_differently_and_repeatably() {
        let draw = |seed, step| step_rng(seed, step).next_u64();
        assert_eq!(draw(1, 5), draw(1, 5));
        assert_ne!(draw(1, 5), draw(1, 6));
        assert_ne!(draw(1, 5), draw(2, 5));
    }

    #[test]
    fn selection_averages_and_names_what_is_missing() {
        let metrics = Metrics::from([("a".to_owned(), 0.2), ("b".to_owned(), 0.4)]);
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        assert!((mean_of(&metrics, &names(&["a", "b"])).unwrap() - 0.3).abs() < 1e-12);
        let message = mean_of(&metrics, &names(&["c"])).unwrap_err().to_string();
        assert!(message.contains("eval.select") && message.contains("a, b"), "{message}");
    }
}
