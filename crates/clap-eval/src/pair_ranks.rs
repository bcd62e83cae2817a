//! Ranks in both directions of a split from one pass over its scores, which are never in memory together.
//!
//! ```text
//!             captions, grouped by clip
//!          ┌────────┬────────┬────────┐      a tile of scores s(i, j) at a time:
//!  clips   │ own    │        │        │      clip i counts, for each caption of its own, the scores above it in row i;
//!          ├────────┼────────┼────────┤      caption j counts the scores above its own clip's in column j
//!          │        │ own    │        │
//!          └────────┴────────┴────────┘
//! ```
//!
//! Both need the scores of the own pairs before the first tile. They lie along the diagonal once captions are grouped by their clips, so
//! computing those tiles first costs a few per cent, and the same product on the same tile gives the same bits.
//! The result is that of [`ranks`](crate::ranks) in each direction, which is the definition.

use candle_core::Tensor;
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::ranks::{Ranks, Targets};
use crate::similarity::{Embeddings, check_product, with_scores};

/// Clips and captions of a tile: 16 MiB of scores.
const TILE: (usize, usize) = (1024, 4096);

/// Ranks of each clip's captions among all captions, and of each caption's clip among all clips.
pub(crate) fn pair_ranks(audio: &Embeddings, text: &Embeddings, caption_of: &[usize]) -> Result<(Ranks, Ranks)> {
    in_tiles(audio, text, caption_of, TILE)
}

fn in_tiles(
    audio: &Embeddings,
    text: &Embeddings,
    caption_of: &[usize],
    tile: (usize, usize),
) -> Result<(Ranks, Ranks)> {
    if caption_of.len() != text.rows {
        return Err(Error::CountMismatch {
            left: "clips named by captions",
            left_count: caption_of.len(),
            right: "text embeddings",
            right_count: text.rows,
        });
    }
    check_product(audio, text)?;
    let captions = Targets::captions(caption_of, audio.rows)?;
    let mut pairs = Pairs::new(audio, text, caption_of, &captions)?;
    // Tiles of nearly one size: a rest of one row would be multiplied by another kernel, and round otherwise.
    let blocks = |count: usize, most: usize| {
        let step = count.div_ceil(count.div_ceil(most));
        (0..count).step_by(step).map(move |first| (first, step.min(count - first)))
    };
    for own_only in [true, false] {
        for rows in blocks(audio.rows, tile.0) {
            let own = pairs.starts[rows.0]..pairs.starts[rows.0 + rows.1];
            for columns in blocks(text.rows, tile.1) {
                let overlap = own.start.max(columns.0)..own.end.min(columns.0 + columns.1);
                if own_only && overlap.is_empty() {
                    continue;
                }
                let scores = pairs.scores(audio, rows, columns)?;
                with_scores(&scores, |scores| {
                    let tile = Tile { rows, columns, scores };
                    if own_only { pairs.note_own(&tile, overlap) } else { pairs.count(&tile) }
                })?;
            }
        }
    }
    Ok(pairs.ranks(captions, caption_of))
}

/// Counts of the candidates that come before a right answer.
#[derive(Clone, Copy, Default)]
struct Counts {
    above: u32,
    /// Those with exactly its score, itself left out.
    equal: u32,
    /// … that are earlier in the split.
    equal_before: u32,
}

/// The pairs of a clip and a caption of its own, by clip.
struct Pairs {
    /// Embeddings of the captions in the pairs' order.
    text: Tensor,
    /// The caption of each pair, as the split counts them.
    caption: Vec<u32>,
    /// The clip of each pair.
    clip: Vec<u32>,
    /// Pairs of clip `i` are `starts[i]..starts[i + 1]`.
    starts: Vec<usize>,
    /// The score of each pair.
    own: Vec<f32>,
    /// From the clip to the caption, from the caption to the clip.
    by_clip: Vec<Counts>,
    by_caption: Vec<Counts>,
}

/// Scores of some clips and some pairs' captions, row by row.
struct Tile<'a> {
    /// First and count.
    rows: (usize, usize),
    columns: (usize, usize),
    scores: &'a [f32],
}

impl Pairs {
    fn new(audio: &Embeddings, text: &Embeddings, caption_of: &[usize], captions: &Targets) -> Result<Self> {
        let order: Vec<u32> =
            (0..audio.rows).flat_map(|clip| captions.of(clip)).map(|&caption| caption as u32).collect();
        let grouped = order.iter().enumerate().all(|(pair, &caption)| pair == caption as usize);
        let matrix = &text.matrix;
        let starts = std::iter::once(0).chain((0..audio.rows).scan(0, |end, clip| {
            *end += captions.of(clip).len();
            Some(*end)
        }));
        Ok(Self {
            text: if grouped {
                matrix.clone()
            } else {
                matrix.index_select(&Tensor::new(order.as_slice(), matrix.device())?, 0)?
            },
            clip: order.iter().map(|&caption| caption_of[caption as usize] as u32).collect(),
            starts: starts.collect(),
            own: vec![0.0; order.len()],
            by_clip: vec![Counts::default(); order.len()],
            by_caption: vec![Counts::default(); order.len()],
            caption: order,
        })
    }

    fn scores(&self, audio: &Embeddings, rows: (usize, usize), columns: (usize, usize)) -> Result<Tensor> {
        let captions = self.text.narrow(0, columns.0, columns.1)?;
        Ok(audio.matrix.narrow(0, rows.0, rows.1)?.matmul(&captions.t()?)?) // (rows, columns)
    }

    fn note_own(&mut self, tile: &Tile<'_>, pairs: std::ops::Range<usize>) {
        for pair in pairs {
            self.own[pair] =
                tile.scores[(self.clip[pair] as usize - tile.rows.0) * tile.columns.1 + pair - tile.columns.0];
        }
    }

    fn count(&mut self, tile: &Tile<'_>) {
        let Self { starts, own, caption, clip, by_clip, by_caption, .. } = self;
        let first_pair = starts[tile.rows.0];
        let last_pair = starts[tile.rows.0 + tile.rows.1];
        let columns = tile.columns.0..tile.columns.0 + tile.columns.1;
        by_clip[first_pair..last_pair].par_iter_mut().enumerate().for_each(|(offset, counts)| {
            let pair = first_pair + offset;
            let row = clip[pair] as usize - tile.rows.0;
            let scores = &tile.scores[row * tile.columns.1..][..tile.columns.1];
            let score = own[pair];
            let (above, not_below) = above_and_not_below(scores, score);
            counts.above += above;
            let itself = u32::from(columns.contains(&pair));
            if not_below > above + itself {
                let equals = scores.iter().enumerate().filter(|(_, s)| **s == score).map(|(at, _)| columns.start + at);
                for other in equals.filter(|&other| other != pair) {
                    counts.equal += 1;
                    counts.equal_before += u32::from(caption[other] < caption[pair]);
                }
            }
        });
        // Columns in strips, so that the counters stay in the first-level cache and strips share no line.
        const STRIP: usize = 512;
        by_caption[columns.clone()].par_chunks_mut(STRIP).enumerate().for_each(|(strip, counts)| {
            let first = columns.start + strip * STRIP;
            let own = &own[first..first + counts.len()];
            let (mut above, mut not_below) = ([0u32; STRIP], [0u32; STRIP]);
            for row in tile.scores.chunks_exact(tile.columns.1) {
                let scores = &row[strip * STRIP..][..own.len()];
                for (((above, not_below), &score), &own) in above.iter_mut().zip(&mut not_below).zip(scores).zip(own) {
                    *above += u32::from(score > own);
                    *not_below += u32::from(score >= own);
                }
            }
            for (at, counts) in counts.iter_mut().enumerate() {
                counts.above += above[at];
                let clip = clip[first + at] as usize;
                let itself = u32::from((tile.rows.0..tile.rows.0 + tile.rows.1).contains(&clip));
                if not_below[at] > above[at] + itself {
                    let column = tile.scores.iter().skip(strip * STRIP + at).step_by(tile.columns.1);
                    let equals = column.enumerate().filter(|(_, s)| **s == own[at]).map(|(row, _)| tile.rows.0 + row);
                    for other in equals.filter(|&other| other != clip) {
                        counts.equal += 1;
                        counts.equal_before += u32::from(other < clip);
                    }
                }
            }
        });
    }

    fn ranks(self, captions: Targets, caption_of: &[usize]) -> (Ranks, Ranks) {
        let Self { starts, own, caption, by_clip, by_caption, .. } = self;
        let rank = |counts: &Counts| (counts.above + counts.equal_before) as usize;
        // Captions of the same clip that score the same are all right: no tie that matters.
        let tied_by_clip = starts.windows(2).map(|pairs| {
            let range = pairs[0]..pairs[1];
            let equal_and_right = |pair: usize| range.clone().filter(|&other| own[other] == own[pair]).count() - 1;
            range.clone().filter(|&pair| by_clip[pair].equal as usize > equal_and_right(pair)).count()
        });
        let tied_by_clip = tied_by_clip.sum();
        let clips = captions.queries();
        let audio_to_text = Ranks::new(&captions, by_clip.iter().map(rank).collect(), caption_of.len(), tied_by_clip);
        let mut of_caption = vec![0; caption.len()];
        for (caption, counts) in caption.iter().zip(&by_caption) {
            of_caption[*caption as usize] = rank(counts);
        }
        let tied = by_caption.iter().filter(|counts| counts.equal > 0).count();
        (audio_to_text, Ranks::new(&Targets::single(caption_of), of_caption, clips, tied))
    }
}

/// How many scores are greater than `score`, and how many are not smaller; one pass that vectorises.
pub(crate) fn above_and_not_below(scores: &[f32], score: f32) -> (u32, u32) {
    scores
        .iter()
        .fold((0, 0), |(above, not_below), &s| (above + u32::from(s > score), not_below + u32::from(s >= score)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ranks::ranks;
    use candle_core::Device;

    /// Small whole numbers: every product is exact, and ties are many.
    fn matrix(rows: usize, width: usize, seed: u32) -> Tensor {
        let mut state = seed;
        let values: Vec<f32> = (0..rows * width)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                ((state >> 16) % 3) as f32 - 1.0
            })
            .collect();
        Tensor::from_vec(values, (rows, width), &Device::Cpu).unwrap()
    }

    /// Captions that are equal bit for bit, on both sides of every edge of the tiles and one more than fills them: ties stay ties.
    #[test]
    fn equal_captions_tie_across_tiles() {
        let (clips, captions, width) = (67, 257, 48);
        let values: Vec<f32> = (0..clips * width).map(|i| ((i * 7919 + 13) % 1009) as f32 / 503.7 - 1.0).collect();
        let audio = Tensor::from_vec(values, (clips, width), &Device::Cpu).unwrap();
        // Five different captions, over and over.
        let rows: Vec<u32> = (0..captions as u32).map(|j| j % 5).collect();
        let text = (audio.narrow(0, 0, 5).unwrap() * 0.37).unwrap();
        let text = text.index_select(&Tensor::new(rows, &Device::Cpu).unwrap(), 0).unwrap();
        let caption_of: Vec<usize> = (0..captions).map(|j| j % clips).collect();
        let (left, right) = (Embeddings::new("audio", &audio).unwrap(), Embeddings::new("text", &text).unwrap());
        let whole = in_tiles(&left, &right, &caption_of, (clips, captions)).unwrap();
        assert_eq!(whole.0.tied(), captions, "every caption is another clip's as well");
        for tile in [(66, 256), (64, 128), (33, 100), (16, 64)] {
            assert_eq!(in_tiles(&left, &right, &caption_of, tile).unwrap(), whole, "{tile:?}");
        }
    }

    #[test]
    fn both_directions_are_those_of_the_definition() {
        for (clips, captions, width) in [(1, 1, 4), (7, 7, 4), (23, 61, 5), (40, 600, 6)] {
            let (audio, text) = (matrix(clips, width, 1), matrix(captions, width, 2));
            // In order, and scattered: some clips have no caption.
            for caption_of in [
                (0..captions).map(|j| j * clips / captions).collect::<Vec<_>>(),
                (0..captions).map(|j| (j * 7 + j * j) % clips).collect(),
            ] {
                let targets = Targets::captions(&caption_of, clips).unwrap();
                let expected = (
                    ranks(&audio, &text, &targets).unwrap(),
                    ranks(&text, &audio, &Targets::single(&caption_of)).unwrap(),
                );
                let (left, right) =
                    (Embeddings::new("audio", &audio).unwrap(), Embeddings::new("text", &text).unwrap());
                for tile in [(1, 1), (3, 5), (64, 520), TILE] {
                    let found = in_tiles(&left, &right, &caption_of, tile).unwrap();
                    assert_eq!(found, expected, "{clips} clips, {captions} captions, tiles of {tile:?}");
                }
            }
        }
    }
}
