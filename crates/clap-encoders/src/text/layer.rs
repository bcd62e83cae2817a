//! The post-norm transformer layer that BERT, RoBERTa and BART share (Vaswani et al. 2017, arXiv 1706.03762).

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use clap_nn::init::normal;
use clap_nn::{Activation, AttentionMask, LayerNorm, Linear, Mode, activated_linear, add_norm, attention};

use crate::config::TextConfig;

/// Where the parts of a layer lie below it.
pub(super) struct Names {
    pub(super) query: &'static str,
    pub(super) key: &'static str,
    pub(super) value: &'static str,
    pub(super) attention_output: &'static str,
    pub(super) attention_norm: &'static str,
    pub(super) intermediate: &'static str,
    pub(super) output: &'static str,
    pub(super) output_norm: &'static str,
}

/// Self-attention and feed-forward, each with a residual and then a norm.
#[derive(Clone, Debug)]
pub(super) struct Layer {
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
    pub(super) fn new(config: &TextConfig, names: &Names, vb: VarBuilder<'_>) -> Result<Self> {
        let (c, inner, eps) = (config.hidden_size, config.intermediate_size, config.layer_norm_eps);
        let init = normal(config.initializer_range);
        Ok(Self {
            query: Linear::new(c, c, init, vb.pp(names.query))?,
            key: Linear::new(c, c, init, vb.pp(names.key))?,
            value: Linear::new(c, c, init, vb.pp(names.value))?,
            attention_output: Linear::new(c, c, init, vb.pp(names.attention_output))?,
            attention_norm: LayerNorm::new(c, eps, vb.pp(names.attention_norm))?,
            intermediate: Linear::new(c, inner, init, vb.pp(names.intermediate))?,
            act: config.hidden_act,
            output: Linear::new(inner, c, init, vb.pp(names.output))?,
            output_norm: LayerNorm::new(c, eps, vb.pp(names.output_norm))?,
            heads: config.num_attention_heads,
            attention_dropout: config.attention_probs_dropout_prob as f32,
            dropout: config.hidden_dropout_prob as f32,
        })
    }

    /// `(B, T, C)` or `(N, C)`, as `mask` has it, → the same.
    pub(super) fn forward_t(&self, xs: &Tensor, mask: AttentionMask<'_>, mode: &mut Mode) -> Result<Tensor> {
        let (q, k, v) = (self.query.forward(xs)?, self.key.forward(xs)?, self.value.forward(xs)?);
        let ys = attention(&q, &k, &v, mask, self.heads, self.attention_dropout, mode)?;
        let ys = self.attention_output.forward(&ys)?;
        let xs = add_norm(xs, &ys, &self.attention_norm, self.dropout, mode)?;
        let ys = self.intermediate.forward(&xs)?; // (…, inner)
        add_norm(&xs, &activated_linear(&ys, self.act, &self.output)?, &self.output_norm, self.dropout, mode)
    }
}
