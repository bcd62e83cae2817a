//! The model that a run begins with: new, new with trained towers, or another's.

use std::path::Path;

use candle_core::{DType, Device};
use clap_audio::FeatureConfig;
use clap_encoders::checkpoint::Format;
use clap_encoders::{AudioTowerFile, ClapConfig, ClapModel, ClapTokenizer, TextConfig, TextModelType, TextTowerFile};
use clap_nn::Vars;
use clap_nn::init::seeded_vars;

use crate::config::TrainConfig;
use crate::error::{Error, Result};

/// The parts that a model folder holds, and what is to be told of them.
pub(crate) struct Parts {
    pub(crate) clap_config: ClapConfig,
    pub(crate) features: FeatureConfig,
    pub(crate) tokenizer: ClapTokenizer,
    pub(crate) vars: Vars,
    pub(crate) model: ClapModel,
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
    let (vars, vb) = seeded_vars(config.seed, device, DType::F32);
    let model = ClapModel::new(&clap_config, vb)?;
    let mut initialised = Vec::new();
    if let Some(tower) = init_audio {
        initialised.push(tower.fill(&vars).map_err(of("model.init_audio"))?.to_string());
    }
    if let Some(tower) = init_text {
        initialised.push(tower.fill(&vars).map_err(of("model.init_text"))?.to_string());
    }
    let features = config.features.get_or_insert_default().clone();
    Ok(Parts { clap_config, features, tokenizer, vars, model, initialised, warnings: Vec::new() })
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
    let (vars, vb) = seeded_vars(config.seed, device, DType::F32);
    let model = ClapModel::new(&loaded.config, vb)?;
    loaded.checkpoint.fill(&vars).map_err(|e| Error::config("model.init", e.to_string()))?;
    let (tensors, origin, format) = (vars.len(), loaded.checkpoint.origin(), loaded.checkpoint.format());
    let initialised = vec![format!("whole model: {tensors} tensors from {origin} ({} layout)", format.name())];
    let preset = loaded.preset();
    let warnings = match format {
        Format::Laion if preset != config.preset => vec![format!(
            "preset is {}, but model.init is a file of LAION's, which was trained with {preset}",
            config.preset
        )],
        _ => Vec::new(),
    };
    let (clap_config, features, tokenizer) = (loaded.config, loaded.features, loaded.tokenizer);
    Ok(Parts { clap_config, features, tokenizer, vars, model, initialised, warnings })
}
