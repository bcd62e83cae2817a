//! What works on each row or element by itself, and look-ups, at the towers' sizes: `cargo bench --workspace --bench rows`.

mod ops;

use std::collections::HashMap;

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{Init, VarBuilder};
use clap_nn::{Embedding, Mode};
use ops::Op;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

fn training() -> Mode {
    Mode::train(ChaCha8Rng::seed_from_u64(1))
}

fn layer_norm(xs: &[Tensor]) -> Result<Tensor> {
    clap_nn::layer_norm(&xs[0], &xs[1], &xs[2], 1e-5)
}

fn layer_norm_composed(xs: &[Tensor]) -> Result<Tensor> {
    clap_nn::layer_norm::layer_norm_composed(&xs[0], &xs[1], &xs[2], 1e-5)
}

/// 16 texts of 77 tokens.
fn embedding(xs: &[Tensor]) -> Result<Tensor> {
    let (rows, width) = xs[0].dims2()?;
    let vb = VarBuilder::from_tensors(HashMap::from([("weight".into(), xs[0].clone())]), DType::F32, &Device::Cpu);
    let ids: Vec<u32> = (0..16 * 77).map(|i| (i * 7919) % rows as u32).collect();
    Embedding::new(rows, width, Init::Const(0.0), vb)?.forward(&Tensor::from_vec(ids, (16, 77), &Device::Cpu)?)
}

/// The scale is ours, so that its gradient is taken too.
fn info_nce(xs: &[Tensor]) -> Result<Tensor> {
    clap_nn::info_nce(&xs[0], &xs[1], &xs[2])
}

fn info_nce_composed(xs: &[Tensor]) -> Result<Tensor> {
    clap_nn::info_nce::info_nce_composed(&xs[0], &xs[1], &xs[2])
}

const OPS: &[Op] = &[
    Op {
        name: "softmax 256x4x64x64",
        shapes: &[&[256, 4, 64, 64]],
        fused: |_| Ok(Box::new(|xs| clap_nn::softmax_last_dim(&xs[0]))),
        composed: Some(|xs| clap_nn::softmax::softmax_composed(&xs[0])),
    },
    Op {
        name: "layer norm 16384x96",
        shapes: &[&[16384, 96], &[96], &[96]],
        fused: |_| Ok(Box::new(layer_norm)),
        composed: Some(layer_norm_composed),
    },
    Op {
        name: "layer norm 1232x768",
        shapes: &[&[1232, 768], &[768], &[768]],
        fused: |_| Ok(Box::new(layer_norm)),
        composed: Some(layer_norm_composed),
    },
    Op {
        name: "normalize 4608x512",
        shapes: &[&[4608, 512]],
        fused: |_| Ok(Box::new(|xs| clap_nn::l2_normalize(&xs[0], 1e-12))),
        composed: None,
    },
    Op {
        name: "embedding 50265x768 of 16x77",
        shapes: &[&[50_265, 768]],
        fused: |_| Ok(Box::new(embedding)),
        composed: None,
    },
    Op {
        name: "dropout 16x77x768",
        shapes: &[&[16, 77, 768]],
        fused: |_| Ok(Box::new(|xs| clap_nn::dropout(&xs[0], 0.1, &mut training()))),
        composed: Some(|xs| candle_nn::ops::dropout(&xs[0], 0.1)),
    },
    Op {
        name: "residual with drop path 4x4096x96",
        shapes: &[&[4, 4096, 96], &[4, 4096, 96]],
        fused: |_| Ok(Box::new(|xs| clap_nn::residual(&xs[0], &xs[1], 0.1, &mut training()))),
        composed: Some(|xs| &xs[0] + clap_nn::drop_path(&xs[1], 0.1, &mut training())?),
    },
    Op {
        name: "contrastive loss 768x512",
        shapes: &[&[768, 512], &[768, 512], &[1]],
        fused: |_| Ok(Box::new(info_nce)),
        composed: Some(info_nce_composed),
    },
    Op {
        name: "contrastive loss 4608x512",
        shapes: &[&[4608, 512], &[4608, 512], &[1]],
        fused: |_| Ok(Box::new(info_nce)),
        composed: Some(info_nce_composed),
    },
];

fn main() -> Result<()> {
    ops::main("rows", OPS)
}
