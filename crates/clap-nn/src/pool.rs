//! Average pooling with the channels last (`torch.nn.functional.avg_pool2d` of a permuted map).

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use crate::cpu::{Elements, fusible, gradient, parallel, slice, vectorise::vectorised};

/// The mean of 2x2 neighbours: (B, H, W, C) → (B, H/2, W/2, C). The last row and column of odd sizes are left out, as torch does.
pub fn avg_pool_2x2(xs: &Tensor) -> Result<Tensor> {
    let (_, height, width, _) = xs.dims4()?;
    if height < 2 || width < 2 {
        candle_core::bail!("2x2 pooling cannot take {:?}", xs.shape());
    }
    if fusible(&[xs]) && xs.elem_count() > 0 { xs.contiguous()?.apply_op1(Fused) } else { avg_pool_2x2_composed(xs) }
}

/// [`avg_pool_2x2`] in candle's operations.
pub fn avg_pool_2x2_composed(xs: &Tensor) -> Result<Tensor> {
    let (b, height, width, c) = xs.dims4()?;
    let (rows, columns) = (height / 2, width / 2);
    xs.narrow(1, 0, 2 * rows)?
        .narrow(2, 0, 2 * columns)?
        .contiguous()?
        .reshape(&[b, rows, 2, columns, 2, c])?
        .sum(4)?
        .sum(2)? // (B, H/2, W/2, C)
        * 0.25
}

struct Fused;

const NAME: &str = "avg_pool_2x2";

/// Sizes of a map, whole and pooled.
#[derive(Clone, Copy)]
struct Sizes {
    height: usize,
    rows: usize,
    /// Elements of one row of the map, and of those of its columns that are pooled.
    line: usize,
    pooled_line: usize,
    channels: usize,
}

impl Sizes {
    fn of(shape: &Shape) -> Result<Self> {
        let (_, height, width, channels) = shape.dims4()?;
        Ok(Self { height, rows: height / 2, line: width * channels, pooled_line: width / 2 * channels, channels })
    }

    /// The place of pooled row `index` in the maps, both of its rows.
    fn source(&self, index: usize) -> usize {
        (index / self.rows * self.height + index % self.rows * 2) * self.line
    }
}

impl CustomOp1 for Fused {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let xs = slice(storage, layout, NAME)?;
        let (batch, height, width, channels) = layout.shape().dims4()?;
        let sizes = Sizes::of(layout.shape())?;
        let line = sizes.pooled_line;
        let ys = parallel::build(batch * sizes.rows * line, parallel::rows_per_task(4 * line) * line, |start, ys| {
            for (i, ys) in ys.chunks_exact_mut(line).enumerate() {
                let lines = &xs[sizes.source(start / line + i)..][..2 * sizes.line];
                pool_line(ys, lines, sizes.line, sizes.channels);
            }
        });
        Ok((CpuStorage::F32(ys), (batch, height / 2, width / 2, channels).into()))
    }

    fn bwd(&self, xs: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let sizes = Sizes::of(xs.shape())?;
        let grads = Elements::of(&grad, NAME);
        let grads = grads.get()?;
        let line = sizes.line;
        let dxs = parallel::build(xs.elem_count(), parallel::rows_per_task(line) * line, |start, dxs| {
            for (i, dxs) in dxs.chunks_exact_mut(line).enumerate() {
                let row = start / line + i;
                let (map, row) = (row / sizes.height, row % sizes.height / 2);
                // The row that was left out keeps its zeros.
                if row < sizes.rows {
                    let grads = &grads[(map * sizes.rows + row) * sizes.pooled_line..][..sizes.pooled_line];
                    spread_line(dxs, grads, sizes.channels);
                }
            }
        });
        gradient(dxs, xs)
    }
}

vectorised! {
    /// A pooled row of two rows, each `line` long.
    fn pool_line(ys: &mut [f32], lines: &[f32], line: usize, channels: usize) {
        let (above, below) = lines.split_at(line);
        for (column, ys) in ys.chunks_exact_mut(channels).enumerate() {
            let at = 2 * column * channels;
            let (a, b) = (&above[at..][..2 * channels], &below[at..][..2 * channels]);
            for (c, y) in ys.iter_mut().enumerate() {
                *y = ((a[c] + a[channels + c]) + (b[c] + b[channels + c])) * 0.25;
            }
        }
    }
}

vectorised! {
    /// A quarter of each pooled gradient for both of its columns.
    fn spread_line(dxs: &mut [f32], grads: &[f32], channels: usize) {
        for (pair, grads) in dxs.chunks_exact_mut(2 * channels).zip(grads.chunks_exact(channels)) {
            for (c, grad) in grads.iter().enumerate() {
                let share = grad * 0.25;
                pair[c] = share;
                pair[channels + c] = share;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::twin;

    #[test]
    fn twins_agree_on_even_and_odd_sizes() {
        for shape in [[2, 4, 6, 3], [1, 7, 5, 2], [3, 2, 2, 1], [2, 101, 9, 40]] {
            twin::check_twins(&[&shape], 2e-6, |xs| avg_pool_2x2(&xs[0]), |xs| avg_pool_2x2_composed(&xs[0]));
        }
    }

    #[test]
    fn composed_gradients_follow_finite_differences() {
        twin::check_gradient(&[&[2, 5, 4, 3]], |xs| avg_pool_2x2_composed(&xs[0]));
    }

    #[test]
    fn a_map_without_two_rows_is_an_error() {
        let xs = Tensor::zeros((1, 1, 4, 2), candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();
        assert!(avg_pool_2x2(&xs).is_err());
    }
}
