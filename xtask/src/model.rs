//! Finding and loading the model that the arguments mean.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use clap_audio::LongAudio;
use clap_encoders::{Clap, EmbedOptions, KeyReport, LoadOptions};
use clap_train::{RunFolder, TrainConfig};

use crate::args;
use crate::exit::{Exit, failure};

/// A loaded model and the name that results call it by.
pub(crate) struct Loaded {
    pub(crate) model: Clap,
    pub(crate) name: String,
    /// What it was trained with, where it is a run of ours.
    pub(crate) run: Option<TrainConfig>,
}

/// Loads the model of `args`, by default the best checkpoint of the last run.
pub(crate) fn load(args: &args::Model) -> anyhow::Result<Loaded> {
    if matches!(args.long_audio, Some(args::LongAudio::Vote)) {
        let text = "--long-audio vote is for eval, where the windows of a clip vote for its class; take windows here";
        return Err(failure(Exit::Usage, text));
    }
    let name = match &args.model {
        Some(model) => model.clone(),
        None => last_run()?.display().to_string(),
    };
    let path = Path::new(&name);
    let run = run_config(path)?;
    let trained_with = run.as_ref().map(|config| config.preset);
    let device = clap_encoders::device(&args.device)?;
    let dtype = on_this_processor(clap_encoders::dtype(&args.dtype)?, &device);
    let options = LoadOptions {
        device,
        preset: args.preset.map(Into::into).or(trained_with),
        dtype,
        revision: args.revision.revision.clone(),
        allow_missing: args.allow_missing,
        tokenizer: args.tokenizer.clone(),
    };
    let model = Clap::from_pretrained(model_folder(path), &options)?;
    warn(&name, model.load_report());
    if matches!(args.long_audio, Some(args::LongAudio::Fusion)) && model.extractor().views() == 1 {
        let text = "--long-audio fusion needs a fused model, and this one is not; use windows, head, center or random";
        return Err(failure(Exit::Usage, text));
    }
    let options = EmbedOptions {
        long_audio: args.long_audio.map(Into::into),
        // Only the policy that is random by name draws.
        seed: matches!(args.long_audio, Some(args::LongAudio::Random)).then_some(args.seed),
        ..EmbedOptions::default()
    };
    Ok(Loaded { model: model.with_options(options), name, run })
}

/// The type that weights are loaded in. On a CPU that multiplies `bf16`, these are `f32`: products round them, and all else stays in `f32`,
/// which is more exact than weights of `bf16` and, unlike them, fast.
fn on_this_processor(dtype: DType, device: &Device) -> DType {
    if dtype == DType::BF16 && device.is_cpu() && clap_nn::has_bf16_products() {
        clap_nn::set_matmul_precision(clap_nn::MatmulPrecision::Bf16);
        return DType::F32;
    }
    dtype
}

/// The configuration of the run at `path`, if a run is there.
fn run_config(path: &Path) -> anyhow::Result<Option<TrainConfig>> {
    let config = RunFolder::config(path);
    Ok(if RunFolder::best(path).is_dir() && config.is_file() { Some(TrainConfig::load(&config)?) } else { None })
}

/// Says what a weight file lacked and what it had too much.
pub(crate) fn warn(name: &str, report: &KeyReport) {
    if !report.is_clean() {
        eprintln!("{name}: weights that are missing have initial values, those that are unexpected were left out");
        eprintln!("{report}");
    }
}

/// A run folder stands for its best checkpoint; anything else is a model folder or a hub id already.
pub(crate) fn model_folder(path: &Path) -> PathBuf {
    let best = RunFolder::best(path);
    if best.is_dir() { best } else { path.to_owned() }
}

/// The run with the newest checkpoint.
fn last_run() -> anyhow::Result<PathBuf> {
    let runs = crate::runs();
    let none = || {
        failure(
            Exit::Model,
            format!(
                "there is no run in {} yet; train one with `cargo xtask train`, or name a model with --model",
                runs.display()
            ),
        )
    };
    crate::newest_run(RunFolder::best).ok_or_else(none)
}

impl From<args::Preset> for clap_audio::Preset {
    fn from(preset: args::Preset) -> Self {
        match preset {
            args::Preset::Hf => Self::Hf,
            args::Preset::Laion => Self::Laion,
        }
    }
}

impl From<args::LongAudio> for LongAudio {
    fn from(policy: args::LongAudio) -> Self {
        match policy {
            args::LongAudio::Windows | args::LongAudio::Vote => Self::Windows { hop_s: None },
            args::LongAudio::Head => Self::Head,
            args::LongAudio::Center => Self::Center,
            args::LongAudio::Fusion => Self::Fusion,
            args::LongAudio::Random => Self::Random,
        }
    }
}
