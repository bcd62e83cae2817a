//! One evaluation as one line of JSON, in the shape of CLIP_benchmark's results.
//!
//! `{"dataset": …, "model": …, "split": …, "task": "zeroshot_retrieval", "metrics": {"text_to_audio_R@1": …}}`

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::Result;
use crate::multi_label::MultiLabelMetrics;
use crate::retrieval::{RetrievalMetrics, number};
use crate::zero_shot::ZeroShotMetrics;

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Task {
    /// A class is a text, the nearest one is the answer.
    #[serde(rename = "zeroshot_classification")]
    Classification,
    /// Captions find clips and clips captions.
    #[serde(rename = "zeroshot_retrieval")]
    Retrieval,
}

/// The result of one model on one split of one data set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Name of the data set.
    pub dataset: String,
    /// Name, folder or hub id of the model.
    pub model: String,
    /// Split that was evaluated.
    pub split: String,
    /// What was measured.
    pub task: Task,
    /// Metrics by name (`docs/metrics.md`).
    pub metrics: Map<String, Value>,
}

impl Record {
    /// Record of a retrieval.
    #[must_use]
    pub fn retrieval(dataset: &str, model: &str, split: &str, metrics: &RetrievalMetrics) -> Self {
        Self::new(dataset, model, split, Task::Retrieval, metrics.to_map())
    }

    /// Record of a classification.
    #[must_use]
    pub fn zero_shot(dataset: &str, model: &str, split: &str, metrics: &ZeroShotMetrics) -> Self {
        Self::new(dataset, model, split, Task::Classification, metrics.to_map())
    }

    /// Record of a classification of clips with several labels each.
    #[must_use]
    pub fn multi_label(dataset: &str, model: &str, split: &str, metrics: &MultiLabelMetrics) -> Self {
        Self::new(dataset, model, split, Task::Classification, metrics.to_map())
    }

    fn new(dataset: &str, model: &str, split: &str, task: Task, metrics: Map<String, Value>) -> Self {
        Self { dataset: dataset.to_owned(), model: model.to_owned(), split: split.to_owned(), task, metrics }
    }

    /// One metric by name.
    ///
    /// # Errors
    /// The record has no such number.
    pub fn get(&self, name: &str) -> Result<f64> {
        number(&self.metrics, name)
    }

    /// The record on one line, without its line end.
    #[must_use]
    pub fn to_json_line(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers always serialise")
    }

    /// Reads what [`Record::to_json_line`] writes.
    ///
    /// # Errors
    /// The line is no record.
    pub fn from_json_line(line: &str) -> Result<Self> {
        Ok(serde_json::from_str(line)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};

    fn eye() -> Tensor {
        Tensor::new(&[[1f32, 0.0], [0.0, 1.0]], &Device::Cpu).unwrap()
    }

    #[test]
    fn shape_is_that_of_clip_benchmark() {
        let metrics = crate::zero_shot(&eye(), &eye(), &[0, 1]).unwrap();
        let line = Record::zero_shot("esc50", "runs/a", "valid", &metrics).to_json_line();
        let start = r#"{"dataset":"esc50","model":"runs/a","split":"valid","task":"zeroshot_classification","metrics":{"acc1":1.0,"acc5":1.0,"#;
        assert!(line.starts_with(start), "{line}");
        for key in ["mean_per_class_recall", "chance_acc1"] {
            assert!(line.contains(&format!("\"{key}\":")), "{line}");
        }
        assert!(!line.contains('\n'));
    }

    #[test]
    fn retrieval_carries_every_name() {
        let metrics = crate::retrieval(&eye(), &eye(), &[0, 1]).unwrap();
        let record = Record::retrieval("sounds", "m", "valid", &metrics);
        for direction in ["text_to_audio", "audio_to_text"] {
            for metric in ["R@1", "R@5", "R@10", "mAP@10", "median_rank", "mean_rank"] {
                record.get(&format!("{direction}_{metric}")).unwrap();
            }
        }
        for k in [1, 5, 10] {
            record.get(&format!("chance_R@{k}")).unwrap();
        }
        assert!(record.to_json_line().contains(r#""task":"zeroshot_retrieval""#));
        assert!(record.get("chance_R@2").is_err());
    }

    #[test]
    fn line_reads_back() {
        let metrics = crate::retrieval(&eye(), &eye(), &[1, 0]).unwrap();
        let record = Record::retrieval("a \"quoted\" set", "m", "valid", &metrics);
        assert_eq!(Record::from_json_line(&record.to_json_line()).unwrap(), record);
        assert!(Record::from_json_line("{}").unwrap_err().to_string().contains("not a record"));
    }
}
