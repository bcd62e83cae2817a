//! Sizes of a model from the shapes of its weights, for files that come without `config.json`, as LAION's do.
//!
//! What shapes cannot tell is taken from LAION's program: layer norms of 1e-5 (BERT: 1e-12), GELU, attention heads of 64 channels
//! in the text tower, an image of 256 where no attention mask gives it away. [`crate::load_folder`] asks for `config.json` all the
//! same and takes nothing from here: who has a bare file calls these, and [`Checkpoint::build`] with the result.

use crate::checkpoint::Checkpoint;
use crate::config::{AudioConfig, FusionType, HtsAtConfig, TextConfig, TextModelType};
use crate::text;

const ENCODER: &str = "audio_model.audio_encoder";

/// Channels of one head of RoBERTa base and large.
const TEXT_HEAD: usize = 64;

/// Epsilon of the layer norms of RoBERTa, BART and CLIP.
const EPS: f64 = 1e-5;

/// BERT's, and the ids of its `[CLS]` and `[SEP]`.
const BERT_EPS: f64 = 1e-12;
const BERT_CLS: u32 = 101;
const BERT_SEP: u32 = 102;

impl Checkpoint {
    /// Kind and sizes of the audio tower, or `None` where the file holds none that is known.
    #[must_use]
    pub fn detect_audio_config(&self) -> Option<AudioConfig> {
        self.detect_htsat().map(AudioConfig::HtsAt)
    }

    fn detect_htsat(&self) -> Option<HtsAtConfig> {
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
        let default = HtsAtConfig::default();
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
        let num_classes = match at("tscam_conv.weight") {
            Some(&[classes, ..]) => classes,
            _ => default.num_classes,
        };
        Some(HtsAtConfig {
            num_classes,
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

    /// Kind and sizes of the text tower, or `None` where the file holds none that is known.
    #[must_use]
    pub fn detect_text_config(&self) -> Option<TextConfig> {
        let at = |key: &str| self.shape(&format!("text_model.{key}"));
        let table = |key: &str| match at(key) {
            Some(&[rows, width]) => Some((rows, width)),
            _ => None,
        };
        let layers = |layer: &str, part: &str| {
            let inner = *at(&format!("{layer}.0.{part}"))?.first()?;
            Some(((0..).take_while(|i| at(&format!("{layer}.{i}.{part}")).is_some()).count(), inner))
        };
        let default = TextConfig::default();
        if let Some((vocab_size, hidden_size)) = table("embeddings.word_embeddings.weight") {
            let (positions, _) = table("embeddings.position_embeddings.weight")?;
            let (type_vocab_size, _) = table("embeddings.token_type_embeddings.weight")?;
            let (num_hidden_layers, intermediate_size) = layers("encoder.layer", "intermediate.dense.weight")?;
            // RoBERTa has one segment and BERT two.
            let (model_type, layer_norm_eps, pad_token_id, bos_token_id, eos_token_id) = match type_vocab_size {
                1 => (TextModelType::Roberta, EPS, default.pad_token_id, default.bos_token_id, default.eos_token_id),
                _ => (TextModelType::Bert, BERT_EPS, 0, BERT_CLS, BERT_SEP),
            };
            return Some(TextConfig {
                model_type,
                vocab_size,
                hidden_size,
                num_hidden_layers,
                num_attention_heads: (hidden_size / TEXT_HEAD).max(1),
                intermediate_size,
                max_position_embeddings: positions,
                type_vocab_size,
                layer_norm_eps,
                pad_token_id,
                bos_token_id,
                eos_token_id,
                ..default
            });
        }
        if let Some((vocab_size, hidden_size)) = table("embeddings.token_embedding.weight") {
            let (positions, _) = table("embeddings.position_embedding.weight")?;
            let (num_hidden_layers, intermediate_size) = layers("encoder.layers", "mlp.fc1.weight")?;
            return Some(TextConfig {
                model_type: TextModelType::Clip,
                vocab_size,
                hidden_size,
                num_hidden_layers,
                num_attention_heads: (hidden_size / TEXT_HEAD).max(1),
                intermediate_size,
                max_position_embeddings: positions,
                layer_norm_eps: EPS,
                pad_token_id: 0,
                // The last two of the vocabulary.
                bos_token_id: u32::try_from(vocab_size.checked_sub(2)?).ok()?,
                eos_token_id: u32::try_from(vocab_size - 1).ok()?,
                hidden_dropout_prob: 0.0,
                attention_probs_dropout_prob: 0.0,
                ..default
            });
        }
        let (vocab_size, hidden_size) = table("encoder.embed_tokens.weight")?;
        let (positions, _) = table("encoder.embed_positions.weight")?;
        let (num_hidden_layers, intermediate_size) = layers("encoder.layers", "fc1.weight")?;
        Some(TextConfig {
            model_type: TextModelType::Bart,
            vocab_size,
            hidden_size,
            num_hidden_layers,
            num_attention_heads: (hidden_size / TEXT_HEAD).max(1),
            intermediate_size,
            max_position_embeddings: positions.checked_sub(text::BART_POSITION_OFFSET)?,
            layer_norm_eps: EPS,
            ..default
        })
    }
}
