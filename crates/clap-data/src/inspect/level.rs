//! How loud a sound is, and whether it was cut off at full scale.

/// A sample this close to full scale or beyond is at it: the largest 16-bit integer is 32767 / 32768.
const FULL_SCALE: f32 = 0.9999;

/// So many samples in a row at full scale are no peak but a cut one, as editors count them.
const RUN: usize = 3;

/// A sound whose loudest sample is below -60 dB of full scale is called silent: 33 steps of 16 bits.
const SILENT: f32 = 1e-3;

/// The level of a mono sound.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Level {
    /// The greatest magnitude; full scale is 1.
    pub peak: f32,
    /// The root of the mean square.
    pub rms: f32,
    /// Samples in runs of three or more at full scale.
    pub clipped: usize,
    /// All samples.
    pub samples: usize,
}

impl Level {
    /// Measures samples whose full scale is 1.
    pub fn of(samples: &[f32]) -> Self {
        let (mut peak, mut power, mut clipped, mut run) = (0f32, 0f64, 0, 0);
        for sample in samples {
            peak = peak.max(sample.abs());
            power += f64::from(*sample) * f64::from(*sample);
            if sample.abs() >= FULL_SCALE {
                run += 1;
                // The first samples of a run count once it is long enough.
                clipped += if run == RUN { RUN } else { usize::from(run > RUN) };
            } else {
                run = 0;
            }
        }
        let rms = (power / samples.len().max(1) as f64).sqrt() as f32;
        Self { peak, rms, clipped, samples: samples.len() }
    }

    /// Whether nothing can be heard: the peak is below -60 dB.
    pub fn is_silent(&self) -> bool {
        self.peak < SILENT
    }

    /// The share of the samples that are cut off.
    pub fn clipped_share(&self) -> f64 {
        self.clipped as f64 / self.samples.max(1) as f64
    }

    /// The level in decibels of full scale; none for digital silence.
    pub fn rms_db(&self) -> Option<f64> {
        (self.rms > 0.0).then(|| 20.0 * f64::from(self.rms).log10())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_at_full_scale_are_clipped() {
        let clipped = |samples: &[f32]| Level::of(samples).clipped;
        assert_eq!(clipped(&[1.0, 1.0, 0.0, -1.0, 1.0]), 0);
        assert_eq!(clipped(&[0.5, 1.0, -1.0, 32767.0 / 32768.0, 0.5]), 3);
        assert_eq!(clipped(&[1.2, 1.2, 1.2, 1.2, 0.0, 1.0, 1.0, 1.0]), 7);
    }

    #[test]
    fn levels_are_those_of_the_definition() {
        let level = Level::of(&[0.5, -0.5, 0.5, -0.5]);
        assert_eq!((level.peak, level.rms, level.samples), (0.5, 0.5, 4));
        assert!((level.rms_db().unwrap() + 6.02).abs() < 0.01 && !level.is_silent());
        assert!(Level::of(&[9e-4; 10]).is_silent());
        assert_eq!(Level::of(&[0.0; 10]).rms_db(), None);
        assert_eq!(Level::of(&[]), Level::default());
    }
}
