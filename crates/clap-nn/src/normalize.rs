//! Division by the Euclidean norm.

use candle_core::{D, Result, Tensor};

use crate::precision::widened;

/// `xs / max(‖xs‖₂, eps)` over the last dimension, as `torch.nn.functional.normalize`; half types by way of `f32`.
///
/// The bound is put on the squared norm, below the root: the root's slope at zero is infinite, and a row of zeros would have no
/// gradient but NaN. The rows are few (one per clip or caption), so the composed form serves every device.
pub fn l2_normalize(xs: &Tensor, eps: f64) -> Result<Tensor> {
    let wide = xs.to_dtype(widened(xs.dtype()))?;
    let norm = wide.sqr()?.sum_keepdim(D::Minus1)?.maximum(eps * eps)?.sqrt()?; // (…, 1)
    wide.broadcast_div(&norm)?.to_dtype(xs.dtype())
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};

    use super::*;
    use crate::twin;

    #[test]
    fn rows_have_unit_length_and_zero_rows_stay_finite() {
        let xs = Tensor::new(&[[3f32, 4.0], [0.0, 0.0]], &Device::Cpu).unwrap();
        let ys = l2_normalize(&xs, 1e-12).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(ys, [[0.6, 0.8], [0.0, 0.0]]);
    }

    #[test]
    fn gradient_follows_finite_differences() {
        twin::check_gradient(&[&[3, 5]], |xs| l2_normalize(&xs[0], 1e-12));
    }

    #[test]
    fn a_row_of_zeros_has_the_gradient_of_a_division_by_eps() {
        let xs = Var::new(&[[3f32, 4.0], [0.0, 0.0]], &Device::Cpu).unwrap();
        let probe = Tensor::new(&[[1f32, 2.0], [3.0, -4.0]], &Device::Cpu).unwrap();
        let ys = (l2_normalize(&xs, 1e-6).unwrap() * probe).unwrap();
        let grads = ys.sum_all().unwrap().backward().unwrap();
        let grad = grads.get(&xs).unwrap().to_vec2::<f32>().unwrap();
        assert!((grad[1][0] / 3e6 - 1.0).abs() < 1e-5 && (grad[1][1] / -4e6 - 1.0).abs() < 1e-5, "{grad:?}");
        assert!(grad[0].iter().all(|v| v.is_finite()), "{grad:?}");
    }

    /// 300² is beyond f16.
    #[test]
    fn half_types_do_not_overflow() {
        for dtype in [DType::F16, DType::BF16] {
            let xs = Tensor::new(&[[300f32, 400.0]], &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
            let ys = l2_normalize(&xs, 1e-12).unwrap();
            assert_eq!(ys.dtype(), dtype);
            let ys = ys.to_dtype(DType::F32).unwrap().to_vec2::<f32>().unwrap();
            assert!((ys[0][0] - 0.6).abs() < 4e-3 && (ys[0][1] - 0.8).abs() < 4e-3, "{ys:?}");
        }
    }
}
