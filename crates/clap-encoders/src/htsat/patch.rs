//! Patch embedding, with the local views of fused models.
//!
//! Source: laion-clap 1.1.7 `htsat.py` (`PatchEmbed`); transformers `ClapAudioPatchEmbed`.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use clap_nn::{LayerNorm, Mode, PatchConv};

use crate::config::{FUSED_VIEWS, FusionType, HtsAtConfig};
use crate::fusion::{Fusion, LongerClips};
use crate::taps::Taps;

/// Epsilon of the layer norms that no config key reaches.
pub(super) const LAYER_NORM_EPS: f64 = 1e-5;

/// Local patches are this many times as wide as global ones: three thirds of a clip share one patch map.
const LOCAL_WIDTH: usize = 3;

/// Image → tokens.
#[derive(Debug)]
pub(super) struct PatchEmbed {
    proj: PatchConv,
    local: Option<LocalViews>,
    norm: Option<LayerNorm>,
    grid: usize,
    /// Views that `proj` takes as channels.
    channels: usize,
}

/// The path of the three local views.
#[derive(Debug)]
struct LocalViews {
    mel_conv2d: PatchConv,
    fusion: Fusion,
}

impl PatchEmbed {
    pub(super) fn new(config: &HtsAtConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let (patch, width) = (config.patch_size, config.patch_embeds_hidden_size);
        let fusion = config.fusion();
        let channels = if fusion == Some(FusionType::ChannelMap) { FUSED_VIEWS } else { 1 };
        let local = match fusion {
            Some(fusion) if fusion.is_2d() => Some(LocalViews {
                mel_conv2d: PatchConv::new(1, width, (patch, patch * LOCAL_WIDTH), vb.pp("mel_conv2d"))?,
                fusion: Fusion::new(fusion, width, config.aff_block_r, vb.pp("fusion_model"))?,
            }),
            _ => None,
        };
        let norm = match config.enable_patch_layer_norm {
            true => Some(LayerNorm::new(width, LAYER_NORM_EPS, vb.pp("norm"))?),
            false => None,
        };
        Ok(Self {
            proj: PatchConv::new(channels, width, (patch, patch), vb.pp("proj"))?,
            local,
            norm,
            grid: config.grid(),
            channels,
        })
    }

    /// `(B, views, spec, spec)` → `(B, grid², width)`. Local views are joined in for the longer clips alone.
    pub(super) fn forward_t(
        &self,
        xs: &Tensor,
        longer: Option<&LongerClips>,
        mode: &mut Mode,
        taps: &mut Taps<'_>,
    ) -> Result<Tensor> {
        let ys = self.proj.forward(&xs.narrow(1, 0, self.channels)?.contiguous()?)?; // (B, grid, grid, width)
        taps.see(format_args!("patch_proj"), &ys);
        let ys = ys.flatten(1, 2)?; // (B, grid², width)
        let ys = match (&self.local, longer) {
            (Some(local), Some(longer)) => local.join(&ys, xs, longer, self.grid, mode)?,
            _ => ys,
        };
        match &self.norm {
            Some(norm) => norm.forward(&ys),
            None => Ok(ys),
        }
    }
}

impl LocalViews {
    /// Replaces the longer clips' rows of `global` `(B, grid², width)` by their fusion with the local views of `xs`.
    fn join(&self, global: &Tensor, xs: &Tensor, longer: &LongerClips, grid: usize, mode: &mut Mode) -> Result<Tensor> {
        let local = self.local_map(&longer.pick(xs)?, grid)?;
        let fused = self.fusion.forward_t(&longer.pick(global)?, &local, mode)?;
        longer.replace(global, &fused)
    }

    /// Views 1.. of `(L, views, spec, spec)` → `(L, grid², width)`: each view's map beside the other along time, zeros right.
    fn local_map(&self, xs: &Tensor, grid: usize) -> Result<Tensor> {
        let (l, views, height, width) = xs.dims4()?;
        let thirds = views - 1;
        let xs = xs.narrow(1, 1, thirds)?.reshape((l * thirds, 1, height, width))?;
        let ys = self.mel_conv2d.forward(&xs)?; // (L·thirds, grid, columns, width)
        let (_, _, columns, c) = ys.dims4()?;
        ys.reshape((l, thirds, grid, columns, c))?
            .transpose(1, 2)? // (L, grid, thirds, columns, width)
            .reshape((l, grid, thirds * columns, c))?
            .pad_with_zeros(2, 0, grid - thirds * columns)?
            .reshape((l, grid * grid, c))
    }
}
