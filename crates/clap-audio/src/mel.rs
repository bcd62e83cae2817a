//! Mel filter banks, kept sparse.
//!
//! Two banks matter to CLAP. The unfused models were trained with librosa's default (Slaney's scale and area
//! normalisation; `librosa/filters.py`, `mel`, 0.10), the fused ones with torchaudio's (HTK scale, no normalisation;
//! `torchaudio/functional/functional.py`, `melscale_fbanks`). On a real clip they differ by up to 34 dB in a bin.

use crate::error::{Error, Result};

/// Which frequency scale the filters are equally spaced on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MelScale {
    /// Slaney's Auditory Toolbox: linear to 1 kHz, then logarithmic. librosa's default.
    Slaney,
    /// `2595 * log10(1 + f / 700)`, of the HTK book. torchaudio's default.
    Htk,
}

impl MelScale {
    /// Hertz to mel.
    pub fn mel(self, hertz: f64) -> f64 {
        match self {
            Self::Htk => 2595.0 * (1.0 + hertz / 700.0).log10(),
            Self::Slaney if hertz < 1000.0 => hertz * 3.0 / 200.0,
            Self::Slaney => 15.0 + (hertz / 1000.0).ln() * 27.0 / 6.4f64.ln(),
        }
    }

    /// Mel to hertz.
    pub fn hertz(self, mel: f64) -> f64 {
        match self {
            Self::Htk => 700.0 * (10f64.powf(mel / 2595.0) - 1.0),
            Self::Slaney if mel < 15.0 => mel * 200.0 / 3.0,
            Self::Slaney => 1000.0 * ((mel - 15.0) * 6.4f64.ln() / 27.0).exp(),
        }
    }
}

/// What a log-mel spectrogram is computed with. Names follow torchaudio's `MelSpectrogram`.
#[derive(Clone, Debug, PartialEq)]
pub struct MelConfig {
    /// Samples per second.
    pub sample_rate: u32,
    /// Samples per frame, which is also the window's length.
    pub n_fft: usize,
    /// Samples from frame to frame.
    pub hop_length: usize,
    /// Mel bins.
    pub n_mels: usize,
    /// Lower edge of the first filter, in Hz.
    pub f_min: f64,
    /// Upper edge of the last filter, in Hz.
    pub f_max: f64,
    /// The scale of the filters' centres.
    pub scale: MelScale,
    /// Divide each triangle by its half width in Hz, so that all have the same area.
    pub slaney_norm: bool,
}

impl MelConfig {
    /// The largest frame; a bound on the memory that a configuration file can ask for.
    pub const MAX_N_FFT: usize = 1 << 16;

    /// Checks that a spectrogram can be computed.
    ///
    /// # Errors
    /// [`Error::Config`], naming the key of `preprocessor_config.json`.
    pub fn validate(&self) -> Result<()> {
        let nyquist = f64::from(self.sample_rate) / 2.0;
        let fail = |key, value: &dyn std::fmt::Display, reason: String| {
            Err(Error::Config { key, value: value.to_string(), reason })
        };
        if self.sample_rate == 0 {
            return fail("sampling_rate", &self.sample_rate, "must be positive".into());
        }
        if !(2..=Self::MAX_N_FFT).contains(&self.n_fft) {
            return fail("fft_window_size", &self.n_fft, format!("must be within 2 and {}", Self::MAX_N_FFT));
        }
        if self.hop_length == 0 {
            return fail("hop_length", &self.hop_length, "must be positive".into());
        }
        if self.n_mels == 0 || self.n_mels > self.n_fft {
            return fail("feature_size", &self.n_mels, format!("must be within 1 and fft_window_size {}", self.n_fft));
        }
        if !(self.f_min >= 0.0 && self.f_min < self.f_max) {
            let reason = format!("must be at least 0 and below frequency_max {}", self.f_max);
            return fail("frequency_min", &self.f_min, reason);
        }
        if self.f_max > nyquist {
            return fail("frequency_max", &self.f_max, format!("must not exceed half the sampling rate, {nyquist}"));
        }
        Ok(())
    }
}

/// One triangle: its first FFT bin and its weights from there on.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Filter {
    pub(crate) first: usize,
    pub(crate) weights: Vec<f32>,
}

/// Triangular filters over the bins of a power spectrum.
#[derive(Clone, Debug, PartialEq)]
pub struct MelBank {
    filters: Vec<Filter>,
    n_freqs: usize,
}

impl MelBank {
    /// The bank of a configuration, computed in `f64` and rounded once.
    ///
    /// # Errors
    /// [`Error::Config`] as [`MelConfig::validate`].
    pub fn new(config: &MelConfig) -> Result<Self> {
        config.validate()?;
        let n_freqs = config.n_fft / 2 + 1;
        let bin_width = f64::from(config.sample_rate) / config.n_fft as f64;
        let (low, high) = (config.scale.mel(config.f_min), config.scale.mel(config.f_max));
        let step = (high - low) / (config.n_mels + 1) as f64;
        let edge = |index: usize| config.scale.hertz(low + step * index as f64);
        let filters = (0..config.n_mels)
            .map(|index| {
                let (left, centre, right) = (edge(index), edge(index + 1), edge(index + 2));
                let height = if config.slaney_norm { 2.0 / (right - left) } else { 1.0 };
                let weight = |bin: usize| {
                    let hertz = bin as f64 * bin_width;
                    let slope = ((hertz - left) / (centre - left)).min((right - hertz) / (right - centre));
                    (slope.max(0.0) * height) as f32
                };
                let first = (0..n_freqs).find(|&bin| weight(bin) > 0.0).unwrap_or(0);
                let weights = (first..n_freqs).map(weight).take_while(|&weight| weight > 0.0).collect();
                Filter { first, weights }
            })
            .collect();
        Ok(Self { filters, n_freqs })
    }

    /// How many mel bins.
    pub fn n_mels(&self) -> usize {
        self.filters.len()
    }

    /// How many bins of the power spectrum, `n_fft / 2 + 1`.
    pub fn n_freqs(&self) -> usize {
        self.n_freqs
    }

    /// The bank as a matrix, row-major (frequencies, mel bins): the layout of `melW` in a LAION checkpoint.
    pub fn dense(&self) -> Vec<f32> {
        let mut matrix = vec![0.0; self.n_freqs * self.filters.len()];
        for (index, filter) in self.filters.iter().enumerate() {
            for (offset, &weight) in filter.weights.iter().enumerate() {
                matrix[(filter.first + offset) * self.filters.len() + index] = weight;
            }
        }
        matrix
    }

    pub(crate) fn filters(&self) -> &[Filter] {
        &self.filters
    }

    /// The FFT bins that any filter reads.
    pub(crate) fn used_bins(&self) -> std::ops::Range<usize> {
        let used = || self.filters.iter().filter(|filter| !filter.weights.is_empty());
        let start = used().map(|filter| filter.first).min().unwrap_or(0);
        let end = used().map(|filter| filter.first + filter.weights.len()).max().unwrap_or(0);
        start..end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(scale: MelScale, slaney_norm: bool) -> MelConfig {
        MelConfig {
            sample_rate: 48_000,
            n_fft: 1024,
            hop_length: 480,
            n_mels: 64,
            f_min: 50.0,
            f_max: 14_000.0,
            scale,
            slaney_norm,
        }
    }

    #[test]
    fn scales_have_their_published_points_and_invert() {
        assert!((MelScale::Slaney.mel(1000.0) - 15.0).abs() < 1e-12);
        assert!((MelScale::Slaney.mel(6400.0) - 42.0).abs() < 1e-12);
        assert!((MelScale::Htk.mel(1000.0) - 999.985_5).abs() < 1e-3);
        for hertz in [0.0, 50.0, 999.0, 1000.0, 14_000.0] {
            for scale in [MelScale::Slaney, MelScale::Htk] {
                assert!((scale.hertz(scale.mel(hertz)) - hertz).abs() < 1e-8, "{scale:?} {hertz}");
            }
        }
    }

    #[test]
    fn htk_triangles_partition_unity_between_the_outer_centres() {
        let bank = MelBank::new(&config(MelScale::Htk, false)).unwrap();
        let dense = bank.dense();
        let sum = |bin: usize| dense[bin * 64..(bin + 1) * 64].iter().sum::<f32>();
        // Between the first centre (about 86 Hz, bin 2) and the last one (about 13.4 kHz, bin 285) slopes add up to 1.
        for bin in 3..280 {
            assert!((sum(bin) - 1.0).abs() < 1e-6, "bin {bin}: {}", sum(bin));
        }
        assert_eq!(sum(0), 0.0);
        assert_eq!(sum(300), 0.0);
    }

    #[test]
    fn slaney_triangles_have_unit_area() {
        let config = config(MelScale::Slaney, true);
        let bank = MelBank::new(&config).unwrap();
        // Wide triangles only: a narrow one is sampled too coarsely by 46.9 Hz bins.
        for filter in &bank.filters()[50..] {
            let area = filter.weights.iter().sum::<f32>() * 48_000.0 / 1024.0;
            assert!((area - 1.0).abs() < 0.02, "{area}");
        }
    }

    #[test]
    fn a_filter_narrower_than_a_bin_is_empty_not_an_error() {
        let bank = MelBank::new(&MelConfig { n_fft: 64, n_mels: 60, ..config(MelScale::Htk, false) }).unwrap();
        assert!(bank.filters().iter().any(|filter| filter.weights.is_empty()));
        assert_eq!(bank.dense().len(), 33 * 60);
    }

    fn check_invalid(config: MelConfig, key: &str) {
        let error = MelBank::new(&config).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{key} = ")), "{error}");
    }

    #[test]
    fn nonsense_is_refused_by_key() {
        let good = || config(MelScale::Htk, false);
        check_invalid(MelConfig { sample_rate: 0, ..good() }, "sampling_rate");
        check_invalid(MelConfig { n_fft: 0, ..good() }, "fft_window_size");
        check_invalid(MelConfig { n_fft: usize::MAX, ..good() }, "fft_window_size");
        check_invalid(MelConfig { hop_length: 0, ..good() }, "hop_length");
        check_invalid(MelConfig { n_mels: 0, ..good() }, "feature_size");
        check_invalid(MelConfig { f_min: f64::NAN, ..good() }, "frequency_min");
        check_invalid(MelConfig { f_min: 20_000.0, ..good() }, "frequency_min");
        check_invalid(MelConfig { f_max: 24_001.0, ..good() }, "frequency_max");
    }
}
