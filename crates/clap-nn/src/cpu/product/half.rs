//! The kernel of `bf16` products with `f32` sums, by AVX512-BF16: twice the arithmetic of 32-bit floats.
//!
//! Operands come as `f32` and are rounded to `bf16`, to the nearest even, while they are packed: two terms to a word of 32 bits, which
//! one instruction multiplies and adds (`vdpbf16ps`).

use std::arch::x86_64::*;

use super::Matrix;
use super::kernel::{Begin, Kernel, MOST_ROWS, Place, Strip};
use super::pack::{self, Buffer};

/// Words of a vector.
pub(super) const LANES: usize = 16;

/// Terms that one conversion rounds.
const TERMS: usize = 2 * LANES;

/// Sums of `bf16` products. To be made where [`Half::new`] allows it alone.
#[derive(Clone, Copy)]
pub(super) struct Half(());

impl Half {
    /// The kernel, where the processor has it.
    pub(super) fn new() -> Option<Self> {
        let has = is_x86_feature_detected!("avx512bf16") && crate::cpu::vectorise::has_avx512();
        has.then_some(Self(()))
    }

    /// Runs a product with this kernel.
    pub(super) fn run(self, part: super::Part<'_>) {
        #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512bf16,avx2,fma")]
        fn compiled(part: super::Part<'_>, kernel: Half) {
            part.run(kernel);
        }
        // SAFETY: `new` found the features.
        unsafe { compiled(part, self) }
    }
}

impl Kernel for Half {
    const TERMS: usize = 2;

    #[inline(always)]
    fn tile_rows(self) -> usize {
        MOST_ROWS
    }

    #[inline(always)]
    fn panel_columns(self) -> usize {
        2 * LANES
    }

    #[inline(always)]
    fn panels(self, b: Matrix<'_>, out: &mut [f32]) {
        let words = b.rows.div_ceil(2);
        for first in (0..b.columns).step_by(2 * LANES) {
            let width = (2 * LANES).min(b.columns - first);
            let padded = width.next_multiple_of(LANES);
            let panel = b.columns_from(first, width);
            // SAFETY: `new` found the features.
            unsafe { self::panel(panel, padded, &mut out[first * words..][..words * padded]) };
        }
    }

    #[inline(always)]
    fn strip<'a>(self, a: Matrix<'a>, buffer: &'a mut Buffer) -> Strip<'a> {
        let words = a.columns.div_ceil(2);
        // A conversion writes whole vectors.
        let pitch = words.next_multiple_of(LANES) + LANES;
        let room = buffer.room(MOST_ROWS * pitch + LANES);
        let sizes = (a.rows, words);
        // SAFETY: `new` found the features.
        unsafe {
            if a.column_stride == 1 {
                for row in 0..a.rows {
                    round(&a.data[row * a.row_stride..][..a.columns], &mut room[row * pitch..][..pitch]);
                }
                Strip::new(room, sizes, (pitch, 1))
            } else {
                interleave(a, room);
                Strip::new(room, sizes, (1, MOST_ROWS))
            }
        }
    }

    #[inline(always)]
    unsafe fn tile(self, strip: Strip<'_>, panel: &[f32], begin: Begin<'_>, scale: f32, place: Place, width: usize) {
        debug_assert!(width <= 2 * LANES);
        assert!(panel.len() >= strip.depth * width.next_multiple_of(LANES));
        macro_rules! by_rows {
            ($vectors:literal, $($rows:literal)*) => {
                match strip.rows {
                    // SAFETY: as promised; the strip holds its rows, and the panel's length was just checked; `new` found the features.
                    $($rows => unsafe { sum::<$rows, $vectors>(strip, panel, begin, scale, place, width) },)*
                    rows => unreachable!("{rows} rows in a tile"),
                }
            };
        }
        if width <= LANES {
            by_rows!(1, 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
        } else {
            by_rows!(2, 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
        }
    }
}

/// The first `count` lanes of 16.
#[inline(always)]
pub(super) fn lanes(count: usize) -> __mmask16 {
    if count >= LANES { !0 } else { (1 << count) - 1 }
}

/// 16 words from the two halves of their terms.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[inline]
fn join(low: __m512, high: __m512) -> __m512i {
    let word = |x: __m512| _mm512_cvtepu16_epi32(bits(_mm512_cvtneps_pbh(x)));
    _mm512_or_si512(word(low), _mm512_slli_epi32::<16>(word(high)))
}

#[target_feature(enable = "avx512f,avx512bf16")]
#[inline]
fn bits(x: __m256bh) -> __m256i {
    // SAFETY: both are 256 bits.
    unsafe { std::mem::transmute(x) }
}

/// Up to 16 elements; zeros for the rest.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn load(from: &[f32]) -> __m512 {
    // SAFETY: the mask keeps to the slice.
    unsafe { _mm512_maskz_loadu_ps(lanes(from.len()), from.as_ptr()) }
}

/// Up to 32 terms of a row as 16 words.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[inline]
fn words(from: &[f32]) -> __m512i {
    let (low, high) = from.split_at(from.len().min(LANES));
    let rounded = _mm512_cvtne2ps_pbh(load(high), load(low));
    // SAFETY: both are 512 bits.
    unsafe { std::mem::transmute(rounded) }
}

/// Stores 16 words.
#[target_feature(enable = "avx512f")]
#[inline]
fn store(words: __m512i, to: &mut [f32]) {
    let to = &mut to[..LANES];
    // SAFETY: 16 words.
    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), words) };
}

/// A row of contiguous terms as words, in whole vectors.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[inline]
fn round(row: &[f32], out: &mut [f32]) {
    for (index, out) in out.chunks_exact_mut(LANES).enumerate() {
        let first = (index * TERMS).min(row.len());
        store(words(&row[first..row.len().min(first + TERMS)]), out);
    }
}

/// Packs a panel of a right operand: as many words as `out` has rows of `padded`, those without terms zero.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[inline]
pub(super) fn panel(b: Matrix<'_>, padded: usize, out: &mut [f32]) {
    match b.column_stride {
        1 => copy(b, padded, out),
        _ => transpose(b, padded, out),
    }
}

/// Packs rows of a left operand, `pitch` words apart, each of `words` words, those without terms zero: a multiple of [`LANES`].
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[inline]
pub(super) fn rows(a: Matrix<'_>, pitch: usize, words: usize, out: &mut [f32]) {
    debug_assert!(words.is_multiple_of(LANES) && 2 * words >= a.columns);
    if a.column_stride == 1 {
        for row in 0..a.rows {
            round(&a.data[row * a.row_stride..][..a.columns], &mut out[row * pitch..][..words]);
        }
        return;
    }
    let mut square = [[0.0f32; LANES]; LANES];
    for first in (0..a.rows).step_by(LANES) {
        let count = LANES.min(a.rows - first);
        for start in (0..words).step_by(LANES) {
            for (word, line) in square.iter_mut().enumerate() {
                let term = |term: usize| match term < a.columns {
                    true => &a.data[term * a.column_stride + first..][..count],
                    false => &[],
                };
                let low = 2 * (start + word);
                store(join(load(term(low)), load(term(low + 1))), line);
            }
            let mut turned = [[0.0f32; LANES]; LANES];
            // SAFETY: both squares are 16 by 16; words are moved as floats, bit for bit.
            unsafe { pack::square_avx512(square.as_ptr().cast(), LANES, turned.as_mut_ptr().cast(), LANES) };
            for (row, line) in turned.iter().enumerate().take(count) {
                out[(first + row) * pitch + start..][..LANES].copy_from_slice(line);
            }
        }
    }
}

/// A panel whose columns are contiguous.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[inline]
fn copy(b: Matrix<'_>, padded: usize, out: &mut [f32]) {
    for (word, out) in out.chunks_exact_mut(padded).enumerate() {
        let row = |term: usize| if term < b.rows { &b.data[term * b.row_stride..][..b.columns] } else { &[] };
        let (low, high) = (row(2 * word), row(2 * word + 1));
        for (index, out) in out.chunks_exact_mut(LANES).enumerate() {
            let part = |row: &'_ [f32]| {
                let first = (index * LANES).min(row.len());
                first..row.len().min(first + LANES)
            };
            store(join(load(&low[part(low)]), load(&high[part(high)])), out);
        }
    }
}

/// A panel whose terms are contiguous, as of a transposed weight.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[inline]
fn transpose(b: Matrix<'_>, padded: usize, out: &mut [f32]) {
    let mut square = [[0.0f32; LANES]; LANES];
    let mut turned = [[0.0f32; LANES]; LANES];
    let rows = out.len() / padded;
    for first in (0..padded).step_by(LANES) {
        for start in (0..rows).step_by(LANES) {
            let term = (2 * start).min(b.rows);
            let count = TERMS.min(b.rows - term);
            for (j, row) in square.iter_mut().enumerate() {
                let terms = match first + j < b.columns {
                    true if count > 0 => &b.data[(first + j) * b.column_stride + term..][..count],
                    _ => &[],
                };
                store(words(terms), row);
            }
            // SAFETY: both squares are 16 by 16; words are moved as floats, bit for bit.
            unsafe { pack::square_avx512(square.as_ptr().cast(), LANES, turned.as_mut_ptr().cast(), LANES) };
            for (word, row) in turned.iter().enumerate().take(rows - start) {
                out[(start + word) * padded + first..][..LANES].copy_from_slice(row);
            }
        }
    }
}

/// A strip whose rows are not contiguous, word by word, [`MOST_ROWS`] apart; the room holds a vector more than the words.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[inline]
fn interleave(a: Matrix<'_>, out: &mut [f32]) {
    debug_assert!(a.row_stride == 1 && a.rows <= MOST_ROWS);
    for word in 0..a.columns.div_ceil(2) {
        let low = load(&a.data[2 * word * a.column_stride..][..a.rows]);
        let high = match 2 * word + 1 < a.columns {
            true => load(&a.data[(2 * word + 1) * a.column_stride..][..a.rows]),
            false => _mm512_setzero_ps(),
        };
        store(join(low, high), &mut out[word * MOST_ROWS..]);
    }
}

/// # Safety
/// As [`Kernel::tile`]'s; `strip.rows` is `ROWS`, and the panel holds `strip.depth` rows of `COUNT` vectors.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[inline]
unsafe fn sum<const ROWS: usize, const COUNT: usize>(
    strip: Strip<'_>,
    panel: &[f32],
    begin: Begin<'_>,
    scale: f32,
    place: Place,
    width: usize,
) {
    let mut sums = [[_mm512_setzero_ps(); COUNT]; ROWS];
    let (mut left, mut right) = (strip.start, panel.as_ptr());
    for _ in 0..strip.depth {
        let mut across = [_mm512_setzero_si512(); COUNT];
        for (v, vector) in across.iter_mut().enumerate() {
            // SAFETY: the panel holds this row.
            *vector = unsafe { _mm512_loadu_si512(right.add(v * LANES).cast()) };
        }
        let mut base = left;
        for (i, sums) in sums.iter_mut().enumerate() {
            // SAFETY: the strip holds row i's word.
            let x = _mm512_set1_epi32(unsafe { base.add(i % 3 * strip.row).cast::<i32>().read() });
            for (sum, vector) in sums.iter_mut().zip(across) {
                // SAFETY: words are pairs of bf16.
                *sum = unsafe {
                    _mm512_dpbf16_ps(
                        *sum,
                        std::mem::transmute::<__m512i, __m512bh>(x),
                        std::mem::transmute::<__m512i, __m512bh>(vector),
                    )
                };
            }
            if i % 3 == 2 {
                base = base.wrapping_add(3 * strip.row);
            }
        }
        left = left.wrapping_add(strip.word);
        right = right.wrapping_add(COUNT * LANES);
    }
    let scales = _mm512_set1_ps(scale);
    for (i, sums) in sums.into_iter().enumerate() {
        for (v, sum) in sums.into_iter().enumerate() {
            let first = v * LANES;
            let mask = lanes(width - first);
            // SAFETY: the mask keeps to the columns of row i, which are valid and unshared by the caller's promise.
            unsafe {
                let to = place.start.add(i * place.stride + first);
                let value = match begin {
                    Begin::Zero => _mm512_mul_ps(scales, sum),
                    Begin::Add => _mm512_fmadd_ps(scales, sum, _mm512_maskz_loadu_ps(mask, to)),
                    Begin::Bias(bias) => _mm512_fmadd_ps(scales, sum, load(&bias[first..width.min(first + LANES)])),
                };
                _mm512_mask_storeu_ps(to, mask, value);
            }
        }
    }
}
