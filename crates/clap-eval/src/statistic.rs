//! A metric as a function of how often each clip counts, which is what resampling needs.
//!
//! A split is a sample of clips. Counting each clip once gives the metric; counting them as often as a draw with replacement
//! has them gives one value of its bootstrap. The captions of a clip come and go with it, since they are no independent
//! queries. Candidates stay what they are: a draw changes who asks, not among whom the answer is sought.

/// A metric of a split, by the clips that it is made of. Two statistics of the same kind on the same clips can be compared
/// draw by draw.
#[derive(Clone, Debug, PartialEq)]
pub struct Statistic {
    units: usize,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    /// `Σ w·sum / Σ w·count`: what the queries of each clip add up to, and how many they are.
    Mean { sums: Vec<f64>, counts: Vec<f64> },
    /// `floor(median) + 1` of ranks from 0: rank and clip of every query, by rank.
    MedianRank { ranks: Vec<(u32, u32)> },
    /// Mean over the classes drawn of the share of right clips.
    MacroRecall { class_of: Vec<u32>, right: Vec<bool>, classes: usize },
    /// Mean over classes of the average precision, or of the area under the ROC curve.
    ByThreshold { classes: Vec<Vec<Place>>, area: bool },
}

/// A clip in the order of one class's scores, from the greatest down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) clip: u32,
    pub(crate) right: bool,
    /// The next clip has a smaller score: clips of equal score pass a threshold together.
    pub(crate) ends_tie: bool,
}

impl Statistic {
    /// Mean over queries of `(clip, value)`.
    pub(crate) fn mean(units: usize, queries: impl IntoIterator<Item = (usize, f64)>) -> Self {
        let (mut sums, mut counts) = (vec![0.0; units], vec![0.0; units]);
        for (clip, value) in queries {
            sums[clip] += value;
            counts[clip] += 1.0;
        }
        Self { units, kind: Kind::Mean { sums, counts } }
    }

    /// Median of `(clip, rank)`.
    pub(crate) fn median_rank(units: usize, queries: impl IntoIterator<Item = (usize, usize)>) -> Self {
        let mut ranks: Vec<(u32, u32)> = queries.into_iter().map(|(clip, rank)| (rank as u32, clip as u32)).collect();
        ranks.sort_unstable();
        Self { units, kind: Kind::MedianRank { ranks } }
    }

    /// Macro recall of clips of class `class_of[i]`, recognised where `right[i]`.
    pub(crate) fn macro_recall(class_of: &[usize], right: Vec<bool>, classes: usize) -> Self {
        let class_of = class_of.iter().map(|&class| class as u32).collect();
        Self { units: right.len(), kind: Kind::MacroRecall { class_of, right, classes } }
    }

    /// Mean over classes of the average precision, each class with its clips in the order of their scores.
    pub(crate) fn mean_average_precision(units: usize, classes: Vec<Vec<Place>>) -> Self {
        Self { units, kind: Kind::ByThreshold { classes, area: false } }
    }

    /// The same of the area under the ROC curve.
    pub(crate) fn mean_roc_auc(units: usize, classes: Vec<Vec<Place>>) -> Self {
        Self { units, kind: Kind::ByThreshold { classes, area: true } }
    }

    /// Number of clips.
    #[must_use]
    pub fn units(&self) -> usize {
        self.units
    }

    /// The metric: every clip counts once. `None` where it is not defined.
    #[must_use]
    pub fn value(&self) -> Option<f64> {
        self.at(&vec![1; self.units])
    }

    /// The metric where clip `i` counts `weights[i]` times. `None` where nothing is left that it is defined on.
    pub(crate) fn at(&self, weights: &[u32]) -> Option<f64> {
        match &self.kind {
            Kind::Mean { sums, counts } => {
                let weighted =
                    |values: &[f64]| -> f64 { values.iter().zip(weights).map(|(v, &w)| v * f64::from(w)).sum() };
                let count = weighted(counts);
                (count > 0.0).then(|| weighted(sums) / count)
            }
            Kind::MedianRank { ranks } => {
                let weight = |clip: u32| u64::from(weights[clip as usize]);
                let total: u64 = ranks.iter().map(|&(_, clip)| weight(clip)).sum();
                let at = |place: u64| {
                    let mut before = 0;
                    ranks.iter().find_map(|&(rank, clip)| {
                        before += weight(clip);
                        (before > place).then_some(rank)
                    })
                };
                let upper = at(total / 2)?;
                let lower = if total.is_multiple_of(2) { at(total / 2 - 1)? } else { upper };
                Some(f64::from((lower + upper) / 2 + 1))
            }
            Kind::MacroRecall { class_of, right, classes } => {
                let mut of_class = vec![(0u32, 0u32); *classes];
                for ((&class, &right), &weight) in class_of.iter().zip(right).zip(weights) {
                    let (clips, found) = &mut of_class[class as usize];
                    *clips += weight;
                    *found += weight * u32::from(right);
                }
                mean(
                    of_class
                        .iter()
                        .filter(|(clips, _)| *clips > 0)
                        .map(|&(clips, found)| f64::from(found) / f64::from(clips)),
                )
            }
            Kind::ByThreshold { classes, area } => mean(
                classes
                    .iter()
                    .filter_map(|places| if *area { roc_area(places, weights) } else { precision(places, weights) }),
            ),
        }
    }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0u32);
    for value in values {
        sum += value;
        count += 1;
    }
    (count > 0).then(|| sum / f64::from(count))
}

/// Weights of right and wrong clips at or above each distinct score, from the greatest down.
fn thresholds<'a>(places: &'a [Place], weights: &'a [u32]) -> impl Iterator<Item = (f64, f64)> + 'a {
    let (mut right, mut wrong) = (0.0, 0.0);
    places.iter().filter_map(move |place| {
        let weight = f64::from(weights[place.clip as usize]);
        *(if place.right { &mut right } else { &mut wrong }) += weight;
        place.ends_tie.then_some((right, wrong))
    })
}

/// `Σ (R_n − R_{n−1}) P_n`; `None` without a right clip.
pub(crate) fn precision(places: &[Place], weights: &[u32]) -> Option<f64> {
    let (mut sum, mut before) = (0.0, 0.0);
    for (right, wrong) in thresholds(places, weights) {
        if right > before {
            sum += (right - before) * right / (right + wrong);
        }
        before = right;
    }
    (before > 0.0).then(|| sum / before)
}

/// By trapezoids over distinct scores; `None` without clips of both kinds.
pub(crate) fn roc_area(places: &[Place], weights: &[u32]) -> Option<f64> {
    let (mut area, mut last) = (0.0, (0.0, 0.0));
    for (right, wrong) in thresholds(places, weights) {
        area += (wrong - last.1) * (right + last.0) / 2.0;
        last = (right, wrong);
    }
    (last.0 > 0.0 && last.1 > 0.0).then(|| area / (last.0 * last.1))
}

/// The clips of one class in the order of their scores; equal scores in any order.
pub(crate) fn places(scores: &[f32], right: &[bool]) -> Vec<Place> {
    let mut order: Vec<u32> = (0..scores.len() as u32).collect();
    order.sort_by(|&i, &j| scores[j as usize].total_cmp(&scores[i as usize]));
    let place = |(n, &clip): (usize, &u32)| {
        let next = order.get(n + 1).map(|&next| scores[next as usize]);
        Place { clip, right: right[clip as usize], ends_tie: next.is_none_or(|next| next != scores[clip as usize]) }
    };
    order.iter().enumerate().map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A statistic of clips that are repeated is that of their weights.
    #[test]
    fn weights_are_repetitions() {
        let weights = [2, 0, 1, 3];
        let repeated: Vec<usize> = [0, 0, 2, 3, 3, 3].to_vec();
        // Clip 2 asks twice.
        let values = [(0, 0.25), (1, 1.0), (2, 0.5), (2, 0.75), (3, 0.0)];
        let statistic = Statistic::mean(4, values);
        let expected: Vec<f64> = repeated
            .iter()
            .flat_map(|&clip| values.iter().filter(move |(of, _)| *of == clip).map(|(_, v)| *v))
            .collect();
        let found = statistic.at(&weights).unwrap();
        assert!((found - expected.iter().sum::<f64>() / expected.len() as f64).abs() < 1e-12);

        let ranks = [(0, 5), (1, 100), (2, 2), (2, 9), (3, 1)];
        let mut all: Vec<usize> = repeated
            .iter()
            .flat_map(|&clip| ranks.iter().filter(move |(of, _)| *of == clip).map(|(_, r)| *r))
            .collect();
        let expected = crate::retrieval::median_rank(&mut all);
        assert_eq!(Statistic::median_rank(4, ranks).at(&weights), Some(expected));

        let (class_of, right) = ([0, 0, 1, 1], vec![true, false, false, true]);
        // Class 0: two of two; class 1: three of four.
        assert_eq!(Statistic::macro_recall(&class_of, right, 3).at(&weights), Some((1.0 + 0.75) / 2.0));

        let (scores, labels) = ([0.9f32, 0.9, 0.4, 0.4], [true, false, true, false]);
        let of = |i: &[usize]| -> (Vec<f32>, Vec<bool>) { i.iter().map(|&i| (scores[i], labels[i])).unzip() };
        let (all_scores, all_labels) = of(&repeated);
        let order = places(&scores, &labels);
        assert_eq!(precision(&order, &weights), crate::average_precision(&all_scores, &all_labels));
        assert_eq!(roc_area(&order, &weights), crate::roc_auc(&all_scores, &all_labels));
    }

    #[test]
    fn nothing_drawn_is_nothing_measured() {
        assert_eq!(Statistic::mean(2, [(0, 1.0)]).at(&[0, 2]), None);
        assert_eq!(Statistic::median_rank(2, [(0, 1)]).at(&[0, 2]), None);
        assert_eq!(Statistic::macro_recall(&[0], vec![true], 2).at(&[0]), None);
        let order = places(&[0.5, 0.1], &[true, false]);
        assert_eq!(precision(&order, &[0, 1]), None);
        assert_eq!(roc_area(&order, &[1, 0]), None);
    }

    #[test]
    fn the_median_of_an_even_number_is_rounded_down() {
        let ranks = Statistic::median_rank(4, [(0, 0), (1, 4), (2, 9), (3, 10)]);
        assert_eq!(ranks.value(), Some(7.0)); // floor((4 + 9) / 2) + 1
    }
}
