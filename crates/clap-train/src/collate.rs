//! From a clip to a row of a batch, in the loader's threads.
//!
//! ```text
//! waveform (from the cache) → random window → log-mel views → gain
//! label or captions → one text
//! ```
//!
//! Every draw comes from the clip's own generator, so a batch is the same whatever the number of workers. The gain is an
//! addition to the log-mel, which is what a factor on the samples does to it. SpecAugment is the audio tower's
//! (`model.audio.spec_augment`), behind its first batch norm.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use clap_audio::augment::gain_log_mel;
use clap_audio::{FeatureExtractor, Features, LongAudio, Truncation};
use clap_data::caption::{self, Template};
use clap_data::{Sample, WaveCache};
use clap_encoders::{ClapTokenizer, features_tensor};
use rand::{Rng, RngCore};
use rand_chacha::ChaCha8Rng;

use crate::config::{AugmentConfig, TrainConfig};
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
    /// How labels are said where that is not their name with spaces for underscores.
    phrases: BTreeMap<String, String>,
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
            phrases: BTreeMap::new(),
        })
    }

    /// Fills templates with a data set's own wording of its labels ([`clap_data::DataSet::phrases`]).
    #[must_use]
    pub fn with_phrases(mut self, phrases: BTreeMap<String, String>) -> Self {
        self.phrases = phrases;
        self
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
            return match self.phrases.get(label) {
                Some(phrase) => template.fill(phrase),
                None => template.fill(&caption::readable(label)),
            };
        }
        caption::draw(&sample.captions, rng).unwrap_or_default().to_owned()
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap_audio::{FeatureConfig, Preset};
    use clap_data::{AudioSource, DataSet, Loader, LoaderConfig};
    use rand::SeedableRng;

    /// A one-second clip with a label and two captions, and a collator under the given overrides.
    fn bench(overrides: &[&str]) -> (tempfile::TempDir, Sample, Collate) {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("clip.wav");
        let spec = hound::WavSpec {
            channels: 1,
            sample_rate: 8000,
            bits_per_sample: 16,
            sample_format: hound::SampleFormat::Int,
        };
        let mut file = hound::WavWriter::create(&path, spec).unwrap();
        for i in 0..8000i32 {
            file.write_sample((i * i % 20_011 - 10_000) as i16).unwrap();
        }
        file.finalize().unwrap();
        let sample = Sample {
            id: "clip".to_owned(),
            audio: AudioSource::File(path),
            captions: vec!["first".to_owned(), "second".to_owned()],
            labels: vec!["big_dog".to_owned()],
            meta: serde_json::Value::Null,
        };
        let mut config = TrainConfig::default();
        for assignment in overrides {
            config.set(assignment).unwrap();
        }
        let features = FeatureConfig {
            sampling_rate: 8000,
            hop_length: 80,
            fft_window_size: 256,
            frequency_max: 4000.0,
            feature_size: 16,
            max_length_s: 0.5,
            truncation: Truncation::RandTrunc,
            ..FeatureConfig::default()
        };
        let extractor = FeatureExtractor::new(features, Preset::Hf).unwrap();
        let collate = Collate::new(&config, Arc::new(WaveCache::new(1 << 20)), Arc::new(extractor)).unwrap();
        (temp, sample, collate)
    }

    fn items(sample: &Sample, collate: &Collate, draws: u64) -> Vec<Item> {
        (0..draws).map(|seed| collate.item(sample, &mut ChaCha8Rng::seed_from_u64(seed)).unwrap()).collect()
    }

    fn mean(item: &Item) -> f32 {
        item.features.data.iter().sum::<f32>() / item.features.data.len() as f32
    }

    #[test]
    fn templates_come_up_as_often_as_asked() {
        let count = |overrides: &[&str], text: &str| {
            let (_temp, sample, collate) = bench(overrides);
            items(&sample, &collate, 200).iter().filter(|item| item.text == text).count()
        };
        assert_eq!(count(&["data.template_probability=1"], "this is a sound of big dog"), 200);
        assert_eq!(count(&["data.template_probability=0"], "this is a sound of big dog"), 0);
        assert!((50..110).contains(&count(&["data.template_probability=0.4"], "this is a sound of big dog")));
        assert!((75..125).contains(&count(&[], "second")));
    }

    #[test]
    fn labels_are_said_as_the_data_set_says_them() {
        let (_temp, sample, collate) = bench(&["data.template_probability=1"]);
        let label = sample.labels[0].clone();
        let collate = collate.with_phrases([(label, "a dog, a big one".to_owned())].into());
        assert_eq!(items(&sample, &collate, 1)[0].text, "this is a sound of a dog, a big one");
    }

    /// The text of the one clip in each of the first epochs.
    fn texts(sample: &Sample, collate: Collate, seed: u64, epochs: u64) -> Vec<String> {
        let data = Arc::new(DataSet {
            name: "set".to_owned(),
            split: "train".to_owned(),
            samples: vec![sample.clone()],
            ..DataSet::default()
        });
        let collate = Arc::new(collate);
        let epoch = |epoch| {
            let collate = Arc::clone(&collate);
            let config = LoaderConfig { seed, epoch, shuffle: true, ..LoaderConfig::default() };
            let mut loader = Loader::new(Arc::clone(&data), config, move |sample, rng| collate.item(sample, rng));
            loader.next().unwrap().items.swap_remove(0).text
        };
        (0..epochs).map(epoch).collect()
    }

    #[test]
    fn one_caption_is_drawn_per_epoch_by_the_runs_seed() {
        let drawn = |seed| {
            let (_temp, mut sample, collate) = bench(&[]);
            sample.captions.push("third".to_owned());
            texts(&sample, collate, seed, 30)
        };
        let first = drawn(1);
        assert_eq!(first, drawn(1));
        assert_ne!(first, drawn(2));
        for caption in ["first", "second", "third"] {
            assert!((3..=20).contains(&first.iter().filter(|text| *text == caption).count()), "{first:?}");
        }
    }

    #[test]
    fn without_augmentation_every_draw_is_the_same() {
        let (_temp, sample, collate) = bench(&["augment.random_crop=false"]);
        let items = items(&sample, &collate, 5);
        assert!(items.iter().all(|item| item.features == items[0].features));
        assert_eq!((items[0].features.frames, items[0].features.bins), (51, 16));
    }

    #[test]
    fn each_augmentation_does_its_part() {
        let fixed = "augment.random_crop=false";
        let (_temp, sample, collate) = bench(&[fixed]);
        let plain = items(&sample, &collate, 1).swap_remove(0);

        let (_temp, sample, collate) = bench(&["augment.random_crop=true"]);
        assert_ne!(items(&sample, &collate, 1)[0].features.data, plain.features.data);

        let (_temp, sample, collate) = bench(&[fixed, "augment.gain_db=[-6, -6]"]);
        let softer = items(&sample, &collate, 1).swap_remove(0);
        assert!((mean(&softer) - mean(&plain) + 6.0).abs() < 1e-3);
    }

    #[test]
    fn a_batch_stacks_clips_and_pads_texts() {
        let (_temp, sample, collate) = bench(&[]);
        let texts = ["a dog", "a big dog barks at another dog"];
        let tokenizer = ClapTokenizer::train_bpe(&texts, 300).unwrap();
        let mut items = items(&sample, &collate, 2);
        for (item, text) in items.iter_mut().zip(texts) {
            item.text = text.to_owned();
        }
        let batch = Batch::new(items, &collate.extractor, &tokenizer, 77, &Device::Cpu).unwrap();
        assert_eq!(batch.input_features.dims(), [2, 1, 51, 16]);
        assert_eq!(batch.is_longer.len(), 2);
        let lengths: Vec<u32> = batch.attention_mask.sum(1).unwrap().to_vec1().unwrap();
        assert_eq!(batch.input_ids.dims(), [2, lengths[1] as usize]);
        assert!(lengths[0] < lengths[1]);
        assert!(Batch::new(Vec::new(), &collate.extractor, &tokenizer, 77, &Device::Cpu).is_err());
    }
}
