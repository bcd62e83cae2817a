//! BERT and RoBERTa: encoders that read a text in both directions and pool its first token.
//!
//! Devlin et al., "BERT" (arXiv 1810.04805); Liu et al., "RoBERTa" (arXiv 1907.11692). Source: transformers 4.57.6
//! `ClapTextModel`, which equals `RobertaModel` with its pooler (what `laion-clap` 1.1.7 uses) in weight names and mathematics,
//! and `BertModel`, which differs from it in how it numbers positions.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use clap_nn::init::normal;
use clap_nn::{AttentionMask, Embedding, LayerNorm, Linear, Mode, add_norm, checkpoint, dropout};

use super::layer::{Layer, Names};
use super::rows::Rows;
use super::{check_length, token_ids};
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
        let rows = needed(ids, mask, taps)?;
        let mut xs = self.embeddings.forward_t(ids, &rows, mode)?; // (N, C) or (B, T, C)
        taps.see(format_args!("embeddings"), &xs);
        for (i, layer) in self.layers.iter().enumerate() {
            let (layer, texts, keys) = (layer.clone(), rows.sequences().cloned(), mask.clone());
            xs = checkpoint(&xs, mode, move |xs, mode| {
                let mask = texts.as_ref().map_or(AttentionMask::Keys(&keys), AttentionMask::Within);
                layer.forward_t(xs, mask, mode)
            })?;
            taps.see(format_args!("layer{i}"), &xs);
        }
        let first = rows.one_of_each(&xs, &vec![0; ids.dim(0)?])?; // (B, C)
        let xs = self.pooler.forward(&first)?.tanh()?;
        taps.see(format_args!("pooler"), &xs);
        Ok(xs)
    }
}

/// The rows of the tokens that may be attended to. Where a first token is not among them all rows are: its hidden state is read all
/// the same, and a text without any token attends to its padding.
fn needed(ids: &Tensor, mask: &Tensor, taps: &Taps<'_>) -> Result<Rows> {
    Rows::needed(ids, taps, || {
        let kept = mask.ne(&mask.zeros_like()?)?.flatten_all()?.to_vec1::<u8>()?;
        let kept: Vec<bool> = kept.into_iter().map(|kept| kept != 0).collect();
        Ok(kept.chunks(ids.dim(1)?).all(|text| text[0]).then_some(kept))
    })
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

    /// Ids `(B, T)` → the embeddings of their rows, `(N, C)` or `(B, T, C)`.
    fn forward_t(&self, ids: &Tensor, rows: &Rows, mode: &mut Mode) -> Result<Tensor> {
        let length = ids.dim(1)?;
        let ids = token_ids(ids, self.word.rows()?)?;
        let positions = self.position_ids(&ids, length)?;
        // Every token is of segment 0: its row is added to the positions that occur, which are fewer than the tokens.
        let occurring = positions.iter().max().map_or(0, |&last| last as usize + 1);
        let segment = self.token_type.weight().narrow(0, 0, 1)?; // (1, C)
        let table = self.position.weight().narrow(0, 0, occurring)?.broadcast_add(&segment)?;
        let xs = self.word.forward(&rows.select(ids)?)?;
        let positions = Embedding::from_parts(table).forward(&rows.select(positions)?)?;
        dropout(&add_norm(&xs, &positions, &self.norm, 0.0, mode)?, self.dropout, mode)
    }

    /// BERT numbers tokens from 0. RoBERTa numbers real ones from `pad + 1` and leaves padding at `pad`:
    /// `cumsum(ids != pad) · (ids != pad) + pad`. Texts of `length` tokens, one after the other.
    fn position_ids(&self, ids: &[u32], length: usize) -> Result<Vec<u32>> {
        let mut positions = Vec::with_capacity(ids.len());
        for text in ids.chunks(length.max(1)) {
            let tokens = if self.counts_from_pad { text.iter().filter(|&&id| id != self.pad).count() } else { length };
            check_length(tokens, self.positions)?;
            if self.counts_from_pad {
                let mut next = self.pad;
                positions.extend(text.iter().map(|&id| {
                    if id == self.pad {
                        return self.pad;
                    }
                    next += 1;
                    next
                }));
            } else {
                positions.extend(0..length as u32);
            }
        }
        Ok(positions)
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
        let ids = [0u32, 5, 2, 1, 1, 0, 5, 1, 6, 2];
        let positions = |model_type| tower(model_type).embeddings.position_ids(&ids, 5).unwrap();
        assert_eq!(positions(TextModelType::Roberta), [2, 3, 4, 1, 1, 2, 3, 1, 4, 5]);
        assert_eq!(positions(TextModelType::Bert), [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]);
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
