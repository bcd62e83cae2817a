//! The layers of T5: attention without a scale or biases, a plain or gated feed-forward, and a norm by the root mean square, before
//! each of them.
//!
//! Source: transformers 4.57.6 `models/t5/modeling_t5.py` (`T5LayerNorm`, `T5Attention`, `T5DenseActDense`,
//! `T5DenseGatedActDense`). For inference alone: candle's norm has no backward.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use clap_nn::init::normal;
use clap_nn::{Activation, Linear, softmax_last_dim};

use super::config::T5Config;

/// Weights are read, never begun with; a layer has to name some beginning all the same.
const SPREAD: f64 = 0.02;

fn linear(input: usize, output: usize, vb: VarBuilder<'_>) -> Result<Linear> {
    Linear::new_no_bias(input, output, normal(SPREAD), vb)
}

/// `xs / √(mean(xs²) + ε) · weight`: no mean is subtracted, nothing added.
#[derive(Debug)]
pub(super) struct Norm {
    weight: Tensor,
    epsilon: f32,
}

impl Norm {
    pub(super) fn new(config: &T5Config, vb: VarBuilder<'_>) -> Result<Self> {
        let weight = vb.get_with_hints(config.d_model, "weight", candle_nn::Init::Const(1.0))?;
        Ok(Self { weight, epsilon: config.layer_norm_epsilon as f32 })
    }

    pub(super) fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        candle_nn::ops::rms_norm(&xs.contiguous()?, &self.weight, self.epsilon)
    }
}

/// The keys and values of some tokens, each `(batch, heads, tokens, d_kv)`.
#[derive(Clone, Debug)]
pub(super) struct KeysValues {
    pub(super) keys: Tensor,
    pub(super) values: Tensor,
}

impl KeysValues {
    /// With those of later tokens behind.
    pub(super) fn then(&self, later: &Self) -> Result<Self> {
        Ok(Self {
            keys: Tensor::cat(&[&self.keys, &later.keys], 2)?,
            values: Tensor::cat(&[&self.values, &later.values], 2)?,
        })
    }

    /// Those of the given rows of the batch.
    pub(super) fn select(&self, rows: &Tensor) -> Result<Self> {
        Ok(Self { keys: self.keys.index_select(rows, 0)?, values: self.values.index_select(rows, 0)? })
    }
}

/// Attention of several heads.
#[derive(Debug)]
pub(super) struct Attention {
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    heads: usize,
    d_kv: usize,
}

impl Attention {
    pub(super) fn new(config: &T5Config, vb: VarBuilder<'_>) -> Result<Self> {
        let (width, inner) = (config.d_model, config.num_heads * config.d_kv);
        Ok(Self {
            q: linear(width, inner, vb.pp("q"))?,
            k: linear(width, inner, vb.pp("k"))?,
            v: linear(width, inner, vb.pp("v"))?,
            o: linear(inner, width, vb.pp("o"))?,
            heads: config.num_heads,
            d_kv: config.d_kv,
        })
    }

    /// Keys and values of hidden states `(batch, tokens, d_model)`.
    pub(super) fn keys_values(&self, xs: &Tensor) -> Result<KeysValues> {
        Ok(KeysValues { keys: self.split(&self.k.forward(xs)?)?, values: self.split(&self.v.forward(xs)?)? })
    }

    /// What the queries of `xs` `(batch, queries, d_model)` find there; `bias`, which is added to the scores, has a shape that
    /// broadcasts to `(batch, heads, queries, keys)`.
    pub(super) fn forward(&self, xs: &Tensor, there: &KeysValues, bias: &Tensor) -> Result<Tensor> {
        let (batch, queries, _) = xs.dims3()?;
        let q = self.split(&self.q.forward(xs)?)?; // (batch, heads, queries, d_kv)
        let scores = q.matmul(&there.keys.t()?)?.broadcast_add(bias)?; // (batch, heads, queries, keys)
        let ys = softmax_last_dim(&scores)?.matmul(&there.values)?; // (batch, heads, queries, d_kv)
        let ys = ys.transpose(1, 2)?.reshape((batch, queries, self.heads * self.d_kv))?;
        self.o.forward(&ys) // (batch, queries, d_model)
    }

    /// `(batch, tokens, heads · d_kv)` → `(batch, heads, tokens, d_kv)`.
    fn split(&self, xs: &Tensor) -> Result<Tensor> {
        let (batch, tokens, _) = xs.dims3()?;
        xs.reshape((batch, tokens, self.heads, self.d_kv))?.transpose(1, 2)?.contiguous()
    }
}

/// The feed-forward layer.
#[derive(Debug)]
pub(super) struct FeedForward {
    wi: Linear,
    /// What the activation is multiplied with, in T5 1.1.
    gate: Option<Linear>,
    wo: Linear,
    activation: Activation,
}

impl FeedForward {
    pub(super) fn new(config: &T5Config, vb: VarBuilder<'_>) -> Result<Self> {
        let (is_gated, activation) = config.feed_forward().map_err(candle_core::Error::wrap)?;
        let (width, inner) = (config.d_model, config.d_ff);
        let gate = if is_gated { Some(linear(width, inner, vb.pp("wi_1"))?) } else { None };
        let wi = if is_gated { vb.pp("wi_0") } else { vb.pp("wi") };
        Ok(Self { wi: linear(width, inner, wi)?, gate, wo: linear(inner, width, vb.pp("wo"))?, activation })
    }

    pub(super) fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let ys = self.activation.forward(&self.wi.forward(xs)?)?;
        let ys = match &self.gate {
            Some(gate) => (ys * gate.forward(xs)?)?,
            None => ys,
        };
        self.wo.forward(&ys)
    }
}
