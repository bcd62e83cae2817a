//! Joining the global and the local views of a long clip.
//!
//! Dai et al., "Attentional Feature Fusion" (arXiv 2009.14082); source: laion-clap 1.1.7 `feature_fusion.py`, whose factors
//! are kept: AFF returns twice the convex combination, iAFF the plain one, and iAFF's second round uses the *first* global
//! branch (its `global_att2` is loaded and written, never used).
//!
//! Maps are `(clips, positions, channels)` here: a convolution of width 1 is a linear layer and batch norm sees
//! `(clips · positions, channels)`, which has the statistics of torch's `(clips, channels, rows, columns)`. Positions are the
//! rows and columns of a tower's first map, or, for the 1-D kinds, the frames of a spectrogram whose mel bins are the channels.

use candle_core::{Device, Result, Tensor, bail};
use candle_nn::VarBuilder;
use clap_nn::init::torch_default;
use clap_nn::{Activation, BatchNorm, Linear, Mode, activated_linear, add_rows, gated_sum, mean_rows, residual};
use rand::Rng;

use crate::config::FusionType;

/// Epsilon of torch's batch norm.
pub(crate) const BATCH_NORM_EPS: f64 = 1e-5;

/// `fusion_model` of a tower.
#[derive(Debug)]
pub(crate) enum Fusion {
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
    /// Over maps of `channels` channels; `reduction` is the bottleneck's.
    pub(crate) fn new(kind: FusionType, channels: usize, reduction: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let shape = Shape { channels, inner: channels / reduction, is_1d: kind.is_1d() };
        Ok(match kind {
            FusionType::ChannelMap => bail!("channel_map is no fusion of maps: the first convolution takes all views"),
            FusionType::Daf1d | FusionType::Daf2d => Self::Daf,
            FusionType::Aff1d | FusionType::Aff2d => Self::Aff(Box::new(Attention::new(shape, vb)?)),
            FusionType::Iaff1d | FusionType::Iaff2d => Self::Iaff {
                first: Box::new(Attention::new(shape, vb.clone())?),
                local: Box::new(Branch::new(shape, 0, vb.pp("local_att2"))?),
                _unused: Box::new(Branch::new(shape, 1, vb.pp("global_att2"))?),
            },
        })
    }

    /// `(L, positions, C)` twice → the same.
    pub(crate) fn forward_t(&self, xs: &Tensor, other: &Tensor, mode: &mut Mode) -> Result<Tensor> {
        let sum = residual(xs, other, 0.0, mode)?;
        match self {
            Self::Daf => Ok(sum),
            Self::Aff(attention) => {
                let logits = attention.logits(&sum, mode)?;
                gated_sum(xs, other, &logits, 2.0)
            }
            Self::Iaff { first, local, .. } => {
                let logits = first.logits(&sum, mode)?;
                let ys = gated_sum(xs, other, &logits, 1.0)?;
                let logits = first.logits_with(local, &ys, mode)?;
                gated_sum(xs, other, &logits, 1.0)
            }
        }
    }
}

/// Sizes of a branch.
#[derive(Clone, Copy, Debug)]
struct Shape {
    channels: usize,
    inner: usize,
    /// The weights are those of `Conv1d`, not of `Conv2d`.
    is_1d: bool,
}

/// A local branch over every position and a global one over their mean.
#[derive(Debug)]
pub(crate) struct Attention {
    local: Branch,
    global: Branch,
}

impl Attention {
    fn new(shape: Shape, vb: VarBuilder<'_>) -> Result<Self> {
        Ok(Self {
            local: Branch::new(shape, 0, vb.pp("local_att"))?,
            // Index 0 of the global branch is its pooling.
            global: Branch::new(shape, 1, vb.pp("global_att"))?,
        })
    }

    fn logits(&self, xs: &Tensor, mode: &mut Mode) -> Result<Tensor> {
        self.logits_with(&self.local, xs, mode)
    }

    /// `local(xs) + global(mean(xs))`, `(L, positions, C)`: the gate before its sigmoid.
    fn logits_with(&self, local: &Branch, xs: &Tensor, mode: &mut Mode) -> Result<Tensor> {
        let clips = xs.dim(0)?;
        // Batch norm over one pooled row has no variance: the reference doubles a batch of one.
        let doubled = mode.is_train() && clips == 1;
        let xs = if doubled { Tensor::cat(&[xs, xs], 0)? } else { xs.clone() };
        let (l, positions, c) = xs.dims3()?;
        let local = local.forward_t(&xs.reshape((l * positions, c))?, mode)?.reshape((l, positions, c))?;
        let global = self.global.forward_t(&mean_rows(&xs)?, mode)?; // (L, C)
        let ys = add_rows(&local, &global)?;
        if doubled { ys.narrow(0, 0, 1) } else { Ok(ys) }
    }
}

/// 1x1 convolution, batch norm, ReLU, 1x1 convolution, batch norm.
#[derive(Debug)]
pub(crate) struct Branch {
    down: Linear,
    down_norm: BatchNorm,
    up: Linear,
    up_norm: BatchNorm,
}

impl Branch {
    /// `first` is the index of the first convolution inside torch's `Sequential`.
    fn new(shape: Shape, first: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let Shape { channels, inner, is_1d } = shape;
        Ok(Self {
            down: pointwise(channels, inner, is_1d, vb.pp(first))?,
            down_norm: BatchNorm::new(inner, BATCH_NORM_EPS, vb.pp(first + 1))?,
            up: pointwise(inner, channels, is_1d, vb.pp(first + 3))?,
            up_norm: BatchNorm::new(channels, BATCH_NORM_EPS, vb.pp(first + 4))?,
        })
    }

    /// `(rows, C)` → `(rows, C)`.
    fn forward_t(&self, xs: &Tensor, mode: &mut Mode) -> Result<Tensor> {
        let folded = (self.down_norm.folded_into(&self.down, mode)?, self.up_norm.folded_into(&self.up, mode)?);
        if let (Some(down), Some(up)) = folded {
            return activated_linear(&down.forward(xs)?, Activation::Relu, &up);
        }
        let ys = self.down_norm.forward_last_t(&self.down.forward(xs)?, mode)?;
        let ys = Activation::Relu.forward(&ys)?;
        self.up_norm.forward_last_t(&self.up.forward(&ys)?, mode)
    }
}

/// The weight `(out, in, 1)` or `(out, in, 1, 1)` of a convolution of width 1 as a linear layer.
fn pointwise(inputs: usize, outputs: usize, is_1d: bool, vb: VarBuilder<'_>) -> Result<Linear> {
    let init = torch_default(inputs);
    let weight = match is_1d {
        true => vb.get_with_hints((outputs, inputs, 1), "weight", init)?,
        false => vb.get_with_hints((outputs, inputs, 1, 1), "weight", init)?,
    };
    let weight = weight.reshape((outputs, inputs))?;
    Ok(Linear::from_parts(weight, Some(vb.get_with_hints(outputs, "bias", init)?)))
}

/// The clips of a batch whose local views are joined in.
#[derive(Debug)]
pub(crate) struct LongerClips {
    /// Their rows.
    rows: Tensor,
    /// Row i of a result is row i of the global maps, or its fused row behind them.
    source: Tensor,
    all: bool,
}

impl LongerClips {
    /// Those that `is_longer` marks, or `None` where there is none. In training a batch without any lets chance mark one, as
    /// LAION's program does, so that the fusion's weights learn.
    ///
    /// # Errors
    /// Where there is not a flag for each of the `clips`.
    pub(crate) fn new(is_longer: &[bool], clips: usize, mode: &mut Mode, device: &Device) -> Result<Option<Self>> {
        if is_longer.len() != clips {
            bail!("is_longer has {} flags for {clips} clips", is_longer.len())
        }
        let picked = match mode.rng() {
            Some(rng) if clips > 0 && !is_longer.contains(&true) => Some(rng.random_range(0..clips)),
            _ => None,
        };
        let is_longer = |i: usize| is_longer[i] || picked == Some(i);
        let rows: Vec<u32> = (0..clips).filter(|&i| is_longer(i)).map(|i| i as u32).collect();
        if rows.is_empty() {
            return Ok(None);
        }
        let mut fused = clips as u32..;
        let source: Vec<u32> =
            (0..clips).map(|i| if is_longer(i) { fused.next().unwrap_or(i as u32) } else { i as u32 }).collect();
        Ok(Some(Self {
            all: rows.len() == clips,
            rows: Tensor::new(rows, device)?,
            source: Tensor::new(source, device)?,
        }))
    }

    /// `(B, …)` → `(L, …)`, the longer clips' rows.
    pub(crate) fn pick(&self, xs: &Tensor) -> Result<Tensor> {
        if self.all { Ok(xs.clone()) } else { xs.index_select(&self.rows, 0) }
    }

    /// `(B, …)` with the longer clips' rows replaced by those of `fused` `(L, …)`.
    pub(crate) fn replace(&self, xs: &Tensor, fused: &Tensor) -> Result<Tensor> {
        if self.all { Ok(fused.clone()) } else { Tensor::cat(&[xs, fused], 0)?.index_select(&self.source, 0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    /// A broken clip must show: a branch that made zeros of it would hand on a plausible embedding.
    #[test]
    fn nan_passes_through_a_branch() {
        let (_, vb) = clap_nn::init::seeded_vars(1, &Device::Cpu, DType::F32);
        let branch = Branch::new(Shape { channels: 6, inner: 2, is_1d: false }, 0, vb).unwrap();
        let xs = Tensor::full(f32::NAN, (2, 6), &Device::Cpu).unwrap();
        let ys = branch.forward_t(&xs, &mut Mode::eval()).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(ys.iter().all(|y| y.is_nan()), "{ys:?}");
    }

    #[test]
    fn longer_clips_are_picked_and_put_back() {
        let cpu = Device::Cpu;
        let longer = LongerClips::new(&[false, true, false, true], 4, &mut Mode::eval(), &cpu).unwrap().unwrap();
        let xs = Tensor::new(&[[0f32], [1.], [2.], [3.]], &cpu).unwrap();
        let picked = longer.pick(&xs).unwrap();
        assert_eq!(picked.to_vec2::<f32>().unwrap(), [[1.], [3.]]);
        let ys = longer.replace(&xs, &(picked * 10.0).unwrap()).unwrap();
        assert_eq!(ys.to_vec2::<f32>().unwrap(), [[0.], [10.], [2.], [30.]]);
        assert!(LongerClips::new(&[false; 3], 3, &mut Mode::eval(), &cpu).unwrap().is_none());
        assert!(LongerClips::new(&[true; 3], 4, &mut Mode::eval(), &cpu).is_err());
    }
}
