//! How good a CLAP model is: retrieval, zero-shot and multi-label metrics from embeddings or scores.
//!
//! The metrics take embeddings and do not know where they came from, so that any model can be measured; [`Evaluation`] makes
//! the embeddings of a CLAP model on a data set. The metrics are those of LAION-CLAP
//! (`training/train.py`: `get_metrics`, `evaluate_clotho_audiocaps`; `evaluate/eval_zeroshot_classification.py`;
//! `clap_module/loss.py`: `LPMetrics`, laion-clap 1.1.7) under their names; `docs/metrics.md` states each definition.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use candle_core::{Device, Tensor};
//! // Two clips; the first has two captions, the second one.
//! let audio = Tensor::new(&[[1f32, 0.0], [0.0, 1.0]], &Device::Cpu)?;
//! let text = Tensor::new(&[[0.8f32, 0.6], [0.6, 0.8], [0.0, 1.0]], &Device::Cpu)?;
//! let found = clap_eval::retrieval(&audio, &text, &[0, 0, 1])?;
//! assert_eq!(found.audio_to_text.recall_at_1, 1.0);
//! assert_eq!(found.text_to_audio.recall_at_1, 2.0 / 3.0); // the second caption prefers the second clip
//! # Ok(()) }
//! ```
#![cfg_attr(test, expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test"))]

mod bootstrap;
mod classifier;
mod embedded;
mod embedding_cache;
mod embedding_file;
mod error;
mod evaluation;
mod headline;
mod loss;
mod multi_label;
mod outcome;
mod pair_ranks;
mod ranks;
mod record;
mod retrieval;
mod similarity;
mod statistic;
mod tsne;
mod zero_shot;

pub use bootstrap::{Difference, Interval, compare, intervals};
pub use classifier::ClassifierMetrics;
pub use embedded::{Embedded, Windows};
pub use embedding_cache::EmbeddingCache;
pub use embedding_file::EmbeddingFile;
pub use error::{Error, Result};
pub use evaluation::{Evaluation, EvaluationConfig, LabelledFeatures, targets};
pub use headline::{HEADLINES, Headline};
pub use loss::contrastive_loss;
pub use multi_label::{MultiLabelMetrics, average_precision, multi_label, roc_auc};
pub use outcome::{Outcome, metric_names};
pub use ranks::{Ranks, Targets, ranks, ranks_in_blocks};
pub use record::{Record, Task};
pub use retrieval::{Direction, RetrievalMetrics, retrieval};
pub use similarity::unit_rows;
pub use statistic::Statistic;
pub use tsne::tsne;
pub use zero_shot::{ClassRecall, ZeroShotMetrics, zero_shot, zero_shot_by_votes};
