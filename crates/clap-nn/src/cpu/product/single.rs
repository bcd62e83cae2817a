//! The kernel of 32-bit floats, for every instruction set that `pulp` knows: AVX-512, AVX2, NEON, and plain code.

use pulp::Simd;

use super::Matrix;
use super::kernel::{Begin, Kernel, MOST_ROWS, Place, Strip};
use super::pack::{self, Buffer};

/// Vectors across a panel.
const VECTORS: usize = 2;

/// Vectors across a panel of `width` columns.
const fn vectors<S: Simd>(width: usize) -> usize {
    width.div_ceil(S::F32_LANES)
}

/// Sums of 32-bit floats in vectors of `S`.
#[derive(Clone, Copy)]
pub(super) struct Single<S>(pub(super) S);

impl<S: Simd> Kernel for Single<S> {
    const TERMS: usize = 1;

    /// With two vectors across, 28 of 32 registers hold sums, or 12 of 16.
    #[inline(always)]
    fn tile_rows(self) -> usize {
        if S::REGISTER_COUNT >= 32 { MOST_ROWS } else { 6 }
    }

    #[inline(always)]
    fn panel_columns(self) -> usize {
        VECTORS * S::F32_LANES
    }

    #[inline(always)]
    fn panels(self, b: Matrix<'_>, out: &mut [f32]) {
        let step = self.panel_columns();
        for first in (0..b.columns).step_by(step) {
            let width = step.min(b.columns - first);
            let padded = vectors::<S>(width) * S::F32_LANES;
            let panel = b.columns_from(first, width);
            let out = &mut out[first * b.rows..][..b.rows * padded];
            match b.column_stride {
                1 => copy(self.0, panel, padded, out),
                // 16 lanes on x86-64 mean AVX-512.
                _ => pack::transpose(panel, padded, out, cfg!(target_arch = "x86_64") && S::F32_LANES == 16),
            }
        }
    }

    /// Where it lies, if its rows are contiguous and do not all fall into the same few sets of the first-level cache.
    #[inline(always)]
    fn strip<'a>(self, a: Matrix<'a>, buffer: &'a mut Buffer) -> Strip<'a> {
        let sizes = (a.rows, a.columns);
        // 512 floats are half a page: more than 8 rows at multiples of it contend for the 8 ways of two sets.
        if a.column_stride == 1 && !a.row_stride.is_multiple_of(512) {
            return Strip::new(a.data, sizes, (a.row_stride, 1));
        }
        let room = buffer.room(MOST_ROWS * (a.columns + 16));
        if a.column_stride == 1 {
            let pitch = a.columns + 16;
            for row in 0..a.rows {
                room[row * pitch..][..a.columns].copy_from_slice(&a.data[row * a.row_stride..][..a.columns]);
            }
            Strip::new(room, sizes, (pitch, 1))
        } else {
            pack::interleave(a, room);
            Strip::new(room, sizes, (1, MOST_ROWS))
        }
    }

    #[inline(always)]
    unsafe fn tile(self, strip: Strip<'_>, panel: &[f32], begin: Begin<'_>, scale: f32, place: Place, width: usize) {
        debug_assert!(width <= self.panel_columns());
        assert!(panel.len() >= strip.depth * vectors::<S>(width) * S::F32_LANES);
        macro_rules! by_rows {
            ($vectors:literal, $($rows:literal)*) => {
                match strip.rows {
                    // SAFETY: as promised; the strip holds its rows, and the panel's length was just checked.
                    $($rows if $rows <= self.tile_rows() => unsafe {
                        sum::<S, $rows, $vectors>(self.0, strip, panel, begin, scale, place, width)
                    },)*
                    rows => unreachable!("{rows} rows in a tile"),
                }
            };
        }
        if vectors::<S>(width) == 1 {
            by_rows!(1, 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
        } else {
            by_rows!(2, 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
        }
    }
}

/// A panel whose columns are contiguous.
#[inline(always)]
fn copy<S: Simd>(simd: S, b: Matrix<'_>, padded: usize, out: &mut [f32]) {
    for (term, out) in out.chunks_exact_mut(padded).enumerate() {
        let row = &b.data[term * b.row_stride..][..b.columns];
        let mut first = 0;
        while first < padded {
            // What the last vector lacks is zero.
            let vector = load(simd, &row[first.min(row.len())..row.len().min(first + S::F32_LANES)]);
            let to = &mut out[first..first + S::F32_LANES];
            // SAFETY: a whole vector.
            unsafe { to.as_mut_ptr().cast::<S::f32s>().write_unaligned(vector) };
            first += S::F32_LANES;
        }
    }
}

/// # Safety
/// As [`Kernel::tile`]'s; `strip.rows` is `ROWS`, and the panel holds `strip.depth` rows of `COUNT` vectors.
#[inline(always)]
unsafe fn sum<S: Simd, const ROWS: usize, const COUNT: usize>(
    simd: S,
    strip: Strip<'_>,
    panel: &[f32],
    begin: Begin<'_>,
    scale: f32,
    place: Place,
    width: usize,
) {
    let mut sums = [[simd.splat_f32s(0.0); COUNT]; ROWS];
    let (mut left, mut right) = (strip.start, panel.as_ptr());
    for _ in 0..strip.depth {
        let mut across = [simd.splat_f32s(0.0); COUNT];
        for (v, vector) in across.iter_mut().enumerate() {
            // SAFETY: the panel holds this row.
            *vector = unsafe { right.add(v * S::F32_LANES).cast::<S::f32s>().read_unaligned() };
        }
        // A base for every three rows: the address of each is then a base and a multiple of the stride.
        let mut base = left;
        for (i, sums) in sums.iter_mut().enumerate() {
            // SAFETY: the strip holds row i's term.
            let x = simd.splat_f32s(unsafe { *base.add(i % 3 * strip.row) });
            for (sum, vector) in sums.iter_mut().zip(across) {
                *sum = simd.mul_add_f32s(x, vector, *sum);
            }
            if i % 3 == 2 {
                base = base.wrapping_add(3 * strip.row);
            }
        }
        left = left.wrapping_add(strip.word);
        right = right.wrapping_add(COUNT * S::F32_LANES);
    }
    let scales = simd.splat_f32s(scale);
    for (i, sums) in sums.into_iter().enumerate() {
        for (v, sum) in sums.into_iter().enumerate() {
            let first = v * S::F32_LANES;
            let lanes = S::F32_LANES.min(width - first);
            // SAFETY: these columns of row i are valid and unshared by the caller's promise.
            let to = unsafe { std::slice::from_raw_parts_mut(place.start.add(i * place.stride + first), lanes) };
            let value = match begin {
                Begin::Zero => simd.mul_f32s(scales, sum),
                Begin::Add => simd.mul_add_f32s(scales, sum, load(simd, to)),
                Begin::Bias(bias) => simd.mul_add_f32s(scales, sum, load(simd, &bias[first..][..lanes])),
            };
            if lanes == S::F32_LANES {
                // SAFETY: a whole vector of valid columns.
                unsafe { to.as_mut_ptr().cast::<S::f32s>().write_unaligned(value) };
            } else {
                simd.partial_store_f32s(to, value);
            }
        }
    }
}

/// A vector, or what there is of one.
#[inline(always)]
fn load<S: Simd>(simd: S, from: &[f32]) -> S::f32s {
    if from.len() >= S::F32_LANES {
        // SAFETY: a whole vector.
        unsafe { from.as_ptr().cast::<S::f32s>().read_unaligned() }
    } else {
        simd.partial_load_f32s(from)
    }
}
