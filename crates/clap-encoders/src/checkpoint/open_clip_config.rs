//! `open_clip_config.json`, and which of the models that it can describe are models here.
//!
//! Source: mlfoundations/open_clip 89fb801 `audio/config.py`, `audio/tower.py`, `hf_model.py`, `model_configs/CLAP-HTSAT-*.json`.
//! Sizes come from the weights. What no shape tells is read here and must be what a projection here has: two layers with a ReLU
//! between, after the pooled first token.

use std::path::Path;

use clap_audio::{FeatureConfig, Truncation};
use serde::Deserialize;
use serde_json::Value;

use super::Checkpoint;
use crate::config::{AudioConfig, ClapConfig};
use crate::error::{Error, Result};

/// Name of the file.
pub(crate) const OPEN_CLIP_CONFIG: &str = "open_clip_config.json";
/// Names of the weights beside it, best first, and those that training leaves.
pub(crate) const OPEN_CLIP_WEIGHTS: [&str; 4] = [
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
];

#[derive(Deserialize)]
struct File {
    model_cfg: Model,
}

#[derive(Deserialize)]
struct Model {
    embed_dim: usize,
    audio_cfg: Audio,
    #[serde(default)]
    text_cfg: Value,
}

/// `CLIPAudioCfg`.
#[derive(Deserialize)]
#[serde(default)]
struct Audio {
    model_type: String,
    clip_samples: usize,
    sample_rate: u32,
    mel_bins: usize,
    window_size: usize,
    hop_size: usize,
    fmin: f64,
    fmax: f64,
    enable_fusion: bool,
    pre_norm: bool,
    proj_act: String,
}

impl Default for Audio {
    fn default() -> Self {
        Self {
            model_type: "HTSAT".to_owned(),
            clip_samples: 480_000,
            sample_rate: 48_000,
            mel_bins: 64,
            window_size: 1024,
            hop_size: 480,
            fmin: 50.0,
            fmax: 14_000.0,
            enable_fusion: false,
            pre_norm: false,
            proj_act: "gelu".to_owned(),
        }
    }
}

/// Sizes and front end of the model whose weights are `checkpoint`'s.
///
/// # Errors
/// Where the file cannot be read, or describes a model that cannot be expressed here; the key is named.
pub(crate) fn read(path: &Path, checkpoint: &Checkpoint) -> Result<(ClapConfig, FeatureConfig)> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    // Training leaves the inner part alone.
    let File { model_cfg } = match serde_json::from_str(&text) {
        Ok(file) => file,
        Err(e) => File { model_cfg: serde_json::from_str(&text).map_err(|_| Error::json(path)(e))? },
    };
    let Model { embed_dim, audio_cfg, text_cfg } = model_cfg;
    let refuse = |key: &str, found: String, expected: &str| {
        Err(Error::Json {
            path: path.to_owned(),
            reason: format!("`{key}` is {found}; only models with {expected} can be expressed here"),
        })
    };
    if audio_cfg.model_type != "HTSAT" {
        return refuse("audio_cfg.model_type", audio_cfg.model_type, "\"HTSAT\"");
    }
    if audio_cfg.proj_act != "relu" {
        return refuse("audio_cfg.proj_act", audio_cfg.proj_act, "\"relu\"");
    }
    if audio_cfg.pre_norm {
        return refuse("audio_cfg.pre_norm", "true".to_owned(), "false");
    }
    for (key, expected) in [("hf_pooler_type", "cls_pooler"), ("hf_proj_type", "clap_mlp")] {
        if text_cfg["hf_model_name"].is_null() {
            // Its projection is one matrix, where a model here has two layers.
            let expected = "a text tower of `transformers` and an MLP as projection (`hf_proj_type` \"clap_mlp\")";
            return refuse("text_cfg", "open_clip's own text transformer".to_owned(), expected);
        }
        if text_cfg[key] != expected {
            return refuse(&format!("text_cfg.{key}"), text_cfg[key].to_string(), &format!("\"{expected}\""));
        }
    }
    let Some(mut config) = checkpoint.detect_config() else {
        return Err(Error::checkpoint(
            Path::new(checkpoint.origin()),
            "it holds no HTS-AT, no text tower that is known (RoBERTa, BERT), or no projections of two layers each",
        ));
    };
    if config.projection_dim != embed_dim {
        return refuse("embed_dim", embed_dim.to_string(), &format!("the weights' {}", config.projection_dim));
    }
    if let AudioConfig::HtsAt(audio) = &mut config.audio_config {
        audio.drop_path_rate = super::DROP_PATH_RATE;
    }
    if config.audio_config.fusion().is_some() != audio_cfg.enable_fusion {
        let found = audio_cfg.enable_fusion.to_string();
        return refuse("audio_cfg.enable_fusion", found, "what the weights hold of fusion");
    }
    let features = FeatureConfig {
        feature_size: audio_cfg.mel_bins,
        sampling_rate: audio_cfg.sample_rate,
        hop_length: audio_cfg.hop_size,
        fft_window_size: audio_cfg.window_size,
        frequency_min: audio_cfg.fmin,
        frequency_max: audio_cfg.fmax,
        max_length_s: audio_cfg.clip_samples as f64 / f64::from(audio_cfg.sample_rate.max(1)),
        ..FeatureConfig::published(if audio_cfg.enable_fusion { Truncation::Fusion } else { Truncation::RandTrunc })
    };
    features.validate()?;
    Ok((config, features))
}
