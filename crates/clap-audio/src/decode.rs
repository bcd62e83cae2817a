//! Whole sound files to mono samples at their own rate.

use std::path::Path;

use crate::error::{Error, Result};
use crate::reader::AudioReader;
use crate::waveform::{Channels, Waveform};

/// The most samples a clip may have, before and after resampling: 3.1 hours at 48 kHz, 2 GiB of memory.
pub const MAX_FRAMES: u64 = 1 << 29;

/// Reads a sound file as mono at its own rate.
///
/// # Errors
/// As [`crate::load`].
pub fn decode(path: &Path, channels: Channels) -> Result<Waveform> {
    decode_reader(AudioReader::open(path)?.mixed(channels))
}

/// Reads a sound file held in memory as mono at its own rate; `name` stands for the file in errors.
///
/// # Errors
/// As [`crate::load`].
pub fn decode_bytes(name: &str, bytes: &[u8], channels: Channels) -> Result<Waveform> {
    decode_reader(AudioReader::from_bytes(name, bytes)?.mixed(channels))
}

/// Reads the rest of an opened sound file, whose header may have been looked at before.
///
/// # Errors
/// As [`crate::load`].
pub fn decode_reader(reader: AudioReader<'_>) -> Result<Waveform> {
    read_all(reader, MAX_FRAMES)
}

/// The whole clip, of at most `limit` samples.
fn read_all(mut reader: AudioReader<'_>, limit: u64) -> Result<Waveform> {
    let samples = read_up_to(&mut reader, u64::MAX, limit)?;
    if samples.is_empty() {
        return Err(Error::NoSamples { name: reader.name().to_owned() });
    }
    Ok(Waveform { samples, sample_rate: reader.info().sample_rate })
}

/// The next `count` samples, or as many as there are; more than `limit` are an error.
pub(crate) fn read_up_to(reader: &mut AudioReader<'_>, count: u64, limit: u64) -> Result<Vec<f32>> {
    // The header's length may be a lie: reserve no more than a minute for it.
    let info = reader.info();
    let expected = info.length.frames().unwrap_or(0).min(60 * u64::from(info.sample_rate)).min(count);
    let mut samples = Vec::with_capacity(expected as usize);
    while (samples.len() as u64) < count {
        let block = reader.next_block()?;
        if block.is_empty() {
            break;
        }
        let part = block.len().min(usize::try_from(count).unwrap_or(usize::MAX) - samples.len());
        samples.extend_from_slice(&block[..part]);
        reader.take(part);
        if samples.len() as u64 > limit {
            let frames = samples.len() as u64;
            return Err(Error::TooLong { name: reader.name().to_owned(), frames, limit });
        }
    }
    Ok(samples)
}

#[cfg(test)]
mod tests;
