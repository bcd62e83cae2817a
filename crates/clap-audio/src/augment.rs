//! Augmentation for training: gain, mixup and SpecAugment. Nothing here is random unless a generator is handed over.
//!
//! Random cropping is [`crate::LongAudio::Random`], a policy of the extractor.

use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::decibel::FLOOR_DB;

/// Makes samples louder (or softer) by `decibels`: a factor of `10^(decibels / 20)`. [`gain_log_mel`] is the cheaper way
/// where nothing but the spectrogram is needed.
pub fn gain(samples: &mut [f32], decibels: f32) {
    let factor = 10f32.powf(decibels / 20.0);
    for sample in samples {
        *sample *= factor;
    }
}

/// The gain of [`gain`], applied to a log-mel spectrogram in dB: an addition.
///
/// Values at the floor of -100 dB stay there, as silence does whatever the factor; no value falls below it.
pub fn gain_log_mel(mel: &mut [f32], decibels: f32) {
    for value in mel.iter_mut().filter(|value| **value > FLOOR_DB) {
        *value = (*value + decibels).max(FLOOR_DB);
    }
}

/// Mixes two clips, `first * share + second * (1 - share)`, in place of the first: the mixup of HTS-AT's training and of
/// linear probes. `second` is read as far as it reaches.
pub fn mix(first: &mut [f32], second: &[f32], share: f32) {
    for (index, sample) in first.iter_mut().enumerate() {
        let other = second.get(index).copied().unwrap_or(0.0);
        *sample = *sample * share + other * (1.0 - share);
    }
}

/// SpecAugment: stripes of time, then stripes of frequency, are overwritten.
///
/// Source: `torchlibrosa/augmentation.py`, `SpecAugmentation` and `DropStripes` (0.1.0); paper: arXiv 1904.08779. A
/// stripe's width is uniform in `0..drop_width`, its start uniform in `0..total - width`. Widths are bounded by the
/// spectrogram, where torchlibrosa would raise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SpecAugment {
    /// A time stripe is narrower than this, in frames.
    pub time_drop_width: usize,
    /// How many time stripes.
    pub time_stripes: usize,
    /// A frequency stripe is narrower than this, in mel bins.
    pub freq_drop_width: usize,
    /// How many frequency stripes.
    pub freq_stripes: usize,
}

impl Default for SpecAugment {
    /// What LAION-CLAP's HTS-AT and PANN towers use: 2 x 64 frames, 2 x 8 bins.
    fn default() -> Self {
        Self { time_drop_width: 64, time_stripes: 2, freq_drop_width: 8, freq_stripes: 2 }
    }
}

impl SpecAugment {
    /// Overwrites stripes of `mel`, (frames, bins), with `fill`.
    ///
    /// The reference fills with 0 after the input batch norm; before it, the value with the same effect is the mean.
    ///
    /// # Panics
    /// If `mel` is not made of whole frames.
    pub fn apply(&self, mel: &mut [f32], bins: usize, fill: f32, rng: &mut (impl Rng + ?Sized)) {
        assert!(bins > 0 && mel.len().is_multiple_of(bins), "mel must be (frames, bins)");
        let frames = mel.len() / bins;
        if frames == 0 {
            return;
        }
        for _ in 0..self.time_stripes {
            let (start, width) = stripe(frames, self.time_drop_width, rng);
            mel[start * bins..(start + width) * bins].fill(fill);
        }
        for _ in 0..self.freq_stripes {
            let (start, width) = stripe(bins, self.freq_drop_width, rng);
            for frame in mel.chunks_exact_mut(bins) {
                frame[start..start + width].fill(fill);
            }
        }
    }
}

/// (start, width) of one stripe in `total` places.
fn stripe(total: usize, drop_width: usize, rng: &mut (impl Rng + ?Sized)) -> (usize, usize) {
    let widths = drop_width.min(total);
    let width = if widths == 0 { 0 } else { rng.random_range(0..widths) };
    (rng.random_range(0..total - width), width)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn gain_on_samples_and_on_log_mel_agree() {
        let mut samples = [0.5, -0.25];
        gain(&mut samples, 20.0);
        assert!((samples[0] - 5.0).abs() < 1e-5 && (samples[1] + 2.5).abs() < 1e-5);
        let mut mel = [-30.0, -99.0, -100.0];
        gain_log_mel(&mut mel, -6.0);
        assert_eq!(mel, [-36.0, -100.0, -100.0]);
        let mut mel = [-30.0, -100.0];
        gain_log_mel(&mut mel, 4.0);
        assert_eq!(mel, [-26.0, -100.0], "a positive gain does not make silence audible");
    }

    #[test]
    fn mixing_with_a_shorter_clip_fades_it() {
        let mut first = [1.0, 1.0];
        mix(&mut first, &[3.0], 0.75);
        assert_eq!(first, [1.5, 0.75]);
    }

    #[test]
    fn stripes_keep_torchlibrosas_bounds() {
        let (frames, bins, fill) = (200, 32, 7.0);
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let augment = SpecAugment::default();
        let (mut widest_time, mut widest_freq) = (0, 0);
        for _ in 0..300 {
            let mut mel = vec![0.0; frames * bins];
            augment.apply(&mut mel, bins, fill, &mut rng);
            let time = (0..frames).filter(|t| mel[t * bins..(t + 1) * bins].iter().all(|&v| v == fill)).count();
            let freq = (0..bins).filter(|f| (0..frames).all(|t| mel[t * bins + f] == fill)).count();
            assert!(time <= 2 * 63 && freq <= 2 * 7, "{time} {freq}");
            assert!(mel[(frames - 1) * bins..].iter().any(|&v| v != fill), "the last frame is never dropped");
            widest_time = widest_time.max(time);
            widest_freq = widest_freq.max(freq);
        }
        assert!(widest_time > 80 && widest_freq > 8, "{widest_time} {widest_freq}");
    }

    #[test]
    fn stripes_wider_than_the_spectrogram_are_cut() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut mel = vec![0.0; 3 * 2];
        for _ in 0..100 {
            SpecAugment::default().apply(&mut mel, 2, 1.0, &mut rng);
        }
        assert!(mel.contains(&1.0));
    }
}
