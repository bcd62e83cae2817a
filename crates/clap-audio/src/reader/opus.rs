//! Opus for symphonia, which has none of its own: ruopus behind the feature `opus`.
//!
//! ruopus 0.1.2 is pure Rust and within the rounding to 16 bits of libopus 1.3.1. The feature is not on by default: the
//! crate is young, and its FFT brings ndarray and regex, two minutes of compiling; without that FFT it decodes slower than
//! the sound plays. The others: `opus-decoder` 0.1.1 is as slow and refuses surround, `ropus` 0.12 is fixed-point with a
//! neural network and a build script that looks for C sources, `symphonia-adapter-libopus` 0.3 builds C with cmake.

use ruopus::MultistreamDecoder;
use symphonia::core::audio::{
    AsGenericAudioBufferRef, AudioBuffer, AudioMut, AudioSpec, Channels, GenericAudioBufferRef, layouts,
};
use symphonia::core::codecs::CodecInfo;
use symphonia::core::codecs::audio::{AudioCodecParameters, AudioDecoder, FinalizeResult};
use symphonia::core::errors::{Error, Result};
use symphonia::core::packet::PacketRef;

/// A decoder always gives this rate; the encoder's own is a remark in the header.
const RATE: u32 = 48_000;

/// The longest packet holds 120 ms.
const MAX_FRAMES: usize = 5760;

const INFO: CodecInfo = CodecInfo { short_name: "opus", long_name: "Opus", profiles: &[] };

/// How the streams of a packet become channels: RFC 7845, 5.1.1.
struct Layout {
    streams: usize,
    coupled: usize,
    mapping: Vec<u8>,
    /// 10^(gain / 20), of the gain in the header that every player applies.
    gain: f32,
}

impl Layout {
    /// From the identification header of an Ogg stream; `None` if it is none.
    fn read(head: &[u8]) -> Option<Self> {
        if head.len() < 19 || !head.starts_with(b"OpusHead") {
            return None;
        }
        let channels = head[9];
        let gain = f32::from(i16::from_le_bytes([head[16], head[17]])) / 256.0;
        let (streams, coupled, mapping) = match (head[18], channels) {
            (0, 1 | 2) => (1, channels - 1, (0..channels).collect()),
            (1.., 1..) => (*head.get(19)?, *head.get(20)?, head.get(21..21 + usize::from(channels))?.to_vec()),
            _ => return None,
        };
        let decoded = u16::from(streams) + u16::from(coupled);
        let sound = streams > 0
            && coupled <= streams
            && decoded <= 255
            && mapping.iter().all(|&channel| channel == 255 || u16::from(channel) < decoded);
        sound.then_some(Self {
            streams: streams.into(),
            coupled: coupled.into(),
            mapping,
            gain: 10f32.powf(gain / 20.0),
        })
    }

    fn decoder(&self) -> MultistreamDecoder {
        MultistreamDecoder::with_rate(RATE, self.streams, self.coupled, &self.mapping)
    }
}

pub(super) struct OpusDecoder {
    params: AudioCodecParameters,
    layout: Layout,
    decoder: MultistreamDecoder,
    buffer: AudioBuffer<f32>,
}

impl OpusDecoder {
    /// `None` if the stream's header is none of Ogg Opus, as in MP4.
    pub(super) fn new(params: &AudioCodecParameters) -> Option<Self> {
        let layout = Layout::read(params.extra_data.as_deref()?)?;
        let channels = match layout.mapping.len() {
            1 => layouts::CHANNEL_LAYOUT_MONO,
            2 => layouts::CHANNEL_LAYOUT_STEREO,
            count => Channels::Discrete(count as u16),
        };
        let decoder = layout.decoder();
        let buffer = AudioBuffer::new(AudioSpec::new(RATE, channels), MAX_FRAMES);
        Some(Self { params: params.clone(), layout, decoder, buffer })
    }
}

impl AudioDecoder for OpusDecoder {
    fn reset(&mut self) {
        self.decoder = self.layout.decoder();
    }

    fn codec_info(&self) -> &CodecInfo {
        &INFO
    }

    fn codec_params(&self) -> &AudioCodecParameters {
        &self.params
    }

    fn decode_ref(&mut self, packet: &PacketRef<'_>) -> Result<GenericAudioBufferRef<'_>> {
        self.buffer.clear();
        let samples =
            self.decoder.decode_packet(packet.data).map_err(|_| Error::DecodeError("opus: malformed packet"))?;
        let channels = self.layout.mapping.len();
        let frames = samples.len() / channels;
        if frames > MAX_FRAMES {
            return Err(Error::DecodeError("opus: a packet of more than 120 ms"));
        }
        self.buffer.render_uninit(Some(frames));
        for channel in 0..channels {
            let Some(plane) = self.buffer.plane_mut(channel) else { continue };
            for (out, &sample) in plane.iter_mut().zip(samples[channel..].iter().step_by(channels)) {
                *out = sample * self.layout.gain;
            }
        }
        self.buffer.trim(packet.trim_start.get() as usize, packet.trim_end.get() as usize);
        Ok(self.buffer.as_generic_audio_buffer_ref())
    }

    fn finalize(&mut self) -> FinalizeResult {
        FinalizeResult::default()
    }

    fn last_decoded(&self) -> GenericAudioBufferRef<'_> {
        self.buffer.as_generic_audio_buffer_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(channels: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        [b"OpusHead\x01", &[channels, 0, 0, 0, 0, 0, 0, 0, 0, family][..], rest].concat()
    }

    #[test]
    fn layouts_that_make_no_sense_are_refused() {
        let check = |head: &[u8], good: bool| assert_eq!(Layout::read(head).is_some(), good, "{head:?}");
        check(&head(1, 0, &[]), true);
        check(&head(2, 0, &[]), true);
        check(&head(0, 0, &[]), false);
        check(&head(3, 0, &[]), false);
        check(&head(3, 1, &[2, 1, 0, 2, 1]), true);
        check(&head(3, 1, &[2, 1, 0, 2, 255]), true);
        check(&head(3, 1, &[2, 1, 0, 2, 3]), false);
        check(&head(3, 1, &[2, 1, 0, 2]), false);
        check(&head(1, 1, &[0, 0, 0]), false);
        check(&head(1, 1, &[1, 2, 0]), false);
        check(&head(1, 1, &[200, 100, 0]), false);
        check(&head(1, 0, &[])[1..], false);
        for len in 0..19 {
            check(&head(1, 0, &[])[..len], false);
        }
    }

    #[test]
    fn the_gain_of_the_header_is_in_decibel() {
        let mut head = head(1, 0, &[]);
        head[16..18].copy_from_slice(&(-6 * 256i16).to_le_bytes());
        assert!((Layout::read(&head).unwrap().gain - 0.501_187).abs() < 1e-6);
    }
}
