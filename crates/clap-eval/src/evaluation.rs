//! One evaluation of one model on one data set: retrieval of captions and zero-shot classification of labels.
//!
//! Embeds as inference does (running statistics, no augmentation). A clip longer than the window is cut by the policy; the
//! windows of one clip are averaged and normalised again, and so are the prompts of one class where there are several.
//! Equal texts are embedded once, so that their ties are exact. A data set whose clips are of several classes is measured by
//! average precision.
//! Training and the runner both evaluate through here.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use candle_core::{D, DType, Device, Tensor};
use clap_audio::{FeatureExtractor, Features, LongAudio};
use clap_data::caption::{self, Template};
use clap_data::{DataSet, Loader, LoaderConfig, Sample, Skipped, WaveCache};
use clap_encoders::{ClapModel, ClapTokenizer, features_tensor};
use rand::RngCore;

use crate::error::{Error, Result};
use crate::multi_label::{MultiLabelMetrics, multi_label};
use crate::retrieval::{RetrievalMetrics, retrieval};
use crate::zero_shot::{ZeroShotMetrics, zero_shot};

/// Texts of one forward pass.
const TEXT_BATCH: usize = 128;

/// How to evaluate.
#[derive(Clone, Debug)]
pub struct EvaluationConfig {
    /// The prompts of zero-shot classification; `{label}` is replaced. A class is the mean of its prompts. When empty, the
    /// data set's own, else [`EvaluationConfig::TEMPLATE`].
    pub templates: Vec<String>,
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

impl EvaluationConfig {
    /// The prompt where neither the caller nor the data set has one.
    pub const TEMPLATE: &'static str = "this is a sound of {label}";
}

impl Default for EvaluationConfig {
    fn default() -> Self {
        Self {
            templates: Vec::new(),
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
    templates: Vec<Template>,
    config: EvaluationConfig,
}

/// What was measured, and what was left out.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Retrieval, where clips have captions.
    pub retrieval: Option<RetrievalMetrics>,
    /// Zero-shot classification, where clips have a label among the classes.
    pub zero_shot: Option<ZeroShotMetrics>,
    /// Zero-shot classification, where clips have labels among the classes and may have several.
    pub multi_label: Option<MultiLabelMetrics>,
    /// Clips that could not be read, or not be classified.
    pub skipped: Vec<Skipped>,
}

impl Outcome {
    /// All metrics by name; those of classification begin with `zeroshot_`.
    #[must_use]
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        let retrieval = self.retrieval.iter().flat_map(|found| found.to_map());
        let one = self.zero_shot.iter().flat_map(|found| found.to_map());
        let several = self.multi_label.iter().flat_map(|found| found.to_map());
        let zero_shot = one.chain(several).map(|(name, value)| (format!("zeroshot_{name}"), value));
        retrieval.chain(zero_shot).filter_map(|(name, value)| Some((name, value.as_f64()?))).collect()
    }
}

/// Every name that [`Outcome::metrics`] can have.
#[must_use]
pub fn metric_names() -> Vec<String> {
    // A perfect evaluation of two labelled clips has them all.
    let perfect = || -> Result<Outcome> {
        let two = Tensor::new(&[[1f32, 0.0], [0.0, 1.0]], &Device::Cpu)?;
        Ok(Outcome {
            retrieval: Some(retrieval(&two, &two, &[0, 1])?),
            zero_shot: Some(zero_shot(&two, &two, &[0, 1])?),
            multi_label: Some(multi_label(&two, &two)?),
            skipped: Vec::new(),
        })
    };
    perfect().expect("two clips, captions and classes can be measured").metrics().into_keys().collect()
}

impl Evaluation {
    /// Evaluation on `data`.
    ///
    /// # Errors
    /// Where a prompt is malformed.
    pub fn new(
        data: Arc<DataSet>,
        cache: Arc<WaveCache>,
        extractor: Arc<FeatureExtractor>,
        config: EvaluationConfig,
    ) -> Result<Self> {
        let patterns: Vec<&str> = match (config.templates.as_slice(), data.templates.as_slice()) {
            ([], []) => vec![EvaluationConfig::TEMPLATE],
            ([], own) => own.iter().map(String::as_str).collect(),
            (asked, _) => asked.iter().map(String::as_str).collect(),
        };
        let templates = patterns.into_iter().map(caption::template).collect::<std::result::Result<_, _>>()?;
        Ok(Self { data, cache, extractor, templates, config })
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
        let mut outcome = Outcome { retrieval, zero_shot: None, multi_label: None, skipped: Vec::new() };
        let labelled = self.labelled(&kept, &mut skipped);
        if !labelled.rows.is_empty() {
            let Labelled { rows, classes } = labelled;
            let audio = embeddings.index_select(&Tensor::new(rows, embeddings.device())?, 0)?;
            let prompts = self.class_embeds(&texts)?;
            if self.data.multi_label {
                outcome.multi_label = Some(self.multi_label(&audio, &prompts, &classes)?);
            } else {
                let first: Vec<usize> = classes.iter().map(|classes| classes[0]).collect();
                outcome.zero_shot = Some(zero_shot(&audio, &prompts, &first)?);
            }
        } else if outcome.retrieval.is_none() {
            return Err(Error::Empty { what: "caption or known label" });
        }
        outcome.skipped = skipped;
        Ok(outcome)
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

    /// The clips with labels among the classes; those whose labels are none of them are skipped.
    fn labelled(&self, kept: &[usize], skipped: &mut Vec<Skipped>) -> Labelled {
        let class_of: HashMap<&str, usize> =
            self.data.classes.iter().enumerate().map(|(class, name)| (name.as_str(), class)).collect();
        let mut labelled = Labelled { rows: Vec::new(), classes: Vec::new() };
        for (row, &index) in kept.iter().enumerate() {
            let Sample { id, labels, .. } = &self.data.samples[index];
            let classes: Vec<usize> = labels.iter().filter_map(|label| class_of.get(label.as_str()).copied()).collect();
            if !classes.is_empty() {
                labelled.rows.push(row as u32);
                labelled.classes.push(classes);
            } else if !labels.is_empty() {
                skipped.push(Skipped {
                    what: id.clone(),
                    reason: format!("its label `{}` is no class of classes.json; not classified", labels.join("`, `")),
                });
            }
        }
        labelled
    }

    /// Embeddings `(classes, D)` of the classes.
    fn class_embeds(&self, texts: &Texts<'_>) -> Result<Tensor> {
        let phrases = self.data.classes.iter().map(|class| self.data.phrase(class));
        let prompts: Vec<String> =
            phrases.flat_map(|phrase| self.templates.iter().map(move |template| template.fill(&phrase))).collect();
        let prompts: Vec<&str> = prompts.iter().map(String::as_str).collect();
        normalised_means(&texts.embed(&prompts)?, &vec![self.templates.len(); self.data.classes.len()])
    }

    fn multi_label(&self, audio: &Tensor, prompts: &Tensor, classes: &[Vec<usize>]) -> Result<MultiLabelMetrics> {
        let scores = audio.to_dtype(DType::F32)?.matmul(&prompts.to_dtype(DType::F32)?.t()?)?; // (clips, classes)
        let (clips, width) = scores.dims2()?;
        let mut labels = vec![0f32; clips * width];
        for (clip, classes) in classes.iter().enumerate() {
            for class in classes {
                labels[clip * width + class] = 1.0;
            }
        }
        multi_label(&scores, &Tensor::from_vec(labels, (clips, width), &Device::Cpu)?)
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
                embeddings.push(normalised_means(&Tensor::cat(&rows, 0)?, &windows_of)?);
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

/// The clips that can be classified.
struct Labelled {
    /// Their rows among the embeddings.
    rows: Vec<u32>,
    /// The classes of each, in the order of its labels.
    classes: Vec<Vec<usize>>,
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

/// Normalised means of consecutive rows: `counts[i]` rows, the windows of a clip or the prompts of a class, make row `i`.
fn normalised_means(rows: &Tensor, counts: &[usize]) -> Result<Tensor> {
    if counts.iter().all(|&n| n == 1) {
        return Ok(rows.clone());
    }
    let mut means = Vec::with_capacity(counts.len());
    let mut start = 0;
    for &n in counts {
        means.push(rows.narrow(0, start, n)?.mean_keepdim(0)?);
        start += n;
    }
    let means = Tensor::cat(&means, 0)?; // (counts, D)
    let norms = means.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?.maximum(1e-12)?;
    Ok(means.broadcast_div(&norms)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_averaged_per_clip() {
        let rows = Tensor::new(&[[1f32, 0.0], [0.0, 1.0], [0.6, 0.8]], &Device::Cpu).unwrap();
        let clips = normalised_means(&rows, &[2, 1]).unwrap().to_vec2::<f32>().unwrap();
        let half = 0.5f32.sqrt();
        for (found, expected) in clips.concat().iter().zip([half, half, 0.6, 0.8]) {
            assert!((found - expected).abs() < 1e-6, "{clips:?}");
        }
    }
}
