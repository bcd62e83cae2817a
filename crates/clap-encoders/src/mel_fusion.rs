//! Joining the views of a long clip as spectrograms, before the tower's first layer: the fusion types that end in `1d`.
//!
//! Source: laion-clap 1.1.7 `htsat.py`, `pann_model.py` (`mel_conv1d`, `fusion_model`). The three local spectrograms, shrunk to a third
//! each, stand one behind the other in the frames of the global one; mel bins are the channels.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use clap_nn::init::torch_default;
use clap_nn::{BatchNorm, Conv2d, ConvGeometry, Mode};

use crate::config::FusionType;
use crate::fusion::{BATCH_NORM_EPS, Fusion, LongerClips};

/// Frames that one output of the local views' convolution sees, and their step.
const KERNEL: usize = 5;
const STRIDE: usize = 3;

/// `mel_conv1d` and `fusion_model` of a tower.
#[derive(Debug)]
pub(crate) struct MelFusion {
    conv: Conv2d,
    norm: BatchNorm,
    fusion: Fusion,
}

impl MelFusion {
    /// Of spectrograms of `bins` mel bins; `vb` stands at the tower, `reduction` is that of the fusion's bottleneck.
    pub(crate) fn new(kind: FusionType, bins: usize, reduction: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let conv = vb.pp("mel_conv1d").pp(0);
        let init = torch_default(bins * KERNEL);
        let weight = conv.get_with_hints((bins, bins, KERNEL), "weight", init)?;
        let bias = conv.get_with_hints(bins, "bias", init)?;
        let geometry = ConvGeometry { stride: (STRIDE, 1), padding: (KERNEL / 2, 0) };
        Ok(Self {
            conv: Conv2d::from_parts(weight.unsqueeze(3)?, Some(bias), geometry)?,
            norm: BatchNorm::new(bins, BATCH_NORM_EPS, vb.pp("mel_conv1d").pp(1))?,
            fusion: Fusion::new(kind, bins, reduction, vb.pp("fusion_model"))?,
        })
    }

    /// `(B, views, frames, bins)` → `(B, 1, frames, bins)`; local views are joined in for the longer clips alone.
    pub(crate) fn forward_t(&self, xs: &Tensor, longer: Option<&LongerClips>, mode: &mut Mode) -> Result<Tensor> {
        let global = xs.narrow(1, 0, 1)?.squeeze(1)?.contiguous()?; // (B, frames, bins)
        let ys = match longer {
            Some(longer) => {
                let local = self.local_frames(&longer.pick(xs)?, mode)?;
                let fused = self.fusion.forward_t(&longer.pick(&global)?, &local, mode)?;
                longer.replace(&global, &fused)?
            }
            None => global,
        };
        ys.unsqueeze(1) // (B, 1, frames, bins)
    }

    /// Views 1.. of `(L, views, frames, bins)` → `(L, frames, bins)`, zeros where they do not reach.
    fn local_frames(&self, xs: &Tensor, mode: &mut Mode) -> Result<Tensor> {
        let (l, views, frames, bins) = xs.dims4()?;
        let thirds = views - 1;
        let xs = xs.narrow(1, 1, thirds)?.contiguous()?.reshape((l * thirds, frames, 1, bins))?;
        let ys = self.norm.forward_last_t(&self.conv.forward(&xs)?, mode)?; // (L·thirds, frames/3, 1, bins)
        let ys = ys.reshape((l, (), bins))?; // (L, thirds·frames/3, bins)
        fit(&ys, 1, frames)
    }
}

/// The first `len` elements along `dim`, with zeros where there are fewer.
pub(crate) fn fit(xs: &Tensor, dim: usize, len: usize) -> Result<Tensor> {
    let found = xs.dim(dim)?;
    if found < len { xs.pad_with_zeros(dim, 0, len - found) } else { xs.narrow(dim, 0, len)?.contiguous() }
}
