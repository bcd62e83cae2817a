//! Filling a matrix by rows from several threads, in any order.

use std::mem::MaybeUninit;

use rayon::prelude::*;

/// The rows of a result under construction.
pub(crate) struct Rows<'a> {
    start: *mut f32,
    rows: usize,
    width: usize,
    lifetime: std::marker::PhantomData<&'a mut [MaybeUninit<f32>]>,
}

// SAFETY: `write` is the only access; its contract forbids two writes of one row.
unsafe impl Sync for Rows<'_> {}

impl Rows<'_> {
    /// Copies `values` into row `row`.
    ///
    /// # Safety
    /// No two calls may name the same row.
    pub(crate) unsafe fn write(&self, row: usize, values: &[f32]) {
        assert!(row < self.rows && values.len() == self.width);
        // SAFETY: the row is in bounds, and no other thread touches it by the caller's promise.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), self.start.add(row * self.width), self.width) };
    }
}

/// Builds a (rows, width) matrix with `tasks` parallel tasks; returns it with the tasks' values in order.
///
/// # Safety
/// Together the tasks must write every row exactly once.
pub(crate) unsafe fn build_rows<T: Send>(
    rows: usize,
    width: usize,
    tasks: usize,
    task: impl Fn(usize, &Rows<'_>) -> T + Sync,
) -> (Vec<f32>, Vec<T>) {
    let mut out: Vec<f32> = Vec::with_capacity(rows * width);
    let target = Rows { start: out.as_mut_ptr(), rows, width, lifetime: std::marker::PhantomData };
    let values = if tasks == 1 {
        vec![task(0, &target)]
    } else {
        (0..tasks).into_par_iter().map(|index| task(index, &target)).collect()
    };
    // SAFETY: the capacity was reserved and every row was written, by the caller's promise.
    unsafe { out.set_len(rows * width) };
    (out, values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_land_where_they_belong() {
        // SAFETY: task t writes rows t and t + 3.
        let (out, values) = unsafe {
            build_rows(6, 2, 3, |task, rows| {
                for row in [task + 3, task] {
                    rows.write(row, &[row as f32, task as f32]);
                }
                task
            })
        };
        assert_eq!(out, [0.0, 0.0, 1.0, 1.0, 2.0, 2.0, 3.0, 0.0, 4.0, 1.0, 5.0, 2.0]);
        assert_eq!(values, [0, 1, 2]);
    }
}
