//! Checkpoints of other programs, in and out. No other module knows a foreign key.
//!
//! | source | names | read | written |
//! |---|---|---|---|
//! | `model.safetensors` of a Hugging Face folder | `transformers` | yes | [`save_folder`] |
//! | `pytorch_model.bin` of a Hugging Face folder | `transformers` | yes | – |
//! | `.pt` of LAION | `laion_clap` ([`laion`]) | yes, pickle protocol 2 | – |
//!
//! A pickle is data here: it is parsed, nothing in it is ever executed.

mod audit;
mod clip_text;
mod detect;
mod hf;
pub mod laion;
mod read;
mod save;

pub use read::{Checkpoint, Format};
pub use save::{save_folder, save_folder_with};

#[cfg(test)]
pub(crate) mod tests;
