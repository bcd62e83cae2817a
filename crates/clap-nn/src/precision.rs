//! Which float type statistics are computed in.

use candle_core::DType;

/// `f32` for the half types, whose sums overflow or lose their last digits within a row; other types as they are.
pub fn widened(dtype: DType) -> DType {
    match dtype {
        DType::F16 | DType::BF16 => DType::F32,
        other => other,
    }
}
