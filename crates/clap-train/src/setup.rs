//! Everything a run needs, opened and checked before its first step.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use clap_audio::{FeatureConfig, FeatureExtractor, Truncation};
use clap_data::{Columns, DataSet, OpenOptions, Sample, WaveCache};
use clap_encoders::{ClapConfig, ClapModel, ClapTokenizer};
use clap_eval::{Evaluation, EvaluationConfig};
use clap_nn::{MatmulPrecision, Vars};

use crate::collate::Collate;
use crate::config::{Precision, TrainConfig};
use crate::error::{Error, Result};
use crate::initial_model::{Parts, continued, new_model};
use crate::optimizer::{AdamConfig, Optimizer};
use crate::schedule::Schedule;
use crate::train_data::{TrainData, loader_config};

/// The opened parts of a run. Making one reads the data set's index, not its sounds, and writes nothing.
#[derive(Debug)]
pub struct Setup {
    /// The configuration with every default filled in.
    pub config: TrainConfig,
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
    /// The optimiser over the trainable variables.
    pub optimizer: Optimizer,
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
    pub fn open(mut config: TrainConfig) -> Result<Self> {
        config.validate()?;
        config.resolve_paths(Path::new(""))?;
        check_selection(&config.eval.select)?;
        let device = clap_encoders::device(&config.device)?;
        let matmul_precision = matmul_precision(config.precision, &device)?;
        let train = TrainData::open(&config)?;
        let valid = match &config.data.valid {
            Some(path) => Some(Arc::new(open_valid(path, &config)?)),
            None => None,
        };
        if let Some(valid) = &valid {
            check_measurable(&config.eval.select, valid)?;
        }
        let parts = match config.model.init.clone() {
            Some(init) => continued(&init, &config, &device)?,
            None => new_model(&mut config, &device)?,
        };
        let Parts { clap_config, features, tokenizer, vars, model, initialised, warnings: mut questionable } = parts;
        check_front_end(&clap_config, &features)?;
        let extractor = FeatureExtractor::new(features, config.preset).map_err(Error::Features)?;
        let extractor = Arc::new(extractor);

        let max_tokens = config.data.max_tokens.min(clap_config.text_config.max_tokens());
        let cache = Arc::new(WaveCache::new((config.data.cache_mb as usize).saturating_mul(1 << 20)));
        let collate = Collate::new(&config, Arc::clone(&cache), Arc::clone(&extractor))?;
        let collate = Arc::new(collate.with_phrases(train.phrases()));
        let validation = match valid {
            Some(data) => Some(validation(&config, max_tokens, data, cache, Arc::clone(&extractor))?),
            None => None,
        };
        let steps_per_epoch = train.batches(&loader_config(&config, 0));
        if steps_per_epoch == 0 {
            let clips = train.clips();
            let reason = format!(
                "is {} but there are {clips} training clips; it can be {clips} at most",
                config.data.batch_size
            );
            return Err(Error::config("data.batch_size", reason));
        }
        let schedule = Schedule {
            base_lr: config.optim.lr,
            warmup: config.schedule.warmup,
            total: steps_per_epoch.saturating_mul(config.schedule.epochs),
        };
        let optimizer = Optimizer::new(vars.trainable(), AdamConfig::from(&config.optim))?;
        questionable.extend(warnings(&schedule, validation.as_ref()));
        if let Some(excluded) = train.excluded().filter(|excluded| excluded.removed == 0) {
            questionable
                .push(format!("data.exclude takes out no clip: data.train has none of its {} ids", excluded.listed));
        }
        if config.precision == Precision::AmpBf16 && matmul_precision == MatmulPrecision::Highest {
            let text = "precision is amp_bf16, but this processor has no AVX512-BF16: products are made in f32";
            questionable.push(text.to_owned());
        }
        Ok(Self {
            config,
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
            optimizer,
            schedule,
            steps_per_epoch,
            initialised,
            warnings: questionable,
        })
    }
}

impl Setup {
    /// Takes the weights and the optimiser's memory of a checkpoint.
    ///
    /// # Errors
    /// Where they are those of another model.
    pub(crate) fn restore(&mut self, folder: &Path, optimizer: &HashMap<String, Tensor>) -> Result<()> {
        let other = |reason: String| Error::State { path: folder.to_owned(), reason };
        let stored = clap_encoders::open_model(folder)?.checkpoint.stored_tensors(&self.device)?;
        self.vars.load(&stored).map_err(|e| other(format!("is not of the model that config.toml describes: {e}")))?;
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
fn check_measurable(names: &[String], data: &DataSet) -> Result<()> {
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
            let reason =
                format!("names {name}, but the clips of data.valid have no {lacking}; select by other metrics");
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
fn matmul_precision(precision: Precision, device: &Device) -> Result<MatmulPrecision> {
    match precision {
        Precision::Fp32 => Ok(MatmulPrecision::Highest),
        Precision::AmpBf16 if !device.is_cpu() => {
            Err(Error::config("precision", "is amp_bf16, which is for the CPU alone so far; use fp32 on this device"))
        }
        Precision::AmpBf16 if clap_nn::has_bf16_products() => Ok(MatmulPrecision::Bf16),
        Precision::AmpBf16 => Ok(MatmulPrecision::Highest),
    }
}

fn warnings(schedule: &Schedule, validation: Option<&Evaluation>) -> Vec<String> {
    let mut warnings = Vec::new();
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
