//! Packing the operands of a product into the order in which its kernel reads them.

use super::Matrix;
use super::kernel::MOST_ROWS;

/// A cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// Room that begins at a cache line and keeps its memory.
#[derive(Default)]
pub(super) struct Buffer(Vec<Line>);

impl Buffer {
    pub(super) const fn new() -> Self {
        Self(Vec::new())
    }

    /// `len` elements of whatever was there.
    pub(super) fn room(&mut self, len: usize) -> &mut [f32] {
        let lines = len.div_ceil(16);
        if self.0.len() < lines {
            self.0.resize(lines, Line([0.0; 16]));
        }
        // SAFETY: `Line` is 16 floats without padding.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast::<f32>(), len) }
    }
}

/// Columns and terms transposed at once.
const SQUARE: usize = 16;

/// A panel whose terms are contiguous, as of a transposed weight. `avx512` says that the processor has it.
#[inline(always)]
#[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables, reason = "AVX-512 is x86-64's"))]
pub(super) fn transpose(b: Matrix<'_>, padded: usize, out: &mut [f32], avx512: bool) {
    let whole = b.rows - b.rows % SQUARE;
    let mut first = 0;
    while first + SQUARE <= b.columns {
        for term in (0..whole).step_by(SQUARE) {
            let from = &b.data[first * b.column_stride + term..];
            assert!(from.len() >= (SQUARE - 1) * b.column_stride + SQUARE);
            let to = &mut out[term * padded + first..];
            assert!(to.len() >= (SQUARE - 1) * padded + SQUARE);
            #[cfg(target_arch = "x86_64")]
            if avx512 {
                // SAFETY: the lengths were just checked.
                unsafe { square_avx512(from.as_ptr(), b.column_stride, to.as_mut_ptr(), padded) };
                continue;
            }
            square(from, b.column_stride, to, padded);
        }
        first += SQUARE;
    }
    let whole_columns = first;
    for column in 0..padded {
        let from = if column < whole_columns { whole } else { 0 };
        if column < b.columns {
            let terms = &b.data[column * b.column_stride..][..b.rows];
            for (term, &x) in terms.iter().enumerate().skip(from) {
                out[term * padded + column] = x;
            }
        } else {
            for term in 0..b.rows {
                out[term * padded + column] = 0.0;
            }
        }
    }
}

/// 16 runs of 16 elements, `from_stride` apart, as 16 rows, `to_stride` apart.
#[inline(always)]
fn square(from: &[f32], from_stride: usize, to: &mut [f32], to_stride: usize) {
    let mut rows = [[0.0f32; SQUARE]; SQUARE];
    for j in 0..SQUARE {
        let run = &from[j * from_stride..][..SQUARE];
        for (row, &x) in rows.iter_mut().zip(run) {
            row[j] = x;
        }
    }
    for (i, row) in rows.iter().enumerate() {
        to[i * to_stride..][..SQUARE].copy_from_slice(row);
    }
}

/// [`square`], in registers: pairs, then quadruples of elements are exchanged within 128 bits, then the 128 bits themselves.
///
/// # Safety
/// 16 runs of 16 elements must be valid on both sides.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) unsafe fn square_avx512(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
    use std::arch::x86_64::{
        _mm512_castpd_ps, _mm512_castps_pd, _mm512_loadu_ps, _mm512_setzero_ps, _mm512_shuffle_f32x4, _mm512_storeu_ps,
        _mm512_unpackhi_pd, _mm512_unpackhi_ps, _mm512_unpacklo_pd, _mm512_unpacklo_ps,
    };
    let mut rows = [_mm512_setzero_ps(); 16];
    for (j, row) in rows.iter_mut().enumerate() {
        // SAFETY: valid by the caller's promise.
        *row = unsafe { _mm512_loadu_ps(from.add(j * from_stride)) };
    }
    let mut pairs = rows;
    for j in 0..8 {
        pairs[2 * j] = _mm512_unpacklo_ps(rows[2 * j], rows[2 * j + 1]);
        pairs[2 * j + 1] = _mm512_unpackhi_ps(rows[2 * j], rows[2 * j + 1]);
    }
    // fours[4 q + i] holds, in its 128-bit part g, element 4 g + i of runs 4 q to 4 q + 3.
    let mut fours = rows;
    for q in 0..4 {
        let (a, b) = (_mm512_castps_pd(pairs[4 * q]), _mm512_castps_pd(pairs[4 * q + 1]));
        let (c, d) = (_mm512_castps_pd(pairs[4 * q + 2]), _mm512_castps_pd(pairs[4 * q + 3]));
        fours[4 * q] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
        fours[4 * q + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
        fours[4 * q + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
        fours[4 * q + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
    }
    for i in 0..4 {
        let [q0, q1, q2, q3] = [fours[i], fours[4 + i], fours[8 + i], fours[12 + i]];
        let even_01 = _mm512_shuffle_f32x4::<0b10_00_10_00>(q0, q1);
        let even_23 = _mm512_shuffle_f32x4::<0b10_00_10_00>(q2, q3);
        let odd_01 = _mm512_shuffle_f32x4::<0b11_01_11_01>(q0, q1);
        let odd_23 = _mm512_shuffle_f32x4::<0b11_01_11_01>(q2, q3);
        let rows = [
            _mm512_shuffle_f32x4::<0b10_00_10_00>(even_01, even_23),
            _mm512_shuffle_f32x4::<0b10_00_10_00>(odd_01, odd_23),
            _mm512_shuffle_f32x4::<0b11_01_11_01>(even_01, even_23),
            _mm512_shuffle_f32x4::<0b11_01_11_01>(odd_01, odd_23),
        ];
        for (g, row) in rows.into_iter().enumerate() {
            // SAFETY: valid by the caller's promise.
            unsafe { _mm512_storeu_ps(to.add((4 * g + i) * to_stride), row) };
        }
    }
}

/// Packs a strip of a left operand whose rows are not contiguous, term by term, [`MOST_ROWS`] apart.
#[inline(always)]
pub(super) fn interleave(a: Matrix<'_>, out: &mut [f32]) {
    debug_assert!(a.row_stride == 1);
    // Where there is room, a constant length copies in two or three instructions.
    const WIDE: usize = 16;
    let wide = a.columns.saturating_sub(2);
    for term in 0..a.columns {
        let from = &a.data[term * a.column_stride..];
        let to = &mut out[term * MOST_ROWS..];
        match (from.len() >= WIDE && to.len() >= WIDE, term < wide) {
            (true, true) => to[..WIDE].copy_from_slice(&from[..WIDE]),
            _ => to[..a.rows].copy_from_slice(&from[..a.rows]),
        }
    }
}
