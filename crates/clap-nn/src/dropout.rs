//! Dropout, drop path (stochastic depth, Huang et al. 2016, arXiv 1603.09382) and the residual sum that carries it.
//!
//! A mask is a pure function of a key drawn from the mode's generator and of the element's position (a counter-based
//! generator), so it is never stored, the backward pass makes it again, and every device sees the same one.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};

use crate::Mode;
use crate::cpu::{Elements, fusible, gradient, parallel, slice, vectorise::vectorised};

/// One draw of a mask: its key and the probability of a zero.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drop {
    pub(crate) key: u64,
    pub(crate) p: f32,
}

impl Drop {
    /// A fresh mask, or `None` in evaluation or at rate zero.
    pub(crate) fn draw(p: f32, mode: &mut Mode) -> Option<Self> {
        mode.mask_key(p).map(|key| Self { key, p })
    }

    /// The factor of element `index`: zero with probability `p`, else `1/(1-p)`.
    #[inline(always)]
    fn factor(self, index: usize) -> f32 {
        if hash(self.key, index) < self.threshold() { 0.0 } else { self.scale() }
    }

    /// Hashes below this are dropped.
    #[inline(always)]
    fn threshold(self) -> u32 {
        (f64::from(self.p) * 4_294_967_296.0) as u32
    }

    /// 1/(1-p); zero when everything is dropped.
    #[inline(always)]
    fn scale(self) -> f32 {
        if self.p < 1.0 { 1.0 / (1.0 - self.p) } else { 0.0 }
    }

    /// One factor per row.
    pub(crate) fn rows(self, rows: usize) -> Vec<f32> {
        (0..rows).map(|row| self.factor(row)).collect()
    }
}

/// 32 random bits of (key, index): two rounds of a multiply–xorshift mixer in 32 bits, which vectorises.
#[inline(always)]
fn hash(key: u64, index: usize) -> u32 {
    let high = ((index as u64) >> 32) as u32;
    let mut x = (index as u32) ^ (key as u32);
    x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
    x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
    x = (x ^ (x >> 16)).wrapping_add(((key >> 32) as u32) ^ high.wrapping_mul(0x9e37_79b9));
    x = (x ^ (x >> 16)).wrapping_mul(0x21f0_aaad);
    x = (x ^ (x >> 15)).wrapping_mul(0xd35a_2d97);
    x ^ (x >> 15)
}

vectorised! {
    /// Applies the mask to `xs`, the elements from index `start` on.
    pub(crate) fn drop_elements(xs: &mut [f32], drop: Drop, start: usize) {
        let (threshold, scale) = (drop.threshold(), drop.scale());
        for (i, x) in xs.iter_mut().enumerate() {
            *x *= if hash(drop.key, start + i) < threshold { 0.0 } else { scale };
        }
    }
}

/// Zeroes each element with probability `p` and scales the others by `1/(1-p)`; the identity in evaluation.
pub fn dropout(xs: &Tensor, p: f32, mode: &mut Mode) -> Result<Tensor> {
    match Drop::draw(p, mode) {
        None => Ok(xs.clone()),
        Some(drop) if fusible(&[xs]) => xs.contiguous()?.apply_op1(Elementwise(drop)),
        Some(drop) => dropout_composed(xs, drop),
    }
}

/// [`dropout`] of a given mask in candle's operations.
pub(crate) fn dropout_composed(xs: &Tensor, drop: Drop) -> Result<Tensor> {
    dropout_composed_from(xs, drop, 0)
}

/// [`dropout_composed`] by the elements of the mask from index `start` on.
pub(crate) fn dropout_composed_from(xs: &Tensor, drop: Drop, start: usize) -> Result<Tensor> {
    let mask: Vec<f32> = (start..start + xs.elem_count()).map(|index| drop.factor(index)).collect();
    xs * Tensor::from_vec(mask, xs.shape(), xs.device())?.to_dtype(xs.dtype())?
}

/// Zeroes whole rows of `xs` (B, …) with probability `p` and scales the others by `1/(1-p)`; the identity in evaluation.
pub fn drop_path(xs: &Tensor, p: f32, mode: &mut Mode) -> Result<Tensor> {
    match Drop::draw(p, mode) {
        None => Ok(xs.clone()),
        Some(drop) => scale_rows_composed(xs, &drop.rows(xs.dim(0)?)),
    }
}

/// `xs + drop_path(branch)`: both (B, …).
pub fn residual(xs: &Tensor, branch: &Tensor, p: f32, mode: &mut Mode) -> Result<Tensor> {
    let drop = Drop::draw(p, mode);
    if xs.dims() != branch.dims() || xs.rank() == 0 {
        candle_core::bail!("a residual sum of {:?} and {:?}", xs.shape(), branch.shape());
    }
    residual_of(xs, branch, drop.map(|drop| drop.rows(xs.dims()[0])))
}

/// [`residual`] with the factors of the branch's rows given, none for all ones.
pub(crate) fn residual_of(xs: &Tensor, branch: &Tensor, scales: Option<Vec<f32>>) -> Result<Tensor> {
    if fusible(&[xs, branch]) && xs.dims() == branch.dims() {
        xs.contiguous()?.apply_op2(&branch.contiguous()?, Residual { scales })
    } else {
        residual_composed(xs, branch, scales.as_deref())
    }
}

/// [`residual`] with the factors of the branch's rows given, in candle's operations.
pub(crate) fn residual_composed(xs: &Tensor, branch: &Tensor, scales: Option<&[f32]>) -> Result<Tensor> {
    match scales {
        None => xs + branch,
        Some(scales) => xs + scale_rows_composed(branch, scales)?,
    }
}

/// Multiplies row `i` of `xs` (B, …) by `scales[i]`, in candle's operations.
fn scale_rows_composed(xs: &Tensor, scales: &[f32]) -> Result<Tensor> {
    let mut dims = vec![1; xs.rank()];
    dims[0] = scales.len();
    let scales = Tensor::from_slice(scales, Shape::from(dims), xs.device())?.to_dtype(xs.dtype())?;
    xs.broadcast_mul(&scales)
}

struct Elementwise(Drop);

impl CustomOp1 for Elementwise {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(self.apply(slice(storage, layout, self.name())?)), layout.shape().clone()))
    }

    fn bwd(&self, xs: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let grad = Elements::of(&grad, self.name());
        gradient(self.apply(grad.get()?), xs)
    }
}

impl Elementwise {
    fn apply(&self, xs: &[f32]) -> Vec<f32> {
        parallel::build(xs.len(), parallel::GRAIN, |start, ys| {
            ys.copy_from_slice(&xs[start..start + ys.len()]);
            drop_elements(ys, self.0, start);
        })
    }
}

struct Residual {
    /// Factors of the branch's rows; `None` for all ones.
    scales: Option<Vec<f32>>,
}

impl CustomOp2 for Residual {
    fn name(&self) -> &'static str {
        "residual"
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        layout: &Layout,
        branch: &CpuStorage,
        branch_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (xs, branch) = (slice(xs, layout, self.name())?, slice(branch, branch_layout, self.name())?);
        let width = xs.len() / layout.shape().dims()[0].max(1);
        let ys = parallel::build(xs.len(), parallel::GRAIN, |start, ys| {
            ys.copy_from_slice(&xs[start..start + ys.len()]);
            self.each_row(start, ys.len(), width, |range, scale| {
                add_scaled(&mut ys[range.clone()], &branch[start + range.start..start + range.end], scale);
            });
        });
        Ok((CpuStorage::F32(ys), layout.shape().clone()))
    }

    fn bwd(&self, xs: &Tensor, branch: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        if self.scales.is_none() {
            return Ok((Some(grad.clone()), Some(grad.clone())));
        }
        let dense = grad.contiguous()?;
        let g = Elements::of(&dense, self.name());
        let g = g.get()?;
        let width = g.len() / xs.dims()[0].max(1);
        let dbranch = parallel::build(g.len(), parallel::GRAIN, |start, dbranch| {
            self.each_row(start, dbranch.len(), width, |range, scale| {
                add_scaled(&mut dbranch[range.clone()], &g[start + range.start..start + range.end], scale);
            });
        });
        Ok((Some(grad.clone()), gradient(dbranch, branch)?))
    }
}

impl Residual {
    /// Calls `f` with each part of `start..start + len` that lies in one row of `width`, relative to `start`, and the row's factor.
    fn each_row(&self, start: usize, len: usize, width: usize, mut f: impl FnMut(std::ops::Range<usize>, f32)) {
        let Some(scales) = &self.scales else { return f(0..len, 1.0) };
        let mut first = 0;
        while first < len {
            let row = (start + first) / width;
            let last = ((row + 1) * width - start).min(len);
            f(first..last, scales[row]);
            first = last;
        }
    }
}

vectorised! {
    /// `ys += scale · xs`.
    pub(crate) fn add_scaled(ys: &mut [f32], xs: &[f32], scale: f32) {
        for (y, x) in ys.iter_mut().zip(xs) {
            *y = scale.mul_add(*x, *y);
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::twin;

    const DROP: Drop = Drop { key: 0x1234_5678_9abc_def0, p: 0.3 };

    fn train() -> Mode {
        Mode::train(ChaCha8Rng::seed_from_u64(1))
    }

    #[test]
    fn dropout_twins_agree() {
        let fused = |xs: &[Tensor]| xs[0].apply_op1(Elementwise(DROP));
        twin::check_twins(&[&[3, 5, 2001]], 1e-6, fused, |xs| dropout_composed(&xs[0], DROP));
    }

    #[test]
    fn residual_twins_agree() {
        let shape: &[usize] = &[5, 3, 2003];
        for scales in [None, Some(DROP.rows(5))] {
            let fused = |xs: &[Tensor]| xs[0].apply_op2(&xs[1], Residual { scales: scales.clone() });
            twin::check_twins(&[shape, shape], 1e-6, fused, |xs| residual_composed(&xs[0], &xs[1], scales.as_deref()));
        }
    }

    #[test]
    fn composed_gradients_follow_finite_differences() {
        twin::check_gradient(&[&[4, 5]], |xs| dropout_composed(&xs[0], DROP));
        twin::check_gradient(&[&[4, 5], &[4, 5]], |xs| residual_composed(&xs[0], &xs[1], Some(&DROP.rows(4))));
    }

    #[test]
    fn rates_and_means_are_kept() {
        let xs = Tensor::ones((64, 1000), candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();
        let ys = dropout(&xs, 0.3, &mut train()).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let zeros = ys.iter().filter(|y| **y == 0.0).count() as f64 / ys.len() as f64;
        assert!((zeros - 0.3).abs() < 0.01, "{zeros}");
        assert!(ys.iter().all(|&y| y == 0.0 || (y - 1.0 / 0.7).abs() < 1e-6));
        // Neighbours are independent: the share of pairs of zeros is the square of the rate.
        let pairs = ys.windows(2).filter(|w| w[0] == 0.0 && w[1] == 0.0).count() as f64 / ys.len() as f64;
        assert!((pairs - 0.09).abs() < 0.01, "{pairs}");
    }

    #[test]
    fn drop_path_drops_whole_rows() {
        let xs = Tensor::ones((1000, 3), candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();
        let ys = drop_path(&xs, 0.25, &mut train()).unwrap().to_vec2::<f32>().unwrap();
        assert!(ys.iter().all(|row| row.iter().all(|y| *y == row[0])));
        let dropped = ys.iter().filter(|row| row[0] == 0.0).count();
        assert!((200..300).contains(&dropped), "{dropped}");
    }

    #[test]
    fn evaluation_is_the_identity() {
        let xs = twin::random(1, &[4, 3]);
        let same = |ys: Tensor| assert_eq!(ys.to_vec2::<f64>().unwrap(), xs.to_vec2::<f64>().unwrap());
        same(dropout(&xs, 0.5, &mut Mode::eval()).unwrap());
        same(drop_path(&xs, 0.5, &mut Mode::eval()).unwrap());
        same(dropout(&xs, 0.0, &mut train()).unwrap());
    }

    #[test]
    fn masks_follow_the_seed() {
        let xs = twin::random(1, &[40, 30]);
        let draw = |mode: &mut Mode| dropout(&xs, 0.5, mode).unwrap().to_vec2::<f64>().unwrap();
        let (mut a, mut b) = (train(), train());
        assert_eq!(draw(&mut a), draw(&mut b));
        assert_ne!(draw(&mut a), draw(&mut train()));
    }

    #[test]
    fn both_devices_paths_share_one_mask() {
        let narrow = twin::random(1, &[40, 30]).to_dtype(candle_core::DType::F32).unwrap();
        let wide = narrow.to_dtype(candle_core::DType::F64).unwrap();
        let zeros = |xs: &Tensor| {
            let ys = dropout(xs, 0.5, &mut train()).unwrap().to_dtype(candle_core::DType::F64).unwrap();
            ys.to_vec2::<f64>().unwrap().concat().iter().map(|y| *y == 0.0).collect::<Vec<_>>()
        };
        assert_eq!(zeros(&narrow), zeros(&wide));
    }
}
