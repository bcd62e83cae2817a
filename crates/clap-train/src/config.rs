//! What a run is made of: a TOML file in which every key has a default and no key is unknown.
//!
//! The model's towers and the front end use the field names of Hugging Face's `config.json` and
//! `preprocessor_config.json`; the rest uses open_clip's names where it has one. A key is overridden by
//! [`TrainConfig::set`] (`optim.lr=1e-4`). A relative path in a file is meant from the file's folder, in an override from the
//! working directory.

use std::path::{Path, PathBuf};

use clap_audio::{FeatureConfig, Preset};
use clap_data::{Stream, TextAugment};
use clap_encoders::{AudioConfig, TextConfig};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

mod checks;
mod keys;
mod optim;

pub use optim::{GroupConfig, LoraConfig, LossConfig, OptimConfig, ScheduleConfig};

/// Everything a training run depends on; together with the data it determines the run.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Seed of the initial weights, the order of the data, augmentation and dropout.
    pub seed: u64,
    /// `cpu`, `cuda[:N]`, `metal` or `auto`.
    pub device: String,
    /// What the towers' matrix products compute in: `fp32` or `amp_bf16`.
    pub precision: Precision,
    /// The towers' blocks keep their inputs alone and make their activations again in the backward pass: a smaller step at the price of
    /// one more forward pass, with the same gradients ([`clap_nn::checkpoint()`]).
    pub checkpoint_blocks: bool,
    /// The front end's details: `hf` (as `transformers` computes) or `laion` (int16 round trip).
    pub preset: Preset,
    /// Where clips and captions come from.
    pub data: DataConfig,
    /// The model, new or continued.
    pub model: ModelConfig,
    /// The front end, by the names of `preprocessor_config.json`; with `model.init` the folder's own.
    #[serde(serialize_with = "keys::serialize_features")]
    pub features: Option<FeatureConfig>,
    /// Changes made to training clips only.
    pub augment: AugmentConfig,
    /// What is minimised.
    pub loss: LossConfig,
    /// The optimiser, and which parameters it is given.
    pub optim: OptimConfig,
    /// Adapters of low rank in the place of the towers' matrices.
    pub lora: Option<LoraConfig>,
    /// The learning rate over time and the length of the run.
    pub schedule: ScheduleConfig,
    /// Validation and the choice of the best checkpoint.
    pub eval: EvalConfig,
    /// What is kept on disk.
    pub checkpoint: CheckpointConfig,
}

/// Arithmetic of training, by open_clip's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Precision {
    /// `f32` throughout.
    #[default]
    #[serde(rename = "fp32")]
    Fp32,
    /// Operands of matrix products rounded to `bf16`, forward and backward; weights, norms, softmax, loss and optimiser in `f32`
    /// ([`clap_nn::MatmulPrecision::Bf16`]). On devices, and processors with AVX512-BF16; [`Precision::Fp32`] on others, with a warning.
    #[serde(rename = "amp_bf16")]
    AmpBf16,
}

/// `[data]`: clips, captions, batches.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// Training clips: an audiofolder, a table, a folder of shards, a `.tar` or a pattern of them; or a stream of shards, which
    /// is standard input (`-`) or a URL with or without braces (`s3://bucket/train/{0..511}.tar`).
    pub train: PathBuf,
    /// Split of `train`; without one all of it.
    pub train_split: Option<String>,
    /// Training clips to leave out: a list of ids, as `cargo xtask dataset overlap` writes it, of clips that the evaluation has too.
    pub exclude: Option<PathBuf>,
    /// More training clips: the data sets that are learnt from beside `train`.
    pub more: Vec<SourceConfig>,
    /// Validation clips; without a path, and without `holdout`, the run is not evaluated.
    pub valid: Option<PathBuf>,
    /// Share of the training clips that is kept for validation, where `valid` is not set: drawn by `seed`, labels spread evenly.
    pub holdout: f64,
    /// Split of `valid`; without one all of it.
    pub valid_split: Option<String>,
    /// Column of a table that says where a sound is; this and the next three hold for `train` and `valid`, and without them the
    /// usual names are looked for ([`clap_data::Columns`]).
    pub audio_key: Option<String>,
    /// Column of captions.
    pub caption_key: Option<String>,
    /// Column of labels.
    pub label_key: Option<String>,
    /// Character between two cells.
    pub separator: Option<String>,
    /// Table of ids and captions that take the place of the training clips' own; validation keeps its own.
    pub captions: Option<PathBuf>,
    /// Table of ids and captions that join the training clips' own.
    pub more_captions: Option<PathBuf>,
    /// `tokenizer.json` (or a folder with one); with `model.init` or `model.init_text` by default the one that is there.
    pub tokenizer: Option<PathBuf>,
    /// Longest text in tokens, the special ones included; the rest is cut off. Never more than the text tower has
    /// positions for.
    pub max_tokens: usize,
    /// Clips that are compared with each other. Contrastive learning compares within the batch, so this is a hyper-parameter, not only a
    /// size. A step takes one such batch, or `optim.accumulate` of them.
    pub batch_size: usize,
    /// Which texts of training shards are their captions: `none` (`text`), `all` (`text_augment_all`) or `augment_only`
    /// (`text_augment_t5`), as LAION-CLAP's `--text-augment-selection`. Validation clips keep `text`.
    pub text_augment_selection: TextAugment,
    /// Replace words of training captions that say a person's sex: "a man speaks" → "a person speaks". Validation clips keep theirs.
    pub debias: bool,
    /// Captions made of a label; `{label}` is replaced.
    pub templates: Vec<String>,
    /// How often a labelled clip is given a template instead of one of its captions.
    pub template_probability: f64,
    /// Label balancing: clips are drawn in proportion to `count(label)^-balance`; 0 visits each clip once per epoch,
    /// 1 makes all labels equally frequent.
    pub balance: f64,
    /// Memory for decoded clips, in MiB; 0 decodes each time.
    pub cache_mb: u64,
    /// Threads that prepare clips; with 0 the training thread does, between its steps.
    pub workers: usize,
    /// Batches prepared ahead.
    pub prefetch: usize,
    /// Stop at the first clip that cannot be read instead of skipping it.
    pub strict: bool,
    /// Read the shards of `train` from front to back instead of indexing them first, as for standard input and URLs.
    pub stream: bool,
    /// Clips of an epoch of a stream; without it as many as the `sizes.json` beside the shards promises.
    pub samples_per_epoch: Option<u64>,
    /// Clips of a stream that wait, undecoded, to be drawn from.
    pub shuffle_buffer: usize,
    /// Most memory for their bytes, in MiB, and as much again for batches that are being prepared.
    pub buffer_mb: u64,
    /// Shards of a stream read at the same time.
    pub readers: usize,
}

/// `[[data.more]]`: one more data set to learn from; `[[eval.more]]`: one more to be measured on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// Where it is, as `data.train`, but for streams.
    pub path: PathBuf,
    /// Its split; without one all of it.
    pub split: Option<String>,
    /// Table of ids and captions that take the place of its own.
    pub captions: Option<PathBuf>,
    /// Table of ids and captions that join its own.
    pub more_captions: Option<PathBuf>,
}

/// `[model]`: a new model (`projection_dim`, `[model.audio]`, `[model.text]`), of which `init_audio` and `init_text` may give a tower
/// trained weights; or `init`, a model to start from.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// A model whose weights, sizes, front end and tokenizer the run starts from: a Hugging Face CLAP folder, a weight file of
    /// LAION's, a folder of open_clip's, or the id of one on the hub.
    pub init: Option<PathBuf>,
    /// A file or folder whose audio tower a new model's starts from: an HTS-AT or PANN trained on AudioSet, or a CLAP model. The
    /// tower's sizes come from there where `[model.audio]` is left out.
    pub init_audio: Option<PathBuf>,
    /// A folder, or an id on the hub, whose text tower a new model's starts from: BERT, RoBERTa, BART or CLIP of `transformers`, BERT of
    /// sentence-transformers, or a CLAP model. The tower's sizes, and by default the tokenizer, come from there.
    pub init_text: Option<PathBuf>,
    /// Width of the joint space.
    pub projection_dim: usize,
    /// Initial factor of the logits, the temperature's inverse; `1 / 0.07` in the paper, 10 in SigLIP's.
    pub logit_scale_init_value: f64,
    /// Initial bias of the logits, which the sigmoid loss trains.
    pub logit_bias_init_value: f64,
    /// The audio tower, by the names of HF's `ClapAudioConfig`, or of a PANN where `model_type` is `"pann"`.
    pub audio: Option<AudioConfig>,
    /// The text tower, by the names of HF's `ClapTextConfig`; `vocab_size` comes from the tokenizer.
    pub text: Option<TextConfig>,
}

/// `[augment]`: every draw comes from the clip's own generator, so it does not depend on the number of workers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AugmentConfig {
    /// Take a random window of a clip longer than `features.max_length_s` instead of the centre.
    pub random_crop: bool,
    /// Range in decibels of a random gain on the waveform.
    pub gain_db: Option<[f64; 2]>,
}

/// `[eval]`: validation by retrieval and zero-shot classification.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvalConfig {
    /// Epochs between evaluations; 0 evaluates before and after the run only.
    pub every: u64,
    /// Clips per forward pass.
    pub batch_size: usize,
    /// The prompt of zero-shot classification; `{label}` is replaced.
    pub template: String,
    /// The best checkpoint has the greatest mean of these metrics: names of clap-eval's retrieval metrics, and of its
    /// zero-shot metrics with `zeroshot_` in front (`zeroshot_acc1`). With `more` the mean is over all data sets as well.
    pub select: Vec<String>,
    /// More validation clips, beside `data.valid`. Their metrics are called by data set and split, as in LAION's logs:
    /// `audiocaps-val/text_to_audio_R@1`.
    pub more: Vec<SourceConfig>,
}

/// `[checkpoint]`: each evaluation writes one; `best` and `latest` always point at theirs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CheckpointConfig {
    /// Keep the checkpoint of every evaluation, not only the best and the latest.
    pub keep_all: bool,
    /// Minutes of training after which there is a checkpoint to go on from, evaluation or not: what a killed run may lose.
    pub every_minutes: f64,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self { keep_all: false, every_minutes: 10.0 }
    }
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            device: "cpu".to_owned(),
            precision: Precision::Fp32,
            checkpoint_blocks: false,
            preset: Preset::Hf,
            data: DataConfig::default(),
            model: ModelConfig::default(),
            features: None,
            augment: AugmentConfig::default(),
            loss: LossConfig::default(),
            optim: OptimConfig::default(),
            lora: None,
            schedule: ScheduleConfig::default(),
            eval: EvalConfig::default(),
            checkpoint: CheckpointConfig::default(),
        }
    }
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            train: PathBuf::new(),
            train_split: None,
            exclude: None,
            more: Vec::new(),
            valid: None,
            holdout: 0.0,
            valid_split: None,
            audio_key: None,
            caption_key: None,
            label_key: None,
            separator: None,
            captions: None,
            more_captions: None,
            tokenizer: None,
            max_tokens: 77,
            batch_size: 64,
            text_augment_selection: TextAugment::None,
            debias: false,
            templates: vec!["this is a sound of {label}".to_owned()],
            template_probability: 0.0,
            balance: 0.0,
            cache_mb: 1024,
            workers: 2,
            prefetch: 4,
            strict: false,
            stream: false,
            samples_per_epoch: None,
            shuffle_buffer: 512,
            buffer_mb: 2048,
            readers: 1,
        }
    }
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            init: None,
            init_audio: None,
            init_text: None,
            projection_dim: 512,
            logit_scale_init_value: 1.0 / 0.07,
            logit_bias_init_value: -10.0,
            audio: None,
            text: None,
        }
    }
}

impl Default for AugmentConfig {
    fn default() -> Self {
        Self { random_crop: true, gain_db: None }
    }
}

impl Default for EvalConfig {
    fn default() -> Self {
        Self {
            every: 1,
            batch_size: 32,
            template: "this is a sound of {label}".to_owned(),
            select: vec!["audio_to_text_mAP@10".to_owned(), "text_to_audio_mAP@10".to_owned()],
            more: Vec::new(),
        }
    }
}

impl TrainConfig {
    /// Reads a TOML file; keys it leaves out have their defaults, and its relative paths are made absolute.
    ///
    /// # Errors
    /// Where the file cannot be read, is no TOML, has an unknown key (the nearest known one is named) or a value of
    /// another type. The values are judged by [`Self::validate`].
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::io(path, source))?;
        let mut config: Self = keys::parse(&text, &path.display().to_string())?;
        config.resolve_paths(path.parent().unwrap_or(Path::new("")))?;
        Ok(config)
    }

    /// Makes relative paths absolute, as seen from `folder`; without this they are read from the working directory.
    ///
    /// # Errors
    /// Where the working directory is gone.
    pub(crate) fn resolve_paths(&mut self, folder: &Path) -> Result<()> {
        let data = &mut self.data;
        let train = Some(&mut data.train).filter(|train| !Stream::is_needed(train));
        let tables =
            [&mut data.exclude, &mut data.valid, &mut data.captions, &mut data.more_captions, &mut data.tokenizer];
        let more = data.more.iter_mut().chain(&mut self.eval.more).flat_map(|source| {
            [Some(&mut source.path), source.captions.as_mut(), source.more_captions.as_mut()].into_iter().flatten()
        });
        let named = train.into_iter().chain(tables.into_iter().flatten()).chain(more);
        // What does not lie beside the file may be the id of a model on the hub.
        let model = &mut self.model;
        let inits = [&mut model.init, &mut model.init_audio, &mut model.init_text].into_iter().flatten();
        let inits = inits.filter(|init| folder.join(init).exists());
        for path in named.chain(inits).filter(|path| !path.as_os_str().is_empty()) {
            let joined = folder.join(&path);
            *path = std::path::absolute(&joined).map_err(|source| Error::io(&joined, source))?;
        }
        Ok(())
    }

    /// As [`Self::load`], from a string with its paths as they are; `origin` names it in errors.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn parse(text: &str, origin: &str) -> Result<Self> {
        keys::parse(text, origin)
    }

    /// Overrides one key: `optim.lr=1e-4`, `model.audio.depths=[2,2,2]`, `data.train=clips`. The value is TOML, or a plain
    /// string where it is not; an empty value restores the default.
    ///
    /// # Errors
    /// Where there is no `=`, the key is unknown or the value has another type; the configuration is unchanged then.
    pub fn set(&mut self, assignment: &str) -> Result<()> {
        *self = keys::set(self, assignment)?;
        Ok(())
    }

    /// The whole configuration as TOML, defaults included; [`Self::load`] reads it back.
    ///
    /// # Errors
    /// Where a number does not fit TOML.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|e| Error::config("", format!("cannot be written as TOML: {e}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optimizer::Algorithm;

    const RECIPE: &str = r#"
        seed = 7
        [data]
        train = "clips"
        tokenizer = "tokenizer.json"
        batch_size = 16
        [model]
        projection_dim = 128
        [model.audio]
        depths = [2, 2, 2]
        num_attention_heads = [2, 4, 8]
        spec_augment = { time_drop_width = 24 }
        [augment]
        gain_db = [-8, 4]
        [optim]
        lr = 1e-3
    "#;

    fn recipe() -> TrainConfig {
        TrainConfig::parse(RECIPE, "recipe.toml").unwrap()
    }

    fn depths(config: &TrainConfig) -> &[usize] {
        match &config.model.audio {
            Some(AudioConfig::HtsAt(audio)) => &audio.depths,
            other => panic!("no HTS-AT: {other:?}"),
        }
    }

    #[test]
    fn partial_tables_keep_the_other_defaults() {
        let config = recipe();
        config.validate().unwrap();
        assert_eq!((config.seed, config.data.batch_size, config.optim.lr), (7, 16, 1e-3));
        assert_eq!(config.optim.betas, [0.9, 0.999]);
        assert_eq!(depths(&config), [2, 2, 2]);
        let stripes = config.model.audio.as_ref().unwrap().spec_augment().unwrap();
        assert_eq!((stripes.time_drop_width, stripes.freq_drop_width), (24, 8));
        assert_eq!(config.augment.gain_db, Some([-8.0, 4.0]));
    }

    #[test]
    fn the_resolved_configuration_reads_back() {
        let mut config = recipe();
        config.features = Some(FeatureConfig::default());
        let text = config.to_toml().unwrap();
        let again = TrainConfig::parse(&text, "config.toml").unwrap();
        assert_eq!(again.to_toml().unwrap(), text);
    }

    #[test]
    fn overrides_reach_every_kind_of_value() {
        let mut config = recipe();
        for assignment in [
            "seed=3",
            "optim.lr = 2e-4",
            "optim.lr=1",
            "optim.optimizer=adamw",
            "optim.betas=paper",
            "optim.freeze=[\"text\", \"*.bias\"]",
            "optim.groups=[{ parameters = [\"pretrained\"], lr = 1e-5 }]",
            "data.train=some/other clips",
            "model.audio.depths=[2, 6]",
            "model.text.hidden_size=96",
            "features.max_length_s=2",
            "optim.grad_clip_norm=1.0",
            "data.templates=[\"{label}\"]",
            "data.text_augment_selection=augment_only",
            "data.debias=true",
        ] {
            config.set(assignment).unwrap_or_else(|e| panic!("{assignment}: {e}"));
        }
        assert_eq!((config.seed, config.optim.lr, config.optim.optimizer), (3, 1.0, Algorithm::AdamW));
        assert_eq!((config.optim.betas, config.optim.freeze.len()), ([0.99, 0.9], 2));
        assert_eq!(config.optim.groups[0].lr, Some(1e-5));
        assert_eq!(config.data.train, Path::new("some/other clips"));
        assert_eq!(depths(&config), [2, 6]);
        assert_eq!(config.optim.grad_clip_norm, Some(1.0));
        config.set("optim.grad_clip_norm=").unwrap();
        assert_eq!(config.optim.grad_clip_norm, None);
    }

    #[test]
    fn unknown_keys_name_the_nearest() {
        for (text, key, nearest) in [
            ("[optim]\nlrr = 1", "optim.lrr", "optim.lr"),
            ("[model.audio]\ndepth = [2]", "model.audio.depth", "model.audio.depths"),
            ("[features]\nhop = 480", "features.hop", "features.hop_length"),
            ("sed = 1", "sed", "seed"),
            ("[schedul]\nepochs = 1", "schedul", "schedule"),
        ] {
            let message = TrainConfig::parse(text, "a.toml").unwrap_err().to_string();
            assert!(message.contains(&format!("`{key}`")) && message.contains(&format!("`{nearest}`")), "{message}");
            assert!(message.contains("a.toml"), "{message}");
        }
        let message = recipe().set("optim.learning=1").unwrap_err().to_string();
        assert!(message.contains("`optim.learning`") && message.contains("optim."), "{message}");
    }

    #[test]
    fn values_of_another_type_name_the_key() {
        let message = TrainConfig::parse("[optim]\nlr = \"fast\"", "a.toml").unwrap_err().to_string();
        assert!(message.contains("a.toml") && message.contains("lr"), "{message}");
        let mut config = recipe();
        let message = config.set("data.batch_size=many").unwrap_err().to_string();
        assert!(message.contains("data.batch_size"), "{message}");
        assert_eq!(config.data.batch_size, 16);
        assert!(config.set("optim.lr").unwrap_err().to_string().contains("KEY=VALUE"));
        assert!(TrainConfig::parse("[optim\n", "a.toml").unwrap_err().to_string().contains("a.toml"));
    }
}
