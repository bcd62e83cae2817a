//! What a model, or a tower by itself, is made of: sizes, parameters, front end, and where the weights come from.

use std::fmt;
use std::path::Path;

use clap_audio::FeatureConfig;
use clap_encoders::checkpoint::Checkpoint;
use clap_encoders::{ModelFolder, Opened, is_weight_file, locate, locate_text};
use serde::Serialize;

use crate::model::model_folder;

/// True for a folder, a weight file, and what is no file but has the form of a hub id without an ending.
pub(crate) fn is_model(path: &Path) -> bool {
    let is_id = || path.extension().is_none() && path.to_str().is_some_and(clap_encoders::hub::is_id);
    path.is_dir() || is_weight_file(path) || (!path.exists() && is_id())
}

/// What was opened, in numbers.
#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum Known {
    Model(ModelInfo),
    Tower(TowerInfo),
}

impl Known {
    /// Opens a model or a tower; its weights are not read.
    pub(crate) fn open(path: &Path, revision: Option<&str>) -> anyhow::Result<Self> {
        let name = path.display().to_string();
        let found = locate(&model_folder(path), revision).or_else(|error| locate_text(path).map_err(|_| error))?;
        Ok(match clap_encoders::open(&found)? {
            Opened::Model(model) => Self::Model(ModelInfo::of(&name, &model)?),
            Opened::Audio(tower) => {
                let front_end = tower.features.as_ref().map(front_end);
                Self::Tower(TowerInfo::of(name, "audio", tower.config.to_string(), front_end, &tower.checkpoint)?)
            }
            Opened::Text(tower) => {
                Self::Tower(TowerInfo::of(name, "text", tower.config.to_string(), None, &tower.checkpoint)?)
            }
        })
    }
}

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Model(info) => info.fmt(f),
            Self::Tower(info) => info.fmt(f),
        }
    }
}

/// A tower by itself, in numbers.
#[derive(Serialize)]
pub(crate) struct TowerInfo {
    model: String,
    weights: String,
    layout: &'static str,
    dtype: &'static str,
    /// `audio` or `text`.
    tower: &'static str,
    sizes: String,
    front_end: Option<String>,
    parameters: usize,
}

impl TowerInfo {
    fn of(
        model: String,
        tower: &'static str,
        sizes: String,
        front_end: Option<String>,
        checkpoint: &Checkpoint,
    ) -> clap_encoders::Result<Self> {
        Ok(Self {
            model,
            weights: checkpoint.origin().to_owned(),
            layout: checkpoint.format().name(),
            dtype: checkpoint.dtype()?.map_or("unknown", |dtype| dtype.as_str()),
            tower,
            sizes,
            front_end,
            parameters: Parameters::of(checkpoint).total,
        })
    }
}

impl fmt::Display for TowerInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.model)?;
        writeln!(f, "  weights     {} ({} layout, {})", self.weights, self.layout, self.dtype)?;
        writeln!(f, "  {:<11} {}", self.tower, self.sizes)?;
        if let Some(front_end) = &self.front_end {
            writeln!(f, "  front end   {front_end}")?;
        }
        writeln!(f, "  parameters  {:>12}", grouped(self.parameters))?;
        writeln!(f, "  one tower: a recipe starts from it by model.init_{}", self.tower)
    }
}

fn front_end(features: &FeatureConfig) -> String {
    format!(
        "{} Hz, {} mel bins from {} to {} Hz, window {} s, hop {}, FFT {}, {:?}",
        features.sampling_rate,
        features.feature_size,
        features.frequency_min,
        features.frequency_max,
        features.max_length_s,
        features.hop_length,
        features.fft_window_size,
        features.truncation,
    )
}

/// A model in numbers.
#[derive(Serialize)]
pub(crate) struct ModelInfo {
    model: String,
    weights: String,
    /// Whose names the weights carry.
    layout: &'static str,
    /// What they are stored in.
    dtype: &'static str,
    audio: String,
    text: String,
    projection_dim: usize,
    /// Second heads of the MLP loss.
    mlp_loss: bool,
    front_end: String,
    preset: &'static str,
    parameters: Parameters,
}

/// Weights, without running statistics and buffers.
#[derive(Default, Serialize)]
struct Parameters {
    audio_model: usize,
    audio_projection: usize,
    text_model: usize,
    text_projection: usize,
    other: usize,
    total: usize,
}

impl ModelInfo {
    pub(crate) fn of<T>(name: &str, folder: &ModelFolder<T>) -> clap_encoders::Result<Self> {
        let ModelFolder { config, features, checkpoint, .. } = folder;
        Ok(Self {
            model: name.to_owned(),
            weights: checkpoint.origin().to_owned(),
            layout: checkpoint.format().name(),
            dtype: checkpoint.dtype()?.map_or("unknown", |dtype| dtype.as_str()),
            audio: config.audio_config.to_string(),
            text: config.text_config.to_string(),
            projection_dim: config.projection_dim,
            mlp_loss: config.mlp_loss,
            front_end: front_end(features),
            preset: match folder.preset() {
                clap_audio::Preset::Hf => "hf",
                clap_audio::Preset::Laion => "laion",
            },
            parameters: Parameters::of(checkpoint),
        })
    }
}

impl Parameters {
    fn of(checkpoint: &Checkpoint) -> Self {
        let mut sum = Self::default();
        for (key, shape) in checkpoint.weights() {
            let count: usize = shape.iter().product();
            let part = match key.split('.').next() {
                Some("audio_model") => &mut sum.audio_model,
                Some("audio_projection") => &mut sum.audio_projection,
                Some("text_model") => &mut sum.text_model,
                Some("text_projection") => &mut sum.text_projection,
                _ => &mut sum.other,
            };
            *part += count;
            sum.total += count;
        }
        sum
    }
}

impl fmt::Display for ModelInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Parameters { audio_model, audio_projection, text_model, text_projection, other, total } = self.parameters;
        writeln!(f, "{}", self.model)?;
        writeln!(f, "  weights     {} ({} layout, {})", self.weights, self.layout, self.dtype)?;
        writeln!(f, "  audio       {}", self.audio)?;
        writeln!(f, "  text        {}", self.text)?;
        let heads = if self.mlp_loss { ", with the second heads of the MLP loss" } else { "" };
        writeln!(f, "  joint space {} wide{heads}", self.projection_dim)?;
        writeln!(f, "  front end   {}, preset {}", self.front_end, self.preset)?;
        writeln!(f, "  parameters  {:>12} in all", grouped(total))?;
        for (count, name) in [
            (audio_model, "audio tower"),
            (audio_projection, "audio projection"),
            (text_model, "text tower"),
            (text_projection, "text projection"),
            (other, "temperatures and second heads"),
        ] {
            writeln!(f, "              {:>12} {name}", grouped(count))?;
        }
        Ok(())
    }
}

/// `27,534,488`.
fn grouped(count: usize) -> String {
    let digits = count.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().filter_map(|group| str::from_utf8(group).ok()).collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_told_from_sounds() {
        for model in [".", "missing/laion.pt", "laion/clap-htsat-unfused"] {
            assert!(is_model(Path::new(model)), "{model}");
        }
        for sound in ["dog.wav", "sounds/dog.flac", "/no/such/file"] {
            assert!(!is_model(Path::new(sound)), "{sound}");
        }
    }

    #[test]
    fn digits_come_in_threes() {
        assert_eq!([0, 12, 1234, 27_534_488].map(grouped), ["0", "12", "1,234", "27,534,488"]);
    }
}
