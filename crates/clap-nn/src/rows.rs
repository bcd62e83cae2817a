//! One row for all positions of a map: the mean over the positions, and a row added to each of them.
//!
//! candle's mean over a middle dimension and its broadcast sum run on one thread, element by element through the strides.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::cpu::{Elements, fusible, gradient, math, parallel, slice, vectorise::vectorised};

/// The mean over positions: (B, positions, C) → (B, C).
pub fn mean_rows(xs: &Tensor) -> Result<Tensor> {
    let (_, positions, channels) = xs.dims3()?;
    if fusible(&[xs]) && positions * channels > 0 {
        xs.contiguous()?.apply_op1(MeanRows(Map { positions, channels }))
    } else {
        xs.mean(1)
    }
}

/// A row added at every position: (B, positions, C) and (B, C) → (B, positions, C).
pub fn add_rows(xs: &Tensor, rows: &Tensor) -> Result<Tensor> {
    let (batch, positions, channels) = xs.dims3()?;
    if rows.dims() != [batch, channels] {
        candle_core::bail!("rows of {:?} cannot be added to maps of {:?}", rows.shape(), xs.shape());
    }
    if fusible(&[xs, rows]) && positions * channels > 0 {
        xs.contiguous()?.apply_op2(&rows.contiguous()?, AddRows(Map { positions, channels }))
    } else {
        add_rows_composed(xs, rows)
    }
}

/// [`add_rows`] in candle's operations.
fn add_rows_composed(xs: &Tensor, rows: &Tensor) -> Result<Tensor> {
    xs.broadcast_add(&rows.unsqueeze(1)?)
}

/// Sizes of one map, none of them zero.
#[derive(Clone, Copy)]
struct Map {
    positions: usize,
    channels: usize,
}

impl Map {
    fn len(self) -> usize {
        self.positions * self.channels
    }

    /// Positions of one task: a map is cut, or a batch of one would have one thread.
    fn positions_per_task(self) -> usize {
        parallel::rows_per_task(self.channels).min(self.positions)
    }

    /// The sums over positions: (B, positions, C) → (B, C), in `f64` over the parts of a map.
    fn sums(self, xs: &[f32]) -> Vec<f64> {
        let part = self.positions_per_task() * self.channels;
        let sum_part = |xs: &[f32]| {
            let mut sums = vec![0.0; self.channels];
            add_up(&mut sums, xs);
            sums
        };
        let maps = xs.par_chunks(self.len()).map(|map| {
            let parts: Vec<Vec<f32>> = map.par_chunks(part).map(sum_part).collect();
            let mut total = vec![0f64; self.channels];
            for part in parts {
                total.iter_mut().zip(part).for_each(|(total, part)| *total += f64::from(part));
            }
            total
        });
        maps.collect::<Vec<_>>().concat()
    }

    /// Each position's row with the map's row added: `xs` (B, positions, C) or zeros, `rows` (B, C).
    fn spread(self, len: usize, xs: Option<&[f32]>, rows: &[f32]) -> Vec<f32> {
        let part = self.positions_per_task() * self.channels;
        parallel::build(len, part, |start, ys| {
            if let Some(xs) = xs {
                ys.copy_from_slice(&xs[start..start + ys.len()]);
            }
            // A part may end one map and begin the next.
            for (index, y) in ys.chunks_exact_mut(self.channels).enumerate() {
                let map = (start / self.channels + index) / self.positions;
                add_row(y, &rows[map * self.channels..][..self.channels]);
            }
        })
    }
}

struct MeanRows(Map);

const MEAN: &str = "mean_rows";

impl CustomOp1 for MeanRows {
    fn name(&self) -> &'static str {
        MEAN
    }

    fn cpu_fwd(&self, xs: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let sums = self.0.sums(slice(xs, layout, MEAN)?);
        let ys = sums.into_iter().map(|sum| (sum / self.0.positions as f64) as f32).collect();
        Ok((CpuStorage::F32(ys), Shape::from((layout.dims()[0], self.0.channels))))
    }

    fn bwd(&self, xs: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = (grad / self.0.positions as f64)?.contiguous()?;
        let grad = Elements::of(&grad, MEAN);
        gradient(self.0.spread(xs.elem_count(), None, grad.get()?), xs)
    }
}

struct AddRows(Map);

const ADD: &str = "add_rows";

impl CustomOp2 for AddRows {
    fn name(&self) -> &'static str {
        ADD
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        layout: &Layout,
        rows: &CpuStorage,
        rows_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let xs = slice(xs, layout, ADD)?;
        let ys = self.0.spread(xs.len(), Some(xs), slice(rows, rows_layout, ADD)?);
        Ok((CpuStorage::F32(ys), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, rows: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let elements = Elements::of(&grad, ADD);
        let drows = self.0.sums(elements.get()?).into_iter().map(|sum| sum as f32).collect();
        drop(elements);
        Ok((Some(grad), gradient(drows, rows)?))
    }
}

vectorised! {
    /// Adds the rows of `xs` to `sums`.
    fn add_up(sums: &mut [f32], xs: &[f32]) {
        for row in xs.chunks_exact(sums.len()) {
            math::add_assign(sums, row);
        }
    }
}

vectorised! {
    /// `ys += row`.
    fn add_row(ys: &mut [f32], row: &[f32]) {
        math::add_assign(ys, row);
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::twin;

    const SHAPES: [[usize; 3]; 4] = [[3, 5, 7], [2, 3000, 33], [1, 1, 1], [5, 40_000, 3]];

    #[test]
    fn twins_agree() {
        for shape in SHAPES {
            let map = Map { positions: shape[1], channels: shape[2] };
            twin::check_twins(&[&shape], 1e-5, |xs| xs[0].apply_op1(MeanRows(map)), |xs| xs[0].mean(1));
            let rows = [shape[0], shape[2]];
            let fused = |xs: &[Tensor]| xs[0].apply_op2(&xs[1], AddRows(map));
            twin::check_twins(&[&shape, &rows], 1e-5, fused, |xs| add_rows_composed(&xs[0], &xs[1]));
        }
    }

    #[test]
    fn composed_gradients_follow_finite_differences() {
        twin::check_gradient(&[&[2, 3, 4], &[2, 4]], |xs| add_rows_composed(&xs[0], &xs[1]));
    }

    #[test]
    fn misfits_are_errors() {
        let zeros = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &Device::Cpu).unwrap();
        let error = add_rows(&zeros(&[2, 3, 4]), &zeros(&[1, 4])).unwrap_err();
        assert!(error.to_string().contains("cannot be added to maps of"), "{error}");
        assert_eq!(add_rows(&zeros(&[0, 3, 4]), &zeros(&[0, 4])).unwrap().dims(), [0, 3, 4]);
        assert_eq!(mean_rows(&zeros(&[0, 3, 4])).unwrap().dims(), [0, 4]);
    }
}
