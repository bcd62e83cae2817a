//! HTS-AT: a hierarchical token-semantic audio transformer.
//!
//! Chen et al., "HTS-AT" (arXiv 2202.00874); source: laion-clap 1.1.7 `htsat.py`; transformers 4.57.6 `ClapAudioEncoder`,
//! whose weight names are used. The tagging head (`tscam_conv`, `head`) is no part of the embedding and not built.

mod fusion;
mod image;
mod patch;
mod swin;

use candle_core::{D, Result, Tensor, bail};
use candle_nn::VarBuilder;
use clap_nn::{BatchNorm, LayerNorm, Mode};
use rand::Rng;

use crate::config::AudioConfig;
use crate::taps::Taps;

/// The audio tower.
#[derive(Debug)]
pub struct HtsAt {
    batch_norm: BatchNorm,
    image: image::MelImage,
    patch_embed: patch::PatchEmbed,
    stages: Vec<swin::Stage>,
    norm: LayerNorm,
    views: usize,
    fuses: bool,
}

impl HtsAt {
    /// `vb` stands at `audio_model.audio_encoder`; `config` is a validated one.
    ///
    /// # Errors
    /// Where a weight is missing or of another shape.
    pub fn new(config: &AudioConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let stages = (0..config.depths.len())
            .map(|i| swin::Stage::new(config, i, vb.pp("layers").pp(i)))
            .collect::<Result<_>>()?;
        Ok(Self {
            batch_norm: BatchNorm::new(config.num_mel_bins, fusion::BATCH_NORM_EPS, vb.pp("batch_norm"))?,
            image: image::MelImage::new(config),
            patch_embed: patch::PatchEmbed::new(config, vb.pp("patch_embed"))?,
            stages,
            norm: LayerNorm::new(config.hidden_size, patch::LAYER_NORM_EPS, vb.pp("norm"))?,
            views: config.views(),
            fuses: config.enable_fusion,
        })
    }

    /// Log-mel views `(B, 1 | 4, frames, mel bins)` → embedding `(B, hidden_size)`.
    ///
    /// `is_longer` has one flag per clip and is consulted by fused models alone: the local views of a clip that is not
    /// longer are left out, so that its embedding does not depend on the rest of the batch. In training a fused batch
    /// without a longer clip lets chance pick one, as LAION's program does.
    ///
    /// # Errors
    /// Where the shape is not the model's.
    pub fn forward_t(&self, xs: &Tensor, is_longer: &[bool], mode: &mut Mode) -> Result<Tensor> {
        self.forward_with(xs, is_longer, mode, &mut Taps::none())
    }

    /// [`HtsAt::forward_t`], showing each intermediate to `taps`.
    ///
    /// # Errors
    /// As [`HtsAt::forward_t`].
    pub fn forward_with(
        &self,
        xs: &Tensor,
        is_longer: &[bool],
        mode: &mut Mode,
        taps: &mut Taps<'_>,
    ) -> Result<Tensor> {
        let (b, views, _, _) = xs.dims4()?;
        if views != self.views {
            bail!("this audio tower takes {} view(s) of a clip, not {views}", self.views)
        }
        if self.fuses && is_longer.len() != b {
            bail!("is_longer has {} flags for {b} clips", is_longer.len())
        }
        let picked = self.pick_one_in_training(is_longer, mode);
        let is_longer = picked.as_deref().unwrap_or(is_longer);

        let xs = self.batch_norm.forward_last_t(xs, mode)?; // per mel bin, over clips, views and frames
        taps.see(format_args!("bn0"), &xs);
        let xs = xs.transpose(2, 3)?.contiguous()?; // (B, views, bins, frames)
        let xs = self.image.forward(&xs)?; // (B, views, spec, spec)
        taps.see(format_args!("image"), &xs);
        let mut xs = self.patch_embed.forward_t(&xs, is_longer, mode, taps)?; // (B, grid², width)
        taps.see(format_args!("patch_embed"), &xs);
        for stage in &self.stages {
            xs = stage.forward_t(xs, mode, taps)?; // (B, (side/2)², 2C)
        }
        let xs = self.norm.forward(&xs)?; // (B, tokens, hidden)
        taps.see(format_args!("norm"), &xs);
        // The reference unrolls the tokens into frequency bins and time steps before it averages them all.
        let xs = xs.mean(D::Minus2)?; // (B, hidden)
        taps.see(format_args!("embedding"), &xs);
        Ok(xs)
    }

    /// In training, a fused batch of short clips marks one of them longer, so that the fusion weights learn.
    fn pick_one_in_training(&self, is_longer: &[bool], mode: &mut Mode) -> Option<Vec<bool>> {
        if !self.fuses || is_longer.is_empty() || is_longer.contains(&true) {
            return None;
        }
        let chosen = mode.rng()?.random_range(0..is_longer.len());
        Some((0..is_longer.len()).map(|i| i == chosen).collect())
    }
}
