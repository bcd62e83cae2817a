//! PANNs: convolutional networks over the log-mel spectrogram.
//!
//! Kong et al., "PANNs" (arXiv 1912.10211); source: laion-clap 1.1.7 `pann_model.py`. Maps have their channels last here, `(B, frames,
//! mel bins, channels)`, so that batch norm, ReLU and the convolutions' rows are runs of consecutive elements.
//!
//! LAION's Cnn6 and Cnn10 cannot be used in its CLAP (their forward pass takes no dictionary); here every PANN takes every fusion. LAION's
//! Cnn14 marks a random clip as longer even in evaluation; here, as in HTS-AT, only in training.

mod block;
mod local;
mod tagging;

use candle_core::{DType, Result, Tensor, bail};
use candle_nn::VarBuilder;
use clap_audio::augment::SpecAugment;
use clap_nn::{Activation, BatchNorm, Linear, Mode, checkpoint, dropout};

use crate::config::{FUSED_VIEWS, FusionType, PannConfig};
use crate::fusion::{BATCH_NORM_EPS, LongerClips};
use crate::mel_fusion::MelFusion;
use crate::spec_augment::drop_stripes;
use crate::tagging::AudioTags;
use crate::taps::Taps;

/// The audio tower.
#[derive(Debug)]
pub struct Pann {
    batch_norm: BatchNorm,
    mel_fusion: Option<MelFusion>,
    spec_augment: Option<SpecAugment>,
    /// Views that the first convolution takes as channels.
    channels: usize,
    blocks: Vec<block::ConvBlock>,
    local: Option<local::LocalMaps>,
    fc1: Linear,
    fc_audioset: Option<Linear>,
    /// Frames of the input that one of the last block's stands for.
    frames_per_step: usize,
    dropout: f32,
    output_dropout: f32,
    views: usize,
    fuses: bool,
    /// What all but the batch norms computes in.
    dtype: DType,
}

impl Pann {
    /// `vb` stands at `audio_model.audio_encoder`; `config` is a validated one.
    ///
    /// # Errors
    /// Where a weight is missing or of another shape.
    pub fn new(config: &PannConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let fusion = config.fusion();
        let channels = if fusion == Some(FusionType::ChannelMap) { FUSED_VIEWS } else { 1 };
        let (bins, reduction, first) = (config.num_mel_bins, config.aff_block_r, config.block_widths[0]);
        let blocks = (0..config.block_widths.len())
            .map(|i| block::ConvBlock::new(config, i, channels, vb.pp(format!("conv_block{}", i + 1))))
            .collect::<Result<_>>()?;
        let mel_fusion = match fusion {
            Some(kind) if kind.is_1d() => Some(MelFusion::new(kind, bins, reduction, vb.clone())?),
            _ => None,
        };
        let local = match fusion {
            Some(kind) if kind.is_2d() => Some(local::LocalMaps::new(kind, first, reduction, vb.clone())?),
            _ => None,
        };
        let width = config.block_widths[config.block_widths.len() - 1];
        let fc_audioset = match config.enable_tagging {
            true => Some(tagging::head(config, vb.pp("fc_audioset"))?),
            false => None,
        };
        Ok(Self {
            batch_norm: BatchNorm::new(bins, BATCH_NORM_EPS, vb.pp("batch_norm"))?,
            mel_fusion,
            spec_augment: config.spec_augment,
            channels,
            blocks,
            local,
            fc1: Linear::new(width, config.hidden_size, block::xavier(width, config.hidden_size), vb.pp("fc1"))?,
            fc_audioset,
            frames_per_step: config.min_frames(),
            dropout: config.dropout as f32,
            output_dropout: config.output_dropout as f32,
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
        let xs = self.features_t(xs, is_longer, mode, taps)?; // (B, frames', C)
        let ys = self.pooled_t(&xs, mode)?;
        let ys = dropout(&ys, self.output_dropout, mode)?;
        taps.see(format_args!("embedding"), &ys);
        Ok(ys)
    }

    /// As [`Pann::forward_with`], with the outputs along time; see [`crate::AudioTower::tag`].
    ///
    /// # Errors
    /// Where the shape is not the model's.
    pub fn tag(&self, xs: &Tensor, is_longer: &[bool], mode: &mut Mode) -> Result<AudioTags> {
        let xs = self.features_t(xs, is_longer, mode, &mut Taps::none())?; // (B, frames', C)
        let clip = self.pooled_t(&xs, mode)?; // (B, hidden)
        let steps = self.fc1_relu(&tagging::smoothed(&xs)?)?; // (B, frames', hidden)
        let embedding = dropout(&clip, self.output_dropout, mode)?;
        tagging::tags(&clip, &steps, embedding, self.fc_audioset.as_ref(), self.frames_per_step)
    }

    /// The convolutions' output, averaged over frequency: `(B, frames', C)`.
    fn features_t(&self, xs: &Tensor, is_longer: &[bool], mode: &mut Mode, taps: &mut Taps<'_>) -> Result<Tensor> {
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
        let mut ys = xs.narrow(1, 0, self.channels)?.permute((0, 2, 3, 1))?.contiguous()?; // (B, frames, bins, channels)
        for (i, block) in self.blocks.iter().enumerate() {
            let block = block.clone();
            ys = checkpoint(&ys, mode, move |xs, mode| block.forward_t(xs, mode))?; // (B, frames', bins', C)
            taps.see(format_args!("conv_block{}", i + 1), &ys);
            if i == 0
                && let (Some(local), Some(longer)) = (&self.local, &longer)
            {
                ys = local.join(&ys, &xs, longer, mode)?;
            }
            ys = dropout(&ys, self.dropout, mode)?;
        }
        ys.mean(2)
    }

    /// The most and the mean of every channel over time, through the last layer: `(B, frames', C)` → `(B, hidden_size)`.
    fn pooled_t(&self, xs: &Tensor, mode: &mut Mode) -> Result<Tensor> {
        // By index, as torch: the first of equal ones has the whole gradient.
        let peak = xs.gather(&xs.detach().argmax_keepdim(1)?, 1)?.squeeze(1)?;
        let xs = dropout(&(peak + xs.mean(1)?)?, self.output_dropout, mode)?; // (B, C)
        self.fc1_relu(&xs)
    }

    fn fc1_relu(&self, xs: &Tensor) -> Result<Tensor> {
        Activation::Relu.forward(&self.fc1.forward(xs)?)
    }
}
