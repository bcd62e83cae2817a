//! Checkpoints of other programs, in and out. No other module knows a foreign key.
//!
//! | source | names | read | written |
//! |---|---|---|---|
//! | `model.safetensors` of a Hugging Face folder | `transformers` | yes | [`save_folder`] |
//! | `pytorch_model.bin` of a Hugging Face folder | `transformers` | yes | – |
//! | `.pt` of LAION | `laion_clap` ([`laion`]) | yes | [`save_laion`] |
//! | weights of an open_clip folder | `open_clip` | yes | – |
//! | an audio tower trained on AudioSet | HTS-AT's program, PANNs' | yes, as one tower | – |
//! | a text model's folder | `transformers` | yes, as one tower | – |
//! | a T5's folder | `transformers` | yes, to write captions | – |
//!
//! Files of `torch.save` are read in both of its formats and in pickle protocols 2 to 5. A pickle is data here: it is
//! parsed, nothing in it is ever executed.

mod audio_set;
mod audit;
mod clip_text;
mod detect;
mod format;
mod front_end;
mod hf;
pub mod laion;
mod laion_save;
mod mapping;
mod open_clip;
mod open_clip_config;
mod pickle;
mod read;
mod safetensors_file;
mod save;
mod t5;
mod text_config;
mod text_tower;
mod torch_save;
mod tower;

pub(crate) use audit::INITIAL_SEED;
pub use format::Format;
pub use laion_save::save_laion;
pub(crate) use open_clip_config::{OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS, read as open_clip_config};
pub use read::Checkpoint;
pub use save::{EXTRA, save_folder, save_folder_with};
pub(crate) use text_config::{is_text as is_text_config, read as text_config};
pub use tower::{Tower, TowerReport};

/// Stochastic depth in training of LAION's and open_clip's programs, which their files do not tell.
pub(crate) const DROP_PATH_RATE: f64 = 0.1;

#[cfg(test)]
pub(crate) mod tests;
