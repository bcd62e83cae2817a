//! The similarity matrix, one block of rows at a time.
//!
//! A split of 100,000 clips and 500,000 captions has a matrix of 200 GB; a block of its rows is bounded by
//! [`BLOCK_ELEMENTS`] whatever the size of the split.

use candle_core::{DType, Storage, Tensor};

use crate::error::{Error, Result};

/// Scores kept at once: 64 MiB of `f32`.
const BLOCK_ELEMENTS: usize = 1 << 24;

/// Rows of one block for a given number of candidates.
pub(crate) fn rows_per_block(candidates: usize) -> usize {
    (BLOCK_ELEMENTS / candidates.max(1)).max(1)
}

/// A matrix of embeddings that was checked: `(rows, width)`, `f32`, not empty, finite.
pub(crate) struct Embeddings {
    pub(crate) what: &'static str,
    pub(crate) rows: usize,
    pub(crate) width: usize,
    /// Greatest magnitude of a value.
    greatest: f32,
    pub(crate) matrix: Tensor,
}

impl Embeddings {
    pub(crate) fn new(what: &'static str, embeddings: &Tensor) -> Result<Self> {
        let &[rows, width] = embeddings.dims() else {
            return Err(Error::NotAMatrix { what, shape: embeddings.dims().to_vec() });
        };
        if rows == 0 || width == 0 {
            return Err(Error::Empty { what });
        }
        let matrix = embeddings.detach().to_dtype(DType::F32)?.contiguous()?;
        let step = rows_per_block(width);
        let mut greatest = 0f32;
        for first in (0..rows).step_by(step) {
            let block = matrix.narrow(0, first, step.min(rows - first))?.flatten_all()?.to_vec1::<f32>()?;
            if let Some(at) = block.iter().position(|v| !v.is_finite()) {
                return Err(Error::NotFinite { what, row: first + at / width, column: at % width, value: block[at] });
            }
            greatest = block.iter().fold(greatest, |m, v| m.max(v.abs()));
        }
        Ok(Self { what, rows, width, greatest, matrix })
    }

    /// Calls `visit(row, scores)` for each block: `scores` holds whole rows of `self · candidatesᵀ`, row-major, and `row` is
    /// the first of them.
    pub(crate) fn for_each_block(
        &self,
        candidates: &Self,
        rows_per_block: usize,
        mut visit: impl FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        check_product(self, candidates)?;
        let transposed = candidates.matrix.t()?;
        for first in (0..self.rows).step_by(rows_per_block.max(1)) {
            let rows = rows_per_block.min(self.rows - first);
            let scores = self.matrix.narrow(0, first, rows)?.matmul(&transposed)?; // (rows, candidates)
            with_scores(&scores, |scores| visit(first, scores))??;
        }
        Ok(())
    }
}

/// Whether the two sides have products, and finite ones.
pub(crate) fn check_product(left: &Embeddings, right: &Embeddings) -> Result<()> {
    if left.width != right.width {
        return Err(Error::WidthMismatch {
            left: left.what,
            left_width: left.width,
            right: right.what,
            right_width: right.width,
        });
    }
    // No partial sum of a score exceeds this, so that every score is finite.
    let bound = left.width as f64 * f64::from(left.greatest) * f64::from(right.greatest);
    if bound > f64::from(f32::MAX) {
        return Err(Error::TooGreat { left: left.what, right: right.what });
    }
    Ok(())
}

/// Shows the numbers of a fresh product, without a copy where they are in this memory.
pub(crate) fn with_scores<T>(scores: &Tensor, visit: impl FnOnce(&[f32]) -> T) -> Result<T> {
    let (storage, layout) = scores.storage_and_layout();
    if let (Storage::Cpu(storage), Some((first, last))) = (&*storage, layout.contiguous_offsets()) {
        return Ok(visit(&storage.as_slice::<f32>()?[first..last]));
    }
    drop(storage);
    Ok(visit(&scores.flatten_all()?.to_vec1::<f32>()?))
}

/// Rows divided by their L2 norms; a model's own embeddings are already.
///
/// # Errors
/// A row that is zero or not finite; embeddings that are no matrix.
pub fn unit_rows(what: &'static str, embeddings: &Tensor) -> Result<Tensor> {
    let checked = Embeddings::new(what, embeddings)?;
    let norms = checked.matrix.sqr()?.sum_keepdim(1)?.sqrt()?; // (rows, 1)
    if let Some(row) = norms.flatten_all()?.to_vec1::<f32>()?.iter().position(|&n| n == 0.0) {
        return Err(Error::ZeroRow { what, row });
    }
    Ok(checked.matrix.broadcast_div(&norms)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn matrix(rows: usize, width: usize) -> Tensor {
        let values: Vec<f32> = (0..rows * width).map(|i| ((i * 7919) % 101) as f32 / 50.0 - 1.0).collect();
        Tensor::from_vec(values, (rows, width), &Device::Cpu).unwrap()
    }

    #[test]
    fn blocks_cover_the_matrix_once() {
        let (a, b) = (matrix(7, 3), matrix(5, 3));
        let whole: Vec<f32> = a.matmul(&b.t().unwrap()).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        for rows in [1, 2, 7, 100] {
            let mut seen = Vec::new();
            let (left, right) = (Embeddings::new("audio", &a).unwrap(), Embeddings::new("text", &b).unwrap());
            left.for_each_block(&right, rows, |first, scores| {
                assert_eq!(first * 5, seen.len());
                seen.extend_from_slice(scores);
                Ok(())
            })
            .unwrap();
            assert_eq!(seen.len(), whole.len());
            assert!(seen.iter().zip(&whole).all(|(x, y)| (x - y).abs() < 1e-6));
        }
    }

    #[test]
    fn block_is_bounded() {
        assert_eq!(rows_per_block(500_000) * 500_000 / BLOCK_ELEMENTS, 0);
        assert_eq!(rows_per_block(usize::MAX), 1);
    }

    #[test]
    fn bad_embeddings_are_named() {
        let nan = Tensor::new(&[[0f32, 1.0], [f32::NAN, 0.0]], &Device::Cpu).unwrap();
        let error = Embeddings::new("audio", &nan).err().unwrap().to_string();
        assert!(error.contains("audio embedding 1 is not finite"), "{error}");
        let empty = Tensor::zeros((0, 4), DType::F32, &Device::Cpu).unwrap();
        assert!(matches!(Embeddings::new("text", &empty), Err(Error::Empty { what: "text" })));
        let huge = Tensor::new(&[[1e30f32, 0.0]], &Device::Cpu).unwrap();
        let huge = Embeddings::new("audio", &huge).unwrap();
        let error = huge.for_each_block(&huge, 1, |_, _| Ok(())).unwrap_err().to_string();
        assert!(error.contains("normalise"), "{error}");
        let cube = Tensor::zeros((1, 2, 3), DType::F32, &Device::Cpu).unwrap();
        assert!(matches!(Embeddings::new("text", &cube), Err(Error::NotAMatrix { .. })));
    }

    #[test]
    fn unit_rows_have_norm_one() {
        let t = Tensor::new(&[[3f32, 4.0], [0.0, -2.0]], &Device::Cpu).unwrap();
        assert_eq!(unit_rows("text", &t).unwrap().to_vec2::<f32>().unwrap(), [[0.6, 0.8], [0.0, -1.0]]);
        let zero = Tensor::new(&[[3f32, 4.0], [0.0, 0.0]], &Device::Cpu).unwrap();
        assert!(matches!(unit_rows("text", &zero), Err(Error::ZeroRow { row: 1, .. })));
    }
}
