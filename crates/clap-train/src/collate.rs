//! From a clip to a row of a batch, in the loader's threads.
//!
//! ```text
//! waveform (from the cache) → random window → log-mel views → gain → SpecAugment
//! label or captions → one text
//! ```
//!
//! Every draw comes from the clip's own generator, so a batch is the same whatever the number of workers. The gain is an
//! addition to the log-mel, which is what a factor on the samples does to it; SpecAugment fills with the clip's mean, as it
//! runs before the batch norm that LAION runs it after (fill 0).

use std::sync::Arc;

use candle_core::{Device, Tensor};
use clap_audio::augment::{SpecAugment, gain_log_mel};
use clap_audio::{FeatureExtractor, Features, LongAudio, Truncation};
use clap_data::caption::{self, Template};
use clap_data::{Sample, WaveCache};
use clap_encoders::{ClapTokenizer, features_tensor};
use rand::{Rng, RngCore};
use rand_chacha::ChaCha8Rng;

use crate::config::{AugmentConfig, SpecAugmentConfig, TrainConfig};
use crate::error::{Error, Result};

/// One clip as the model sees it, and one text for it.
#[derive(Clone, Debug)]
pub struct Item {
    /// Log-mel views.
    pub features: Features,
    /// A caption, or a template filled with a label.
    pub text: String,
}

/// Prepares training clips; shared by the loader's threads.
#[derive(Debug)]
pub struct Collate {
    cache: Arc<WaveCache>,
    extractor: Arc<FeatureExtractor>,
    augment: AugmentConfig,
    templates: Vec<Template>,
    template_probability: f64,
}

impl Collate {
    /// A collator with the configuration's augmentation and templates.
    ///
    /// # Errors
    /// Where a template is malformed.
    pub fn new(config: &TrainConfig, cache: Arc<WaveCache>, extractor: Arc<FeatureExtractor>) -> Result<Self> {
        let template = |pattern: &String| {
            caption::template(pattern).map_err(|source| Error::Data { key: "data.templates".to_owned(), source })
        };
        Ok(Self {
            cache,
            extractor,
            augment: config.augment.clone(),
            templates: config.data.templates.iter().map(template).collect::<Result<_>>()?,
            template_probability: config.data.template_probability,
        })
    }

    /// One draw of one clip.
    ///
    /// # Errors
    /// Where the clip cannot be read or has no usable sound; the message names it.
    pub fn item(&self, sample: &Sample, rng: &mut ChaCha8Rng) -> clap_audio::Result<Item> {
        let text = self.text(sample, rng);
        let wave = self.cache.load(&sample.audio, self.extractor.config().sampling_rate)?;
        let draws: Option<&mut dyn RngCore> = if self.augment.random_crop { Some(&mut *rng) } else { None };
        let mut views = self.extractor.extract(&wave, self.policy(), draws)?;
        let mut features = views.swap_remove(0);
        if let Some([low, high]) = self.augment.gain_db {
            gain_log_mel(&mut features.data, rng.random_range(low..=high) as f32);
        }
        if let Some(stripes) = self.augment.spec_augment {
            let fill = features.data.iter().sum::<f32>() / features.data.len() as f32;
            SpecAugment::from(stripes).apply_views(&mut features.data, features.views, features.bins, fill, rng);
        }
        Ok(Item { features, text })
    }

    /// How a clip longer than a window becomes one window (or four views).
    fn policy(&self) -> LongAudio {
        match (self.extractor.config().truncation, self.augment.random_crop) {
            (Truncation::Fusion, _) => LongAudio::Fusion,
            (Truncation::RandTrunc, true) => LongAudio::Random,
            (Truncation::RandTrunc, false) => LongAudio::Center,
        }
    }

    /// A template with one of the labels, with the configured probability; otherwise one of the captions.
    fn text(&self, sample: &Sample, rng: &mut ChaCha8Rng) -> String {
        // Drawn for every clip, so that the draws after it do not depend on the labels.
        let wants_template = rng.random_bool(self.template_probability);
        if wants_template && let Some(label) = caption::draw(&sample.labels, rng) {
            let template = &self.templates[rng.random_range(0..self.templates.len())];
            return template.fill(&caption::readable(label));
        }
        caption::draw(&sample.captions, rng).unwrap_or_default().to_owned()
    }
}

impl From<SpecAugmentConfig> for SpecAugment {
    fn from(config: SpecAugmentConfig) -> Self {
        let SpecAugmentConfig { time_drop_width, time_stripes, freq_drop_width, freq_stripes } = config;
        Self { time_drop_width, time_stripes, freq_drop_width, freq_stripes }
    }
}

/// What the model takes: `B` clips and `B` texts.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Log-mel views `(B, views, frames, bins)`.
    pub input_features: Tensor,
    /// Whether each clip is longer than the window, `B` flags.
    pub is_longer: Vec<bool>,
    /// Token ids `(B, T)`, padded to the longest text.
    pub input_ids: Tensor,
    /// 1 for a token, 0 for padding, `(B, T)`.
    pub attention_mask: Tensor,
}

impl Batch {
    /// Stacks items and tokenises their texts.
    ///
    /// # Errors
    /// Where there are no items, their shapes differ or the tokenizer fails.
    pub fn new(
        items: Vec<Item>,
        extractor: &FeatureExtractor,
        tokenizer: &ClapTokenizer,
        max_tokens: usize,
        device: &Device,
    ) -> Result<Self> {
        let (mut features, texts): (Vec<Features>, Vec<String>) =
            items.into_iter().map(|item| (item.features, item.text)).unzip();
        extractor.flag_batch(&mut features);
        let (input_features, is_longer) = features_tensor(&features, device)?;
        let (input_ids, attention_mask) = tokenizer.encode(&texts, max_tokens)?;
        Ok(Self {
            input_features,
            is_longer,
            input_ids: input_ids.to_device(device)?,
            attention_mask: attention_mask.to_device(device)?,
        })
    }
}
