//! What the machine can do at best: fused multiply-adds on registers, on all threads, with the widest vectors that it has.

use std::hint::black_box;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Multiply-adds of one call of [`multiply_adds`], whatever the number of threads.
pub(super) const MULTIPLY_ADDS: usize = 1 << 33;

/// Chains of multiply-adds that do not wait for each other: four cycles of latency, two begun in each, and some to spare. With their two
/// constants they fill the registers of AVX2.
const CHAINS: usize = 14;

/// [`MULTIPLY_ADDS`], shared out over the threads of the global pool.
pub(super) fn multiply_adds() {
    let threads = rayon::current_num_threads();
    (0..threads).into_par_iter().with_max_len(1).for_each(|_| {
        black_box(Arch::new().dispatch(Chains { multiply_adds: MULTIPLY_ADDS / threads }));
    });
}

/// `x ← x / 2 + 1` over and over: no number grows beyond 2.
struct Chains {
    multiply_adds: usize,
}

impl WithSimd for Chains {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f32 {
        let (half, one) = (simd.splat_f32s(0.5), simd.splat_f32s(1.0));
        // Opaque starts, or the compiler finds that all chains are one.
        let mut chains: [S::f32s; CHAINS] = std::array::from_fn(|i| simd.splat_f32s(black_box(i as f32)));
        for _ in 0..self.multiply_adds / (CHAINS * S::F32_LANES) {
            for x in &mut chains {
                *x = simd.mul_add_f32s(*x, half, one);
            }
        }
        chains.into_iter().map(|x| simd.reduce_sum_f32s(x)).sum()
    }
}
