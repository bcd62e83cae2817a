//! `audio_config` of `model_type` `clap_audio_model`: the HTS-AT tower.

use clap_audio::augment::SpecAugment;
use clap_nn::Activation;
use serde::{Deserialize, Deserializer, Serialize};

use super::{DEEPEST, FusionType, WIDEST, epsilon, heads, rate, size, spread, stripes};
use crate::error::{Error, Result};

/// Side of a window: its relative positions make a table of the fourth power.
const LARGEST_WINDOW: usize = 64;
/// Side of the image.
const LARGEST_IMAGE: usize = 1 << 13;

/// Sizes of the audio tower (`ClapAudioConfig`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HtsAtConfig {
    /// Side of an attention window, in tokens.
    pub window_size: usize,
    /// Mel bins of the input.
    pub num_mel_bins: usize,
    /// Side of the square image that the spectrogram is folded into; `spec_size² / num_mel_bins` frames fill it.
    pub spec_size: usize,
    /// Activation of the feed-forward layers.
    pub hidden_act: Activation,
    /// Side of a patch.
    pub patch_size: usize,
    /// Step between patches, `[rows, columns]`; patches do not overlap here, so it equals `patch_size`.
    #[serde(deserialize_with = "one_or_two")]
    pub patch_stride: [usize; 2],
    /// Classes of the tagging head.
    pub num_classes: usize,
    /// Width of the tower's output: `patch_embeds_hidden_size · 2^(stages - 1)`.
    pub hidden_size: usize,
    /// Blocks of each stage.
    pub depths: Vec<usize>,
    /// Attention heads of each stage.
    pub num_attention_heads: Vec<usize>,
    /// Takes four views of a clip (whole, front, middle, back) and joins them.
    pub enable_fusion: bool,
    /// How views are joined; Hugging Face leaves it out for [`FusionType::Aff2d`].
    #[serde(deserialize_with = "super::fusion::fusion_type")]
    pub fusion_type: Option<FusionType>,
    /// Channels of one view.
    pub patch_embed_input_channels: usize,
    /// Width of the patch embedding.
    pub patch_embeds_hidden_size: usize,
    /// Layer norm after the patch embedding.
    pub enable_patch_layer_norm: bool,
    /// Stochastic depth of the last block in training; earlier blocks rise to it linearly from zero, in both residual
    /// branches, as in LAION's program (0.1 there).
    pub drop_path_rate: f64,
    /// Bias of the query, key and value layers.
    pub qkv_bias: bool,
    /// Width of a feed-forward layer over the width of its block.
    pub mlp_ratio: f64,
    /// Reduction of the channel bottleneck in attentional feature fusion.
    pub aff_block_r: usize,
    /// Epsilon of the blocks' layer norms; those of patches, merging and output are 1e-5.
    pub layer_norm_eps: f64,
    /// Standard deviation of the normal distribution that linear layers and bias tables begin with. The default is that of wide towers;
    /// towers a tenth as wide learn faster from 0.06 or more.
    pub initializer_range: f64,
    /// Keeps the original network's tagging head, `tscam_conv`, which the embedding does not use; see [`crate::AudioTower::tag`]. A key
    /// of ours.
    #[serde(skip_serializing_if = "super::is_false")]
    pub enable_tagging: bool,
    /// Stripes of time and frequency that training drops, as LAION's program does (with the default's sizes). A key of ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spec_augment: Option<SpecAugment>,
}

impl Default for HtsAtConfig {
    fn default() -> Self {
        Self {
            window_size: 8,
            num_mel_bins: 64,
            spec_size: 256,
            hidden_act: Activation::Gelu,
            patch_size: 4,
            patch_stride: [4, 4],
            num_classes: 527,
            hidden_size: 768,
            depths: vec![2, 2, 6, 2],
            num_attention_heads: vec![4, 8, 16, 32],
            enable_fusion: false,
            fusion_type: None,
            patch_embed_input_channels: 1,
            patch_embeds_hidden_size: 96,
            enable_patch_layer_norm: true,
            drop_path_rate: 0.0,
            qkv_bias: true,
            mlp_ratio: 4.0,
            aff_block_r: 4,
            layer_norm_eps: 1e-5,
            initializer_range: 0.02,
            enable_tagging: false,
            spec_augment: None,
        }
    }
}

impl HtsAtConfig {
    /// How views are joined, or `None` where one view is taken.
    #[must_use]
    pub fn fusion(&self) -> Option<FusionType> {
        self.enable_fusion.then(|| self.fusion_type.unwrap_or(FusionType::Aff2d))
    }

    /// Strips that the spectrogram is cut into along time, stacked along frequency.
    #[must_use]
    pub fn strips(&self) -> usize {
        self.spec_size / self.num_mel_bins
    }

    /// Frames that fill the image; fewer are stretched to it.
    #[must_use]
    pub fn image_frames(&self) -> usize {
        self.spec_size * self.strips()
    }

    /// Tokens along each side of the patch grid.
    #[must_use]
    pub fn grid(&self) -> usize {
        self.spec_size / self.patch_size
    }

    /// Width of stage `i`.
    #[must_use]
    pub fn stage_width(&self, i: usize) -> usize {
        self.patch_embeds_hidden_size << i
    }

    /// Width of the feed-forward layers of stage `i`.
    #[must_use]
    pub fn stage_hidden(&self, i: usize) -> usize {
        (self.stage_width(i) as f64 * self.mlp_ratio) as usize
    }

    /// Tokens along each side in stage `i`.
    #[must_use]
    pub fn stage_side(&self, i: usize) -> usize {
        self.grid() >> i
    }

    /// Side of the windows in stage `i`: no larger than the stage itself.
    #[must_use]
    pub fn stage_window(&self, i: usize) -> usize {
        self.window_size.min(self.stage_side(i))
    }

    /// Rows of tokens that the last stage leaves of each strip, at least 1.
    #[must_use]
    pub fn strip_rows(&self) -> usize {
        (self.stage_side(self.depths.len() - 1) / self.strips()).max(1)
    }

    pub(super) fn validate(&self) -> Result<()> {
        let key = |name: &str| format!("audio_config.{name}");
        for (name, value, limit) in [
            ("window_size", self.window_size, LARGEST_WINDOW),
            ("num_mel_bins", self.num_mel_bins, LARGEST_IMAGE),
            ("spec_size", self.spec_size, LARGEST_IMAGE),
            ("patch_size", self.patch_size, LARGEST_IMAGE),
            ("hidden_size", self.hidden_size, WIDEST),
            ("patch_embeds_hidden_size", self.patch_embeds_hidden_size, WIDEST),
            ("aff_block_r", self.aff_block_r, WIDEST),
        ] {
            size(&key(name), value, limit)?;
        }
        if self.patch_embed_input_channels != 1 {
            let found = self.patch_embed_input_channels;
            return Err(Error::config(
                key("patch_embed_input_channels"),
                format!("{found}, but a view of a mono clip has 1 channel; more views are `enable_fusion`"),
            ));
        }
        if self.patch_stride != [self.patch_size; 2] {
            return Err(Error::config(
                key("patch_stride"),
                format!(
                    "{:?} differs from patch_size {}; overlapping patches are not supported",
                    self.patch_stride, self.patch_size
                ),
            ));
        }
        for (name, part) in [("num_mel_bins", self.num_mel_bins), ("patch_size", self.patch_size)] {
            if !self.spec_size.is_multiple_of(part) {
                return Err(Error::config(
                    key("spec_size"),
                    format!("{} is no multiple of {name} {part}", self.spec_size),
                ));
            }
        }
        self.validate_stages()?;
        self.validate_tagging()?;
        stripes(self.spec_augment.as_ref(), self.num_mel_bins)?;
        epsilon(&key("layer_norm_eps"), self.layer_norm_eps)?;
        rate(&key("drop_path_rate"), self.drop_path_rate)?;
        if !(self.mlp_ratio > 0.0 && self.mlp_ratio <= 64.0) {
            return Err(Error::config(key("mlp_ratio"), format!("{} is not between 0 and 64", self.mlp_ratio)));
        }
        if self.stage_hidden(0) == 0 {
            return Err(Error::config(
                key("mlp_ratio"),
                format!("{} of patch_embeds_hidden_size {} is no width", self.mlp_ratio, self.patch_embeds_hidden_size),
            ));
        }
        spread(&key("initializer_range"), self.initializer_range)?;
        let Some(fusion) = self.fusion().filter(|fusion| fusion.is_attentional()) else { return Ok(()) };
        let (name, channels) = match fusion.is_1d() {
            true => ("num_mel_bins", self.num_mel_bins),
            false => ("patch_embeds_hidden_size", self.patch_embeds_hidden_size),
        };
        if channels < self.aff_block_r {
            return Err(Error::config(
                key("aff_block_r"),
                format!("{} reduces {name} {channels} to nothing", self.aff_block_r),
            ));
        }
        Ok(())
    }

    fn validate_stages(&self) -> Result<()> {
        let key = |name: &str| format!("audio_config.{name}");
        let stages = self.depths.len();
        if stages == 0 || self.depths.iter().any(|&d| d == 0 || d > DEEPEST) {
            return Err(Error::config(key("depths"), format!("{:?} is no list of blocks per stage", self.depths)));
        }
        if self.num_attention_heads.len() != stages {
            return Err(Error::config(
                key("num_attention_heads"),
                format!("{:?} has not one entry for each of the {stages} stages of `depths`", self.num_attention_heads),
            ));
        }
        // Every stage but the last halves the grid.
        if stages > 16 || !self.grid().is_multiple_of(1 << (stages - 1)) {
            return Err(Error::config(
                key("depths"),
                format!(
                    "{stages} stages halve a grid of {} (spec_size / patch_size) {} times",
                    self.grid(),
                    stages - 1
                ),
            ));
        }
        for (i, &n) in self.num_attention_heads.iter().enumerate() {
            heads(&key("num_attention_heads"), n, self.stage_width(i))?;
            let (side, window) = (self.stage_side(i), self.stage_window(i));
            if !side.is_multiple_of(window) {
                return Err(Error::config(
                    key("window_size"),
                    format!("windows of {window} do not tile the {side} x {side} tokens of stage {i}"),
                ));
            }
        }
        let width = self.stage_width(stages - 1);
        if self.hidden_size != width {
            return Err(Error::config(
                key("hidden_size"),
                format!(
                    "{} is not the output width: patch_embeds_hidden_size {} doubled at each of {} mergings gives {width}",
                    self.hidden_size,
                    self.patch_embeds_hidden_size,
                    stages - 1
                ),
            ));
        }
        Ok(())
    }

    /// The stages are known to be possible.
    fn validate_tagging(&self) -> Result<()> {
        if !self.enable_tagging {
            return Ok(());
        }
        size("audio_config.num_classes", self.num_classes, WIDEST)?;
        let (side, strips) = (self.stage_side(self.depths.len() - 1), self.strips());
        if !side.is_multiple_of(strips) {
            return Err(Error::config(
                "audio_config.enable_tagging",
                format!(
                    "tags need whole rows of tokens for each of the {strips} strips (spec_size / num_mel_bins) that the spectrogram is \
                     cut into; the last stage has {side} rows"
                ),
            ));
        }
        Ok(())
    }
}

/// `4` or `[4, 4]`, as Hugging Face allows both.
fn one_or_two<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<[usize; 2], D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrTwo {
        One(usize),
        Two([usize; 2]),
    }
    Ok(match OneOrTwo::deserialize(deserializer)? {
        OneOrTwo::One(n) => [n, n],
        OneOrTwo::Two(pair) => pair,
    })
}
