//! Two maps joined by a gate, `residual + (xs - residual) · sigmoid(logits)`: the end of attentional feature fusion (Dai et al.,
//! arXiv 2009.14082, equation 3).
//!
//! As separate operations it writes five tensors of the map's size, of which a training step keeps four; here it writes one, and the
//! backward pass makes the gate again.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};

use crate::cpu::{Elements, fusible, gradient, math, parallel, slice, vectorise::vectorised};

/// `scale · (xs · w + residual · (1 - w))` with `w = sigmoid(logits)`: three tensors of one shape → that shape.
pub fn gated_sum(xs: &Tensor, residual: &Tensor, logits: &Tensor, scale: f32) -> Result<Tensor> {
    if xs.dims() != residual.dims() || xs.dims() != logits.dims() {
        candle_core::bail!(
            "a gated sum of {:?} and {:?} with a gate of {:?}",
            xs.shape(),
            residual.shape(),
            logits.shape()
        );
    }
    if fusible(&[xs, residual, logits]) {
        xs.contiguous()?.apply_op3(&residual.contiguous()?, &logits.contiguous()?, Fused { scale })
    } else {
        gated_sum_composed(xs, residual, logits, scale)
    }
}

/// [`gated_sum`] in candle's operations.
fn gated_sum_composed(xs: &Tensor, residual: &Tensor, logits: &Tensor, scale: f32) -> Result<Tensor> {
    let w = candle_nn::ops::sigmoid(logits)?;
    (residual + ((xs - residual)? * w)?)? * f64::from(scale)
}

struct Fused {
    scale: f32,
}

const NAME: &str = "gated_sum";

impl CustomOp3 for Fused {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        layout: &Layout,
        residual: &CpuStorage,
        residual_layout: &Layout,
        logits: &CpuStorage,
        logits_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let xs = slice(xs, layout, NAME)?;
        let (residual, logits) = (slice(residual, residual_layout, NAME)?, slice(logits, logits_layout, NAME)?);
        let ys = parallel::build(xs.len(), parallel::GRAIN, |start, ys| {
            let range = start..start + ys.len();
            forward(ys, &xs[range.clone()], &residual[range.clone()], &logits[range], self.scale);
        });
        Ok((CpuStorage::F32(ys), layout.shape().clone()))
    }

    fn bwd(
        &self,
        xs: &Tensor,
        residual: &Tensor,
        logits: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let elements = [xs, residual, logits, &grad].map(|t| Elements::of(t, NAME));
        let [x, r, l, g] = [elements[0].get()?, elements[1].get()?, elements[2].get()?, elements[3].get()?];
        let lengths: Vec<usize> =
            (0..x.len()).step_by(parallel::GRAIN).map(|start| parallel::GRAIN.min(x.len() - start)).collect();
        let ([dx, dr, dl], _) = parallel::build_parts(&lengths, |index, [dx, dr, dl]| {
            let start = index * parallel::GRAIN;
            let range = start..start + dx.len();
            dl.copy_from_slice(&l[range.clone()]);
            backward([dx, dr, dl], &x[range.clone()], &r[range.clone()], &g[range], self.scale);
        });
        Ok((gradient(dx, xs)?, gradient(dr, residual)?, gradient(dl, logits)?))
    }
}

vectorised! {
    fn forward(ys: &mut [f32], xs: &[f32], residual: &[f32], logits: &[f32], scale: f32) {
        for (((y, x), r), l) in ys.iter_mut().zip(xs).zip(residual).zip(logits) {
            *y = (r + (x - r) * math::sigmoid(*l)) * scale;
        }
    }
}

vectorised! {
    /// The gradients of `xs`, `residual` and `logits`; the last holds the logits before.
    fn backward(grads: [&mut [f32]; 3], xs: &[f32], residual: &[f32], grad: &[f32], scale: f32) {
        let [dx, dr, dl] = grads;
        for (((((dx, dr), dl), x), r), g) in dx.iter_mut().zip(dr).zip(dl).zip(xs).zip(residual).zip(grad) {
            let w = math::sigmoid(*dl);
            let g = g * scale;
            *dx = g * w;
            *dr = g - g * w;
            *dl = g * (x - r) * (w * (1.0 - w));
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::twin;

    #[test]
    fn twins_agree() {
        for shape in [&[3usize, 5, 7][..], &[2, 3000, 33], &[1]] {
            for scale in [1.0, 2.0] {
                let fused = |xs: &[Tensor]| xs[0].apply_op3(&xs[1], &xs[2], Fused { scale });
                let composed = |xs: &[Tensor]| gated_sum_composed(&xs[0], &xs[1], &xs[2], scale);
                twin::check_twins(&[shape; 3], 1e-5, fused, composed);
            }
        }
    }

    #[test]
    fn composed_gradients_follow_finite_differences() {
        twin::check_gradient(&[&[3usize, 5][..]; 3], |xs| gated_sum_composed(&xs[0], &xs[1], &xs[2], 2.0));
    }

    /// Saturated gates choose one side exactly, and a broken value shows.
    #[test]
    fn a_gate_opens_and_shuts() {
        let tensor = |values: &[f32]| Tensor::new(values, &Device::Cpu).unwrap();
        let (xs, residual) = (tensor(&[1.0, 1.0, f32::NAN]), tensor(&[5.0, 5.0, 5.0]));
        let ys = gated_sum(&xs, &residual, &tensor(&[200.0, -200.0, 200.0]), 1.0).unwrap();
        let ys = ys.to_vec1::<f32>().unwrap();
        assert_eq!(ys[..2], [1.0, 5.0]);
        assert!(ys[2].is_nan());
    }

    #[test]
    fn misfits_are_errors() {
        let zeros = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &Device::Cpu).unwrap();
        for (xs, residual, logits) in [([2, 3], [3, 2], [2, 3]), ([2, 3], [2, 3], [1, 3])] {
            let error = gated_sum(&zeros(&xs), &zeros(&residual), &zeros(&logits), 1.0).unwrap_err();
            assert!(error.to_string().contains("a gated sum of"), "{error}");
        }
    }
}
