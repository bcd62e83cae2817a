//! CLIP's text transformer: a causal, pre-norm one that pools the token of the highest id.
//!
//! Radford et al., "CLIP" (arXiv 2103.00020). Weight names of transformers 4.57.6 `CLIPTextModel`; mathematics of laion-clap
//! 1.1.7 `model.py` (`Transformer`, `encode_text` of `transformer`), which is the same. The closing token has the highest id of
//! CLIP's vocabulary: that is how it is found, and why padding with 0 behind it does not matter.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use clap_nn::init::normal;
use clap_nn::{
    Activation, AttentionMask, Embedding, LayerNorm, Linear, Mode, activated_linear, attention, checkpoint, dropout,
    residual,
};

use super::rows::Rows;
use super::{check_length, token_ids};
use crate::config::TextConfig;
use crate::taps::Taps;

/// CLIP's text transformer.
#[derive(Debug)]
pub struct ClipText {
    token: Embedding,
    position: Embedding,
    layers: Vec<Layer>,
    norm: LayerNorm,
}

impl ClipText {
    /// `vb` stands at `text_model`; `config` is a validated one.
    ///
    /// # Errors
    /// Where a weight is missing or of another shape.
    pub fn new(config: &TextConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let c = config.hidden_size;
        let embeddings = vb.pp("embeddings");
        let layers = (0..config.num_hidden_layers)
            .map(|i| Layer::new(config, vb.pp("encoder").pp("layers").pp(i)))
            .collect::<Result<_>>()?;
        let init = config.initializer_range;
        Ok(Self {
            token: Embedding::new(config.vocab_size, c, normal(init), embeddings.pp("token_embedding"))?,
            // Half the tokens' spread, as open_clip begins.
            position: Embedding::new(
                config.max_position_embeddings,
                c,
                normal(init / 2.0),
                embeddings.pp("position_embedding"),
            )?,
            layers,
            norm: LayerNorm::new(c, config.layer_norm_eps, vb.pp("final_layer_norm"))?,
        })
    }

    /// Token ids `(B, T)` → the normalised hidden state `(B, hidden_size)` of each text's token of the highest id.
    ///
    /// # Errors
    /// Where an id lies outside the vocabulary or a text is longer than the position table.
    pub(super) fn forward_with(&self, ids: &Tensor, mode: &mut Mode, taps: &mut Taps<'_>) -> Result<Tensor> {
        let t = ids.dim(1)?;
        let tokens = token_ids(ids, self.token.rows()?)?;
        check_length(t, self.position.rows()?)?;
        let closing: Vec<usize> = tokens.chunks(t.max(1)).map(highest).collect();
        // No token sees those behind it.
        let rows = Rows::needed(ids, taps, || {
            Ok(Some((0..tokens.len()).map(|place| place % t <= closing[place / t]).collect()))
        })?;
        let positions: Vec<u32> = (0..tokens.len()).map(|place| (place % t) as u32).collect();
        let positions = self.position.forward(&rows.select(positions)?)?;
        let xs = self.token.forward(&rows.select(tokens)?)?;
        let mut xs = residual(&xs, &positions, 0.0, mode)?; // (N, C) or (B, T, C)
        for (i, layer) in self.layers.iter().enumerate() {
            let (layer, texts) = (layer.clone(), rows.sequences().cloned());
            xs = checkpoint(&xs, mode, move |xs, mode| {
                let mask = texts.as_ref().map_or(AttentionMask::Causal, AttentionMask::CausalWithin);
                layer.forward_t(xs, mask, mode)
            })?;
            taps.see(format_args!("layer{i}"), &xs);
        }
        let xs = self.norm.forward(&xs)?;
        taps.see(format_args!("ln_final"), &xs);
        rows.one_of_each(&xs, &closing) // (B, C)
    }
}

/// Index of the first of the greatest ids.
fn highest(ids: &[u32]) -> usize {
    (0..ids.len()).rev().max_by_key(|&i| ids[i]).unwrap_or(0)
}

/// Pre-norm self-attention and feed-forward, each with a residual.
#[derive(Clone, Debug)]
struct Layer {
    norm1: LayerNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
    norm2: LayerNorm,
    fc1: Linear,
    act: Activation,
    fc2: Linear,
    heads: usize,
    attention_dropout: f32,
    dropout: f32,
}

impl Layer {
    fn new(config: &TextConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let (c, inner, eps) = (config.hidden_size, config.intermediate_size, config.layer_norm_eps);
        let (attention, mlp) = (vb.pp("self_attn"), vb.pp("mlp"));
        // open_clip's: what adds to the residual begins smaller, the more layers add to it.
        let width = (c as f64).powf(-0.5);
        let residual = width * (2.0 * config.num_hidden_layers as f64).powf(-0.5);
        Ok(Self {
            norm1: LayerNorm::new(c, eps, vb.pp("layer_norm1"))?,
            query: Linear::new(c, c, normal(width), attention.pp("q_proj"))?,
            key: Linear::new(c, c, normal(width), attention.pp("k_proj"))?,
            value: Linear::new(c, c, normal(width), attention.pp("v_proj"))?,
            out: Linear::new(c, c, normal(residual), attention.pp("out_proj"))?,
            norm2: LayerNorm::new(c, eps, vb.pp("layer_norm2"))?,
            fc1: Linear::new(c, inner, normal((2.0 * c as f64).powf(-0.5)), mlp.pp("fc1"))?,
            act: config.hidden_act,
            fc2: Linear::new(inner, c, normal(residual), mlp.pp("fc2"))?,
            heads: config.num_attention_heads,
            attention_dropout: config.attention_probs_dropout_prob as f32,
            dropout: config.hidden_dropout_prob as f32,
        })
    }

    /// `(B, T, C)` or `(N, C)`, as `mask` has it, → the same.
    fn forward_t(&self, xs: &Tensor, mask: AttentionMask<'_>, mode: &mut Mode) -> Result<Tensor> {
        let ys = self.norm1.forward(xs)?;
        let (q, k, v) = (self.query.forward(&ys)?, self.key.forward(&ys)?, self.value.forward(&ys)?);
        let ys = attention(&q, &k, &v, mask, self.heads, self.attention_dropout, mode)?;
        let ys = dropout(&self.out.forward(&ys)?, self.dropout, mode)?;
        let xs = residual(xs, &ys, 0.0, mode)?;
        let ys = self.fc1.forward(&self.norm2.forward(&xs)?)?; // (…, inner)
        let ys = dropout(&activated_linear(&ys, self.act, &self.fc2)?, self.dropout, mode)?;
        residual(&xs, &ys, 0.0, mode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TextModelType;
    use candle_core::{DType, Device};

    fn forward(ids: &[&[u32]]) -> Result<Vec<Vec<f32>>> {
        let config = TextConfig {
            model_type: TextModelType::Clip,
            vocab_size: 20,
            hidden_size: 12,
            num_hidden_layers: 2,
            num_attention_heads: 3,
            intermediate_size: 10,
            max_position_embeddings: 7,
            ..TextConfig::default()
        };
        let (_, vb) = clap_nn::init::seeded_vars(3, &Device::Cpu, DType::F32);
        let tower = ClipText::new(&config, vb)?;
        let ids = Tensor::new(ids.iter().map(|r| r.to_vec()).collect::<Vec<_>>(), &Device::Cpu)?;
        tower.forward_with(&ids, &mut Mode::eval(), &mut Taps::none())?.to_vec2()
    }

    #[test]
    fn what_follows_the_closing_token_does_not_matter() {
        let short = forward(&[&[18, 7, 8, 19]]).unwrap();
        let padded = forward(&[&[18, 7, 8, 19, 0, 0], &[18, 3, 4, 5, 6, 19]]).unwrap();
        for (a, b) in short[0].iter().zip(&padded[0]) {
            assert!((a - b).abs() < 1e-6, "{a} {b}");
        }
    }

    #[test]
    fn the_first_of_the_highest_ids_is_pooled() {
        assert_eq!(highest(&[18, 3, 19, 4, 19, 0]), 2);
        assert_eq!(highest(&[18, 3, 4]), 0);
    }

    #[test]
    fn ids_and_lengths_outside_the_tables_are_errors() {
        assert!(forward(&[&[18, 20, 19]]).unwrap_err().to_string().contains("token id 20"));
        let long = forward(&[&[18, 3, 3, 3, 3, 3, 3, 19]]).unwrap_err().to_string();
        assert!(long.contains("8 tokens") && long.contains("7 at most"), "{long}");
    }
}
