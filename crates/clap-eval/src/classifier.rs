//! What a trained classifier's logits are worth: LAION-CLAP's `LPMetrics` (`map`, `mauc`, `acc`), and for single labels recall by class.

use candle_core::{DType, Device, Tensor};
use serde_json::{Map, Value};

use crate::error::Result;
use crate::evaluation::targets;
use crate::multi_label::{MultiLabelMetrics, multi_label};
use crate::statistic::Statistic;
use crate::zero_shot::{ZeroShotMetrics, zero_shot};

/// Metrics of a classifier on held-out clips.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassifierMetrics {
    /// By class.
    pub by_class: MultiLabelMetrics,
    /// By clip, where each has one class.
    pub by_clip: Option<ZeroShotMetrics>,
}

impl ClassifierMetrics {
    /// Metrics of `logits` `(clips, classes)`; `labels` has the classes of each clip, the first of which is the right one where `several` is
    /// false.
    ///
    /// # Errors
    /// Other numbers of clips, a label that is no class, or logits that are not finite.
    pub fn new(logits: &Tensor, labels: &[Vec<usize>], several: bool) -> Result<Self> {
        let (_, classes) = logits.dims2()?;
        let first: Vec<usize> = labels.iter().map(|labels| labels.first().copied().unwrap_or(classes)).collect();
        let logits = logits.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
        // A logit is the product with a unit vector, so this ranks by logits, and checks the labels.
        let by_clip = zero_shot(&logits, &Tensor::eye(classes, DType::F32, &Device::Cpu)?, &first)?;
        let targets = targets(labels, classes, several, &Device::Cpu)?;
        Ok(Self { by_class: multi_label(&logits, &targets)?, by_clip: (!several).then_some(by_clip) })
    }

    /// The metrics by name: those of [`MultiLabelMetrics::to_map`], and for single labels `acc5`, `mean_per_class_recall` and `chance_acc1`.
    #[must_use]
    pub fn to_map(&self) -> Map<String, Value> {
        let mut map = self.by_class.to_map();
        if let Some(by_clip) = &self.by_clip {
            let of_clips = by_clip.to_map();
            for name in ["acc5", "mean_per_class_recall", "chance_acc1"] {
                map.insert(name.to_owned(), of_clips[name].clone());
            }
        }
        map
    }

    /// The metrics that say how good the classifier is, as functions of the clips.
    #[must_use]
    pub fn statistics(&self) -> Vec<(String, Statistic)> {
        let by_clip = self.by_clip.iter().flat_map(ZeroShotMetrics::statistics);
        let by_clip = by_clip.filter(|(name, _)| ["acc5", "mean_per_class_recall"].contains(&name.as_str()));
        self.by_class.statistics().into_iter().chain(by_clip).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_labels_have_recall_and_several_have_not() {
        let logits = Tensor::new(&[[2f32, 1.0, -1.0], [0.0, 3.0, 1.0], [1.0, 0.5, 0.0]], &Device::Cpu).unwrap();
        let one = ClassifierMetrics::new(&logits, &[vec![0], vec![1], vec![1]], false).unwrap();
        let map = one.to_map();
        assert_eq!((map["acc"].as_f64(), map["mean_per_class_recall"].as_f64()), (Some(2.0 / 3.0), Some(0.75)));
        assert_eq!(map["acc5"], 1.0);
        for (name, statistic) in one.statistics() {
            assert!((statistic.value().unwrap() - map[&name].as_f64().unwrap()).abs() < 1e-12, "{name}");
        }
        let several = ClassifierMetrics::new(&logits, &[vec![0, 1], vec![1], vec![1]], true).unwrap();
        assert!(!several.to_map().contains_key("acc5") && several.to_map().contains_key("map"));
        assert!(ClassifierMetrics::new(&logits, &[vec![0], vec![3], vec![1]], false).is_err());
        assert!(ClassifierMetrics::new(&logits, &[vec![0]], false).is_err());
        // Of two labels the first is the right one, whatever the order of the classes.
        let first = ClassifierMetrics::new(&logits, &[vec![1, 0], vec![1], vec![1]], false).unwrap();
        assert_eq!((first.by_class.acc, first.by_clip.unwrap().acc1), (1.0 / 3.0, 1.0 / 3.0));
    }
}
