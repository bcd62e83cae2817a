//! `text_config`: the text tower.

use clap_nn::Activation;
use serde::{Deserialize, Serialize};

use super::{DEEPEST, LONGEST, WIDEST, epsilon, heads, rate, size, spread};
use crate::error::{Error, Result};

/// Which text tower it is (LAION's `tmodel`). `transformers` knows RoBERTa alone; the others are this crate's extension of the
/// format: `model_type` is Hugging Face's name of the tower, and the other fields keep RoBERTa's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TextModelType {
    /// RoBERTa (`roberta`), of all published checkpoints.
    #[default]
    #[serde(rename = "clap_text_model", alias = "roberta")]
    Roberta,
    /// BERT (`bert`).
    #[serde(rename = "bert")]
    Bert,
    /// CLIP's causal transformer (`transformer`).
    #[serde(rename = "clip_text_model")]
    Clip,
    /// The encoder of BART (`bart`).
    #[serde(rename = "bart")]
    Bart,
}

/// Sizes of the text tower (`ClapTextConfig`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TextConfig {
    /// Which tower.
    pub model_type: TextModelType,
    /// Rows of the token embedding; the tokenizer's ids lie below it.
    pub vocab_size: usize,
    /// Width of the tower.
    pub hidden_size: usize,
    /// Number of transformer layers.
    pub num_hidden_layers: usize,
    /// Attention heads of each layer.
    pub num_attention_heads: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Activation of the feed-forward layer.
    pub hidden_act: Activation,
    /// Dropout after the embeddings and each sub-layer, in training.
    pub hidden_dropout_prob: f64,
    /// Dropout of the attention weights, in training.
    pub attention_probs_dropout_prob: f64,
    /// Positions of the longest text. RoBERTa's first real token sits at `pad_token_id + 1`, so that its texts may have
    /// `max_position_embeddings - pad_token_id - 1` tokens.
    pub max_position_embeddings: usize,
    /// Tokens that BART's texts are padded to, its mean being over all positions (an extension; LAION's 77).
    pub context_length: usize,
    /// Rows of the segment embedding; only row 0 is used.
    pub type_vocab_size: usize,
    /// Epsilon of every layer norm: 1e-12 in Hugging Face's CLAP configs, 1e-5 in real RoBERTa and LAION's files.
    pub layer_norm_eps: f64,
    /// Id of the padding token, which also sets where RoBERTa's positions start.
    pub pad_token_id: u32,
    /// Id of the first token of a text: `<s>`, `[CLS]` or `<|startoftext|>`.
    pub bos_token_id: u32,
    /// Id of the last token of a text: `</s>`, `[SEP]` or `<|endoftext|>`.
    pub eos_token_id: u32,
    /// Standard deviation of the normal distribution that linear layers and embeddings begin with. The default is that of wide towers;
    /// towers a tenth as wide learn faster from 0.06 or more.
    pub initializer_range: f64,
}

impl Default for TextConfig {
    fn default() -> Self {
        Self {
            model_type: TextModelType::Roberta,
            vocab_size: 50_265,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: Activation::Gelu,
            hidden_dropout_prob: 0.1,
            attention_probs_dropout_prob: 0.1,
            max_position_embeddings: 514,
            context_length: 77,
            type_vocab_size: 1,
            layer_norm_eps: 1e-12,
            pad_token_id: 1,
            bos_token_id: 0,
            eos_token_id: 2,
            initializer_range: 0.02,
        }
    }
}

impl TextConfig {
    /// The longest text in tokens, special tokens included, that the position table can number.
    #[must_use]
    pub fn max_tokens(&self) -> usize {
        match self.model_type {
            TextModelType::Roberta => self.max_position_embeddings.saturating_sub(self.pad_token_id as usize + 1),
            TextModelType::Bert | TextModelType::Clip | TextModelType::Bart => self.max_position_embeddings,
        }
    }

    pub(crate) fn validate(&self) -> Result<()> {
        for (key, value, limit) in [
            ("text_config.hidden_size", self.hidden_size, WIDEST),
            ("text_config.vocab_size", self.vocab_size, LONGEST),
            ("text_config.num_hidden_layers", self.num_hidden_layers, DEEPEST),
            ("text_config.intermediate_size", self.intermediate_size, WIDEST),
            ("text_config.max_position_embeddings", self.max_position_embeddings, LONGEST),
            ("text_config.type_vocab_size", self.type_vocab_size, LONGEST),
            ("text_config.context_length", self.context_length, LONGEST),
        ] {
            size(key, value, limit)?;
        }
        heads("text_config.num_attention_heads", self.num_attention_heads, self.hidden_size)?;
        rate("text_config.hidden_dropout_prob", self.hidden_dropout_prob)?;
        rate("text_config.attention_probs_dropout_prob", self.attention_probs_dropout_prob)?;
        epsilon("text_config.layer_norm_eps", self.layer_norm_eps)?;
        spread("text_config.initializer_range", self.initializer_range)?;
        let special = [self.pad_token_id, self.bos_token_id, self.eos_token_id];
        if special.iter().any(|&id| id as usize >= self.vocab_size) {
            return Err(Error::config(
                "text_config.vocab_size",
                format!("{} does not reach the special token ids {special:?}", self.vocab_size),
            ));
        }
        if self.max_tokens() < 3 {
            return Err(Error::config(
                "text_config.max_position_embeddings",
                format!(
                    "{} gives texts of {} tokens, no room for a word between the first and the last one; RoBERTa's positions \
                     start at pad_token_id + 1 = {}",
                    self.max_position_embeddings,
                    self.max_tokens(),
                    self.pad_token_id + 1
                ),
            ));
        }
        if self.model_type == TextModelType::Bart && self.context_length > self.max_tokens() {
            return Err(Error::config(
                "text_config.context_length",
                format!("{} is beyond max_position_embeddings {}", self.context_length, self.max_position_embeddings),
            ));
        }
        Ok(())
    }
}
