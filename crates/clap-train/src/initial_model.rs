//! The model that a run begins with: new, new with trained towers, or another's.

use std::collections::HashSet;
use std::path::Path;

use candle_core::{DType, Device};
use clap_audio::FeatureConfig;
use clap_encoders::checkpoint::Format;
use clap_encoders::{
    AudioTowerFile, ClapConfig, ClapModel, ClapTokenizer, TextConfig, TextModelType, TextTowerFile, TowerReport,
};
use clap_nn::Vars;
use clap_nn::init::seeded_vars;

use crate::config::TrainConfig;
use crate::error::{Error, Result};
use crate::loss::Objective;

/// The parts that a model folder holds, and what is to be told of them.
pub(crate) struct Parts {
    pub(crate) clap_config: ClapConfig,
    pub(crate) features: FeatureConfig,
    pub(crate) tokenizer: ClapTokenizer,
    pub(crate) vars: Vars,
    pub(crate) model: ClapModel,
    /// Names of the variables whose values came from a file.
    pub(crate) pretrained: HashSet<String>,
    pub(crate) initialised: Vec<String>,
    pub(crate) warnings: Vec<String>,
}

/// A model with fresh weights, but for a tower that is given trained ones; the configuration's optional tables are filled in.
pub(crate) fn new_model(config: &mut TrainConfig, device: &Device) -> Result<Parts> {
    let of = |key: &'static str| move |e: clap_encoders::Error| Error::config(key, e.to_string());
    let init_audio = match &config.model.init_audio {
        Some(path) => {
            let path = clap_encoders::locate(path, None).map_err(of("model.init_audio"))?;
            Some(AudioTowerFile::open(&path).map_err(of("model.init_audio"))?)
        }
        None => None,
    };
    let init_text = match &config.model.init_text {
        Some(path) => {
            let path = clap_encoders::locate_text(path).map_err(of("model.init_text"))?;
            Some(TextTowerFile::open(&path).map_err(of("model.init_text"))?)
        }
        None => None,
    };
    let tokenizer = match (&config.data.tokenizer, &init_text) {
        (None, Some(tower)) => tower.tokenizer(None).map_err(of("data.tokenizer"))?,
        (path, _) => tokenizer(path.as_deref().unwrap_or(Path::new("")))?,
    };
    let audio_config = match &init_audio {
        Some(tower) => config.model.audio.clone().unwrap_or_else(|| tower.config.clone()),
        None => config.model.audio.get_or_insert_default().clone(),
    };
    let text_config = match &init_text {
        Some(tower) => trained_text(&tower.config, &tokenizer)?,
        None => {
            let text = config.model.text.get_or_insert_default();
            text.vocab_size = tokenizer.vocab_size();
            text.pad_token_id = tokenizer.pad_id();
            framed(text, &tokenizer)?;
            text.clone()
        }
    };
    let clap_config = ClapConfig {
        text_config,
        audio_config,
        projection_dim: config.model.projection_dim,
        logit_scale_init_value: config.model.logit_scale_init_value,
        ..ClapConfig::default()
    };
    let clap_config = with_heads(clap_config, config);
    let (vars, vb) = seeded_vars(config.seed, device, DType::F32);
    let model = ClapModel::new(&clap_config, vb)?;
    let mut reports = Vec::new();
    if let Some(tower) = init_audio {
        reports.push(tower.fill(&vars).map_err(of("model.init_audio"))?);
    }
    if let Some(tower) = init_text {
        reports.push(tower.fill(&vars).map_err(of("model.init_text"))?);
    }
    let taken = |report: &TowerReport| {
        let names = vars.iter().map(|(name, _)| name);
        names.filter(|name| report.tower.has(name) && !report.fresh.contains(name)).collect::<Vec<_>>()
    };
    let pretrained = reports.iter().flat_map(taken).collect();
    let initialised = reports.iter().map(ToString::to_string).collect();
    let features = config.features.get_or_insert_default().clone();
    Ok(Parts { clap_config, features, tokenizer, vars, model, pretrained, initialised, warnings: Vec::new() })
}

/// What the loss needs beside the towers.
fn with_heads(mut clap_config: ClapConfig, config: &TrainConfig) -> ClapConfig {
    match config.loss.name {
        Objective::Contrastive => {}
        Objective::Mlp => (clap_config.mlp_loss, clap_config.mlp_dropout) = (true, config.loss.mlp_dropout),
        Objective::Sigmoid => {
            clap_config.logit_bias_init_value.get_or_insert(config.model.logit_bias_init_value);
        }
    }
    clap_config
}

/// Whether a variable is there for a loss alone, so that a model trained by another has none.
fn is_of_loss(name: &str) -> bool {
    name == "logit_bias" || ["audio_transform.", "text_transform."].iter().any(|start| name.starts_with(start))
}

fn tokenizer(path: &Path) -> Result<ClapTokenizer> {
    if path.is_dir() { ClapTokenizer::from_folder(path) } else { ClapTokenizer::from_file(path) }.map_err(|e| {
        Error::config("data.tokenizer", format!("cannot be used: {e}. Train one on the captions, or name another"))
    })
}

/// A text tower whose ids of first and last token are the tokenizer's.
fn framed(text: &mut TextConfig, tokenizer: &ClapTokenizer) -> Result<()> {
    if let [first, last] = tokenizer.encode_ids(&[""], 3)?.concat()[..] {
        (text.bos_token_id, text.eos_token_id) = (first, last);
    }
    Ok(())
}

/// The sizes of a trained text tower, checked to be one for the tokenizer.
fn trained_text(tower: &TextConfig, tokenizer: &ClapTokenizer) -> Result<TextConfig> {
    let tokens = tokenizer.vocab_size();
    if tokens > tower.vocab_size {
        let reason = format!("has {tokens} tokens, but the text tower of model.init_text only {}", tower.vocab_size);
        return Err(Error::config("data.tokenizer", reason));
    }
    // What follows a text's last token is nothing to CLIP's causal transformer.
    if tokenizer.pad_id() != tower.pad_token_id && tower.model_type != TextModelType::Clip {
        let (found, own) = (tokenizer.pad_id(), tower.pad_token_id);
        let reason = format!("pads with {found}, but the text tower of model.init_text with {own}; is it the tower's?");
        return Err(Error::config("data.tokenizer", reason));
    }
    let mut text = tower.clone();
    framed(&mut text, tokenizer)?;
    Ok(text)
}

/// A model that starts from the weights of a folder or file, or of a model on the hub.
pub(crate) fn continued(init: &Path, config: &TrainConfig, device: &Device) -> Result<Parts> {
    let opened = clap_encoders::open_model(&clap_encoders::locate(init, None)?)?;
    let loaded = opened.with_tokenizer(config.data.tokenizer.as_deref())?;
    let preset = loaded.preset();
    let (vars, vb) = seeded_vars(config.seed, device, DType::F32);
    let clap_config = with_heads(loaded.config, config);
    let model = ClapModel::new(&clap_config, vb)?;
    let added = loaded.checkpoint.fill(&vars, is_of_loss).map_err(|e| Error::config("model.init", e.to_string()))?;
    let (origin, format) = (loaded.checkpoint.origin(), loaded.checkpoint.format());
    let tensors = vars.len() - added.len();
    let mut initialised = vec![format!("whole model: {tensors} tensors from {origin} ({} layout)", format.name())];
    if !added.is_empty() {
        initialised.push(format!("new, for the loss: {}", added.join(", ")));
    }
    let pretrained = vars.iter().map(|(name, _)| name).filter(|name| !added.contains(name)).collect();
    let warnings = match format {
        Format::Laion if preset != config.preset => vec![format!(
            "preset is {}, but model.init is a file of LAION's, which was trained with {preset}",
            config.preset
        )],
        _ => Vec::new(),
    };
    let (features, tokenizer) = (loaded.features, loaded.tokenizer);
    Ok(Parts { clap_config, features, tokenizer, vars, model, pretrained, initialised, warnings })
}
