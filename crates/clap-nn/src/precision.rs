//! Float types: which one statistics are computed in, and which one matrix products round their operands to.

use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{DType, Result, Tensor};

/// `f32` for the half types, whose sums overflow or lose their last digits within a row; other types as they are.
pub fn widened(dtype: DType) -> DType {
    match dtype {
        DType::F16 | DType::BF16 => DType::F32,
        other => other,
    }
}

/// What matrix products of `f32` round their operands to. Everything that is no product stays in `f32`: norms, softmax, activations,
/// residuals, the optimiser's copies of the weights. So do the sums within a product on the CPU; on other devices its result is
/// rounded, too, as `torch.autocast` does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MatmulPrecision {
    /// `f32`: nothing is rounded.
    #[default]
    Highest,
    /// `bf16`: by the fused operations where the processor multiplies it ([`has_bf16_products`]), by the composed ones on other
    /// devices; as [`MatmulPrecision::Highest`] on other processors.
    Bf16,
}

static BF16: AtomicBool = AtomicBool::new(false);

/// Sets the precision of products for the whole process, as `torch.set_float32_matmul_precision` does: call it before the first
/// forward pass. Forward and backward passes follow it.
pub fn set_matmul_precision(precision: MatmulPrecision) {
    BF16.store(precision == MatmulPrecision::Bf16, Ordering::Relaxed);
}

/// What [`set_matmul_precision`] was told last.
pub fn matmul_precision() -> MatmulPrecision {
    if BF16.load(Ordering::Relaxed) { MatmulPrecision::Bf16 } else { MatmulPrecision::Highest }
}

/// A product of the composed operations, which follows [`matmul_precision`] on devices other than the CPU: there the composed form
/// is the definition that the fused one is held to.
pub(crate) fn matmul(xs: &Tensor, ys: &Tensor) -> Result<Tensor> {
    match matmul_precision() {
        MatmulPrecision::Bf16 if xs.dtype() == DType::F32 && !xs.device().is_cpu() => matmul_in(xs, ys, DType::BF16),
        _ => xs.matmul(ys),
    }
}

/// The product of rounded operands, in the operands' type.
fn matmul_in(xs: &Tensor, ys: &Tensor, dtype: DType) -> Result<Tensor> {
    xs.to_dtype(dtype)?.matmul(&ys.to_dtype(dtype)?)?.to_dtype(xs.dtype())
}

/// True where this processor multiplies `bf16` faster than `f32`: x86-64 with AVX512-BF16.
pub fn has_bf16_products() -> bool {
    crate::cpu::product::has_half()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::twin::random;
    use candle_core::Var;

    /// What a device would do, in the half type that candle multiplies on the CPU: value and gradients are the exact ones, rounded.
    #[test]
    fn rounded_products_are_near_in_value_and_gradient() {
        let narrow =
            |seed, shape: &[usize]| Var::from_tensor(&random(seed, shape).to_dtype(DType::F32).unwrap()).unwrap();
        let (xs, ys) = (narrow(1, &[2, 7, 33]), narrow(2, &[2, 5, 33]));
        let probe = random(3, &[2, 7, 5]).to_dtype(DType::F32).unwrap();
        let run = |product: &dyn Fn(&Tensor, &Tensor) -> Result<Tensor>| {
            let zs = product(&xs, &ys.t().unwrap()).unwrap();
            assert_eq!(zs.dtype(), DType::F32);
            let grads = (&zs * &probe).unwrap().sum_all().unwrap().backward().unwrap();
            [zs, grads.get(&xs).unwrap().clone(), grads.get(&ys).unwrap().clone()]
        };
        let exact = run(&|xs, ys| xs.matmul(ys));
        let rounded = run(&|xs, ys| matmul_in(xs, ys, DType::F16));
        for (rounded, exact) in rounded.iter().zip(&exact) {
            let distance = (rounded - exact).unwrap().sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
            let size = exact.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
            let relative = (distance / size).sqrt();
            assert!(relative > 0.0 && relative < 2e-3, "{relative}");
        }
    }
}
