//! Interleaved samples to mono ones that can be computed with.

use crate::error::{Error, Result};
use crate::waveform::Channels;

/// A sample beyond this would overflow `f32` when a frame of them is squared and summed.
const MAX_SAMPLE: f32 = 1e12;

/// Refuses NaN, infinity and what would become infinity in the spectrogram.
pub(crate) fn check_finite(name: &str, samples: &[f32]) -> Result<()> {
    // `<=` is false for NaN. Whole blocks first, without an early end, because that vectorises.
    let good = |sample: &f32| sample.abs() <= MAX_SAMPLE;
    let block_is_good = |block: &[f32]| block.iter().fold(true, |all, sample| all & good(sample));
    if samples.chunks(4096).all(block_is_good) {
        return Ok(());
    }
    match samples.iter().position(|sample| !good(sample)) {
        None => Ok(()),
        Some(index) => Err(Error::NotFinite { name: name.to_owned(), index, value: samples[index] }),
    }
}

/// Appends one mono sample per frame.
pub(super) fn mix_down(interleaved: &[f32], channels: usize, mode: Channels, samples: &mut Vec<f32>) {
    match (channels, mode) {
        (0, _) => {}
        (1, _) => samples.extend_from_slice(interleaved),
        (_, Channels::First) => samples.extend(interleaved.iter().step_by(channels)),
        (2, Channels::Mean) => samples.extend(interleaved.chunks_exact(2).map(|frame| (frame[0] + frame[1]) * 0.5)),
        (_, Channels::Mean) => {
            let share = 1.0 / channels as f32;
            samples.extend(interleaved.chunks_exact(channels).map(|frame| frame.iter().sum::<f32>() * share));
        }
    }
}
