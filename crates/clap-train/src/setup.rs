//! Everything a run needs, opened and checked before its first step.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use clap_audio::{FeatureConfig, FeatureExtractor, Truncation};
use clap_data::{Columns, DataSet, Loader, LoaderConfig, OpenOptions, Sample, WaveCache};
use clap_encoders::{ClapConfig, ClapModel, ClapTokenizer};
use clap_eval::{Evaluation, EvaluationConfig};
use clap_nn::{MatmulPrecision, Vars};

use crate::collate::{Collate, Item};
use crate::config::{Precision, ScheduleConfig, TrainConfig};
use crate::distributed::Ranks;
use crate::error::{Error, Result};
use crate::groups::{self, Frozen, Groups};
use crate::initial_model::{Parts, continued, new_model};
use crate::lora::Lora;
use crate::loss::Loss;
use crate::optimizer::{Optimizer, OptimizerConfig};
use crate::schedule::{Schedule, Shape};
use crate::train_data::{TrainData, loader_config, open_more_valid};

/// The opened parts of a run. Making one reads the data set's index, not its sounds, and writes nothing.
#[derive(Debug)]
pub struct Setup {
    /// The configuration with every default filled in.
    pub config: TrainConfig,
    /// The processes that train together.
    pub ranks: Ranks,
    /// Where tensors live.
    pub device: Device,
    /// What the CPU's matrix products are made in.
    pub matmul_precision: MatmulPrecision,
    /// The model's sizes, as its `config.json` will have them.
    pub clap_config: ClapConfig,
    /// Every variable of the model by its checkpoint name.
    pub vars: Vars,
    /// The model over these variables.
    pub model: Arc<ClapModel>,
    /// Text to tokens.
    pub tokenizer: ClapTokenizer,
    /// Waveform to log-mel views.
    pub extractor: Arc<FeatureExtractor>,
    /// The training clips.
    pub train: TrainData,
    /// Clip to batch row.
    pub collate: Arc<Collate>,
    /// Longest text: `data.max_tokens`, or fewer where the text tower has no more positions.
    pub max_tokens: usize,
    /// The validation clips, if any.
    pub validation: Option<Evaluation>,
    /// Further validation clips, by the name that their metrics begin with.
    pub more_validation: Vec<(String, Evaluation)>,
    /// What is minimised.
    pub loss: Loss,
    /// The optimiser over the variables that train.
    pub optimizer: Optimizer,
    /// The adapters that stand for matrices, where there are any.
    pub lora: Option<Lora>,
    /// Towers that do not train at all.
    pub frozen: Frozen,
    /// The learning rate.
    pub schedule: Schedule,
    /// Steps of one epoch.
    pub steps_per_epoch: u64,
    /// What the model's weights were taken from, where they are not all new.
    pub initialised: Vec<String>,
    /// What is questionable about the configuration.
    pub warnings: Vec<String>,
}

impl Setup {
    /// Opens and checks everything.
    ///
    /// # Errors
    /// Naming the key, file or value at fault: see [`Error`].
    pub fn open(config: TrainConfig) -> Result<Self> {
        Self::open_on(config, Ranks::alone())
    }

    /// The same for one of several processes: `data.batch_size` is each one's.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_on(mut config: TrainConfig, ranks: Ranks) -> Result<Self> {
        config.validate()?;
        config.resolve_paths(Path::new(""))?;
        check_selection(&config.eval.select)?;
        let device = clap_encoders::device(&config.device)?;
        let matmul_precision = matmul_precision(config.precision, &device);
        let (train, held_out) = TrainData::open(&config)?;
        let valid = match &config.data.valid {
            Some(path) => Some(open_valid(path, &config)?),
            None => held_out,
        };
        let valid = valid.map(Arc::new);
        if let Some(valid) = &valid {
            check_measurable("data.valid", &config.eval.select, valid)?;
        }
        let more_valid = open_more_valid(&config)?;
        for data in &more_valid {
            check_measurable("eval.more", &config.eval.select, data)?;
        }
        if valid.is_none() && !more_valid.is_empty() {
            return Err(Error::config("eval.more", "is given without data.valid; name the first data set there"));
        }
        let parts = match config.model.init.clone() {
            Some(init) => continued(&init, &config, &device)?,
            None => new_model(&mut config, &device)?,
        };
        let Parts { clap_config, features, tokenizer, vars, model, pretrained, initialised, .. } = parts;
        let mut questionable = parts.warnings;
        check_front_end(&clap_config, &features)?;
        let extractor = FeatureExtractor::new(features, config.preset).map_err(Error::Features)?;
        let extractor = Arc::new(extractor);

        let max_tokens = config.data.max_tokens.min(clap_config.text_config.max_tokens());
        let cache = Arc::new(WaveCache::new((config.data.cache_mb as usize).saturating_mul(1 << 20)));
        let collate = Collate::new(&config, Arc::clone(&cache), Arc::clone(&extractor))?;
        let collate = Arc::new(collate.with_phrases(train.phrases()));
        let evaluation = |data| validation(&config, max_tokens, data, Arc::clone(&cache), Arc::clone(&extractor));
        let validation = valid.map(evaluation).transpose()?;
        let mut more_validation = Vec::new();
        for data in more_valid {
            let name = format!("{}-{}", data.name, data.split);
            if more_validation.iter().any(|(known, _)| *known == name) {
                return Err(Error::config(
                    "eval.more",
                    format!("names {name} twice: their metrics would be called alike"),
                ));
            }
            more_validation.push((name, evaluation(Arc::new(data))?));
        }
        let steps_per_epoch = train.batches(&loader_config(&config, &ranks, 0));
        if steps_per_epoch == 0 {
            let clips = train.clips();
            let reason = format!(
                "is {}{} but there are {clips} training clips; a step can take {clips} at most",
                config.data.batch_size,
                if config.optim.accumulate > 1 {
                    format!(" x {} (optim.accumulate)", config.optim.accumulate)
                } else {
                    String::new()
                },
            );
            return Err(Error::config("data.batch_size", reason));
        }
        let schedule = schedule(&config, steps_per_epoch)?;
        let lora = match &config.lora {
            Some(lora) => {
                let chosen = |name: &str| lora.parameters.iter().any(|p| groups::matches(p, name, &pretrained));
                Some(Lora::new(lora, &vars, chosen, config.seed)?)
            }
            None => None,
        };
        let groups = Groups::new(&vars, &pretrained, &config.optim, lora.as_ref())?;
        let frozen = groups.frozen_towers();
        let optimizer = Optimizer::new(groups.trained, OptimizerConfig::from(&config.optim))?;
        questionable.extend(warnings(&config, &schedule, validation.as_ref()));
        if let Some(excluded) = train.excluded().filter(|excluded| excluded.removed == 0) {
            questionable
                .push(format!("data.exclude takes out no clip: data.train has none of its {} ids", excluded.listed));
        }
        if config.precision == Precision::AmpBf16 && matmul_precision == MatmulPrecision::Highest {
            let text = "precision is amp_bf16, but this processor has no AVX512-BF16: products are made in f32";
            questionable.push(text.to_owned());
        }
        let loss = Loss::from(&config.loss);
        Ok(Self {
            config,
            ranks,
            device,
            matmul_precision,
            clap_config,
            vars,
            model: Arc::new(model),
            tokenizer,
            extractor,
            train,
            collate,
            max_tokens,
            validation,
            more_validation,
            loss,
            optimizer,
            lora,
            frozen,
            schedule,
            steps_per_epoch,
            initialised,
            warnings: questionable,
        })
    }
}

impl Setup {
    /// The model over the same values, which tensor operations do not keep a graph for: what an evaluation computes is free again at once.
    ///
    /// # Errors
    /// Outside a bug, none.
    pub fn inference_model(&self) -> Result<ClapModel> {
        let vb = VarBuilder::from_tensors(self.vars.to_tensors(), DType::F32, &self.device);
        Ok(ClapModel::new(&self.clap_config, vb)?)
    }

    /// The clips of `epoch` (from 0), divided into what a step takes, from step `first` of it on.
    ///
    /// # Errors
    /// Where a stream cannot be read.
    pub fn loader(&self, epoch: u64, first: usize) -> Result<Loader<Item>> {
        let config = LoaderConfig { first_batch: first, ..loader_config(&self.config, &self.ranks, epoch) };
        self.train.loader(config, Arc::clone(&self.collate))
    }

    /// Takes the weights and the optimiser's memory of a checkpoint.
    ///
    /// # Errors
    /// Where they are those of another model.
    pub(crate) fn restore(&mut self, folder: &Path, optimizer: &HashMap<String, Tensor>) -> Result<()> {
        let other = |reason: String| Error::State { path: folder.to_owned(), reason };
        let stored = clap_encoders::open_model(folder)?.checkpoint.stored_tensors(&self.device)?;
        self.vars.load(&stored).map_err(|e| other(format!("is not of the model that config.toml describes: {e}")))?;
        if let Some(lora) = &self.lora {
            lora.restore(folder)?;
        }
        self.optimizer.load_state(optimizer).map_err(|e| other(e.to_string()))
    }
}

/// The validation clips: measured by the captions that are theirs.
fn open_valid(path: &Path, config: &TrainConfig) -> Result<DataSet> {
    let options = OpenOptions { split: config.data.valid_split.clone(), ..open_options(config)? };
    open_data("data.valid", path, &options)
}

/// What holds for all clips.
pub(crate) fn open_options(config: &TrainConfig) -> Result<OpenOptions> {
    let data = &config.data;
    let separator = data.separator.as_deref().map(Columns::parse_separator).transpose();
    let columns = Columns {
        audio: data.audio_key.clone(),
        caption: data.caption_key.clone(),
        label: data.label_key.clone(),
        separator: separator.map_err(|e| Error::config("data.separator", e.to_string()))?,
    };
    Ok(OpenOptions { strict: data.strict, columns, ..OpenOptions::default() })
}

fn open_data(key: &str, path: &Path, options: &OpenOptions) -> Result<DataSet> {
    clap_data::open(path, options).map_err(|source| Error::Data { key: key.to_owned(), source })
}

/// Validation as inference does it, with the configuration's prompt.
fn validation(
    config: &TrainConfig,
    max_tokens: usize,
    data: Arc<DataSet>,
    cache: Arc<WaveCache>,
    extractor: Arc<FeatureExtractor>,
) -> Result<Evaluation> {
    let evaluation = EvaluationConfig {
        templates: vec![config.eval.template.clone()],
        max_tokens,
        batch_size: config.eval.batch_size,
        workers: config.data.workers,
        prefetch: config.data.prefetch,
        ..EvaluationConfig::default()
    };
    Evaluation::new(data, cache, extractor, evaluation).map_err(|e| Error::config("eval.template", e.to_string()))
}

/// Every metric that chooses the best checkpoint has to be one.
fn check_selection(names: &[String]) -> Result<()> {
    let known = clap_eval::metric_names();
    match names.iter().find(|name| !known.contains(name)) {
        None => Ok(()),
        Some(name) => {
            let reason = format!("names {name}, which is no metric; there are {}", known.join(", "));
            Err(Error::config("eval.select", reason))
        }
    }
}

/// The validation clips have to be such that every selecting metric can be measured.
fn check_measurable(key: &str, names: &[String], data: &DataSet) -> Result<()> {
    let classified = |s: &Sample| s.labels.iter().any(|label| data.classes.contains(label));
    let (captions, labels) = (data.samples.iter().any(|s| !s.captions.is_empty()), data.samples.iter().any(classified));
    for name in names {
        let of_several =
            ["zeroshot_map", "zeroshot_mauc", "zeroshot_acc", "zeroshot_chance_map"].contains(&name.as_str());
        let (measurable, lacking) = match name.starts_with("zeroshot_") {
            true if data.multi_label && !of_several => (false, "single labels (take zeroshot_map)"),
            true if !data.multi_label && of_several => (false, "several labels each (take zeroshot_acc1)"),
            true => (labels, "labels among the classes"),
            false => (captions, "captions"),
        };
        if !measurable {
            let reason = format!("names {name}, but the clips of {key} have no {lacking}; select by other metrics");
            return Err(Error::config("eval.select", reason));
        }
    }
    Ok(())
}

/// The front end and the audio tower have to agree.
fn check_front_end(model: &ClapConfig, features: &FeatureConfig) -> Result<()> {
    let audio = &model.audio_config;
    if features.feature_size != audio.num_mel_bins() {
        let reason = format!("is {}, but model.audio.num_mel_bins is {}", features.feature_size, audio.num_mel_bins());
        return Err(Error::config("features.feature_size", reason));
    }
    let fuses = audio.fusion().is_some();
    if (features.truncation == Truncation::Fusion) != fuses {
        let reason = format!(
            "is {:?}, but model.audio.enable_fusion is {fuses}; \"fusion\" goes with true, \"rand_trunc\" with false",
            features.truncation
        );
        return Err(Error::config("features.truncation", reason));
    }
    let (frames, fewest) = (features.frames(), audio.min_frames());
    if let Some(most) = audio.max_frames().filter(|&most| frames > most) {
        let reason = format!(
            "is {} s, {frames} frames, but the tower's image (model.audio.spec_size) holds {most}",
            features.max_length_s
        );
        return Err(Error::config("features.max_length_s", reason));
    }
    if frames < fewest {
        let reason = format!(
            "is {} s, {frames} frames, but the tower (model.audio.pooled_blocks) takes {fewest} at least",
            features.max_length_s
        );
        return Err(Error::config("features.max_length_s", reason));
    }
    Ok(())
}

/// What a precision means on a device.
fn matmul_precision(precision: Precision, device: &Device) -> MatmulPrecision {
    match precision {
        Precision::AmpBf16 if !device.is_cpu() || clap_nn::has_bf16_products() => MatmulPrecision::Bf16,
        Precision::Fp32 | Precision::AmpBf16 => MatmulPrecision::Highest,
    }
}

/// The schedule of a run of so many steps.
fn schedule(config: &TrainConfig, steps_per_epoch: u64) -> Result<Schedule> {
    let ScheduleConfig { name: shape, warmup, decay, epochs, .. } = config.schedule;
    let total = steps_per_epoch.saturating_mul(epochs);
    let falls_from = (1.0 - decay) * total as f64;
    if shape == Shape::Wsd && warmup as f64 > falls_from {
        let reason =
            format!("is {decay}: the rate falls from step {falls_from:.0} of {total}, but the warm-up takes {warmup}");
        return Err(Error::config("schedule.decay", reason));
    }
    Ok(Schedule { shape, base_lr: config.optim.lr, warmup, total, decay })
}

fn warnings(config: &TrainConfig, schedule: &Schedule, validation: Option<&Evaluation>) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(after) = config.optim.freeze_text_after.filter(|after| *after >= config.schedule.epochs) {
        warnings.push(format!("optim.freeze_text_after is {after}, but the run has {} epochs", config.schedule.epochs));
    }
    if schedule.warmup >= schedule.total {
        warnings.push(format!(
            "schedule.warmup is {} steps, but the run has {}: the learning rate never reaches optim.lr",
            schedule.warmup, schedule.total
        ));
    }
    match validation {
        None => warnings
            .push("data.valid is not set: the run is not evaluated, and the best checkpoint is the last".to_owned()),
        Some(validation) if validation.data().samples.len() < 2 => {
            warnings.push("data.valid has one clip: retrieval among one says nothing".to_owned());
        }
        Some(_) => {}
    }
    warnings
}
