//! The map from a tower's width into the joint space.
//!
//! Source: laion-clap 1.1.7 `model.py` (`audio_projection`, `text_projection`); transformers `ClapProjectionLayer`.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use clap_nn::init::torch_default;
use clap_nn::{Activation, Linear};

/// Linear, activation, linear.
#[derive(Debug)]
pub struct Projection {
    linear1: Linear,
    act: Activation,
    linear2: Linear,
}

impl Projection {
    /// From `input` to `output` channels; `vb` stands at `audio_projection` or `text_projection`.
    ///
    /// # Errors
    /// Where a weight is missing or of another shape.
    pub fn new(input: usize, output: usize, act: Activation, vb: VarBuilder<'_>) -> Result<Self> {
        Ok(Self {
            linear1: linear(input, output, vb.pp("linear1"))?,
            act,
            linear2: linear(output, output, vb.pp("linear2"))?,
        })
    }

    /// `(B, input)` → `(B, output)`, not normalised.
    ///
    /// # Errors
    /// Where the width differs.
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        self.linear2.forward(&self.act.forward(&self.linear1.forward(xs)?)?)
    }
}

/// A linear layer that starts as torch's `nn.Linear`, unlike the towers' layers.
pub(crate) fn linear(input: usize, output: usize, vb: VarBuilder<'_>) -> Result<Linear> {
    let init = torch_default(input);
    let weight = vb.get_with_hints((output, input), "weight", init)?;
    Ok(Linear::from_parts(weight, Some(vb.get_with_hints(output, "bias", init)?)))
}
