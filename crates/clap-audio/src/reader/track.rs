//! The sound track of an opened file: what its header may say, and its decoder.

use std::collections::VecDeque;

use symphonia::core::audio::GenericAudioBufferRef;
use symphonia::core::codecs::CodecParameters;
use symphonia::core::codecs::audio::well_known as codec;
use symphonia::core::codecs::audio::{AudioCodecId, AudioCodecParameters, AudioDecoder, AudioDecoderOptions};
use symphonia::core::errors::Error as SymphoniaError;
use symphonia::core::formats::{FormatReader, TrackType};
use symphonia::core::packet::Packet;
use symphonia::core::units::{Duration, TimeBase, Timestamp};

use super::{MAX_CHANNELS, MAX_SAMPLE_RATE, MIN_SAMPLE_RATE, codebooks, corrupt, damage};
use crate::error::{Error, Result};

/// A packet longer than this comes from a header, not from an encoder (FLAC's longest is 65,535).
pub(super) const MAX_PACKET_FRAMES: u64 = 1 << 20;

/// Samples between two restarts of an AAC decoder: 512 packets, 12 s at 44.1 kHz.
const AAC_STRETCH: i64 = 512 * 1024;

/// Packets before a restart that are decoded again. One holds the other half of the overlap.
const AAC_LEAD_PACKETS: usize = 3;

/// The sound track.
pub(super) struct Track {
    pub(super) decoder: Box<dyn AudioDecoder>,
    pub(super) id: u32,
    pub(super) rate: u32,
    /// By the header; the first decoded packet has the last word.
    pub(super) channels: Option<usize>,
    /// Samples per channel by the header, delay and padding left out, where the container states a number.
    pub(super) stated: Option<u64>,
    /// Whether a decode that yields fewer samples than `stated` is a truncated file.
    pub(super) exact: bool,
    pub(super) bits_per_sample: Option<u32>,
    /// Whether a tick of the container's clock is one sample.
    pub(super) ticks_are_samples: bool,
    /// Samples of padding after the last one, where a tag states them.
    pub(super) padding: Option<u32>,
    /// For Opus: the time of the first sample after those that the header says to skip.
    pub(super) sound_begins: Timestamp,
    /// For AAC: the number of the present stretch between two restarts, and the packets just decoded.
    pub(super) stretch: Option<i64>,
    pub(super) recent: VecDeque<Packet>,
}

impl Track {
    /// Opens a decoder after a look at the header.
    pub(super) fn open(name: &str, format: &dyn FormatReader) -> Result<Self> {
        let not_audio = || Error::NotAudio { name: name.to_owned() };
        let track = format.default_track(TrackType::Audio).ok_or_else(not_audio)?;
        let Some(CodecParameters::Audio(params)) = &track.codec_params else {
            return Err(not_audio());
        };
        let rate = check_header(name, params)?;
        let decoder = make_decoder(params).map_err(|error| match error {
            SymphoniaError::Unsupported(_) => {
                Error::UnsupportedCodec { name: name.to_owned(), codec: codec_name(params.codec) }
            }
            error => damage(name, &error),
        })?;
        let lead = if params.codec == codec::CODEC_ID_OPUS { track.delay.unwrap_or(0) } else { 0 };
        Ok(Self {
            decoder,
            id: track.id,
            rate,
            channels: params.channels.as_ref().map(|channels| channels.count()),
            stated: track.num_frames.map(|frames| frames.saturating_sub(lead.into())),
            exact: states_exact_length(params.codec),
            bits_per_sample: bits_per_sample(params),
            ticks_are_samples: track.time_base == TimeBase::try_from_recip(rate),
            padding: track.padding,
            sound_begins: track.start_ts.saturating_add(Duration::from(lead)),
            stretch: None,
            recent: VecDeque::new(),
        })
    }

    /// The length that a decode must reach.
    pub(super) fn declared(&self) -> Option<u64> {
        self.stated.filter(|_| self.exact)
    }

    /// Corrects the times of a packet of MP3 and Opus.
    pub(super) fn correct_times(&self, packet: &mut Packet) {
        match self.decoder.codec_params().codec {
            codec::CODEC_ID_MP3 => self.correct_mp3_times(packet),
            codec::CODEC_ID_OPUS => {
                // symphonia 0.6.1 leaves the header's pre-skip to the decoder, which does not know where it is after a jump.
                let early = self.sound_begins.duration_from(packet.pts).unwrap_or(Duration::ZERO);
                packet.trim_start = early.min(packet.dur);
                packet.dur = packet.dur.saturating_sub(packet.trim_start);
            }
            _ => {}
        }
    }

    /// symphonia 0.6.1 cuts off what lies beyond the stated length even where that is a guess from the first frame's bit
    /// rate, and so loses the end of a variable-rate file without a tag; only a LAME tag knows of padding, and only in its
    /// own file of several joined end to end. It also counts the trimmed samples to the duration.
    fn correct_mp3_times(&self, packet: &mut Packet) {
        let block = packet.dur.get();
        match (self.stated, self.padding) {
            (Some(stated), Some(padding)) => {
                let end = i64::try_from(stated).unwrap_or(i64::MAX).saturating_add(i64::from(padding));
                if packet.pts.get() >= end {
                    packet.pts = Timestamp::new(packet.pts.get() - i64::from(padding));
                    packet.trim_end = Duration::ZERO;
                }
            }
            _ => packet.trim_end = Duration::ZERO,
        }
        let trimmed = packet.trim_start.get().saturating_add(packet.trim_end.get());
        packet.dur = Duration::new(block.saturating_sub(trimmed));
    }

    /// Decodes a packet.
    ///
    /// An AAC decoder fills bands with noise (PNS) out of one generator, so that its samples depend on every packet before.
    /// To make them depend on a bounded part of the file, it starts afresh every [`AAC_STRETCH`] samples, and takes up the
    /// sound with the packets just before.
    pub(super) fn decode(&mut self, packet: &Packet) -> symphonia::core::errors::Result<GenericAudioBufferRef<'_>> {
        if self.is_aac() {
            let stretch = packet.pts.get().div_euclid(AAC_STRETCH);
            if self.stretch.replace(stretch).is_some_and(|last| last != stretch) {
                self.restart();
                for packet in &self.recent {
                    // A bad packet was counted when it came first.
                    let _ = self.decoder.decode(packet);
                }
            }
            if self.recent.len() >= AAC_LEAD_PACKETS {
                self.recent.pop_front();
            }
            self.recent.push_back(packet.clone());
        }
        self.decoder.decode(packet)
    }

    /// Forgets all packets, as is due after a jump.
    pub(super) fn reset(&mut self) {
        self.stretch = None;
        self.recent.clear();
        self.restart();
    }

    fn restart(&mut self) {
        self.decoder.reset();
        if self.is_aac() {
            // `reset` keeps the noise generator's state.
            if let Ok(fresh) = make_decoder(self.decoder.codec_params()) {
                self.decoder = fresh;
            }
        }
    }

    /// The time from which on packets must be decoded to have the sample of a given time.
    pub(super) fn lead_in(&self, time: i64) -> i64 {
        match self.decoder.codec_params().codec {
            // 511 bytes of bit reservoir reach back 5 frames at 32 kbit/s and 23 half frames at 8 kbit/s, the lowest.
            codec::CODEC_ID_MP3 => time.saturating_sub(32 * 1152),
            // One packet more than are kept, since the time may fall into a packet.
            codec::CODEC_ID_AAC => {
                (time.div_euclid(AAC_STRETCH) * AAC_STRETCH).saturating_sub(1024 * (AAC_LEAD_PACKETS as i64 + 1))
            }
            // The block before, of at most 8192 samples, for the overlap.
            codec::CODEC_ID_VORBIS => time.saturating_sub(3 * 8192),
            // RFC 7845, 4.6, asks for 80 ms; after this second the rest of the old state is below 1e-5 of full scale.
            codec::CODEC_ID_OPUS => time.saturating_sub(48_000),
            _ => time,
        }
    }

    fn is_aac(&self) -> bool {
        self.decoder.codec_params().codec == codec::CODEC_ID_AAC
    }
}

/// The decoder of a codec. Encoder delay and padding are cut off where the stream states them (`gapless`, the default).
fn make_decoder(params: &AudioCodecParameters) -> symphonia::core::errors::Result<Box<dyn AudioDecoder>> {
    #[cfg(feature = "opus")]
    if params.codec == codec::CODEC_ID_OPUS {
        let decoder = super::opus::OpusDecoder::new(params).ok_or(SymphoniaError::Unsupported("opus: not of Ogg"))?;
        return Ok(Box::new(decoder));
    }
    symphonia::default::get_codecs().make_audio_decoder(params, &AudioDecoderOptions::default())
}

/// Refuses what no recording has before any memory is spent on it; returns the sample rate.
pub(super) fn check_header(name: &str, params: &AudioCodecParameters) -> Result<u32> {
    let absurd = |what: String, allowed: String| Err(Error::AbsurdHeader { name: name.to_owned(), what, allowed });
    if let Some(channels) = &params.channels {
        check_channels(name, channels.count())?;
    }
    if let Some(frames) = params.max_frames_per_packet.filter(|&frames| frames > MAX_PACKET_FRAMES) {
        return absurd(format!("{frames} samples in a packet"), format!("at most {MAX_PACKET_FRAMES} are read"));
    }
    let headers = params.extra_data.as_deref().unwrap_or_default();
    if params.codec == codec::CODEC_ID_VORBIS && !codebooks::are_small(headers) {
        return absurd("more than 32 MB of codebooks".to_owned(), "no encoder's take 1 MB".to_owned());
    }
    match params.sample_rate {
        Some(rate) if (MIN_SAMPLE_RATE..=MAX_SAMPLE_RATE).contains(&rate) => Ok(rate),
        rate => absurd(
            rate.map_or_else(|| "no sample rate".to_owned(), |rate| format!("a sample rate of {rate} Hz")),
            format!("{MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} Hz can be read"),
        ),
    }
}

pub(super) fn check_channels(name: &str, channels: usize) -> Result<()> {
    if (1..=MAX_CHANNELS).contains(&channels) {
        return Ok(());
    }
    Err(Error::AbsurdHeader {
        name: name.to_owned(),
        what: format!("{channels} channels"),
        allowed: format!("1 to {MAX_CHANNELS} can be read"),
    })
}

pub(super) fn rate_changes(name: &str, from: u32, to: u32) -> Error {
    corrupt(name, &format!("the sample rate changes from {from} to {to} Hz"))
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

/// The resolution of a lossless codec.
fn bits_per_sample(params: &AudioCodecParameters) -> Option<u32> {
    match params.codec {
        codec::CODEC_ID_PCM_F32LE | codec::CODEC_ID_PCM_F32BE => Some(32),
        codec::CODEC_ID_PCM_F64LE | codec::CODEC_ID_PCM_F64BE => Some(64),
        codec::CODEC_ID_PCM_ALAW | codec::CODEC_ID_PCM_MULAW => Some(8),
        // The sixth byte of ALACSpecificConfig.
        codec::CODEC_ID_ALAC => params.extra_data.as_ref().and_then(|config| config.get(5)).map(|&bits| bits.into()),
        id if states_exact_length(id) => params.bits_per_sample,
        _ => None,
    }
}

/// Opus in an error.
const OPUS: &str = if cfg!(feature = "opus") {
    "Opus outside of Ogg"
} else {
    "Opus (this build is without the feature `opus` of clap-audio)"
};

/// The name of a codec that is known and not decoded here.
fn codec_name(id: AudioCodecId) -> String {
    let known = [
        (codec::CODEC_ID_OPUS, OPUS),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_longer_than_any_encoder_writes_are_refused() {
        let mut params = AudioCodecParameters::new();
        params.with_sample_rate(48_000).with_max_frames_per_packet(MAX_PACKET_FRAMES);
        assert_eq!(check_header("clip.wav", &params).unwrap(), 48_000);
        params.with_max_frames_per_packet(MAX_PACKET_FRAMES + 1);
        let message = check_header("clip.wav", &params).unwrap_err().to_string();
        assert!(message.contains("1048577 samples in a packet"), "{message}");
    }
}
