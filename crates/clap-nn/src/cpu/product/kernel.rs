//! What the kernels of all number formats share: how operands are packed, and a tile of a product is made.

use super::Matrix;
use super::pack::Buffer;

/// A kernel: how it wants its operands, and how a tile is summed.
///
/// Its functions are compiled for the instruction set of the one that calls them, and so must be inlined into it.
pub(super) trait Kernel: Copy {
    /// Terms that lie in one word of packed operands.
    const TERMS: usize;

    /// Words that so many terms take.
    #[inline(always)]
    fn words(self, terms: usize) -> usize {
        terms.div_ceil(Self::TERMS)
    }

    /// Rows of a tile at most.
    fn tile_rows(self) -> usize;

    /// Columns of a panel.
    fn panel_columns(self) -> usize;

    /// Packs a block of a right operand: panel after panel, each word by word of [`Kernel::TERMS`] terms; what a vector or a word lacks
    /// is zero. The panel of the columns from `first` on begins at `first` times the number of words.
    fn panels(self, b: Matrix<'_>, out: &mut [f32]);

    /// The rows of a tile's left operand, in `buffer` where they cannot be read where they lie.
    fn strip<'a>(self, a: Matrix<'a>, buffer: &'a mut Buffer) -> Strip<'a>;

    /// One tile: `place = begin + scale · strip · panel`, `width` columns of it.
    ///
    /// # Safety
    /// The strip's rows by `width` columns at `place` must be valid and unshared.
    unsafe fn tile(self, strip: Strip<'_>, panel: &[f32], begin: Begin<'_>, scale: f32, place: Place, width: usize);
}

/// Rows of the largest tile of any kernel whose strips are interleaved.
pub(super) const MOST_ROWS: usize = 14;

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

/// The rows of a tile's left operand: word p of row i lies at `i · row + p · word`.
#[derive(Clone, Copy)]
pub(super) struct Strip<'a> {
    pub(super) start: *const f32,
    pub(super) row: usize,
    pub(super) word: usize,
    pub(super) rows: usize,
    /// Words of a row.
    pub(super) depth: usize,
    lifetime: std::marker::PhantomData<&'a [f32]>,
}

impl<'a> Strip<'a> {
    /// Rows of `depth` words in `data`.
    #[inline(always)]
    pub(super) fn new(data: &'a [f32], (rows, depth): (usize, usize), (row, word): (usize, usize)) -> Self {
        assert!(rows == 0 || depth == 0 || data.len() > (rows - 1) * row + (depth - 1) * word, "a strip overruns");
        Self { start: data.as_ptr(), row, word, rows, depth, lifetime: std::marker::PhantomData }
    }
}
