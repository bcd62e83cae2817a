//! Sequences of tokens one after another: a batch without its padding.

use std::ops::Range;

/// How the rows of a matrix (tokens, width) fall into sequences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequences {
    lengths: Vec<usize>,
    /// Where each sequence starts, and behind them the number of tokens.
    offsets: Vec<usize>,
}

impl Sequences {
    /// Of these lengths, in order.
    #[must_use]
    pub fn new(lengths: Vec<usize>) -> Self {
        let mut offsets = Vec::with_capacity(lengths.len() + 1);
        offsets.push(0);
        let mut tokens = 0;
        for length in &lengths {
            tokens += length;
            offsets.push(tokens);
        }
        Self { lengths, offsets }
    }

    /// Tokens of each sequence.
    #[must_use]
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// Tokens of all sequences: the number of rows.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.lengths.iter().sum()
    }

    /// The rows of sequence `index`.
    ///
    /// # Panics
    /// Where there is no such sequence.
    #[must_use]
    pub fn rows(&self, index: usize) -> Range<usize> {
        self.offsets[index]..self.offsets[index + 1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_follow_each_other() {
        let sequences = Sequences::new(vec![3, 0, 2]);
        assert_eq!(sequences.tokens(), 5);
        assert_eq!([0, 1, 2].map(|index| sequences.rows(index)), [0..3, 3..3, 3..5]);
        assert_eq!(Sequences::new(Vec::new()).tokens(), 0);
    }
}
