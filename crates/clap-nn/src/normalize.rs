//! Division by the Euclidean norm.

use candle_core::{D, Result, Tensor};

/// `xs / max(‖xs‖₂, eps)` over the last dimension, as `torch.nn.functional.normalize`.
///
/// The rows are few (one per clip or caption), so the composed form serves every device.
pub fn l2_normalize(xs: &Tensor, eps: f64) -> Result<Tensor> {
    let norm = xs.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?.maximum(eps)?;
    xs.broadcast_div(&norm)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::twin;

    #[test]
    fn rows_have_unit_length_and_zero_rows_stay_finite() {
        let xs = Tensor::new(&[[3f32, 4.0], [0.0, 0.0]], &candle_core::Device::Cpu).unwrap();
        let ys = l2_normalize(&xs, 1e-12).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(ys, [[0.6, 0.8], [0.0, 0.0]]);
    }

    #[test]
    fn gradient_follows_finite_differences() {
        twin::check_gradient(&[&[3, 5]], |xs| l2_normalize(&xs[0], 1e-12));
    }
}
