//! One update of one parameter by Adam or AdamW: the fused pass and its composed twin, and the gradient's norm.
//!
//! The formula and its source stand in [`crate::optimizer`]. Scalars are computed in `f64` and rounded to `f32` once, as
//! PyTorch does; the arrays are `f32`.

use std::cell::RefCell;

use candle_core::{CpuStorage, DType, InplaceOp2, Layout, Result, Storage, Tensor, Var, bail};
use rayon::prelude::*;

/// Elements that one task updates or sums: about 64 KiB of each of the four arrays.
const CHUNK: usize = 16 * 1024;

/// The numbers of one update.
#[derive(Clone, Copy)]
pub(crate) struct Coefficients {
    /// Factor of the gradient, below 1 where it is clipped.
    pub(crate) grad_scale: f64,
    /// Share of the weight that is added to the gradient (Adam).
    pub(crate) l2: f64,
    /// Factor of the weight (AdamW).
    pub(crate) shrink: f64,
    /// Decay of the running square.
    pub(crate) beta2: f64,
    /// `1 − β1`.
    pub(crate) one_minus_beta1: f64,
    /// `1 − β2`.
    pub(crate) one_minus_beta2: f64,
    /// `lr / (1 − β1ᵗ)`.
    pub(crate) step_size: f64,
    /// `√(1 − β2ᵗ)`.
    pub(crate) bias_correction2_sqrt: f64,
    /// Added to the denominator.
    pub(crate) eps: f64,
}

/// The update of one parameter from tensor operations, on any device and in any floating type.
pub(crate) fn update_composed(
    var: &Var,
    grad: &Tensor,
    mean: &mut Tensor,
    square: &mut Tensor,
    c: &Coefficients,
) -> Result<()> {
    let p = var.as_detached_tensor().to_dtype(DType::F32)?;
    let mut g = (grad.detach().to_dtype(DType::F32)? * c.grad_scale)?;
    if c.l2 != 0.0 {
        g = (g + (&p * c.l2)?)?;
    }
    *mean = (&*mean + ((&g - &*mean)? * c.one_minus_beta1)?)?;
    *square = ((&*square * c.beta2)? + (g.sqr()? * c.one_minus_beta2)?)?;
    let denominator = ((square.sqrt()? / c.bias_correction2_sqrt)? + c.eps)?;
    let p = ((p * c.shrink)? - ((&*mean * c.step_size)? / denominator)?)?;
    var.set(&p.to_dtype(var.dtype())?)
}

/// The same in one pass over the four arrays: `var`, `grad`, `mean` and `square` are `f32` on the CPU, contiguous.
pub(crate) fn update_fused(
    var: &Var,
    grad: &Tensor,
    mean: &mut Vec<f32>,
    square: &mut Vec<f32>,
    c: Coefficients,
) -> Result<()> {
    var.inplace_op2(grad, &FusedPass { moments: RefCell::new((mean, square)), c })
}

/// [`update_fused`] as candle's in-place operation.
struct FusedPass<'a> {
    /// The operation is called by shared reference but owns the moments for the one call.
    moments: RefCell<(&'a mut Vec<f32>, &'a mut Vec<f32>)>,
    c: Coefficients,
}

impl InplaceOp2 for FusedPass<'_> {
    fn name(&self) -> &'static str {
        "adam"
    }

    fn cpu_fwd(&self, p: &mut CpuStorage, pl: &Layout, g: &CpuStorage, gl: &Layout) -> Result<()> {
        let (CpuStorage::F32(p), CpuStorage::F32(g)) = (p, g) else {
            bail!("adam: the fused pass takes f32");
        };
        let (Some((p_start, p_end)), Some((g_start, g_end))) = (pl.contiguous_offsets(), gl.contiguous_offsets())
        else {
            bail!("adam: the fused pass takes contiguous tensors");
        };
        let (p, g) = (&mut p[p_start..p_end], &g[g_start..g_end]);
        let moments = &mut *self.moments.borrow_mut();
        let (mean, square) = (moments.0.as_mut_slice(), moments.1.as_mut_slice());
        let (arch, c) = (pulp::Arch::new(), self.c);
        p.par_chunks_mut(CHUNK)
            .zip(g.par_chunks(CHUNK))
            .zip(mean.par_chunks_mut(CHUNK).zip(square.par_chunks_mut(CHUNK)))
            .for_each(|((p, g), (mean, square))| arch.dispatch(|| update_chunk(p, g, mean, square, &c)));
        Ok(())
    }
}

/// One chunk of the fused pass: plain scalar code, compiled for the widest vectors the machine has.
#[inline(always)]
fn update_chunk(p: &mut [f32], g: &[f32], mean: &mut [f32], square: &mut [f32], c: &Coefficients) {
    let (grad_scale, l2, shrink) = (c.grad_scale as f32, c.l2 as f32, c.shrink as f32);
    let (beta2, one_minus_beta1, one_minus_beta2) =
        (c.beta2 as f32, c.one_minus_beta1 as f32, c.one_minus_beta2 as f32);
    let (step_size, correction, eps) = (c.step_size as f32, c.bias_correction2_sqrt as f32, c.eps as f32);
    for (((p, g), m), v) in p.iter_mut().zip(g).zip(mean).zip(square) {
        let g = *g * grad_scale + l2 * *p;
        *m += one_minus_beta1 * (g - *m);
        *v = beta2 * *v + one_minus_beta2 * g * g;
        *p = *p * shrink - step_size * *m / (v.sqrt() / correction + eps);
    }
}

/// Sum of the squared elements, in `f64` over chunks of fixed size: the same whatever the number of threads.
pub(crate) fn sum_of_squares(xs: &Tensor) -> Result<f64> {
    let (storage, layout) = xs.storage_and_layout();
    if let (Storage::Cpu(CpuStorage::F32(data)), Some((start, end))) = (&*storage, layout.contiguous_offsets()) {
        let arch = pulp::Arch::new();
        let partial: Vec<f64> =
            data[start..end].par_chunks(CHUNK).map(|chunk| arch.dispatch(|| chunk_sum_of_squares(chunk))).collect();
        return Ok(partial.iter().sum());
    }
    drop(storage);
    Ok(f64::from(xs.to_dtype(DType::F32)?.sqr()?.sum_all()?.to_scalar::<f32>()?))
}

/// Sixteen running sums, so that the additions do not wait for each other.
#[inline(always)]
fn chunk_sum_of_squares(xs: &[f32]) -> f64 {
    let mut sums = [0f64; 16];
    let (blocks, rest) = xs.as_chunks::<16>();
    for block in blocks {
        for (sum, x) in sums.iter_mut().zip(block) {
            *sum += f64::from(*x) * f64::from(*x);
        }
    }
    sums.iter().sum::<f64>() + rest.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>()
}
