//! Softmax over the last dimension, with a gradient.

use candle_core::{CpuStorage, CustomOp1, D, Layout, Result, Shape, Tensor};

use crate::cpu::{Elements, fusible, gradient, math, parallel, slice, vectorise::vectorised};

/// `exp(xs) / Σ exp(xs)` over the last dimension.
pub fn softmax_last_dim(xs: &Tensor) -> Result<Tensor> {
    if fusible(&[xs]) && xs.elem_count() > 0 && xs.rank() > 0 {
        xs.contiguous()?.apply_op1(Fused)
    } else {
        softmax_composed(xs)
    }
}

/// [`softmax_last_dim`] in candle's operations.
pub fn softmax_composed(xs: &Tensor) -> Result<Tensor> {
    candle_nn::ops::softmax(xs, D::Minus1)
}

struct Fused;

impl CustomOp1 for Fused {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let xs = slice(storage, layout, self.name())?;
        let width = layout.shape().dims().last().copied().unwrap_or(1);
        let ys = parallel::build(xs.len(), parallel::rows_per_task(width) * width, |start, ys| {
            ys.copy_from_slice(&xs[start..start + ys.len()]);
            softmax_rows(ys, width);
        });
        Ok((CpuStorage::F32(ys), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, ys: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let width = ys.dim(D::Minus1)?;
        let (outputs, grads) = (Elements::of(ys, self.name()), Elements::of(&grad, self.name()));
        let (outputs, grads) = (outputs.get()?, grads.get()?);
        let dxs = parallel::build(outputs.len(), parallel::rows_per_task(width) * width, |start, dxs| {
            let end = start + dxs.len();
            dxs.copy_from_slice(&grads[start..end]);
            softmax_backward_rows(dxs, &outputs[start..end], width);
        });
        gradient(dxs, ys)
    }
}

vectorised! {
    /// Softmax of each row, in place.
    pub(crate) fn softmax_rows(xs: &mut [f32], width: usize) {
        for row in xs.chunks_exact_mut(width) {
            math::softmax(row);
        }
    }
}

vectorised! {
    /// `grads ← ys · (grads - Σ grads · ys)` for each row.
    pub(crate) fn softmax_backward_rows(grads: &mut [f32], ys: &[f32], width: usize) {
        for (grad, y) in grads.chunks_exact_mut(width).zip(ys.chunks_exact(width)) {
            let mean = math::dot(grad, y);
            for (grad, y) in grad.iter_mut().zip(y) {
                *grad = (*grad - mean) * y;
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
        for shape in [&[3usize, 5, 7][..], &[2, 4000, 33], &[1, 1], &[9]] {
            twin::check_twins(
                &[shape],
                2e-6,
                |xs| softmax_last_dim(&(&xs[0] * 5.0)?),
                |xs| softmax_composed(&(&xs[0] * 5.0)?),
            );
        }
    }

    #[test]
    fn composed_gradient_follows_finite_differences() {
        twin::check_gradient(&[&[3, 5]], |xs| softmax_composed(&xs[0]));
    }

    #[test]
    fn masked_scores_get_no_weight() {
        let xs = Tensor::new(&[[0f32, -1e4, 1.0], [f32::NEG_INFINITY, 2.0, 2.0]], &candle_core::Device::Cpu).unwrap();
        let ys = softmax_last_dim(&xs).unwrap().to_vec2::<f32>().unwrap();
        assert!(ys[0][1] == 0.0 && ys[1][0] == 0.0 && (ys[1][1] - 0.5).abs() < 1e-6, "{ys:?}");
    }
}
