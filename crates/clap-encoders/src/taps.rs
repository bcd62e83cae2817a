//! Named observation points inside the towers.
//!
//! A tower shows each intermediate tensor to its [`Taps`] under a stable name; parity tests compare them with the
//! reference's forward hooks. Without an observer nothing is formatted, copied or kept.

use std::fmt;

use candle_core::Tensor;

/// What is called with the name and value of an intermediate tensor.
type Observer<'a> = &'a mut dyn FnMut(&str, &Tensor);

/// An observer of intermediate tensors, or none.
///
/// Names of PANNs: `bn0` `(B, views, frames, mel)`, `conv_block{i}` from 1 on `(B, frames, mel, channels)` (after pooling, before local
/// views are joined), `embedding` `(B, width)`.
/// Names of HTS-AT: `bn0` `(B, views, frames, mel)` (before training drops stripes), `image` `(B, views, spec, spec)`, `patch_proj`
/// `(B, grid, grid, width)`, `patch_embed` `(B, tokens, width)`, per stage `i` and block `j` `s{i}b{j}.attn` (natural token
/// order, after the output projection) and `s{i}b{j}`, `stage{i}` (after patch merging), `norm`, `embedding` `(B, width)`.
/// What [`crate::AudioTower::tag`] returns beside the embedding has no taps.
/// Names of the text tower: `embeddings`, `layer{i}` `(B, tokens, width)`, `pooler` `(B, width)`.
#[derive(Default)]
pub struct Taps<'a>(Option<Observer<'a>>);

impl<'a> Taps<'a> {
    /// No observer.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    /// `observer` is called with the name and value of every intermediate, in order.
    pub fn new(observer: &'a mut dyn FnMut(&str, &Tensor)) -> Self {
        Self(Some(observer))
    }

    /// Whether anyone looks; a fused operation that never has the intermediates gives way to separate layers then.
    pub(crate) fn are_watched(&self) -> bool {
        self.0.is_some()
    }

    /// Shows one tensor.
    pub(crate) fn see(&mut self, name: fmt::Arguments<'_>, xs: &Tensor) {
        if let Some(observer) = &mut self.0 {
            match name.as_str() {
                Some(name) => observer(name, xs),
                None => observer(&name.to_string(), xs),
            }
        }
    }
}

impl fmt::Debug for Taps<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Taps(observed)" } else { "Taps(none)" })
    }
}
