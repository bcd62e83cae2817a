//! `config.json` of a text model of `transformers`, read as sizes of a text tower.
//!
//! Source: transformers 4.57.6 `configuration_{bert,roberta,bart,clip}.py`, whose defaults the fields take that a file leaves out.
//! BERT and RoBERTa name their fields as [`TextConfig`] does; BART and CLIP have names of their own.

use std::path::Path;

use clap_nn::Activation;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::config::{TextConfig, TextModelType};
use crate::error::{Error, Result};

/// `model_type`s that are read, or what takes their place in files that do not say.
const KNOWN: &str = "bert, roberta, xlm-roberta, camembert, bart, clip and clip_text_model";

/// True where `json` is of a text model by itself.
pub(crate) fn is_text(json: &Value) -> bool {
    model_type(json).is_some()
}

/// The sizes of the text tower.
///
/// # Errors
/// Where the file cannot be read, is of no model that is known, or has something that the tower here has not.
pub(crate) fn read(path: &Path) -> Result<TextConfig> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    let json: Value = serde_json::from_str(&text).map_err(Error::json(path))?;
    let kind = model_type(&json).ok_or_else(|| {
        refused(path, format!("`model_type` {} is no text model that is known; {KNOWN} are", json["model_type"]))
    })?;
    let config = match kind {
        TextModelType::Bert | TextModelType::Roberta => bert(kind, &json, path)?,
        TextModelType::Bart => Bart::deserialize(&json).map_err(Error::json(path))?.config(path)?,
        TextModelType::Clip => {
            // A whole CLIP has its text tower in a part of the file.
            let part = json.get("text_config").filter(|part| part.is_object()).unwrap_or(&json);
            Clip::deserialize(part).map_err(Error::json(path))?.config()
        }
    };
    config.validate()?;
    Ok(config)
}

fn refused(path: &Path, reason: String) -> Error {
    Error::Json { path: path.to_owned(), reason }
}

/// Which tower, by `model_type` or, in files older than that field, by the class.
fn model_type(json: &Value) -> Option<TextModelType> {
    let class = || json["architectures"][0].as_str().filter(|_| json.get("text_config").is_none());
    match json["model_type"].as_str().or_else(class)? {
        "bert" | "BertModel" | "BertForMaskedLM" => Some(TextModelType::Bert),
        "roberta" | "xlm-roberta" | "camembert" | "RobertaModel" | "RobertaForMaskedLM" => Some(TextModelType::Roberta),
        "bart" | "BartModel" => Some(TextModelType::Bart),
        "clip" | "clip_text_model" | "CLIPTextModel" => Some(TextModelType::Clip),
        _ => None,
    }
}

fn bert(kind: TextModelType, json: &Value, path: &Path) -> Result<TextConfig> {
    let position = json["position_embedding_type"].as_str().unwrap_or("absolute");
    if position != "absolute" {
        return Err(refused(
            path,
            format!("`position_embedding_type` is {position}; the tower here has absolute ones"),
        ));
    }
    let mut fields = match kind {
        TextModelType::Bert => json!({
            "vocab_size": 30_522, "pad_token_id": 0, "bos_token_id": 101, "eos_token_id": 102,
        }),
        _ => json!({"vocab_size": 50_265}),
    };
    fields["max_position_embeddings"] = json!(512);
    fields["type_vocab_size"] = json!(2);
    if let (Value::Object(fields), Value::Object(own)) = (&mut fields, json) {
        let given: Map<String, Value> =
            own.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), v.clone())).collect();
        fields.extend(given);
    }
    fields["model_type"] = serde_json::to_value(kind).map_err(Error::json(path))?;
    serde_json::from_value(fields).map_err(Error::json(path))
}

/// `BartConfig`.
#[derive(Deserialize)]
#[serde(default)]
struct Bart {
    vocab_size: usize,
    d_model: usize,
    encoder_layers: usize,
    encoder_attention_heads: usize,
    encoder_ffn_dim: usize,
    activation_function: Activation,
    dropout: f64,
    attention_dropout: f64,
    max_position_embeddings: usize,
    init_std: f64,
    scale_embedding: bool,
    normalize_before: bool,
    pad_token_id: u32,
    bos_token_id: u32,
    eos_token_id: u32,
}

impl Default for Bart {
    fn default() -> Self {
        Self {
            vocab_size: 50_265,
            d_model: 1024,
            encoder_layers: 12,
            encoder_attention_heads: 16,
            encoder_ffn_dim: 4096,
            activation_function: Activation::Gelu,
            dropout: 0.1,
            attention_dropout: 0.0,
            max_position_embeddings: 1024,
            init_std: 0.02,
            scale_embedding: false,
            normalize_before: false,
            pad_token_id: 1,
            bos_token_id: 0,
            eos_token_id: 2,
        }
    }
}

impl Bart {
    fn config(self, path: &Path) -> Result<TextConfig> {
        for (key, set) in [("scale_embedding", self.scale_embedding), ("normalize_before", self.normalize_before)] {
            if set {
                return Err(refused(path, format!("`{key}` is true; the tower here is BART's, without it")));
            }
        }
        let default = TextConfig::default();
        Ok(TextConfig {
            model_type: TextModelType::Bart,
            vocab_size: self.vocab_size,
            hidden_size: self.d_model,
            num_hidden_layers: self.encoder_layers,
            num_attention_heads: self.encoder_attention_heads,
            intermediate_size: self.encoder_ffn_dim,
            hidden_act: self.activation_function,
            hidden_dropout_prob: self.dropout,
            attention_probs_dropout_prob: self.attention_dropout,
            max_position_embeddings: self.max_position_embeddings,
            context_length: default.context_length.min(self.max_position_embeddings),
            layer_norm_eps: 1e-5,
            pad_token_id: self.pad_token_id,
            bos_token_id: self.bos_token_id,
            eos_token_id: self.eos_token_id,
            initializer_range: self.init_std,
            ..default
        })
    }
}

/// `CLIPTextConfig`. Its ids of special tokens are not read: OpenAI's files have wrong ones, and the tower finds a text's end by the
/// highest id of the vocabulary.
#[derive(Deserialize)]
#[serde(default)]
struct Clip {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    max_position_embeddings: usize,
    hidden_act: Activation,
    layer_norm_eps: f64,
    attention_dropout: f64,
    initializer_range: f64,
}

impl Default for Clip {
    fn default() -> Self {
        Self {
            vocab_size: 49_408,
            hidden_size: 512,
            intermediate_size: 2048,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            hidden_act: Activation::QuickGelu,
            layer_norm_eps: 1e-5,
            attention_dropout: 0.0,
            initializer_range: 0.02,
        }
    }
}

impl Clip {
    fn config(self) -> TextConfig {
        let last = u32::try_from(self.vocab_size).unwrap_or(u32::MAX);
        TextConfig {
            model_type: TextModelType::Clip,
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            num_hidden_layers: self.num_hidden_layers,
            num_attention_heads: self.num_attention_heads,
            intermediate_size: self.intermediate_size,
            hidden_act: self.hidden_act,
            hidden_dropout_prob: 0.0,
            attention_probs_dropout_prob: self.attention_dropout,
            max_position_embeddings: self.max_position_embeddings,
            layer_norm_eps: self.layer_norm_eps,
            pad_token_id: 0,
            bos_token_id: last.saturating_sub(2),
            eos_token_id: last.saturating_sub(1),
            initializer_range: self.initializer_range,
            ..TextConfig::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: &str) -> Result<TextConfig> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        std::fs::write(&path, json).unwrap();
        read(&path)
    }

    #[test]
    fn every_text_model_is_read_with_its_own_defaults() {
        let bert =
            config(r#"{"model_type":"bert","hidden_size":384,"num_attention_heads":12,"eos_token_id":null}"#).unwrap();
        assert_eq!((bert.model_type, bert.hidden_size, bert.vocab_size), (TextModelType::Bert, 384, 30_522));
        assert_eq!((bert.pad_token_id, bert.eos_token_id, bert.type_vocab_size), (0, 102, 2));
        let old = config(r#"{"architectures":["BertModel"],"hidden_act":"gelu"}"#).unwrap();
        assert_eq!((old.model_type, old.max_tokens()), (TextModelType::Bert, 512));
        let roberta = config(
            r#"{"model_type":"roberta","layer_norm_eps":1e-5,"max_position_embeddings":514,"type_vocab_size":1}"#,
        )
        .unwrap();
        assert_eq!(roberta, TextConfig { layer_norm_eps: 1e-5, ..TextConfig::default() });
        let bart =
            config(r#"{"model_type":"bart","d_model":768,"encoder_layers":6,"encoder_attention_heads":12}"#).unwrap();
        assert_eq!((bart.model_type, bart.hidden_size, bart.num_hidden_layers), (TextModelType::Bart, 768, 6));
        let clip =
            config(r#"{"model_type":"clip","text_config":{"hidden_size":768,"num_attention_heads":12}}"#).unwrap();
        assert_eq!((clip.model_type, clip.hidden_size, clip.eos_token_id), (TextModelType::Clip, 768, 49_407));
        assert_eq!(clip.hidden_act, Activation::QuickGelu);
    }

    #[test]
    fn what_the_towers_have_not_is_refused_by_name() {
        for (json, part) in [
            (r#"{"model_type":"gpt2"}"#, "gpt2"),
            (r#"{"hidden_size":7}"#, "model_type"),
            (r#"{"model_type":"bert","position_embedding_type":"relative_key"}"#, "relative_key"),
            (r#"{"model_type":"bart","scale_embedding":true}"#, "scale_embedding"),
            (r#"{"model_type":"bert","hidden_act":"mish"}"#, "mish"),
            (r#"{"model_type":"roberta","num_attention_heads":7}"#, "num_attention_heads"),
        ] {
            let message = config(json).unwrap_err().to_string();
            assert!(message.contains(part), "{part} in {message}");
        }
    }
}
