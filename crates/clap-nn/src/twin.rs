//! What the tests of a fused operation and its composed twin share.

use candle_core::{DType, Device, Result, Tensor, Var};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Values in ±1, the same for the same seed and shape.
pub(crate) fn random(seed: u64, shape: &[usize]) -> Tensor {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<f64> = (0..shape.iter().product::<usize>()).map(|_| rng.random_range(-1.0..1.0)).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn inputs(shapes: &[&[usize]], dtype: DType) -> Vec<Var> {
    let make = |(i, shape): (usize, &&[usize])| {
        Var::from_tensor(&random(i as u64 + 1, shape).to_dtype(dtype).unwrap()).unwrap()
    };
    shapes.iter().enumerate().map(make).collect()
}

fn tensors(vars: &[Var]) -> Vec<Tensor> {
    vars.iter().map(|var| var.as_tensor().clone()).collect()
}

/// A scalar with a different, order-one derivative for each element of `ys`.
fn probe(ys: &Tensor) -> Tensor {
    let weights = random(99, ys.dims()).to_dtype(ys.dtype()).unwrap();
    (ys * weights).unwrap().sum_all().unwrap()
}

fn flat(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn assert_close(what: &str, got: &Tensor, expected: &Tensor, tolerance: f64) {
    assert_eq!(got.dims(), expected.dims(), "{what}");
    let (got, expected) = (flat(got), flat(expected));
    let scale = expected.iter().fold(1e-3f64, |scale, x| scale.max(x.abs()));
    for (i, (a, b)) in got.iter().zip(&expected).enumerate() {
        assert!((a - b).abs() <= tolerance * scale, "{what}[{i}]: {a} against {b} (scale {scale})");
    }
}

/// The fused form in `f32` against the composed one in `f64`, in value and in the gradient of every input.
pub(crate) fn check_twins(
    shapes: &[&[usize]],
    tolerance: f64,
    fused: impl Fn(&[Tensor]) -> Result<Tensor>,
    composed: impl Fn(&[Tensor]) -> Result<Tensor>,
) {
    let (narrow, wide) = (inputs(shapes, DType::F32), inputs(shapes, DType::F64));
    // The twin sees the values that the f32 form sees.
    for (wide, narrow) in wide.iter().zip(&narrow) {
        wide.set(&narrow.to_dtype(DType::F64).unwrap()).unwrap();
    }
    let (ys, expected) = (fused(&tensors(&narrow)).unwrap(), composed(&tensors(&wide)).unwrap());
    assert_close("value", &ys, &expected, tolerance);
    let (grads, expected) = (probe(&ys).backward().unwrap(), probe(&expected).backward().unwrap());
    for (i, (narrow, wide)) in narrow.iter().zip(&wide).enumerate() {
        let expected = expected.get(wide).unwrap();
        assert_close(&format!("gradient of input {i}"), grads.get(narrow).unwrap(), expected, tolerance);
    }
}

/// The gradients of `f` in `f64` against central differences, at up to forty elements of each input.
pub(crate) fn check_gradient(shapes: &[&[usize]], f: impl Fn(&[Tensor]) -> Result<Tensor>) {
    const STEP: f64 = 1e-5;
    let vars = inputs(shapes, DType::F64);
    let value = || probe(&f(&tensors(&vars)).unwrap());
    let grads = value().backward().unwrap();
    for (input, var) in vars.iter().enumerate() {
        let grad = flat(grads.get(var).unwrap());
        let start = flat(var);
        let stride = start.len().div_ceil(40);
        for i in (0..start.len()).step_by(stride) {
            let at = |offset: f64| {
                let mut values = start.clone();
                values[i] += offset;
                var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu).unwrap()).unwrap();
                value().to_scalar::<f64>().unwrap()
            };
            let slope = (at(STEP) - at(-STEP)) / (2.0 * STEP);
            assert!(
                (slope - grad[i]).abs() < 1e-6 * slope.abs().max(1.0),
                "input {input}[{i}]: {} against {slope}",
                grad[i]
            );
        }
        var.set(&Tensor::from_vec(start, var.shape(), &Device::Cpu).unwrap()).unwrap();
    }
}
