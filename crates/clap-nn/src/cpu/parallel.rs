//! Loops over the threads of rayon's global pool. Work is cut by sizes alone, so results do not depend on the thread count.

use std::mem::MaybeUninit;

use rayon::prelude::*;

/// Elements of one task of an element-wise loop: a quarter of a megabyte of two operands fits the second-level cache.
pub(crate) const GRAIN: usize = 16 * 1024;

/// Rows of `width` elements that make about one [`GRAIN`].
pub(crate) fn rows_per_task(width: usize) -> usize {
    (GRAIN / width.max(1)).max(1)
}

/// A vector of `len` elements filled in parallel: `f(start, chunk)` writes the elements from `start` on; they are zero before.
///
/// Each chunk is zeroed by the task that fills it, while it is in that core's cache: for large results this halves the memory
/// traffic of `vec![0.0; len]`.
pub(crate) fn build(len: usize, chunk: usize, f: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    let mut out: Vec<f32> = Vec::with_capacity(len);
    let run = |(index, part): (usize, &mut [MaybeUninit<f32>])| f(index * chunk, zeroed(part));
    let spare = &mut out.spare_capacity_mut()[..len];
    if len <= chunk {
        if len > 0 {
            run((0, spare));
        }
    } else {
        spare.par_chunks_mut(chunk).enumerate().for_each(run);
    }
    // SAFETY: the chunks cover all `len` elements and `zeroed` initialised each.
    unsafe { out.set_len(len) };
    out
}

/// As [`build`] with a second value from each chunk, in the order of the chunks.
pub(crate) fn build_with<T: Send>(
    len: usize,
    chunk: usize,
    f: impl Fn(usize, &mut [f32]) -> T + Sync,
) -> (Vec<f32>, Vec<T>) {
    let mut out: Vec<f32> = Vec::with_capacity(len);
    let run = |(index, part): (usize, &mut [MaybeUninit<f32>])| f(index * chunk, zeroed(part));
    let spare = &mut out.spare_capacity_mut()[..len];
    let values = if len <= chunk {
        if len > 0 { vec![run((0, spare))] } else { Vec::new() }
    } else {
        spare.par_chunks_mut(chunk).enumerate().map(run).collect()
    };
    // SAFETY: as in `build`.
    unsafe { out.set_len(len) };
    (out, values)
}

/// `K` vectors in parts of the given lengths, filled in parallel: `f(index, parts)` writes part `index` of each, zero before; with
/// a second value from each part, in order.
pub(crate) fn build_parts<const K: usize, T: Send>(
    lengths: &[usize],
    f: impl Fn(usize, [&mut [f32]; K]) -> T + Sync,
) -> ([Vec<f32>; K], Vec<T>) {
    let len: usize = lengths.iter().sum();
    let mut out: [Vec<f32>; K] = std::array::from_fn(|_| Vec::with_capacity(len));
    let mut rest = out.each_mut().map(|out| &mut out.spare_capacity_mut()[..len]);
    let mut parts = Vec::with_capacity(lengths.len());
    for &length in lengths {
        parts.push(rest.each_mut().map(|rest| {
            let (part, tail) = std::mem::take(rest).split_at_mut(length);
            *rest = tail;
            part
        }));
    }
    let values = parts.into_par_iter().enumerate().map(|(index, parts)| f(index, parts.map(zeroed))).collect();
    for out in &mut out {
        // SAFETY: the parts cover all `len` elements and `zeroed` initialised each.
        unsafe { out.set_len(len) };
    }
    (out, values)
}

fn zeroed(part: &mut [MaybeUninit<f32>]) -> &mut [f32] {
    for element in part.iter_mut() {
        element.write(0.0);
    }
    // SAFETY: every element was just written, and `MaybeUninit<f32>` has the layout of `f32`.
    unsafe { &mut *(std::ptr::from_mut(part) as *mut [f32]) }
}

/// The sum of equally long vectors, in order.
pub(crate) fn sum_in_order(parts: impl IntoIterator<Item = Vec<f32>>) -> Vec<f32> {
    let mut parts = parts.into_iter();
    let mut total = parts.next().unwrap_or_default();
    for part in parts {
        for (total, part) in total.iter_mut().zip(&part) {
            *total += part;
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_is_built_once_and_values_keep_their_order() {
        for len in [0, 1, 10, 11, 35] {
            let (xs, starts) = build_with(len, 10, |start, part| {
                for (i, x) in part.iter_mut().enumerate() {
                    *x += (start + i) as f32;
                }
                start
            });
            assert!(xs.len() == len && xs.iter().enumerate().all(|(i, &x)| x == i as f32));
            assert_eq!(starts, (0..len).step_by(10).collect::<Vec<_>>());
        }
    }

    #[test]
    fn parts_of_every_length_are_built_once() {
        for lengths in [&[][..], &[0], &[3, 0, 1, 2]] {
            let ([xs, ys], values) = build_parts(lengths, |index, [xs, ys]| {
                xs.iter_mut().for_each(|x| *x += index as f32);
                ys.iter_mut().enumerate().for_each(|(i, y)| *y += i as f32);
                xs.len()
            });
            let expected = |value: fn(usize, usize) -> usize| -> Vec<f32> {
                let part = |(index, &len): (usize, &usize)| (0..len).map(move |i| value(index, i) as f32);
                lengths.iter().enumerate().flat_map(part).collect()
            };
            assert_eq!((xs, ys, &values[..]), (expected(|index, _| index), expected(|_, i| i), lengths));
        }
    }

    #[test]
    fn sums_of_nothing_are_empty() {
        assert!(sum_in_order([]).is_empty());
        assert_eq!(sum_in_order([vec![1.0, 2.0], vec![3.0, 4.0]]), [4.0, 6.0]);
    }
}
