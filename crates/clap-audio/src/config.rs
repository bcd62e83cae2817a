//! `preprocessor_config.json` of a Hugging Face CLAP folder.
//!
//! Source: `transformers/models/clap/feature_extraction_clap.py`, `ClapFeatureExtractor.__init__` (4.57.6), whose
//! defaults every missing field takes. Published folders set `frequency_min` to 50: see [`FeatureConfig::published`].

use serde::{Deserialize, Serialize, Serializer};

use crate::decode::MAX_FRAMES;
use crate::error::{Error, Result};
use crate::mel::{MelConfig, MelScale};
use crate::reader::{MAX_SAMPLE_RATE, MIN_SAMPLE_RATE};

/// What happens to a clip that is longer than the window; it also decides the filter bank and the number of views.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Truncation {
    /// Four views: the whole clip shrunk to one window, and three windows of it. HTK bank.
    #[default]
    Fusion,
    /// One view of one window. Slaney bank.
    RandTrunc,
}

/// How a clip shorter than the window is filled up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Padding {
    /// Whole repetitions, then silence.
    #[default]
    RepeatPad,
    /// Repetitions, the last one cut.
    Repeat,
    /// Silence.
    Pad,
}

/// How waveforms become features. Field names and defaults are those of `ClapFeatureExtractor`; unknown fields of a
/// file are left alone.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct FeatureConfig {
    /// Mel bins.
    pub feature_size: usize,
    /// Samples per second.
    pub sampling_rate: u32,
    /// Samples from frame to frame.
    pub hop_length: usize,
    /// Samples per frame.
    pub fft_window_size: usize,
    /// Lower edge of the first mel filter, in Hz.
    pub frequency_min: f64,
    /// Upper edge of the last mel filter, in Hz.
    pub frequency_max: f64,
    /// The window in seconds.
    pub max_length_s: f64,
    /// What happens to longer clips.
    pub truncation: Truncation,
    /// How shorter clips are filled up.
    pub padding: Padding,
    /// Kept for the format; `ClapFeatureExtractor` does not use it either.
    pub top_db: Option<f64>,
    /// Kept for the format; `ClapFeatureExtractor` fills with 0 whatever it says, and so does this crate.
    pub padding_value: f32,
}

impl Default for FeatureConfig {
    fn default() -> Self {
        Self {
            feature_size: 64,
            sampling_rate: 48_000,
            hop_length: 480,
            fft_window_size: 1024,
            frequency_min: 0.0,
            frequency_max: 14_000.0,
            max_length_s: 10.0,
            truncation: Truncation::Fusion,
            padding: Padding::RepeatPad,
            top_db: None,
            padding_value: 0.0,
        }
    }
}

impl FeatureConfig {
    /// What the published checkpoints (laion/clap-htsat-unfused and -fused, larger_clap_*) were trained with: the
    /// defaults with `frequency_min` 50.
    pub fn published(truncation: Truncation) -> Self {
        Self { frequency_min: 50.0, truncation, ..Self::default() }
    }

    /// The most values that the features of one clip may have, 1 GiB as f32: a bound on the memory that a configuration
    /// file can ask for. The published models have 256,256.
    pub const MAX_VALUES: u64 = 1 << 28;

    /// The window in samples.
    pub fn max_samples(&self) -> usize {
        (self.max_length_s * f64::from(self.sampling_rate)).round() as usize
    }

    /// The frames of one window, `max_samples / hop_length + 1`.
    pub fn frames(&self) -> usize {
        self.max_samples() / self.hop_length + 1
    }

    /// Views per clip: 4 with fusion, else 1.
    pub fn views(&self) -> usize {
        match self.truncation {
            Truncation::Fusion => 4,
            Truncation::RandTrunc => 1,
        }
    }

    /// The spectrogram's configuration: HTK filters without norm for fusion, Slaney's with norm otherwise.
    pub fn mel(&self) -> MelConfig {
        let (scale, slaney_norm) = match self.truncation {
            Truncation::Fusion => (MelScale::Htk, false),
            Truncation::RandTrunc => (MelScale::Slaney, true),
        };
        MelConfig {
            sample_rate: self.sampling_rate,
            n_fft: self.fft_window_size,
            hop_length: self.hop_length,
            n_mels: self.feature_size,
            f_min: self.frequency_min,
            f_max: self.frequency_max,
            scale,
            slaney_norm,
        }
    }

    /// Checks that features can be computed.
    ///
    /// # Errors
    /// [`Error::Config`], naming the key.
    pub fn validate(&self) -> Result<()> {
        self.mel().validate()?;
        if !(MIN_SAMPLE_RATE..=MAX_SAMPLE_RATE).contains(&self.sampling_rate) {
            return Err(Error::Config {
                key: "sampling_rate",
                value: self.sampling_rate.to_string(),
                reason: format!("must be within {MIN_SAMPLE_RATE} and {MAX_SAMPLE_RATE}"),
            });
        }
        let samples = self.max_length_s * f64::from(self.sampling_rate);
        if !(samples >= 1.0 && samples <= MAX_FRAMES as f64) {
            return Err(Error::Config {
                key: "max_length_s",
                value: self.max_length_s.to_string(),
                reason: format!("must give between 1 and {MAX_FRAMES} samples at {} Hz", self.sampling_rate),
            });
        }
        // No overflow: each factor was bounded above.
        let values = self.frames() as u64 * self.feature_size as u64 * self.views() as u64;
        if values > Self::MAX_VALUES {
            return Err(Error::Config {
                key: "hop_length",
                value: self.hop_length.to_string(),
                reason: format!(
                    "with max_length_s {} and feature_size {} a clip would have {values} features, {} is the limit",
                    self.max_length_s,
                    self.feature_size,
                    Self::MAX_VALUES
                ),
            });
        }
        Ok(())
    }
}

impl Serialize for FeatureConfig {
    /// Writes the file as `ClapFeatureExtractor.save_pretrained` does, with the derived fields that loaders look for.
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct File {
            feature_extractor_type: &'static str,
            feature_size: usize,
            fft_window_size: usize,
            frequency_max: Number,
            frequency_min: Number,
            hop_length: usize,
            max_length_s: Number,
            nb_frequency_bins: usize,
            nb_max_samples: usize,
            padding: Padding,
            padding_side: &'static str,
            padding_value: f32,
            processor_class: &'static str,
            return_attention_mask: bool,
            sampling_rate: u32,
            top_db: Option<f64>,
            truncation: Truncation,
        }
        File {
            feature_extractor_type: "ClapFeatureExtractor",
            feature_size: self.feature_size,
            fft_window_size: self.fft_window_size,
            frequency_max: Number(self.frequency_max),
            frequency_min: Number(self.frequency_min),
            hop_length: self.hop_length,
            max_length_s: Number(self.max_length_s),
            nb_frequency_bins: self.fft_window_size / 2 + 1,
            nb_max_samples: self.max_samples(),
            padding: self.padding,
            padding_side: "right",
            padding_value: self.padding_value,
            processor_class: "ClapProcessor",
            return_attention_mask: false,
            sampling_rate: self.sampling_rate,
            top_db: self.top_db,
            truncation: self.truncation,
        }
        .serialize(serializer)
    }
}

/// Writes whole numbers as integers: Python multiplies `max_length_s` into an array size, which must not be a float.
struct Number(f64);

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        // Exact in f64 up to 2^53.
        if self.0.fract() == 0.0 && self.0.abs() < 9e15 {
            serializer.serialize_i64(self.0 as i64)
        } else {
            serializer.serialize_f64(self.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_the_class_of_transformers() {
        let config: FeatureConfig = serde_json::from_str("{}").unwrap();
        assert_eq!(config, FeatureConfig::default());
        assert_eq!((config.max_samples(), config.frames(), config.views()), (480_000, 1001, 4));
        assert_eq!(
            (config.frequency_min, config.padding, config.truncation),
            (0.0, Padding::RepeatPad, Truncation::Fusion)
        );
    }

    #[test]
    fn reads_a_published_file_and_ignores_what_it_does_not_know() {
        let text = r#"{"chunk_length_s": 10, "feature_extractor_type": "ClapFeatureExtractor", "feature_size": 64,
            "fft_window_size": 1024, "frequency_max": 14000, "frequency_min": 50, "hop_length": 480, "max_length_s": 10,
            "n_fft": 1024, "padding": "repeatpad", "padding_value": 0.0, "sampling_rate": 48000, "top_db": null,
            "truncation": "rand_trunc"}"#;
        let config: FeatureConfig = serde_json::from_str(text).unwrap();
        assert_eq!(config, FeatureConfig::published(Truncation::RandTrunc));
        assert_eq!((config.mel().scale, config.mel().slaney_norm), (MelScale::Slaney, true));
    }

    #[test]
    fn writes_what_it_reads_with_integers_where_python_needs_them() {
        let config =
            FeatureConfig { max_length_s: 2.56, sampling_rate: 32_000, padding: Padding::Pad, ..Default::default() };
        let json = serde_json::to_value(&config).unwrap();
        assert_eq!(json["frequency_max"].to_string(), "14000");
        assert_eq!(json["max_length_s"].to_string(), "2.56");
        assert_eq!(json["nb_max_samples"], 81_920);
        assert_eq!((json["padding"].as_str(), json["truncation"].as_str()), (Some("pad"), Some("fusion")));
        assert_eq!(serde_json::from_value::<FeatureConfig>(json).unwrap(), config);
        assert_eq!(serde_json::to_value(FeatureConfig::default()).unwrap()["max_length_s"].to_string(), "10");
    }

    fn check_invalid(config: FeatureConfig, key: &str) {
        let error = config.validate().unwrap_err().to_string();
        assert!(error.starts_with(&format!("{key} = ")), "{error}");
    }

    #[test]
    fn nonsense_is_refused_by_key() {
        FeatureConfig::default().validate().unwrap();
        check_invalid(FeatureConfig { sampling_rate: 100, frequency_max: 40.0, ..Default::default() }, "sampling_rate");
        check_invalid(FeatureConfig { hop_length: 0, ..Default::default() }, "hop_length");
        // 2^29 frames of 1024 bins in 4 views: 8 TiB.
        check_invalid(
            FeatureConfig { hop_length: 1, feature_size: 1024, max_length_s: 11_184.0, ..Default::default() },
            "hop_length",
        );
        check_invalid(FeatureConfig { fft_window_size: 1 << 17, ..Default::default() }, "fft_window_size");
        for seconds in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e9] {
            check_invalid(FeatureConfig { max_length_s: seconds, ..Default::default() }, "max_length_s");
        }
        assert!(serde_json::from_str::<FeatureConfig>(r#"{"truncation": "trunc"}"#).is_err());
    }
}
