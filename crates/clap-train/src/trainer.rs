//! The training loop.
//!
//! LAION-CLAP 1.1.7, `training/train.py::train_one_epoch`: set the learning rate, forward in training mode, symmetric
//! contrastive loss, backward, optimiser step, clamp the logit scales to `[0, ln 100]`. Evaluation happens before the first
//! step, every `eval.every` epochs and at the end; each one after the first writes a checkpoint.
//!
//! A run with the same configuration, data and machine gives the same numbers, unless `schedule.max_minutes` bounds it:
//! then the learning rate and the end depend on the clock.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap_data::{LoadedBatch, Loader, Skipped};

use crate::budget::Budget;
use crate::collate::Item;
use crate::config::TrainConfig;
use crate::distributed::Ranks;
use crate::error::{Error, Result};
use crate::event::{Done, Ending, Eval, Event, Metrics, Observer, Start, Step};
use crate::gradient::Gradient;
use crate::history::History;
use crate::report;
use crate::run_folder::RunFolder;
use crate::setup::Setup;
use crate::state::{Position, STATE_FILE, TrainingState};

/// Trains and evaluates one model.
#[derive(Debug)]
pub struct Trainer {
    setup: Setup,
    /// Where the run is kept; rank 0 alone has it.
    folder: Option<RunFolder>,
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
        Self::new_on(config, run, Ranks::alone())
    }

    /// The same for one of several processes, each of which calls this ([`crate::distributed`]). Rank 0 alone has the folder, tells its
    /// observer what happens and asks it whether to stop.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn new_on(config: TrainConfig, run: &Path, ranks: Ranks) -> Result<Self> {
        let started = Instant::now();
        let setup = Setup::open_on(config, ranks)?;
        let folder = match setup.ranks.is_first() {
            true => Some(RunFolder::create(run, &setup.config.to_toml()?)?),
            false => None,
        };
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
        Self::resume_on(run, Ranks::alone())
    }

    /// The same for one of several processes. As many as before go on as if nothing had been.
    ///
    /// # Errors
    /// As [`Self::resume`].
    pub fn resume_on(run: &Path, ranks: Ranks) -> Result<Self> {
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
        let mut setup = Setup::open_on(TrainConfig::load(&RunFolder::config(run))?, ranks)?;
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
        let (mut folder, [mut best, mut last]) = (None, [Metrics::new(), Metrics::new()]);
        if setup.ranks.is_first() {
            folder = Some(RunFolder::reopen(run, position.step)?);
            [best, last] = History::open(run)?.best_and_last();
        }
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
        let event = Event::Done(done.clone());
        if let Some(folder) = &mut self.folder {
            folder.log(&event)?;
            report::write(folder.path())?;
            observer.event(&event);
        }
        Ok(done)
    }

    /// All epochs, or as many as the budget and the observer allow, the last evaluation included.
    fn train(&mut self, observer: &mut dyn Observer) -> Result<Ending> {
        let epochs = self.setup.config.schedule.epochs;
        let (first_epoch, first_batch) = self.position.next(self.setup.steps_per_epoch);
        for epoch in first_epoch..epochs {
            let batch = if epoch == first_epoch { first_batch } else { 0 };
            self.position = Position { epoch, batch, ..self.position };
            let mut loader = self.setup.loader(epoch, usize::try_from(batch).unwrap_or(usize::MAX))?;
            while let Some(mut batch) = self.next_batch(&mut loader)? {
                let started = Instant::now();
                self.skip(observer, std::mem::take(&mut batch.failed))?;
                self.position.batch += 1;
                if batch.items.len() >= self.setup.fewest() {
                    self.step(observer, batch.items, batch.waited, started)?;
                }
                if let Some(ending) = self.ending(observer)? {
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

    /// The next batch, in which all ranks have as many clips; nothing where one of them has none.
    fn next_batch(&self, loader: &mut Loader<Item>) -> Result<Option<LoadedBatch<Item>>> {
        let mut batch = loader.next();
        let least = self.setup.ranks.least(batch.as_ref().map(|batch| batch.items.len()))?;
        if let (Some(batch), Some(least)) = (&mut batch, least) {
            batch.items.truncate(least);
        }
        Ok(batch.filter(|_| least.is_some()))
    }

    /// Why the run ends here, if it does: rank 0 decides.
    fn ending(&self, observer: &mut dyn Observer) -> Result<Option<Ending>> {
        const REASONS: [Option<Ending>; 3] = [None, Some(Ending::Requested), Some(Ending::Time)];
        let own = match (observer.stop_requested(), self.budget.is_spent()) {
            (true, _) => 1.0,
            (false, true) => 2.0,
            (false, false) => 0.0,
        };
        Ok(REASONS[self.setup.ranks.of_first(own)? as usize])
    }

    /// One step: forward, loss, backward, update, clamp, log.
    fn step(
        &mut self,
        observer: &mut dyn Observer,
        items: Vec<Item>,
        waited: Duration,
        started: Instant,
    ) -> Result<()> {
        let step = self.position.step;
        let clips = items.len();
        let Gradient { grads, loss, logit_scale } = self.setup.gradient(items, step, self.position.epoch)?;
        let time = self.setup.ranks.of_first(self.budget.fraction())?;
        let Setup { schedule, optimizer, lora, .. } = &mut self.setup;
        let lr = schedule.lr_within(step, time);
        let grad_norm = optimizer.step(&grads, lr)?;
        if !grad_norm.is_finite() {
            return Err(Error::Diverged { step, what: "gradient norm", value: grad_norm });
        }
        optimizer.clamp_logit_scales()?;
        if let Some(lora) = lora {
            lora.apply()?;
        }

        let untrained = if step == 0 { untrained(&optimizer.without_gradient(&grads)) } else { None };
        let seconds = (started.elapsed() + waited).as_secs_f64();
        self.position.training_seconds += seconds;
        self.position.data_wait += waited.as_secs_f64();
        self.position.step += 1;
        self.position.clips_seen += (clips * self.setup.ranks.world()) as u64;
        self.position.elapsed = self.budget.elapsed();
        if let Some(message) = untrained {
            self.tell(observer, Event::Warning { message })?;
        }
        let step = Step {
            step: self.position.step,
            epoch: self.position.epoch + 1,
            progress: self.progress(),
            loss,
            logit_scale,
            lr,
            grad_norm,
            clips: clips * self.setup.ranks.world(),
            seconds,
            data_wait: waited.as_secs_f64(),
            clips_per_second: self.clips_per_second(),
            memory: memory_stats::memory_stats().map(|memory| memory.physical_mem as u64),
            elapsed: self.position.elapsed,
            eta: self.eta(),
        };
        self.tell(observer, Event::Step(step))
    }

    /// Measures the model and, once it is trained at all, writes a checkpoint.
    fn evaluate(&mut self, observer: &mut dyn Observer) -> Result<()> {
        if !self.setup.ranks.is_first() {
            return Ok(());
        }
        let started = Instant::now();
        let trained = self.position.step > 0;
        let mut best = trained;
        let epoch = if trained { self.position.epoch + 1 } else { 0 };
        if let Some(validation) = &self.setup.validation {
            let Setup { tokenizer, device, .. } = &self.setup;
            let model = self.setup.inference_model()?;
            let select = &self.setup.config.eval.select;
            let mut outcome = validation.run(&model, tokenizer, device, &mut |_, _| {})?;
            let mut metrics = outcome.metrics();
            let mut selected = mean_of(&metrics, select)?;
            for (name, more) in &self.setup.more_validation {
                let found = more.run(&model, tokenizer, device, &mut |_, _| {})?;
                outcome.skipped.extend(found.skipped.iter().cloned());
                let of_data = found.metrics();
                selected += mean_of(&of_data, select)?;
                metrics.extend(of_data.into_iter().map(|(metric, value)| (format!("{name}/{metric}"), value)));
            }
            selected /= (1 + self.setup.more_validation.len()) as f64;
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
        let Some(folder) = &mut self.folder else { return Ok(()) };
        let Setup { config, clap_config, extractor, tokenizer, vars, optimizer, lora, .. } = &self.setup;
        let state = TrainingState { position: self.position, optimizer: optimizer.state()? };
        let path = folder.checkpoint(name, best, config.checkpoint.keep_all, &state, |path| {
            clap_encoders::save_folder(path, clap_config, extractor.config(), &vars.to_tensors(), tokenizer)?;
            lora.as_ref().map_or(Ok(()), |lora| lora.save(path, config))
        })?;
        self.saved = self.budget.elapsed();
        self.tell(observer, Event::Checkpoint { path, epoch, best })
    }

    /// The first events: what the run is, what is questionable, what the data sets leave out.
    fn announce(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let Setup { config, train, validation, optimizer, .. } = &self.setup;
        let valid = validation.as_ref().map(|v| v.data());
        let start = Start {
            run: self.folder.as_ref().map_or_else(PathBuf::new, |folder| folder.path().to_owned()),
            train_clips: train.clips(),
            excluded_clips: train.excluded().map_or(0, |excluded| excluded.removed),
            valid_clips: valid.map_or(0, |data| data.samples.len()),
            classes: valid.map_or(0, |data| data.classes.len()),
            parameters: optimizer.vars().map(|var| var.elem_count()).sum(),
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
        match &mut self.folder {
            Some(folder) => {
                folder.log(&event)?;
                observer.event(&event);
            }
            // What the first rank does not see of the others.
            None => {
                if let Event::Skipped { what, reason } = event {
                    tracing::warn!(rank = self.setup.ranks.rank(), "skipped {what}: {reason}");
                }
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selection_averages_and_names_what_is_missing() {
        let metrics = Metrics::from([("a".to_owned(), 0.2), ("b".to_owned(), 0.4)]);
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        assert!((mean_of(&metrics, &names(&["a", "b"])).unwrap() - 0.3).abs() < 1e-12);
        let message = mean_of(&metrics, &names(&["c"])).unwrap_err().to_string();
        assert!(message.contains("eval.select") && message.contains("a, b"), "{message}");
    }
}
