//! `audio_config` of `model_type` `pann`: a convolutional network of PANNs.

use clap_audio::augment::SpecAugment;
use serde::{Deserialize, Serialize};

use super::{FusionType, WIDEST, rate, size, stripes};
use crate::error::{Error, Result};

/// Blocks: each pooled one halves the frames, and none would be left long before this.
const MOST_BLOCKS: usize = 16;
/// Side of a convolution's kernel.
const LARGEST_KERNEL: usize = 15;
/// Convolutions of one block.
const MOST_CONVOLUTIONS: usize = 16;
/// Mel bins; HTS-AT's limit.
const MOST_MEL_BINS: usize = 1 << 13;

/// Sizes of a convolutional audio tower (Kong et al., "PANNs", arXiv 1912.10211; laion-clap 1.1.7 `pann_model.py`).
///
/// The default is [`PannConfig::cnn14`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PannConfig {
    /// Mel bins of the input.
    pub num_mel_bins: usize,
    /// Channels of each block of convolutions.
    pub block_widths: Vec<usize>,
    /// Side of the convolutions' kernels; odd, so that a map keeps its size.
    pub kernel_size: usize,
    /// Convolutions of each block, every one of them followed by batch norm and ReLU.
    pub convolutions_per_block: usize,
    /// Blocks, from the first on, that are followed by 2x2 average pooling.
    pub pooled_blocks: usize,
    /// Width of the tower's output.
    pub hidden_size: usize,
    /// Dropout after each block, in training.
    pub dropout: f64,
    /// Dropout before and after the last layer, in training.
    pub output_dropout: f64,
    /// Classes of the tagging head.
    pub num_classes: usize,
    /// Keeps the tagging head, `fc_audioset`, which the embedding does not use.
    pub enable_tagging: bool,
    /// Takes four views of a clip (whole, front, middle, back) and joins them.
    pub enable_fusion: bool,
    /// How views are joined; [`FusionType::Aff2d`] where it is left out.
    #[serde(deserialize_with = "super::fusion::fusion_type")]
    pub fusion_type: Option<FusionType>,
    /// Reduction of the channel bottleneck in attentional feature fusion.
    pub aff_block_r: usize,
    /// Stripes of time and frequency that training drops, as LAION's program does (with the default's sizes).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spec_augment: Option<SpecAugment>,
}

impl Default for PannConfig {
    fn default() -> Self {
        Self::cnn14()
    }
}

impl PannConfig {
    /// LAION's PANN-6: four blocks of one 5x5 convolution; 512 wide.
    #[must_use]
    pub fn cnn6() -> Self {
        Self {
            block_widths: vec![64, 128, 256, 512],
            kernel_size: 5,
            convolutions_per_block: 1,
            pooled_blocks: 4,
            hidden_size: 512,
            ..Self::cnn14()
        }
    }

    /// LAION's PANN-10: five blocks of two 3x3 convolutions; 1024 wide. (The paper's has four blocks and 512.)
    #[must_use]
    pub fn cnn10() -> Self {
        Self { block_widths: vec![64, 128, 256, 512, 1024], hidden_size: 1024, ..Self::cnn14() }
    }

    /// LAION's PANN-14: six blocks of two 3x3 convolutions, the last of them not pooled; 2048 wide.
    #[must_use]
    pub fn cnn14() -> Self {
        Self {
            num_mel_bins: 64,
            block_widths: vec![64, 128, 256, 512, 1024, 2048],
            kernel_size: 3,
            convolutions_per_block: 2,
            pooled_blocks: 5,
            hidden_size: 2048,
            dropout: 0.2,
            output_dropout: 0.5,
            num_classes: 527,
            enable_tagging: false,
            enable_fusion: false,
            fusion_type: None,
            aff_block_r: 4,
            spec_augment: None,
        }
    }

    /// How views are joined, or `None` where one view is taken.
    #[must_use]
    pub fn fusion(&self) -> Option<FusionType> {
        self.enable_fusion.then(|| self.fusion_type.unwrap_or(FusionType::Aff2d))
    }

    /// Frames of the input that one frame of the last block stands for; fewer are too few.
    #[must_use]
    pub fn min_frames(&self) -> usize {
        1 << self.pooled_blocks
    }

    pub(super) fn validate(&self) -> Result<()> {
        let key = |name: &str| format!("audio_config.{name}");
        for (name, value, limit) in [
            ("num_mel_bins", self.num_mel_bins, MOST_MEL_BINS),
            ("kernel_size", self.kernel_size, LARGEST_KERNEL),
            ("convolutions_per_block", self.convolutions_per_block, MOST_CONVOLUTIONS),
            ("hidden_size", self.hidden_size, WIDEST),
            ("num_classes", self.num_classes, WIDEST),
            ("aff_block_r", self.aff_block_r, WIDEST),
        ] {
            size(&key(name), value, limit)?;
        }
        if !(1..=MOST_BLOCKS).contains(&self.block_widths.len()) {
            return Err(Error::config(
                key("block_widths"),
                format!("{:?} is no list of 1 to {MOST_BLOCKS} widths", self.block_widths),
            ));
        }
        for &width in &self.block_widths {
            size(&key("block_widths"), width, WIDEST)?;
        }
        if self.kernel_size.is_multiple_of(2) {
            return Err(Error::config(
                key("kernel_size"),
                format!("{} is even; an odd kernel has a centre", self.kernel_size),
            ));
        }
        if self.pooled_blocks > self.block_widths.len() || self.num_mel_bins >> self.pooled_blocks == 0 {
            return Err(Error::config(
                key("pooled_blocks"),
                format!(
                    "{} of {} blocks cannot each halve {} mel bins",
                    self.pooled_blocks,
                    self.block_widths.len(),
                    self.num_mel_bins
                ),
            ));
        }
        rate(&key("dropout"), self.dropout)?;
        rate(&key("output_dropout"), self.output_dropout)?;
        stripes(self.spec_augment.as_ref(), self.num_mel_bins)?;
        self.validate_fusion()
    }

    fn validate_fusion(&self) -> Result<()> {
        let Some(fusion) = self.fusion() else { return Ok(()) };
        let key = |name: &str| format!("audio_config.{name}");
        // The local views' convolution steps by 2 mel bins, as one pooling does.
        if fusion.is_2d() && (self.pooled_blocks == 0 || !self.num_mel_bins.is_multiple_of(2)) {
            return Err(Error::config(
                key("fusion_type"),
                format!(
                    "2-D fusion takes an even number of mel bins and a pooled first block, not num_mel_bins {} and \
                     pooled_blocks {}",
                    self.num_mel_bins, self.pooled_blocks
                ),
            ));
        }
        let channels = if fusion.is_1d() { self.num_mel_bins } else { self.block_widths[0] };
        if fusion.is_attentional() && channels < self.aff_block_r {
            return Err(Error::config(
                key("aff_block_r"),
                format!("{} reduces the {channels} channels that are fused to nothing", self.aff_block_r),
            ));
        }
        Ok(())
    }
}
