//! `audio_config`: the audio tower, whichever it is.

use clap_audio::augment::SpecAugment;
use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::{Map, Value};

use super::{FusionType, HtsAtConfig, PannConfig};
use crate::error::Result;

/// Sizes of the audio tower. `model_type` says which tower it is; a file that leaves it out has HTS-AT, as every file of
/// Hugging Face's.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "model_type")]
pub enum AudioConfig {
    /// HTS-AT; `transformers` knows no other.
    #[serde(rename = "clap_audio_model")]
    HtsAt(HtsAtConfig),
    /// A convolutional network of PANNs: an extension of Hugging Face's format, which `transformers` cannot load.
    #[serde(rename = "pann")]
    Pann(PannConfig),
}

impl Default for AudioConfig {
    fn default() -> Self {
        Self::HtsAt(HtsAtConfig::default())
    }
}

impl From<HtsAtConfig> for AudioConfig {
    fn from(config: HtsAtConfig) -> Self {
        Self::HtsAt(config)
    }
}

impl From<PannConfig> for AudioConfig {
    fn from(config: PannConfig) -> Self {
        Self::Pann(config)
    }
}

impl<'de> Deserialize<'de> for AudioConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        // serde's own tagged enums demand the tag, which Hugging Face's older files leave out.
        let mut fields = Map::deserialize(deserializer)?;
        let kind = fields.remove("model_type").unwrap_or(Value::Null);
        let fields = Value::Object(fields);
        match &kind {
            Value::Null => HtsAtConfig::deserialize(fields).map(Self::HtsAt),
            Value::String(name) if name == "clap_audio_model" => HtsAtConfig::deserialize(fields).map(Self::HtsAt),
            Value::String(name) if name == "pann" => PannConfig::deserialize(fields).map(Self::Pann),
            other => {
                return Err(de::Error::custom(format!(
                    "the audio tower's `model_type` is {other}; \"clap_audio_model\" (HTS-AT) and \"pann\" are known"
                )));
            }
        }
        .map_err(de::Error::custom)
    }
}

impl AudioConfig {
    /// Mel bins of the input.
    #[must_use]
    pub fn num_mel_bins(&self) -> usize {
        match self {
            Self::HtsAt(config) => config.num_mel_bins,
            Self::Pann(config) => config.num_mel_bins,
        }
    }

    /// Width of the tower's output.
    #[must_use]
    pub fn hidden_size(&self) -> usize {
        match self {
            Self::HtsAt(config) => config.hidden_size,
            Self::Pann(config) => config.hidden_size,
        }
    }

    /// How views are joined, or `None` where one view is taken.
    #[must_use]
    pub fn fusion(&self) -> Option<FusionType> {
        match self {
            Self::HtsAt(config) => config.fusion(),
            Self::Pann(config) => config.fusion(),
        }
    }

    /// Views of a clip that the tower takes: 1, or 4 with fusion.
    #[must_use]
    pub fn views(&self) -> usize {
        if self.fusion().is_some() { FUSED_VIEWS } else { 1 }
    }

    /// Whether the tower has a tagging head.
    #[must_use]
    pub fn enable_tagging(&self) -> bool {
        match self {
            Self::HtsAt(config) => config.enable_tagging,
            Self::Pann(config) => config.enable_tagging,
        }
    }

    /// Stripes that training drops inside the tower.
    #[must_use]
    pub fn spec_augment(&self) -> Option<SpecAugment> {
        match self {
            Self::HtsAt(config) => config.spec_augment,
            Self::Pann(config) => config.spec_augment,
        }
    }

    /// The fewest frames that the tower takes.
    #[must_use]
    pub fn min_frames(&self) -> usize {
        match self {
            Self::HtsAt(_) => 1,
            Self::Pann(config) => config.min_frames(),
        }
    }

    /// The most frames that the tower takes, or `None` where any number will do.
    #[must_use]
    pub fn max_frames(&self) -> Option<usize> {
        match self {
            Self::HtsAt(config) => Some(config.image_frames()),
            Self::Pann(_) => None,
        }
    }

    pub(super) fn validate(&self) -> Result<()> {
        match self {
            Self::HtsAt(config) => config.validate(),
            Self::Pann(config) => config.validate(),
        }
    }
}

/// Views of a clip that a fused tower takes: the whole of it, and its front, middle and back.
pub(crate) const FUSED_VIEWS: usize = 4;
