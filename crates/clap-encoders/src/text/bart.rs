//! The encoder of BART, averaged over its positions.
//!
//! Lewis et al., "BART" (arXiv 1910.13461). Weight names and mathematics of transformers 4.57.6 `BartModel`'s encoder;
//! pooling of laion-clap 1.1.7 `model.py` (`encode_text` of `bart`): the mean over **all** positions, padding included, of texts
//! that are padded to 77 tokens. An embedding would depend on how far a batch is padded; so every text is padded to
//! `context_length` here. BART's decoder, which the reference runs and does not use, is left out.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use clap_nn::init::normal;
use clap_nn::{AttentionMask, Embedding, LayerNorm, Mode, add_norm, checkpoint, dropout};

use super::layer::{Layer, Names};
use super::{check_length, token_ids};
use crate::config::TextConfig;
use crate::taps::Taps;

/// Where Hugging Face's `BartEncoderLayer` keeps its parts.
const NAMES: Names = Names {
    query: "self_attn.q_proj",
    key: "self_attn.k_proj",
    value: "self_attn.v_proj",
    attention_output: "self_attn.out_proj",
    attention_norm: "self_attn_layer_norm",
    intermediate: "fc1",
    output: "fc2",
    output_norm: "final_layer_norm",
};

/// Rows of BART's position table before position 0 (`BartLearnedPositionalEmbedding`).
pub const BART_POSITION_OFFSET: usize = 2;

/// BART's encoder.
#[derive(Debug)]
pub struct BartEncoder {
    token: Embedding,
    position: Embedding,
    norm: LayerNorm,
    layers: Vec<Layer>,
    dropout: f32,
    pad: u32,
    context: usize,
}

impl BartEncoder {
    /// `vb` stands at `text_model`; `config` is a validated one.
    ///
    /// # Errors
    /// Where a weight is missing or of another shape.
    pub fn new(config: &TextConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let (c, init, vb) = (config.hidden_size, normal(config.initializer_range), vb.pp("encoder"));
        let layers = (0..config.num_hidden_layers)
            .map(|i| Layer::new(config, &NAMES, vb.pp("layers").pp(i)))
            .collect::<Result<_>>()?;
        let positions = config.max_position_embeddings + BART_POSITION_OFFSET;
        Ok(Self {
            token: Embedding::new(config.vocab_size, c, init, vb.pp("embed_tokens"))?.with_padding(config.pad_token_id),
            position: Embedding::new(positions, c, init, vb.pp("embed_positions"))?,
            norm: LayerNorm::new(c, config.layer_norm_eps, vb.pp("layernorm_embedding"))?,
            layers,
            dropout: config.hidden_dropout_prob as f32,
            pad: config.pad_token_id,
            context: config.context_length,
        })
    }

    /// Token ids and mask `(B, T)` → mean hidden state `(B, hidden_size)` over `max(T, context_length)` positions.
    ///
    /// # Errors
    /// Where an id lies outside the vocabulary or a text is longer than the position table.
    pub(super) fn forward_with(
        &self,
        ids: &Tensor,
        mask: &Tensor,
        mode: &mut Mode,
        taps: &mut Taps<'_>,
    ) -> Result<Tensor> {
        let (b, t) = ids.dims2()?;
        let missing = self.context.saturating_sub(t);
        let filled = Tensor::full(self.pad, (b, missing), ids.device())?.to_dtype(ids.dtype())?;
        let unseen = Tensor::zeros((b, missing), mask.dtype(), mask.device())?;
        let (ids, mask) = (Tensor::cat(&[ids, &filled], 1)?, Tensor::cat(&[mask, &unseen], 1)?);
        let t = t + missing;

        token_ids(&ids, self.token.rows()?)?;
        check_length(t, self.position.rows()? - BART_POSITION_OFFSET)?;
        // Every position is read, so all rows are computed.
        let xs = self.token.forward(&ids)?; // (B, T, C)
        let positions = self.position.weight().narrow(0, BART_POSITION_OFFSET, t)?;
        let positions = positions.broadcast_as(xs.shape())?.contiguous()?;
        let mut xs = dropout(&add_norm(&xs, &positions, &self.norm, 0.0, mode)?, self.dropout, mode)?;
        taps.see(format_args!("embeddings"), &xs);
        for (i, layer) in self.layers.iter().enumerate() {
            let (layer, keys) = (layer.clone(), mask.clone());
            xs = checkpoint(&xs, mode, move |xs, mode| layer.forward_t(xs, AttentionMask::Keys(&keys), mode))?;
            taps.see(format_args!("layer{i}"), &xs);
        }
        xs.mean(1) // (B, C)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TextModelType;
    use candle_core::{DType, Device};

    fn forward(ids: &[&[u32]]) -> Result<Vec<Vec<f32>>> {
        let config = TextConfig {
            model_type: TextModelType::Bart,
            vocab_size: 20,
            hidden_size: 12,
            num_hidden_layers: 2,
            num_attention_heads: 3,
            intermediate_size: 10,
            max_position_embeddings: 9,
            context_length: 7,
            ..TextConfig::default()
        };
        let (_, vb) = clap_nn::init::seeded_vars(3, &Device::Cpu, DType::F32);
        let tower = BartEncoder::new(&config, vb)?;
        let ids = Tensor::new(ids.iter().map(|r| r.to_vec()).collect::<Vec<_>>(), &Device::Cpu)?;
        let mask = ids.ne(1u32)?.to_dtype(DType::U32)?;
        tower.forward_with(&ids, &mask, &mut Mode::eval(), &mut Taps::none())?.to_vec2()
    }

    #[test]
    fn the_padding_of_a_batch_does_not_change_an_embedding() {
        let short = forward(&[&[0, 7, 8, 2]]).unwrap();
        let padded = forward(&[&[0, 7, 8, 2, 1, 1], &[0, 3, 4, 5, 6, 2]]).unwrap();
        for (a, b) in short[0].iter().zip(&padded[0]) {
            assert!((a - b).abs() < 1e-6, "{a} {b}");
        }
    }

    #[test]
    fn ids_and_lengths_outside_the_tables_are_errors() {
        assert!(forward(&[&[0, 20, 2]]).unwrap_err().to_string().contains("token id 20"));
        assert!(forward(&[&[0, 3, 3, 3, 3, 3, 3, 3, 2]]).is_ok());
        let long = forward(&[&[0, 3, 3, 3, 3, 3, 3, 3, 3, 2]]).unwrap_err().to_string();
        assert!(long.contains("10 tokens") && long.contains("9 at most"), "{long}");
    }
}
