//! Convolutions, batch norm, pooling and patches at the towers' sizes: `cargo bench --workspace --bench maps`.
//!
//! PANNs at 2 clips (maps have their channels last); patches of HTS-AT tiny at 4.

mod ops;

use std::collections::HashMap;

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use clap_nn::conv::{conv2d, conv2d_composed};
use clap_nn::{Activation, BatchNorm, Conv2d, ConvBnRelu, ConvGeometry, Mode};
use ops::{Function, Op};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// `xs` (B, H, W, input), a weight (output, k, k, input).
fn conv(xs: &[Tensor]) -> Result<Tensor> {
    conv2d(&xs[0], &xs[1], ConvGeometry::same(xs[1].dim(1)?))
}

fn conv_composed(xs: &[Tensor]) -> Result<Tensor> {
    conv2d_composed(&xs[0], &xs[1], ConvGeometry::same(xs[1].dim(1)?))
}

fn norm(weight: &Tensor, bias: &Tensor) -> Result<BatchNorm> {
    let tensors = HashMap::from([
        ("weight".into(), weight.clone()),
        ("bias".into(), bias.clone()),
        ("running_mean".into(), weight.zeros_like()?.detach()),
        ("running_var".into(), weight.ones_like()?.detach()),
    ]);
    BatchNorm::new(weight.elem_count(), 1e-5, VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu))
}

fn training() -> Mode {
    Mode::train(ChaCha8Rng::seed_from_u64(1))
}

fn batch_norm(xs: &[Tensor]) -> Result<Tensor> {
    norm(&xs[1], &xs[2])?.forward_last_t(&xs[0], &mut training())
}

/// Statistics of the batch, and nothing kept of them.
fn batch_norm_composed(xs: &[Tensor]) -> Result<Tensor> {
    let flat = xs[0].flatten_to(xs[0].rank() - 2)?; // (rows, channels)
    let centred = flat.broadcast_sub(&flat.mean_keepdim(0)?)?;
    let deviation = (centred.sqr()?.mean_keepdim(0)? + 1e-5)?.sqrt()?;
    centred.broadcast_div(&deviation)?.broadcast_mul(&xs[1])?.broadcast_add(&xs[2])?.reshape(xs[0].shape())
}

/// `xs`, a weight (output, input, k, k), the norm's weight and bias; in evaluation.
fn unit(xs: &[Tensor]) -> Result<Function> {
    let conv = Conv2d::from_parts(xs[1].clone(), None, ConvGeometry::same(xs[1].dim(3)?))?;
    let unit = ConvBnRelu::new(conv, norm(&xs[2], &xs[3])?);
    Ok(Box::new(move |xs| unit.forward_pooled_t(&xs[0], &mut Mode::eval())))
}

fn unit_composed(xs: &[Tensor]) -> Result<Tensor> {
    let weight = xs[1].permute((0, 2, 3, 1))?.contiguous()?; // (output, k, k, input)
    let ys = conv2d_composed(&xs[0], &weight, ConvGeometry::same(xs[1].dim(3)?))?;
    let scale = (&xs[2] * (1.0 + 1e-5f64).sqrt().recip())?;
    let ys = Activation::Relu.forward(&ys.broadcast_mul(&scale)?.broadcast_add(&xs[3])?)?;
    clap_nn::pool::avg_pool_2x2_composed(&ys)
}

const OPS: &[Op] = &[
    Op {
        name: "convolution 3x3 2x250x16x256 to 256",
        shapes: &[&[2, 250, 16, 256], &[256, 3, 3, 256]],
        fused: |_| Ok(Box::new(conv)),
        composed: Some(conv_composed),
    },
    Op {
        name: "convolution 5x5 2x500x32x64 to 128",
        shapes: &[&[2, 500, 32, 64], &[128, 5, 5, 64]],
        fused: |_| Ok(Box::new(conv)),
        composed: Some(conv_composed),
    },
    Op {
        name: "convolution 3x3, norm, ReLU, pool 2x500x32x64 to 128",
        shapes: &[&[2, 500, 32, 64], &[128, 64, 3, 3], &[128], &[128]],
        fused: unit,
        composed: Some(unit_composed),
    },
    Op {
        name: "batch norm 2x1001x64x64, training",
        shapes: &[&[2, 1001, 64, 64], &[64], &[64]],
        fused: |_| Ok(Box::new(batch_norm)),
        composed: Some(batch_norm_composed),
    },
    Op {
        name: "average pool 2x1001x64x64",
        shapes: &[&[2, 1001, 64, 64]],
        fused: |_| Ok(Box::new(|xs| clap_nn::avg_pool_2x2(&xs[0]))),
        composed: Some(|xs| clap_nn::pool::avg_pool_2x2_composed(&xs[0])),
    },
    Op {
        name: "patches 4x4 4x1x256x256",
        shapes: &[&[4, 1, 256, 256]],
        fused: |_| Ok(Box::new(|xs| clap_nn::patch::patches(&xs[0], (4, 4)))),
        composed: Some(|xs| clap_nn::patch::patches_composed(&xs[0], (4, 4))),
    },
    Op {
        name: "merge patches 4x4096x96",
        shapes: &[&[4, 4096, 96]],
        fused: |_| Ok(Box::new(|xs| clap_nn::merge_patches(&xs[0], 64, 64))),
        composed: Some(|xs| clap_nn::patch::merge_patches_composed(&xs[0], 64, 64)),
    },
];

fn main() -> Result<()> {
    ops::main("maps", OPS)
}
