//! Times of each operation, fused and composed, forward and forward with backward: `cargo run --release -p clap-nn --example op_times`.
//!
//! The first block has the sizes of HTSAT-tiny at batch 4 and RoBERTa-base at batch 8, the second those of a small tower at
//! batch 64 (embed 32, 32 × 32 tokens). Medians of seven, in milliseconds.
#![expect(clippy::print_stdout, reason = "an example talks to its user")]

use std::time::Instant;

use candle_core::{DType, Device, Result, Tensor, Var};
use clap_nn::{Activation, LayerNorm, Linear, Mode, WindowGeometry};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Op<'a> = &'a dyn Fn(&[Tensor]) -> Result<Tensor>;

fn median(mut f: impl FnMut() -> Result<()>) -> Result<f64> {
    f()?;
    let mut times = Vec::new();
    for _ in 0..7 {
        let start = Instant::now();
        f()?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[3])
}

fn times(op: Op<'_>, inputs: &[Tensor]) -> Result<(f64, f64)> {
    let forward = median(|| op(inputs).map(drop))?;
    // The sum costs a pass over the result; its gradient is a broadcast that the operation makes contiguous, as a layer above would.
    let both = median(|| op(inputs)?.sum_all()?.backward().map(drop))?;
    Ok((forward, both))
}

fn compare(name: &str, shapes: &[&[usize]], fused: Op<'_>, composed: Op<'_>) -> Result<()> {
    let make = |shape: &&[usize]| Var::randn(0f32, 1.0, *shape, &Device::Cpu).map(|var| var.as_tensor().clone());
    let inputs = shapes.iter().map(make).collect::<Result<Vec<_>>>()?;
    let (fused, composed) = (times(fused, &inputs)?, times(composed, &inputs)?);
    println!(
        "{name:<44} {:>8.2} {:>8.2} {:>10.2} {:>8.2} {:>8.1}x",
        fused.0,
        fused.1,
        composed.0,
        composed.1,
        composed.1 / fused.1
    );
    Ok(())
}

fn window(batch: usize, side: usize, c: usize, heads: usize, shift: usize) -> Result<()> {
    let geometry = WindowGeometry { height: side, width: side, window: 8, shift, heads };
    compare(
        &format!("window attention [{batch},{},{}] {heads} heads shift {shift}", side * side, 3 * c),
        &[&[batch, side * side, 3 * c], &[heads, 64, 64]],
        &|xs| clap_nn::window_attention(&xs[0], &xs[1], &geometry),
        &|xs| clap_nn::window_attention::window_attention_composed(&xs[0], &xs[1], &geometry),
    )
}

fn linear(rows: usize, input: usize, output: usize) -> Result<()> {
    compare(
        &format!("linear [{rows},{input}] -> {output}"),
        &[&[rows, input], &[output, input], &[output]],
        &|xs| clap_nn::linear(&xs[0], &xs[1], Some(&xs[2])),
        &|xs| clap_nn::linear::linear_composed(&xs[0], &xs[1], Some(&xs[2])),
    )
}

fn layer_norm(rows: usize, width: usize) -> Result<()> {
    compare(
        &format!("layer norm [{rows},{width}]"),
        &[&[rows, width], &[width], &[width]],
        &|xs| clap_nn::layer_norm(&xs[0], &xs[1], &xs[2], 1e-5),
        &|xs| clap_nn::layer_norm::layer_norm_composed(&xs[0], &xs[1], &xs[2], 1e-5),
    )
}

fn gelu(rows: usize, width: usize) -> Result<()> {
    compare(&format!("gelu [{rows},{width}]"), &[&[rows, width]], &|xs| clap_nn::gelu(&xs[0]), &|xs| xs[0].gelu_erf())
}

fn softmax(shape: &[usize]) -> Result<()> {
    compare(&format!("softmax {shape:?}"), &[shape], &|xs| clap_nn::softmax_last_dim(&xs[0]), &|xs| {
        clap_nn::softmax::softmax_composed(&xs[0])
    })
}

/// A Swin block's halves as one operation each, against the same layers one by one (themselves fused).
fn block(batch: usize, side: usize, c: usize, heads: usize, shift: usize) -> Result<()> {
    let geometry = WindowGeometry { height: side, width: side, window: 8, shift, heads };
    let linear = |xs: &[Tensor], i: usize| Linear::from_parts(xs[i].clone(), Some(xs[i + 1].clone()));
    let norm = |xs: &[Tensor]| LayerNorm::from_parts(xs[1].clone(), xs[2].clone(), 1e-5);
    let tokens = side * side;
    compare(
        &format!("attention block [{batch},{tokens},{c}] shift {shift}"),
        &[&[batch, tokens, c], &[c], &[c], &[3 * c, c], &[3 * c], &[c, c], &[c], &[heads, 64, 64]],
        &|xs| {
            let parts = (&linear(xs, 3), &xs[7], &linear(xs, 5));
            clap_nn::window_attention_block(&xs[0], &norm(xs), parts, &geometry, 0.0, &mut Mode::eval())
        },
        &|xs| {
            let qkv = linear(xs, 3).forward(&norm(xs).forward(&xs[0])?)?;
            let ys = linear(xs, 5).forward(&clap_nn::window_attention(&qkv, &xs[7], &geometry)?)?;
            clap_nn::residual(&xs[0], &ys, 0.0, &mut Mode::eval())
        },
    )?;
    compare(
        &format!("feed-forward block [{batch},{tokens},{c}]"),
        &[&[batch, tokens, c], &[c], &[c], &[4 * c, c], &[4 * c], &[c, 4 * c], &[c]],
        &|xs| {
            let parts = (&linear(xs, 3), Activation::Gelu, &linear(xs, 5));
            clap_nn::feed_forward_block(&xs[0], &norm(xs), parts, 0.0, &mut Mode::eval())
        },
        &|xs| {
            let ys = clap_nn::gelu(&linear(xs, 3).forward(&norm(xs).forward(&xs[0])?)?)?;
            clap_nn::residual(&xs[0], &linear(xs, 5).forward(&ys)?, 0.0, &mut Mode::eval())
        },
    )
}

fn main() -> Result<()> {
    println!(
        "{:<44} {:>8} {:>8} {:>10} {:>8} {:>9}",
        "operation (ms)", "fwd", "fwd+bwd", "composed", "fwd+bwd", "gain"
    );
    linear(16384, 96, 288)?;
    linear(616, 768, 3072)?;
    softmax(&[256, 4, 64, 64])?;
    layer_norm(16384, 96)?;
    gelu(16384, 384)?;
    window(4, 64, 96, 4, 4)?;
    println!("-- small tower, batch 64");
    linear(65536, 32, 96)?;
    linear(65536, 32, 128)?;
    linear(65536, 128, 32)?;
    linear(4096, 128, 512)?;
    layer_norm(65536, 32)?;
    gelu(65536, 128)?;
    window(64, 32, 32, 2, 0)?;
    window(64, 32, 32, 2, 4)?;
    window(64, 16, 64, 4, 4)?;
    window(64, 8, 128, 8, 0)?;
    let mask = Tensor::ones((64, 20), DType::U32, &Device::Cpu)?;
    let split = |x: &Tensor| x.reshape((64, 20, 8, 32))?.transpose(1, 2)?.contiguous();
    compare(
        "text attention [64,20,256] 8 heads",
        &[[64, 20, 256].as_slice(); 3],
        &|xs| {
            clap_nn::attention(&xs[0], &xs[1], &xs[2], clap_nn::AttentionMask::Keys(&mask), 8, 0.0, &mut Mode::eval())
        },
        &|xs| {
            let scores = (split(&xs[0])? * 0.17)?.matmul(&split(&xs[1])?.t()?)?;
            clap_nn::softmax::softmax_composed(&scores)?.matmul(&split(&xs[2])?)?.transpose(1, 2)?.contiguous()
        },
    )?;
    compare("patch merge [64,1024,32]", &[&[64, 1024, 32]], &|xs| clap_nn::merge_patches(&xs[0], 32, 32), &|xs| {
        clap_nn::patch::merge_patches_composed(&xs[0], 32, 32)
    })?;
    compare(
        "patches 4x4 of [64,1,128,128]",
        &[&[64, 1, 128, 128]],
        &|xs| clap_nn::patch::patches(&xs[0], (4, 4)),
        &|xs| clap_nn::patch::patches_composed(&xs[0], (4, 4)),
    )?;
    let mode = || Mode::train(ChaCha8Rng::seed_from_u64(1));
    compare(
        "residual [64,1024,32] drop path",
        &[[64, 1024, 32].as_slice(); 2],
        &|xs| clap_nn::residual(&xs[0], &xs[1], 0.1, &mut mode()),
        &|xs| &xs[0] + clap_nn::drop_path(&xs[1], 0.1, &mut mode())?,
    )?;
    compare("dropout [64,20,1024]", &[&[64, 20, 1024]], &|xs| clap_nn::dropout(&xs[0], 0.1, &mut mode()), &|xs| {
        candle_nn::ops::dropout(&xs[0], 0.1)
    })?;
    println!("-- halves of a Swin block: one operation against separate fused layers");
    block(64, 32, 32, 2, 4)?;
    block(64, 16, 64, 4, 4)?;
    block(64, 8, 128, 8, 0)?;
    block(4, 64, 96, 4, 4)?;
    block(4, 32, 192, 8, 4)
}
