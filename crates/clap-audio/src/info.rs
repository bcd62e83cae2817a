//! What a sound file says of itself, before any of it is decoded.

/// The description of a sound file, from its header.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AudioInfo {
    /// The container's short name: `wave`, `aiff`, `au`, `flac`, `ogg`, `mp3`, `isomp4` (M4A, MP4, MOV), `aac` (ADTS).
    pub container: String,
    /// The codec's short name: `pcm_s16le`, `flac`, `vorbis`, `mp3`, `aac`, `alac`, ...
    pub codec: String,
    /// Samples per second.
    pub sample_rate: u32,
    /// Channels in the file, before they are mixed to one.
    pub channels: usize,
    /// The number of frames (samples per channel).
    pub length: Length,
    /// Bits of a sample that carry sound, where the codec has such a number: PCM, FLAC, ALAC; not MP3, AAC, Vorbis.
    pub bits_per_sample: Option<u32>,
}

impl AudioInfo {
    /// The length in seconds, exact or estimated as [`AudioInfo::length`] is; `None` where the header states none.
    pub fn seconds(&self) -> Option<f64> {
        self.length.frames().map(|frames| frames as f64 / f64::from(self.sample_rate))
    }
}

/// The length of a sound file in frames (samples per channel), as its header has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// Stated by a lossless file; to decode fewer is [`crate::Error::Truncated`].
    Exact(u64),
    /// From a tag, from the timestamp of the last page, or from the bit rate. What is decoded may be more or less.
    Estimated(u64),
    /// Not stated, as in a stream written to a pipe.
    Unknown,
}

impl Length {
    /// The number of frames, where there is one.
    pub fn frames(self) -> Option<u64> {
        match self {
            Self::Exact(frames) | Self::Estimated(frames) => Some(frames),
            Self::Unknown => None,
        }
    }
}
