//! Layer normalisation over the last dimension (Ba et al. 2016, arXiv 1607.06450), as `torch.nn.LayerNorm`.

use candle_core::{CpuStorage, CustomOp3, D, Layout, Result, Shape, Tensor};
use candle_nn::{Init, VarBuilder};

use crate::cpu::{Elements, fusible, gradient, math, parallel, slice, vectorise::vectorised};
use crate::precision::widened;

/// Normalises the last dimension, then scales and shifts it.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    pub(crate) weight: Tensor,
    pub(crate) bias: Tensor,
    pub(crate) eps: f64,
}

impl LayerNorm {
    /// `weight` (size), ones, and `bias` (size), zeros.
    pub fn new(size: usize, eps: f64, vb: VarBuilder<'_>) -> Result<Self> {
        let weight = vb.get_with_hints(size, "weight", Init::Const(1.0))?;
        let bias = vb.get_with_hints(size, "bias", Init::Const(0.0))?;
        Ok(Self { weight, bias, eps })
    }

    /// From existing tensors, (size) each.
    pub fn from_parts(weight: Tensor, bias: Tensor, eps: f64) -> Self {
        Self { weight, bias, eps }
    }

    /// (…, size) → (…, size).
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        layer_norm(xs, &self.weight, &self.bias, self.eps)
    }
}

/// `(xs - mean) / sqrt(var + eps) · weight + bias` over the last dimension, with the biased variance.
pub fn layer_norm(xs: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let size = xs.dim(D::Minus1)?;
    if weight.dims() != [size] || bias.dims() != [size] {
        candle_core::bail!(
            "layer norm: weight {:?} and bias {:?} do not fit {:?}",
            weight.shape(),
            bias.shape(),
            xs.shape()
        );
    }
    if fusible(&[xs, weight, bias]) && size > 0 {
        xs.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, Fused { eps: eps as f32 })
    } else {
        layer_norm_composed(xs, weight, bias, eps)
    }
}

/// [`layer_norm`] in candle's operations; half types by way of `f32`.
pub fn layer_norm_composed(xs: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let dtype = xs.dtype();
    let wide = |t: &Tensor| t.to_dtype(widened(dtype));
    let xs = wide(xs)?;
    let centred = xs.broadcast_sub(&xs.mean_keepdim(D::Minus1)?)?;
    let std = (centred.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
    centred.broadcast_div(&std)?.broadcast_mul(&wide(weight)?)?.broadcast_add(&wide(bias)?)?.to_dtype(dtype)
}

struct Fused {
    eps: f32,
}

/// Tasks that add up the gradients of weight and bias; more would only add to the final sum.
pub(crate) const SHARES: usize = 64;

impl CustomOp3 for Fused {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let xs = slice(xs, layout, self.name())?;
        let (weight, bias) = (slice(weight, weight_layout, self.name())?, slice(bias, bias_layout, self.name())?);
        let width = weight.len();
        let ys = parallel::build(xs.len(), parallel::rows_per_task(width) * width, |start, ys| {
            normalise_rows(ys, &xs[start..start + ys.len()], weight, bias, self.eps);
        });
        Ok((CpuStorage::F32(ys), layout.shape().clone()))
    }

    fn bwd(
        &self,
        xs: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (x, w, g) =
            (Elements::of(xs, self.name()), Elements::of(weight, self.name()), Elements::of(&grad, self.name()));
        let (x, w, g) = (x.get()?, w.get()?, g.get()?);
        let width = w.len();
        let rows = (x.len() / width).div_ceil(SHARES).max(parallel::rows_per_task(width));
        let (dx, sums) = parallel::build_with(x.len(), rows * width, |start, dx| {
            let end = start + dx.len();
            let mut sums = vec![0.0; 2 * width];
            let (dw, db) = sums.split_at_mut(width);
            dx.copy_from_slice(&g[start..end]);
            backward_rows(dx, &x[start..end], w, self.eps, dw, db);
            sums
        });
        let mut dw = parallel::sum_in_order(sums);
        dw.resize(2 * width, 0.0);
        let db = dw.split_off(width);
        Ok((gradient(dx, xs)?, gradient(dw, weight)?, gradient(db, bias)?))
    }
}

/// Mean and reciprocal standard deviation of a row.
#[inline(always)]
fn moments(x: &[f32], eps: f32) -> (f32, f32) {
    let scale = 1.0 / x.len() as f32;
    let mean = math::sum(x) * scale;
    let var = math::sum_squares(x, mean) * scale;
    (mean, 1.0 / (var + eps).sqrt())
}

vectorised! {
    /// `ys ← (xs - mean) · rstd · weight + bias` for each row.
    pub(crate) fn normalise_rows(ys: &mut [f32], xs: &[f32], weight: &[f32], bias: &[f32], eps: f32) {
        let width = weight.len();
        for (y, x) in ys.chunks_exact_mut(width).zip(xs.chunks_exact(width)) {
            let (mean, rstd) = moments(x, eps);
            for (((y, x), w), b) in y.iter_mut().zip(x).zip(weight).zip(bias) {
                *y = ((x - mean) * rstd).mul_add(*w, *b);
            }
        }
    }
}

vectorised! {
    /// `grads ← rstd · (h - mean(h) - x̂ · mean(h · x̂))` with h = grads · weight, for each row; adds Σ grads · x̂ to `dweight` and
    /// Σ grads to `dbias`.
    pub(crate) fn backward_rows(grads: &mut [f32], xs: &[f32], weight: &[f32], eps: f32, dweight: &mut [f32], dbias: &mut [f32]) {
        let width = weight.len();
        let scale = 1.0 / width as f32;
        let mut normal = vec![0.0; width];
        for (grad, x) in grads.chunks_exact_mut(width).zip(xs.chunks_exact(width)) {
            let (mean, rstd) = moments(x, eps);
            for (normal, x) in normal.iter_mut().zip(x) {
                *normal = (x - mean) * rstd;
            }
            for ((dw, grad), normal) in dweight.iter_mut().zip(grad.iter()).zip(&normal) {
                *dw = grad.mul_add(*normal, *dw);
            }
            math::add_assign(dbias, grad);
            for (grad, w) in grad.iter_mut().zip(weight) {
                *grad *= w;
            }
            let mean_h = math::sum(grad) * scale;
            let mean_hx = math::dot(grad, &normal) * scale;
            for (grad, normal) in grad.iter_mut().zip(&normal) {
                *grad = (*grad - mean_h - normal * mean_hx) * rstd;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::twin;

    #[test]
    fn twins_agree() {
        for shape in [&[3usize, 5, 7][..], &[2, 3000, 33], &[2, 5, 96], &[1, 1]] {
            let width = [*shape.last().unwrap()];
            let composed = |xs: &[Tensor]| layer_norm_composed(&xs[0], &xs[1], &xs[2], 1e-5);
            twin::check_twins(&[shape, &width, &width], 1e-5, |xs| layer_norm(&xs[0], &xs[1], &xs[2], 1e-5), composed);
        }
    }

    #[test]
    fn composed_gradients_follow_finite_differences() {
        twin::check_gradient(&[&[3, 5], &[5], &[5]], |xs| layer_norm_composed(&xs[0], &xs[1], &xs[2], 1e-5));
    }

    /// The sum of this row, 256 thousand, is beyond f16.
    #[test]
    fn half_types_do_not_overflow() {
        use candle_core::{DType, Device};
        let row: Vec<f32> = (0..256).map(|i| 1000.0 + (i % 4) as f32).collect();
        let xs = Tensor::from_vec(row, (1, 256), &Device::Cpu).unwrap().to_dtype(DType::F16).unwrap();
        let ones = Tensor::ones(256, DType::F16, &Device::Cpu).unwrap();
        let ys = layer_norm(&xs, &ones, &ones, 1e-5).unwrap();
        assert_eq!(ys.dtype(), DType::F16);
        let ys = ys.to_dtype(DType::F32).unwrap().to_vec2::<f32>().unwrap();
        for (y, expected) in ys[0].iter().zip([-0.341_635, 0.552_788, 1.447_212, 2.341_635]) {
            assert!((y - expected).abs() < 2e-3, "{y} against {expected}");
        }
    }

    #[test]
    fn a_large_offset_does_not_cancel() {
        let xs = Tensor::new(&[[10_000f32, 10_001.0, 10_002.0, 10_003.0]], &candle_core::Device::Cpu).unwrap();
        let (ones, zeros) = (xs.ones_like().unwrap().get(0).unwrap(), xs.zeros_like().unwrap().get(0).unwrap());
        let ys = layer_norm(&xs, &ones, &zeros, 1e-5).unwrap().to_vec2::<f32>().unwrap();
        for (y, expected) in ys[0].iter().zip([-1.341_635, -0.447_211_8, 0.447_211_8, 1.341_635]) {
            assert!((y - expected).abs() < 1e-5, "{y}");
        }
    }
}
