//! A part of a long recording, in memory of the part's size.

use std::path::Path;

use crate::decode::{MAX_FRAMES, read_up_to};
use crate::error::{Error, Result};
use crate::reader::AudioReader;
use crate::resample::{Resampler, resampled_len};
use crate::waveform::{Channels, Waveform};

/// A part of a sound, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Segment {
    /// Where it starts, 0 or later.
    pub start: f64,
    /// How long it is, more than 0; `f64::INFINITY` for all that follows.
    pub seconds: f64,
}

impl Segment {
    /// The first frame and the number of frames at a rate, each rounded to the nearest; `None` if it makes no sense.
    fn frames(self, rate: u32) -> Option<(u64, u64)> {
        let frames = |seconds: f64| (seconds * f64::from(rate)).round() as u64;
        // `as` takes what is too large, infinity too, to the largest number.
        (self.start >= 0.0 && self.start.is_finite() && self.seconds > 0.0)
            .then(|| (frames(self.start), frames(self.seconds).max(1)))
    }
}

/// Reads a part of a sound file as mono at its own rate: the frames `round(start * rate)` onwards of what
/// [`crate::decode`] gives, `round(seconds * rate)` of them or as many as there are.
///
/// The container finds the place where it can: WAV, AIFF, AU, FLAC, M4A and Ogg are not read up to there. Damage outside the part
/// goes unseen.
///
/// # Errors
/// As [`crate::load`], [`Error::BeyondEnd`] if it starts where the sound has ended, [`Error::Segment`] if its numbers make
/// no sense.
pub fn decode_segment(path: &Path, segment: Segment, channels: Channels) -> Result<Waveform> {
    decode_part(AudioReader::open(path)?.mixed(channels), segment)
}

/// [`decode_segment`] of a file held in memory; `name` stands for the file in errors.
///
/// # Errors
/// As [`decode_segment`].
pub fn decode_segment_bytes(name: &str, bytes: &[u8], segment: Segment, channels: Channels) -> Result<Waveform> {
    decode_part(AudioReader::from_bytes(name, bytes)?.mixed(channels), segment)
}

/// Reads a part of a sound file as mono at `sample_rate`: the frames `round(start * sample_rate)` onwards of what
/// [`crate::load`] gives, to 1e-6 of full scale. The resampler sees the sound before and after the part.
///
/// # Errors
/// As [`decode_segment`], and [`Error::UnsupportedRate`].
pub fn load_segment(path: &Path, segment: Segment, sample_rate: u32, channels: Channels) -> Result<Waveform> {
    load_part(AudioReader::open(path)?.mixed(channels), segment, sample_rate)
}

/// [`load_segment`] of a file held in memory; `name` stands for the file in errors.
///
/// # Errors
/// As [`load_segment`].
pub fn load_segment_bytes(
    name: &str,
    bytes: &[u8],
    segment: Segment,
    sample_rate: u32,
    channels: Channels,
) -> Result<Waveform> {
    load_part(AudioReader::from_bytes(name, bytes)?.mixed(channels), segment, sample_rate)
}

fn decode_part(mut reader: AudioReader<'_>, segment: Segment) -> Result<Waveform> {
    let sample_rate = reader.info().sample_rate;
    let (first, count) = segment.frames(sample_rate).ok_or_else(|| senseless(&reader, segment))?;
    let samples = read_frames(&mut reader, first, count)?;
    if samples.is_empty() {
        return Err(beyond_end(&reader, segment));
    }
    Ok(Waveform { samples, sample_rate })
}

fn load_part(mut reader: AudioReader<'_>, segment: Segment, to: u32) -> Result<Waveform> {
    let from = reader.info().sample_rate;
    if from == to {
        return decode_part(reader, segment);
    }
    let (first, count) = segment.frames(to).ok_or_else(|| senseless(&reader, segment))?;
    let resampler = Resampler::cached(from, to)?;
    let (p, q, margin) = resampler.units();
    // Whole units of p frames in and q frames out, so that frame 0 of the part falls on a frame of the whole.
    let lead = (first / q).saturating_sub(margin);
    let last = first.saturating_add(count).div_ceil(q).saturating_add(margin);
    let wanted = last.saturating_sub(lead).saturating_mul(p);
    let samples = read_frames(&mut reader, lead.saturating_mul(p), wanted)?;
    let skip = first - lead * q;
    let frames = resampled_len(samples.len(), from, to) as u64;
    if frames <= skip {
        return Err(beyond_end(&reader, segment));
    }
    if (frames - skip).min(count) > MAX_FRAMES {
        return Err(Error::TooLong { name: reader.name().to_owned(), frames: frames - skip, limit: MAX_FRAMES });
    }
    let mut samples = resampler.resample(&samples);
    samples.truncate((skip + count.min(frames)) as usize);
    samples.drain(..skip as usize);
    Ok(Waveform { samples, sample_rate: to })
}

/// At most `count` frames from `first` on.
fn read_frames(reader: &mut AudioReader<'_>, first: u64, count: u64) -> Result<Vec<f32>> {
    reader.seek(first)?;
    if reader.position() < first {
        return Ok(Vec::new());
    }
    read_up_to(reader, count, MAX_FRAMES)
}

fn senseless(reader: &AudioReader<'_>, segment: Segment) -> Error {
    Error::Segment { name: reader.name().to_owned(), start: segment.start, seconds: segment.seconds }
}

fn beyond_end(reader: &AudioReader<'_>, segment: Segment) -> Error {
    let length = reader.position() as f64 / f64::from(reader.info().sample_rate);
    Error::BeyondEnd { name: reader.name().to_owned(), start: segment.start, length }
}

#[cfg(test)]
mod tests;
