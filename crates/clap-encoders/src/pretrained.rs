//! The model with everything around it: sound files and sentences in, embeddings out.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use clap_audio::{Channels, FeatureConfig, FeatureExtractor, Features, LongAudio, Preset, Waveform};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::config::ClapConfig;
use crate::error::{Error, KeyReport, Result};
use crate::folder::{ModelFolder, agree, open_model};
use crate::location::locate;
use crate::model::ClapModel;
use crate::tokenizer::ClapTokenizer;

/// How a model is loaded.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Where it computes.
    pub device: Device,
    /// What it computes in.
    pub dtype: DType,
    /// Whose front end is followed; by default that of the program whose names the weights carry.
    pub preset: Option<Preset>,
    /// Branch, tag or commit on the hub; `main` by default.
    pub revision: Option<String>,
    /// Take a weight file that lacks some of the model's weights, or has others: see [`Clap::load_report`].
    pub allow_missing: bool,
    /// The tokenizer, instead of the one beside the weights: a folder that holds it, a `tokenizer.json`, or a hub id.
    pub tokenizer: Option<PathBuf>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            device: Device::Cpu,
            dtype: DType::F32,
            preset: None,
            revision: None,
            allow_missing: false,
            tokenizer: None,
        }
    }
}

/// How sounds are embedded.
#[derive(Clone, Debug)]
pub struct EmbedOptions {
    /// What is taken of a clip longer than the model's window; the front end's deterministic policy by default.
    pub long_audio: Option<LongAudio>,
    /// Seed of a policy that draws; every clip draws from it anew, so that a clip's embedding does not depend on its company.
    pub seed: Option<u64>,
    /// How channels become one.
    pub channels: Channels,
    /// Most windows, or captions, of one pass through the model.
    pub batch_size: usize,
}

impl Default for EmbedOptions {
    fn default() -> Self {
        Self { long_audio: None, seed: None, channels: Channels::default(), batch_size: 8 }
    }
}

/// A label with its probability.
#[derive(Clone, Debug, PartialEq)]
pub struct Score {
    /// The label.
    pub label: String,
    /// Softmax of the scaled similarities over all labels.
    pub score: f32,
}

/// A CLAP model ready for use.
#[derive(Debug)]
pub struct Clap {
    model: ClapModel,
    config: ClapConfig,
    extractor: FeatureExtractor,
    tokenizer: ClapTokenizer,
    options: EmbedOptions,
    device: Device,
    report: KeyReport,
}

impl Clap {
    /// Loads a model: a folder, a bare weight file of LAION's (`630k-audioset-best.pt`), or either on the hub by its id
    /// (`laion/clap-htsat-unfused`, `lukewys/laion_clap/630k-audioset-best.pt`).
    ///
    /// # Errors
    /// Where there is no model, the id cannot be fetched, the weights do not fit the configuration, or no tokenizer is found.
    pub fn from_pretrained(id_or_path: impl AsRef<Path>, options: &LoadOptions) -> Result<Self> {
        let path = locate(id_or_path.as_ref(), options.revision.as_deref())?;
        Self::from_folder(&open_model(&path)?.with_tokenizer(options.tokenizer.as_deref())?, options)
    }

    /// Loads an opened model folder.
    ///
    /// # Errors
    /// Where the weights do not fit the configuration.
    pub fn from_folder(folder: &ModelFolder, options: &LoadOptions) -> Result<Self> {
        let (model, report) = match options.allow_missing {
            true => folder.model_allowing_missing(options.dtype, &options.device)?,
            false => (folder.model(options.dtype, &options.device)?, KeyReport::default()),
        };
        let preset = options.preset.unwrap_or_else(|| folder.preset());
        let (features, tokenizer) = (folder.features.clone(), folder.tokenizer.clone());
        let loaded =
            Self::from_parts(model, folder.config.clone(), features, preset, tokenizer, options.device.clone())?;
        Ok(Self { report, ..loaded })
    }

    /// Puts a model together, for example one in training that is to be evaluated.
    ///
    /// # Errors
    /// Where model, front end and tokenizer are not made for each other.
    pub fn from_parts(
        model: ClapModel,
        config: ClapConfig,
        features: FeatureConfig,
        preset: Preset,
        tokenizer: ClapTokenizer,
        device: Device,
    ) -> Result<Self> {
        agree(&config, &features, &tokenizer)?;
        let extractor = FeatureExtractor::new(features, preset)?;
        let (options, report) = (EmbedOptions::default(), KeyReport::default());
        Ok(Self { model, config, extractor, tokenizer, options, device, report })
    }

    /// The same model with other embedding options.
    #[must_use]
    pub fn with_options(self, options: EmbedOptions) -> Self {
        Self { options, ..self }
    }

    /// What the weight file lacked and what it had too much; empty unless [`LoadOptions::allow_missing`] let it pass.
    #[must_use]
    pub fn load_report(&self) -> &KeyReport {
        &self.report
    }

    /// The towers.
    #[must_use]
    pub fn model(&self) -> &ClapModel {
        &self.model
    }

    /// Their sizes.
    #[must_use]
    pub fn config(&self) -> &ClapConfig {
        &self.config
    }

    /// The audio front end.
    #[must_use]
    pub fn extractor(&self) -> &FeatureExtractor {
        &self.extractor
    }

    /// Where it computes.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The tokenizer.
    #[must_use]
    pub fn tokenizer(&self) -> &ClapTokenizer {
        &self.tokenizer
    }

    /// L2-normalised embeddings of sound files, in their order.
    ///
    /// # Errors
    /// The first file that cannot be embedded; [`Clap::embed_audio_each`] goes on instead.
    pub fn embed_audio<P: AsRef<Path>>(&self, paths: &[P]) -> Result<Vec<Vec<f32>>> {
        self.embed_audio_each(paths).into_iter().collect()
    }

    /// L2-normalised embedding of each sound file, or why there is none.
    ///
    /// A clip longer than the model's window is embedded by the policy of [`EmbedOptions`]; with windows, its embedding is the
    /// normalised mean of theirs. No embedding depends on the other files.
    pub fn embed_audio_each<P: AsRef<Path>>(&self, paths: &[P]) -> Vec<Result<Vec<f32>>> {
        let rate = self.extractor.config().sampling_rate;
        self.embed_each(paths.iter().map(|path| {
            let path = path.as_ref();
            (path.display().to_string(), clap_audio::load(path, rate, self.options.channels).map_err(Error::from))
        }))
    }

    /// As [`Clap::embed_audio_each`], of waveforms at any sample rate.
    pub fn embed_waveforms(&self, waves: &[Waveform]) -> Vec<Result<Vec<f32>>> {
        let rate = self.extractor.config().sampling_rate;
        self.embed_each(waves.iter().enumerate().map(|(i, wave)| {
            let wave = wave.clone();
            let wave = if wave.sample_rate == rate { Ok(wave) } else { wave.resample(rate) };
            (format!("waveform {i}"), wave.map_err(Error::from))
        }))
    }

    /// L2-normalised embeddings of sentences, in their order; at most 77 tokens of each, or what the model can number.
    ///
    /// # Errors
    /// Where tokenizer or model fail.
    pub fn embed_text<S: AsRef<str>>(&self, texts: &[S]) -> Result<Vec<Vec<f32>>> {
        let max_len = ClapTokenizer::MAX_TOKENS.min(self.config.text_config.max_tokens());
        let mut embeddings = Vec::with_capacity(texts.len());
        for texts in texts.chunks(self.options.batch_size.max(1)) {
            let (ids, mask) = self.tokenizer.encode(texts, max_len)?;
            let (ids, mask) = (ids.to_device(&self.device)?, mask.to_device(&self.device)?);
            embeddings.extend(rows(&self.model.get_text_features(&ids, &mask)?)?);
        }
        Ok(embeddings)
    }

    /// Zero-shot classification: for each sound file, the labels from the likeliest to the least likely.
    ///
    /// `template` says a label as a caption and holds `{label}`, as in `this is a sound of {label}`.
    ///
    /// # Errors
    /// Where there are no labels, the template does not hold `{label}`, or tokenizer or model fail.
    pub fn classify<P: AsRef<Path>, S: AsRef<str>>(
        &self,
        paths: &[P],
        labels: &[S],
        template: &str,
    ) -> Result<Vec<Result<Vec<Score>>>> {
        if labels.is_empty() {
            return Err(Error::input("labels", "there are none to choose from"));
        }
        if !template.contains("{label}") {
            return Err(Error::input(
                "template",
                format!("`{template}` has no place for the label; write `{{label}}` there"),
            ));
        }
        let captions: Vec<String> = labels.iter().map(|label| template.replace("{label}", label.as_ref())).collect();
        let texts = self.embed_text(&captions)?;
        let scale = self.model.logit_scale_a().to_dtype(DType::F32)?.to_scalar::<f32>()?.exp();
        let score = |embedding: Vec<f32>| {
            let logits: Vec<f32> = texts.iter().map(|text| scale * dot(&embedding, text)).collect();
            let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let weights: Vec<f32> = logits.iter().map(|logit| (logit - top).exp()).collect();
            let sum: f32 = weights.iter().sum();
            let mut scores: Vec<Score> = labels
                .iter()
                .zip(weights)
                .map(|(label, weight)| Score { label: label.as_ref().to_owned(), score: weight / sum })
                .collect();
            scores.sort_by(|a, b| b.score.total_cmp(&a.score));
            scores
        };
        Ok(self.embed_audio_each(paths).into_iter().map(|embedding| embedding.map(score)).collect())
    }

    /// Embeds named clips as they come, filling batches with the windows of as many of them as it takes.
    fn embed_each(&self, waves: impl Iterator<Item = (String, Result<Waveform>)>) -> Vec<Result<Vec<f32>>> {
        let batch_size = self.options.batch_size.max(1);
        let mut clips: Vec<Clip> = Vec::new();
        let mut pending: Vec<(usize, Features)> = Vec::new();
        for (name, wave) in waves {
            let index = clips.len();
            let features = wave.and_then(|wave| self.features(&wave));
            let sum = features.map(|features| {
                pending.extend(features.into_iter().map(|features| (index, features)));
                Sum::default()
            });
            clips.push(Clip { name, sum });
            while pending.len() >= batch_size {
                let rest = pending.split_off(batch_size);
                self.flush(&std::mem::replace(&mut pending, rest), &mut clips);
            }
        }
        self.flush(&pending, &mut clips);
        clips.into_iter().map(|clip| clip.sum.map(Sum::normalised_mean)).collect()
    }

    fn features(&self, wave: &Waveform) -> Result<Vec<Features>> {
        let policy = self.options.long_audio.unwrap_or_else(|| self.extractor.default_policy());
        let mut rng = self.options.seed.map(ChaCha8Rng::seed_from_u64);
        let rng = rng.as_mut().map(|rng| rng as &mut dyn rand::RngCore);
        Ok(self.extractor.extract(wave, policy, rng)?)
    }

    /// Embeds a batch of windows and adds them to their clips. A batch that fails is gone through one window at a time, so that a
    /// failure falls on its own clip, by name.
    fn flush(&self, batch: &[(usize, Features)], clips: &mut [Clip]) {
        if batch.is_empty() {
            return;
        }
        match self.embed_features(batch.iter().map(|(_, features)| features)) {
            Ok(embeddings) => {
                for ((clip, _), embedding) in batch.iter().zip(embeddings) {
                    if let Ok(sum) = &mut clips[*clip].sum {
                        sum.add(&embedding);
                    }
                }
            }
            Err(e) => match batch {
                [(clip, _)] => {
                    let clip = &mut clips[*clip];
                    clip.sum = Err(Error::input(clip.name.clone(), e.to_string()));
                }
                _ => batch.chunks(1).for_each(|window| self.flush(window, clips)),
            },
        }
    }

    fn embed_features<'a>(&self, batch: impl Iterator<Item = &'a Features>) -> Result<Vec<Vec<f32>>> {
        let (xs, is_longer) = features_tensor(batch, &self.device)?;
        rows(&self.model.get_audio_features(&xs, &is_longer)?)
    }
}

/// Stacks features into `(B, views, frames, bins)` with their `is_longer` flags.
///
/// # Errors
/// Where there are none or they differ in shape.
pub fn features_tensor<'a>(
    batch: impl IntoIterator<Item = &'a Features>,
    device: &Device,
) -> Result<(Tensor, Vec<bool>)> {
    let mut data = Vec::new();
    let mut is_longer = Vec::new();
    let mut shape = None;
    for features in batch {
        let found = (features.views, features.frames, features.bins);
        if *shape.get_or_insert(found) != found {
            return Err(Error::input("features", format!("a batch mixes shapes {:?} and {found:?}", shape)));
        }
        data.extend_from_slice(&features.data);
        is_longer.push(features.is_longer);
    }
    let Some((views, frames, bins)) = shape else {
        return Err(Error::input("features", "the batch is empty"));
    };
    Ok((Tensor::from_vec(data, (is_longer.len(), views, frames, bins), device)?, is_longer))
}

fn rows(xs: &Tensor) -> Result<Vec<Vec<f32>>> {
    Ok(xs.to_dtype(DType::F32)?.to_vec2::<f32>()?)
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// A clip on its way through the model.
struct Clip {
    /// Its file, or its place among the waveforms.
    name: String,
    sum: Result<Sum>,
}

/// Sum of the embeddings of a clip's windows.
#[derive(Default)]
struct Sum {
    values: Vec<f32>,
    windows: usize,
}

impl Sum {
    fn add(&mut self, embedding: &[f32]) {
        self.windows += 1;
        if self.values.is_empty() {
            self.values = embedding.to_vec();
        } else {
            self.values.iter_mut().zip(embedding).for_each(|(sum, v)| *sum += v);
        }
    }

    /// The mean's direction; its length cancels. A single window's embedding is left as the model gave it.
    fn normalised_mean(mut self) -> Vec<f32> {
        if self.windows > 1 {
            let norm = dot(&self.values, &self.values).sqrt().max(1e-12);
            self.values.iter_mut().for_each(|v| *v /= norm);
        }
        self.values
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FusionType;
    use crate::checkpoint::tests::tiny;

    const RATE: u32 = 8000;

    /// A tone that glides, so that every window of it differs.
    fn wave(seconds: f32, pitch: f32) -> Waveform {
        let n = (seconds * RATE as f32) as usize;
        let samples = (0..n).map(|i| {
            let t = i as f32 / RATE as f32;
            0.5 * (std::f32::consts::TAU * pitch * t * (1.0 + 0.3 * t)).sin()
        });
        Waveform { samples: samples.collect(), sample_rate: RATE }
    }

    fn load(fusion: Option<FusionType>, preset: Option<Preset>) -> Clap {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("model");
        tiny(fusion).save(&folder).unwrap();
        Clap::from_pretrained(&folder, &LoadOptions { preset, ..LoadOptions::default() }).unwrap()
    }

    fn unwrap(rows: Vec<Result<Vec<f32>>>) -> Vec<Vec<f32>> {
        rows.into_iter().map(Result::unwrap).collect()
    }

    #[track_caller]
    fn close(a: &[f32], b: &[f32]) {
        let worst = a.iter().zip(b).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
        assert!(a.len() == b.len() && worst < 2e-6, "{worst:e}");
    }

    /// Half precision rounds, in storage and in between; running statistics as a trained model's, which centre the decibels.
    #[test]
    fn half_precision_embeds_alike() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("model");
        let mut model = tiny(Some(FusionType::Aff2d));
        for (name, value) in [("running_mean", -60f32), ("running_var", 300.0)] {
            let statistic = model.tensors.get_mut(&format!("audio_model.audio_encoder.batch_norm.{name}")).unwrap();
            *statistic = Tensor::full(value, statistic.shape(), &Device::Cpu).unwrap();
        }
        model.save(&folder).unwrap();
        let load = |dtype| Clap::from_pretrained(&folder, &LoadOptions { dtype, ..LoadOptions::default() }).unwrap();
        let embed = |model: &Clap| {
            let mut rows = unwrap(model.embed_waveforms(&[wave(1.0, 300.0), wave(5.5, 500.0)]));
            rows.extend(model.embed_text(&["a dog barks", "rain"]).unwrap());
            rows
        };
        let whole = embed(&load(DType::F32));
        for (dtype, least) in [(DType::F16, 0.9999), (DType::BF16, 0.995)] {
            for (row, (a, b)) in embed(&load(dtype)).iter().zip(&whole).enumerate() {
                let cosine = dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
                assert!(cosine > least, "{dtype:?}, row {row}: {cosine}");
            }
        }
    }

    #[test]
    fn embeddings_have_unit_length() {
        let model = load(None, None);
        let audio = unwrap(model.embed_waveforms(&[wave(1.0, 300.0), wave(5.5, 500.0)]));
        let text = model.embed_text(&["a dog barks", "rain"]).unwrap();
        for row in audio.iter().chain(&text) {
            assert!((dot(row, row) - 1.0).abs() < 1e-5 && row.len() == 10);
        }
        assert_eq!(model.extractor().preset(), Preset::Hf, "the folder has Hugging Face's names");
    }

    #[test]
    fn a_row_does_not_depend_on_the_others() {
        for (fusion, preset) in
            [(None, Preset::Hf), (Some(FusionType::Aff2d), Preset::Hf), (Some(FusionType::Aff2d), Preset::Laion)]
        {
            let waves = [wave(0.7, 200.0), wave(7.0, 400.0), wave(2.0, 900.0), wave(3.1, 100.0)];
            let model = load(fusion, Some(preset));
            let together = unwrap(model.embed_waveforms(&waves));
            let model = model.with_options(EmbedOptions { batch_size: 3, ..EmbedOptions::default() });
            let batched = unwrap(model.embed_waveforms(&waves));
            for (i, wave) in waves.iter().enumerate() {
                let alone = unwrap(model.embed_waveforms(std::slice::from_ref(wave)));
                close(&alone[0], &together[i]);
                close(&alone[0], &batched[i]);
            }
        }
    }

    #[test]
    fn a_long_clip_is_the_mean_direction_of_its_windows() {
        let model = load(None, None);
        let long = wave(5.0, 300.0);
        let cut = |from: usize| Waveform { samples: long.samples[from..from + 16_000].to_vec(), sample_rate: RATE };
        let parts = unwrap(model.embed_waveforms(&[cut(0), cut(16_000), cut(24_000)]));
        let mut sum = Sum::default();
        parts.iter().for_each(|part| sum.add(part));
        close(&sum.normalised_mean(), &unwrap(model.embed_waveforms(&[long]))[0]);
    }

    #[test]
    fn chance_comes_from_a_seed_alone() {
        let long = [wave(6.0, 300.0)];
        let embed = |seed| {
            let options = EmbedOptions { long_audio: Some(LongAudio::Random), seed, ..EmbedOptions::default() };
            load(None, None).with_options(options).embed_waveforms(&long).remove(0)
        };
        assert_eq!(embed(Some(1)).unwrap(), embed(Some(1)).unwrap());
        assert_ne!(embed(Some(1)).unwrap(), embed(Some(2)).unwrap());
        assert!(embed(None).unwrap_err().to_string().contains("seed"));
    }

    #[test]
    fn one_bad_clip_leaves_the_others() {
        let empty = Waveform { samples: vec![], sample_rate: RATE };
        let nan = Waveform { samples: vec![f32::NAN; 8000], sample_rate: RATE };
        let rows = load(None, None).embed_waveforms(&[wave(1.0, 300.0), empty, nan, wave(1.0, 400.0)]);
        assert_eq!(rows.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, false, true]);
        let error = load(None, None).embed_audio(&["absent.wav"]).unwrap_err();
        assert!(error.to_string().contains("absent.wav"), "{error}");
    }

    /// A view that is missing makes the batch fail as a whole, and only its own clip by itself.
    #[test]
    fn a_failed_batch_falls_on_the_clip_at_fault_by_name() {
        let model = load(None, None);
        let good = model.features(&wave(1.0, 300.0)).unwrap().remove(0);
        let bad = Features { data: Vec::new(), views: 0, ..good.clone() };
        let mut clips: Vec<Clip> = ["a.wav", "b.wav", "c.wav"]
            .map(|name| Clip { name: name.to_owned(), sum: Ok(Sum::default()) })
            .into_iter()
            .collect();
        model.flush(&[(0, good.clone()), (1, bad), (2, good)], &mut clips);
        assert!(clips[0].sum.as_ref().is_ok_and(|sum| sum.windows == 1));
        assert!(clips[2].sum.as_ref().is_ok_and(|sum| sum.windows == 1));
        let Err(error) = &clips[1].sum else { panic!("a clip without a view cannot be embedded") };
        assert!(error.to_string().starts_with("b.wav: "), "{error}");
    }

    #[test]
    fn labels_are_ranked_and_probabilities_sum_to_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tone.wav");
        std::fs::write(&path, wav(&wave(1.0, 440.0))).unwrap();
        let model = load(None, None);
        let labels = ["dog", "rain", "roof"];
        let scores = model.classify(&[&path], &labels, "this is a sound of {label}").unwrap().remove(0).unwrap();
        assert!((scores.iter().map(|s| s.score).sum::<f32>() - 1.0).abs() < 1e-5);
        assert!(scores.windows(2).all(|pair| pair[0].score >= pair[1].score));
        assert!(model.classify(&[&path], &labels, "no place").unwrap_err().to_string().contains("{label}"));
        assert!(model.classify(&[&path], &[] as &[&str], "{label}").is_err());
    }

    /// 16-bit mono WAV.
    fn wav(wave: &Waveform) -> Vec<u8> {
        let data: Vec<u8> = wave.samples.iter().flat_map(|s| ((s * 32767.0) as i16).to_le_bytes()).collect();
        let mut out = Vec::new();
        out.extend(*b"RIFF");
        out.extend((36 + data.len() as u32).to_le_bytes());
        out.extend(*b"WAVEfmt ");
        out.extend(16u32.to_le_bytes());
        out.extend(1u16.to_le_bytes());
        out.extend(1u16.to_le_bytes());
        out.extend(wave.sample_rate.to_le_bytes());
        out.extend((wave.sample_rate * 2).to_le_bytes());
        out.extend(2u16.to_le_bytes());
        out.extend(16u16.to_le_bytes());
        out.extend(*b"data");
        out.extend((data.len() as u32).to_le_bytes());
        out.extend(data);
        out
    }
}
