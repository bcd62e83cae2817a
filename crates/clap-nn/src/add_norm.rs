//! The end of a half of a post-norm transformer layer as one operation: `norm(xs + dropout(branch))`.
//!
//! As separate layers these write the dropped branch and the sum, and a training step keeps both; here the backward pass makes them
//! again, so nothing is kept but what the layers before and after keep anyway.

use candle_core::{CpuStorage, CustomOp3, D, Layout, Result, Shape, Tensor};

use crate::cpu::{
    Elements, fusible, gradient, math,
    packed::{Lengths, pack},
    parallel, slice,
    vectorise::vectorised,
};
use crate::dropout::{Drop, drop_elements, dropout_composed};
use crate::layer_norm::{SHARES, backward_rows, normalise_rows};
use crate::{LayerNorm, Mode};

/// `norm(xs + dropout(branch))`: both (…, C) → (…, C). Elements of the branch are dropped at rate `dropout_p` in training.
pub fn add_norm(xs: &Tensor, branch: &Tensor, norm: &LayerNorm, dropout_p: f32, mode: &mut Mode) -> Result<Tensor> {
    let width = xs.dim(D::Minus1)?;
    if xs.dims() != branch.dims() || norm.weight.dims() != [width] || norm.bias.dims() != [width] {
        candle_core::bail!(
            "layer norm of the sum of {:?} and {:?}: weight {:?} and bias {:?} do not fit",
            xs.shape(),
            branch.shape(),
            norm.weight.shape(),
            norm.bias.shape()
        );
    }
    let drop = Drop::draw(dropout_p, mode);
    if fusible(&[xs, branch, &norm.weight, &norm.bias]) && width > 0 {
        let op = Fused { width, eps: norm.eps as f32, drop };
        xs.contiguous()?.apply_op3(&branch.contiguous()?, &pack(&[&norm.weight, &norm.bias])?, op)
    } else {
        add_norm_composed(xs, branch, norm, drop)
    }
}

/// [`add_norm`] from its layers.
fn add_norm_composed(xs: &Tensor, branch: &Tensor, norm: &LayerNorm, drop: Option<Drop>) -> Result<Tensor> {
    let branch = match drop {
        None => branch.clone(),
        Some(drop) => dropout_composed(branch, drop)?,
    };
    norm.forward(&(xs + branch)?)
}

struct Fused {
    width: usize,
    eps: f32,
    drop: Option<Drop>,
}

const NAME: &str = "add_norm";

impl Fused {
    /// Weight and bias.
    fn lengths(&self) -> Lengths<2> {
        Lengths([self.width, self.width])
    }

    /// The sum's elements from `start` on, as many as `xs` has.
    fn sum(&self, xs: &[f32], branch: &[f32], start: usize) -> Vec<f32> {
        let mut sum = branch.to_vec();
        if let Some(drop) = self.drop {
            drop_elements(&mut sum, drop, start);
        }
        add(&mut sum, xs);
        sum
    }
}

vectorised! {
    /// `ys += xs`.
    fn add(ys: &mut [f32], xs: &[f32]) {
        math::add_assign(ys, xs);
    }
}

impl CustomOp3 for Fused {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        layout: &Layout,
        branch: &CpuStorage,
        branch_layout: &Layout,
        packed: &CpuStorage,
        packed_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (xs, branch) = (slice(xs, layout, NAME)?, slice(branch, branch_layout, NAME)?);
        let [weight, bias] = self.lengths().split(slice(packed, packed_layout, NAME)?);
        let step = parallel::rows_per_task(self.width) * self.width;
        let ys = parallel::build(xs.len(), step, |start, ys| {
            let end = start + ys.len();
            let sum = self.sum(&xs[start..end], &branch[start..end], start);
            normalise_rows(ys, &sum, weight, bias, self.eps);
        });
        Ok((CpuStorage::F32(ys), layout.shape().clone()))
    }

    fn bwd(
        &self,
        xs: &Tensor,
        branch: &Tensor,
        packed: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let elements = [xs, branch, packed, &grad].map(|t| Elements::of(t, NAME));
        let [x, y, p, g] = [elements[0].get()?, elements[1].get()?, elements[2].get()?, elements[3].get()?];
        let [weight, _] = self.lengths().split(p);
        let rows_per_task = (x.len() / self.width).div_ceil(SHARES).max(parallel::rows_per_task(self.width));
        let task = rows_per_task * self.width;
        let lengths: Vec<usize> = (0..x.len()).step_by(task).map(|start| task.min(x.len() - start)).collect();
        // The branch's gradient is the sum's where nothing was dropped.
        let ([dx, dbranch], sums) = parallel::build_parts(&lengths, |index, [dx, dbranch]| {
            let (start, end) = (index * task, index * task + dx.len());
            let sum = self.sum(&x[start..end], &y[start..end], start);
            let mut sums = vec![0.0; 2 * self.width];
            let [dweight, dbias] = self.lengths().split_mut(&mut sums);
            dx.copy_from_slice(&g[start..end]);
            backward_rows(dx, &sum, weight, self.eps, dweight, dbias);
            if let Some(drop) = self.drop {
                dbranch.copy_from_slice(dx);
                drop_elements(dbranch, drop, start);
            }
            sums
        });
        let mut dpacked = parallel::sum_in_order(sums);
        dpacked.resize(2 * self.width, 0.0);
        let dx = gradient(dx, xs)?;
        let dbranch = if self.drop.is_some() { gradient(dbranch, branch)? } else { dx.clone() };
        Ok((dx, dbranch, gradient(dpacked, packed)?))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::twin;

    fn norm(xs: &[Tensor]) -> LayerNorm {
        LayerNorm::from_parts(xs[2].clone(), xs[3].clone(), 1e-5)
    }

    #[test]
    fn twins_agree() {
        for shape in [&[3usize, 5, 7][..], &[2, 3000, 33], &[61, 96], &[1, 1]] {
            let width = [*shape.last().unwrap()];
            for drop in [None, Some(Drop { key: 0x1234_5678_9abc_def0, p: 0.3 })] {
                let fused = |xs: &[Tensor]| {
                    let op = Fused { width: width[0], eps: 1e-5, drop };
                    xs[0].apply_op3(&xs[1], &pack(&[&xs[2], &xs[3]])?, op)
                };
                let composed = |xs: &[Tensor]| add_norm_composed(&xs[0], &xs[1], &norm(xs), drop);
                twin::check_twins(&[shape, shape, &width, &width], 1e-5, fused, composed);
            }
        }
    }

    #[test]
    fn composed_gradients_follow_finite_differences() {
        let drop = Some(Drop { key: 1, p: 0.2 });
        let shapes: [&[usize]; 4] = [&[3, 5], &[3, 5], &[5], &[5]];
        twin::check_gradient(&shapes, |xs| add_norm_composed(&xs[0], &xs[1], &norm(xs), drop));
    }

    /// One sum with itself: a residual's gradient comes from both sides.
    #[test]
    fn a_tensor_may_be_its_own_branch() {
        let run = |xs: &[Tensor]| {
            let norm = LayerNorm::from_parts(xs[1].clone(), xs[2].clone(), 1e-5);
            add_norm(&xs[0], &xs[0], &norm, 0.0, &mut Mode::eval())
        };
        twin::check_twins(&[&[4, 6], &[6], &[6]], 1e-5, run, run);
    }

    #[test]
    fn misfits_are_errors() {
        let zeros = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &Device::Cpu).unwrap();
        let run = |xs: &[usize], branch: &[usize], width: usize| {
            let norm = LayerNorm::from_parts(zeros(&[width]), zeros(&[width]), 1e-5);
            add_norm(&zeros(xs), &zeros(branch), &norm, 0.0, &mut Mode::eval())
        };
        assert!(run(&[2, 3], &[2, 3], 3).is_ok());
        for (xs, branch, width) in [([2, 3], [3, 2], 3), ([2, 3], [1, 3], 3), ([2, 3], [2, 3], 2)] {
            let message = run(&xs, &branch, width).unwrap_err().to_string();
            assert!(message.contains("do not fit"), "{message}");
        }
    }
}
