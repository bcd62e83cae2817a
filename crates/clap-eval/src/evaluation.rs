//! One evaluation of one model on one data set: retrieval of captions and zero-shot classification of labels.
//!
//! Embeds as inference does (running statistics, no augmentation). A clip longer than the window is cut by the policy; the
//! windows of one clip are averaged and normalised again, and so are the prompts of one class where there are several.
//! Equal texts are embedded once, so that their ties are exact. A data set whose clips are of several classes is measured by
//! average precision.
//! Training and the runner both evaluate through here.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use clap_audio::{FeatureExtractor, Features, LongAudio};
use clap_data::caption::{self, Template};
use clap_data::{DataSet, Loader, LoaderConfig, Skipped, WaveCache};
use clap_encoders::{ClapModel, ClapTokenizer, features_tensor};
use rand::RngCore;

use crate::embedded::{Embedded, Windows, means, normalised_means, prompts};
use crate::embedding_cache::{EmbeddingCache, SoundHash, WindowEmbeds, sound_hash};
use crate::error::{Error, Result};
use crate::outcome::Outcome;

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
    /// The windows of a long clip vote for its class (slice and vote) instead of being averaged. Retrieval averages them either way.
    pub vote: bool,
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
            vote: false,
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

    /// What is taken of a clip longer than the window.
    fn policy(&self) -> LongAudio {
        self.config.long_audio.unwrap_or_else(|| self.extractor.default_policy())
    }

    /// The cache in `folder` of a model's embeddings, by this evaluation's front end and policy for long clips. `None` for the policy that
    /// draws: a draw depends on the clip's place in its split, too.
    ///
    /// # Errors
    /// As [`EmbeddingCache::open`].
    pub fn cache(&self, folder: &Path, model: &ClapModel, device: &Device) -> Result<Option<EmbeddingCache>> {
        match self.policy() {
            LongAudio::Random => Ok(None),
            policy => EmbeddingCache::open(folder, model, &self.extractor, device, &policy.to_string()).map(Some),
        }
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
        let (embedded, skipped) = self.embed(model, tokenizer, device, None, progress)?;
        Ok(Outcome { skipped, ..embedded.measure()? })
    }

    /// Embeds every clip, caption and class; the clips that are not in the `cache`, which keeps them. Clips that could not be read, or not be
    /// classified, come second.
    ///
    /// # Errors
    /// As [`Evaluation::run`], and where the cache cannot be written.
    pub fn embed(
        &self,
        model: &ClapModel,
        tokenizer: &ClapTokenizer,
        device: &Device,
        cache: Option<&Arc<EmbeddingCache>>,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<(Embedded, Vec<Skipped>)> {
        let Clips { windows, counts, kept, mut skipped } = self.embed_clips(model, device, cache, progress)?;
        let windows = ClapModel::normalized(&windows)?;
        let audio = normalised_means(&windows, &counts)?;
        let mut embedded = Embedded::new(&self.data, &kept, audio, &mut skipped);
        if self.config.vote {
            embedded.windows = Some(Windows { embeds: windows, counts });
        }
        let texts = Texts { model, tokenizer, device, max_tokens: self.config.max_tokens };
        if !embedded.captions.is_empty() {
            embedded.text = Some(texts.embed(&embedded.captions)?);
        }
        if embedded.is_labelled() {
            let prompts = prompts(&self.data, &self.templates);
            let classes =
                normalised_means(&texts.embed(&prompts)?, &vec![self.templates.len(); self.data.classes.len()])?;
            embedded.class_embeds = Some(classes);
        }
        Ok((embedded, skipped))
    }

    /// What a probe is trained on: the clips' embeddings before they are normalised, the mean of its windows for a longer clip. Clips that
    /// could not be read, or have no label among the classes, come second.
    ///
    /// # Errors
    /// As [`Evaluation::embed`], and where no clip is left.
    pub fn features(
        &self,
        model: &ClapModel,
        device: &Device,
        cache: Option<&Arc<EmbeddingCache>>,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<(LabelledFeatures, Vec<Skipped>)> {
        let Clips { windows, counts, kept, mut skipped } = self.embed_clips(model, device, cache, progress)?;
        let embedded = Embedded::new(&self.data, &kept, means(&windows, &counts)?, &mut skipped);
        let labelled: Vec<u32> =
            (0..kept.len()).filter(|&row| !embedded.labels[row].is_empty()).map(|row| row as u32).collect();
        if labelled.is_empty() {
            return Err(Error::Empty { what: "known label" });
        }
        let of_kept = |row: &u32| *row as usize;
        let features = LabelledFeatures {
            features: embedded.audio.index_select(&Tensor::new(labelled.as_slice(), device)?, 0)?,
            labels: labelled.iter().map(|row| embedded.labels[of_kept(row)].clone()).collect(),
            clips: labelled.iter().map(|row| embedded.clips[of_kept(row)].clone()).collect(),
            classes: self.data.classes.clone(),
            multi_label: self.data.multi_label,
        };
        Ok((features, skipped))
    }

    fn embed_clips(
        &self,
        model: &ClapModel,
        device: &Device,
        cache: Option<&Arc<EmbeddingCache>>,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Clips> {
        let mut clips = Clips {
            windows: Tensor::zeros(0, DType::F32, device)?,
            counts: Vec::new(),
            kept: Vec::new(),
            skipped: Vec::new(),
        };
        let mut rows = Vec::new();
        for batch in self.heard(cache.cloned()) {
            clips.skipped.extend(batch.failed);
            clips.kept.extend(batch.indices);
            let (mut windows, mut sources) = (Vec::new(), Vec::new());
            for heard in batch.items {
                let fresh = match heard {
                    Heard::Before(embeds) => Source::Cache(embeds),
                    Heard::Now(hash, features) => {
                        let count = features.len();
                        windows.extend(features);
                        Source::Model(hash, count)
                    }
                };
                sources.push(fresh);
            }
            let fresh = self.embed_windows(model, device, &windows)?;
            let mut first = 0;
            for source in sources {
                let of_clip = match source {
                    Source::Cache(embeds) => {
                        let count = embeds.values.len() / embeds.width;
                        Tensor::from_slice(&embeds.values, (count, embeds.width), device)?
                    }
                    Source::Model(hash, count) => {
                        let fresh = fresh.as_ref().ok_or(Error::Empty { what: "window of a clip" })?;
                        let of_clip = fresh.narrow(0, first, count)?;
                        first += count;
                        if let (Some(cache), Some(hash)) = (cache, hash) {
                            let values = of_clip.flatten_all()?.to_vec1::<f32>()?;
                            cache.put(hash, WindowEmbeds { width: of_clip.dim(1)?, values })?;
                        }
                        of_clip
                    }
                };
                clips.counts.push(of_clip.dim(0)?);
                rows.push(of_clip);
            }
            progress(clips.kept.len() + clips.skipped.len(), self.data.samples.len());
        }
        if rows.is_empty() {
            return Err(match clips.skipped.first() {
                Some(first) => Error::Unreadable { clips: clips.skipped.len(), first: first.to_string() },
                None => Error::Empty { what: "clip" },
            });
        }
        clips.windows = Tensor::cat(&rows, 0)?;
        Ok(clips)
    }

    /// The clips as they are read, one after another: their log-mels, or where the cache has them their embeddings.
    fn heard(&self, cache: Option<Arc<EmbeddingCache>>) -> Loader<Heard> {
        let (waves, extractor, policy) = (Arc::clone(&self.cache), Arc::clone(&self.extractor), self.policy());
        let loader = LoaderConfig {
            batch_size: self.config.batch_size.max(1),
            workers: self.config.workers,
            prefetch: self.config.prefetch,
            seed: self.config.seed,
            ..LoaderConfig::default()
        };
        Loader::new(Arc::clone(&self.data), loader, move |sample, rng| -> clap_audio::Result<Heard> {
            let mut hash = None;
            if let Some(cache) = &cache {
                let unreadable =
                    |source| clap_audio::Error::Unreadable { path: PathBuf::from(sample.audio.name()), source };
                let of_sound = sound_hash(&sample.audio.bytes().map_err(unreadable)?);
                if let Some(embeds) = cache.get(&of_sound) {
                    return Ok(Heard::Before(embeds));
                }
                hash = Some(of_sound);
            }
            let wave = waves.load(&sample.audio, extractor.config().sampling_rate)?;
            // Only the policy that is random by name draws; fusion keeps to the middle of each third.
            let draws = matches!(policy, LongAudio::Random).then_some(rng as &mut dyn RngCore);
            Ok(Heard::Now(hash, extractor.extract(&wave, policy, draws)?))
        })
    }

    /// Embeddings `(W, D)` in `f32`, not normalised, of windows, a batch at a time; `None` without windows.
    fn embed_windows(&self, model: &ClapModel, device: &Device, windows: &[Features]) -> Result<Option<Tensor>> {
        let mut rows = Vec::new();
        for windows in windows.chunks(self.config.batch_size.max(1)) {
            let (features, is_longer) = features_tensor(windows, device)?;
            let projected = model.audio_projected(&features, &is_longer)?;
            rows.push(projected.to_dtype(DType::F32)?);
        }
        Ok(if rows.is_empty() { None } else { Some(Tensor::cat(&rows, 0)?) })
    }
}

/// Clips as a probe learns and is measured on them.
#[derive(Clone, Debug)]
pub struct LabelledFeatures {
    /// Embeddings `(clips, D)`, not normalised.
    pub features: Tensor,
    /// The classes of each clip, at least one.
    pub labels: Vec<Vec<usize>>,
    /// Names of the clips.
    pub clips: Vec<String>,
    /// Names of the classes.
    pub classes: Vec<String>,
    /// Whether a clip may be of several classes.
    pub multi_label: bool,
}

impl LabelledFeatures {
    /// What a head learns: [`targets`] of these labels.
    ///
    /// # Errors
    /// Outside a bug, none.
    pub fn targets(&self) -> Result<Tensor> {
        targets(&self.labels, self.classes.len(), self.multi_label, self.features.device())
    }
}

/// 1 for each class of each clip, or for its first one where clips have one each, else 0: `(clips, classes)`.
///
/// # Errors
/// A label that is no class.
pub fn targets(labels: &[Vec<usize>], classes: usize, several: bool, device: &Device) -> Result<Tensor> {
    let mut targets = vec![0f32; labels.len() * classes];
    for (clip, labels) in labels.iter().enumerate() {
        for &label in labels.iter().take(if several { labels.len() } else { 1 }) {
            if label >= classes {
                return Err(Error::LabelOutOfRange { clip, label, classes });
            }
            targets[clip * classes + label] = 1.0;
        }
    }
    Ok(Tensor::from_vec(targets, (labels.len(), classes), device)?)
}

/// What the loader makes of a clip.
enum Heard {
    /// Known from an evaluation before.
    Before(Arc<WindowEmbeds>),
    /// Its hash, where it is to be kept, and its windows.
    Now(Option<SoundHash>, Vec<Features>),
}

/// Where the embeddings of a clip's windows come from.
enum Source {
    Cache(Arc<WindowEmbeds>),
    /// The next so many rows of the model's.
    Model(Option<SoundHash>, usize),
}

/// The clips that could be read, and those that could not.
struct Clips {
    /// Embeddings of their windows `(W, D)`, not normalised, and how many each clip has.
    windows: Tensor,
    counts: Vec<usize>,
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
    /// Embeddings `(M, D)` in `f32`; equal texts are embedded once.
    fn embed(&self, texts: &[String]) -> Result<Tensor> {
        let mut row_of: HashMap<&str, u32> = HashMap::new();
        let mut unique = Vec::new();
        let rows: Vec<u32> = texts
            .iter()
            .map(|text| {
                *row_of.entry(text).or_insert_with(|| {
                    unique.push(text.as_str());
                    unique.len() as u32 - 1
                })
            })
            .collect();
        let mut embeddings = Vec::new();
        for texts in unique.chunks(TEXT_BATCH) {
            let (ids, mask) = self.tokenizer.encode(texts, self.max_tokens)?;
            let (ids, mask) = (ids.to_device(self.device)?, mask.to_device(self.device)?);
            embeddings.push(self.model.get_text_features(&ids, &mask)?.to_dtype(DType::F32)?);
        }
        let embeddings = Tensor::cat(&embeddings, 0)?;
        Ok(embeddings.index_select(&Tensor::new(rows, embeddings.device())?, 0)?)
    }
}
