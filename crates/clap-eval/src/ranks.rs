//! The place of the right answer among the candidates: the one quantity that every retrieval metric is made of.
//!
//! The rank of candidate `t` for query `q` counts the candidates that come before it, from 0:
//!
//! ```text
//! rank(q, t) = #{ c : s(q, c) > s(q, t) } + #{ c < t : s(q, c) = s(q, t) }        s = dot product, f32
//! ```
//!
//! which is its place in a *stable* descending sort of the row. Equal scores are therefore settled by the order of the
//! candidates in the split: the earlier comes first. LAION-CLAP's `torch.argsort(.., descending=True)` is not stable and
//! leaves this open. Captions that are word for word the same have the same score, so the rule decides between them;
//! [`Ranks::tied`] says how often it had to.

use candle_core::Tensor;
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::pair_ranks::above_and_not_below;
use crate::similarity::{Embeddings, rows_per_block};

/// The right answers of each query, as indices of candidates; a query may have any number of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Targets {
    /// Targets of query `q` are `items[offsets[q]..offsets[q + 1]]`.
    offsets: Vec<usize>,
    items: Vec<usize>,
}

impl Targets {
    /// One right answer for each query.
    #[must_use]
    pub fn single(answers: &[usize]) -> Self {
        Self { offsets: (0..=answers.len()).collect(), items: answers.to_vec() }
    }

    /// The captions of each of `clips` clips, in the order of the captions: caption `j` belongs to clip `caption_of[j]`.
    ///
    /// # Errors
    /// A caption of a clip that is not there.
    pub fn captions(caption_of: &[usize], clips: usize) -> Result<Self> {
        let mut offsets = vec![0; clips + 1];
        for (caption, &clip) in caption_of.iter().enumerate() {
            if clip >= clips {
                return Err(Error::CaptionOwner { caption, clip, clips });
            }
            offsets[clip + 1] += 1;
        }
        for i in 0..clips {
            offsets[i + 1] += offsets[i];
        }
        let mut next = offsets.clone();
        let mut items = vec![0; caption_of.len()];
        for (caption, &clip) in caption_of.iter().enumerate() {
            items[next[clip]] = caption;
            next[clip] += 1;
        }
        Ok(Self { offsets, items })
    }

    /// Number of queries.
    #[must_use]
    pub fn queries(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Right answers of one query.
    #[must_use]
    pub fn of(&self, query: usize) -> &[usize] {
        &self.items[self.offsets[query]..self.offsets[query + 1]]
    }
}

/// Ranks of the right answers, from 0, in the order of the [`Targets`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranks {
    offsets: Vec<usize>,
    ranks: Vec<usize>,
    candidates: usize,
    tied: usize,
}

impl Ranks {
    /// Ranks in the order of the targets.
    pub(crate) fn new(targets: &Targets, ranks: Vec<usize>, candidates: usize, tied: usize) -> Self {
        debug_assert_eq!(ranks.len(), targets.items.len());
        Self { offsets: targets.offsets.clone(), ranks, candidates, tied }
    }

    /// Number of queries.
    #[must_use]
    pub fn queries(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Number of candidates that were ranked for each query.
    #[must_use]
    pub fn candidates(&self) -> usize {
        self.candidates
    }

    /// Ranks of one query's right answers.
    #[must_use]
    pub fn of(&self, query: usize) -> &[usize] {
        &self.ranks[self.offsets[query]..self.offsets[query + 1]]
    }

    /// Ranks of every query's right answers, query by query.
    pub fn iter(&self) -> impl Iterator<Item = &[usize]> + Clone {
        self.offsets.windows(2).map(|w| &self.ranks[w[0]..w[1]])
    }

    /// How many right answers have exactly the score of a wrong one, so that the order of the split decided.
    #[must_use]
    pub fn tied(&self) -> usize {
        self.tied
    }
}

/// Ranks of the right answers by dot product: `queries` `(Q, D)`, `candidates` `(C, D)`.
///
/// Dot products are cosines where the rows are L2-normalised ([`unit_rows`](crate::unit_rows)). LAION-CLAP's average over
/// both heads of its MLP loss is the dot product of concatenated rows: `[s_a·a | s_t·a_mlp] · [t_mlp | t]`.
///
/// # Errors
/// Embeddings that are empty, of different widths or not finite; a target that is not a candidate.
pub fn ranks(queries: &Tensor, candidates: &Tensor, targets: &Targets) -> Result<Ranks> {
    let rows = rows_per_block(candidates.dims().first().copied().unwrap_or(1));
    ranks_in_blocks(queries, candidates, targets, rows)
}

/// [`ranks`] with a given number of query rows scored at once; memory is `rows · C` scores.
///
/// # Errors
/// As [`ranks`].
pub fn ranks_in_blocks(queries: &Tensor, candidates: &Tensor, targets: &Targets, rows: usize) -> Result<Ranks> {
    let queries = Embeddings::new("query", queries)?;
    let candidates = Embeddings::new("candidate", candidates)?;
    checked_ranks(&queries, &candidates, targets, rows)
}

fn checked_ranks(queries: &Embeddings, candidates: &Embeddings, targets: &Targets, rows: usize) -> Result<Ranks> {
    if targets.queries() != queries.rows {
        return Err(Error::CountMismatch {
            left: "lists of targets",
            left_count: targets.queries(),
            right: queries.what,
            right_count: queries.rows,
        });
    }
    for query in 0..targets.queries() {
        if let Some(&target) = targets.of(query).iter().find(|&&t| t >= candidates.rows) {
            return Err(Error::TargetOutOfRange { query, target, candidates: candidates.rows });
        }
    }
    let mut ranks = Vec::with_capacity(targets.items.len());
    let mut tied = 0;
    queries.for_each_block(candidates, rows, |first, scores| {
        let block: Vec<Vec<Place>> = scores
            .par_chunks_exact(candidates.rows)
            .enumerate()
            .map(|(i, row)| places(row, targets.of(first + i)))
            .collect();
        for place in block.into_iter().flatten() {
            ranks.push(place.rank);
            tied += usize::from(place.tied);
        }
        Ok(())
    })?;
    Ok(Ranks::new(targets, ranks, candidates.rows, tied))
}

/// Where one candidate stands in a row of scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) rank: usize,
    /// A wrong answer has the same score.
    pub(crate) tied: bool,
}

/// Places of the right answers in a row of finite scores.
pub(crate) fn places(row: &[f32], targets: &[usize]) -> Vec<Place> {
    let place = |&target: &usize| {
        let score = row[target];
        // Equal scores are rare and cost another pass.
        let (above, not_below) = above_and_not_below(row, score);
        let mut place = Place { rank: above as usize, tied: false };
        if not_below > above + 1 {
            place.rank += row[..target].iter().filter(|&&s| s == score).count();
            let equal_and_right = targets.iter().filter(|&&t| row[t] == score).count();
            place.tied = (not_below - above) as usize > equal_and_right;
        }
        place
    };
    targets.iter().map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    /// The definition, by sorting: a stable descending argsort of the row.
    fn by_sorting(row: &[f32], target: usize) -> usize {
        let mut order: Vec<usize> = (0..row.len()).collect();
        order.sort_by(|&i, &j| row[j].total_cmp(&row[i]));
        order.iter().position(|&c| c == target).unwrap()
    }

    fn rank_of(row: &[f32], target: usize) -> usize {
        places(row, &[target])[0].rank
    }

    #[test]
    fn place_is_that_of_a_stable_descending_sort() {
        // Scores on a coarse grid: many exact ties.
        let mut state = 1u32;
        for width in [1, 2, 7, 33] {
            for _ in 0..50 {
                let row: Vec<f32> = (0..width)
                    .map(|_| {
                        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        ((state >> 16) % 5) as f32 - 2.0
                    })
                    .collect();
                for target in 0..width {
                    assert_eq!(rank_of(&row, target), by_sorting(&row, target), "{row:?} {target}");
                }
            }
        }
    }

    #[test]
    fn earlier_candidate_wins_a_tie() {
        let row = [0.5, 0.9, 0.9, 0.9];
        assert_eq!([1, 2, 3, 0].map(|t| rank_of(&row, t)), [0, 1, 2, 3]);
        assert!(places(&row, &[1])[0].tied);
        assert!(!places(&row, &[0])[0].tied);
        // Equal scores of two right answers decide nothing.
        assert!(!places(&[0.9, 0.9, 0.1], &[0, 1])[0].tied);
    }

    #[test]
    fn negative_zero_equals_zero() {
        assert_eq!(rank_of(&[0.0, -0.0], 1), 1);
        assert_eq!(rank_of(&[-0.0, 0.0], 1), 1);
    }

    #[test]
    fn captions_are_grouped_by_clip() {
        let targets = Targets::captions(&[2, 0, 2, 0, 2], 4).unwrap();
        let lists: Vec<&[usize]> = (0..4).map(|q| targets.of(q)).collect();
        assert_eq!(lists, [&[1, 3][..], &[], &[0, 2, 4], &[]]);
        assert!(matches!(Targets::captions(&[0, 3], 3), Err(Error::CaptionOwner { caption: 1, clip: 3, clips: 3 })));
    }

    #[test]
    fn block_size_does_not_matter() {
        let values =
            |n: usize, k: usize| -> Vec<f32> { (0..n).map(|i| ((i * k + 11) % 257) as f32 / 128.0 - 1.0).collect() };
        let queries = Tensor::from_vec(values(13 * 6, 7919), (13, 6), &Device::Cpu).unwrap();
        let candidates = Tensor::from_vec(values(29 * 6, 104_729), (29, 6), &Device::Cpu).unwrap();
        let targets = Targets::captions(&(0..29).map(|c| (c * 5) % 13).collect::<Vec<_>>(), 13).unwrap();
        let whole = ranks(&queries, &candidates, &targets).unwrap();
        for rows in [1, 4, 13, 50] {
            assert_eq!(ranks_in_blocks(&queries, &candidates, &targets, rows).unwrap(), whole, "{rows}");
        }
        assert_eq!(whole.iter().map(<[usize]>::len).sum::<usize>(), 29);
        assert_eq!(whole.iter().count(), 13);
    }

    #[test]
    fn wrong_targets_are_named() {
        let m = |rows: usize| Tensor::ones((rows, 2), candle_core::DType::F32, &Device::Cpu).unwrap();
        let error = ranks(&m(1), &m(3), &Targets::single(&[3])).unwrap_err();
        assert!(matches!(error, Error::TargetOutOfRange { query: 0, target: 3, candidates: 3 }));
        let error = ranks(&m(2), &m(3), &Targets::single(&[0])).unwrap_err();
        assert!(matches!(error, Error::CountMismatch { left_count: 1, right_count: 2, .. }));
    }
}
