//! One evaluation as one line of JSON, in the shape of CLIP_benchmark's results.
//!
//! `{"dataset": …, "model": …, "split": …, "task": "zeroshot_retrieval", "metrics": {"text_to_audio_R@1": …}, "intervals": {…}}`

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::bootstrap::{Interval, intervals};
use crate::classifier::ClassifierMetrics;
use crate::error::Result;
use crate::outcome::Outcome;
use crate::retrieval::number;

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Task {
    /// A class is a text, the nearest one is the answer.
    #[serde(rename = "zeroshot_classification")]
    Classification,
    /// Captions find clips and clips captions.
    #[serde(rename = "zeroshot_retrieval")]
    Retrieval,
    /// A layer on the audio tower's embeddings was trained to classify; the tower was not.
    #[serde(rename = "linear_probe")]
    Probe,
    /// The audio tower was trained with it.
    #[serde(rename = "finetune")]
    FineTune,
}

impl Task {
    /// Its name in a record.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Classification => "zeroshot_classification",
            Self::Retrieval => "zeroshot_retrieval",
            Self::Probe => "linear_probe",
            Self::FineTune => "finetune",
        }
    }
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
    /// 95 % intervals of metrics, by name: their lower and upper ends.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub intervals: BTreeMap<String, [f64; 2]>,
    /// How it was measured: prompts, long clips, front end and the like.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub settings: Map<String, Value>,
}

impl Record {
    /// A record of each task of an outcome, with its [`Outcome::intervals`].
    #[must_use]
    pub fn of(
        outcome: &Outcome,
        intervals: &BTreeMap<String, Interval>,
        (dataset, split, model): (&str, &str, &str),
    ) -> Vec<Self> {
        let record = |task: Task, metrics: Map<String, Value>| {
            let prefix = if task == Task::Retrieval { "" } else { "zeroshot_" };
            let interval = |name: &String| Some((name.clone(), intervals.get(&format!("{prefix}{name}"))?));
            Self {
                dataset: dataset.to_owned(),
                model: model.to_owned(),
                split: split.to_owned(),
                task,
                intervals: metrics
                    .keys()
                    .filter_map(interval)
                    .map(|(name, ends)| (name, [ends.low, ends.high]))
                    .collect(),
                metrics,
                settings: Map::new(),
            }
        };
        let one = outcome.zero_shot.iter().map(|found| (Task::Classification, found.to_map()));
        let several = outcome.multi_label.iter().map(|found| (Task::Classification, found.to_map()));
        let retrieval = outcome.retrieval.iter().map(|found| (Task::Retrieval, found.to_map()));
        one.chain(several).chain(retrieval).map(|(task, metrics)| record(task, metrics)).collect()
    }

    /// The record of a classifier that was trained, with intervals by the bootstrap of this seed.
    ///
    /// # Errors
    /// Outside a bug, none.
    pub fn of_classifier(
        task: Task,
        metrics: &ClassifierMetrics,
        (dataset, split, model): (&str, &str, &str),
        seed: u64,
    ) -> Result<Self> {
        let statistics = metrics.statistics();
        let ends = intervals(&statistics.iter().map(|(_, statistic)| statistic).collect::<Vec<_>>(), seed)?;
        let named = statistics.iter().zip(ends).filter_map(|((name, _), ends)| Some((name.clone(), ends?)));
        Ok(Self {
            dataset: dataset.to_owned(),
            model: model.to_owned(),
            split: split.to_owned(),
            task,
            metrics: metrics.to_map(),
            intervals: named.map(|(name, ends)| (name, [ends.low, ends.high])).collect(),
            settings: Map::new(),
        })
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

    fn records() -> Vec<Record> {
        let eye = Tensor::new(&[[1f32, 0.0], [0.0, 1.0]], &Device::Cpu).unwrap();
        let outcome = Outcome {
            retrieval: Some(crate::retrieval(&eye, &eye, &[1, 0]).unwrap()),
            zero_shot: Some(crate::zero_shot(&eye, &eye, &[0, 1]).unwrap()),
            ..Outcome::default()
        };
        Record::of(&outcome, &outcome.intervals(0), ("a \"quoted\" set", "valid", "runs/a"))
    }

    #[test]
    fn shape_is_that_of_clip_benchmark() {
        let [classification, retrieval] = &records()[..] else { panic!("two tasks") };
        let line = classification.to_json_line();
        let start = r#"{"dataset":"a \"quoted\" set","model":"runs/a","split":"valid","task":"zeroshot_classification","metrics":{"acc1":1.0,"acc5":1.0,"#;
        assert!(line.starts_with(start), "{line}");
        assert!(!line.contains('\n'));
        assert_eq!(classification.intervals["acc1"], [1.0, 1.0]);
        assert_eq!(retrieval.intervals["text_to_audio_R@1"], [0.0, 0.0]);
        for direction in ["text_to_audio", "audio_to_text"] {
            for metric in ["R@1", "R@5", "R@10", "mAP@10", "median_rank", "mean_rank"] {
                retrieval.get(&format!("{direction}_{metric}")).unwrap();
            }
        }
        assert!(retrieval.get("chance_R@2").is_err());
        assert!(retrieval.intervals.keys().all(|name| retrieval.metrics.contains_key(name)));
    }

    #[test]
    fn a_line_reads_back() {
        for record in records() {
            let line = record.to_json_line();
            assert_eq!(Record::from_json_line(&line).unwrap(), record);
            assert!(line.contains(&format!("\"task\":\"{}\"", record.task.name())));
        }
        assert!(Record::from_json_line("{}").unwrap_err().to_string().contains("not a record"));
    }
}
