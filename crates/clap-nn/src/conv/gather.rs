//! What the taps of a kernel see of a map, gathered into the rows of a matrix.

use std::ops::Range;

/// One axis of a map as a kernel moves along it.
#[derive(Clone, Copy)]
pub(super) struct Axis {
    /// Elements of the map.
    pub(super) len: usize,
    /// Positions of the kernel.
    pub(super) positions: usize,
    /// Taps of the kernel.
    pub(super) taps: usize,
    pub(super) stride: usize,
    pub(super) padding: usize,
}

impl Axis {
    /// The same kernel seen from the map: position `i` is element `i` of the map, and its taps, in reverse order, are the outputs that the
    /// element went into. What a gradient is gathered by.
    pub(super) fn transposed(self) -> Transposed {
        Transposed(self)
    }
}

/// Where a tap lies in the map that is gathered from.
pub(super) trait Taps: Copy + Sync {
    /// Positions to gather for.
    fn targets(&self) -> usize;
    /// Elements of the map that is gathered from.
    fn sources(&self) -> usize;
    /// Taps of a position.
    fn taps(&self) -> usize;
    /// The element under a tap, or `None` outside the map.
    fn at(&self, position: usize, tap: usize) -> Option<usize>;
    /// The element under the first tap where all taps see consecutive ones.
    fn run(&self, position: usize) -> Option<usize>;
}

impl Taps for Axis {
    fn targets(&self) -> usize {
        self.positions
    }

    fn sources(&self) -> usize {
        self.len
    }

    fn taps(&self) -> usize {
        self.taps
    }

    fn at(&self, position: usize, tap: usize) -> Option<usize> {
        (position * self.stride + tap).checked_sub(self.padding).filter(|&i| i < self.len)
    }

    fn run(&self, position: usize) -> Option<usize> {
        (position * self.stride).checked_sub(self.padding).filter(|first| first + self.taps <= self.len)
    }
}

/// See [`Axis::transposed`].
#[derive(Clone, Copy)]
pub(super) struct Transposed(Axis);

impl Taps for Transposed {
    fn targets(&self) -> usize {
        self.0.len
    }

    fn sources(&self) -> usize {
        self.0.positions
    }

    fn taps(&self) -> usize {
        self.0.taps
    }

    fn at(&self, position: usize, tap: usize) -> Option<usize> {
        let Axis { positions, taps, stride, padding, .. } = self.0;
        let step = (position + padding + tap).checked_sub(taps - 1)?;
        (step.is_multiple_of(stride) && step / stride < positions).then_some(step / stride)
    }

    fn run(&self, position: usize) -> Option<usize> {
        let Axis { positions, taps, stride, padding, .. } = self.0;
        if stride > 1 {
            return None;
        }
        (position + padding).checked_sub(taps - 1).filter(|first| first + taps <= positions)
    }
}

/// Where gathered rows go, run by run.
pub(super) trait Sink {
    fn run(&mut self, values: &[f32]);
    fn zeros(&mut self, count: usize);
}

impl Sink for Vec<f32> {
    fn run(&mut self, values: &[f32]) {
        self.extend_from_slice(values);
    }

    fn zeros(&mut self, count: usize) {
        self.resize(self.len() + count, 0.0);
    }
}

/// Memory that holds zeros already, filled from its start.
pub(super) struct Zeroed<'a>(pub(super) &'a mut [f32]);

impl Zeroed<'_> {
    fn take(&mut self, count: usize) -> &mut [f32] {
        let (taken, rest) = std::mem::take(&mut self.0).split_at_mut(count);
        self.0 = rest;
        taken
    }
}

impl Sink for Zeroed<'_> {
    fn run(&mut self, values: &[f32]) {
        self.take(values.len()).copy_from_slice(values);
    }

    fn zeros(&mut self, count: usize) {
        self.take(count);
    }
}

/// Gathers from maps (batch, rows, columns, channels), for positions numbered over (batch, rows, columns).
#[derive(Clone, Copy)]
pub(super) struct Gather<A> {
    pub(super) rows: A,
    pub(super) columns: A,
    pub(super) channels: usize,
}

impl<A: Taps> Gather<A> {
    /// Positions of one map.
    pub(super) fn positions(&self) -> usize {
        self.rows.targets() * self.columns.targets()
    }

    /// Elements that a position gathers: (row tap, column tap, channel).
    pub(super) fn width(&self) -> usize {
        self.rows.taps() * self.columns.taps() * self.channels
    }

    /// The rows of `positions`, one after the other.
    pub(super) fn rows(&self, xs: &[f32], positions: Range<usize>, out: &mut impl Sink) {
        let (channels, taps) = (self.channels, self.columns.taps());
        let line = self.columns.sources() * channels;
        for position in positions {
            let (map, position) = (position / self.positions(), position % self.positions());
            let (y, x) = (position / self.columns.targets(), position % self.columns.targets());
            for tap in 0..self.rows.taps() {
                let Some(row) = self.rows.at(y, tap) else {
                    out.zeros(taps * channels);
                    continue;
                };
                let line = &xs[(map * self.rows.sources() + row) * line..][..line];
                if let Some(first) = self.columns.run(x) {
                    out.run(&line[first * channels..][..taps * channels]);
                    continue;
                }
                for tap in 0..taps {
                    match self.columns.at(x, tap) {
                        Some(column) => out.run(&line[column * channels..][..channels]),
                        None => out.zeros(channels),
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every pair (position, tap → element) is a pair of the transposed axis with its taps counted from behind, and the other way round.
    #[test]
    fn transposing_turns_pairs_round() {
        for (len, taps, stride, padding) in [(7, 3, 1, 1), (9, 5, 1, 2), (31, 5, 6, 2), (8, 5, 2, 2), (6, 3, 3, 0)] {
            let positions = (len + 2 * padding - taps) / stride + 1;
            let axis = Axis { len, positions, taps, stride, padding };
            let back = axis.transposed();
            let mut pairs = Vec::new();
            for position in 0..positions {
                for tap in 0..taps {
                    pairs.extend(axis.at(position, tap).map(|element| (element, tap, position)));
                }
            }
            let mut turned = Vec::new();
            for element in 0..len {
                for tap in 0..taps {
                    turned.extend(back.at(element, tap).map(|position| (element, taps - 1 - tap, position)));
                }
            }
            pairs.sort_unstable();
            turned.sort_unstable();
            assert_eq!(pairs, turned, "{len} {taps} {stride} {padding}");
        }
    }

    #[test]
    fn runs_are_what_their_taps_say() {
        fn check(axis: impl Taps) {
            for position in 0..axis.targets() {
                if let Some(first) = axis.run(position) {
                    assert!((0..axis.taps()).all(|tap| axis.at(position, tap) == Some(first + tap)));
                }
            }
        }
        for stride in [1, 2, 3] {
            let axis = Axis { len: 10, positions: 10 / stride, taps: 3, stride, padding: 1 };
            check(axis);
            check(axis.transposed());
        }
    }

    #[test]
    fn padding_is_zero_and_runs_are_in_order() {
        let axis = Axis { len: 2, positions: 2, taps: 3, stride: 1, padding: 1 };
        let gather = Gather { rows: axis, columns: axis, channels: 1 };
        let mut out = Vec::new();
        gather.rows(&[1.0, 2.0, 3.0, 4.0], 1..2, &mut out);
        assert_eq!(out, [0.0, 0.0, 0.0, 1.0, 2.0, 0.0, 3.0, 4.0, 0.0]);
    }
}
