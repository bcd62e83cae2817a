//! Sun's and NeXT's `.au`, which symphonia 0.6.1 does not read and GTZAN's archive is made of.
//!
//! A header of six big-endian words (magic `.snd`, where the samples begin, their bytes, encoding, rate, channels), a note, and
//! interleaved samples. Source: the man page `audio.h(4)` of Solaris. Only the container is ours: symphonia decodes the samples.

use std::io::{Seek, SeekFrom};

use symphonia::core::audio::Channels;
use symphonia::core::codecs::CodecParameters;
use symphonia::core::codecs::audio::{AudioCodecId, AudioCodecParameters, well_known as codec};
use symphonia::core::common::FourCc;
use symphonia::core::errors::{Error, Result, SeekErrorKind, decode_error, seek_error, unsupported_error};
use symphonia::core::formats::prelude::*;
use symphonia::core::formats::probe::{ProbeDataMatchSpec, ProbeFormatData, ProbeableFormat, Score, Scoreable};
use symphonia::core::io::{MediaSourceStream, ReadBytes, ScopedStream};
use symphonia::core::meta::{Metadata, MetadataLog};

const MAGIC: [u8; 4] = *b".snd";

/// The words of the header.
const HEADER: u32 = 24;

/// A note is a line of text.
const MAX_NOTE: u32 = 1 << 20;

/// What a writer to a pipe puts for the bytes of samples.
const UNKNOWN: u32 = u32::MAX;

/// Frames of a packet.
const PACKET: u64 = 1152;

const INFO: FormatInfo =
    FormatInfo { format: FormatId::new(FourCc::new(MAGIC)), short_name: "au", long_name: "Sun/NeXT audio" };

pub(super) struct AuReader<'s> {
    stream: MediaSourceStream<'s>,
    media_info: MediaInfo,
    tracks: Vec<Track>,
    metadata: MetadataLog,
    /// Bytes of a frame.
    frame: u64,
    start: u64,
    /// Where the samples end, as the header says.
    end: u64,
}

/// Encodings whose samples have more bits than they are stored in, which symphonia's decoder knows by itself.
const MU_LAW: u32 = 1;
const A_LAW: u32 = 27;

/// Codec and bytes of a sample.
fn encoding(number: u32) -> Option<(AudioCodecId, u32)> {
    Some(match number {
        MU_LAW => (codec::CODEC_ID_PCM_MULAW, 1),
        2 => (codec::CODEC_ID_PCM_S8, 1),
        3 => (codec::CODEC_ID_PCM_S16BE, 2),
        4 => (codec::CODEC_ID_PCM_S24BE, 3),
        5 => (codec::CODEC_ID_PCM_S32BE, 4),
        6 => (codec::CODEC_ID_PCM_F32BE, 4),
        7 => (codec::CODEC_ID_PCM_F64BE, 8),
        A_LAW => (codec::CODEC_ID_PCM_ALAW, 1),
        _ => return None,
    })
}

impl<'s> AuReader<'s> {
    fn open(mut stream: MediaSourceStream<'s>) -> Result<Self> {
        if stream.read_quad_bytes()? != MAGIC {
            return unsupported_error("au: no magic number");
        }
        let mut word = || stream.read_be_u32();
        let (start, bytes, number, rate, channels) = (word()?, word()?, word()?, word()?, word()?);
        let Some((codec, width)) = encoding(number) else {
            return unsupported_error("au: an encoding other than PCM, A-law and mu-law");
        };
        if !(HEADER..=MAX_NOTE).contains(&start) {
            return decode_error("au: the samples begin before the header ends, or behind a megabyte of notes");
        }
        let Some(channels) = u16::try_from(channels).ok().filter(|channels| *channels > 0) else {
            return decode_error("au: no channels, or more than 65535");
        };
        stream.ignore_bytes(u64::from(start - HEADER))?;
        let frame = u64::from(width) * u64::from(channels);
        let mut params = AudioCodecParameters::new();
        params
            .for_codec(codec)
            .with_sample_rate(rate)
            .with_channels(Channels::Discrete(channels))
            .with_max_frames_per_packet(PACKET)
            .with_frames_per_block(1);
        if !matches!(number, MU_LAW | A_LAW) {
            params.with_bits_per_sample(8 * width).with_bits_per_coded_sample(8 * width);
        }
        let mut track = Track::new(0);
        track.with_codec_params(CodecParameters::Audio(params));
        if let Some(base) = TimeBase::try_from_recip(rate) {
            track.with_time_base(base);
        }
        let start = u64::from(start);
        let end = if bytes == UNKNOWN { u64::MAX } else { start + u64::from(bytes) };
        if bytes != UNKNOWN {
            track.with_num_frames(u64::from(bytes) / frame);
        }
        Ok(Self {
            stream,
            media_info: MediaInfo::from_track(&track),
            tracks: vec![track],
            metadata: MetadataLog::default(),
            frame,
            start,
            end,
        })
    }
}

impl Scoreable for AuReader<'_> {
    fn score(mut stream: ScopedStream<&mut MediaSourceStream<'_>>) -> Result<Score> {
        Ok(if stream.read_quad_bytes()? == MAGIC { Score::Supported(255) } else { Score::Unsupported })
    }
}

impl ProbeableFormat<'_> for AuReader<'_> {
    fn try_probe_new(stream: MediaSourceStream<'_>, _: FormatOptions) -> Result<Box<dyn FormatReader + '_>> {
        Ok(Box::new(AuReader::open(stream)?))
    }

    fn probe_data() -> &'static [ProbeFormatData] {
        const SPEC: ProbeDataMatchSpec =
            ProbeDataMatchSpec { extensions: &["au", "snd"], mime_types: &["audio/basic"], markers: &[&MAGIC] };
        &[ProbeFormatData { spec: SPEC, info: INFO }]
    }
}

impl FormatReader for AuReader<'_> {
    fn format_info(&self) -> &FormatInfo {
        &INFO
    }

    fn media_info(&self) -> &MediaInfo {
        &self.media_info
    }

    fn next_packet(&mut self) -> Result<Option<Packet>> {
        let place = self.stream.pos();
        let first = place.saturating_sub(self.start) / self.frame;
        let wanted = self.end.saturating_sub(place).min(PACKET * self.frame) / self.frame * self.frame;
        let mut bytes = vec![0; wanted as usize];
        let mut filled = 0;
        while filled < bytes.len() {
            match self.stream.read_buf(&mut bytes[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => break,
                Err(error) => return Err(error.into()),
            }
        }
        // A frame that is cut is none.
        let frames = filled as u64 / self.frame;
        bytes.truncate((frames * self.frame) as usize);
        let Ok(time) = Timestamp::try_from(first) else { return Ok(None) };
        Ok((frames > 0).then(|| Packet::new(0, time, Duration::from(frames), bytes)))
    }

    fn metadata(&mut self) -> Metadata<'_> {
        self.metadata.metadata()
    }

    fn tracks(&self) -> &[Track] {
        &self.tracks
    }

    fn seek(&mut self, _: SeekMode, to: SeekTo) -> Result<SeekedTo> {
        let wanted = match to {
            SeekTo::Timestamp { ts, .. } => ts,
            SeekTo::Time { time, .. } => {
                let base = self.tracks[0].time_base.ok_or(Error::SeekError(SeekErrorKind::Unseekable))?;
                base.calc_timestamp(time).ok_or(Error::SeekError(SeekErrorKind::OutOfRange))?
            }
        };
        let Ok(frame) = u64::try_from(wanted.get()) else { return seek_error(SeekErrorKind::OutOfRange) };
        let place = frame.checked_mul(self.frame).and_then(|bytes| bytes.checked_add(self.start));
        let Some(place) = place.filter(|place| *place <= self.end) else {
            return seek_error(SeekErrorKind::OutOfRange);
        };
        self.stream.seek(SeekFrom::Start(place))?;
        Ok(SeekedTo { track_id: 0, actual_ts: wanted, required_ts: wanted })
    }

    fn into_inner<'s>(self: Box<Self>) -> MediaSourceStream<'s>
    where
        Self: 's,
    {
        self.stream
    }
}
