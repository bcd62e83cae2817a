//! The local views of a long clip, joined to the first block's map: the fusion types that end in `2d`.
//!
//! Source: laion-clap 1.1.7 `pann_model.py` (`mel_conv2d`, `fusion_model`).

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use clap_nn::init::torch_default;
use clap_nn::{Activation, BatchNorm, Conv2d, ConvGeometry, Mode};

use crate::config::FusionType;
use crate::fusion::{BATCH_NORM_EPS, Fusion, LongerClips};
use crate::mel_fusion::fit;

/// Side of the local views' kernel, and its step: three views of a sixth of the frames fill the first block's half, and its pooling halves
/// the mel bins.
const KERNEL: usize = 5;
const STRIDE: (usize, usize) = (6, 2);

/// `mel_conv2d` and `fusion_model`.
#[derive(Debug)]
pub(super) struct LocalMaps {
    conv: Conv2d,
    norm: BatchNorm,
    fusion: Fusion,
}

impl LocalMaps {
    /// Of `width` channels, the first block's; `vb` stands at the tower.
    pub(super) fn new(kind: FusionType, width: usize, reduction: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let conv = vb.pp("mel_conv2d").pp(0);
        let init = torch_default(KERNEL * KERNEL);
        let weight = conv.get_with_hints((width, 1, KERNEL, KERNEL), "weight", init)?;
        let bias = conv.get_with_hints(width, "bias", init)?;
        let geometry = ConvGeometry { stride: STRIDE, padding: (KERNEL / 2, KERNEL / 2) };
        Ok(Self {
            conv: Conv2d::from_parts(weight, Some(bias), geometry)?,
            norm: BatchNorm::new(width, BATCH_NORM_EPS, vb.pp("mel_conv2d").pp(1))?,
            fusion: Fusion::new(kind, width, reduction, vb.pp("fusion_model"))?,
        })
    }

    /// Replaces the longer clips' rows of the first block's map `global` `(B, frames', bins', C)` by their fusion with the local views of
    /// `xs` `(B, views, frames, bins)`.
    pub(super) fn join(&self, global: &Tensor, xs: &Tensor, longer: &LongerClips, mode: &mut Mode) -> Result<Tensor> {
        let (b, frames, bins, c) = global.dims4()?;
        let global = global.reshape((b, frames * bins, c))?;
        let local = self.local_map(&longer.pick(xs)?, frames, mode)?.reshape(((), frames * bins, c))?;
        let fused = self.fusion.forward_t(&longer.pick(&global)?, &local, mode)?;
        longer.replace(&global, &fused)?.reshape((b, frames, bins, c))
    }

    /// Views 1.. of `(L, views, frames, bins)` → `(L, frames', bins', C)`: each view's map behind the other, zeros where they do not reach.
    fn local_map(&self, xs: &Tensor, frames: usize, mode: &mut Mode) -> Result<Tensor> {
        let (l, views, long, bins) = xs.dims4()?;
        let thirds = views - 1;
        let xs = xs.narrow(1, 1, thirds)?.contiguous()?.reshape((l * thirds, long, bins, 1))?;
        let ys = Activation::Relu.forward(&self.norm.forward_last_t(&self.conv.forward(&xs)?, mode)?)?;
        let (_, third, bins, c) = ys.dims4()?; // (L·thirds, frames/6, bins/2, C)
        fit(&ys.reshape((l, thirds * third, bins, c))?, 1, frames)
    }
}
