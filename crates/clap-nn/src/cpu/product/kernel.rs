//! A tile of a product: some rows by one panel of columns, held in registers.

use pulp::Simd;

use super::Matrix;
use super::pack::{self, Buffer};

/// Vectors across a panel.
const VECTORS: usize = 2;

/// Rows of a tile: with two vectors across, 28 of 32 registers hold sums, or 12 of 16.
pub(super) const fn tile_rows<S: Simd>() -> usize {
    if S::REGISTER_COUNT >= 32 { MOST_ROWS } else { 6 }
}

/// Rows of the largest tile of any instruction set.
pub(super) const MOST_ROWS: usize = 14;

/// Columns of a panel.
pub(super) const fn panel_columns<S: Simd>() -> usize {
    VECTORS * S::F32_LANES
}

/// Vectors across a panel of `width` columns.
pub(super) const fn vectors<S: Simd>(width: usize) -> usize {
    width.div_ceil(S::F32_LANES)
}

/// What a product is added to.
#[derive(Clone, Copy)]
pub(super) enum Begin<'a> {
    Zero,
    /// The destination.
    Add,
    /// One row for all rows.
    Bias(&'a [f32]),
}

impl Begin<'_> {
    pub(super) fn columns_from(self, first: usize, count: usize) -> Self {
        match self {
            Self::Bias(bias) => Self::Bias(&bias[first..][..count]),
            other => other,
        }
    }
}

/// A place in a row-major destination.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) start: *mut f32,
    pub(super) stride: usize,
}

// SAFETY: a pointer; whoever writes through it answers for the places that are written.
unsafe impl Sync for Place {}

impl Place {
    /// # Safety
    /// The place must lie within the destination.
    pub(super) unsafe fn at(self, row: usize, column: usize) -> Self {
        // SAFETY: in bounds by the caller's promise.
        Self { start: unsafe { self.start.add(row * self.stride + column) }, ..self }
    }
}

/// The rows of a tile's left operand: element (i, p) lies at `i · row + p · term`.
#[derive(Clone, Copy)]
pub(super) struct Strip<'a> {
    start: *const f32,
    row: usize,
    term: usize,
    rows: usize,
    depth: usize,
    lifetime: std::marker::PhantomData<&'a [f32]>,
}

impl<'a> Strip<'a> {
    /// A slice of a left operand: where it lies, if its rows are contiguous and do not all fall into the same few sets of the
    /// first-level cache; copied to `buffer` otherwise.
    #[inline(always)]
    pub(super) fn of(a: Matrix<'a>, buffer: &'a mut Buffer) -> Self {
        let (rows, depth) = (a.rows, a.columns);
        let strip = |start: *const f32, row: usize, term: usize| Self {
            start,
            row,
            term,
            rows,
            depth,
            lifetime: std::marker::PhantomData,
        };
        // 512 floats are half a page: more than 8 rows at multiples of it contend for the 8 ways of two sets.
        if a.column_stride == 1 && a.row_stride % 512 != 0 {
            return strip(a.data.as_ptr(), a.row_stride, 1);
        }
        let room = buffer.room(MOST_ROWS * (depth + 16));
        if a.column_stride == 1 {
            let pitch = depth + 16;
            for row in 0..rows {
                room[row * pitch..][..depth].copy_from_slice(&a.data[row * a.row_stride..][..depth]);
            }
            strip(room.as_ptr(), pitch, 1)
        } else {
            pack::interleave(a, room);
            strip(room.as_ptr(), 1, MOST_ROWS)
        }
    }
}

/// One tile: `place = begin + scale · strip · panel`, `width` columns of it.
///
/// # Safety
/// The strip's rows by `width` columns at `place` must be valid and unshared.
#[inline(always)]
pub(super) unsafe fn tile<S: Simd>(
    simd: S,
    strip: Strip<'_>,
    panel: &[f32],
    begin: Begin<'_>,
    scale: f32,
    place: Place,
    width: usize,
) {
    debug_assert!(strip.rows <= tile_rows::<S>() && width <= panel_columns::<S>());
    assert!(panel.len() >= strip.depth * vectors::<S>(width) * S::F32_LANES);
    macro_rules! by_rows {
        ($vectors:literal, $($rows:literal)*) => {
            match strip.rows {
                // SAFETY: as promised; the strip holds its rows, and the panel's length was just checked.
                $($rows if $rows <= tile_rows::<S>() => unsafe {
                    sum::<S, $rows, $vectors>(simd, strip, panel, begin, scale, place, width)
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

/// # Safety
/// As [`tile`]'s; `strip.rows` is `ROWS`, and the panel holds `strip.depth` rows of `COUNT` vectors.
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
        left = left.wrapping_add(strip.term);
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
