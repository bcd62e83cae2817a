//! Waveform to the `input_features` of a CLAP model.

use std::cell::RefCell;
use std::fmt;
use std::str::FromStr;

use rand::{Rng, RngCore};
use serde::{Deserialize, Serialize};

use crate::config::{FeatureConfig, Truncation};
use crate::error::{Error, Result};
use crate::length::{LongAudio, draw_starts, fill_into, fusion_parts, fusion_views, middle_starts, window_starts};
use crate::log_mel::{LogMel, Mel, Scratch};
use crate::quantize::int16_round_trip;
use crate::reader::check_finite;
use crate::waveform::Waveform;

/// Which of the two references' features to compute. They share the spectrogram and differ in two details.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// `transformers`: samples as they are; in a call where no clip is longer than the window, one is flagged as longer
    /// all the same (fused models only), so that a short clip on its own always is.
    Hf,
    /// `laion_clap`: samples rounded to 16 bits; only a clip that is longer is flagged.
    Laion,
}

impl fmt::Display for Preset {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Hf => "hf",
            Self::Laion => "laion",
        })
    }
}

impl FromStr for Preset {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "hf" => Ok(Self::Hf),
            "laion" => Ok(Self::Laion),
            _ => Err(Error::Config { key: "preset", value: text.to_owned(), reason: "must be hf or laion".to_owned() }),
        }
    }
}

/// The features of one window (or of one fused clip).
#[derive(Clone, Debug, PartialEq)]
pub struct Features {
    /// Log-mel values in dB, row-major (views, frames, bins).
    pub data: Vec<f32>,
    /// 4 for a fused model, else 1.
    pub views: usize,
    /// Frames of one window.
    pub frames: usize,
    /// Mel bins.
    pub bins: usize,
    /// The model's `is_longer` input, for this clip on its own. [`FeatureExtractor::flag_batch`] sets it for a batch.
    pub is_longer: bool,
    /// Whether the views are only a part of a longer clip.
    pub really_longer: bool,
}

/// Where in a clip the views are taken: the outcome of a policy, free of choices and chance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// The window that starts at this sample, as a clip of its own.
    Window(usize),
    /// The same window, standing for a longer clip.
    Crop(usize),
    /// Fusion's four views, its windows starting at these frames: front, middle, back.
    Fusion([usize; 3]),
}

/// Computes features. Cheap to share between threads.
#[derive(Clone, Debug)]
pub struct FeatureExtractor {
    config: FeatureConfig,
    preset: Preset,
    log_mel: LogMel,
}

impl FeatureExtractor {
    /// Checks the configuration and prepares filters and transforms.
    ///
    /// # Errors
    /// [`Error::Config`], naming the key.
    pub fn new(config: FeatureConfig, preset: Preset) -> Result<Self> {
        config.validate()?;
        let log_mel = LogMel::new(&config.mel())?;
        Ok(Self { config, preset, log_mel })
    }

    /// The configuration.
    pub fn config(&self) -> &FeatureConfig {
        &self.config
    }

    /// The reference whose features these are.
    pub fn preset(&self) -> Preset {
        self.preset
    }

    /// The spectrogram underneath.
    pub fn log_mel(&self) -> &LogMel {
        &self.log_mel
    }

    /// Views per clip: 4 for a fused model, else 1.
    pub fn views(&self) -> usize {
        self.config.views()
    }

    /// The deterministic policy: windows all along for an unfused model, the middle of each third for a fused one.
    pub fn default_policy(&self) -> LongAudio {
        match self.config.truncation {
            Truncation::RandTrunc => LongAudio::Windows { hop_s: None },
            Truncation::Fusion => LongAudio::Fusion,
        }
    }

    /// The features of a clip: one item, or one per window under [`LongAudio::Windows`].
    ///
    /// A generator is needed by [`LongAudio::Random`], and makes [`LongAudio::Fusion`] draw its windows.
    ///
    /// # Errors
    /// [`Error::SampleRate`], [`Error::NoSamples`] and [`Error::NotFinite`] for the waveform, [`Error::Policy`] for a
    /// policy that the configuration or the missing generator does not allow, and for fusion of a clip whose spectrogram has
    /// more than [`FeatureConfig::MAX_VALUES`] values.
    pub fn extract(&self, wave: &Waveform, policy: LongAudio, rng: Option<&mut dyn RngCore>) -> Result<Vec<Features>> {
        self.check(wave)?;
        let placements = self.place(wave.samples.len(), policy, rng)?;
        for &placement in &placements {
            self.check_memory(wave.samples.len(), placement)?;
        }
        Ok(placements.into_iter().map(|placement| self.views_at(&wave.samples, placement)).collect())
    }

    /// The features at a given place.
    ///
    /// # Errors
    /// As [`FeatureExtractor::extract`]; [`Error::Policy`] also for a place beyond the clip.
    pub fn extract_at(&self, wave: &Waveform, placement: Placement) -> Result<Features> {
        self.check(wave)?;
        let len = wave.samples.len();
        let outside = match placement {
            Placement::Window(start) | Placement::Crop(start) => {
                start > 0 && start.saturating_add(self.config.max_samples()) > len
            }
            Placement::Fusion(starts) => {
                self.config.truncation != Truncation::Fusion
                    || starts.iter().any(|start| start.saturating_add(self.config.frames()) > self.log_mel.frames(len))
            }
        };
        if outside {
            let reason = format!("does not fit a clip of {len} samples or the truncation {:?}", self.config.truncation);
            return Err(Error::Policy { policy: format!("{placement:?}"), reason });
        }
        self.check_memory(len, placement)?;
        Ok(self.views_at(&wave.samples, placement))
    }

    /// Sets `is_longer` as one call of the reference on this batch does. Only the preset [`Preset::Hf`] looks at the whole
    /// batch: if no clip is really longer it flags one of them, at random in `transformers`, the first one here.
    pub fn flag_batch(&self, batch: &mut [Features]) {
        let any = batch.iter().any(|features| features.really_longer);
        for (index, features) in batch.iter_mut().enumerate() {
            features.is_longer = features.really_longer || (self.forces_longer() && !any && index == 0);
        }
    }

    fn forces_longer(&self) -> bool {
        self.preset == Preset::Hf && self.config.truncation == Truncation::Fusion
    }

    fn check(&self, wave: &Waveform) -> Result<()> {
        if wave.sample_rate != self.config.sampling_rate {
            return Err(Error::SampleRate { got: wave.sample_rate, want: self.config.sampling_rate });
        }
        if wave.samples.is_empty() {
            return Err(Error::NoSamples { name: "waveform".to_owned() });
        }
        check_finite("waveform", &wave.samples)
    }

    /// Fusion shrinks the spectrogram of the whole clip, however long; the other placements are bounded by the window.
    fn check_memory(&self, len: usize, placement: Placement) -> Result<()> {
        let values = self.log_mel.frames(len) as u64 * self.config.feature_size as u64;
        if matches!(placement, Placement::Fusion(_)) && values > FeatureConfig::MAX_VALUES {
            let limit = FeatureConfig::MAX_VALUES;
            let reason = format!("the clip's spectrogram has {values} values, {limit} is the limit; cut it into parts");
            return Err(Error::Policy { policy: LongAudio::Fusion.to_string(), reason });
        }
        Ok(())
    }

    /// Where a policy takes its views in a clip of `len` samples: one place, or one per window under
    /// [`LongAudio::Windows`].
    ///
    /// # Errors
    /// [`Error::Policy`] for a policy that the configuration or the missing generator does not allow.
    pub fn place(&self, len: usize, policy: LongAudio, rng: Option<&mut dyn RngCore>) -> Result<Vec<Placement>> {
        let refuse = |reason: &str| Err(Error::Policy { policy: policy.to_string(), reason: reason.to_owned() });
        if policy == LongAudio::Fusion && self.config.truncation != Truncation::Fusion {
            return refuse("needs a model with truncation \"fusion\"; use windows, head, center or random");
        }
        if policy == LongAudio::Random && rng.is_none() {
            return refuse("needs a seed");
        }
        let window = self.config.max_samples();
        let hop = match policy {
            LongAudio::Windows { hop_s: Some(seconds) } => {
                let hop = (seconds * f64::from(self.config.sampling_rate)).round();
                if hop.is_nan() || hop < 1.0 {
                    return refuse(&format!("a hop of {seconds} s is less than a sample"));
                }
                hop as usize
            }
            _ => window,
        };
        let Some(room) = len.checked_sub(window).filter(|&room| room > 0) else {
            return Ok(vec![Placement::Window(0)]);
        };
        Ok(match (policy, rng) {
            (LongAudio::Windows { .. }, _) => {
                window_starts(len, window, hop).into_iter().map(Placement::Window).collect()
            }
            (LongAudio::Center, _) => vec![Placement::Crop(room / 2)],
            (LongAudio::Random, Some(rng)) => vec![Placement::Crop(rng.random_range(0..=room))],
            (LongAudio::Head | LongAudio::Random, _) => vec![Placement::Crop(0)],
            (LongAudio::Fusion, rng) => {
                let parts = fusion_parts(self.log_mel.frames(len), self.config.frames());
                vec![Placement::Fusion(rng.map_or_else(|| middle_starts(&parts), |rng| draw_starts(&parts, rng)))]
            }
        })
    }

    /// The views at a place that fits the clip.
    fn views_at(&self, samples: &[f32], placement: Placement) -> Features {
        let (window, frames) = (self.config.max_samples(), self.config.frames());
        let (start, len, fused) = match placement {
            Placement::Window(start) | Placement::Crop(start) => (start, window, None),
            // Longer by less than a hop: as many frames as a window has, so the reference takes the clip whole.
            Placement::Fusion(starts) => {
                (0, samples.len(), (self.log_mel.frames(samples.len()) != frames).then_some(starts))
            }
        };
        let mel = SCRATCH.with_borrow_mut(|scratch| self.mel_of(samples, start, len, scratch));
        let bins = mel.bins;
        let data = match fused {
            Some(starts) => fusion_views(&mel, frames, starts),
            None if self.views() == 1 => mel.data,
            None => mel.data.repeat(self.views()),
        };
        // A crop given to a fused model is a whole clip to it.
        let crop = matches!(placement, Placement::Crop(_)) && self.config.truncation == Truncation::RandTrunc;
        let really_longer = fused.is_some() || (crop && samples.len() > window);
        let is_longer = really_longer || self.forces_longer();
        Features { data, views: self.views(), frames, bins, is_longer, really_longer }
    }

    /// The spectrogram of `len` samples from `start` on, after padding and the preset's rounding.
    fn mel_of(&self, samples: &[f32], start: usize, len: usize, scratch: &mut Scratch) -> Mel {
        let samples = &samples[start..];
        if self.preset == Preset::Hf && samples.len() >= len {
            return self.log_mel.compute(&samples[..len], scratch);
        }
        let mut clip = std::mem::take(&mut scratch.clip);
        fill_into(samples, len, self.config.padding, &mut clip);
        if self.preset == Preset::Laion {
            int16_round_trip(&mut clip);
        }
        let mel = self.log_mel.compute(&clip, scratch);
        if clip.capacity() <= KEPT_SAMPLES {
            scratch.clip = clip;
        }
        mel
    }
}

thread_local! {
    /// Buffers that live as long as the thread: a new one of 2 MB per clip costs more in page faults than its transforms.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// A longer buffer than this is not kept.
const KEPT_SAMPLES: usize = 1 << 22;

#[cfg(test)]
mod tests;
