//! What a model is made of: towers, sizes, parameters, front end, and where the weights come from.

use std::fmt;
use std::path::Path;

use clap_encoders::checkpoint::Format;
use clap_encoders::{ModelFolder, load_folder, locate};
use serde::Serialize;

use crate::model::model_folder;

/// Endings of weight files.
const WEIGHTS: [&str; 6] = ["safetensors", "pt", "pth", "ckpt", "bin", "th"];

/// True for a folder, a weight file, and what is no file but has the form of a hub id without an ending.
pub(crate) fn is_model(path: &Path) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str());
    path.is_dir()
        || ending.is_some_and(|ending| WEIGHTS.contains(&ending))
        || (!path.exists() && ending.is_none() && path.to_str().is_some_and(clap_encoders::hub::is_id))
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
    /// Opens a model; its weights are not read.
    pub(crate) fn open(path: &Path, revision: Option<&str>) -> anyhow::Result<Self> {
        let folder = load_folder(&locate(&model_folder(path), revision)?)?;
        Ok(Self::of(&path.display().to_string(), &folder)?)
    }

    pub(crate) fn of(name: &str, folder: &ModelFolder) -> clap_encoders::Result<Self> {
        let ModelFolder { config, features, checkpoint, .. } = folder;
        Ok(Self {
            model: name.to_owned(),
            weights: checkpoint.origin().to_owned(),
            layout: match checkpoint.format() {
                Format::HuggingFace => "Hugging Face",
                Format::Laion => "LAION",
            },
            dtype: folder.dtype()?.map_or("unknown", |dtype| dtype.as_str()),
            audio: config.audio_config.to_string(),
            text: config.text_config.to_string(),
            projection_dim: config.projection_dim,
            mlp_loss: config.mlp_loss,
            front_end: format!(
                "{} Hz, {} mel bins from {} to {} Hz, window {} s, hop {}, FFT {}, {:?}",
                features.sampling_rate,
                features.feature_size,
                features.frequency_min,
                features.frequency_max,
                features.max_length_s,
                features.hop_length,
                features.fft_window_size,
                features.truncation,
            ),
            preset: match folder.preset() {
                clap_audio::Preset::Hf => "hf",
                clap_audio::Preset::Laion => "laion",
            },
            parameters: Parameters::of(folder),
        })
    }
}

impl Parameters {
    fn of(folder: &ModelFolder) -> Self {
        let mut sum = Self::default();
        for (key, shape) in folder.checkpoint.weights() {
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
