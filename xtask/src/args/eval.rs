//! The command line of `cargo xtask eval` and `report`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{Model, Table};

#[derive(Clone, Debug, Args)]
pub(crate) struct Eval {
    #[command(flatten)]
    pub(crate) model: Model,
    /// Data to evaluate on: an audiofolder, a table, a folder of shards, one shard, a benchmark as it is published (default:
    /// the embedded corpus)
    #[arg(long, value_name = "DIR_OR_SHARDS")]
    pub(crate) data: Option<PathBuf>,
    /// Every task of a suite on the data sets that are found in --root, and what is missing: `paper` has retrieval on AudioCaps and Clotho,
    /// zero-shot classification on ESC-50, UrbanSound8K and VGGSound, and linear probes (with --finetune: fine-tuning) on those and FSD50K
    #[arg(long, value_name = "SUITE", requires = "out", conflicts_with_all = ["data", "split", "embeddings", "require", "train_split"])]
    pub(crate) suite: Option<Suite>,
    /// Folder whose folders are looked through for the suite's data sets (default: $CLAP_DATASETS, else datasets/ of this repository)
    #[arg(long, value_name = "DIR", requires = "suite")]
    pub(crate) root: Option<PathBuf>,
    /// Split of the data, or all but one: valid, fold1, !fold1 (default: the one that papers report on for a benchmark, the
    /// whole of it if it has none, else valid, test or eval)
    #[arg(long)]
    pub(crate) split: Option<String>,
    /// Clips to leave out: the list that `dataset overlap` writes, or a text with one id a line
    #[arg(long, value_name = "FILE")]
    pub(crate) exclude: Option<PathBuf>,
    /// Prompt for zero-shot classification; {label} is replaced by the class name. Repeated, a class is the mean of its prompts (default:
    /// the benchmark's own, else the run's, else "this is a sound of {label}")
    #[arg(long)]
    pub(crate) template: Vec<String>,
    /// Embeddings to measure instead of a model: a .safetensors or .jsonl file, or .npy files of clips, captions and classes in the order of
    /// the data (repeatable; docs/metrics.md)
    #[arg(long, value_name = "FILE")]
    pub(crate) embeddings: Vec<PathBuf>,
    /// Folder to write records and embeddings into, for `cargo xtask report`
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Folder that keeps the embeddings of clips for the next evaluation (default: $CLAP_EMBEDDINGS, else runs/embeddings)
    #[arg(long, value_name = "DIR")]
    pub(crate) cache: Option<PathBuf>,
    /// Embed every clip anew and keep nothing
    #[arg(long, conflicts_with = "cache")]
    pub(crate) no_cache: bool,
    #[command(flatten)]
    pub(crate) probe: Probe,
    /// Print one JSON line per task instead of tables
    #[arg(long)]
    pub(crate) json: bool,
    /// Exit with code 1 unless METRIC is at least VALUE, for example --require acc1=0.2 (repeatable)
    #[arg(long, value_name = "METRIC=VALUE")]
    pub(crate) require: Vec<String>,
    /// Stop at the first bad clip instead of skipping and counting it
    #[arg(long)]
    pub(crate) strict: bool,
    #[command(flatten)]
    pub(crate) table: Table,
}

/// A classifier that is trained on a part of the data and tested on the other: by the folds of the data where it has them.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Probes")]
pub(crate) struct Probe {
    /// Train a head on the audio embeddings, which are not normalised, and test it in place of the zero-shot tasks
    #[arg(long, value_name = "HEAD", conflicts_with_all = ["embeddings", "template", "require"])]
    pub(crate) probe: Option<ProbeHead>,
    /// Train the audio tower with the head (default head: mlp)
    #[arg(long, conflicts_with_all = ["embeddings", "template", "require"])]
    pub(crate) finetune: bool,
    /// Split to train on (default: train, dev or development, else all but the split that is tested)
    #[arg(long, value_name = "SPLIT")]
    pub(crate) train_split: Option<String>,
    /// What is minimised (default: bce where clips have several labels, else ce)
    #[arg(long, value_name = "LOSS")]
    pub(crate) probe_loss: Option<ProbeLoss>,
    /// Learning rate of the head (default: 1e-3 for linear, 1e-4 for mlp)
    #[arg(long, value_name = "RATE")]
    pub(crate) probe_lr: Option<f64>,
    /// With --finetune: learning rate of the tower; both fall by a cosine
    #[arg(long, value_name = "RATE", default_value_t = 1e-4)]
    pub(crate) tower_lr: f64,
    /// With --finetune: steps in which the rates rise
    #[arg(long, value_name = "STEPS", default_value_t = 0)]
    pub(crate) probe_warmup: u64,
    /// Passes over the clips (default: 100)
    #[arg(long, value_name = "N")]
    pub(crate) probe_epochs: Option<u64>,
    /// Clips of a step (default: 160)
    #[arg(long, value_name = "N")]
    pub(crate) probe_batch_size: Option<usize>,
    /// With --finetune: mix pairs of clips and their labels
    #[arg(long, requires = "finetune")]
    pub(crate) mixup: bool,
}

impl Probe {
    /// The head to train, if one is.
    pub(crate) fn head(&self) -> Option<ProbeHead> {
        self.probe.or(self.finetune.then_some(ProbeHead::Mlp))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProbeHead {
    /// One linear layer
    Linear,
    /// Linear, ReLU, dropout 0.1, linear; 1,024 wide
    Mlp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProbeLoss {
    /// Binary cross-entropy of each class
    Bce,
    /// Cross-entropy with the clip's class
    Ce,
    /// Squared distance of the logits from 0 and 1
    Mse,
}

#[derive(Debug, Args)]
pub(crate) struct Report {
    /// Folders of results (eval --out) and of training runs; differences are to the first model
    #[arg(value_name = "DIR", required = true)]
    pub(crate) runs: Vec<PathBuf>,
    /// Folder to write report.md, report.csv and report.html into (default: runs/report)
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Clips of each map that sound, 3 s of each; a hundred take 5 MB or so
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) sounds: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Suite {
    /// The tasks of the paper's tables 2 to 4
    Paper,
}
