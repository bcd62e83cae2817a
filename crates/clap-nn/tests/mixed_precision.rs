//! What the process's precision of products reaches and what it does not. Alone in its process, whose setting it changes.

#![expect(clippy::unwrap_used, reason = "tests")]

use candle_core::{Device, Tensor, Var};
use clap_nn::{MatmulPrecision, has_bf16_products, info_nce, l2_normalize, linear, set_matmul_precision};

/// The bits of a layer's output, and those of the loss and of its gradients.
fn run() -> (Vec<f32>, Vec<f32>) {
    let rows = |seed: usize| {
        let values: Vec<f32> = (0..24 * 40).map(|i| ((i * 37 + seed * 101) % 997) as f32 / 997.0 - 0.5).collect();
        Tensor::from_vec(values, (24, 40), &Device::Cpu).unwrap()
    };
    let normal = |seed| Var::from_tensor(&l2_normalize(&rows(seed), 1e-12).unwrap()).unwrap();
    let (xs, ys) = (normal(1), normal(2));
    let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let products = flat(&linear(&rows(3), &rows(4), None).unwrap());
    let scale = Tensor::new(14f32, &Device::Cpu).unwrap();
    let loss = info_nce(&xs, &ys, &scale).unwrap();
    let grads = loss.backward().unwrap();
    let parts = [flat(&loss), flat(grads.get(&xs).unwrap()), flat(grads.get(&ys).unwrap())];
    (products, parts.concat())
}

#[test]
fn layers_follow_the_precision_and_the_loss_stays_in_f32() {
    let (layer, loss) = run();
    set_matmul_precision(MatmulPrecision::Bf16);
    let (rounded, same) = run();
    assert_eq!(rounded != layer, has_bf16_products());
    let gap = rounded.iter().zip(&layer).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    assert!(gap < 0.05, "{gap}");
    assert!(loss == same, "the loss or its gradients were rounded");
}
