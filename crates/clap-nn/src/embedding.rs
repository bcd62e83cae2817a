//! Table look-up.

use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};

/// Rows of a table, by index.
#[derive(Clone, Debug)]
pub struct Embedding {
    weight: Tensor,
    padding: Option<u32>,
}

impl Embedding {
    /// A table of `n` rows of width `d`, under `weight`, which begins as `init` says.
    pub fn new(n: usize, d: usize, init: Init, vb: VarBuilder<'_>) -> Result<Self> {
        Ok(Self { weight: vb.get_with_hints((n, d), "weight", init)?, padding: None })
    }

    /// From an existing table (n, d).
    pub fn from_parts(weight: Tensor) -> Self {
        Self { weight, padding: None }
    }

    /// The same table, whose row `id` is read and not trained: torch's `padding_idx`.
    #[must_use]
    pub fn with_padding(self, id: u32) -> Self {
        Self { padding: Some(id), ..self }
    }

    /// The table (n, d).
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// Number of rows.
    pub fn rows(&self) -> Result<usize> {
        self.weight.dim(0)
    }

    /// The rows of `ids` (…) of any integer type: (…, d). An index outside of the table is an error.
    pub fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        let (_, d) = self.weight.dims2()?;
        let mut dims = ids.dims().to_vec();
        dims.push(d);
        let ids = ids.flatten_all()?.contiguous()?;
        let rows = self.weight.index_select(&ids, 0)?; // (ids, d)
        let rows = match self.padding {
            Some(padding) if self.weight.track_op() => {
                let is_padding = ids.eq(padding)?; // (ids)
                // Where to look is free, a batch without padding is spared two passes over its rows.
                let is_free = ids.device().is_cpu();
                if is_free && is_padding.to_vec1::<u8>()?.iter().all(|&is_padding| is_padding == 0) {
                    rows
                } else {
                    let is_padding = is_padding.unsqueeze(1)?.broadcast_as(rows.shape())?;
                    is_padding.where_cond(&rows.detach(), &rows)?
                }
            }
            _ => rows,
        };
        rows.reshape(dims) // (…, d)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};

    use super::*;

    #[test]
    fn rows_are_looked_up_and_repeated_rows_add_their_gradients() {
        let table = Var::new(&[[1f32, 2.0], [3.0, 4.0], [5.0, 6.0]], &Device::Cpu).unwrap();
        let embedding = Embedding::from_parts(table.as_tensor().clone());
        for dtype in [DType::U32, DType::I64] {
            let ids = Tensor::new(&[[2u32, 0], [2, 2]], &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
            let ys = embedding.forward(&ids).unwrap();
            assert_eq!(ys.to_vec3::<f32>().unwrap()[1], [[5.0, 6.0], [5.0, 6.0]]);
            let grads = ys.sum_all().unwrap().backward().unwrap();
            let grad = grads.get(&table).unwrap().to_vec2::<f32>().unwrap();
            assert_eq!(grad, [[1.0, 1.0], [0.0, 0.0], [3.0, 3.0]]);
        }
    }

    #[test]
    fn the_row_of_padding_is_read_and_not_trained() {
        let table = Var::new(&[[1f32, 2.0], [3.0, 4.0], [5.0, 6.0]], &Device::Cpu).unwrap();
        let embedding = Embedding::from_parts(table.as_tensor().clone()).with_padding(2);
        for dtype in [DType::U32, DType::I64] {
            let ids = Tensor::new(&[[2u32, 0], [2, 0]], &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
            let ys = embedding.forward(&ids).unwrap();
            assert_eq!(ys.to_vec3::<f32>().unwrap()[1], [[5.0, 6.0], [1.0, 2.0]]);
            let grads = ys.sum_all().unwrap().backward().unwrap();
            let grad = grads.get(&table).unwrap().to_vec2::<f32>().unwrap();
            assert_eq!(grad, [[2.0, 2.0], [0.0, 0.0], [0.0, 0.0]]);
        }
    }

    #[test]
    fn an_index_outside_is_an_error() {
        let table = Tensor::zeros((3, 2), DType::F32, &Device::Cpu).unwrap();
        let ids = Tensor::new(&[3u32], &Device::Cpu).unwrap();
        assert!(Embedding::from_parts(table).forward(&ids).is_err());
    }
}
