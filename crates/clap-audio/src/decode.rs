//! Whole sound files and segments of them to mono samples at their own rate.

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
    read_all(AudioReader::open(path)?.mixed(channels), MAX_FRAMES)
}

/// Reads a sound file held in memory as mono at its own rate; `name` stands for the file in errors.
///
/// # Errors
/// As [`crate::load`].
pub fn decode_bytes(name: &str, bytes: &[u8], channels: Channels) -> Result<Waveform> {
    read_all(AudioReader::from_bytes(name, bytes)?.mixed(channels), MAX_FRAMES)
}

/// The whole clip, of at most `limit` samples.
fn read_all(mut reader: AudioReader<'_>, limit: u64) -> Result<Waveform> {
    let sample_rate = reader.info().sample_rate;
    // The header's length may be a lie: reserve no more than a minute for it.
    let expected = reader.info().length.frames().unwrap_or(0).min(60 * u64::from(sample_rate));
    let mut samples = Vec::with_capacity(expected as usize);
    loop {
        let block = reader.next_block()?;
        let count = block.len();
        if count == 0 {
            break;
        }
        samples.extend_from_slice(block);
        reader.take(count);
        if samples.len() as u64 > limit {
            let frames = samples.len() as u64;
            return Err(Error::TooLong { name: reader.name().to_owned(), frames, limit });
        }
    }
    if samples.is_empty() {
        return Err(Error::NoSamples { name: reader.name().to_owned() });
    }
    Ok(Waveform { samples, sample_rate })
}

#[cfg(test)]
mod tests;
