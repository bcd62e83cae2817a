//! Activation functions, under Hugging Face's configuration names.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use serde::{Deserialize, Serialize};

use crate::cpu::{Elements, fusible, gradient, math, parallel, slice, vectorise::vectorised};

/// An activation function; the serde names are those of `hidden_act` in `config.json`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x · Φ(x)`, exact (error function).
    #[default]
    Gelu,
    /// The tanh approximation of [`Activation::Gelu`].
    GeluNew,
    /// `max(x, 0)`; NaN for NaN.
    Relu,
    /// `x · σ(1.702 x)`, of CLIP.
    QuickGelu,
}

impl Activation {
    /// Applies the function to every element.
    pub fn forward(self, xs: &Tensor) -> Result<Tensor> {
        if fusible(&[xs]) { xs.contiguous()?.apply_op1(Fused(self)) } else { activation_composed(xs, self) }
    }
}

/// `x · Φ(x)` with the exact normal distribution function.
pub fn gelu(xs: &Tensor) -> Result<Tensor> {
    Activation::Gelu.forward(xs)
}

/// [`Activation::forward`] in candle's operations.
pub fn activation_composed(xs: &Tensor, activation: Activation) -> Result<Tensor> {
    match activation {
        Activation::Gelu => xs.gelu_erf(),
        Activation::GeluNew => xs.gelu(),
        // candle's own `relu` is a maximum, which turns NaN into zero.
        Activation::Relu => xs.le(0.0)?.where_cond(&xs.zeros_like()?, xs),
        Activation::QuickGelu => xs * candle_nn::ops::sigmoid(&(xs * 1.702)?)?,
    }
}

struct Fused(Activation);

impl CustomOp1 for Fused {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let ys = activated(self.0, slice(storage, layout, self.name())?);
        Ok((CpuStorage::F32(ys), layout.shape().clone()))
    }

    fn bwd(&self, xs: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let (inputs, grads) = (Elements::of(xs, self.name()), Elements::of(&grad, self.name()));
        let (inputs, grads) = (inputs.get()?, grads.get()?);
        let dxs = parallel::build(inputs.len(), parallel::GRAIN, |start, dxs| {
            let end = start + dxs.len();
            dxs.copy_from_slice(&grads[start..end]);
            scale_by_slope(self.0, dxs, &inputs[start..end]);
        });
        gradient(dxs, xs)
    }
}

/// `f(xs)`, on all threads.
pub(crate) fn activated(activation: Activation, xs: &[f32]) -> Vec<f32> {
    parallel::build(xs.len(), parallel::GRAIN, |start, ys| {
        ys.copy_from_slice(&xs[start..start + ys.len()]);
        apply(activation, ys);
    })
}

/// `f(xs)` and `f'(xs)`, on all threads.
pub(crate) fn activated_with_slope(activation: Activation, xs: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let lengths: Vec<usize> =
        (0..xs.len()).step_by(parallel::GRAIN).map(|start| parallel::GRAIN.min(xs.len() - start)).collect();
    let ([ys, slopes], _) = parallel::build_parts(&lengths, |index, [ys, slopes]: [&mut [f32]; 2]| {
        slopes.copy_from_slice(&xs[index * parallel::GRAIN..][..slopes.len()]);
        apply_with_slope(activation, slopes, ys);
    });
    (ys, slopes)
}

vectorised! {
    /// `xs ← f(xs)`.
    pub(crate) fn apply(activation: Activation, xs: &mut [f32]) {
        match activation {
            Activation::Gelu => map(xs, |x| x * math::normal(x).0),
            Activation::GeluNew => map(xs, |x| x * math::sigmoid(tanh_argument(x))),
            Activation::Relu => map(xs, |x| relu_and_slope(x).0),
            Activation::QuickGelu => map(xs, |x| x * math::sigmoid(1.702 * x)),
        }
    }
}

vectorised! {
    /// `grads ← grads · f'(xs)`.
    fn scale_by_slope(activation: Activation, grads: &mut [f32], xs: &[f32]) {
        match activation {
            Activation::Gelu => zip(grads, xs, |x| gelu_and_slope(x).1),
            Activation::GeluNew => zip(grads, xs, |x| gelu_new_and_slope(x).1),
            Activation::Relu => zip(grads, xs, |x| relu_and_slope(x).1),
            Activation::QuickGelu => zip(grads, xs, |x| quick_gelu_and_slope(x).1),
        }
    }
}

vectorised! {
    /// `ys ← f(xs)` and `xs ← f'(xs)`.
    pub(crate) fn apply_with_slope(activation: Activation, xs: &mut [f32], ys: &mut [f32]) {
        match activation {
            Activation::Gelu => split(xs, ys, gelu_and_slope),
            Activation::GeluNew => split(xs, ys, gelu_new_and_slope),
            Activation::Relu => split(xs, ys, relu_and_slope),
            Activation::QuickGelu => split(xs, ys, quick_gelu_and_slope),
        }
    }
}

#[inline(always)]
fn gelu_and_slope(x: f32) -> (f32, f32) {
    let (below, density) = math::normal(x);
    (x * below, x.mul_add(density, below))
}

#[inline(always)]
fn gelu_new_and_slope(x: f32) -> (f32, f32) {
    let s = math::sigmoid(tanh_argument(x));
    // d(2u)/dx of the argument below.
    let slope = 1.595_769 * (3.0 * 0.044_715 * x).mul_add(x, 1.0);
    (x * s, (x * slope * s).mul_add(1.0 - s, s))
}

/// As PyTorch's: NaN is not below zero and stays NaN, and the slope at zero is zero.
#[inline(always)]
fn relu_and_slope(x: f32) -> (f32, f32) {
    if x <= 0.0 { (0.0, 0.0) } else { (x, 1.0) }
}

#[inline(always)]
fn quick_gelu_and_slope(x: f32) -> (f32, f32) {
    let s = math::sigmoid(1.702 * x);
    (x * s, (1.702 * x * s).mul_add(1.0 - s, s))
}

/// 2u with u = √(2/π)·(x + 0.044715 x³): (1 + tanh u)/2 = σ(2u).
#[inline(always)]
fn tanh_argument(x: f32) -> f32 {
    1.595_769 * x * (0.044_715 * x).mul_add(x, 1.0)
}

#[inline(always)]
fn map(xs: &mut [f32], f: impl Fn(f32) -> f32) {
    for x in xs {
        *x = f(*x);
    }
}

#[inline(always)]
fn zip(grads: &mut [f32], xs: &[f32], slope: impl Fn(f32) -> f32) {
    for (grad, &x) in grads.iter_mut().zip(xs) {
        *grad *= slope(x);
    }
}

#[inline(always)]
fn split(xs: &mut [f32], ys: &mut [f32], f: impl Fn(f32) -> (f32, f32)) {
    for (x, y) in xs.iter_mut().zip(ys) {
        (*y, *x) = f(*x);
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::twin;

    const ALL: [Activation; 4] = [Activation::Gelu, Activation::GeluNew, Activation::Relu, Activation::QuickGelu];

    #[test]
    fn twins_agree() {
        for activation in ALL {
            let composed = |xs: &[Tensor]| activation_composed(&(&xs[0] * 4.0)?, activation);
            let fused = |xs: &[Tensor]| activation.forward(&(&xs[0] * 4.0)?);
            twin::check_twins(&[&[3, 7, 1111]], 2e-6, fused, composed);
        }
    }

    #[test]
    fn composed_gradients_follow_finite_differences() {
        for activation in ALL {
            twin::check_gradient(&[&[3, 11]], |xs| activation_composed(&xs[0], activation));
        }
    }

    #[test]
    fn a_transposed_input_is_accepted() {
        twin::check_twins(&[&[5, 3]], 2e-6, |xs| gelu(&xs[0].t()?), |xs| xs[0].t()?.contiguous()?.gelu_erf());
    }

    #[test]
    fn relu_keeps_nan_and_has_no_slope_at_zero() {
        let fused = |xs: &Tensor| Activation::Relu.forward(xs);
        let composed = |xs: &Tensor| activation_composed(xs, Activation::Relu);
        for relu in [&fused as &dyn Fn(&Tensor) -> Result<Tensor>, &composed] {
            let xs = Var::new(&[f32::NAN, -1.0, 0.0, -0.0, 2.0], &Device::Cpu).unwrap();
            let ys = relu(&xs).unwrap();
            let values = ys.to_vec1::<f32>().unwrap();
            assert!(values[0].is_nan(), "{values:?}");
            assert_eq!(values[1..], [0.0, 0.0, 0.0, 2.0]);
            let grads = ys.sum_all().unwrap().backward().unwrap();
            assert_eq!(grads.get(&xs).unwrap().to_vec1::<f32>().unwrap(), [1.0, 0.0, 0.0, 0.0, 1.0]);
        }
    }

    /// A pass that also wants the slope, as the feed-forward half's backward, sees the same function.
    #[test]
    fn relu_with_its_slope_keeps_nan() {
        let (mut xs, mut ys) = ([f32::NAN, -1.0, 0.0, 2.0], [9.0; 4]);
        apply_with_slope(Activation::Relu, &mut xs, &mut ys);
        assert!(ys[0].is_nan() && ys[1..] == [0.0, 0.0, 2.0], "{ys:?}");
        assert_eq!(xs, [1.0, 0.0, 0.0, 1.0]);
    }

    #[test]
    fn names_are_those_of_hugging_face() {
        let names: Vec<String> = ALL.iter().map(|a| serde_json::to_string(a).unwrap()).collect();
        assert_eq!(names, ["\"gelu\"", "\"gelu_new\"", "\"relu\"", "\"quick_gelu\""]);
    }
}
