//! The symmetric cross-entropy of matching rows, without the whole matrix of their products: InfoNCE in both directions.
//!
//! Van den Oord et al., "Representation Learning with Contrastive Predictive Coding" (arXiv 1807.03748); in both directions, with one
//! factor, Radford et al., "CLIP" (arXiv 2103.00020), figure 3.
//!
//! The fused form goes through the matrix by blocks of whole rows. Its forward pass keeps the peak of each row and column and the sum of
//! exponentials below it, from which the backward pass makes each block of softmaxes again: a fourth matrix product instead of memory that grows
//! with the square of the batch.

use candle_core::{CpuStorage, CustomOp3, D, DType, Device, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::cpu::product::{Matrix, MatrixMut, Threads};
use crate::cpu::{Elements, fusible, math, packed::Lengths, slice, vectorise::vectorised};

/// Elements of the block of products: 16 MB. One row is the least, whatever its length.
const BLOCK: usize = 4 * 1024 * 1024;

/// Columns of one task.
const GROUP: usize = 64;

/// `½ · (cross_entropy(L, 0..B) + cross_entropy(Lᵀ, 0..B))` for `L = scale · xs · ysᵀ`, each the mean over rows; a scalar.
///
/// `xs` and `ys` are `(B, D)`, row `i` of one belonging to row `i` of the other; `scale` has one element.
///
/// # Errors
/// Where the shapes differ.
pub fn info_nce(xs: &Tensor, ys: &Tensor, scale: &Tensor) -> Result<Tensor> {
    let ones = Tensor::ones(xs.dim(0)?, DType::F32, &Device::Cpu)?;
    weighted_info_nce(xs, ys, scale, [&ones, &ones])
}

/// [`info_nce`] with weighted means, as `torch.nn.functional.cross_entropy` takes them with a `weight` for each class: `weights` are those
/// of the rows of `L` and of its columns, `(B)` each, above zero; only their proportions count. They are constants to the gradient.
///
/// # Errors
/// Where the shapes differ.
pub fn weighted_info_nce(xs: &Tensor, ys: &Tensor, scale: &Tensor, weights: [&Tensor; 2]) -> Result<Tensor> {
    if fusible(&[xs, ys, scale]) && xs.dims2()? == ys.dims2()? && xs.elem_count() > 0 {
        let (xs, ys, scale) = (xs.contiguous()?, ys.contiguous()?, scale.reshape(1)?.contiguous()?);
        let [rows, columns] = weights.map(|weights| around_one(weights, &xs)?.to_device(&Device::Cpu)?.to_vec1());
        xs.apply_op3(&ys, &scale, Fused { block: BLOCK, rows: rows?, columns: columns? })?.get(0)
    } else {
        weighted_info_nce_composed(xs, ys, scale, weights)
    }
}

/// Weights `(B)` in proportion, with a mean of one: constants of the type and on the device of `xs`.
fn around_one(weights: &Tensor, xs: &Tensor) -> Result<Tensor> {
    if weights.dims() != &xs.dims()[..1] {
        bail!("info-nce: weights are {:?}, the batch has {} rows", weights.shape(), xs.dim(0)?);
    }
    let weights = weights.detach().to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
    let mean = weights.mean_all()?.to_scalar::<f64>()?;
    (weights / mean)?.to_dtype(xs.dtype())?.to_device(xs.device())
}

/// [`info_nce`] in candle's operations.
///
/// # Errors
/// Where the shapes differ.
pub fn info_nce_composed(xs: &Tensor, ys: &Tensor, scale: &Tensor) -> Result<Tensor> {
    let ones = Tensor::ones(xs.dim(0)?, DType::F32, &Device::Cpu)?;
    weighted_info_nce_composed(xs, ys, scale, [&ones, &ones])
}

/// [`weighted_info_nce`] in candle's operations.
///
/// # Errors
/// Where the shapes differ.
pub fn weighted_info_nce_composed(xs: &Tensor, ys: &Tensor, scale: &Tensor, weights: [&Tensor; 2]) -> Result<Tensor> {
    let (batch, _) = xs.dims2()?;
    let [row_weights, column_weights] = weights.map(|weights| around_one(weights, xs));
    let (row_weights, column_weights) = (row_weights?, column_weights?);
    let scale = scale.reshape(())?;
    let logits = xs.matmul(&ys.t()?)?.broadcast_mul(&scale)?; // (B, B)
    // cross_entropy(L, i) = logsumexp(L[i, :]) - L[i, i]; both directions share the diagonal.
    let own = (xs * ys)?.sum(D::Minus1)?.broadcast_mul(&scale)?; // (B,)
    let rows = log_sum_exp(&logits, 1)?;
    let columns = log_sum_exp(&logits, 0)?;
    let losses = ((rows - &own)? * row_weights)?.add(&((columns - &own)? * column_weights)?)?;
    losses.sum_all()? * (0.5 / batch as f64)
}

/// `log Σ exp` along `dim`, shifted by the maximum so that a scale of 100 cannot overflow.
///
/// The shift is a constant to the gradient: it cancels, and a differentiated maximum would only add rounding.
fn log_sum_exp(xs: &Tensor, dim: usize) -> Result<Tensor> {
    let shift = xs.max_keepdim(dim)?.detach();
    let sum = xs.broadcast_sub(&shift)?.exp()?.sum(dim)?;
    sum.log()? + shift.squeeze(dim)?
}

/// The loss, then the [`Sums`] of the rows and of the columns of `L`: `(1 + 4B)`, of which only the loss is for others.
struct Fused {
    /// Elements of a block.
    block: usize,
    /// Weights of the rows of `L`, with a mean of one.
    rows: Vec<f32>,
    /// Weights of its columns.
    columns: Vec<f32>,
}

/// The operands, with what does not change over blocks.
#[derive(Clone, Copy)]
struct Operands<'a> {
    xs: &'a [f32],
    ys: &'a [f32],
    scale: f32,
    width: usize,
}

impl<'a> Operands<'a> {
    fn batch(&self) -> usize {
        self.xs.len() / self.width
    }

    /// Rows of `matrix` (`xs`, `ys` or of their shape) from `first` on.
    fn rows(&self, matrix: &'a [f32], first: usize, rows: usize) -> Matrix<'a> {
        Matrix::new(&matrix[first * self.width..][..rows * self.width], rows, self.width)
    }

    /// The products of the rows of `xs` from `first` on with all of `ys`, times `scale`.
    fn products(&self, first: usize, block: &mut [f32], scale: f32) {
        let batch = self.batch();
        let rows = block.len() / batch;
        let (xs, ys) = (self.rows(self.xs, first, rows), self.rows(self.ys, 0, batch));
        MatrixMut::new(block, rows, batch).in_f32().set(scale, xs, ys.t(), Threads::All);
    }
}

impl Fused {
    /// Rows of a block.
    fn rows_per_block(&self, batch: usize) -> usize {
        (self.block / batch).clamp(1, batch)
    }

    /// What the loss has of the product of a row with its own column.
    fn own_weight(&self, row: usize) -> f64 {
        0.5 * (f64::from(self.rows[row]) + f64::from(self.columns[row]))
    }
}

impl CustomOp3 for Fused {
    fn name(&self) -> &'static str {
        "info-nce"
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        xs_layout: &Layout,
        ys: &CpuStorage,
        ys_layout: &Layout,
        scale: &CpuStorage,
        scale_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (batch, width) = xs_layout.shape().dims2()?;
        let operands = Operands {
            xs: slice(xs, xs_layout, self.name())?,
            ys: slice(ys, ys_layout, self.name())?,
            scale: slice(scale, scale_layout, self.name())?[0],
            width,
        };
        let rows_per_block = self.rows_per_block(batch);
        let mut block = vec![0.0; rows_per_block * batch];
        let (mut rows, mut columns) = (Sums::new(batch), Sums::new(batch));
        let mut own = 0.0f64;
        for first in (0..batch).step_by(rows_per_block) {
            let block = &mut block[..rows_per_block.min(batch - first) * batch];
            operands.products(first, block, operands.scale);
            for (row, products) in (first..).zip(block.chunks_exact(batch)) {
                own += f64::from(products[row]) * self.own_weight(row);
            }
            rows.set_rows(first, block);
            columns.add_columns(block);
        }
        let loss = (0.5 * (rows.logarithms(&self.rows) + columns.logarithms(&self.columns)) - own) / batch as f64;
        let mut values = vec![loss as f32];
        for part in [rows.peaks, rows.sums, columns.peaks, columns.sums] {
            values.extend(part);
        }
        let shape = Shape::from(values.len());
        Ok((CpuStorage::F32(values), shape))
    }

    fn bwd(
        &self,
        xs: &Tensor,
        ys: &Tensor,
        scale: &Tensor,
        result: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.get(0)?.to_scalar::<f32>()?;
        let elements = [xs, ys, scale, result].map(|tensor| Elements::of(tensor, self.name()));
        let [xs_values, ys_values, scales, sums] = &elements;
        let operands =
            Operands { xs: xs_values.get()?, ys: ys_values.get()?, scale: scales.get()?[0], width: xs.dim(1)? };
        let (width, batch) = (operands.width, operands.batch());
        let [row_peaks, row_sums, column_peaks, column_sums] = Lengths([batch; 4]).split(&sums.get()?[1..]);
        let column_shares: Vec<f32> =
            column_sums.iter().zip(&self.columns).map(|(sum, weight)| 0.5 * weight / sum).collect();

        let rows_per_block = self.rows_per_block(batch);
        let mut block = vec![0.0; rows_per_block * batch];
        let (mut dxs, mut dys) = (vec![0.0; xs.elem_count()], vec![0.0; ys.elem_count()]);
        let mut row_dscales = vec![0.0; batch];
        // d loss / d L of what L is a multiple of.
        let factor = grad / batch as f32;
        for first in (0..batch).step_by(rows_per_block) {
            let rows = rows_per_block.min(batch - first);
            let block = &mut block[..rows * batch];
            operands.products(first, block, 1.0);
            let rows_of_block = block.par_chunks_mut(batch).zip(&mut row_dscales[first..]);
            rows_of_block.enumerate().for_each(|(at, (products, dscale))| {
                let row = first + at;
                let softmax = (row_peaks[row], 0.5 * self.rows[row] / row_sums[row]);
                let own = (row, self.own_weight(row) as f32);
                *dscale = row_gradient(products, own, operands.scale, softmax, (column_peaks, &column_shares));
            });
            let slopes = Matrix::new(block, rows, batch);
            let (xs, ys) = (operands.rows(operands.xs, first, rows), operands.rows(operands.ys, 0, batch));
            let dxs = &mut dxs[first * width..][..rows * width];
            MatrixMut::new(dxs, rows, width).in_f32().set(factor * operands.scale, slopes, ys, Threads::All);
            MatrixMut::new(&mut dys, batch, width).in_f32().add(slopes.t(), xs, Threads::All);
        }
        scale_by(&mut dys, factor * operands.scale);
        let dscale = f64::from(factor) * row_dscales.iter().map(|x| f64::from(*x)).sum::<f64>();
        let tensor = |values, like: &Tensor| Tensor::from_vec(values, like.shape(), &Device::Cpu).map(Some);
        Ok((tensor(dxs, xs)?, tensor(dys, ys)?, tensor(vec![dscale as f32], scale)?))
    }
}

/// What makes softmaxes of logits, for each row or each column.
struct Sums {
    /// The greatest logit.
    peaks: Vec<f32>,
    /// Σ exp(x - peak): kept apart from the peak, for the last digit of their logarithm is many of a softmax.
    sums: Vec<f32>,
}

impl Sums {
    fn new(batch: usize) -> Self {
        Self { peaks: vec![f32::NEG_INFINITY; batch], sums: vec![0.0; batch] }
    }

    /// Takes the rows of a block from `first` on.
    fn set_rows(&mut self, first: usize, block: &[f32]) {
        let batch = self.peaks.len();
        let sums = self.peaks[first..].par_iter_mut().zip(&mut self.sums[first..]);
        sums.zip(block.par_chunks_exact(batch)).for_each(|((peak, sum), row)| {
            *peak = peak_of(row);
            *sum = sum_below(row, *peak);
        });
    }

    /// Takes in the columns of a block of whole rows, which come one after the other.
    fn add_columns(&mut self, block: &[f32]) {
        let batch = self.peaks.len();
        let groups = self.peaks.par_chunks_mut(GROUP).zip(self.sums.par_chunks_mut(GROUP));
        groups.enumerate().for_each(|(group, (peaks, sums))| add_columns(peaks, sums, &block[group * GROUP..], batch));
    }

    /// Σ weight · log Σ exp.
    fn logarithms(&self, weights: &[f32]) -> f64 {
        let logarithms = self.peaks.iter().zip(&self.sums).map(|(peak, sum)| f64::from(*peak) + f64::from(*sum).ln());
        logarithms.zip(weights).map(|(logarithm, weight)| logarithm * f64::from(*weight)).sum()
    }
}

vectorised! {
    /// The columns of `block`, rows `stride` elements apart, into their peaks and sums.
    fn add_columns(peaks: &mut [f32], sums: &mut [f32], block: &[f32], stride: usize) {
        let mut before = [0.0; GROUP];
        let before = &mut before[..peaks.len()];
        before.copy_from_slice(peaks);
        for row in block.chunks(stride) {
            for (peak, x) in peaks.iter_mut().zip(row) {
                *peak = if *x > *peak { *x } else { *peak };
            }
        }
        for ((sum, before), peak) in sums.iter_mut().zip(before).zip(&*peaks) {
            *sum *= math::exp(*before - *peak);
        }
        for row in block.chunks(stride) {
            for ((sum, peak), x) in sums.iter_mut().zip(&*peaks).zip(row) {
                *sum += math::exp(*x - *peak);
            }
        }
    }
}

vectorised! {
    fn peak_of(row: &[f32]) -> f32 {
        math::max(row)
    }
}

vectorised! {
    /// Σ exp(x - peak).
    fn sum_below(row: &[f32], peak: f32) -> f32 {
        let mut sums = [0.0; 16];
        for block in row.chunks(16) {
            for (sum, x) in sums.iter_mut().zip(block) {
                *sum += math::exp(*x - peak);
            }
        }
        math::sum(&sums)
    }
}

vectorised! {
    fn scale_by(xs: &mut [f32], factor: f32) {
        for x in xs {
            *x *= factor;
        }
    }
}

vectorised! {
    /// A row of products `p` becomes the slopes of the loss, times the batch, along `L = scale · p`: half of the row's softmax and half of the
    /// columns', each times its weight, less the weight of the row's own column where it meets that. A softmax is
    /// `exp(L - peak) · share`, with the half and the weight in the share.
    /// Returns the sum of slopes times `p`, the slope along the scale.
    fn row_gradient(
        products: &mut [f32],
        own: (usize, f32),
        scale: f32,
        row: (f32, f32),
        columns: (&[f32], &[f32]),
    ) -> f32 {
        let mut sums = [0.0; 16];
        let (peaks, shares) = (columns.0.chunks(16), columns.1.chunks(16));
        for (group, (products, (peaks, shares))) in products.chunks_mut(16).zip(peaks.zip(shares)).enumerate() {
            for (i, (p, (peak, share))) in products.iter_mut().zip(peaks.iter().zip(shares)).enumerate() {
                let logit = scale * *p;
                let own = if group * 16 + i == own.0 { own.1 } else { 0.0 };
                let slope = math::exp(logit - row.0) * row.1 + (math::exp(logit - *peak) * *share - own);
                sums[i] += slope * *p;
                *p = slope;
            }
        }
        math::sum(&sums)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::twin;

    fn fused(xs: &[Tensor], block: usize) -> Result<Tensor> {
        let weights = vec![1.0; xs[0].dim(0)?];
        weighted(xs, block, weights.clone(), weights)
    }

    fn weighted(xs: &[Tensor], block: usize, rows: Vec<f32>, columns: Vec<f32>) -> Result<Tensor> {
        let op = Fused { block, rows, columns };
        xs[0].contiguous()?.apply_op3(&xs[1].contiguous()?, &xs[2].reshape(1)?, op)?.get(0)
    }

    /// Weights of a batch, neither equal nor symmetric.
    fn uneven(batch: usize, phase: f32) -> Tensor {
        let weights: Vec<f32> = (0..batch).map(|i| 1.5 + (i as f32 * 0.7 + phase).sin()).collect();
        Tensor::from_vec(weights, batch, &Device::Cpu).unwrap()
    }

    #[test]
    fn twins_agree_for_blocks_of_any_size() {
        for (batch, width) in [(1, 3), (2, 1), (5, 7), (64, 16), (150, 20)] {
            for block in [1, 3 * batch, 70 * batch, BLOCK] {
                twin::check_twins(
                    &[&[batch, width], &[batch, width], &[1]],
                    4e-6,
                    |xs| fused(&[xs[0].clone(), xs[1].clone(), (&xs[2] * 9.0)?], block),
                    |xs| info_nce_composed(&xs[0], &xs[1], &(&xs[2] * 9.0)?),
                );
            }
        }
    }

    #[test]
    fn weighted_twins_agree() {
        for (batch, width) in [(1, 3), (5, 7), (64, 16), (150, 20)] {
            let weights = [uneven(batch, 0.3), uneven(batch, 1.9)];
            let scaled = [0, 1].map(|i| around_one(&weights[i], &weights[i]).unwrap().to_vec1::<f32>().unwrap());
            for block in [1, 3 * batch, BLOCK] {
                twin::check_twins(
                    &[&[batch, width], &[batch, width], &[1]],
                    4e-6,
                    |xs| {
                        let xs = [xs[0].clone(), xs[1].clone(), (&xs[2] * 9.0)?];
                        weighted(&xs, block, scaled[0].clone(), scaled[1].clone())
                    },
                    |xs| {
                        let weights = [&weights[0], &weights[1]];
                        weighted_info_nce_composed(&xs[0], &xs[1], &(&xs[2] * 9.0)?, weights)
                    },
                );
            }
        }
    }

    #[test]
    fn composed_gradient_follows_finite_differences() {
        twin::check_gradient(&[&[5, 3], &[5, 3], &[]], |xs| info_nce_composed(&xs[0], &xs[1], &xs[2]));
        let weights = [uneven(5, 0.3), uneven(5, 1.9)];
        let weights = [&weights[0], &weights[1]];
        twin::check_gradient(&[&[5, 3], &[5, 3], &[]], |xs| {
            weighted_info_nce_composed(&xs[0], &xs[1], &xs[2], weights)
        });
    }

    #[test]
    fn weights_count_by_their_proportions() {
        let [xs, ys] = [0.2, 1.1].map(|phase| {
            let values: Vec<f32> = (0..24).map(|i| (i as f32 * 0.9 + phase).sin()).collect();
            Tensor::from_vec(values, (6, 4), &Device::Cpu).unwrap()
        });
        let scale = Tensor::new(3f32, &Device::Cpu).unwrap();
        let (few, many) = (uneven(6, 0.4), (uneven(6, 0.4) * 32.0).unwrap());
        let loss = |weights| weighted_info_nce(&xs, &ys, &scale, weights).unwrap().to_scalar::<f32>().unwrap();
        assert_eq!(loss([&few, &few]), loss([&many, &many]));
        assert_ne!(loss([&few, &few]), info_nce(&xs, &ys, &scale).unwrap().to_scalar::<f32>().unwrap());
        assert!(weighted_info_nce(&xs, &ys, &scale, [&few, &uneven(5, 0.0)]).is_err());
    }

    /// The block is a vector of `rows` rows: its size does not grow with the square of the batch.
    #[test]
    fn blocks_are_bounded() {
        let fused = Fused { block: BLOCK, rows: Vec::new(), columns: Vec::new() };
        for (batch, rows) in [(8, 8), (2048, 2048), (4608, 910), (100_000, 41), (8_000_000, 1)] {
            assert_eq!(fused.rows_per_block(batch), rows);
        }
    }

    #[test]
    fn the_greatest_scale_does_not_overflow_whatever_the_blocks() {
        let same = Tensor::eye(4, candle_core::DType::F32, &Device::Cpu).unwrap();
        let opposite = same.neg().unwrap();
        let scale = Tensor::new(100f32, &Device::Cpu).unwrap();
        for block in [1, BLOCK] {
            let right = fused(&[same.clone(), same.clone(), scale.clone()], block).unwrap().to_scalar::<f32>().unwrap();
            let wrong = fused(&[same.clone(), opposite.clone(), scale.clone()], block).unwrap();
            assert!(right.abs() < 1e-6, "{right}");
            assert!((wrong.to_scalar::<f32>().unwrap() - (100.0 + 3f32.ln())).abs() < 1e-3, "{wrong}");
        }
    }

    #[test]
    fn nan_is_handed_on() {
        let xs = Tensor::new(&[[1f32, 0.0], [f32::NAN, 1.0]], &Device::Cpu).unwrap();
        let loss = info_nce(&xs, &xs.zeros_like().unwrap(), &Tensor::new(1f32, &Device::Cpu).unwrap()).unwrap();
        assert!(loss.to_scalar::<f32>().unwrap().is_nan());
    }

    #[test]
    fn other_shapes_are_refused() {
        let zeros = |shape: (usize, usize)| Tensor::zeros(shape, candle_core::DType::F32, &Device::Cpu).unwrap();
        let scale = Tensor::new(1f32, &Device::Cpu).unwrap();
        assert!(info_nce(&zeros((3, 2)), &zeros((4, 2)), &scale).is_err());
        assert!(info_nce(&zeros((3, 2)), &zeros((3, 3)), &scale).is_err());
    }
}
