//! Joining the global and the local patch maps of a long clip.
//!
//! Dai et al., "Attentional Feature Fusion" (arXiv 2009.14082); source: laion-clap 1.1.7 `feature_fusion.py`, whose factors
//! are kept: AFF returns twice the convex combination, iAFF the plain one, and iAFF's second round uses the *first* global
//! branch (its `global_att2` is loaded and written, never used).
//!
//! Maps are `(clips, rows · columns, channels)` here: a 1x1 convolution is a linear layer and batch norm sees
//! `(clips · tokens, channels)`, which has the statistics of torch's `(clips, channels, rows, columns)`.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use clap_nn::init::torch_default;
use clap_nn::{Activation, BatchNorm, Linear, Mode};

use crate::config::{AudioConfig, FusionType};

/// Epsilon of torch's batch norm.
pub(super) const BATCH_NORM_EPS: f64 = 1e-5;

/// `fusion_model` of the patch embedding.
#[derive(Debug)]
pub(super) enum Fusion {
    /// Sum.
    Daf,
    /// One round of attention.
    Aff(Box<Attention>),
    /// Two rounds; the local branch of the second is its own.
    Iaff {
        /// The first round.
        first: Box<Attention>,
        /// Local branch of the second.
        local: Box<Branch>,
        /// Present in the file only.
        _unused: Box<Branch>,
    },
}

impl Fusion {
    /// `None` where the type has no module of its own.
    pub(super) fn new(fusion: FusionType, config: &AudioConfig, vb: VarBuilder<'_>) -> Result<Option<Self>> {
        Ok(match fusion {
            FusionType::ChannelMap => None,
            FusionType::Daf2d => Some(Self::Daf),
            FusionType::Aff2d => Some(Self::Aff(Box::new(Attention::new(config, vb)?))),
            FusionType::Iaff2d => Some(Self::Iaff {
                first: Box::new(Attention::new(config, vb.clone())?),
                local: Box::new(Branch::new(config, 0, vb.pp("local_att2"))?),
                _unused: Box::new(Branch::new(config, 1, vb.pp("global_att2"))?),
            }),
        })
    }

    /// `(L, tokens, C)` twice → the same.
    pub(super) fn forward_t(&self, xs: &Tensor, residual: &Tensor, mode: &mut Mode) -> Result<Tensor> {
        match self {
            Self::Daf => xs + residual,
            Self::Aff(attention) => {
                let w = attention.weights(&(xs + residual)?, mode)?;
                blend(xs, residual, &w)? * 2.0
            }
            Self::Iaff { first, local, .. } => {
                let w = first.weights(&(xs + residual)?, mode)?;
                let ys = blend(xs, residual, &w)?;
                let w = first.weights_with(local, &ys, mode)?;
                blend(xs, residual, &w)
            }
        }
    }
}

/// `xs · w + residual · (1 - w)`, as `residual + (xs - residual) · w`.
fn blend(xs: &Tensor, residual: &Tensor, w: &Tensor) -> Result<Tensor> {
    residual + ((xs - residual)? * w)?
}

/// A local branch over every token and a global one over their mean.
#[derive(Debug)]
pub(super) struct Attention {
    local: Branch,
    global: Branch,
}

impl Attention {
    fn new(config: &AudioConfig, vb: VarBuilder<'_>) -> Result<Self> {
        Ok(Self {
            local: Branch::new(config, 0, vb.pp("local_att"))?,
            // Index 0 of the global branch is its pooling.
            global: Branch::new(config, 1, vb.pp("global_att"))?,
        })
    }

    fn weights(&self, xs: &Tensor, mode: &mut Mode) -> Result<Tensor> {
        self.weights_with(&self.local, xs, mode)
    }

    /// `sigmoid(local(xs) + global(mean(xs)))`, `(L, tokens, C)`.
    fn weights_with(&self, local: &Branch, xs: &Tensor, mode: &mut Mode) -> Result<Tensor> {
        let clips = xs.dim(0)?;
        // Batch norm over one pooled row has no variance: the reference doubles a batch of one.
        let doubled = mode.is_train() && clips == 1;
        let xs = if doubled { Tensor::cat(&[xs, xs], 0)? } else { xs.clone() };
        let (l, tokens, c) = xs.dims3()?;
        let local = local.forward_t(&xs.reshape((l * tokens, c))?, mode)?.reshape((l, tokens, c))?;
        let global = self.global.forward_t(&xs.mean(1)?, mode)?.unsqueeze(1)?; // (L, 1, C)
        let w = candle_nn::ops::sigmoid(&local.broadcast_add(&global)?)?;
        if doubled { w.narrow(0, 0, 1) } else { Ok(w) }
    }
}

/// 1x1 convolution, batch norm, ReLU, 1x1 convolution, batch norm.
#[derive(Debug)]
pub(super) struct Branch {
    down: Linear,
    down_norm: BatchNorm,
    up: Linear,
    up_norm: BatchNorm,
}

impl Branch {
    /// `first` is the index of the first convolution inside torch's `Sequential`.
    fn new(config: &AudioConfig, first: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let c = config.patch_embeds_hidden_size;
        let inner = c / config.aff_block_r;
        Ok(Self {
            down: pointwise(c, inner, vb.pp(first))?,
            down_norm: BatchNorm::new(inner, BATCH_NORM_EPS, vb.pp(first + 1))?,
            up: pointwise(inner, c, vb.pp(first + 3))?,
            up_norm: BatchNorm::new(c, BATCH_NORM_EPS, vb.pp(first + 4))?,
        })
    }

    /// `(rows, C)` → `(rows, C)`.
    fn forward_t(&self, xs: &Tensor, mode: &mut Mode) -> Result<Tensor> {
        let ys = self.down_norm.forward_last_t(&self.down.forward(xs)?, mode)?;
        let ys = Activation::Relu.forward(&ys)?;
        self.up_norm.forward_last_t(&self.up.forward(&ys)?, mode)
    }
}

/// A 1x1 convolution's weight `(out, in, 1, 1)` as a linear layer.
fn pointwise(inputs: usize, outputs: usize, vb: VarBuilder<'_>) -> Result<Linear> {
    let init = torch_default(inputs);
    let weight = vb.get_with_hints((outputs, inputs, 1, 1), "weight", init)?.reshape((outputs, inputs))?;
    Ok(Linear::from_parts(weight, Some(vb.get_with_hints(outputs, "bias", init)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    /// A broken clip must show: a branch that made zeros of it would hand on a plausible embedding.
    #[test]
    fn nan_passes_through_a_branch() {
        let config = AudioConfig { patch_embeds_hidden_size: 6, aff_block_r: 3, ..AudioConfig::default() };
        let (_, vb) = clap_nn::init::seeded_vars(1, &Device::Cpu, DType::F32);
        let branch = Branch::new(&config, 0, vb).unwrap();
        let xs = Tensor::full(f32::NAN, (2, 6), &Device::Cpu).unwrap();
        let ys = branch.forward_t(&xs, &mut Mode::eval()).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(ys.iter().all(|y| y.is_nan()), "{ys:?}");
    }
}
