//! Sound files of any common kind to mono samples at their own rate, by symphonia.
//!
//! Mixing down happens packet by packet, so that memory is bounded by the mono result ([`MAX_FRAMES`]), whatever the
//! header claims. The content decides the format; the extension is a hint only.
//!
//! A lossless file that ends before its header's length is [`Error::Truncated`]. Lossy streams (MP3, AAC, Vorbis) state no
//! exact length: one cut short simply ends where its bytes end.

use std::fs::File;
use std::io::{Cursor, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use symphonia::core::codecs::CodecParameters;
use symphonia::core::codecs::audio::well_known as codec;
use symphonia::core::codecs::audio::{AudioCodecId, AudioCodecParameters, AudioDecoder, AudioDecoderOptions};
use symphonia::core::errors::Error as SymphoniaError;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::{FormatOptions, FormatReader, TrackType};
use symphonia::core::io::{MediaSource, MediaSourceStream};
use symphonia::core::meta::MetadataOptions;

use crate::error::{Error, Result};
use crate::waveform::{Channels, Waveform};

/// The most samples a clip may have, before and after resampling: 3.1 hours at 48 kHz, 2 GiB of memory.
pub const MAX_FRAMES: u64 = 1 << 29;

/// The most channels a file may have.
pub const MAX_CHANNELS: usize = 64;

/// The lowest sample rate of a file, in Hz.
pub const MIN_SAMPLE_RATE: u32 = 1_000;

/// The highest sample rate of a file, in Hz.
pub const MAX_SAMPLE_RATE: u32 = 768_000;

/// A packet longer than this comes from a header, not from an encoder (FLAC's longest is 65,535).
const MAX_PACKET_FRAMES: u64 = 1 << 20;

/// A sample beyond this would overflow `f32` when a frame of them is squared and summed.
const MAX_SAMPLE: f32 = 1e12;

/// Reads a sound file as mono at its own rate.
///
/// # Errors
/// As [`crate::load`].
pub fn decode(path: &Path, channels: Channels) -> Result<Waveform> {
    let name = path.display().to_string();
    let unreadable = |source| Error::Unreadable { path: path.to_owned(), source };
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if metadata.is_dir() {
        return Err(unreadable(std::io::Error::new(ErrorKind::IsADirectory, "it is a folder")));
    }
    if metadata.is_file() && metadata.len() == 0 {
        return Err(Error::EmptyFile { name });
    }
    decode_source(&name, Box::new(file), channels)
}

/// Reads a sound file held in memory as mono at its own rate; `name` stands for the file in errors.
///
/// # Errors
/// As [`crate::load`].
pub fn decode_bytes(name: &str, bytes: &[u8], channels: Channels) -> Result<Waveform> {
    if bytes.is_empty() {
        return Err(Error::EmptyFile { name: name.to_owned() });
    }
    decode_source(name, Box::new(Cursor::new(bytes)), channels)
}

/// Decodes and checks the samples. A panic of the decoder on hostile input becomes an error.
fn decode_source(name: &str, source: Box<dyn MediaSource + '_>, channels: Channels) -> Result<Waveform> {
    // Nothing of ours outlives the unwinding: the stream is dropped with it.
    let outcome = catch_unwind(AssertUnwindSafe(|| Stream::open(name, source)?.read_all(channels, MAX_FRAMES)));
    let wave = outcome.unwrap_or_else(|_| Err(corrupt(name, "the decoder gave up on it")))?;
    if wave.samples.is_empty() {
        return Err(Error::NoSamples { name: name.to_owned() });
    }
    check_finite(name, &wave.samples)?;
    Ok(wave)
}

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

/// An opened file.
struct Stream<'a> {
    name: &'a str,
    format: Box<dyn FormatReader + 'a>,
    track: Track,
}

/// Its sound track.
struct Track {
    decoder: Box<dyn AudioDecoder>,
    id: u32,
    rate: u32,
    /// Samples per channel by the header, where the format states them exactly.
    declared: Option<u64>,
}

impl<'a> Stream<'a> {
    fn open(name: &'a str, source: Box<dyn MediaSource + 'a>) -> Result<Self> {
        let mut hint = Hint::new();
        if let Some(extension) = Path::new(name).extension().and_then(|extension| extension.to_str()) {
            hint.with_extension(extension);
        }
        let stream = MediaSourceStream::new(source, Default::default());
        let format = symphonia::default::get_probe()
            .probe(&hint, stream, FormatOptions::default(), MetadataOptions::default())
            .map_err(|error| match error {
                SymphoniaError::Unsupported(reason) if reason.contains("no suitable format reader") => {
                    Error::NotAudio { name: name.to_owned() }
                }
                error => damage(name, &error),
            })?;
        let track = Track::open(name, format.as_ref())?;
        Ok(Self { name, format, track })
    }

    /// The whole clip, of at most `limit` samples.
    fn read_all(mut self, channels: Channels, limit: u64) -> Result<Waveform> {
        // The header's length may be a lie: reserve no more than a minute for it.
        let expected = self.track.declared.unwrap_or(0).min(60 * u64::from(self.track.rate));
        let mut samples = Vec::with_capacity(expected as usize);
        let mut interleaved = Vec::new();
        let (mut packets, mut bad) = (0u64, 0u64);
        let mut last_damage = "";
        loop {
            let packet = match self.format.next_packet() {
                Ok(Some(packet)) => packet,
                Ok(None) => break,
                // The header's promise is compared below.
                Err(SymphoniaError::IoError(error)) if error.kind() == ErrorKind::UnexpectedEof => break,
                Err(SymphoniaError::ResetRequired) => {
                    self.next_in_chain()?;
                    continue;
                }
                Err(error) => return Err(damage(self.name, &error)),
            };
            if packet.track_id != self.track.id {
                continue;
            }
            packets += 1;
            match self.track.decoder.decode(&packet) {
                Ok(buffer) => {
                    let spec = buffer.spec();
                    if spec.rate() != self.track.rate {
                        let reason = format!("the sample rate changes from {} to {} Hz", self.track.rate, spec.rate());
                        return Err(corrupt(self.name, &reason));
                    }
                    check_channels(self.name, spec.channels().count())?;
                    buffer.copy_to_vec_interleaved::<f32>(&mut interleaved);
                    mix_down(&interleaved, buffer.num_planes(), channels, &mut samples);
                }
                Err(SymphoniaError::DecodeError(reason)) => {
                    bad += 1;
                    last_damage = reason;
                }
                Err(SymphoniaError::IoError(error)) if error.kind() == ErrorKind::UnexpectedEof => {
                    bad += 1;
                    last_damage = "a packet ends early";
                }
                Err(error) => return Err(damage(self.name, &error)),
            }
            if samples.len() as u64 > limit {
                let frames = samples.len() as u64;
                return Err(Error::TooLong { name: self.name.to_owned(), frames, limit });
            }
        }
        if is_damaged(packets, bad) {
            let reason = format!("{bad} of {packets} packets cannot be decoded ({last_damage})");
            return Err(corrupt(self.name, &reason));
        }
        let decoded = samples.len() as u64;
        match self.track.declared {
            Some(declared) if decoded < declared => {
                Err(Error::Truncated { name: self.name.to_owned(), declared, decoded })
            }
            _ => Ok(Waveform { samples, sample_rate: self.track.rate }),
        }
    }

    /// The next of several OGG streams joined end to end.
    fn next_in_chain(&mut self) -> Result<()> {
        let next = Track::open(self.name, self.format.as_ref())?;
        if next.rate != self.track.rate {
            let reason = format!("the sample rate changes from {} to {} Hz", self.track.rate, next.rate);
            return Err(corrupt(self.name, &reason));
        }
        self.track = Track { declared: None, ..next };
        Ok(())
    }
}

impl Track {
    /// Opens a decoder after a look at the header.
    fn open(name: &str, format: &dyn FormatReader) -> Result<Self> {
        let not_audio = || Error::NotAudio { name: name.to_owned() };
        let track = format.default_track(TrackType::Audio).ok_or_else(not_audio)?;
        let Some(CodecParameters::Audio(params)) = &track.codec_params else {
            return Err(not_audio());
        };
        let rate = check_header(name, params)?;
        let decoder = symphonia::default::get_codecs()
            .make_audio_decoder(params, &AudioDecoderOptions::default())
            .map_err(|error| match error {
                SymphoniaError::Unsupported(_) => {
                    Error::UnsupportedCodec { name: name.to_owned(), codec: codec_name(params.codec) }
                }
                error => damage(name, &error),
            })?;
        let declared = if states_exact_length(params.codec) { track.num_frames } else { None };
        Ok(Self { decoder, id: track.id, rate, declared })
    }
}

/// Whether so many of the packets are bad that the sound is not worth keeping. A stream cut out of a longer one may start
/// and end with an incomplete packet, as players accept; of a short one that must not be the larger part.
fn is_damaged(packets: u64, bad: u64) -> bool {
    bad > 2 + packets / 100 || 2 * bad > packets
}

/// Refuses what no recording has before any memory is spent on it; returns the sample rate.
fn check_header(name: &str, params: &AudioCodecParameters) -> Result<u32> {
    let absurd = |what: String, allowed: String| Err(Error::AbsurdHeader { name: name.to_owned(), what, allowed });
    if let Some(channels) = &params.channels {
        check_channels(name, channels.count())?;
    }
    if let Some(frames) = params.max_frames_per_packet.filter(|&frames| frames > MAX_PACKET_FRAMES) {
        return absurd(format!("{frames} samples in a packet"), format!("at most {MAX_PACKET_FRAMES} are read"));
    }
    match params.sample_rate {
        Some(rate) if (MIN_SAMPLE_RATE..=MAX_SAMPLE_RATE).contains(&rate) => Ok(rate),
        rate => absurd(
            rate.map_or_else(|| "no sample rate".to_owned(), |rate| format!("a sample rate of {rate} Hz")),
            format!("{MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} Hz can be read"),
        ),
    }
}

fn check_channels(name: &str, channels: usize) -> Result<()> {
    if (1..=MAX_CHANNELS).contains(&channels) {
        return Ok(());
    }
    Err(Error::AbsurdHeader {
        name: name.to_owned(),
        what: format!("{channels} channels"),
        allowed: format!("1 to {MAX_CHANNELS} can be read"),
    })
}

/// Appends one mono sample per frame.
fn mix_down(interleaved: &[f32], channels: usize, mode: Channels, samples: &mut Vec<f32>) {
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

/// Lossless codecs, whose containers count samples exactly; the lengths of MP3 and AAC streams are estimates.
fn states_exact_length(id: AudioCodecId) -> bool {
    [
        codec::CODEC_ID_PCM_U8,
        codec::CODEC_ID_PCM_S8,
        codec::CODEC_ID_PCM_S16LE,
        codec::CODEC_ID_PCM_S16BE,
        codec::CODEC_ID_PCM_S24LE,
        codec::CODEC_ID_PCM_S24BE,
        codec::CODEC_ID_PCM_S32LE,
        codec::CODEC_ID_PCM_S32BE,
        codec::CODEC_ID_PCM_F32LE,
        codec::CODEC_ID_PCM_F32BE,
        codec::CODEC_ID_PCM_F64LE,
        codec::CODEC_ID_PCM_F64BE,
        codec::CODEC_ID_PCM_ALAW,
        codec::CODEC_ID_PCM_MULAW,
        codec::CODEC_ID_FLAC,
    ]
    .contains(&id)
}

/// The name of a codec that is known and not decoded here.
fn codec_name(id: AudioCodecId) -> String {
    let known = [
        (codec::CODEC_ID_OPUS, "Opus"),
        (codec::CODEC_ID_SPEEX, "Speex"),
        (codec::CODEC_ID_MP1, "MPEG layer 1"),
        (codec::CODEC_ID_MP2, "MPEG layer 2"),
        (codec::CODEC_ID_AAC, "AAC (a profile other than LC)"),
        (codec::CODEC_ID_AC3, "AC-3"),
        (codec::CODEC_ID_EAC3, "E-AC-3"),
        (codec::CODEC_ID_WMA, "WMA"),
    ];
    known.iter().find(|(known, _)| *known == id).map_or_else(|| id.to_string(), |(_, name)| (*name).to_owned())
}

fn corrupt(name: &str, reason: &str) -> Error {
    Error::Corrupt { name: name.to_owned(), reason: reason.to_owned() }
}

/// An error of the decoder in our terms.
fn damage(name: &str, error: &SymphoniaError) -> Error {
    match error {
        SymphoniaError::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => {
            corrupt(name, "the file ends within its header")
        }
        error => corrupt(name, &error.to_string()),
    }
}

#[cfg(test)]
mod tests;
