//! Sizes of a model from the shapes of its weights, for files that come without `config.json`, as LAION's do.
//!
//! What shapes cannot tell is taken from LAION's program: layer norms of 1e-5 (BERT: 1e-12), GELU, attention heads of 64 channels
//! in the text tower, an image of 256 where no attention mask gives it away, PANNs' pooling after each of the first five blocks.

use crate::checkpoint::Checkpoint;
use crate::config::{
    AudioConfig, ClapConfig, FUSED_VIEWS, FusionType, HtsAtConfig, PannConfig, TextConfig, TextModelType,
};
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
    /// Sizes of a whole model, or `None` where the file does not hold one whose towers are known.
    #[must_use]
    pub fn detect_config(&self) -> Option<ClapConfig> {
        Some(ClapConfig {
            audio_config: self.detect_audio_config()?,
            text_config: self.detect_text_config()?,
            projection_dim: *self.shape("audio_projection.linear1.weight")?.first()?,
            ..ClapConfig::default()
        })
    }

    /// Kind and sizes of the audio tower, or `None` where the file holds none that is known.
    #[must_use]
    pub fn detect_audio_config(&self) -> Option<AudioConfig> {
        self.detect_htsat().map(AudioConfig::HtsAt).or_else(|| self.detect_pann().map(AudioConfig::Pann))
    }

    fn audio_shape(&self, key: &str) -> Option<&[usize]> {
        self.shape(&format!("{ENCODER}.{key}"))
    }

    /// How views are joined, by the parts that the kinds of it have; `maps` is where a tower keeps those of its first maps, and
    /// `channels` the channels that its first convolution takes.
    fn detect_fusion(&self, maps: &str, channels: usize) -> Option<FusionType> {
        use FusionType::{Aff1d, Aff2d, ChannelMap, Daf1d, Daf2d, Iaff1d, Iaff2d};
        let has = |key: String| self.audio_shape(&key).is_some();
        let attention = |at: &str| {
            let round = |branch: &str| has(format!("{at}fusion_model.{branch}.0.weight"));
            usize::from(round("local_att")) + usize::from(round("local_att2"))
        };
        if channels == FUSED_VIEWS {
            Some(ChannelMap)
        } else if has(format!("{maps}mel_conv2d.weight")) || has(format!("{maps}mel_conv2d.0.weight")) {
            Some([Daf2d, Aff2d, Iaff2d][attention(maps)])
        } else {
            has("mel_conv1d.0.weight".to_owned()).then(|| [Daf1d, Aff1d, Iaff1d][attention("")])
        }
    }

    /// The reduction of the attention that joins views over `channels` channels. Several may round to one width; the usual one is
    /// preferred.
    fn detect_reduction(&self, at: &str, channels: usize, usual: usize) -> usize {
        match self.audio_shape(&format!("{at}fusion_model.local_att.0.weight")) {
            Some(&[inner, ..]) if inner > 0 && channels / usual != inner => channels / inner,
            _ => usual,
        }
    }

    fn detect_htsat(&self) -> Option<HtsAtConfig> {
        let at = |key: &str| self.audio_shape(key);
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
        let fusion_type = self.detect_fusion("patch_embed.", channels);
        let default = HtsAtConfig::default();
        let aff_block_r = match fusion_type {
            Some(fusion) if fusion.is_1d() => self.detect_reduction("", num_mel_bins, default.aff_block_r),
            _ => self.detect_reduction("patch_embed.", width, default.aff_block_r),
        };
        // A mask has one entry per window of its stage, whose sides are halved from stage to stage.
        let masked =
            (0..depths.len()).find_map(|i| Some((i, *at(&format!("layers.{i}.blocks.1.attn_mask"))?.first()?)));
        let spec_size = match masked {
            Some((stage, windows)) => (windows.isqrt() * window_size * patch) << stage,
            None => default.spec_size,
        };
        let num_classes = at("tscam_conv.weight").and_then(|shape| shape.first().copied());
        Some(HtsAtConfig {
            window_size,
            num_mel_bins,
            spec_size,
            patch_size: patch,
            patch_stride: [patch; 2],
            num_classes: num_classes.unwrap_or(default.num_classes),
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

    fn detect_pann(&self) -> Option<PannConfig> {
        let at = |key: &str| self.audio_shape(key);
        let &[num_mel_bins] = at("batch_norm.weight")? else { return None };
        let &[_, channels, kernel_size, _] = at("conv_block1.conv1.weight")? else { return None };
        let width =
            |block: usize| at(&format!("conv_block{block}.conv1.weight")).and_then(|shape| shape.first().copied());
        let block_widths: Vec<usize> = (1..).map_while(width).collect();
        let convolutions = (1..).take_while(|j| at(&format!("conv_block1.conv{j}.weight")).is_some()).count();
        let fusion_type = self.detect_fusion("", channels);
        let default = PannConfig::default();
        let joined = match fusion_type {
            Some(fusion) if fusion.is_1d() => num_mel_bins,
            _ => *block_widths.first()?,
        };
        let num_classes = at("fc_audioset.weight").and_then(|shape| shape.first().copied());
        Some(PannConfig {
            num_mel_bins,
            kernel_size,
            convolutions_per_block: convolutions,
            pooled_blocks: block_widths.len().min(default.pooled_blocks),
            hidden_size: *at("fc1.weight")?.first()?,
            num_classes: num_classes.unwrap_or(default.num_classes),
            enable_fusion: fusion_type.is_some(),
            fusion_type,
            aff_block_r: self.detect_reduction("", joined, default.aff_block_r),
            block_widths,
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
