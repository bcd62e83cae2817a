//! What an evaluation measured, and how certain it is.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use clap_data::Skipped;

use crate::bootstrap::{Difference, Interval, compare, intervals};
use crate::error::Result;
use crate::multi_label::{MultiLabelMetrics, multi_label};
use crate::retrieval::{RetrievalMetrics, retrieval};
use crate::statistic::Statistic;
use crate::zero_shot::{ZeroShotMetrics, zero_shot};

/// What was measured, and what was left out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Retrieval, where clips have captions.
    pub retrieval: Option<RetrievalMetrics>,
    /// Zero-shot classification, where clips have a label among the classes.
    pub zero_shot: Option<ZeroShotMetrics>,
    /// Zero-shot classification, where clips have labels among the classes and may have several.
    pub multi_label: Option<MultiLabelMetrics>,
    /// Clips that could not be read, or not be classified.
    pub skipped: Vec<Skipped>,
}

/// Metrics and their statistics, by the names of [`Outcome::metrics`].
type Statistics = Vec<(String, Statistic)>;

impl Outcome {
    /// All metrics by name; those of classification begin with `zeroshot_`.
    #[must_use]
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        let retrieval = self.retrieval.iter().flat_map(|found| found.to_map());
        let one = self.zero_shot.iter().flat_map(|found| found.to_map());
        let several = self.multi_label.iter().flat_map(|found| found.to_map());
        let zero_shot = one.chain(several).map(|(name, value)| (format!("zeroshot_{name}"), value));
        retrieval.chain(zero_shot).filter_map(|(name, value)| Some((name, value.as_f64()?))).collect()
    }

    /// The metrics that say how good the model is, as functions of the clips; those of one list are of the same clips.
    fn statistics(&self) -> [Statistics; 2] {
        let retrieval = self.retrieval.as_ref().map(RetrievalMetrics::statistics);
        let one = self.zero_shot.as_ref().map(ZeroShotMetrics::statistics);
        let zero_shot = one.or_else(|| self.multi_label.as_ref().map(MultiLabelMetrics::statistics));
        let zero_shot = zero_shot.unwrap_or_default().into_iter();
        [
            retrieval.unwrap_or_default(),
            zero_shot.map(|(name, statistic)| (format!("zeroshot_{name}"), statistic)).collect(),
        ]
    }

    /// 95 % intervals by metric name, by a bootstrap over the clips. Counts and what guessing gives have none, nor has a metric that is not
    /// defined on every draw.
    #[must_use]
    pub fn intervals(&self, seed: u64) -> BTreeMap<String, Interval> {
        let mut found = BTreeMap::new();
        for statistics in self.statistics() {
            let of_same_clips: Vec<&Statistic> = statistics.iter().map(|(_, statistic)| statistic).collect();
            let ends = intervals(&of_same_clips, seed).expect("metrics of one task are of the same clips");
            found.extend(statistics.iter().zip(ends).filter_map(|((name, _), ends)| Some((name.clone(), ends?))));
        }
        found
    }

    /// How much better this model is than another one on the same clips, captions and labels in the same order, by metric name.
    ///
    /// # Errors
    /// The two are not of the same clips.
    pub fn compare(&self, other: &Self, seed: u64) -> Result<BTreeMap<String, Difference>> {
        let mut found = BTreeMap::new();
        for (ours, theirs) in self.statistics().iter().zip(other.statistics()) {
            let theirs: BTreeMap<String, Statistic> = theirs.into_iter().collect();
            for (name, statistic) in ours {
                if let Some(other) = theirs.get(name)
                    && let Some(difference) = compare(statistic, other, seed)?
                {
                    found.insert(name.clone(), difference);
                }
            }
        }
        Ok(found)
    }
}

/// Every name that [`Outcome::metrics`] can have.
#[must_use]
pub fn metric_names() -> Vec<String> {
    // A perfect evaluation of two labelled clips has them all.
    let perfect = || -> Result<Outcome> {
        let two = Tensor::new(&[[1f32, 0.0], [0.0, 1.0]], &Device::Cpu)?;
        Ok(Outcome {
            retrieval: Some(retrieval(&two, &two, &[0, 1])?),
            zero_shot: Some(zero_shot(&two, &two, &[0, 1])?),
            multi_label: Some(multi_label(&two, &two)?),
            skipped: Vec::new(),
        })
    };
    perfect().expect("two clips, captions and classes can be measured").metrics().into_keys().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(rows: usize, width: usize, seed: usize) -> Tensor {
        let values: Vec<f32> =
            (0..rows * width).map(|i| ((i * 7919 + seed * 104_729) % 1009) as f32 / 504.0 - 1.0).collect();
        Tensor::from_vec(values, (rows, width), &Device::Cpu).unwrap()
    }

    fn outcome(seed: usize) -> Outcome {
        let (audio, text, classes) = (matrix(30, 6, seed), matrix(70, 6, seed + 1), matrix(4, 6, seed + 2));
        let caption_of: Vec<usize> = (0..70).map(|j| j * 3 % 29).collect();
        let labels: Vec<usize> = (0..30).map(|i| i % 4).collect();
        Outcome {
            retrieval: Some(retrieval(&audio, &text, &caption_of).unwrap()),
            zero_shot: Some(zero_shot(&audio, &classes, &labels).unwrap()),
            ..Outcome::default()
        }
    }

    /// Each statistic, every clip counted once, is the metric of its name; each metric of quality has a statistic.
    #[test]
    fn statistics_are_the_metrics() {
        let mut several = outcome(5);
        let labels: Vec<f32> = (0..120).map(|i| f32::from(u8::from(i % 3 == 0))).collect();
        let labels = Tensor::from_vec(labels, (30, 4), &Device::Cpu).unwrap();
        several.multi_label = Some(multi_label(&matrix(30, 4, 9), &labels).unwrap());
        several.zero_shot = None;
        let mut named = Vec::new();
        for outcome in [outcome(1), outcome(2), several] {
            let metrics = outcome.metrics();
            for (name, statistic) in outcome.statistics().concat() {
                let (found, expected) = (statistic.value().unwrap(), metrics[&name]);
                assert!((found - expected).abs() < 1e-12, "{name}: {found}, not {expected}");
                named.push(name);
            }
        }
        for name in metric_names() {
            let counted = ["chance", "num_", "tied"].iter().any(|part| name.contains(part));
            assert!(counted || named.contains(&name), "{name} has no statistic");
        }
    }

    #[test]
    fn intervals_hold_the_metric_and_differences_vanish_against_itself() {
        let (first, second) = (outcome(1), outcome(2));
        let (metrics, intervals) = (first.metrics(), first.intervals(7));
        assert_eq!(intervals.len(), 13 + 7);
        for (name, Interval { low, high }) in &intervals {
            let value = metrics[name];
            // The median of so few ranks jumps.
            assert!((*low <= value && value <= *high) || name.ends_with("median_rank"), "{name}: {low} {value} {high}");
        }
        assert_eq!(first.intervals(7), intervals);
        let itself = first.compare(&first, 0).unwrap();
        assert_eq!(itself.len(), intervals.len());
        assert!(itself.values().all(|d| d.difference == 0.0 && d.p == 1.0));
        let found = first.compare(&second, 0).unwrap()["zeroshot_acc1"];
        assert!((found.difference - (metrics["zeroshot_acc1"] - second.metrics()["zeroshot_acc1"])).abs() < 1e-12);
    }
}
