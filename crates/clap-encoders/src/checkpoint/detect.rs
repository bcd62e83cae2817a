//! Sizes of a model from the shapes of its weights, for files that come without `config.json`, as LAION's do.
//!
//! What shapes cannot tell is taken from LAION's program: layer norms of 1e-5, GELU, attention heads of 64 channels in the
//! text tower, an image of 256 where no attention mask gives it away. [`crate::load_folder`] asks for `config.json` all the
//! same and takes nothing from here: who has a bare file calls these, and [`Checkpoint::build`] with the result.

use crate::checkpoint::Checkpoint;
use crate::config::{AudioConfig, FusionType, TextConfig};

const ENCODER: &str = "audio_model.audio_encoder";

/// Channels of one head of RoBERTa base and large.
const TEXT_HEAD: usize = 64;

/// Epsilon of real RoBERTa, which LAION's program runs.
const ROBERTA_EPS: f64 = 1e-5;

impl Checkpoint {
    /// Sizes of an HTS-AT tower, or `None` where the file holds none.
    #[must_use]
    pub fn detect_audio_config(&self) -> Option<AudioConfig> {
        let at = |key: &str| self.shape(&format!("{ENCODER}.{key}"));
        let proj = at("patch_embed.proj.weight")?;
        let (&[width, channels, patch, _], &[num_mel_bins]) = (proj, at("batch_norm.weight")?) else { return None };
        let blocks = |stage: usize| {
            (0..).take_while(|j| at(&format!("layers.{stage}.blocks.{j}.layernorm_before.weight")).is_some()).count()
        };
        let depths: Vec<usize> = (0..).map(blocks).take_while(|&depth| depth > 0).collect();
        let tables: Option<Vec<&[usize]>> = (0..depths.len())
            .map(|i| at(&format!("layers.{i}.blocks.0.attention.self.relative_position_bias_table")))
            .collect();
        let tables = tables?;
        // A table has (2 · window - 1)² rows; the first stage's window is the configured one.
        let window_size = tables.first()?.first()?.isqrt().div_ceil(2);
        let fc1 = at("layers.0.blocks.0.intermediate.dense.weight")?;
        let fusion_type = match (at("patch_embed.mel_conv2d.weight"), at("patch_embed.fusion_model.local_att.0.weight"))
        {
            _ if channels == 4 => Some(FusionType::ChannelMap),
            (Some(_), None) => Some(FusionType::Daf2d),
            (Some(_), Some(_)) if at("patch_embed.fusion_model.local_att2.0.weight").is_some() => {
                Some(FusionType::Iaff2d)
            }
            (Some(_), Some(_)) => Some(FusionType::Aff2d),
            (None, _) => None,
        };
        let default = AudioConfig::default();
        let aff_block_r = match at("patch_embed.fusion_model.local_att.0.weight") {
            // Several reductions may round to one width; the usual one is preferred.
            Some(&[inner, ..]) if inner > 0 && width / default.aff_block_r != inner => width / inner,
            _ => default.aff_block_r,
        };
        // A mask has one entry per window of the first stage.
        let spec_size = match at("layers.0.blocks.1.attn_mask") {
            Some(&[windows, ..]) => windows.isqrt() * window_size * patch,
            _ => default.spec_size,
        };
        Some(AudioConfig {
            window_size,
            num_mel_bins,
            spec_size,
            patch_size: patch,
            patch_stride: [patch; 2],
            hidden_size: *at("norm.weight")?.first()?,
            num_attention_heads: tables.iter().filter_map(|table| table.get(1).copied()).collect(),
            depths,
            enable_fusion: fusion_type.is_some(),
            fusion_type,
            patch_embeds_hidden_size: width,
            enable_patch_layer_norm: at("patch_embed.norm.weight").is_some(),
            qkv_bias: at("layers.0.blocks.0.attention.self.query.bias").is_some(),
            mlp_ratio: *fc1.first()? as f64 / width as f64,
            aff_block_r,
            ..default
        })
    }

    /// Sizes of a RoBERTa tower, or `None` where the file holds none.
    #[must_use]
    pub fn detect_text_config(&self) -> Option<TextConfig> {
        let at = |key: &str| self.shape(&format!("text_model.{key}"));
        let (&[vocab_size, hidden_size], &[max_position_embeddings, _], &[type_vocab_size, _]) = (
            at("embeddings.word_embeddings.weight")?,
            at("embeddings.position_embeddings.weight")?,
            at("embeddings.token_type_embeddings.weight")?,
        ) else {
            return None;
        };
        let layer = |i: usize, part: &str| at(&format!("encoder.layer.{i}.{part}"));
        Some(TextConfig {
            vocab_size,
            hidden_size,
            num_hidden_layers: (0..).take_while(|&i| layer(i, "intermediate.dense.weight").is_some()).count(),
            num_attention_heads: (hidden_size / TEXT_HEAD).max(1),
            intermediate_size: *layer(0, "intermediate.dense.weight")?.first()?,
            max_position_embeddings,
            type_vocab_size,
            layer_norm_eps: ROBERTA_EPS,
            ..TextConfig::default()
        })
    }
}
