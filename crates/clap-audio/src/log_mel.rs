//! Log-mel spectrogram: centred STFT with a periodic Hann window and reflect padding, power, mel filters, decibel.
//!
//! The same numbers as `torchlibrosa.stft.Spectrogram` + `LogmelFilterBank` (0.1.0), torchaudio's `MelSpectrogram` +
//! `AmplitudeToDB` and `transformers`' `audio_utils.spectrogram`, given the same bank.

use std::fmt;

use rustfft::num_complex::Complex;

use crate::decibel::power_to_db;
use crate::error::Result;
use crate::mel::{Filter, MelBank, MelConfig};
use crate::real_fft::{RealFft, parts};
use crate::vectorise::vectorised;

/// Frames whose powers are filtered together: the filter loop then runs over adjacent numbers.
const LANES: usize = 8;

/// A log-mel spectrogram in decibel.
#[derive(Clone, Debug, PartialEq)]
pub struct Mel {
    /// The values, row-major (frames, bins), at least -100.
    pub data: Vec<f32>,
    /// Frames, `samples / hop_length + 1`.
    pub frames: usize,
    /// Mel bins.
    pub bins: usize,
}

/// Buffers of [`LogMel::compute`], reusable from clip to clip and between configurations.
#[derive(Default)]
pub struct Scratch {
    frame: Vec<Complex<f32>>,
    fft: Vec<Complex<f32>>,
    /// (LANES, used FFT bins)
    powers: Vec<f32>,
    /// (used FFT bins, LANES)
    lanes: Vec<f32>,
    /// The window of a clip that features are computed of, when it has to be made.
    pub(crate) clip: Vec<f32>,
}

/// Computes log-mel spectrograms of one configuration. Cheap to share between threads.
#[derive(Clone)]
pub struct LogMel {
    config: MelConfig,
    bank: MelBank,
    window: Vec<f32>,
    fft: RealFft,
}

impl fmt::Debug for LogMel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("LogMel").field("config", &self.config).finish_non_exhaustive()
    }
}

impl LogMel {
    /// Plans the transform and builds window and bank.
    ///
    /// # Errors
    /// [`crate::Error::Config`] as [`MelConfig::validate`].
    pub fn new(config: &MelConfig) -> Result<Self> {
        let bank = MelBank::new(config)?;
        let step = 2.0 * std::f64::consts::PI / config.n_fft as f64;
        let window = (0..config.n_fft).map(|n| (0.5 - 0.5 * (step * n as f64).cos()) as f32).collect();
        let fft = RealFft::forward(config.n_fft);
        Ok(Self { config: config.clone(), bank, window, fft })
    }

    /// The configuration.
    pub fn config(&self) -> &MelConfig {
        &self.config
    }

    /// The filter bank.
    pub fn bank(&self) -> &MelBank {
        &self.bank
    }

    /// How many frames `samples` samples give; none for an empty signal.
    pub fn frames(&self, samples: usize) -> usize {
        if samples == 0 { 0 } else { samples / self.config.hop_length + 1 }
    }

    /// The spectrogram of `samples`, (frames, bins).
    ///
    /// Frame t is centred on sample `t * hop_length`; the signal is mirrored at both ends, again and again if it is
    /// shorter than half a frame.
    pub fn compute(&self, samples: &[f32], scratch: &mut Scratch) -> Mel {
        let frames = self.frames(samples.len());
        let bins = self.bank.n_mels();
        let mut data = vec![0.0; frames * bins];
        let used = self.bank.used_bins();
        scratch.frame.resize(self.fft.buffer_len(), Complex::default());
        scratch.fft.resize(self.fft.scratch_len(), Complex::default());
        scratch.powers.resize(used.len() * LANES, 0.0);
        scratch.lanes.resize(used.len() * LANES, 0.0);
        for (block, rows) in data.chunks_mut(LANES * bins).enumerate() {
            let powers = scratch.powers.chunks_exact_mut(used.len().max(1));
            for (lane, powers) in powers.take(rows.len() / bins).enumerate() {
                self.load_frame(samples, block * LANES + lane, &mut parts(&mut scratch.frame)[..self.config.n_fft]);
                self.fft.transform(&mut scratch.frame, &mut scratch.fft);
                self.fft.powers(&scratch.frame, used.start, powers);
            }
            transpose(&scratch.powers, &mut scratch.lanes);
            filter(self.bank.filters(), &scratch.lanes, used.start, rows);
            power_to_db(rows);
        }
        Mel { data, frames, bins }
    }

    /// Writes the windowed samples of frame `index` to `frame`.
    fn load_frame(&self, samples: &[f32], index: usize, frame: &mut [f32]) {
        let centre = index * self.config.hop_length;
        let half = self.config.n_fft / 2;
        let inside = centre.checked_sub(half).and_then(|start| samples.get(start..start + self.config.n_fft));
        match inside {
            Some(inside) => multiply(inside, &self.window, frame),
            None => {
                for (offset, (value, &weight)) in frame.iter_mut().zip(&self.window).enumerate() {
                    let position = (centre + offset) as isize - half as isize;
                    *value = samples[reflect(position, samples.len())] * weight;
                }
            }
        }
    }
}

vectorised! {
    fn multiply(samples: &[f32], window: &[f32], frame: &mut [f32]) {
        for ((value, &sample), &weight) in frame.iter_mut().zip(samples).zip(window) {
            *value = sample * weight;
        }
    }
}

vectorised! {
    /// (LANES, bins) to (bins, LANES).
    fn transpose(powers: &[f32], lanes: &mut [f32]) {
        let bins = powers.len() / LANES;
        for bin in 0..bins {
            for lane in 0..LANES {
                lanes[bin * LANES + lane] = powers[lane * bins + bin];
            }
        }
    }
}

vectorised! {
    /// `rows[lane][mel] = sum over bins of weight[mel][bin] * powers[bin][lane]`.
    fn filter(filters: &[Filter], powers: &[f32], first_bin: usize, rows: &mut [f32]) {
        let bins = filters.len();
        for (mel, filter) in filters.iter().enumerate() {
            let mut sums = [0.0f32; LANES];
            if !filter.weights.is_empty() {
                let start = (filter.first - first_bin) * LANES;
                for (&weight, lanes) in filter.weights.iter().zip(powers[start..].chunks_exact(LANES)) {
                    for (sum, &power) in sums.iter_mut().zip(lanes) {
                        *sum += weight * power;
                    }
                }
            }
            for (row, &sum) in rows.chunks_exact_mut(bins).zip(&sums) {
                row[mel] = sum;
            }
        }
    }
}

/// The index that `position` falls on when `0..len` is mirrored at its ends without repeating them, as numpy's and
/// torch's `reflect` padding do; a single sample stands for all positions.
fn reflect(position: isize, len: usize) -> usize {
    let period = 2 * (len - 1);
    if period == 0 {
        return 0;
    }
    let folded = position.rem_euclid(period as isize) as usize;
    folded.min(period - folded)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::mel::MelScale;

    fn small() -> LogMel {
        LogMel::new(&MelConfig {
            sample_rate: 8_000,
            n_fft: 64,
            hop_length: 20,
            n_mels: 8,
            f_min: 50.0,
            f_max: 4_000.0,
            scale: MelScale::Htk,
            slaney_norm: false,
        })
        .unwrap()
    }

    /// The definition, in f64 and with a DFT.
    fn plain(log_mel: &LogMel, samples: &[f32]) -> Vec<f64> {
        let config = log_mel.config();
        let (n, half) = (config.n_fft, config.n_fft as isize / 2);
        let dense = log_mel.bank().dense();
        let mut out = Vec::new();
        for t in 0..samples.len() / config.hop_length + 1 {
            let frame: Vec<f64> = (0..n)
                .map(|i| {
                    let window = 0.5 - 0.5 * (2.0 * std::f64::consts::PI * i as f64 / n as f64).cos();
                    let position = (t * config.hop_length + i) as isize - half;
                    window * f64::from(samples[reflect(position, samples.len())])
                })
                .collect();
            let powers: Vec<f64> = (0..=n / 2)
                .map(|k| {
                    let (mut re, mut im) = (0.0, 0.0);
                    for (i, &x) in frame.iter().enumerate() {
                        let angle = -2.0 * std::f64::consts::PI * ((k * i) % n) as f64 / n as f64;
                        re += x * angle.cos();
                        im += x * angle.sin();
                    }
                    re * re + im * im
                })
                .collect();
            for mel in 0..config.n_mels {
                let sum: f64 =
                    powers.iter().enumerate().map(|(k, p)| p * f64::from(dense[k * config.n_mels + mel])).sum();
                out.push(10.0 * sum.max(1e-10).log10());
            }
        }
        out
    }

    /// Uniform noise within -1 and 1.
    pub(crate) fn noise(len: usize) -> Vec<f32> {
        let mut state = 1u32;
        let next = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..len).map(next).collect()
    }

    /// Holds the spectrogram of `len` samples of noise to [`plain`].
    pub(crate) fn check_against_the_definition(log_mel: &LogMel, len: usize) {
        let samples = noise(len);
        let mel = log_mel.compute(&samples, &mut Scratch::default());
        let truth = plain(log_mel, &samples);
        let (hop, bins) = (log_mel.config().hop_length, log_mel.config().n_mels);
        assert_eq!((mel.frames, mel.bins, mel.data.len()), (len / hop + 1, bins, truth.len()));
        for (index, (&value, truth)) in mel.data.iter().zip(truth).enumerate() {
            assert!((f64::from(value) - truth).abs() < 1e-3, "len {len}, value {index}: {value} {truth}");
        }
    }

    #[test]
    fn equals_the_definition_at_every_length() {
        for len in [1, 2, 3, 31, 32, 33, 63, 64, 65, 199, 200, 777] {
            check_against_the_definition(&small(), len);
        }
    }

    #[test]
    fn a_frame_is_the_same_wherever_it_stands() {
        let log_mel = small();
        let samples: Vec<f32> = (0..20 * 40).map(|i| (i as f32 * 0.37).sin() * (i as f32 * 0.011).cos()).collect();
        let whole = log_mel.compute(&samples, &mut Scratch::default());
        // Away from the ends, where reflection differs: half a frame is less than two hops.
        for skipped in 1..20 {
            let part = log_mel.compute(&samples[20 * skipped..], &mut Scratch::default());
            assert_eq!(part.data[2 * 8..18 * 8], whole.data[(skipped + 2) * 8..(skipped + 18) * 8], "{skipped}");
        }
    }

    #[test]
    fn silence_is_exactly_minus_100() {
        let mel = small().compute(&[0.0; 500], &mut Scratch::default());
        assert!(mel.data.iter().all(|&value| value == -100.0));
    }

    #[test]
    fn no_samples_give_no_frames() {
        let mel = small().compute(&[], &mut Scratch::default());
        assert_eq!((mel.frames, mel.bins, mel.data.len()), (0, 8, 0));
    }

    #[test]
    fn a_scratch_serves_several_configurations() {
        let (first, mut scratch) = (small(), Scratch::default());
        let other = LogMel::new(&MelConfig { n_fft: 128, n_mels: 20, ..first.config().clone() }).unwrap();
        let samples: Vec<f32> = (0..400).map(|i| (i as f32 * 0.3).sin()).collect();
        let expected = first.compute(&samples, &mut Scratch::default());
        other.compute(&samples, &mut scratch);
        assert_eq!(first.compute(&samples, &mut scratch), expected);
    }

    #[test]
    fn ten_seconds_at_48_khz_are_1001_frames() {
        let log_mel = LogMel::new(&MelConfig {
            sample_rate: 48_000,
            n_fft: 1024,
            hop_length: 480,
            n_mels: 64,
            f_min: 50.0,
            f_max: 14_000.0,
            scale: MelScale::Slaney,
            slaney_norm: true,
        })
        .unwrap();
        assert_eq!(log_mel.frames(480_000), 1001);
        assert_eq!(log_mel.frames(480_480), 1002);
    }

    #[test]
    fn reflection_folds_as_numpy_pads() {
        // np.pad([0, 1, 2], 5, mode="reflect")
        let folded: Vec<usize> = (-5..8).map(|p| reflect(p, 3)).collect();
        assert_eq!(folded, [1, 0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2, 1]);
        assert_eq!(reflect(-7, 1), 0);
    }
}
