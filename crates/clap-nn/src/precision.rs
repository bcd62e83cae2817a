//! Float types: which one statistics are computed in, and which one matrix products round their operands to.

use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::DType;

/// `f32` for the half types, whose sums overflow or lose their last digits within a row; other types as they are.
pub fn widened(dtype: DType) -> DType {
    match dtype {
        DType::F16 | DType::BF16 => DType::F32,
        other => other,
    }
}

/// What the fused CPU operations round the operands of their matrix products to. Sums, and everything that is no product, stay in
/// `f32`: norms, softmax, activations, residuals, the optimiser's copies of the weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MatmulPrecision {
    /// `f32`: nothing is rounded.
    #[default]
    Highest,
    /// `bf16`, where the processor multiplies it ([`has_bf16_products`]); as [`MatmulPrecision::Highest`] elsewhere.
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

/// True where this processor multiplies `bf16` faster than `f32`: x86-64 with AVX512-BF16.
pub fn has_bf16_products() -> bool {
    crate::cpu::product::has_half()
}
