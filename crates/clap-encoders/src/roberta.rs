//! RoBERTa: the text tower.
//!
//! Liu et al., "RoBERTa" (arXiv 1907.11692); source: transformers 4.57.6 `ClapTextModel`, which equals `RobertaModel` with
//! its pooler (what `laion-clap` 1.1.7 uses) in weight names and mathematics.

use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;
use clap_nn::init::normal;
use clap_nn::{Activation, Embedding, LayerNorm, Linear, Mode, attention, dropout};

use crate::config::TextConfig;
use crate::taps::Taps;

/// The text tower.
#[derive(Debug)]
pub struct Roberta {
    embeddings: Embeddings,
    layers: Vec<Layer>,
    pooler: Linear,
}

impl Roberta {
    /// `vb` stands at `text_model`; `config` is a validated one.
    ///
    /// # Errors
    /// Where a weight is missing or of another shape.
    pub fn new(config: &TextConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let layers = (0..config.num_hidden_layers)
            .map(|i| Layer::new(config, vb.pp("encoder").pp("layer").pp(i)))
            .collect::<Result<_>>()?;
        let (width, init) = (config.hidden_size, normal(config.initializer_range));
        Ok(Self {
            embeddings: Embeddings::new(config, vb.pp("embeddings"))?,
            layers,
            pooler: Linear::new(width, width, init, vb.pp("pooler").pp("dense"))?,
        })
    }

    /// Token ids `(B, T)` and their mask `(B, T)` (1 for a token, 0 for padding) → pooled embedding `(B, hidden_size)`:
    /// `tanh(dense(hidden state of <s>))`.
    ///
    /// # Errors
    /// Where an id lies outside the vocabulary or a text is longer than the position table.
    pub fn forward_t(&self, ids: &Tensor, mask: &Tensor, mode: &mut Mode) -> Result<Tensor> {
        self.forward_with(ids, mask, mode, &mut Taps::none())
    }

    /// [`Roberta::forward_t`], showing each intermediate to `taps`.
    ///
    /// # Errors
    /// As [`Roberta::forward_t`].
    pub fn forward_with(&self, ids: &Tensor, mask: &Tensor, mode: &mut Mode, taps: &mut Taps<'_>) -> Result<Tensor> {
        if ids.dims2()? != mask.dims2()? {
            bail!("input_ids {:?} and attention_mask {:?} differ in shape", ids.shape(), mask.shape())
        }
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
    positions: usize,
    vocabulary: usize,
}

impl Embeddings {
    fn new(config: &TextConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let (c, init) = (config.hidden_size, normal(config.initializer_range));
        Ok(Self {
            word: Embedding::new(config.vocab_size, c, init, vb.pp("word_embeddings"))?,
            position: Embedding::new(config.max_position_embeddings, c, init, vb.pp("position_embeddings"))?,
            token_type: Embedding::new(config.type_vocab_size, c, init, vb.pp("token_type_embeddings"))?,
            norm: LayerNorm::new(c, config.layer_norm_eps, vb.pp("LayerNorm"))?,
            dropout: config.hidden_dropout_prob as f32,
            pad: config.pad_token_id,
            positions: config.max_position_embeddings,
            vocabulary: config.vocab_size,
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

    /// Real tokens are numbered from `pad + 1`; padding sits at `pad`:
    /// `cumsum(ids != pad) · (ids != pad) + pad`.
    fn position_ids(&self, ids: &Tensor) -> Result<Tensor> {
        let (b, t) = ids.dims2()?;
        let rows = ids.to_dtype(candle_core::DType::U32)?.to_vec2::<u32>()?;
        let mut positions = Vec::with_capacity(b * t);
        for row in rows {
            let mut next = self.pad;
            for id in row {
                if id as usize >= self.vocabulary {
                    bail!(
                        "token id {id} lies outside the vocabulary of {}; is the tokenizer the model's?",
                        self.vocabulary
                    )
                }
                if id == self.pad {
                    positions.push(self.pad);
                } else {
                    next += 1;
                    positions.push(next);
                }
            }
            if next as usize >= self.positions {
                bail!(
                    "a text has {} tokens, the model numbers {} at most; truncate it",
                    next - self.pad,
                    self.positions.saturating_sub(self.pad as usize + 1)
                )
            }
        }
        Tensor::from_vec(positions, (b, t), ids.device())
    }
}

/// Post-norm self-attention and feed-forward, each with a residual.
#[derive(Debug)]
struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    attention_output: Linear,
    attention_norm: LayerNorm,
    intermediate: Linear,
    act: Activation,
    output: Linear,
    output_norm: LayerNorm,
    heads: usize,
    attention_dropout: f32,
    dropout: f32,
}

impl Layer {
    fn new(config: &TextConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let (c, inner, eps) = (config.hidden_size, config.intermediate_size, config.layer_norm_eps);
        let (attention, output) = (vb.pp("attention"), vb.pp("output"));
        let init = normal(config.initializer_range);
        Ok(Self {
            query: Linear::new(c, c, init, attention.pp("self").pp("query"))?,
            key: Linear::new(c, c, init, attention.pp("self").pp("key"))?,
            value: Linear::new(c, c, init, attention.pp("self").pp("value"))?,
            attention_output: Linear::new(c, c, init, attention.pp("output").pp("dense"))?,
            attention_norm: LayerNorm::new(c, eps, attention.pp("output").pp("LayerNorm"))?,
            intermediate: Linear::new(c, inner, init, vb.pp("intermediate").pp("dense"))?,
            act: config.hidden_act,
            output: Linear::new(inner, c, init, output.pp("dense"))?,
            output_norm: LayerNorm::new(c, eps, output.pp("LayerNorm"))?,
            heads: config.num_attention_heads,
            attention_dropout: config.attention_probs_dropout_prob as f32,
            dropout: config.hidden_dropout_prob as f32,
        })
    }

    /// `(B, T, C)` → `(B, T, C)`.
    fn forward_t(&self, xs: &Tensor, mask: &Tensor, mode: &mut Mode) -> Result<Tensor> {
        let (q, k, v) = (self.query.forward(xs)?, self.key.forward(xs)?, self.value.forward(xs)?);
        let ys = attention(&q, &k, &v, Some(mask), self.heads, self.attention_dropout, mode)?;
        let ys = dropout(&self.attention_output.forward(&ys)?, self.dropout, mode)?;
        let xs = self.attention_norm.forward(&(xs + ys)?)?;
        let ys = self.act.forward(&self.intermediate.forward(&xs)?)?; // (B, T, inner)
        let ys = dropout(&self.output.forward(&ys)?, self.dropout, mode)?;
        self.output_norm.forward(&(xs + ys)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    fn tower() -> Roberta {
        let config = TextConfig {
            vocab_size: 20,
            hidden_size: 12,
            num_hidden_layers: 2,
            num_attention_heads: 3,
            intermediate_size: 10,
            max_position_embeddings: 9,
            ..TextConfig::default()
        };
        let (_, vb) = clap_nn::init::seeded_vars(3, &Device::Cpu, DType::F32);
        Roberta::new(&config, vb).unwrap()
    }

    fn forward(ids: &[&[u32]]) -> Result<Vec<Vec<f32>>> {
        let ids = Tensor::new(ids.iter().map(|r| r.to_vec()).collect::<Vec<_>>(), &Device::Cpu)?;
        let mask = ids.ne(1u32)?.to_dtype(DType::U32)?;
        tower().forward_t(&ids, &mask, &mut Mode::eval())?.to_vec2()
    }

    #[test]
    fn positions_skip_padding() {
        let ids = Tensor::new(&[[0u32, 5, 2, 1, 1], [0, 5, 1, 6, 2]], &Device::Cpu).unwrap();
        let positions = tower().embeddings.position_ids(&ids).unwrap().to_vec2::<u32>().unwrap();
        assert_eq!(positions, [[2, 3, 4, 1, 1], [2, 3, 1, 4, 5]]);
    }

    #[test]
    fn padding_does_not_change_an_embedding() {
        let (short, padded) =
            (forward(&[&[0, 7, 8, 2]]).unwrap(), forward(&[&[0, 7, 8, 2, 1, 1], &[0, 3, 4, 5, 6, 2]]).unwrap());
        for (a, b) in short[0].iter().zip(&padded[0]) {
            assert!((a - b).abs() < 1e-6, "{a} {b}");
        }
    }

    #[test]
    fn ids_and_lengths_outside_the_tables_are_errors() {
        let message = |ids: &[u32]| forward(&[ids]).unwrap_err().to_string();
        assert!(message(&[0, 20, 2]).contains("token id 20"), "{}", message(&[0, 20, 2]));
        assert!(forward(&[&[0, 3, 3, 3, 3, 3, 2]]).is_ok());
        let long = message(&[0, 3, 3, 3, 3, 3, 3, 2]);
        assert!(long.contains("8 tokens") && long.contains("7 at most"), "{long}");
    }
}
