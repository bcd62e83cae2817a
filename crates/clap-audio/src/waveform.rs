//! A mono waveform and the one-call way to it: decode, mix down, resample.

use std::path::Path;

use crate::decode::{MAX_FRAMES, decode, decode_bytes};
use crate::error::{Error, Result};
use crate::resample::{Resampler, resampled_len};

/// How several channels become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Channels {
    /// The mean of all channels, as `librosa.load` does.
    #[default]
    Mean,
    /// The first channel alone, as LAION's WebDataset loader does.
    First,
}

/// A mono sound.
#[derive(Clone, Debug, PartialEq)]
pub struct Waveform {
    /// The samples, full scale at 1.
    pub samples: Vec<f32>,
    /// Samples per second.
    pub sample_rate: u32,
}

impl Waveform {
    /// The length in seconds.
    pub fn seconds(&self) -> f64 {
        self.samples.len() as f64 / f64::from(self.sample_rate)
    }

    /// The same sound at another rate, exactly `round(len * to / from)` samples, without delay.
    ///
    /// # Errors
    /// [`Error::UnsupportedRate`] if a rate is out of bounds, [`Error::TooLong`] if the result would have more than
    /// [`MAX_FRAMES`] samples.
    pub fn resample(self, sample_rate: u32) -> Result<Self> {
        self.resample_named("waveform", sample_rate)
    }

    fn resample_named(self, name: &str, sample_rate: u32) -> Result<Self> {
        if sample_rate == self.sample_rate {
            return Ok(self);
        }
        let resampler = Resampler::cached(self.sample_rate, sample_rate)?;
        let frames = resampled_len(self.samples.len(), self.sample_rate, sample_rate) as u64;
        if frames > MAX_FRAMES {
            return Err(Error::TooLong { name: name.to_owned(), frames, limit: MAX_FRAMES });
        }
        let samples = resampler.resample(&self.samples);
        // A clip of a few samples at a high rate may round to none.
        if samples.is_empty() {
            return Err(Error::NoSamples { name: name.to_owned() });
        }
        Ok(Self { samples, sample_rate })
    }
}

/// Reads a sound file as mono at `sample_rate`.
///
/// A lossy file (MP3, AAC, Vorbis) that was cut short is read as far as its bytes go: such streams state no exact length.
///
/// # Errors
/// A variant that names the file and the reason: missing or unreadable, empty, not a sound, an unknown codec, an absurd
/// header, damaged or cut short, no samples, samples that are not finite, too long.
pub fn load(path: &Path, sample_rate: u32, channels: Channels) -> Result<Waveform> {
    decode(path, channels)?.resample_named(&path.display().to_string(), sample_rate)
}

/// Reads a sound file held in memory; `name` stands for the file in errors, and its extension is a hint at the format.
///
/// # Errors
/// As [`load`].
pub fn load_bytes(name: &str, bytes: impl AsRef<[u8]>, sample_rate: u32, channels: Channels) -> Result<Waveform> {
    decode_bytes(name, bytes.as_ref(), channels)?.resample_named(name, sample_rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_rate_keeps_the_samples() {
        let wave = Waveform { samples: vec![0.25, -0.5], sample_rate: 48_000 };
        assert_eq!(wave.clone().resample(48_000).unwrap(), wave);
        assert_eq!(wave.seconds(), 2.0 / 48_000.0);
    }

    #[test]
    fn a_result_beyond_the_limit_is_refused_before_it_is_made() {
        let wave = Waveform { samples: vec![0.25; 700_000], sample_rate: 1_000 };
        match wave.resample(768_000) {
            Err(Error::TooLong { frames: 537_600_000, limit: MAX_FRAMES, .. }) => {}
            other => panic!("{:?}", other.map(|wave| wave.samples.len())),
        }
    }

    #[test]
    fn a_sample_too_few_is_an_error() {
        let wave = Waveform { samples: vec![0.25], sample_rate: 192_000 };
        assert!(matches!(wave.resample(48_000), Err(Error::NoSamples { .. })));
    }
}
