//! CLAP: contrastive language-audio pretraining. The towers, their projections, tokenizers and checkpoint formats.
//!
//! CLAP here is the audio-text model of Wu et al., "Large-scale Contrastive Language-Audio Pretraining with Feature Fusion
//! and Keyword-to-Caption Augmentation" (arXiv 2211.06687), not the argument parser and not the plug-in format.
//! The reference programs are `laion-clap` 1.1.7 and `transformers` 4.57.6 (`models/clap`).
//!
//! Three lines embed a sound and a sentence:
//!
//! ```no_run
//! use clap_encoders::{Clap, LoadOptions};
//!
//! let model = Clap::from_pretrained("laion/clap-htsat-unfused", &LoadOptions::default())?;
//! let sounds = model.embed_audio(&["dog.wav"])?;
//! let texts = model.embed_text(&["a dog barks"])?;
//! # Ok::<(), clap_encoders::Error>(())
//! ```
//!
//! Weight paths are those of a Hugging Face CLAP repository (`audio_model.audio_encoder.layers.0.blocks.0.…`), so a model
//! folder written here is one that `transformers` reads. [`checkpoint`] alone knows other programs' keys.
#![cfg_attr(test, expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test"))]

mod audio_tower;
pub mod checkpoint;
mod config;
mod device;
mod error;
mod folder;
mod fusion;
pub mod htsat;
#[cfg(feature = "hub")]
pub mod hub;
mod location;
mod mel_fusion;
mod model;
mod opened;
pub mod pann;
mod pretrained;
mod projection;
mod spec_augment;
pub mod t5;
mod tagging;
mod taps;
pub mod text;
mod tokenizer;
mod tokenizer_source;
mod transform;
mod weights;

pub use audio_tower::AudioTower;
pub use checkpoint::{TowerReport, save_folder};
pub use config::{AudioConfig, ClapConfig, FusionType, HtsAtConfig, PannConfig, TextConfig, TextModelType};
pub use device::{device, dtype};
pub use error::{Error, KeyReport, Result};
pub use folder::{ModelFolder, load_folder, open_model};
pub use location::{locate, locate_text};
pub use model::ClapModel;
pub use opened::{AudioTowerFile, Opened, TextTowerFile, open};
pub use pretrained::{Clap, EmbedOptions, LoadOptions, Score, features_tensor};
pub use projection::Projection;
pub use tagging::AudioTags;
pub use taps::Taps;
pub use tokenizer::ClapTokenizer;
pub use transform::Transform;
pub use weights::is_weight_file;
