//! Supervised fine-tuning: the audio tower, its projection and a head learn to classify together.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use clap_audio::{FeatureExtractor, Features, LongAudio, Preset, Truncation};
use clap_data::{DataSet, Loader, LoaderConfig, Skipped};
use clap_encoders::{ClapModel, features_tensor};
use clap_eval::targets;
use clap_nn::Mode;
use clap_nn::Vars;
use clap_nn::init::seeded_vars;
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Head, ProbeConfig, mixup};
use crate::config::TrainConfig;
use crate::error::{Error, Result};
use crate::initial_model::{Parts, continued};
use crate::optimizer::{Optimizer, OptimizerConfig, Parameter};
use crate::schedule::Schedule;

/// How the tower is trained with the head.
#[derive(Clone, Debug)]
pub struct FineTuneConfig {
    /// The head and its learning rate, passes, batch and seed.
    pub probe: ProbeConfig,
    /// Learning rate of the tower and its projection.
    pub tower_lr: f64,
    /// Steps in which both rates rise.
    pub warmup: u64,
    /// Mix pairs of clips and their classes.
    pub mixup: bool,
    /// Whose front end.
    pub preset: Preset,
    /// Tokenizer of a model that comes without one, which is not used.
    pub tokenizer: Option<PathBuf>,
    /// Threads that decode.
    pub workers: usize,
}

/// A model that is to be fine-tuned, as often as there are folds.
#[derive(Debug)]
pub struct FineTune {
    init: PathBuf,
    device: Device,
    config: FineTuneConfig,
}

/// A tuned tower and its head.
#[derive(Debug)]
pub struct Tuned {
    model: ClapModel,
    head: Head,
    extractor: Arc<FeatureExtractor>,
    device: Device,
    config: FineTuneConfig,
    /// Clips that could not be read in training.
    pub skipped: Vec<Skipped>,
}

/// What a tuned tower makes of held-out clips.
#[derive(Debug)]
pub struct Answers {
    /// Logits `(clips, classes)`.
    pub logits: Tensor,
    /// The classes of each clip.
    pub labels: Vec<Vec<usize>>,
    /// Clips that could not be read.
    pub skipped: Vec<Skipped>,
}

impl FineTune {
    /// From the model at `init`: a folder, a weight file or a hub id.
    ///
    /// # Errors
    /// Where a setting is impossible.
    pub fn new(init: &Path, device: &Device, config: FineTuneConfig) -> Result<Self> {
        config.probe.validate()?;
        if !(config.tower_lr.is_finite() && config.tower_lr > 0.0) {
            return Err(Error::config("probe.tower_lr", "must be a number above 0"));
        }
        Ok(Self { init: init.to_owned(), device: device.clone(), config })
    }

    /// Trains on the clips of `data` that have a class. `progress` is told steps done, their number and the loss of the last one.
    ///
    /// # Errors
    /// Where the model cannot be loaded, no clip has a class, or the loss leaves the numbers.
    pub fn run(&self, data: &DataSet, progress: &mut dyn FnMut(u64, u64, f64)) -> Result<Tuned> {
        let (mut tuned, [tower, head]) = self.start(data.classes.len())?;
        let (data, labels) = with_classes(data);
        let data = Arc::new(data);
        if data.samples.is_empty() {
            return Err(Error::config("data", "has no clip with a class of its list"));
        }
        let FineTuneConfig { probe, tower_lr, warmup, .. } = &self.config;
        let steps = (data.samples.len() as u64).div_ceil(probe.batch_size as u64);
        let schedule = Schedule::cosine(probe.lr, *warmup, steps * probe.epochs);
        let scale = tower_lr / probe.lr;
        let of_tower = tower.trainable().filter(|(name, _)| is_audio(name)).map(Parameter::from);
        let of_tower = of_tower.map(|parameter| Parameter { lr_scale: scale, ..parameter });
        let parameters = of_tower.chain(head.trainable().map(Parameter::from));
        let mut optimizer = Optimizer::new(parameters, OptimizerConfig::default())?;
        let mut step = 0;
        for epoch in 0..probe.epochs {
            for batch in tuned.loader(&data, epoch, Some(probe.seed)) {
                if epoch == 0 {
                    tuned.skipped.extend(batch.failed);
                }
                if batch.items.is_empty() {
                    continue;
                }
                let labels: Vec<Vec<usize>> = batch.indices.iter().map(|&clip| labels[clip].clone()).collect();
                let targets = targets(&labels, data.classes.len(), data.multi_label, &self.device)?;
                let (features, is_longer) = features_tensor(&batch.items, &self.device)?;
                let mut rng = ChaCha8Rng::seed_from_u64(probe.seed);
                rng.set_stream(step + 1);
                let (features, targets) = match self.config.mixup {
                    true => mixup(&features, &targets, &mut rng)?,
                    false => (features, targets),
                };
                let loss = probe.loss.of(&tuned.forward(&features, &is_longer, &mut Mode::train(rng))?, &targets)?;
                let value = f64::from(loss.to_scalar::<f32>()?);
                if !value.is_finite() {
                    return Err(Error::Diverged { step, what: "loss", value });
                }
                optimizer.step(&loss.backward()?, schedule.lr(step))?;
                step += 1;
                progress(step, steps * probe.epochs, value);
            }
        }
        Ok(tuned)
    }

    /// The model as it was, and a new head, both over variables.
    fn start(&self, classes: usize) -> Result<(Tuned, [Vars; 2])> {
        let mut config =
            TrainConfig { preset: self.config.preset, seed: self.config.probe.seed, ..TrainConfig::default() };
        config.data.tokenizer.clone_from(&self.config.tokenizer);
        let Parts { clap_config, features, vars, model, .. } = continued(&self.init, &config, &self.device)?;
        let (head_vars, vb) = seeded_vars(self.config.probe.seed, &self.device, DType::F32);
        let head = Head::new(self.config.probe.head, clap_config.projection_dim, classes, &vb)?;
        let extractor = FeatureExtractor::new(features, self.config.preset).map_err(Error::Features)?;
        let tuned = Tuned {
            model,
            head,
            extractor: Arc::new(extractor),
            device: self.device.clone(),
            config: self.config.clone(),
            skipped: Vec::new(),
        };
        Ok((tuned, [vars, head_vars]))
    }
}

/// Whether a parameter of the model takes part.
fn is_audio(name: &str) -> bool {
    ["audio_model.", "audio_projection."].iter().any(|start| name.starts_with(start))
}

impl Tuned {
    /// The answers for the clips of `data` that have a class.
    ///
    /// # Errors
    /// Where no clip could be read.
    pub fn answers(&self, data: &DataSet, progress: &mut dyn FnMut(usize, usize)) -> Result<Answers> {
        let (data, classes) = with_classes(data);
        let data = Arc::new(data);
        let (mut rows, mut labels, mut skipped) = (Vec::new(), Vec::new(), Vec::new());
        for batch in self.loader(&data, 0, None) {
            skipped.extend(batch.failed);
            if !batch.items.is_empty() {
                let (features, is_longer) = features_tensor(&batch.items, &self.device)?;
                rows.push(self.forward(&features, &is_longer, &mut Mode::eval())?.detach());
                labels.extend(batch.indices.iter().map(|&clip| classes[clip].clone()));
            }
            progress(labels.len() + skipped.len(), data.samples.len());
        }
        if rows.is_empty() {
            let first = skipped.first().map_or_else(String::new, |first| format!("; the first: {first}"));
            return Err(Error::config("data", format!("has no clip with a class that can be read{first}")));
        }
        Ok(Answers { logits: Tensor::cat(&rows, 0)?, labels, skipped })
    }

    fn forward(&self, features: &Tensor, is_longer: &[bool], mode: &mut Mode) -> Result<Tensor> {
        let projected = self.model.audio_projected_t(features, is_longer, mode)?;
        Ok(self.head.forward_t(&projected, mode)?)
    }

    /// The clips' log-mels: shuffled and cut at random with a seed, in order and from the middle without.
    fn loader(&self, data: &Arc<DataSet>, epoch: u64, seed: Option<u64>) -> Loader<Features> {
        let extractor = Arc::clone(&self.extractor);
        let policy = match (extractor.config().truncation, seed) {
            (Truncation::Fusion, _) => LongAudio::Fusion,
            (Truncation::RandTrunc, Some(_)) => LongAudio::Random,
            (Truncation::RandTrunc, None) => LongAudio::Center,
        };
        let loader = LoaderConfig {
            batch_size: self.config.probe.batch_size,
            workers: self.config.workers,
            shuffle: seed.is_some(),
            seed: seed.unwrap_or_default(),
            epoch,
            ..LoaderConfig::default()
        };
        Loader::new(Arc::clone(data), loader, move |sample, rng| -> clap_audio::Result<Features> {
            let wave = sample.audio.load(extractor.config().sampling_rate)?;
            let draws = seed.is_some().then_some(rng as &mut dyn RngCore);
            Ok(extractor.extract(&wave, policy, draws)?.swap_remove(0))
        })
    }
}

/// The clips that have a class, and the classes of each.
fn with_classes(data: &DataSet) -> (DataSet, Vec<Vec<usize>>) {
    let class_of: HashMap<&str, usize> =
        data.classes.iter().enumerate().map(|(class, name)| (name.as_str(), class)).collect();
    let labelled = data.samples.iter().filter_map(|sample| {
        let classes: Vec<usize> =
            sample.labels.iter().filter_map(|label| class_of.get(label.as_str()).copied()).collect();
        (!classes.is_empty()).then(|| (sample.clone(), classes))
    });
    let (samples, labels) = labelled.unzip();
    (DataSet { samples, ..data.clone() }, labels)
}
