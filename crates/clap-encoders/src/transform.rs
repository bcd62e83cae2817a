//! The second head of LAION's MLP loss: a map of the joint space into itself, one for each modality.
//!
//! Source: laion-clap 1.1.7 `model.py` (`MLPLayers`, `audio_transform`, `text_transform`). It is applied to normalised embeddings and
//! its output is not normalised. Every LAION checkpoint holds both, trained or not; published models were trained without.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use clap_nn::{Activation, Linear, Mode, dropout};

use crate::projection::linear;

/// Linear, ReLU, dropout, linear; the layers' names are their places in torch's `Sequential`.
#[derive(Debug)]
pub struct Transform {
    first: Linear,
    second: Linear,
    dropout: f32,
}

impl Transform {
    /// Of a joint space of `width` channels, with a rate of dropout between the layers; `vb` stands at `audio_transform` or `text_transform`.
    ///
    /// # Errors
    /// Where a weight is missing or of another shape.
    pub fn new(width: usize, dropout: f64, vb: VarBuilder<'_>) -> Result<Self> {
        let layer = |place: usize| linear(width, width, vb.pp("sequential").pp(place));
        Ok(Self { first: layer(0)?, second: layer(3)?, dropout: dropout as f32 })
    }

    /// Normalised embeddings `(B, width)` → `(B, width)`, not normalised.
    ///
    /// # Errors
    /// Where the width differs.
    pub fn forward_t(&self, embeds: &Tensor, mode: &mut Mode) -> Result<Tensor> {
        let xs = Activation::Relu.forward(&self.first.forward(embeds)?)?;
        self.second.forward(&dropout(&xs, self.dropout, mode)?)
    }
}
