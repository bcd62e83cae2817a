//! `config.json` of a T5 model.

use std::path::Path;

use clap_nn::Activation;
use serde::Deserialize;

use crate::config::{DEEPEST, LONGEST, WIDEST, epsilon, size};
use crate::error::{Error, Result};

/// Architectures whose weights and mathematics are T5's.
const MODEL_TYPES: [&str; 2] = ["t5", "mt5"];

/// Sizes of a T5 model (`T5Config`), T5's own where the file leaves one out.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct T5Config {
    /// `t5`, or `mt5`, which is the same network.
    pub model_type: String,
    /// Rows of the token embedding; there may be more than the tokenizer has tokens.
    pub vocab_size: usize,
    /// Width of the hidden states.
    pub d_model: usize,
    /// Width of one attention head; all of them together need not be `d_model`.
    pub d_kv: usize,
    /// Width of the feed-forward layers.
    pub d_ff: usize,
    /// Layers of the encoder.
    pub num_layers: usize,
    /// Layers of the decoder; as many as the encoder has by default.
    pub num_decoder_layers: Option<usize>,
    /// Attention heads of each layer.
    pub num_heads: usize,
    /// Kinds of distance that the position bias tells apart.
    pub relative_attention_num_buckets: usize,
    /// Distance in tokens from which all are one kind.
    pub relative_attention_max_distance: usize,
    /// Epsilon of the norms.
    pub layer_norm_epsilon: f64,
    /// `relu` (T5) or `gated-gelu` (T5 1.1); also `gelu`, `gelu_new`, `quick_gelu`, and each of them gated.
    pub feed_forward_proj: String,
    /// Whether the token embedding is the output layer as well; hidden states are scaled by `d_model^-½` then.
    pub tie_word_embeddings: bool,
}

impl Default for T5Config {
    fn default() -> Self {
        Self {
            model_type: "t5".to_owned(),
            vocab_size: 32_128,
            d_model: 512,
            d_kv: 64,
            d_ff: 2048,
            num_layers: 6,
            num_decoder_layers: None,
            num_heads: 8,
            relative_attention_num_buckets: 32,
            relative_attention_max_distance: 128,
            layer_norm_epsilon: 1e-6,
            feed_forward_proj: "relu".to_owned(),
            tie_word_embeddings: true,
        }
    }
}

impl T5Config {
    /// Reads a `config.json`.
    ///
    /// # Errors
    /// Where it cannot be read, is another model's or describes none.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        let config: Self = serde_json::from_str(&text).map_err(Error::json(path))?;
        config.validate()?;
        Ok(config)
    }

    /// Layers of the decoder.
    #[must_use]
    pub fn decoder_layers(&self) -> usize {
        self.num_decoder_layers.unwrap_or(self.num_layers)
    }

    pub(crate) fn validate(&self) -> Result<()> {
        if !MODEL_TYPES.contains(&self.model_type.as_str()) {
            let reason =
                format!("`{}` is none of {}; captions are made by a T5", self.model_type, MODEL_TYPES.join(", "));
            return Err(Error::config("model_type", reason));
        }
        for (key, value, limit) in [
            ("vocab_size", self.vocab_size, LONGEST),
            ("d_model", self.d_model, WIDEST),
            ("d_kv", self.d_kv, WIDEST),
            ("d_ff", self.d_ff, WIDEST),
            ("num_layers", self.num_layers, DEEPEST),
            ("num_decoder_layers", self.decoder_layers(), DEEPEST),
            ("num_heads", self.num_heads, WIDEST),
            ("num_heads · d_kv", self.num_heads.saturating_mul(self.d_kv), WIDEST),
            ("relative_attention_num_buckets", self.relative_attention_num_buckets, WIDEST),
            ("relative_attention_max_distance", self.relative_attention_max_distance, LONGEST),
        ] {
            size(key, value, limit)?;
        }
        // The encoder halves the kinds for the two directions and has one kind for each of the nearest quarter of distances.
        let buckets = self.relative_attention_num_buckets;
        if buckets < 4 || self.relative_attention_max_distance <= buckets / 2 {
            let reason = format!(
                "{buckets} for distances up to {}; at least 4, and fewer than twice the distance, are needed",
                self.relative_attention_max_distance
            );
            return Err(Error::config("relative_attention_num_buckets", reason));
        }
        epsilon("layer_norm_epsilon", self.layer_norm_epsilon)?;
        self.feed_forward().map(drop)
    }

    /// Whether the feed-forward layers are gated, and their activation.
    pub(crate) fn feed_forward(&self) -> Result<(bool, Activation)> {
        let name = self.feed_forward_proj.as_str();
        let (is_gated, function) = name.strip_prefix("gated-").map_or((false, name), |function| (true, function));
        let activation = match function {
            "relu" => Activation::Relu,
            // transformers takes the approximation for T5 1.1, and the exact function for a plain `gelu`.
            "gelu" if is_gated => Activation::GeluNew,
            "gelu" => Activation::Gelu,
            "gelu_new" => Activation::GeluNew,
            "quick_gelu" => Activation::QuickGelu,
            _ => {
                let reason =
                    format!("`{name}` is unknown; there are relu, gelu, gelu_new, quick_gelu, and gated-relu etc.");
                return Err(Error::config("feed_forward_proj", reason));
            }
        };
        Ok((is_gated, activation))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(json: &str, words: &[&str]) {
        let config: T5Config = serde_json::from_str(json).unwrap();
        let message = config.validate().unwrap_err().to_string();
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    }

    #[test]
    fn activations_have_transformers_names() {
        let of = |name: &str| T5Config { feed_forward_proj: name.to_owned(), ..T5Config::default() }.feed_forward();
        assert_eq!(of("relu").unwrap(), (false, Activation::Relu));
        assert_eq!(of("gated-gelu").unwrap(), (true, Activation::GeluNew));
        assert_eq!(of("gelu").unwrap(), (false, Activation::Gelu));
        assert!(of("gated-").is_err() && of("swish").is_err());
    }

    #[test]
    fn what_is_no_t5_is_refused_by_key() {
        T5Config::default().validate().unwrap();
        refused(r#"{"model_type": "bart"}"#, &["model_type", "bart"]);
        refused(r#"{"num_layers": 0}"#, &["num_layers"]);
        refused(r#"{"num_layers": 1000000000}"#, &["num_layers"]);
        refused(r#"{"num_heads": 60000, "d_kv": 60000}"#, &["num_heads · d_kv"]);
        refused(r#"{"relative_attention_num_buckets": 2}"#, &["relative_attention_num_buckets", "at least 4"]);
        refused(r#"{"relative_attention_max_distance": 16}"#, &["relative_attention_num_buckets", "16"]);
        refused(r#"{"feed_forward_proj": "gated"}"#, &["feed_forward_proj", "gated"]);
    }
}
