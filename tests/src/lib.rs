//! Support code of the workspace tests: the fixtures of the Python reference, the recipe their weights, waveforms and
//! tokens come from, and the comparison of our tensors with theirs.
//!
//! The fixtures were made by `laion-clap` 1.1.7, `transformers` 4.57.6, `torchlibrosa`, `torchaudio`, `librosa` and
//! `scikit-learn` (`tests/fixtures/README.md`). They are read from `tests/fixtures`, or from the folder that the
//! environment variable `PARITY_FIXTURES` names; another set, made with another seed, has to pass as well, so a test takes
//! its seed and its configuration from the manifest and never writes them down.
//!
//! Everything here panics with a message that names the fixture and the key: a broken fixture is a failed test.

mod compare;
mod fixture;
mod recipe;

pub use compare::{Comparison, check_cosine, check_probe, check_values, cosine, probe_indices, record, relative_error};
pub use fixture::{Fixture, fixture_dir};
pub use recipe::{
    SpecialTokens, fused_mel, is_recipe_tensor, name_seed, recipe_tensor, recipe_values, recipe_weights, scale_offset,
    synth_f32, synth_i16, token_ids, token_ids_with, unit_fill,
};
