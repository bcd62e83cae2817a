//! Matrix products on checked strided views.
//!
//! The algorithm is Goto's (Goto and van de Geijn 2008, "Anatomy of high-performance matrix multiplication"): a block of the
//! right operand is packed into panels that stay in the second-level cache, and a strip of the left one, in the first-level
//! cache, meets panel after panel in registers. A left operand with contiguous rows is read where it lies.
//!
//! Each element is one chain of fused multiply-adds over blocks of [`DEPTH`] terms, whatever its place in a tile and however the
//! work is cut, so that results do not depend on the number of threads.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod half;
mod kernel;
mod pack;
mod single;

use std::cell::Cell;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use kernel::{Begin, Kernel, Place};
use pack::Buffer;
use single::Single;

use crate::precision::{MatmulPrecision, matmul_precision};

/// Terms summed between two visits to the destination: a panel of the right operand's block is 48 KiB with AVX-512.
const DEPTH: usize = 384;

/// Columns of a block of the right operand: 288 KiB. A multiple of every panel's width.
const BLOCK_COLUMNS: usize = 192;

/// Multiplications that make a task of their own: about 20 µs.
const TASK: usize = 1024 * 1024;

/// Elements that a matrix of these sizes and row stride spans.
fn span(rows: usize, columns: usize, stride: usize) -> usize {
    if rows == 0 || columns == 0 { 0 } else { (rows - 1) * stride + columns }
}

/// A strided view of a matrix.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A dense row-major matrix.
    pub(crate) fn new(data: &'a [f32], rows: usize, columns: usize) -> Self {
        Self::strided(data, rows, columns, columns)
    }

    /// A row-major matrix whose rows start `stride` elements apart.
    pub(crate) fn strided(data: &'a [f32], rows: usize, columns: usize, stride: usize) -> Self {
        assert!(
            stride >= columns && data.len() >= span(rows, columns, stride),
            "{rows} x {columns} by {stride} overruns"
        );
        Self { data, rows, columns, row_stride: stride, column_stride: 1 }
    }

    /// Number of rows.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// The same elements with rows and columns exchanged.
    pub(crate) fn t(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    /// Some rows.
    fn rows_from(self, first: usize, count: usize) -> Self {
        debug_assert!(first + count <= self.rows);
        Self { data: &self.data[(first * self.row_stride).min(self.data.len())..], rows: count, ..self }
    }

    /// Some columns.
    fn columns_from(self, first: usize, count: usize) -> Self {
        self.t().rows_from(first, count).t()
    }
}

/// Which threads make a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Threads {
    /// This one, within a task of a larger loop.
    One,
    /// All of rayon's global pool.
    All,
}

/// A destination: row-major, rows `stride` elements apart.
pub(crate) struct MatrixMut<'a> {
    data: &'a mut [f32],
    rows: usize,
    columns: usize,
    stride: usize,
    precision: MatmulPrecision,
}

impl<'a> MatrixMut<'a> {
    pub(crate) fn new(data: &'a mut [f32], rows: usize, columns: usize) -> Self {
        Self::strided(data, rows, columns, columns)
    }

    pub(crate) fn strided(data: &'a mut [f32], rows: usize, columns: usize, stride: usize) -> Self {
        assert!(
            stride >= columns && data.len() >= span(rows, columns, stride),
            "{rows} x {columns} by {stride} overruns"
        );
        Self { data, rows, columns, stride, precision: matmul_precision() }
    }

    /// Made of operands in `f32`, whatever the process's precision: a loss must not be rounded.
    pub(crate) fn in_f32(self) -> Self {
        Self { precision: MatmulPrecision::Highest, ..self }
    }

    /// `self = scale · a · b`.
    pub(crate) fn set(self, scale: f32, a: Matrix<'_>, b: Matrix<'_>, threads: Threads) {
        self.product(Begin::Zero, scale, (a, b), threads);
    }

    /// `self += a · b`.
    pub(crate) fn add(self, a: Matrix<'_>, b: Matrix<'_>, threads: Threads) {
        self.product(Begin::Add, 1.0, (a, b), threads);
    }

    /// `self = a · b + bias`, the bias one row for all rows.
    pub(crate) fn affine(self, a: Matrix<'_>, b: Matrix<'_>, bias: &[f32], threads: Threads) {
        assert_eq!(bias.len(), self.columns, "length of a bias");
        self.product(Begin::Bias(bias), 1.0, (a, b), threads);
    }

    fn product(self, begin: Begin<'_>, scale: f32, (a, b): (Matrix<'_>, Matrix<'_>), threads: Threads) {
        assert!(self.rows == a.rows && self.columns == b.columns, "sizes of a product");
        // SAFETY: the destination spans its rows and columns, as `MatrixMut::strided` checked, and is borrowed mutably.
        unsafe {
            let place = Place { start: self.data.as_mut_ptr(), stride: self.stride };
            product(place, begin, scale, (a, b), threads, self.precision);
        }
    }
}

/// `a · b`, or `a · b + bias` with one row for all rows, as a new dense matrix.
pub(crate) fn build(a: Matrix<'_>, b: Matrix<'_>, bias: Option<&[f32]>, threads: Threads) -> Vec<f32> {
    let len = a.rows * b.columns;
    let mut out: Vec<f32> = Vec::with_capacity(len);
    let begin = match bias {
        None => Begin::Zero,
        Some(bias) => {
            assert_eq!(bias.len(), b.columns, "length of a bias");
            Begin::Bias(bias)
        }
    };
    // SAFETY: the capacity holds the rows and columns. A product that does not begin with its destination writes every element and
    // reads none.
    unsafe {
        let place = Place { start: out.as_mut_ptr(), stride: b.columns };
        product(place, begin, 1.0, (a, b), threads, matmul_precision());
        out.set_len(len);
    }
    out
}

/// # Safety
/// `whole` must hold the rows of `a` by the columns of `b`, for this call alone.
unsafe fn product(
    whole: Place,
    begin: Begin<'_>,
    scale: f32,
    (a, b): (Matrix<'_>, Matrix<'_>),
    threads: Threads,
    precision: MatmulPrecision,
) {
    let (m, n, k) = (a.rows, b.columns, a.columns);
    assert!(k == b.rows, "sizes of a product");
    if m == 0 || n == 0 {
        return;
    }
    let run = |(row, rows): (usize, usize), (column, columns): (usize, usize)| {
        // SAFETY: within the destination by the caller's promise; the parts that tasks write do not overlap.
        let place = unsafe { whole.at(row, column) };
        let (mut right, mut left) = BUFFERS.take();
        let part = Part {
            place,
            a: a.rows_from(row, rows),
            b: b.columns_from(column, columns),
            begin: begin.columns_from(column, columns),
            scale,
            right: &mut right,
            left: &mut left,
        };
        part.dispatch(precision);
        BUFFERS.set((right, left));
    };
    let tasks = match threads {
        Threads::One => 1,
        Threads::All => (m * n * k / TASK).clamp(1, 8 * rayon::current_num_threads()),
    };
    if tasks == 1 {
        return run((0, m), (0, n));
    }
    let (row_step, column_step) = steps((m, n, k), tasks);
    let columns = n.div_ceil(column_step);
    (0..m.div_ceil(row_step) * columns).into_par_iter().for_each(|task| {
        let (row, column) = (task / columns * row_step, task % columns * column_step);
        run((row, row_step.min(m - row)), (column, column_step.min(n - column)));
    });
}

/// Rows and columns of a task where about `tasks` are wanted. Each task packs its columns of the right operand by itself, so that cutting
/// rows repeats that; cutting columns reads the left operand again. A right operand that fits the second-level cache is packed in no time.
fn steps((m, n, k): (usize, usize, usize), tasks: usize) -> (usize, usize) {
    let across = if n * k <= 64 * 1024 && m > n { 1 } else { (n / 96).clamp(1, tasks) };
    let column_step = n.div_ceil(across).next_multiple_of(32);
    let down = tasks.div_ceil(n.div_ceil(column_step));
    (m.div_ceil(down).max(56), column_step)
}

/// A product on one thread.
struct Part<'a> {
    place: Place,
    a: Matrix<'a>,
    b: Matrix<'a>,
    begin: Begin<'a>,
    scale: f32,
    /// Room for packed panels of the right operand.
    right: &'a mut Buffer,
    /// Room for a packed strip of the left one.
    left: &'a mut Buffer,
}

thread_local! {
    /// The rooms of [`Part`], kept between products.
    static BUFFERS: Cell<(Buffer, Buffer)> = const { Cell::new((Buffer::new(), Buffer::new())) };
}

/// True where [`MatmulPrecision::Bf16`] has a kernel.
pub(crate) fn has_half() -> bool {
    #[cfg(target_arch = "x86_64")]
    return half::Half::new().is_some();
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

impl Part<'_> {
    /// Picks the kernel.
    #[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables, reason = "one precision elsewhere"))]
    fn dispatch(self, precision: MatmulPrecision) {
        #[cfg(target_arch = "x86_64")]
        if precision == MatmulPrecision::Bf16 {
            if let Some(tiles) = amx::Tiles::new() {
                return tiles.run(self);
            }
            if let Some(half) = half::Half::new() {
                return half.run(self);
            }
        }
        Arch::new().dispatch(self);
    }
}

impl WithSimd for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.run(Single(simd));
    }
}

impl Part<'_> {
    // No closure from here on: one is compiled for the common processor, where each vector instruction becomes a call.
    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) {
        let Self { place, a, b, begin, scale, right, left } = self;
        let (m, n, k) = (a.rows, b.columns, a.columns);
        let panel = kernel.panel_columns();
        let tiles = m.div_ceil(kernel.tile_rows());
        for column in (0..n).step_by(BLOCK_COLUMNS) {
            let columns = BLOCK_COLUMNS.min(n - column);
            let mut term = 0;
            // A product over no terms is zero, and still sets the destination.
            while term == 0 || term < k {
                let terms = (K::TERMS * DEPTH).min(k - term);
                let begin = if term == 0 { begin.columns_from(column, columns) } else { Begin::Add };
                let depth = kernel.words(terms);
                let block = right.room(depth * columns.next_multiple_of(panel));
                kernel.panels(b.rows_from(term, terms).columns_from(column, columns), block);
                let slice = a.columns_from(term, terms);
                for tile in 0..tiles {
                    // Even tiles: 64 rows are four of 13 and one of 12, not four of 14 and one of 8.
                    let (row, end) = (tile * m / tiles, (tile + 1) * m / tiles);
                    let strip = kernel.strip(slice.rows_from(row, end - row), left);
                    for first in (0..columns).step_by(panel) {
                        let width = panel.min(columns - first);
                        let (panel, begin) = (&block[depth * first..], begin.columns_from(first, width));
                        // SAFETY: the tile lies within the destination.
                        unsafe { kernel.tile(strip, panel, begin, scale, place.at(row, column + first), width) };
                    }
                }
                term += terms.max(1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_follow_strides() {
        let a = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]; // (2, 3)
        let b = [1.0, 0.0, 2.0, 1.0, 0.0, 3.0]; // (3, 2)
        let mut c = [10.0; 4];
        MatrixMut::new(&mut c, 2, 2).add(Matrix::new(&a, 2, 3), Matrix::new(&b, 3, 2), Threads::One);
        assert_eq!(c, [15.0, 21.0, 24.0, 33.0]);
        let (a, b) = (Matrix::new(&a, 2, 3), Matrix::new(&b, 3, 2));
        MatrixMut::new(&mut c, 2, 2).set(2.0, b.t(), a.t(), Threads::One);
        assert_eq!(c, [10.0, 28.0, 22.0, 46.0]);
    }

    #[test]
    fn a_column_block_is_a_matrix() {
        let a = [1.0, 2.0, 9.0, 3.0, 4.0, 9.0]; // the first two columns of (2, 3)
        let mut c = [0.0; 6];
        let block = Matrix::strided(&a, 2, 2, 3);
        MatrixMut::strided(&mut c[1..], 2, 2, 3).set(1.0, block, block, Threads::One);
        assert_eq!(c, [0.0, 7.0, 10.0, 0.0, 15.0, 22.0]);
    }

    /// Small integers, so that every order of summation gives the same numbers, and rounding to `bf16` changes nothing.
    fn values(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 31 + seed * 17) % 23) as f32 - 11.0).collect()
    }

    /// Makes `begin + 2 · a · b`.
    type Way = fn(MatrixMut<'_>, Begin<'_>, (Matrix<'_>, Matrix<'_>));

    /// Each kernel that runs here, on one thread and on all.
    fn ways() -> Vec<(&'static str, Way)> {
        use MatmulPrecision::{Bf16, Highest};
        #[cfg_attr(not(target_arch = "x86_64"), expect(unused_mut, reason = "the tiles are x86-64's"))]
        let mut ways: Vec<(&'static str, Way)> = vec![
            ("f32, one", |c, begin, ab| MatrixMut { precision: Highest, ..c }.product(begin, 2.0, ab, Threads::One)),
            ("f32, all", |c, begin, ab| MatrixMut { precision: Highest, ..c }.product(begin, 2.0, ab, Threads::All)),
            ("bf16, one", |c, begin, ab| MatrixMut { precision: Bf16, ..c }.product(begin, 2.0, ab, Threads::One)),
            ("bf16, all", |c, begin, ab| MatrixMut { precision: Bf16, ..c }.product(begin, 2.0, ab, Threads::All)),
        ];
        #[cfg(target_arch = "x86_64")]
        if amx::Tiles::model().is_some() {
            ways.push(("tiles", |c, begin, (a, b)| {
                let place = Place { start: c.data.as_mut_ptr(), stride: c.stride };
                let (right, left) = (&mut Buffer::new(), &mut Buffer::new());
                amx::Tiles::model().unwrap().run(Part { place, a, b, begin, scale: 2.0, right, left });
            }));
        }
        ways
    }

    /// Every edge of tiles, panels, blocks and depths, all four layouts, every beginning, on one thread and on all.
    #[test]
    fn products_equal_their_definition() {
        let sizes = [1, 2, 5, 13, 14, 15, 16, 31, 33, 64, 97];
        let mut shapes: Vec<[usize; 3]> = Vec::new();
        for (i, &m) in sizes.iter().enumerate() {
            for (j, &n) in sizes.iter().enumerate() {
                shapes.push([m, n, sizes[(i * 3 + j * 5) % sizes.len()]]);
            }
        }
        shapes.extend([[200, 225, 400], [29, 193, 385], [3, 500, 1000], [300, 40, 769], [5, 7, 0], [61, 160, 384]]);
        for [m, n, k] in shapes {
            let (left, right, bias) = (values(m * k, m), values(k * n, n), values(n, 3));
            let start = values(m * (n + 3), 4);
            let product = |i: usize, j: usize| (0..k).map(|p| left[i * k + p] * right[p * n + j]).sum::<f32>();
            let transposed = |xs: &[f32], rows: usize, columns: usize| -> Vec<f32> {
                (0..rows * columns).map(|i| xs[i % rows * columns + i / rows]).collect()
            };
            let (left_t, right_t) = (transposed(&left, m, k), transposed(&right, k, n));
            let lefts = [Matrix::new(&left, m, k), Matrix::new(&left_t, k, m).t()];
            let rights = [Matrix::new(&right, k, n), Matrix::new(&right_t, n, k).t()];
            for (case, begin) in [Begin::Zero, Begin::Add, Begin::Bias(&bias)].into_iter().enumerate() {
                for (a, b) in lefts.iter().flat_map(|a| rights.iter().map(move |b| (*a, *b))) {
                    for (way, run) in ways() {
                        let mut c = start.clone();
                        run(MatrixMut::strided(&mut c, m, n, n + 3), begin, (a, b));
                        for (at, (&got, &before)) in c.iter().zip(&start).enumerate() {
                            let (i, j) = (at / (n + 3), at % (n + 3));
                            let expected = match case {
                                _ if j >= n => before,
                                0 => 2.0 * product(i, j),
                                1 => before + 2.0 * product(i, j),
                                _ => bias[j] + 2.0 * product(i, j),
                            };
                            assert_eq!(got, expected, "{m} x {k} x {n} at {i}, {j}; {way}, case {case}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "overruns")]
    fn a_view_beyond_its_data_is_refused() {
        Matrix::strided(&[0.0; 5], 2, 3, 3);
    }
}
