//! Hugging Face's side of the format: the buffers of `transformers.ClapModel` that are no weights, and `config.json` as
//! `transformers` 4.57.6 writes it.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Result, Tensor};
use serde_json::{Value, json};

use super::t5;
use crate::config::{AudioConfig, ClapConfig, FusionType, TextModelType};

/// `model_type` of a CLAP model in `config.json`.
pub(super) const MODEL_TYPE: &str = "clap";

/// Parts of LAION's network that the embedding does not use: its front end (recomputed here), its tagging head, the heads of its
/// second loss, BART's decoder, and the name under which that shares the encoder's embedding.
const UNUSED: [&str; 9] = [
    "audio_model.audio_encoder.spectrogram_extractor.",
    "audio_model.audio_encoder.logmel_extractor.",
    "audio_model.audio_encoder.tscam_conv.",
    "audio_model.audio_encoder.head.",
    "audio_model.audio_encoder.fc_audioset.",
    "audio_transform.",
    "text_transform.",
    "text_model.decoder.",
    "text_model.shared.",
];

/// True where a key (under Hugging Face's name) may be in a file without being in the model.
pub(super) fn is_ignorable(key: &str) -> bool {
    clap_nn::is_foreign_buffer(key) || UNUSED.iter().any(|start| key.starts_with(start)) || t5::is_ignorable(key)
}

/// Of them, what a model has after all whose configuration says so: with `mlp_loss`, with `enable_tagging`.
const MLP_LOSS: [&str; 2] = ["audio_transform.", "text_transform."];
const TAGGING: [&str; 2] = ["audio_model.audio_encoder.tscam_conv.", "audio_model.audio_encoder.fc_audioset."];

/// True for an ignorable key that is none to the configured model.
pub(super) fn is_configured(config: &ClapConfig, key: &str) -> bool {
    let starts = |parts: &[&str]| parts.iter().any(|start| key.starts_with(start));
    config.mlp_loss && starts(&MLP_LOSS) || config.audio_config.enable_tagging() && starts(&TAGGING)
}

/// The buffers that `transformers` expects beside the weights.
pub(super) fn buffers(config: &ClapConfig) -> Result<BTreeMap<String, Tensor>> {
    let mut out = BTreeMap::new();
    let cpu = Device::Cpu;
    let positions = config.text_config.max_position_embeddings;
    if matches!(config.text_config.model_type, TextModelType::Roberta | TextModelType::Bert) {
        let text = "text_model.embeddings";
        out.insert(format!("{text}.position_ids"), Tensor::arange(0i64, positions as i64, &cpu)?.unsqueeze(0)?);
        out.insert(format!("{text}.token_type_ids"), Tensor::zeros((1, positions), DType::I64, &cpu)?);
    }

    let encoder = "audio_model.audio_encoder";
    let counter = || Tensor::zeros((), DType::I64, &cpu);
    out.insert(format!("{encoder}.batch_norm.num_batches_tracked"), counter()?);
    let fusion = config.audio_config.fusion();
    let mut norms: Vec<String> = Vec::new();
    match &config.audio_config {
        AudioConfig::HtsAt(_) if fusion.is_some_and(FusionType::is_2d) => {
            norms.extend(fusion_norms(fusion).iter().map(|norm| format!("patch_embed.fusion_model.{norm}")));
        }
        AudioConfig::HtsAt(_) => norms.extend(fusion_norms(fusion).iter().map(|norm| format!("fusion_model.{norm}"))),
        AudioConfig::Pann(pann) => {
            norms.extend(fusion_norms(fusion).iter().map(|norm| format!("fusion_model.{norm}")));
            for block in 1..=pann.block_widths.len() {
                norms.extend((1..=pann.convolutions_per_block).map(|layer| format!("conv_block{block}.bn{layer}")));
            }
            norms.extend(fusion.filter(|kind| kind.is_2d()).map(|_| "mel_conv2d.1".to_owned()));
        }
    }
    norms.extend(fusion.filter(|kind| kind.is_1d()).map(|_| "mel_conv1d.1".to_owned()));
    for norm in norms {
        out.insert(format!("{encoder}.{norm}.num_batches_tracked"), counter()?);
    }
    let AudioConfig::HtsAt(audio) = &config.audio_config else { return Ok(out) };
    for (i, &depth) in audio.depths.iter().enumerate() {
        let window = audio.stage_window(i);
        let index: Vec<i64> = clap_nn::relative_position_index(window).into_iter().map(i64::from).collect();
        for j in 0..depth {
            let key = format!("{encoder}.layers.{i}.blocks.{j}.attention.self.relative_position_index");
            out.insert(key, Tensor::from_slice(&index, (window * window, window * window), &cpu)?);
        }
    }
    Ok(out)
}

/// The batch norms of a fusion module.
fn fusion_norms(fusion: Option<FusionType>) -> &'static [&'static str] {
    match fusion {
        None | Some(FusionType::ChannelMap | FusionType::Daf1d | FusionType::Daf2d) => &[],
        Some(FusionType::Aff1d | FusionType::Aff2d) => &["local_att.1", "local_att.4", "global_att.2", "global_att.5"],
        Some(FusionType::Iaff1d | FusionType::Iaff2d) => &[
            "local_att.1",
            "local_att.4",
            "global_att.2",
            "global_att.5",
            "local_att2.1",
            "local_att2.4",
            "global_att2.2",
            "global_att2.5",
        ],
    }
}

/// `config.json` with the keys by which `transformers` recognises the model.
pub(super) fn config_json(config: &ClapConfig) -> serde_json::Result<Value> {
    let mut json = serde_json::to_value(config)?;
    json["architectures"] = json!(["ClapModel"]);
    json["model_type"] = json!(MODEL_TYPE);
    if let AudioConfig::HtsAt(audio) = &config.audio_config {
        json["audio_config"]["num_hidden_layers"] = json!(audio.depths.len());
    }
    for part in ["text_config", "audio_config"] {
        json[part]["projection_dim"] = json!(config.projection_dim);
        json[part]["projection_hidden_act"] = json!(config.projection_hidden_act);
    }
    Ok(json)
}

/// `preprocessor_config.json` with the keys by which `transformers` recognises the feature extractor. Whole numbers are
/// written without a fraction: `transformers` pads by `max_length_s · sampling_rate`, which must then be an integer.
pub(super) fn preprocessor_json(features: &clap_audio::FeatureConfig) -> serde_json::Result<Value> {
    let mut json = serde_json::to_value(features)?;
    if let Some(map) = json.as_object_mut() {
        for value in map.values_mut() {
            if let Some(whole) = value.as_f64().filter(|v| value.is_f64() && v.fract() == 0.0 && v.abs() < 1e9) {
                *value = json!(whole as i64);
            }
        }
    }
    json["feature_extractor_type"] = json!("ClapFeatureExtractor");
    json["processor_class"] = json!("ClapProcessor");
    Ok(json)
}

/// `tokenizer_config.json`; the tokens themselves are in `tokenizer.json`.
pub(super) fn tokenizer_json(config: &ClapConfig) -> Value {
    let model_type = config.text_config.model_type;
    let mut json = special_tokens_json(model_type);
    json["tokenizer_class"] = json!(match model_type {
        TextModelType::Roberta => "RobertaTokenizer",
        TextModelType::Bert => "BertTokenizer",
        TextModelType::Clip => "CLIPTokenizer",
        TextModelType::Bart => "BartTokenizer",
    });
    json["processor_class"] = json!("ClapProcessor");
    json["model_max_length"] = json!(config.text_config.max_tokens());
    if matches!(model_type, TextModelType::Roberta | TextModelType::Bart) {
        json["add_prefix_space"] = json!(false);
        json["trim_offsets"] = json!(true);
        json["errors"] = json!("replace");
    }
    json
}

/// `special_tokens_map.json`.
pub(super) fn special_tokens_json(model_type: TextModelType) -> Value {
    match model_type {
        TextModelType::Roberta | TextModelType::Bart => json!({
            "bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>",
            "pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>",
        }),
        TextModelType::Bert => json!({
            "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]",
        }),
        TextModelType::Clip => json!({
            "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>",
            "unk_token": "<|endoftext|>",
        }),
    }
}
