//! BERT and RoBERTa: encoders that read a text in both directions and pool its first token.
//!
//! Devlin et al., "BERT" (arXiv 1810.04805); Liu et al., "RoBERTa" (arXiv 1907.11692). Source: transformers 4.57.6
//! `ClapTextModel`, which equals `RobertaModel` with its pooler (what `laion-clap` 1.1.7 uses) in weight names and mathematics,
//! and `BertModel`, which differs from it in how it numbers positions.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use clap_nn::init::normal;
use clap_nn::{Embedding, LayerNorm, Linear, Mode, dropout};

use super::layer::{Layer, Names};
use super::{check_length, token_rows};
use crate::config::{TextConfig, TextModelType};
use crate::taps::Taps;

/// Where Hugging Face's `BertLayer` keeps its parts.
const NAMES: Names = Names {
    query: "attention.self.query",
    key: "attention.self.key",
    value: "attention.self.value",
    attention_output: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    intermediate: "intermediate.dense",
    output: "output.dense",
    output_norm: "output.LayerNorm",
};

/// BERT or RoBERTa.
#[derive(Debug)]
pub struct Bert {
    embeddings: Embeddings,
    layers: Vec<Layer>,
    pooler: Linear,
}

impl Bert {
    /// `vb` stands at `text_model`; `config` is a validated one.
    ///
    /// # Errors
    /// Where a weight is missing or of another shape.
    pub fn new(config: &TextConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let layers = (0..config.num_hidden_layers)
            .map(|i| Layer::new(config, &NAMES, vb.pp("encoder").pp("layer").pp(i)))
            .collect::<Result<_>>()?;
        let (width, init) = (config.hidden_size, normal(config.initializer_range));
        Ok(Self {
            embeddings: Embeddings::new(config, vb.pp("embeddings"))?,
            layers,
            pooler: Linear::new(width, width, init, vb.pp("pooler").pp("dense"))?,
        })
    }

    /// Token ids `(B, T)` and their mask `(B, T)` (1 for a token, 0 for padding) → pooled embedding `(B, hidden_size)`:
    /// `tanh(dense(hidden state of the first token))`, `<s>` or `[CLS]`.
    ///
    /// # Errors
    /// Where an id lies outside the vocabulary or a text is longer than the position table.
    pub fn forward_t(&self, ids: &Tensor, mask: &Tensor, mode: &mut Mode) -> Result<Tensor> {
        self.forward_with(ids, mask, mode, &mut Taps::none())
    }

    /// [`Bert::forward_t`], showing each intermediate to `taps`.
    ///
    /// # Errors
    /// As [`Bert::forward_t`].
    pub fn forward_with(&self, ids: &Tensor, mask: &Tensor, mode: &mut Mode, taps: &mut Taps<'_>) -> Result<Tensor> {
        let mut xs = self.embeddings.forward_t(ids, mode)?; // (B, T, C)
        taps.see(format_args!("embeddings"), &xs);
        for (i, layer) in self.layers.iter().enumerate() {
            xs = layer.forward_t(&xs, mask, mode)?;
            taps.see(format_args!("layer{i}"), &xs);
        }
        let first = xs.narrow(1, 0, 1)?.squeeze(1)?.contiguous()?; // (B, C)
        let xs = self.pooler.forward(&first)?.tanh()?;
        taps.see(format_args!("pooler"), &xs);
        Ok(xs)
    }
}

/// Token, segment and position embeddings.
#[derive(Debug)]
struct Embeddings {
    word: Embedding,
    position: Embedding,
    token_type: Embedding,
    norm: LayerNorm,
    dropout: f32,
    pad: u32,
    /// Whether positions are counted from `pad + 1`, as RoBERTa's are.
    counts_from_pad: bool,
    positions: usize,
}

impl Embeddings {
    fn new(config: &TextConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let (c, init) = (config.hidden_size, normal(config.initializer_range));
        Ok(Self {
            word: Embedding::new(config.vocab_size, c, init, vb.pp("word_embeddings"))?
                .with_padding(config.pad_token_id),
            position: Embedding::new(config.max_position_embeddings, c, init, vb.pp("position_embeddings"))?,
            token_type: Embedding::new(config.type_vocab_size, c, init, vb.pp("token_type_embeddings"))?,
            norm: LayerNorm::new(c, config.layer_norm_eps, vb.pp("LayerNorm"))?,
            dropout: config.hidden_dropout_prob as f32,
            pad: config.pad_token_id,
            counts_from_pad: config.model_type == TextModelType::Roberta,
            positions: config.max_tokens(),
        })
    }

    /// `(B, T)` → `(B, T, C)`.
    fn forward_t(&self, ids: &Tensor, mode: &mut Mode) -> Result<Tensor> {
        let positions = self.position_ids(ids)?;
        // Every token is of segment 0: one row for all of them.
        let segment = self.token_type.weight().narrow(0, 0, 1)?.unsqueeze(0)?; // (1, 1, C)
        let xs = self.word.forward(ids)?.broadcast_add(&segment)?;
        let xs = (xs + self.position.forward(&positions)?)?;
        dropout(&self.norm.forward(&xs)?, self.dropout, mode)
    }

    /// BERT numbers tokens from 0. RoBERTa numbers real ones from `pad + 1` and leaves padding at `pad`:
    /// `cumsum(ids != pad) · (ids != pad) + pad`.
    fn position_ids(&self, ids: &Tensor) -> Result<Tensor> {
        let (b, t) = ids.dims2()?;
        let mut positions = Vec::with_capacity(b * t);
        for row in token_rows(ids, self.word.rows()?)? {
            let tokens = if self.counts_from_pad { row.iter().filter(|&&id| id != self.pad).count() } else { t };
            check_length(tokens, self.positions)?;
            if self.counts_from_pad {
                let mut next = self.pad;
                positions.extend(row.into_iter().map(|id| {
                    if id == self.pad {
                        return self.pad;
                    }
                    next += 1;
                    next
                }));
            } else {
                positions.extend(0..t as u32);
            }
        }
        Tensor::from_vec(positions, (b, t), ids.device())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    fn tower(model_type: TextModelType) -> Bert {
        let config = TextConfig {
            model_type,
            vocab_size: 20,
            hidden_size: 12,
            num_hidden_layers: 2,
            num_attention_heads: 3,
            intermediate_size: 10,
            max_position_embeddings: 9,
            ..TextConfig::default()
        };
        let (_, vb) = clap_nn::init::seeded_vars(3, &Device::Cpu, DType::F32);
        Bert::new(&config, vb).unwrap()
    }

    fn forward(model_type: TextModelType, ids: &[&[u32]]) -> Result<Vec<Vec<f32>>> {
        let ids = Tensor::new(ids.iter().map(|r| r.to_vec()).collect::<Vec<_>>(), &Device::Cpu)?;
        let mask = ids.ne(1u32)?.to_dtype(DType::U32)?;
        tower(model_type).forward_t(&ids, &mask, &mut Mode::eval())?.to_vec2()
    }

    #[test]
    fn only_roberta_leaves_padding_out_of_its_positions() {
        let ids = Tensor::new(&[[0u32, 5, 2, 1, 1], [0, 5, 1, 6, 2]], &Device::Cpu).unwrap();
        let positions = |model_type| tower(model_type).embeddings.position_ids(&ids).unwrap().to_vec2::<u32>().unwrap();
        assert_eq!(positions(TextModelType::Roberta), [[2, 3, 4, 1, 1], [2, 3, 1, 4, 5]]);
        assert_eq!(positions(TextModelType::Bert), [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4]]);
    }

    #[test]
    fn padding_does_not_change_an_embedding() {
        for model_type in [TextModelType::Roberta, TextModelType::Bert] {
            let short = forward(model_type, &[&[0, 7, 8, 2]]).unwrap();
            let padded = forward(model_type, &[&[0, 7, 8, 2, 1, 1], &[0, 3, 4, 5, 6, 2]]).unwrap();
            for (a, b) in short[0].iter().zip(&padded[0]) {
                assert!((a - b).abs() < 1e-6, "{a} {b}");
            }
        }
    }

    #[test]
    fn ids_and_lengths_outside_the_tables_are_errors() {
        let message = |ids: &[u32]| forward(TextModelType::Roberta, &[ids]).unwrap_err().to_string();
        assert!(message(&[0, 20, 2]).contains("token id 20"), "{}", message(&[0, 20, 2]));
        assert!(forward(TextModelType::Roberta, &[&[0, 3, 3, 3, 3, 3, 2]]).is_ok());
        let long = message(&[0, 3, 3, 3, 3, 3, 3, 2]);
        assert!(long.contains("8 tokens") && long.contains("7 at most"), "{long}");
        assert!(forward(TextModelType::Bert, &[&[0, 3, 3, 3, 3, 3, 3, 3, 2]]).is_ok());
        assert!(forward(TextModelType::Bert, &[&[0, 3, 3, 3, 3, 3, 3, 3, 3, 2]]).is_err());
    }
}
