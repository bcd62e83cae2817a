//! T5's position bias: distances between tokens fall into kinds ("buckets"), and every head learns what it makes of each kind.
//!
//! Half of the kinds are single distances, the other half logarithmically wider ranges up to a greatest distance. The encoder
//! looks both ways, each with half of the kinds; the decoder looks back only, with all of them.
//!
//! Source: transformers 4.57.6 `T5Attention._relative_position_bucket` and `compute_bias`.

use std::ops::Range;

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use clap_nn::Embedding;
use clap_nn::init::normal;

use super::config::T5Config;

/// Where a stack of layers may look from a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// The encoder.
    Both,
    /// The decoder.
    Back,
}

/// The bias that the first layer of a stack holds for all of them.
#[derive(Debug)]
pub(super) struct PositionBias {
    table: Embedding,
    direction: Direction,
    buckets: usize,
    max_distance: usize,
}

impl PositionBias {
    /// `vb` stands at the self-attention of a stack's first layer.
    pub(super) fn new(config: &T5Config, direction: Direction, vb: VarBuilder<'_>) -> Result<Self> {
        let buckets = config.relative_attention_num_buckets;
        Ok(Self {
            table: Embedding::new(buckets, config.num_heads, normal(0.02), vb.pp("relative_attention_bias"))?,
            direction,
            buckets,
            max_distance: config.relative_attention_max_distance,
        })
    }

    /// What is added to the scores of the given queries over the first `keys` tokens: `(1, heads, queries, keys)`.
    pub(super) fn forward(&self, queries: Range<usize>, keys: usize) -> Result<Tensor> {
        let count = queries.len();
        let kinds: Vec<u32> = queries.flat_map(|query| (0..keys).map(move |key| self.kind(query, key))).collect();
        let kinds = Tensor::from_vec(kinds, (count, keys), self.table.weight().device())?;
        self.table.forward(&kinds)?.permute((2, 0, 1))?.unsqueeze(0)?.contiguous() // (1, heads, queries, keys)
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "fewer kinds than u32 has numbers: the configuration is checked"
    )]
    fn kind(&self, query: usize, key: usize) -> u32 {
        let (buckets, first) = match self.direction {
            Direction::Both => (self.buckets / 2, if key > query { self.buckets / 2 } else { 0 }),
            Direction::Back => (self.buckets, 0),
        };
        let distance = match self.direction {
            Direction::Both => key.abs_diff(query),
            Direction::Back => query.saturating_sub(key),
        };
        (first + bucket(distance, buckets, self.max_distance)) as u32
    }
}

/// The kind of a distance: `distance` below `buckets / 2`, from there
/// `buckets / 2 · (1 + ln(distance / (buckets / 2)) / ln(max_distance / (buckets / 2)))`, at most the last.
fn bucket(distance: usize, buckets: usize, max_distance: usize) -> usize {
    let exact = buckets / 2;
    if distance < exact {
        return distance;
    }
    // In f32, step by step as torch computes it: the boundary of a range must not move by rounding.
    let position = (distance as f32 / exact as f32).ln();
    let scaled = position / ((max_distance as f64 / exact as f64).ln() as f32) * (buckets - exact) as f32;
    (exact + scaled as usize).min(buckets - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// transformers 4.57.6: `T5Attention._relative_position_bucket(torch.arange(...), bidirectional, 32, 128)`.
    #[test]
    fn the_kinds_of_distances_are_transformers() {
        let of = |buckets: usize, distances: &[usize]| -> Vec<usize> {
            distances.iter().map(|&distance| bucket(distance, buckets, 128)).collect()
        };
        // bidirectional: 16 kinds each way
        assert_eq!(
            of(16, &[0, 7, 8, 11, 12, 15, 16, 22, 23, 31, 32, 63, 64, 127, 128, 1000]),
            [0, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 13, 14, 15, 15, 15]
        );
        // the decoder: 32 kinds
        assert_eq!(
            of(32, &[0, 8, 15, 16, 18, 19, 20, 21, 31, 32, 63, 64, 127, 128]),
            [0, 8, 15, 16, 16, 17, 17, 18, 21, 21, 26, 26, 31, 31]
        );
    }
}
