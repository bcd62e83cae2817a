//! What can go wrong between a file and its features. Every variant names the file (or the name given to a byte
//! source) or the configuration key at fault.

use std::path::PathBuf;

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a sound could not be turned into features.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file is missing, a folder, or may not be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The file holds no bytes.
    #[error("{name}: the file is empty (0 bytes)")]
    EmptyFile {
        /// The file or byte source.
        name: String,
    },
    /// The content is of no known sound format.
    #[error(
        "{name}: not a sound file that can be read (WAV, AIFF, AU, FLAC, OGG Vorbis, MP3, AAC and M4A are; the content counts, not the extension)"
    )]
    NotAudio {
        /// The file or byte source.
        name: String,
    },
    /// The container is known, the codec inside is not.
    #[error("{name}: unsupported codec {codec}; convert the file, for example to FLAC")]
    UnsupportedCodec {
        /// The file or byte source.
        name: String,
        /// The codec.
        codec: String,
    },
    /// The header says something that no recording has.
    #[error("{name}: the header says {what}; {allowed}")]
    AbsurdHeader {
        /// The file or byte source.
        name: String,
        /// The value at fault.
        what: String,
        /// What is allowed.
        allowed: String,
    },
    /// The stream is damaged.
    #[error("{name}: damaged sound data: {reason}")]
    Corrupt {
        /// The file or byte source.
        name: String,
        /// What the decoder met.
        reason: String,
    },
    /// Fewer samples than the header promises.
    #[error("{name}: cut short: the header promises {declared} samples per channel, {decoded} are there")]
    Truncated {
        /// The file or byte source.
        name: String,
        /// Samples per channel by the header.
        declared: u64,
        /// Samples per channel found.
        decoded: u64,
    },
    /// A sound without a single sample.
    #[error("{name}: the sound has no samples")]
    NoSamples {
        /// The file or byte source.
        name: String,
    },
    /// A sample that is NaN, infinite or so large that its power overflows.
    #[error("{name}: sample {index} is {value}; samples must be finite numbers, usually within -1 and 1")]
    NotFinite {
        /// The file or byte source.
        name: String,
        /// The first such sample, counted at the file's own rate.
        index: usize,
        /// Its value.
        value: f32,
    },
    /// Longer than [`crate::MAX_FRAMES`], before or after resampling.
    #[error("{name}: {frames} samples or more, the limit is {limit}; cut the recording into parts")]
    TooLong {
        /// The file or byte source.
        name: String,
        /// Samples per channel.
        frames: u64,
        /// The limit.
        limit: u64,
    },
    /// A segment that starts where the sound has ended.
    #[error("{name}: a segment from {start} s on is beyond the end; the sound is {length} s long")]
    BeyondEnd {
        /// The file or byte source.
        name: String,
        /// The segment's start in seconds.
        start: f64,
        /// The sound's length in seconds.
        length: f64,
    },
    /// A segment that starts before the sound, is empty or no number.
    #[error("{name}: a segment of {seconds} s from {start} s on: it must start at 0 or later and be longer than 0")]
    Segment {
        /// The file or byte source.
        name: String,
        /// The segment's start in seconds.
        start: f64,
        /// The segment's length in seconds.
        seconds: f64,
    },
    /// A waveform of another rate than the extractor's.
    #[error("the waveform is at {got} Hz, the features need {want} Hz: call Waveform::resample first")]
    SampleRate {
        /// The waveform's rate.
        got: u32,
        /// The configuration's rate.
        want: u32,
    },
    /// A sample rate that the resampler does not serve.
    #[error("sample rate {rate} Hz: must be within {min} and {max} Hz")]
    UnsupportedRate {
        /// The rate asked for.
        rate: u32,
        /// The smallest rate.
        min: u32,
        /// The largest rate.
        max: u32,
    },
    /// A configuration value that makes no sense.
    #[error("{key} = {value}: {reason}")]
    Config {
        /// The key, as in `preprocessor_config.json`.
        key: &'static str,
        /// Its value.
        value: String,
        /// Why not, and what to do.
        reason: String,
    },
    /// A name that is no model config's.
    #[error("LAION-CLAP has no model config {name}; it has {known}")]
    UnknownConfig {
        /// The name asked for.
        name: String,
        /// All names, between commas.
        known: String,
    },
    /// A policy or placement that does not fit the configuration or the clip.
    #[error("long audio policy {policy}: {reason}")]
    Policy {
        /// The policy.
        policy: String,
        /// Why not, and what to do.
        reason: String,
    },
}
