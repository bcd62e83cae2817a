//! The towers that are timed, by the names that cases call them.

use anyhow::bail;
use clap_encoders::{AudioConfig, HtsAtConfig, PannConfig, TextConfig, TextModelType};

/// LAION's audio towers.
pub(super) fn audio_tower(name: &str) -> anyhow::Result<AudioConfig> {
    Ok(match name {
        "htsat-tiny" => HtsAtConfig::default().into(),
        "htsat-tiny-fused" => HtsAtConfig { enable_fusion: true, ..HtsAtConfig::default() }.into(),
        "htsat-base" => HtsAtConfig {
            patch_embeds_hidden_size: 128,
            depths: vec![2, 2, 12, 2],
            hidden_size: 1024,
            ..HtsAtConfig::default()
        }
        .into(),
        "pann-14" => PannConfig::cnn14().into(),
        "pann-10" => PannConfig::cnn10().into(),
        "pann-6" => PannConfig::cnn6().into(),
        _ => bail!("no audio tower is called `{name}`"),
    })
}

/// The text towers, of base size.
pub(super) fn text_tower(name: &str) -> anyhow::Result<TextConfig> {
    Ok(match name {
        // The layer norms of the published weights.
        "roberta" => TextConfig { layer_norm_eps: 1e-5, ..TextConfig::default() },
        "bert" => TextConfig {
            model_type: TextModelType::Bert,
            vocab_size: 30_522,
            max_position_embeddings: 512,
            type_vocab_size: 2,
            pad_token_id: 0,
            bos_token_id: 101,
            eos_token_id: 102,
            ..TextConfig::default()
        },
        _ => bail!("no text tower is called `{name}`"),
    })
}

/// An audio tower of next to nothing, where texts alone are timed.
pub(super) fn no_audio_tower() -> AudioConfig {
    HtsAtConfig {
        depths: vec![1],
        num_attention_heads: vec![2],
        patch_embeds_hidden_size: 8,
        hidden_size: 8,
        ..HtsAtConfig::default()
    }
    .into()
}

/// A text tower of next to nothing, where sounds alone are timed.
pub(super) fn no_text_tower() -> TextConfig {
    TextConfig {
        vocab_size: 10,
        hidden_size: 8,
        num_hidden_layers: 1,
        num_attention_heads: 1,
        intermediate_size: 8,
        ..TextConfig::default()
    }
}
