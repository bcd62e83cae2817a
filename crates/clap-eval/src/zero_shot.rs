//! Zero-shot classification: each class is a text, the class of the nearest text is the answer.
//!
//! LAION-CLAP's `evaluate/eval_zeroshot_classification.py` (laion-clap 1.1.7) gives ranks, R@k and mAP@10; accuracy and the mean
//! of the classes' recalls carry CLIP_benchmark's names `acc1`, `acc5`, `mean_per_class_recall`.

use candle_core::Tensor;
use rayon::prelude::*;
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::ranks::places;
use crate::retrieval::{median_rank, number};
use crate::similarity::{Embeddings, rows_per_block};
use crate::statistic::Statistic;

/// How many clips of one class were recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassRecall {
    /// Index of the class.
    pub class: usize,
    /// Clips of this class.
    pub clips: usize,
    /// Those with this class in first place.
    pub correct: usize,
}

impl ClassRecall {
    /// Share of the class's clips that were recognised; `None` where the split has none.
    #[must_use]
    pub fn recall(&self) -> Option<f64> {
        (self.clips > 0).then(|| self.correct as f64 / self.clips as f64)
    }
}

/// Metrics of a single-label classification.
#[derive(Clone, Debug, PartialEq)]
pub struct ZeroShotMetrics {
    /// Share of clips with the right class in first place.
    pub acc1: f64,
    /// … among the first 5.
    pub acc5: f64,
    /// … among the first 10.
    pub acc10: f64,
    /// Mean of the recalls of the classes that the split has clips of (macro recall).
    pub mean_per_class_recall: f64,
    /// Mean of `1 / rank` where the rank (from 1) is at most 10, else 0.
    pub map_at_10: f64,
    /// Mean rank of the right class, from 1.
    pub mean_rank: f64,
    /// Median rank, from 1, halves rounded down.
    pub median_rank: f64,
    /// Accuracy of a guess: one of the classes.
    pub chance_acc1: f64,
    /// Number of clips.
    pub n: usize,
    /// Number of classes that could be answered.
    pub n_classes: usize,
    /// Class of each clip.
    pub labels: Vec<usize>,
    /// Rank of each clip's class, from 0.
    pub ranks: Vec<usize>,
    /// Class in first place for each clip.
    pub predictions: Vec<usize>,
    /// Recall of every class, in their order.
    pub per_class: Vec<ClassRecall>,
    /// Clips whose class has exactly the score of another.
    pub tied: usize,
}

impl ZeroShotMetrics {
    /// The metrics by name: `acc1`, `acc5`, `acc10`, `mean_per_class_recall`, `mAP@10`, `mean_rank`, `median_rank`, `chance_acc1`,
    /// `num_samples`, `num_classes`, `num_classes_present`.
    #[must_use]
    pub fn to_map(&self) -> Map<String, Value> {
        let mut map = Map::new();
        for (name, value) in [
            ("acc1", self.acc1),
            ("acc5", self.acc5),
            ("acc10", self.acc10),
            ("mean_per_class_recall", self.mean_per_class_recall),
            ("mAP@10", self.map_at_10),
            ("mean_rank", self.mean_rank),
            ("median_rank", self.median_rank),
            ("chance_acc1", self.chance_acc1),
            // Five different guesses.
            ("chance_acc5", (5.0 * self.chance_acc1).min(1.0)),
        ] {
            map.insert(name.into(), value.into());
        }
        map.insert("tied".into(), self.tied.into());
        map.insert("num_samples".into(), self.n.into());
        map.insert("num_classes".into(), self.n_classes.into());
        let present = self.per_class.iter().filter(|c| c.clips > 0).count();
        map.insert("num_classes_present".into(), present.into());
        map
    }

    /// The metrics of [`ZeroShotMetrics::to_map`] that say how good the model is, as functions of the clips.
    #[must_use]
    pub fn statistics(&self) -> Vec<(String, Statistic)> {
        let ranks = || self.ranks.iter().copied().enumerate();
        let mean = |value: fn(usize) -> f64| Statistic::mean(self.n, ranks().map(|(clip, rank)| (clip, value(rank))));
        let right = self.ranks.iter().map(|&rank| rank == 0).collect();
        [
            ("acc1", mean(|rank| f64::from(u8::from(rank < 1)))),
            ("acc5", mean(|rank| f64::from(u8::from(rank < 5)))),
            ("acc10", mean(|rank| f64::from(u8::from(rank < 10)))),
            ("mean_per_class_recall", Statistic::macro_recall(&self.labels, right, self.n_classes)),
            ("mAP@10", mean(reciprocal_within_10)),
            ("mean_rank", mean(|rank| rank as f64 + 1.0)),
            ("median_rank", Statistic::median_rank(self.n, ranks())),
        ]
        .map(|(name, statistic)| (name.to_owned(), statistic))
        .into()
    }

    /// How many clips of each class were answered with each class: row `i` holds the answers for the clips of class `i`.
    #[must_use]
    pub fn confusion(&self) -> Vec<Vec<usize>> {
        let mut counts = vec![vec![0; self.n_classes]; self.n_classes];
        for (&label, &prediction) in self.labels.iter().zip(&self.predictions) {
            counts[label][prediction] += 1;
        }
        counts
    }

    /// One metric by its name in [`ZeroShotMetrics::to_map`].
    ///
    /// # Errors
    /// No metric is called so.
    pub fn get(&self, name: &str) -> Result<f64> {
        number(&self.to_map(), name)
    }
}

/// Classifies `audio` `(clips, D)` by the nearest of `class_embeds` `(classes, D)`; `labels[i]` is the class of clip `i`.
///
/// Classes are ranked by dot product: give L2-normalised rows. Of classes with equal scores the earlier comes first.
///
/// # Errors
/// Embeddings that are empty, of different widths or not finite; a label that is no class, or not one label per clip.
pub fn zero_shot(audio: &Tensor, class_embeds: &Tensor, labels: &[usize]) -> Result<ZeroShotMetrics> {
    let audio = Embeddings::new("audio", audio)?;
    let classes = Embeddings::new("class", class_embeds)?;
    check_labels(labels, audio.rows, classes.rows)?;
    let (mut ranks, mut predictions, mut tied) = (Vec::new(), Vec::new(), 0);
    audio.for_each_block(&classes, rows_per_block(classes.rows), |first, scores| {
        let answers: Vec<_> = scores
            .par_chunks_exact(classes.rows)
            .enumerate()
            .map(|(i, row)| (places(row, &labels[first + i..=first + i])[0], first_greatest(row)))
            .collect();
        for (place, prediction) in answers {
            ranks.push(place.rank);
            tied += usize::from(place.tied);
            predictions.push(prediction);
        }
        Ok(())
    })?;
    Ok(summary(ranks, predictions, labels, classes.rows, tied))
}

/// Classifies clips by slicing and voting: each window of a clip names its nearest class, the class that most windows name is the answer, and
/// of classes with as many votes the one with the greatest mean score.
///
/// `windows` `(W, D)` are those of the first clip, then those of the second and so on, `counts[i]` of clip `i`.
///
/// # Errors
/// As [`zero_shot`]; counts that are zero or do not add up to the windows.
pub fn zero_shot_by_votes(
    windows: &Tensor,
    counts: &[usize],
    class_embeds: &Tensor,
    labels: &[usize],
) -> Result<ZeroShotMetrics> {
    let windows = Embeddings::new("audio", windows)?;
    let classes = Embeddings::new("class", class_embeds)?;
    check_labels(labels, counts.len(), classes.rows)?;
    if counts.iter().sum::<usize>() != windows.rows {
        return Err(Error::CountMismatch {
            left: "windows of clips",
            left_count: counts.iter().sum(),
            right: "embeddings of windows",
            right_count: windows.rows,
        });
    }
    if counts.contains(&0) {
        return Err(Error::Empty { what: "window of a clip" });
    }
    let (mut ranks, mut predictions, mut tied) = (Vec::new(), Vec::new(), 0);
    let (mut tally, mut heard) = (vec![(0u32, 0f32); classes.rows], 0);
    windows.for_each_block(&classes, rows_per_block(classes.rows), |_, scores| {
        for row in scores.chunks_exact(classes.rows) {
            for (class, score) in tally.iter_mut().zip(row) {
                class.1 += score;
            }
            tally[first_greatest(row)].0 += 1;
            heard += 1;
            let clip = ranks.len();
            if heard == counts[clip] {
                let order = ordinals(&tally);
                let place = places(&order, &labels[clip..=clip])[0];
                ranks.push(place.rank);
                tied += usize::from(place.tied);
                predictions.push(first_greatest(&order));
                tally.fill((0, 0.0));
                heard = 0;
            }
        }
        Ok(())
    })?;
    Ok(summary(ranks, predictions, labels, classes.rows, tied))
}

/// A number for each class that orders them as votes do, and mean scores among equal votes; equal for equal ones.
fn ordinals(tally: &[(u32, f32)]) -> Vec<f32> {
    let compare = |a: &(u32, f32), b: &(u32, f32)| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1));
    let mut sorted = tally.to_vec();
    sorted.sort_unstable_by(compare);
    sorted.dedup_by(|a, b| compare(a, b).is_eq());
    tally.iter().map(|of| sorted.partition_point(|other| compare(other, of).is_lt()) as f32).collect()
}

fn check_labels(labels: &[usize], clips: usize, classes: usize) -> Result<()> {
    if labels.len() != clips {
        return Err(Error::CountMismatch {
            left: "labels",
            left_count: labels.len(),
            right: "clips",
            right_count: clips,
        });
    }
    match labels.iter().position(|&label| label >= classes) {
        Some(clip) => Err(Error::LabelOutOfRange { clip, label: labels[clip], classes }),
        None => Ok(()),
    }
}

/// `1 / (rank + 1)` of a rank from 0 among the first 10, else 0.
fn reciprocal_within_10(rank: usize) -> f64 {
    if rank < 10 { 1.0 / (rank + 1) as f64 } else { 0.0 }
}

fn summary(
    ranks: Vec<usize>,
    predictions: Vec<usize>,
    labels: &[usize],
    n_classes: usize,
    tied: usize,
) -> ZeroShotMetrics {
    let mut per_class: Vec<ClassRecall> =
        (0..n_classes).map(|class| ClassRecall { class, clips: 0, correct: 0 }).collect();
    for (&label, &rank) in labels.iter().zip(&ranks) {
        per_class[label].clips += 1;
        per_class[label].correct += usize::from(rank == 0);
    }
    let recalls: Vec<f64> = per_class.iter().filter_map(ClassRecall::recall).collect();
    let n = ranks.len() as f64;
    let accuracy = |k: usize| ranks.iter().filter(|&&r| r < k).count() as f64 / n;
    let reciprocal: f64 = ranks.iter().map(|&rank| reciprocal_within_10(rank)).sum();
    ZeroShotMetrics {
        acc1: accuracy(1),
        acc5: accuracy(5),
        acc10: accuracy(10),
        mean_per_class_recall: recalls.iter().sum::<f64>() / recalls.len() as f64,
        map_at_10: reciprocal / n,
        mean_rank: ranks.iter().sum::<usize>() as f64 / n + 1.0,
        median_rank: median_rank(&mut ranks.clone()),
        chance_acc1: 1.0 / n_classes as f64,
        n: ranks.len(),
        n_classes,
        labels: labels.to_vec(),
        ranks,
        predictions,
        per_class,
        tied,
    }
}

/// Index of the greatest score, the first of equal ones.
pub(crate) fn first_greatest(row: &[f32]) -> usize {
    row.iter().enumerate().fold(0, |best, (i, &s)| if s > row[best] { i } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn rows<const N: usize>(values: &[[f32; 3]; N]) -> Tensor {
        Tensor::new(values, &Device::Cpu).unwrap()
    }

    fn three_classes() -> Tensor {
        rows(&[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    }

    #[test]
    fn recall_is_averaged_over_classes_not_clips() {
        // Three clips of class 0, all right; one of class 1, wrong; none of class 2.
        let audio = rows(&[[1.0, 0.0, 0.0], [0.9, 0.1, 0.0], [0.8, 0.1, 0.0], [0.1, 0.2, 0.9]]);
        let found = zero_shot(&audio, &three_classes(), &[0, 0, 0, 1]).unwrap();
        assert_eq!(found.acc1, 0.75);
        assert_eq!(found.mean_per_class_recall, 0.5);
        assert_eq!(found.predictions, [0, 0, 0, 2]);
        assert_eq!(found.ranks, [0, 0, 0, 1]);
        assert_eq!(found.per_class[2].recall(), None);
        assert_eq!(found.get("num_classes_present").unwrap(), 2.0);
        assert_eq!(found.chance_acc1, 1.0 / 3.0);
        assert_eq!(found.map_at_10, (3.0 + 0.5) / 4.0);
        assert_eq!(found.acc5, 1.0);
    }

    #[test]
    fn earlier_class_wins_a_tie() {
        let audio = rows(&[[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]]);
        let found = zero_shot(&audio, &three_classes(), &[0, 1]).unwrap();
        assert_eq!(found.predictions, [0, 0]);
        assert_eq!(found.ranks, [0, 1]);
        assert_eq!(found.tied, 2);
    }

    #[test]
    fn most_windows_decide_and_scores_among_equals() {
        // Clip 0: two windows for class 0, one far louder for class 1. Clip 1: one vote each, class 2 scores more in all.
        let windows = rows(&[
            [0.6, 0.5, 0.0],
            [0.6, 0.5, 0.0],
            [0.0, 9.0, 0.0],
            [0.5, 0.0, 0.4],
            [0.0, 0.1, 0.9],
            [0.0, 1.0, 0.0],
        ]);
        let found = zero_shot_by_votes(&windows, &[3, 2, 1], &three_classes(), &[0, 0, 1]).unwrap();
        assert_eq!(found.predictions, [0, 2, 1]);
        assert_eq!(found.ranks, [0, 1, 0]);
        // The mean of the windows would have said otherwise.
        let mean = rows(&[[0.4, 3.33, 0.0]]);
        assert_eq!(zero_shot(&mean, &three_classes(), &[0]).unwrap().predictions, [1]);
        // A window for each clip is a plain classification.
        let one = zero_shot_by_votes(&windows, &[1; 6], &three_classes(), &[0; 6]).unwrap();
        assert_eq!(one.predictions, zero_shot(&windows, &three_classes(), &[0; 6]).unwrap().predictions);
        for counts in [&[3, 2, 2][..], &[6, 0]] {
            assert!(zero_shot_by_votes(&windows, counts, &three_classes(), &vec![0; counts.len()]).is_err());
        }
    }

    #[test]
    fn the_confusion_matrix_has_a_row_for_each_true_class() {
        let audio = rows(&[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0]]);
        let found = zero_shot(&audio, &three_classes(), &[0, 0, 1]).unwrap();
        assert_eq!(found.confusion(), [[1, 1, 0], [0, 1, 0], [0, 0, 0]]);
    }

    #[test]
    fn first_place_and_prediction_agree() {
        for row in [&[0.1f32, 0.3, 0.3][..], &[2.0], &[-1.0, -1.0], &[0.0, -0.0, 0.0]] {
            assert_eq!(places(row, &[first_greatest(row)])[0].rank, 0, "{row:?}");
        }
    }

    #[test]
    fn wrong_labels_are_named() {
        let audio = three_classes();
        let error = zero_shot(&audio, &audio, &[0, 1, 3]).unwrap_err().to_string();
        assert!(error.contains("clip 2 has label 3, but there are 3 classes"), "{error}");
        assert!(matches!(zero_shot(&audio, &audio, &[0]), Err(Error::CountMismatch { .. })));
        let narrow = Tensor::new(&[[1f32, 0.0]], &Device::Cpu).unwrap();
        assert!(matches!(zero_shot(&audio, &narrow, &[0, 0, 0]), Err(Error::WidthMismatch { .. })));
    }
}
