//! HTS-AT: a hierarchical token-semantic audio transformer.
//!
//! Chen et al., "HTS-AT" (arXiv 2202.00874); source: laion-clap 1.1.7 `htsat.py`; transformers 4.57.6 `ClapAudioEncoder`,
//! whose weight names are used. The tagging head (`tscam_conv`) is built where the configuration asks for it; `head`, which LAION's
//! network has and does not use, never.

mod image;
mod patch;
mod swin;
mod tagging;

use candle_core::{D, DType, Result, Tensor, bail};
use candle_nn::VarBuilder;
use clap_audio::augment::SpecAugment;
use clap_nn::{BatchNorm, LayerNorm, Mode};

use crate::config::{FUSED_VIEWS, HtsAtConfig};
use crate::fusion::{BATCH_NORM_EPS, LongerClips};
use crate::mel_fusion::MelFusion;
use crate::spec_augment::drop_stripes;
use crate::tagging::AudioTags;
use crate::taps::Taps;

pub(crate) use tagging::TaggingHead;

/// The audio tower.
#[derive(Debug)]
pub struct HtsAt {
    batch_norm: BatchNorm,
    mel_fusion: Option<MelFusion>,
    spec_augment: Option<SpecAugment>,
    image: image::MelImage,
    patch_embed: patch::PatchEmbed,
    stages: Vec<swin::Stage>,
    norm: LayerNorm,
    timeline: tagging::Timeline,
    tagging_head: Option<TaggingHead>,
    views: usize,
    fuses: bool,
    /// What all but the batch norm computes in.
    dtype: DType,
}

impl HtsAt {
    /// `vb` stands at `audio_model.audio_encoder`; `config` is a validated one.
    ///
    /// # Errors
    /// Where a weight is missing or of another shape.
    pub fn new(config: &HtsAtConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let stages = (0..config.depths.len())
            .map(|i| swin::Stage::new(config, i, vb.pp("layers").pp(i)))
            .collect::<Result<_>>()?;
        let mel_fusion = match config.fusion() {
            Some(kind) if kind.is_1d() => {
                Some(MelFusion::new(kind, config.num_mel_bins, config.aff_block_r, vb.clone())?)
            }
            _ => None,
        };
        let tagging_head = match config.enable_tagging {
            true => Some(TaggingHead::new(config, vb.pp("tscam_conv"))?),
            false => None,
        };
        Ok(Self {
            batch_norm: BatchNorm::new(config.num_mel_bins, BATCH_NORM_EPS, vb.pp("batch_norm"))?,
            mel_fusion,
            spec_augment: config.spec_augment,
            image: image::MelImage::new(config),
            patch_embed: patch::PatchEmbed::new(config, vb.pp("patch_embed"))?,
            stages,
            norm: LayerNorm::new(config.hidden_size, patch::LAYER_NORM_EPS, vb.pp("norm"))?,
            timeline: tagging::Timeline::new(config),
            tagging_head,
            views: if config.enable_fusion { FUSED_VIEWS } else { 1 },
            fuses: config.enable_fusion,
            dtype: vb.dtype(),
        })
    }

    /// Log-mel views `(B, 1 | 4, frames, mel bins)` → embedding `(B, hidden_size)`; see [`crate::AudioTower::forward_t`].
    ///
    /// # Errors
    /// Where the shape is not the model's.
    pub fn forward_with(
        &self,
        xs: &Tensor,
        is_longer: &[bool],
        mode: &mut Mode,
        taps: &mut Taps<'_>,
    ) -> Result<Tensor> {
        let xs = embedding(&self.tokens(xs, is_longer, mode, taps)?)?; // (B, hidden)
        taps.see(format_args!("embedding"), &xs);
        Ok(xs)
    }

    /// As [`HtsAt::forward_with`], with the outputs along time; see [`crate::AudioTower::tag`].
    ///
    /// # Errors
    /// Where the shape is not the model's, or the last stage has no whole rows of tokens for each strip of the spectrogram.
    pub fn tag(&self, xs: &Tensor, is_longer: &[bool], mode: &mut Mode) -> Result<AudioTags> {
        let xs = self.tokens(xs, is_longer, mode, &mut Taps::none())?; // (B, tokens, hidden)
        self.timeline.tags(&xs, embedding(&xs)?, self.tagging_head.as_ref())
    }

    /// Log-mel views → the normalised tokens of the last stage `(B, tokens, hidden)`.
    fn tokens(&self, xs: &Tensor, is_longer: &[bool], mode: &mut Mode, taps: &mut Taps<'_>) -> Result<Tensor> {
        let (b, views, _, _) = xs.dims4()?;
        if views != self.views {
            bail!("this audio tower takes {} view(s) of a clip, not {views}", self.views)
        }
        let longer = if self.fuses { LongerClips::new(is_longer, b, mode, xs.device())? } else { None };

        let mut xs = self.batch_norm.forward_last_t(xs, mode)?.to_dtype(self.dtype)?; // per mel bin, over clips, views and frames
        taps.see(format_args!("bn0"), &xs);
        if let Some(fusion) = &self.mel_fusion {
            xs = fusion.forward_t(&xs, longer.as_ref(), mode)?; // (B, 1, frames, bins)
        }
        let xs = drop_stripes(&xs, self.spec_augment.as_ref(), mode)?;
        let xs = xs.transpose(2, 3)?.contiguous()?; // (B, views, bins, frames)
        let xs = self.image.forward(&xs)?; // (B, views, spec, spec)
        taps.see(format_args!("image"), &xs);
        let mut xs = self.patch_embed.forward_t(&xs, longer.as_ref(), mode, taps)?; // (B, grid², width)
        taps.see(format_args!("patch_embed"), &xs);
        for stage in &self.stages {
            xs = stage.forward_t(xs, mode, taps)?; // (B, (side/2)², 2C)
        }
        let xs = self.norm.forward(&xs)?; // (B, tokens, hidden)
        taps.see(format_args!("norm"), &xs);
        Ok(xs)
    }
}

/// `(B, tokens, hidden)` → `(B, hidden)`. The reference unrolls the tokens along time before it averages them all.
fn embedding(tokens: &Tensor) -> Result<Tensor> {
    tokens.mean(D::Minus2)
}
