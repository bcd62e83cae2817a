//! Attention of the text towers and of Swin's windows at the towers' sizes: `cargo bench --workspace --bench attention`.
//!
//! RoBERTa-base at 16 texts of 77, of which the first 20 are tokens; HTS-AT tiny at 4 clips, stages 0 and 2, in shifted windows of 8x8.

mod ops;

use candle_core::{DType, Device, Result, Tensor};
use clap_nn::{AttentionMask, LayerNorm, Linear, Mode, WindowGeometry};
use ops::Op;

const HEADS: usize = 12;

/// Ones for the first 20 tokens of each text.
fn mask(xs: &Tensor) -> Result<Tensor> {
    let (texts, tokens, _) = xs.dims3()?;
    let row: Vec<u32> = (0..tokens).map(|token| u32::from(token < 20)).collect();
    Tensor::new(row, &Device::Cpu)?.unsqueeze(0)?.broadcast_as((texts, tokens))?.contiguous()
}

fn attention(xs: &[Tensor]) -> Result<Tensor> {
    let mask = mask(&xs[0])?;
    let keys = AttentionMask::Keys(&mask);
    clap_nn::attention(&xs[0], &xs[1], &xs[2], keys, HEADS, 0.0, &mut Mode::eval())
}

fn attention_composed(xs: &[Tensor]) -> Result<Tensor> {
    let (b, t, c) = xs[0].dims3()?;
    let split = |x: &Tensor| x.reshape((b, t, HEADS, c / HEADS))?.transpose(1, 2)?.contiguous(); // (B, heads, T, C/heads)
    let scale = ((c / HEADS) as f64).sqrt().recip();
    let penalty = ((mask(&xs[0])?.to_dtype(DType::F32)? - 1.0)? * 1e4)?.reshape((b, 1, 1, t))?;
    let scores = (split(&xs[0])? * scale)?.matmul(&split(&xs[1])?.t()?)?.broadcast_add(&penalty)?;
    let ys = clap_nn::softmax::softmax_composed(&scores)?.matmul(&split(&xs[2])?)?;
    ys.transpose(1, 2)?.contiguous()?.reshape((b, t, c))
}

/// Of a tensor (batch, side², …) in shifted windows, `heads` being the bias's.
fn geometry(xs: &Tensor, bias: &Tensor) -> Result<WindowGeometry> {
    let side = xs.dim(1)?.isqrt();
    Ok(WindowGeometry { height: side, width: side, window: 8, shift: 4, heads: bias.dim(0)? })
}

fn window(xs: &[Tensor]) -> Result<Tensor> {
    clap_nn::window_attention(&xs[0], &xs[1], &geometry(&xs[0], &xs[1])?)
}

fn window_composed(xs: &[Tensor]) -> Result<Tensor> {
    clap_nn::window_attention::window_attention_composed(&xs[0], &xs[1], &geometry(&xs[0], &xs[1])?)
}

/// `xs`, the norm's weight and bias, two layers' weights and biases, the bias of the scores.
fn block(xs: &[Tensor]) -> Result<Tensor> {
    let linear = |i: usize| Linear::from_parts(xs[i].clone(), Some(xs[i + 1].clone()));
    let norm = LayerNorm::from_parts(xs[1].clone(), xs[2].clone(), 1e-5);
    let geometry = geometry(&xs[0], &xs[7])?;
    clap_nn::window_attention_block(&xs[0], &norm, (&linear(3), &xs[7], &linear(5)), &geometry, 0.0, &mut Mode::eval())
}

fn block_composed(xs: &[Tensor]) -> Result<Tensor> {
    let ys = clap_nn::layer_norm::layer_norm_composed(&xs[0], &xs[1], &xs[2], 1e-5)?;
    let qkv = clap_nn::linear::linear_composed(&ys, &xs[3], Some(&xs[4]))?;
    let ys = window_composed(&[qkv, xs[7].clone()])?;
    &xs[0] + clap_nn::linear::linear_composed(&ys, &xs[5], Some(&xs[6]))?
}

const OPS: &[Op] = &[
    Op {
        name: "attention 16x77x768, 12 heads",
        shapes: &[&[16, 77, 768], &[16, 77, 768], &[16, 77, 768]],
        fused: |_| Ok(Box::new(attention)),
        composed: Some(attention_composed),
    },
    Op {
        name: "window attention 4x4096x96, 4 heads",
        shapes: &[&[4, 4096, 288], &[4, 64, 64]],
        fused: |_| Ok(Box::new(window)),
        composed: Some(window_composed),
    },
    Op {
        name: "window attention 4x256x384, 16 heads",
        shapes: &[&[4, 256, 1152], &[16, 64, 64]],
        fused: |_| Ok(Box::new(window)),
        composed: Some(window_composed),
    },
    Op {
        name: "window attention block 4x4096x96, 4 heads",
        shapes: &[&[4, 4096, 96], &[96], &[96], &[288, 96], &[288], &[96, 96], &[96], &[4, 64, 64]],
        fused: |_| Ok(Box::new(block)),
        composed: Some(block_composed),
    },
    Op {
        name: "window attention block 4x256x384, 16 heads",
        shapes: &[&[4, 256, 384], &[384], &[384], &[1152, 384], &[1152], &[384, 384], &[384], &[16, 64, 64]],
        fused: |_| Ok(Box::new(block)),
        composed: Some(block_composed),
    },
];

fn main() -> Result<()> {
    ops::main("attention", OPS)
}
