//! The results of the fused operations do not depend on the number of threads.

use candle_core::{DType, Device, Result, Tensor, Var};

use crate::{Activation, LayerNorm, Linear, Mode, Sequences, WindowGeometry, twin};

/// The bits of a result and of its gradients.
fn bits(shapes: &[&[usize]], f: impl Fn(&[Tensor]) -> Result<Tensor>) -> Vec<u32> {
    let vars: Vec<Var> = shapes
        .iter()
        .enumerate()
        .map(|(i, shape)| Var::from_tensor(&twin::random(i as u64, shape).to_dtype(DType::F32).unwrap()).unwrap())
        .collect();
    let tensors: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
    let ys = f(&tensors).unwrap();
    let grads = ys.sqr().unwrap().sum_all().unwrap().backward().unwrap();
    let all = std::iter::once(&ys).chain(vars.iter().map(|var| grads.get(var).unwrap()));
    all.flat_map(|t| t.flatten_all().unwrap().to_vec1::<f32>().unwrap()).map(f32::to_bits).collect()
}

fn train() -> Mode {
    Mode::train(rand::SeedableRng::seed_from_u64(1))
}

fn check(shapes: &[&[usize]], f: impl Fn(&[Tensor]) -> Result<Tensor> + Sync) {
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| bits(shapes, &f))
    };
    let one = run(1);
    assert!(one == run(2) && one == run(5), "{shapes:?}");
}

#[test]
fn results_do_not_depend_on_the_thread_count() {
    check(&[&[3000, 40], &[24, 40], &[24]], |xs| crate::linear(&xs[0], &xs[1], Some(&xs[2])));
    check(&[&[130, 300], &[260, 300], &[260]], |xs| crate::linear(&xs[0], &xs[1], Some(&xs[2])));
    for shapes in [[&[3000, 40][..], &[24, 40], &[24]], [&[130, 300], &[260, 300], &[260]]] {
        check(&shapes, |xs| {
            let layer = Linear::from_parts(xs[1].clone(), Some(xs[2].clone()));
            crate::activated_linear(&xs[0], Activation::Gelu, &layer)
        });
    }
    check(&[&[3000, 40], &[40], &[40]], |xs| crate::layer_norm(&xs[0], &xs[1], &xs[2], 1e-5));
    let geometry = crate::ConvGeometry::same(3);
    check(&[&[2, 50, 30, 16], &[24, 3, 3, 16]], |xs| crate::conv::conv2d(&xs[0], &xs[1], geometry));
    check(&[&[2, 11, 7, 140], &[150, 3, 3, 140]], |xs| crate::conv::conv2d(&xs[0], &xs[1], geometry));
    check(&[&[7, 12, 24], &[7, 12, 24], &[7, 12, 24]], |xs| {
        crate::attention(&xs[0], &xs[1], &xs[2], crate::AttentionMask::None, 3, 0.0, &mut Mode::eval())
    });
    let sequences = Sequences::new(vec![12, 3, 1, 25, 12, 7, 9]);
    check(&[&[69, 24], &[69, 24], &[69, 24]], |xs| {
        let mask = crate::AttentionMask::CausalWithin(&sequences);
        crate::attention(&xs[0], &xs[1], &xs[2], mask, 3, 0.1, &mut train())
    });
    check(&[&[3000, 40], &[3000, 40], &[40], &[40]], |xs| {
        let norm = LayerNorm::from_parts(xs[2].clone(), xs[3].clone(), 1e-5);
        crate::add_norm(&xs[0], &xs[1], &norm, 0.1, &mut train())
    });
    let geometry = WindowGeometry { height: 16, width: 16, window: 4, shift: 2, heads: 2 };
    check(&[&[9, 256, 48], &[2, 16, 16]], |xs| crate::window_attention(&xs[0], &xs[1], &geometry));
    check(&[&[9, 256, 16], &[16], &[16], &[48, 16], &[48], &[16, 16], &[16], &[2, 16, 16]], |xs| {
        let linear = |i: usize| Linear::from_parts(xs[i].clone(), Some(xs[i + 1].clone()));
        let norm = LayerNorm::from_parts(xs[1].clone(), xs[2].clone(), 1e-5);
        let parts = (&linear(3), &xs[7], &linear(5));
        crate::window_attention_block(&xs[0], &norm, parts, &geometry, 0.0, &mut Mode::eval())
    });
    check(&[&[9, 256, 16], &[16], &[16], &[64, 16], &[64], &[16, 64], &[16]], |xs| {
        let linear = |i: usize| Linear::from_parts(xs[i].clone(), Some(xs[i + 1].clone()));
        let norm = LayerNorm::from_parts(xs[1].clone(), xs[2].clone(), 1e-5);
        crate::feed_forward_block(&xs[0], &norm, (&linear(3), Activation::Gelu, &linear(5)), 0.0, &mut Mode::eval())
    });
}

#[test]
fn info_nce_does_not_depend_on_the_thread_count() {
    check(&[&[300, 20], &[300, 20], &[]], |xs| crate::info_nce(&xs[0], &xs[1], &(&xs[2] * 9.0)?));
}

#[test]
fn batch_norm_does_not_depend_on_the_thread_count() {
    check(&[&[40, 5, 700]], |xs| {
        let (_, vb) = crate::init::seeded_vars(1, &Device::Cpu, DType::F32);
        crate::BatchNorm::new(5, 1e-5, vb)?.forward_t(&xs[0], &mut train())
    });
}
