//! Linear layers and feed-forward halves at the towers' sizes: `cargo bench --workspace --bench dense`.
//!
//! HTS-AT tiny at 4 clips: stage 0 has 4·4096 tokens of width 96, stage 2 4·256 of 384. RoBERTa-base at 16 texts of 77.

mod ops;

use candle_core::{Result, Tensor};
use clap_nn::{Activation, LayerNorm, Linear, Mode};
use ops::Op;

fn linear(xs: &[Tensor]) -> Result<Tensor> {
    clap_nn::linear(&xs[0], &xs[1], Some(&xs[2]))
}

fn linear_composed(xs: &[Tensor]) -> Result<Tensor> {
    clap_nn::linear::linear_composed(&xs[0], &xs[1], Some(&xs[2]))
}

/// `xs`, the norm's weight and bias, two layers' weights and biases.
fn feed_forward(xs: &[Tensor]) -> Result<Tensor> {
    let linear = |i: usize| Linear::from_parts(xs[i].clone(), Some(xs[i + 1].clone()));
    let norm = LayerNorm::from_parts(xs[1].clone(), xs[2].clone(), 1e-5);
    clap_nn::feed_forward_block(&xs[0], &norm, (&linear(3), Activation::Gelu, &linear(5)), 0.0, &mut Mode::eval())
}

fn feed_forward_composed(xs: &[Tensor]) -> Result<Tensor> {
    let ys = clap_nn::layer_norm::layer_norm_composed(&xs[0], &xs[1], &xs[2], 1e-5)?;
    let ys = clap_nn::linear::linear_composed(&ys, &xs[3], Some(&xs[4]))?.gelu_erf()?;
    &xs[0] + clap_nn::linear::linear_composed(&ys, &xs[5], Some(&xs[6]))?
}

const OPS: &[Op] = &[
    Op {
        name: "linear 16384x96 to 288",
        shapes: &[&[16384, 96], &[288, 96], &[288]],
        fused: |_| Ok(Box::new(linear)),
        composed: Some(linear_composed),
    },
    Op {
        name: "linear 1024x384 to 1536",
        shapes: &[&[1024, 384], &[1536, 384], &[1536]],
        fused: |_| Ok(Box::new(linear)),
        composed: Some(linear_composed),
    },
    Op {
        name: "linear 1232x768 to 3072",
        shapes: &[&[1232, 768], &[3072, 768], &[3072]],
        fused: |_| Ok(Box::new(linear)),
        composed: Some(linear_composed),
    },
    Op {
        name: "GELU 16384x384",
        shapes: &[&[16384, 384]],
        fused: |_| Ok(Box::new(|xs| clap_nn::gelu(&xs[0]))),
        composed: Some(|xs| xs[0].gelu_erf()),
    },
    Op {
        name: "feed-forward block 4x4096x96",
        shapes: &[&[4, 4096, 96], &[96], &[96], &[384, 96], &[384], &[96, 384], &[96]],
        fused: |_| Ok(Box::new(feed_forward)),
        composed: Some(feed_forward_composed),
    },
    Op {
        name: "feed-forward block 4x256x384",
        shapes: &[&[4, 256, 384], &[384], &[384], &[1536, 384], &[1536], &[384, 1536], &[384]],
        fused: |_| Ok(Box::new(feed_forward)),
        composed: Some(feed_forward_composed),
    },
];

fn main() -> Result<()> {
    ops::main("dense", OPS)
}
