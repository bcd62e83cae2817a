//! The front end that a file was trained with, from the matrices of it that torchlibrosa leaves among the weights: the mel bank and
//! the short-time Fourier transform.
//!
//! Source: torchlibrosa `stft.py` (`Spectrogram`, `LogmelFilterBank`); LAION's and AudioSet's programs keep both in their towers.
//! What no matrix tells is the step between frames and the length of the window. Where the bank is that of one of LAION's model
//! configs, these are that config's; else LAION's usual ones, scaled to the sample rate.

use candle_core::{DType, Device};
use clap_audio::{FeatureConfig, MelBank, MelScale, Truncation};

use super::Checkpoint;
use crate::error::Result;

const BANK: &str = "audio_model.audio_encoder.logmel_extractor.melW";
const TRANSFORM: &str = "audio_model.audio_encoder.spectrogram_extractor.stft.conv_real.weight";

/// Sample rates that a bank is tried with; LAION's first.
const RATES: [u32; 6] = [48_000, 32_000, 44_100, 16_000, 22_050, 8_000];

/// Frames of a second, LAION's and PANNs'.
const FRAMES_PER_SECOND: u32 = 100;

/// Greatest difference between a filter of the file and the one that it is taken for, over the filter's greatest value. Half
/// precision rounds by 5e-4, and an upper edge that is 50 Hz off moves the last filter by 5e-2.
const TOLERANCE: f32 = 2e-3;

impl Checkpoint {
    /// True where the file has a mel bank, whether it is one that is known or not.
    #[must_use]
    pub fn has_mel_bank(&self) -> bool {
        self.shape(BANK).is_some()
    }

    /// The front end, or `None` where the file has no mel bank or none that is known: one of Slaney's scale and norm, which LAION's
    /// files hold even where a fused model is given HTK's by its loader. `truncation` says which of the two the model is.
    ///
    /// # Errors
    /// Where the bank cannot be read.
    pub fn detect_features(&self, truncation: Truncation) -> Result<Option<FeatureConfig>> {
        let Some(stored) = self.tensor(BANK, DType::F32, &Device::Cpu)? else { return Ok(None) };
        let Ok((rows, bins)) = stored.dims2() else { return Ok(None) };
        let n_fft = match self.shape(TRANSFORM) {
            Some(&[_, _, n_fft]) => n_fft,
            _ => rows.saturating_sub(1) * 2,
        };
        if n_fft / 2 + 1 != rows {
            return Ok(None);
        }
        let bank = Bank { values: stored.flatten_all()?.to_vec1()?, bins, n_fft };
        let named = FeatureConfig::names().filter_map(|name| FeatureConfig::named(name, Truncation::RandTrunc).ok());
        let measured = RATES.into_iter().filter_map(|rate| bank.measured(rate));
        let found = named.chain(measured).find(|config| bank.is_of(config));
        Ok(found.map(|config| FeatureConfig { truncation, ..config }))
    }
}

/// A mel bank of a file, `(n_fft / 2 + 1, bins)`.
struct Bank {
    values: Vec<f32>,
    bins: usize,
    n_fft: usize,
}

impl Bank {
    fn is_of(&self, config: &FeatureConfig) -> bool {
        if (config.fft_window_size, config.feature_size) != (self.n_fft, self.bins) {
            return false;
        }
        let Ok(bank) = MelBank::new(&config.mel()) else { return false };
        let expected = bank.dense();
        let mut peaks = vec![0f32; self.bins];
        for row in expected.chunks_exact(self.bins) {
            peaks.iter_mut().zip(row).for_each(|(peak, &value)| *peak = peak.max(value));
        }
        let close = |(i, (a, b)): (usize, (&f32, &f32))| (a - b).abs() <= TOLERANCE * peaks[i % self.bins];
        self.values.iter().zip(&expected).enumerate().all(close)
    }

    /// The front end whose last filter has the file's slopes, at a sample rate. Filters are triangles over edges that lie evenly on
    /// the mel scale: the last one falls to zero at the upper edge of the bank and rises from zero two steps below it.
    fn measured(&self, rate: u32) -> Option<FeatureConfig> {
        let last: Vec<f64> = self.values.iter().skip(self.bins - 1).step_by(self.bins).map(|&v| f64::from(v)).collect();
        let top = (0..last.len()).max_by(|&a, &b| last[a].total_cmp(&last[b]))?;
        let first = last.iter().position(|&value| value > 0.0)?;
        let end = last.iter().rposition(|&value| value > 0.0)?;
        let hertz = f64::from(rate) / self.n_fft as f64;
        // The line through the values of two rows is zero at a row in between.
        let zero = |from: usize, to: usize| {
            let slope = (last[to] - last[from]) / (to as f64 - from as f64);
            (from as f64 - last[from] / slope) * hertz
        };
        // The greatest value's own row may lie on either slope.
        let (rising, falling) = (top.checked_sub(1).filter(|&row| row > first)?, (top + 1 < end).then_some(top + 1)?);
        let scale = MelScale::Slaney;
        let (below, above) = (scale.mel(zero(first, rising)), scale.mel(zero(falling, end)));
        let f_min = scale.hertz(above - (above - below) / 2.0 * (self.bins + 1) as f64);
        Some(FeatureConfig {
            feature_size: self.bins,
            sampling_rate: rate,
            hop_length: (rate / FRAMES_PER_SECOND) as usize,
            fft_window_size: self.n_fft,
            frequency_min: f_min.round().max(0.0),
            frequency_max: scale.hertz(above).round(),
            ..FeatureConfig::published(Truncation::RandTrunc)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use candle_core::Tensor;

    use super::*;

    /// What is found of a bank, stored as `dtype`.
    fn found(config: &FeatureConfig, dtype: DType) -> Option<FeatureConfig> {
        let bank = MelBank::new(&config.mel()).unwrap();
        let shape = (bank.n_freqs(), bank.n_mels());
        let bank = Tensor::from_vec(bank.dense(), shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
        let checkpoint = Checkpoint::from_tensors(HashMap::from([(BANK.to_owned(), bank)])).unwrap();
        checkpoint.detect_features(config.truncation).unwrap()
    }

    #[test]
    fn each_of_laions_front_ends_is_told_by_its_bank() {
        for name in FeatureConfig::names() {
            let config = FeatureConfig::named(name, Truncation::RandTrunc).unwrap();
            for dtype in [DType::F32, DType::F16] {
                assert_eq!(found(&config, dtype).as_ref(), Some(&config), "{name}");
            }
        }
    }

    #[test]
    fn other_edges_and_rates_are_measured() {
        for (rate, n_fft, bins, low, high) in [
            (32_000, 1024, 64, 50.0, 14_000.0),
            (16_000, 512, 64, 50.0, 8_000.0),
            (48_000, 1024, 32, 0.0, 14_000.0),
            (44_100, 1024, 64, 50.0, 8_000.0),
        ] {
            let config = FeatureConfig {
                feature_size: bins,
                sampling_rate: rate,
                hop_length: rate as usize / 100,
                fft_window_size: n_fft,
                frequency_min: low,
                frequency_max: high,
                ..FeatureConfig::published(Truncation::RandTrunc)
            };
            assert_eq!(found(&config, DType::F32).as_ref(), Some(&config));
        }
    }

    #[test]
    fn a_bank_of_another_scale_is_not_taken_for_one_of_these() {
        let config = FeatureConfig::published(Truncation::Fusion);
        assert_eq!(found(&config, DType::F32), None);
        let silent = Tensor::zeros((513, 64), DType::F32, &Device::Cpu).unwrap();
        let checkpoint = Checkpoint::from_tensors(HashMap::from([(BANK.to_owned(), silent)])).unwrap();
        assert_eq!(checkpoint.detect_features(Truncation::RandTrunc).unwrap(), None);
    }
}
