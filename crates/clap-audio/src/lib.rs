//! Sound file to log-mel views, as LAION-CLAP and Hugging Face `transformers` compute them.
//!
//! ```text
//! file --decode--> mono at its own rate --resample--> 48 kHz --(int16 round trip)--> one window --STFT, mel, dB--> (views, frames, bins)
//! ```
//!
//! Plain `f32`, no tensor library, no network, no hidden randomness: every random choice takes a generator.
//!
//! ```no_run
//! # fn main() -> Result<(), clap_audio::Error> {
//! use clap_audio::{Channels, FeatureConfig, FeatureExtractor, Preset};
//!
//! let extractor = FeatureExtractor::new(FeatureConfig::default(), Preset::Laion)?;
//! let wave = clap_audio::load("dog.flac".as_ref(), extractor.config().sampling_rate, Channels::Mean)?;
//! for features in extractor.extract(&wave, extractor.default_policy(), None)? {
//!     assert_eq!(features.data.len(), features.views * features.frames * features.bins);
//! }
//! # Ok(())
//! # }
//! ```
#![cfg_attr(test, expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test"))]

pub mod augment;
mod config;
mod decibel;
mod decode;
mod error;
mod features;
mod info;
mod laion;
pub mod length;
mod log_mel;
mod mel;
mod quantize;
mod reader;
mod real_fft;
mod resample;
mod segment;
mod vectorise;
mod waveform;

pub use config::{FeatureConfig, Padding, Truncation};
pub use decode::{MAX_FRAMES, decode, decode_bytes, decode_reader};
pub use error::{Error, Result};
pub use features::{FeatureExtractor, Features, Placement, Preset};
pub use info::{AudioInfo, Length};
pub use length::LongAudio;
pub use log_mel::{LogMel, Mel, Scratch};
pub use mel::{MelBank, MelConfig, MelScale};
pub use quantize::{int16_round_trip, to_int16};
pub use reader::{AudioReader, MAX_CHANNELS, MAX_SAMPLE_RATE, MIN_SAMPLE_RATE};
pub use resample::{Resampler, resampled_len};
pub use segment::{Segment, decode_segment, decode_segment_bytes, load_segment, load_segment_bytes};
pub use waveform::{Channels, Waveform, load, load_bytes};
