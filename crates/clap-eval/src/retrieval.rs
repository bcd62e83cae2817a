//! Retrieval in both directions, for any number of captions per clip.
//!
//! One caption per clip: LAION-CLAP's `get_metrics` (`training/train.py`). Five: its `evaluate_clotho_audiocaps`. The
//! definitions here hold for any counts and give the reference's numbers for those two; `docs/metrics.md` has the formulas.

use candle_core::Tensor;
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::pair_ranks::pair_ranks;
use crate::ranks::Ranks;
use crate::similarity::Embeddings;
use crate::statistic::Statistic;

/// Depth of the mean average precision.
const DEPTH: usize = 10;

/// Metrics of one direction; each query weighs the same.
#[derive(Clone, Debug, PartialEq)]
pub struct Direction {
    /// Share of queries with a right answer in first place.
    pub recall_at_1: f64,
    /// … among the first 5.
    pub recall_at_5: f64,
    /// … among the first 10.
    pub recall_at_10: f64,
    /// Mean over queries of the average precision among the first 10.
    pub map_at_10: f64,
    /// The reference's variant of [`Direction::map_at_10`], which takes a query's right answers in the order of the split
    /// instead of the order of their ranks; it is never smaller, may exceed 1 and equals it for one answer per query.
    pub map_at_10_laion: f64,
    /// Mean rank of the best right answer, from 1.
    pub mean_rank: f64,
    /// Median rank of the best right answer, from 1; halves are rounded down, as the reference does.
    pub median_rank: f64,
    /// Recall at 1, 5 and 10 of a random order.
    pub chance_recall: [f64; 3],
    /// Number of queries.
    pub queries: usize,
    /// Number of right answers with exactly the score of a wrong one.
    pub tied: usize,
}

impl Direction {
    /// Metrics from ranks; queries without a right answer are left out.
    ///
    /// # Errors
    /// No query has a right answer.
    pub fn from_ranks(ranks: &Ranks) -> Result<Self> {
        Self::from_lists(ranks.iter().filter(|r| !r.is_empty()), ranks.candidates(), ranks.tied())
    }

    fn from_lists<'a>(lists: impl Iterator<Item = &'a [usize]>, candidates: usize, tied: usize) -> Result<Self> {
        let mut best = Vec::new();
        let (mut map, mut map_laion, mut chance) = (0.0, 0.0, [0.0; 3]);
        for list in lists {
            best.extend(list.iter().min());
            let mut sorted = list.to_vec();
            sorted.sort_unstable();
            map += average_precision_at_depth(&sorted);
            map_laion += average_precision_at_depth(list);
            for (sum, k) in chance.iter_mut().zip([1, 5, 10]) {
                *sum += chance_recall(candidates, list.len(), k);
            }
        }
        if best.is_empty() {
            return Err(Error::Empty { what: "captions" });
        }
        let queries = best.len();
        let n = queries as f64;
        let recall = |k: usize| best.iter().filter(|&&r| r < k).count() as f64 / n;
        let [recall_at_1, recall_at_5, recall_at_10] = [recall(1), recall(5), recall(10)];
        let mean_rank = best.iter().sum::<usize>() as f64 / n + 1.0;
        Ok(Self {
            recall_at_1,
            recall_at_5,
            recall_at_10,
            map_at_10: map / n,
            map_at_10_laion: map_laion / n,
            mean_rank,
            median_rank: median_rank(&mut best),
            chance_recall: chance.map(|sum| sum / n),
            queries,
            tied,
        })
    }
}

/// The metrics of one direction, from the clip that each query belongs to and the ranks of its right answers.
fn statistics<'a>(
    direction: &str,
    clips: usize,
    queries: impl Iterator<Item = (usize, &'a [usize])> + Clone,
) -> Vec<(String, Statistic)> {
    let best = queries.clone().filter_map(|(clip, ranks)| Some((clip, *ranks.iter().min()?)));
    let recall =
        |k: usize| Statistic::mean(clips, best.clone().map(move |(clip, rank)| (clip, f64::from(u8::from(rank < k)))));
    let precision = queries.map(|(clip, ranks)| {
        let mut sorted = ranks.to_vec();
        sorted.sort_unstable();
        (clip, average_precision_at_depth(&sorted))
    });
    [
        ("R@1", recall(1)),
        ("R@5", recall(5)),
        ("R@10", recall(10)),
        ("mAP@10", Statistic::mean(clips, precision)),
        ("mean_rank", Statistic::mean(clips, best.clone().map(|(clip, rank)| (clip, rank as f64 + 1.0)))),
        ("median_rank", Statistic::median_rank(clips, best)),
    ]
    .map(|(name, statistic)| (format!("{direction}_{name}"), statistic))
    .into()
}

/// Average precision among the first [`DEPTH`], of ranks from 0: the `n`-th that is deep enough gives `n / (rank + 1)`.
///
/// The sum is divided by the number of right answers (at most [`DEPTH`] can be found). Ranks in ascending order give the
/// usual value; LAION-CLAP passes them in caption order, although its comment says sorted.
fn average_precision_at_depth(ranks: &[usize]) -> f64 {
    let kept = ranks.iter().filter(|&&r| r < DEPTH);
    let sum: f64 = kept.enumerate().map(|(n, &r)| (n + 1) as f64 / (r + 1) as f64).sum();
    sum / ranks.len().min(DEPTH) as f64
}

/// `floor(median) + 1` of ranks from 0.
pub(crate) fn median_rank(ranks: &mut [usize]) -> f64 {
    ranks.sort_unstable();
    let half = ranks.len() / 2;
    let median = if ranks.len() % 2 == 1 { ranks[half] } else { (ranks[half - 1] + ranks[half]) / 2 };
    (median + 1) as f64
}

/// Chance that a random order of `candidates` has one of `right` right answers among the first `k`:
/// `1 - C(candidates - right, k) / C(candidates, k)`.
fn chance_recall(candidates: usize, right: usize, k: usize) -> f64 {
    let wrong = candidates - right;
    if k > wrong {
        return 1.0;
    }
    let miss: f64 = (0..k).map(|i| (wrong - i) as f64 / (candidates - i) as f64).product();
    1.0 - miss
}

/// Metrics of a split in both directions.
#[derive(Clone, Debug, PartialEq)]
pub struct RetrievalMetrics {
    /// Queries are clips, candidates all captions; any caption of the clip is right, the best counts for recall.
    pub audio_to_text: Direction,
    /// Queries are captions, candidates all clips; a clip weighs as much as it has captions.
    pub text_to_audio: Direction,
    /// Number of clips, those without a caption included (they are candidates, not queries).
    pub clips: usize,
    /// Number of captions.
    pub captions: usize,
    /// The clip of each caption.
    pub caption_of: Vec<usize>,
    /// Ranks of each clip's captions.
    pub audio_to_text_ranks: Ranks,
    /// Rank of each caption's clip.
    pub text_to_audio_ranks: Ranks,
}

impl RetrievalMetrics {
    /// The metrics by name: `audio_to_text_R@1` … `text_to_audio_median_rank`, `audio_to_text_mAP@10_laion`,
    /// `chance_R@1` … (caption to clip: `k` of `clips`), `audio_to_text_chance_R@1` …, `num_samples`, `num_captions`.
    #[must_use]
    pub fn to_map(&self) -> Map<String, Value> {
        let mut map = Map::new();
        for (name, d) in [("audio_to_text", &self.audio_to_text), ("text_to_audio", &self.text_to_audio)] {
            for (metric, value) in [
                ("R@1", d.recall_at_1),
                ("R@5", d.recall_at_5),
                ("R@10", d.recall_at_10),
                ("mAP@10", d.map_at_10),
                ("mean_rank", d.mean_rank),
                ("median_rank", d.median_rank),
            ] {
                map.insert(format!("{name}_{metric}"), value.into());
            }
        }
        map.insert("audio_to_text_mAP@10_laion".into(), self.audio_to_text.map_at_10_laion.into());
        for (name, d) in [("", &self.text_to_audio), ("audio_to_text_", &self.audio_to_text)] {
            for (k, value) in [1, 5, 10].into_iter().zip(d.chance_recall) {
                map.insert(format!("{name}chance_R@{k}"), value.into());
            }
        }
        for (name, d) in [("audio_to_text", &self.audio_to_text), ("text_to_audio", &self.text_to_audio)] {
            map.insert(format!("{name}_tied"), d.tied.into());
        }
        map.insert("num_samples".into(), self.clips.into());
        map.insert("num_captions".into(), self.captions.into());
        map
    }

    /// The metrics of [`RetrievalMetrics::to_map`] that say how good the model is, as functions of the clips.
    #[must_use]
    pub fn statistics(&self) -> Vec<(String, Statistic)> {
        let clips = self.audio_to_text_ranks.iter().enumerate().filter(|(_, ranks)| !ranks.is_empty());
        let mut found = statistics("audio_to_text", self.clips, clips.clone());
        let laion = clips.map(|(clip, ranks)| (clip, average_precision_at_depth(ranks)));
        found.push(("audio_to_text_mAP@10_laion".to_owned(), Statistic::mean(self.clips, laion)));
        let captions = self.caption_of.iter().copied().zip(self.text_to_audio_ranks.iter());
        found.extend(statistics("text_to_audio", self.clips, captions));
        found
    }

    /// One metric by its name in [`RetrievalMetrics::to_map`].
    ///
    /// # Errors
    /// No metric is called so.
    pub fn get(&self, name: &str) -> Result<f64> {
        number(&self.to_map(), name)
    }
}

/// A metric of a map by name.
pub(crate) fn number(map: &Map<String, Value>, name: &str) -> Result<f64> {
    map.get(name).and_then(Value::as_f64).ok_or_else(|| Error::UnknownMetric {
        name: name.to_owned(),
        known: map.keys().map(String::as_str).collect::<Vec<_>>().join(", "),
    })
}

/// Retrieval metrics of `audio` `(clips, D)` and `text` `(captions, D)`, caption `j` being one of clip `caption_of[j]`.
///
/// Candidates are ranked by dot product: give L2-normalised rows for cosines. Equal scores keep the order of the split.
/// A caption's right answer is its own clip alone, even where another clip has the same caption word for word.
///
/// # Errors
/// Embeddings that are empty, of different widths or not finite; captions and `caption_of` of different lengths; a caption of
/// a clip that is not there.
pub fn retrieval(audio: &Tensor, text: &Tensor, caption_of: &[usize]) -> Result<RetrievalMetrics> {
    let audio = Embeddings::new("audio", audio)?;
    let text = Embeddings::new("text", text)?;
    let (audio_to_text_ranks, text_to_audio_ranks) = pair_ranks(&audio, &text, caption_of)?;
    Ok(RetrievalMetrics {
        audio_to_text: Direction::from_ranks(&audio_to_text_ranks)?,
        text_to_audio: Direction::from_ranks(&text_to_audio_ranks)?,
        clips: audio.rows,
        captions: text.rows,
        caption_of: caption_of.to_vec(),
        audio_to_text_ranks,
        text_to_audio_ranks,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn direction(lists: &[&[usize]], candidates: usize) -> Direction {
        Direction::from_lists(lists.iter().copied(), candidates, 0).unwrap()
    }

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-12, "{a} {b}");
    }

    #[test]
    fn one_answer_per_query() {
        let d = direction(&[&[0], &[4], &[9], &[10]], 20);
        assert_eq!((d.recall_at_1, d.recall_at_5, d.recall_at_10), (0.25, 0.5, 0.75));
        close(d.map_at_10, (1.0 + 1.0 / 5.0 + 1.0 / 10.0) / 4.0);
        assert_eq!(d.map_at_10, d.map_at_10_laion);
        close(d.mean_rank, 6.75);
        assert_eq!(d.median_rank, 7.0); // floor((4 + 9) / 2) + 1
        assert_eq!(direction(&[&[0], &[2], &[9]], 20).median_rank, 3.0);
        close(d.chance_recall[2], 0.5);
    }

    /// Ranks 4, 3, 2, 1, 0 are a perfect retrieval; the reference's pairing gives them 1.74 (reference section g.2).
    #[test]
    fn unsorted_average_precision_exceeds_one() {
        let d = direction(&[&[4, 3, 2, 1, 0]], 50);
        close(d.map_at_10, 1.0);
        close(d.map_at_10_laion, (1.0 / 5.0 + 2.0 / 4.0 + 3.0 / 3.0 + 4.0 / 2.0 + 5.0) / 5.0);
        assert!(d.map_at_10_laion > 1.7);
    }

    #[test]
    fn more_answers_than_the_depth_can_still_be_perfect() {
        let all: Vec<usize> = (0..12).collect();
        close(direction(&[&all], 40).map_at_10, 1.0);
    }

    #[test]
    fn best_caption_counts_and_answers_below_the_depth_are_missed() {
        let d = direction(&[&[30, 2]], 40);
        assert_eq!((d.recall_at_1, d.recall_at_5, d.mean_rank), (0.0, 1.0, 3.0));
        close(d.map_at_10, (1.0 / 3.0) / 2.0);
    }

    #[test]
    fn chance_is_hypergeometric() {
        close(chance_recall(40, 1, 10), 0.25);
        // 2 right of 5, 2 drawn: 1 - (3/5)(2/4)
        close(chance_recall(5, 2, 2), 0.7);
        close(chance_recall(3, 1, 10), 1.0);
    }

    /// Chance against a count over every order of a small case.
    #[test]
    fn chance_is_what_random_orders_give() {
        let mut hits = 0;
        let mut orders = 0;
        for first in 0..6 {
            for second in (0..6).filter(|&s| s != first) {
                orders += 1;
                hits += usize::from([first, second].iter().any(|&c| c < 3)); // 3 right of 6
            }
        }
        close(chance_recall(6, 3, 2), hits as f64 / orders as f64);
    }

    fn rows<const N: usize>(values: &[[f32; 2]; N]) -> Tensor {
        Tensor::new(values, &Device::Cpu).unwrap()
    }

    #[test]
    fn counts_may_differ_and_clips_may_lack_captions() {
        let audio = rows(&[[1.0, 0.0], [0.0, 1.0], [0.7, 0.7]]);
        let text = rows(&[[0.0, 1.0], [1.0, 0.1], [1.0, 0.2]]);
        let found = retrieval(&audio, &text, &[1, 0, 0]).unwrap();
        assert_eq!((found.clips, found.captions), (3, 3));
        assert_eq!((found.audio_to_text.queries, found.text_to_audio.queries), (2, 3));
        assert_eq!(found.audio_to_text.recall_at_1, 1.0);
        assert_eq!(found.text_to_audio.recall_at_1, 1.0);
        close(found.get("chance_R@1").unwrap(), 1.0 / 3.0);
        close(found.get("audio_to_text_chance_R@1").unwrap(), (1.0 / 3.0 + 2.0 / 3.0) / 2.0);
    }

    /// Two clips with the same caption: both captions score the same, so the earlier one takes first place of both clips.
    #[test]
    fn identical_captions_are_ties_in_the_order_of_the_split() {
        let audio = rows(&[[1.0, 0.0], [0.9, 0.1]]);
        let text = rows(&[[1.0, 0.0], [1.0, 0.0]]);
        let found = retrieval(&audio, &text, &[0, 1]).unwrap();
        assert_eq!(found.audio_to_text_ranks.of(0), [0]);
        assert_eq!(found.audio_to_text_ranks.of(1), [1]);
        assert_eq!(found.audio_to_text.tied, 2);
        assert_eq!(found.text_to_audio.tied, 0);
        assert_eq!(found.text_to_audio.recall_at_1, 0.5); // both captions prefer the first clip
    }

    #[test]
    fn wrong_input_is_named() {
        let two = rows(&[[1.0, 0.0], [0.0, 1.0]]);
        let wide = Tensor::ones((2, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
        let error = retrieval(&two, &wide, &[0, 1]).unwrap_err().to_string();
        assert!(error.contains("audio embeddings are 2 wide and the text embeddings 3"), "{error}");
        assert!(matches!(retrieval(&two, &two, &[0]), Err(Error::CountMismatch { .. })));
        assert!(matches!(retrieval(&two, &two, &[0, 2]), Err(Error::CaptionOwner { .. })));
        let none = Tensor::zeros((0, 2), candle_core::DType::F32, &Device::Cpu).unwrap();
        assert!(matches!(retrieval(&two, &none, &[]), Err(Error::Empty { what: "text" })));
        let error = retrieval(&two, &two, &[0, 1]).unwrap().get("R@1").unwrap_err().to_string();
        assert!(error.contains("text_to_audio_R@1"), "{error}");
    }
}
