//! One evaluation of one model on one data set: retrieval of captions and zero-shot classification of labels.
//!
//! Embeds as inference does (running statistics, no augmentation). A clip longer than the window is cut by the policy; the
//! windows of one clip are averaged and normalised again. Equal texts are embedded once, so that their ties are exact.
//! Training and the runner both evaluate through here.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use candle_core::{D, Device, Tensor};
use clap_audio::{FeatureExtractor, Features, LongAudio};
use clap_data::caption::{self, Template};
use clap_data::{DataSet, Loader, LoaderConfig, Sample, Skipped, WaveCache};
use clap_encoders::{ClapModel, ClapTokenizer, features_tensor};
use rand::RngCore;

use crate::error::{Error, Result};
use crate::retrieval::{RetrievalMetrics, retrieval};
use crate::zero_shot::{ZeroShotMetrics, zero_shot};

/// Texts of one forward pass.
const TEXT_BATCH: usize = 128;

/// How to evaluate.
#[derive(Clone, Debug)]
pub struct EvaluationConfig {
    /// The prompt of zero-shot classification; `{label}` is replaced.
    pub template: String,
    /// What is taken of a clip longer than the window; the front end's own policy when `None`.
    pub long_audio: Option<LongAudio>,
    /// Seed of a policy that draws.
    pub seed: u64,
    /// Longest text in tokens, the special ones included.
    pub max_tokens: usize,
    /// Windows of one forward pass.
    pub batch_size: usize,
    /// Threads that decode.
    pub workers: usize,
    /// Batches decoded ahead.
    pub prefetch: usize,
}

impl Default for EvaluationConfig {
    fn default() -> Self {
        Self {
            template: "this is a sound of {label}".to_owned(),
            long_audio: None,
            seed: 0,
            max_tokens: ClapTokenizer::MAX_TOKENS,
            batch_size: 16,
            workers: 2,
            prefetch: 2,
        }
    }
}

/// A data set, and how to read and question it.
#[derive(Debug)]
pub struct Evaluation {
    data: Arc<DataSet>,
    cache: Arc<WaveCache>,
    extractor: Arc<FeatureExtractor>,
    template: Template,
    config: EvaluationConfig,
}

/// What was measured, and what was left out.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Retrieval, where clips have captions.
    pub retrieval: Option<RetrievalMetrics>,
    /// Zero-shot classification, where clips have labels among the classes.
    pub zero_shot: Option<ZeroShotMetrics>,
    /// Clips that could not be read, or not be classified.
    pub skipped: Vec<Skipped>,
}

impl Outcome {
    /// All metrics by name; those of classification begin with `zeroshot_`.
    #[must_use]
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        let retrieval = self.retrieval.iter().flat_map(|found| found.to_map());
        let zero_shot = self
            .zero_shot
            .iter()
            .flat_map(|found| found.to_map())
            .map(|(name, value)| (format!("zeroshot_{name}"), value));
        retrieval.chain(zero_shot).filter_map(|(name, value)| Some((name, value.as_f64()?))).collect()
    }
}

/// Every name that [`Outcome::metrics`] can have.
#[must_use]
pub fn metric_names() -> Vec<String> {
    // A perfect evaluation of one labelled clip has them all.
    let perfect = || -> Result<Outcome> {
        let one = Tensor::new(&[[1f32]], &Device::Cpu)?;
        let (retrieval, zero_shot) = (retrieval(&one, &one, &[0])?, zero_shot(&one, &one, &[0])?);
        Ok(Outcome { retrieval: Some(retrieval), zero_shot: Some(zero_shot), skipped: Vec::new() })
    };
    perfect().expect("one clip, one caption and one class can be measured").metrics().into_keys().collect()
}

impl Evaluation {
    /// Evaluation on `data`.
    ///
    /// # Errors
    /// Where the prompt is malformed.
    pub fn new(
        data: Arc<DataSet>,
        cache: Arc<WaveCache>,
        extractor: Arc<FeatureExtractor>,
        config: EvaluationConfig,
    ) -> Result<Self> {
        let template = caption::template(&config.template)?;
        Ok(Self { data, cache, extractor, template, config })
    }

    /// The clips.
    #[must_use]
    pub fn data(&self) -> &DataSet {
        &self.data
    }

    /// Embeds every clip, caption and class and measures. `progress` is told the number of clips done, and of all.
    ///
    /// # Errors
    /// Where no clip can be read, clips have neither captions nor labels, or the model gives numbers that are not finite.
    pub fn run(
        &self,
        model: &ClapModel,
        tokenizer: &ClapTokenizer,
        device: &Device,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Outcome> {
        let Clips { embeddings, kept, mut skipped } = self.embed_clips(model, device, progress)?;
        let texts = Texts { model, tokenizer, device, max_tokens: self.config.max_tokens };
        let retrieval = self.retrieval(&embeddings, &kept, &texts)?;
        let zero_shot = self.zero_shot(&embeddings, &kept, &texts, &mut skipped)?;
        if retrieval.is_none() && zero_shot.is_none() {
            return Err(Error::Empty { what: "caption or known label" });
        }
        Ok(Outcome { retrieval, zero_shot, skipped })
    }

    fn retrieval(&self, audio: &Tensor, kept: &[usize], texts: &Texts<'_>) -> Result<Option<RetrievalMetrics>> {
        let (mut captions, mut caption_of) = (Vec::new(), Vec::new());
        for (row, &index) in kept.iter().enumerate() {
            let own = &self.data.samples[index].captions;
            captions.extend(own.iter().map(String::as_str));
            caption_of.extend(own.iter().map(|_| row));
        }
        if captions.is_empty() {
            return Ok(None);
        }
        Ok(Some(retrieval(audio, &texts.embed(&captions)?, &caption_of)?))
    }

    /// The first of a clip's labels that is a class is its right answer.
    fn zero_shot(
        &self,
        audio: &Tensor,
        kept: &[usize],
        texts: &Texts<'_>,
        skipped: &mut Vec<Skipped>,
    ) -> Result<Option<ZeroShotMetrics>> {
        let class_of: HashMap<&str, usize> =
            self.data.classes.iter().enumerate().map(|(class, name)| (name.as_str(), class)).collect();
        let (mut rows, mut labels) = (Vec::new(), Vec::new());
        for (row, &index) in kept.iter().enumerate() {
            let Sample { id, labels: own, .. } = &self.data.samples[index];
            match own.iter().find_map(|label| class_of.get(label.as_str())) {
                Some(class) => {
                    rows.push(row as u32);
                    labels.push(*class);
                }
                None if own.is_empty() => {}
                None => skipped.push(Skipped {
                    what: id.clone(),
                    reason: format!("its label `{}` is no class of classes.json; not classified", own.join("`, `")),
                }),
            }
        }
        if rows.is_empty() {
            return Ok(None);
        }
        let prompts: Vec<String> =
            self.data.classes.iter().map(|name| self.template.fill(&caption::readable(name))).collect();
        let prompts: Vec<&str> = prompts.iter().map(String::as_str).collect();
        let audio = audio.index_select(&Tensor::new(rows, audio.device())?, 0)?;
        Ok(Some(zero_shot(&audio, &texts.embed(&prompts)?, &labels)?))
    }

    fn embed_clips(&self, model: &ClapModel, device: &Device, progress: &mut dyn FnMut(usize, usize)) -> Result<Clips> {
        let (cache, extractor) = (Arc::clone(&self.cache), Arc::clone(&self.extractor));
        let policy = self.config.long_audio.unwrap_or_else(|| extractor.default_policy());
        let loader = LoaderConfig {
            batch_size: self.config.batch_size.max(1),
            workers: self.config.workers,
            prefetch: self.config.prefetch,
            seed: self.config.seed,
            ..LoaderConfig::default()
        };
        let loader = Loader::new(Arc::clone(&self.data), loader, move |sample, rng| {
            let wave = cache.load(&sample.audio, extractor.config().sampling_rate)?;
            // Only the policy that is random by name draws; fusion keeps to the middle of each third.
            let draws = matches!(policy, LongAudio::Random).then_some(rng as &mut dyn RngCore);
            extractor.extract(&wave, policy, draws)
        });
        let (mut embeddings, mut kept, mut skipped) = (Vec::new(), Vec::new(), Vec::new());
        for batch in loader {
            skipped.extend(batch.failed);
            let windows_of: Vec<usize> = batch.items.iter().map(Vec::len).collect();
            let windows: Vec<Features> = batch.items.into_iter().flatten().collect();
            kept.extend(batch.indices);
            let mut rows = Vec::new();
            for windows in windows.chunks(self.config.batch_size.max(1)) {
                let (features, is_longer) = features_tensor(windows, device)?;
                rows.push(model.get_audio_features(&features, &is_longer)?);
            }
            if !rows.is_empty() {
                embeddings.push(mean_per_clip(&Tensor::cat(&rows, 0)?, &windows_of)?);
            }
            progress(kept.len() + skipped.len(), self.data.samples.len());
        }
        if embeddings.is_empty() {
            return Err(match skipped.first() {
                Some(first) => Error::Unreadable { clips: skipped.len(), first: first.to_string() },
                None => Error::Empty { what: "clip" },
            });
        }
        Ok(Clips { embeddings: Tensor::cat(&embeddings, 0)?, kept, skipped })
    }
}

/// Embeddings `(N, D)` of the clips that could be read, their indices, and those that could not.
struct Clips {
    embeddings: Tensor,
    kept: Vec<usize>,
    skipped: Vec<Skipped>,
}

/// The text side of a model.
struct Texts<'a> {
    model: &'a ClapModel,
    tokenizer: &'a ClapTokenizer,
    device: &'a Device,
    max_tokens: usize,
}

impl Texts<'_> {
    /// Embeddings `(M, D)`; equal texts are embedded once.
    fn embed(&self, texts: &[&str]) -> Result<Tensor> {
        let mut row_of: HashMap<&str, u32> = HashMap::new();
        let mut unique = Vec::new();
        let rows: Vec<u32> = texts
            .iter()
            .map(|&text| {
                *row_of.entry(text).or_insert_with(|| {
                    unique.push(text);
                    unique.len() as u32 - 1
                })
            })
            .collect();
        let mut embeddings = Vec::new();
        for texts in unique.chunks(TEXT_BATCH) {
            let (ids, mask) = self.tokenizer.encode(texts, self.max_tokens)?;
            let (ids, mask) = (ids.to_device(self.device)?, mask.to_device(self.device)?);
            embeddings.push(self.model.get_text_features(&ids, &mask)?);
        }
        let embeddings = Tensor::cat(&embeddings, 0)?;
        Ok(embeddings.index_select(&Tensor::new(rows, embeddings.device())?, 0)?)
    }
}

/// Normalised means of consecutive rows: `windows_of[i]` rows belong to clip `i`.
fn mean_per_clip(rows: &Tensor, windows_of: &[usize]) -> Result<Tensor> {
    if windows_of.iter().all(|&n| n == 1) {
        return Ok(rows.clone());
    }
    let mut clips = Vec::with_capacity(windows_of.len());
    let mut start = 0;
    for &n in windows_of {
        clips.push(rows.narrow(0, start, n)?.mean_keepdim(0)?);
        start += n;
    }
    let means = Tensor::cat(&clips, 0)?; // (clips, D)
    let norms = means.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?.maximum(1e-12)?;
    Ok(means.broadcast_div(&norms)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_averaged_per_clip() {
        let rows = Tensor::new(&[[1f32, 0.0], [0.0, 1.0], [0.6, 0.8]], &Device::Cpu).unwrap();
        let clips = mean_per_clip(&rows, &[2, 1]).unwrap().to_vec2::<f32>().unwrap();
        let half = 0.5f32.sqrt();
        for (found, expected) in clips.concat().iter().zip([half, half, 0.6, 0.8]) {
            assert!((found - expected).abs() < 1e-6, "{clips:?}");
        }
    }
}
