//! Several small parameters in one tensor: a custom operation takes three tensors at most.

use candle_core::{Result, Tensor};

/// The flattened parts, one after the other. Their gradients come back through the concatenation.
pub(crate) fn pack(parts: &[&Tensor]) -> Result<Tensor> {
    let flat = parts.iter().map(|part| part.flatten_all()).collect::<Result<Vec<_>>>()?;
    Tensor::cat(&flat, 0)
}

/// Lengths of the parts of a packed vector.
#[derive(Clone, Copy)]
pub(crate) struct Lengths<const N: usize>(pub(crate) [usize; N]);

impl<const N: usize> Lengths<N> {
    pub(crate) fn total(&self) -> usize {
        self.0.iter().sum()
    }

    pub(crate) fn split<'a>(&self, mut packed: &'a [f32]) -> [&'a [f32]; N] {
        self.0.map(|len| {
            let (part, rest) = packed.split_at(len);
            packed = rest;
            part
        })
    }

    pub(crate) fn split_mut<'a>(&self, mut packed: &'a mut [f32]) -> [&'a mut [f32]; N] {
        self.0.map(|len| {
            let (part, rest) = std::mem::take(&mut packed).split_at_mut(len);
            packed = rest;
            part
        })
    }

    /// How many tasks may each add up a gradient of this length: at most 64, and 16 MB for all of them.
    pub(crate) fn tasks(&self) -> usize {
        (4 * 1024 * 1024 / self.total().max(1)).clamp(8, 64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_follow_each_other() {
        let lengths = Lengths([2, 0, 3]);
        let mut packed = [1.0, 2.0, 3.0, 4.0, 5.0];
        assert_eq!(lengths.split(&packed), [&[1.0, 2.0][..], &[], &[3.0, 4.0, 5.0]]);
        let [a, _, c] = lengths.split_mut(&mut packed);
        (a[1], c[0]) = (9.0, 8.0);
        assert_eq!(packed, [1.0, 9.0, 8.0, 4.0, 5.0]);
    }
}
