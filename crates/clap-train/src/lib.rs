//! Training of CLAP (contrastive language-audio pretraining): losses, optimisers, schedules, the loop.
//!
//! ```no_run
//! use std::path::Path;
//! use clap_train::{TrainConfig, Trainer};
//!
//! # fn main() -> Result<(), clap_train::Error> {
//! let mut config = TrainConfig::load(Path::new("datasets/sounds-mini/recipe.toml"))?;
//! config.set("optim.lr=5e-4")?;
//! let done = Trainer::new(config, Path::new("runs/first"))?.run(&mut ())?;
//! println!("{} steps, R@10 {:?}", done.steps, done.best.get("audio_to_text_R@10"));
//! # Ok(())
//! # }
//! ```
//!
//! The recipe is LAION-CLAP's (arXiv 2211.06687; `laion_clap/training`, 1.1.7): one temperature, Adam, linear warm-up and a
//! cosine to zero. Nothing is printed: a run tells an [`Observer`] what happens and keeps the same events in its
//! [`RunFolder`]; every checkpoint is a Hugging Face model folder.
#![cfg_attr(test, expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test"))]

mod adam;
mod budget;
pub mod collate;
pub mod config;
pub mod distributed;
mod dry_run;
mod error;
pub mod event;
mod grad_cache;
pub mod gradient;
pub mod groups;
mod history;
mod initial_model;
pub mod lora;
pub mod loss;
pub mod optimizer;
mod peak_memory;
pub mod plot;
pub mod probe;
pub mod report;
mod run_folder;
mod schedule;
mod setup;
pub mod state;
mod tensorboard;
mod towers;
mod train_data;
mod trainer;

pub use config::{Precision, TrainConfig};
pub use distributed::Ranks;
pub use dry_run::DryRun;
pub use error::{Error, Result};
pub use event::{Done, Ending, Eval, Event, Metrics, Observer, Start, Step};
pub use gradient::Gradient;
pub use history::History;
pub use optimizer::{Algorithm, Optimizer, OptimizerConfig, Parameter};
pub use run_folder::RunFolder;
pub use schedule::{Schedule, Shape};
pub use setup::Setup;
pub use train_data::TrainData;
pub use trainer::Trainer;
