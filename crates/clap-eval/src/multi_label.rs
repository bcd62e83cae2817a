//! Metrics of scores for several labels per clip: average precision and area under the ROC curve, as scikit-learn has them.
//!
//! LAION-CLAP's linear probe reports `map`, `mauc` and `acc` (`clap_module/loss.py`: `get_map`, `get_mauc`, `get_acc`) by
//! `sklearn.metrics.average_precision_score` and `roc_auc_score` with `average=None`, then the mean.

use candle_core::{DType, Tensor};
use rayon::prelude::*;
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::statistic::{Place, Statistic, places, precision, roc_area};
use crate::zero_shot::first_greatest;

/// Metrics over all classes.
#[derive(Clone, Debug, PartialEq)]
pub struct MultiLabelMetrics {
    /// Mean of the classes' average precisions.
    pub map: f64,
    /// Mean of the classes' areas under the ROC curve; `None` where no class has clips with and without it.
    pub mauc: Option<f64>,
    /// Share of clips whose greatest score is for their (first) label.
    pub acc: f64,
    /// Average precision of each class; `None` for a class without a clip.
    pub ap_per_class: Vec<Option<f64>>,
    /// Area under the ROC curve of each class; `None` for a class that no clip or every clip has.
    pub auc_per_class: Vec<Option<f64>>,
    /// What scores without any meaning give for `map`: the mean over the classes with a clip of their shares of the clips.
    pub chance_map: f64,
    /// Number of clips.
    pub n: usize,
    /// Each class's clips in the order of their scores.
    places: Vec<Vec<Place>>,
    /// Whether each clip's greatest score is for its (first) label.
    right: Vec<bool>,
}

impl MultiLabelMetrics {
    /// `map`, `mauc` and `acc` as functions of the clips.
    #[must_use]
    pub fn statistics(&self) -> Vec<(String, Statistic)> {
        let right = self.right.iter().enumerate().map(|(clip, &right)| (clip, f64::from(u8::from(right))));
        [
            ("map", Statistic::mean_average_precision(self.n, self.places.clone())),
            ("mauc", Statistic::mean_roc_auc(self.n, self.places.clone())),
            ("acc", Statistic::mean(self.n, right)),
        ]
        .map(|(name, statistic)| (name.to_owned(), statistic))
        .into()
    }

    /// The metrics by name: `map`, `mauc` where it is defined, `acc`, `chance_map`, `num_samples`, `num_classes`,
    /// `num_classes_present`.
    #[must_use]
    pub fn to_map(&self) -> Map<String, Value> {
        let mut map = Map::new();
        map.insert("map".into(), self.map.into());
        if let Some(mauc) = self.mauc {
            map.insert("mauc".into(), mauc.into());
        }
        map.insert("acc".into(), self.acc.into());
        map.insert("chance_map".into(), self.chance_map.into());
        map.insert("num_samples".into(), self.n.into());
        map.insert("num_classes".into(), self.ap_per_class.len().into());
        map.insert("num_classes_present".into(), self.ap_per_class.iter().flatten().count().into());
        map
    }
}

/// Metrics of `scores` `(clips, classes)` for `labels` of the same shape, 0 or 1 (more than one half counts as 1).
///
/// Only the order of the scores of one class matters (and of one clip, for `acc`), so that logits and their sigmoids give
/// the same unless rounding makes them equal. The means are over the classes that are defined; scikit-learn would count a
/// class without clips as 0 for `map` and refuse it for `mauc`.
///
/// # Errors
/// Different shapes, no clips, no class with a clip, or scores that are not finite.
pub fn multi_label(scores: &Tensor, labels: &Tensor) -> Result<MultiLabelMetrics> {
    let rows = |what: &'static str, tensor: &Tensor| -> Result<Vec<Vec<f32>>> {
        let (clips, classes) = tensor.dims2().map_err(|_| Error::NotAMatrix { what, shape: tensor.dims().to_vec() })?;
        if clips == 0 || classes == 0 {
            return Err(Error::Empty { what });
        }
        Ok(tensor.to_dtype(DType::F32)?.to_vec2::<f32>()?)
    };
    let (scores, labels) = (rows("score", scores)?, rows("label", labels)?);
    let (clips, classes) = (scores.len(), scores[0].len());
    if (labels.len(), labels[0].len()) != (clips, classes) {
        return Err(Error::CountMismatch {
            left: "labels",
            left_count: labels.len() * labels[0].len(),
            right: "scores",
            right_count: clips * classes,
        });
    }
    for (row, values) in scores.iter().enumerate() {
        if let Some(column) = values.iter().position(|v| !v.is_finite()) {
            return Err(Error::NotFinite { what: "score", row, column, value: values[column] });
        }
    }
    let column = |class: usize| -> (Vec<f32>, Vec<bool>) {
        let of_class = |i: usize| (scores[i][class], labels[i][class] > 0.5);
        (0..clips).map(of_class).unzip()
    };
    let places: Vec<Vec<Place>> = (0..classes)
        .into_par_iter()
        .map(|class| {
            let (scores, labels) = column(class);
            places(&scores, &labels)
        })
        .collect();
    let once = vec![1; clips];
    let ap_per_class: Vec<Option<f64>> = places.iter().map(|places| precision(places, &once)).collect();
    let auc_per_class: Vec<Option<f64>> = places.iter().map(|places| roc_area(places, &once)).collect();
    let share = |class: usize| labels.iter().filter(|row| row[class] > 0.5).count() as f64 / clips as f64;
    let shares: Vec<Option<f64>> = (0..classes).map(|class| Some(share(class)).filter(|share| *share > 0.0)).collect();
    let right: Vec<bool> = scores.iter().zip(&labels).map(|(s, l)| first_greatest(s) == first_greatest(l)).collect();
    Ok(MultiLabelMetrics {
        map: mean_of_defined(&ap_per_class).ok_or(Error::Empty { what: "labelled clips" })?,
        mauc: mean_of_defined(&auc_per_class),
        acc: right.iter().filter(|right| **right).count() as f64 / clips as f64,
        ap_per_class,
        auc_per_class,
        chance_map: mean_of_defined(&shares).unwrap_or_default(),
        n: clips,
        places,
        right,
    })
}

fn mean_of_defined(values: &[Option<f64>]) -> Option<f64> {
    let defined: Vec<f64> = values.iter().copied().flatten().collect();
    (!defined.is_empty()).then(|| defined.iter().sum::<f64>() / defined.len() as f64)
}

/// Area under the precision-recall steps, `Σ (R_n − R_{n−1}) P_n` over distinct scores: scikit-learn's
/// `average_precision_score`. `None` without a right clip.
#[must_use]
pub fn average_precision(scores: &[f32], labels: &[bool]) -> Option<f64> {
    precision(&places(scores, labels), &vec![1; scores.len()])
}

/// Chance that a right clip scores above a wrong one, equal scores counting half: scikit-learn's `roc_auc_score`.
/// `None` where all clips are right or all wrong.
#[must_use]
pub fn roc_auc(scores: &[f32], labels: &[bool]) -> Option<f64> {
    roc_area(&places(scores, labels), &vec![1; scores.len()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn close(a: Option<f64>, b: f64) {
        assert!((a.unwrap() - b).abs() < 1e-12, "{a:?} {b}");
    }

    /// The examples of scikit-learn's own documentation.
    #[test]
    fn documented_examples() {
        let labels = [false, false, true, true];
        let scores = [0.1, 0.4, 0.35, 0.8];
        close(average_precision(&scores, &labels), 0.5 + 0.5 * 2.0 / 3.0);
        close(roc_auc(&scores, &labels), 0.75);
    }

    #[test]
    fn equal_scores_pass_together() {
        let labels = [true, false, true, false];
        close(average_precision(&[0.5; 4], &labels), 0.5);
        close(roc_auc(&[0.5; 4], &labels), 0.5);
        close(average_precision(&[0.5, 0.5, 0.9, 0.1], &labels), 0.5 + 0.5 * 2.0 / 3.0);
        close(average_precision(&[0.0, -0.0, 0.9, -1.0], &labels), 0.5 + 0.5 * 2.0 / 3.0);
    }

    #[test]
    fn undefined_classes_are_left_out() {
        assert_eq!(average_precision(&[0.1, 0.2], &[false, false]), None);
        assert_eq!(roc_auc(&[0.1, 0.2], &[true, true]), None);
        assert_eq!(average_precision(&[], &[]), None);
        let scores = Tensor::new(&[[0.9f32, 0.1], [0.2, 0.3]], &Device::Cpu).unwrap();
        let labels = Tensor::new(&[[1f32, 0.0], [0.0, 0.0]], &Device::Cpu).unwrap();
        let found = multi_label(&scores, &labels).unwrap();
        assert_eq!(found.ap_per_class, [Some(1.0), None]);
        assert_eq!((found.map, found.mauc, found.acc), (1.0, Some(1.0), 0.5));
        assert_eq!((found.chance_map, found.n), (0.5, 2));
        assert_eq!(found.to_map()["num_classes_present"], 1);
    }

    #[test]
    fn wrong_input_is_named() {
        let two = Tensor::zeros((2, 2), DType::F32, &Device::Cpu).unwrap();
        let three = Tensor::zeros((3, 2), DType::F32, &Device::Cpu).unwrap();
        assert!(matches!(multi_label(&two, &three), Err(Error::CountMismatch { .. })));
        assert!(matches!(multi_label(&two, &two), Err(Error::Empty { what: "labelled clips" })));
        let nan = Tensor::new(&[[f32::NAN]], &Device::Cpu).unwrap();
        assert!(matches!(multi_label(&nan, &nan), Err(Error::NotFinite { what: "score", .. })));
    }
}
