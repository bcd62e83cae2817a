//! Checkpoints of other programs, in and out. No other module knows a foreign key.
//!
//! | source | names | read | written |
//! |---|---|---|---|
//! | `model.safetensors` of a Hugging Face folder | `transformers` | yes | [`save_folder`] |
//! | `pytorch_model.bin` of a Hugging Face folder | `transformers` | yes | – |
//! | `.pt` of LAION | `laion_clap` ([`laion`]) | yes, pickle protocol 2 | [`save_laion`] |
//!
//! A pickle is data here: it is parsed, nothing in it is ever executed.

mod audit;
mod clip_text;
mod detect;
mod hf;
pub mod laion;
mod laion_save;
mod read;
mod save;
mod torch_save;

pub(crate) use audit::INITIAL_SEED;
pub use laion_save::save_laion;
pub use read::{Checkpoint, Format};
pub use save::{EXTRA, save_folder, save_folder_with};

#[cfg(test)]
pub(crate) mod tests;
