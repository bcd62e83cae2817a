//! The command line: what a person may type.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tracing_subscriber::filter::{LevelFilter, Targets};

mod dataset;
mod eval;

pub(crate) use dataset::{Dataset, DatasetList, Inspect, Overlap, Pack, Sounds, Split};
pub(crate) use eval::{Eval, ProbeHead, ProbeLoss, Report, Suite};

/// Contrastive language-audio pretraining: train, evaluate, embed.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, max_term_width = 110)]
pub(crate) struct Xtask {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Threads that compute (default: all cores); those that read sounds are the recipe's data.workers
    #[arg(long, global = true, value_name = "N")]
    pub(crate) threads: Option<NonZeroUsize>,
    /// Say more on standard error (-v decisions, -vv details)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

impl Xtask {
    pub(crate) fn log_level(&self) -> tracing::Level {
        match self.verbose {
            0 => tracing::Level::WARN,
            1 => tracing::Level::INFO,
            _ => tracing::Level::DEBUG,
        }
    }

    /// Who may talk: the decoder calls every file that is no sound an error, which we report ourselves.
    pub(crate) fn log_targets(&self) -> Targets {
        let decoder = if self.verbose == 0 { LevelFilter::OFF } else { self.log_level().into() };
        Targets::new().with_default(self.log_level()).with_target("symphonia", decoder)
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Train a model; without arguments, the small one on the embedded corpus
    Train(Train),
    /// Follow a run in the terminal, or show one that is over
    Watch(Watch),
    /// Evaluate a model; without arguments, the last run on the embedded validation split
    Eval(Eval),
    /// Put evaluations and training runs beside each other: Markdown, CSV and one page with pictures and sounds
    Report(Report),
    /// Print embeddings of sound files and texts, one JSON line each
    Embed(Embed),
    /// Say which labels sound files are likeliest to be of
    Classify(Classify),
    /// Say what sound files are and what a model would be given of them, or what a model is made of
    Info(Info),
    /// Write a model in another program's layout
    Convert(Convert),
    /// Draw the log-mel spectrogram of a sound file, or write its numbers
    Mel(Mel),
    /// Look at data sets and make new ones of them
    #[command(subcommand)]
    Dataset(Dataset),
    /// Write captions from keywords with a T5 model: for tags given here, or for a data set's, as shards
    Caption(Caption),
    /// Train a byte-level BPE tokenizer on the captions of a data set
    Tokenizer(Tokenizer),
    /// Measure the towers and training steps, beside PyTorch with --python
    Bench(Bench),
    /// Say whether the CUDA and the Metal build still type-check, without either device (docs/gpu.md)
    CheckGpu(CheckGpu),
    /// Everything a change must pass: format, lints, tests, documentation
    Ci(Ci),
}

#[derive(Debug, Args)]
pub(crate) struct Train {
    /// Recipe to follow (default: the embedded corpus's; with --init or --data, datasets/recipes/fine-tune.toml)
    #[arg(long, value_name = "FILE.toml")]
    pub(crate) config: Option<PathBuf>,
    /// Override a key of the recipe, for example --set optim.lr=1e-4 (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Model to start from: a model folder, a run, a weight file of LAION's or a hub id such as laion/clap-htsat-unfused
    #[arg(long, value_name = "PATH_OR_ID")]
    pub(crate) init: Option<PathBuf>,
    /// Training clips: an audiofolder, a table, a folder of shards; its splits train and valid where it has them
    #[arg(long, value_name = "PATH")]
    pub(crate) data: Option<PathBuf>,
    /// Validation clips (default: the split of --data, else the recipe's share of the training clips)
    #[arg(long, value_name = "PATH", requires = "data")]
    pub(crate) valid: Option<PathBuf>,
    /// Parameters that do not train: text, audio, heads, pretrained, new, or a checkpoint name with stars or the beginning of one
    /// (repeatable; adds to the recipe's optim.freeze)
    #[arg(long, value_name = "PATTERN")]
    pub(crate) freeze: Vec<String>,
    /// Train with the other processes of this job, data.batch_size clips each: `mpi` (started by mpirun; a build with --features mpi),
    /// or `nccl` (the same, summing between the GPUs; --features nccl)
    #[arg(long, value_name = "mpi|nccl")]
    pub(crate) distributed: Option<Distributed>,
    /// Open and check everything, try a few clips, say what the run would be, and write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Run folder to make (default: runs/DATE-RECIPE)
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Go on with a run that was stopped, from its latest checkpoint and by its own configuration: its folder, or `latest`
    #[arg(
        long,
        value_name = "DIR|latest",
        conflicts_with_all = ["config", "set", "init", "data", "freeze", "dry_run", "out", "exclude", "strict", "device", "Table"]
    )]
    pub(crate) resume: Option<PathBuf>,
    /// Training clips to leave out: the list that `dataset overlap` writes (overrides the recipe's data.exclude)
    #[arg(long, value_name = "FILE")]
    pub(crate) exclude: Option<PathBuf>,
    /// Stop at the first bad clip instead of skipping and counting it
    #[arg(long)]
    pub(crate) strict: bool,
    /// cpu, cuda, cuda:N, metal or auto (default: the recipe's)
    #[arg(long)]
    pub(crate) device: Option<String>,
    #[command(flatten)]
    pub(crate) table: Table,
}

#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// Folder of the run, or `latest`
    #[arg(value_name = "DIR|latest", default_value = "latest")]
    pub(crate) run: PathBuf,
    /// Show how it stands and end, as is done where standard output is no terminal
    #[arg(long)]
    pub(crate) once: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Embed {
    #[command(flatten)]
    pub(crate) model: Model,
    /// Sound files
    #[arg(value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Text to embed (repeatable)
    #[arg(long, value_name = "TEXT")]
    pub(crate) text: Vec<String>,
    /// Stop at the first bad file instead of reporting it and going on
    #[arg(long)]
    pub(crate) strict: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Classify {
    #[command(flatten)]
    pub(crate) model: Model,
    /// Sound files
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// A label to choose from (repeatable)
    #[arg(long, value_name = "LABEL")]
    pub(crate) label: Vec<String>,
    /// Labels to choose from: a JSON list, LAION's JSON of label and index, or a text with one a line
    #[arg(long, value_name = "FILE.json|.txt")]
    pub(crate) labels: Option<PathBuf>,
    /// What a label is put into; {label} is replaced
    #[arg(long, default_value = "this is a sound of {label}")]
    pub(crate) template: String,
    /// Labels to print of each file, the likeliest first
    #[arg(long, value_name = "N", default_value_t = NonZeroUsize::new(5).expect("5 is not zero"))]
    pub(crate) top: NonZeroUsize,
    /// Print one JSON line for each file instead of tables
    #[arg(long)]
    pub(crate) json: bool,
    /// Stop at the first bad file instead of reporting it and going on
    #[arg(long)]
    pub(crate) strict: bool,
}

/// Which model, on which device, and how it listens.
#[derive(Clone, Debug, Args)]
pub(crate) struct Model {
    /// Model folder, run folder, weight file of LAION's, or hub id such as laion/clap-htsat-unfused or
    /// lukewys/laion_clap/630k-audioset-best.pt (default: the best checkpoint of the last run)
    #[arg(long, value_name = "PATH_OR_ID")]
    pub(crate) model: Option<String>,
    /// Tokenizer: a folder that holds it, a tokenizer.json or a hub id (default: the one beside the weights, else, for weights that
    /// come without one, the text tower's own from the hub)
    #[arg(long, value_name = "DIR_OR_ID")]
    pub(crate) tokenizer: Option<PathBuf>,
    /// Front end to agree with: `hf` (transformers) or `laion` (laion_clap) (default: the run's own, else by the kind of model)
    #[arg(long)]
    pub(crate) preset: Option<Preset>,
    /// What to do with clips longer than the model's window (default: windows, or fusion for a fused model)
    #[arg(long)]
    pub(crate) long_audio: Option<LongAudio>,
    /// Seed for `--long-audio random`
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// cpu, cuda, cuda:N, metal or auto
    #[arg(long, default_value = "auto")]
    pub(crate) device: String,
    /// What the model computes in: f32, bf16 or f16
    #[arg(long, default_value = "f32")]
    pub(crate) dtype: String,
    #[command(flatten)]
    pub(crate) revision: Revision,
    /// Give weights that the file lacks initial values, and leave out those that the model has no use for
    #[arg(long)]
    pub(crate) allow_missing: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Info {
    /// Sound files; models and towers: a folder, a run, a weight file or a hub id
    #[arg(value_name = "FILE_OR_MODEL", required = true)]
    pub(crate) files: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) front_end: FrontEnd,
    #[command(flatten)]
    pub(crate) revision: Revision,
    /// Print one JSON line for each
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Convert {
    /// Model folder, run folder, weight file or hub id
    #[arg(value_name = "MODEL")]
    pub(crate) model: PathBuf,
    /// What to write: a folder for hf, a .pt file for laion
    #[arg(value_name = "OUT")]
    pub(crate) out: PathBuf,
    /// Whose layout: `hf` (transformers) or `laion` (laion_clap)
    #[arg(long, value_name = "hf|laion")]
    pub(crate) to: Preset,
    /// Tokenizer of the folder, where the model comes without one: a folder that holds it, a tokenizer.json or a hub id
    #[arg(long, value_name = "DIR_OR_ID")]
    pub(crate) tokenizer: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) revision: Revision,
    /// Give weights that the file lacks initial values, and leave out those that the model has no use for
    #[arg(long)]
    pub(crate) allow_missing: bool,
}

/// Which state of a hub's model.
#[derive(Clone, Debug, Args)]
pub(crate) struct Revision {
    /// Branch, tag or commit of a model on the hub (default: main)
    #[arg(long)]
    pub(crate) revision: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Mel {
    /// Sound file
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) front_end: FrontEnd,
    /// Draw the four views of a fused model, as --long-audio fusion does
    #[arg(long, conflicts_with = "long_audio")]
    pub(crate) views: bool,
    /// File to write: a .png shows the whole sound, or with --views or --long-audio what a model is given of it; .npy and
    /// .safetensors hold what a model is given
    #[arg(long, value_name = "FILE.png|.npy|.safetensors")]
    pub(crate) out: PathBuf,
}

/// How a model would hear a file, without the model.
#[derive(Clone, Debug, Args)]
pub(crate) struct FrontEnd {
    /// Front end: a model config of LAION-CLAP such as HTSAT-tiny-win-1536, a preprocessor_config.json or the folder that
    /// holds one (default: the published unfused models')
    #[arg(long, value_name = "NAME_OR_FILE")]
    pub(crate) config: Option<String>,
    /// Reference to agree with: `hf` (transformers) or `laion` (laion_clap) (default: laion for LAION's names, else hf)
    #[arg(long)]
    pub(crate) preset: Option<Preset>,
    /// What is taken of a sound longer than the front end's window (default: windows, or fusion for a fused model's file)
    #[arg(long)]
    pub(crate) long_audio: Option<LongAudio>,
    /// Seed for `--long-audio random`
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Distributed {
    Mpi,
    Nccl,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Preset {
    Hf,
    Laion,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LongAudio {
    /// Every window, averaged
    Windows,
    /// The first window
    Head,
    /// The middle window
    Center,
    /// The shrunken whole and three chunks (fused models)
    Fusion,
    /// One window drawn with --seed
    Random,
    /// Every window names a class, the one named most often is the answer (eval alone)
    Vote,
}

/// How a table of sounds and words is read, and where more words come from. A recipe has keys of the same names under `[data]`.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Tables and captions")]
pub(crate) struct Table {
    /// Column of a CSV, TSV, JSONL or Parquet file that says where a sound is (default: file_name, filepath, path, audio or the like)
    #[arg(long, value_name = "COLUMN")]
    pub(crate) audio_key: Option<String>,
    /// Column of captions; COLUMN_1, COLUMN_2, … where there are several (default: captions, caption, text or title)
    #[arg(long, value_name = "COLUMN")]
    pub(crate) caption_key: Option<String>,
    /// Column of labels (default: labels, label, tags or tag)
    #[arg(long, value_name = "COLUMN")]
    pub(crate) label_key: Option<String>,
    /// Character between two cells, \t for a tab (default: by the extension and the header)
    #[arg(long, value_name = "CHAR", value_parser = clap_data::Columns::parse_separator)]
    pub(crate) separator: Option<u8>,
    /// Table of ids and captions that take the place of the clips' own, as LAION releases those made of keywords
    #[arg(long, value_name = "FILE")]
    pub(crate) captions: Option<PathBuf>,
    /// Table of ids and captions that join the clips' own
    #[arg(long, value_name = "FILE")]
    pub(crate) more_captions: Option<PathBuf>,
}

impl Table {
    /// How to open a data set: what was typed, all splits.
    pub(crate) fn open_options(&self) -> clap_data::OpenOptions {
        clap_data::OpenOptions {
            columns: clap_data::Columns {
                audio: self.audio_key.clone(),
                caption: self.caption_key.clone(),
                label: self.label_key.clone(),
                separator: self.separator,
            },
            captions: self.captions.clone(),
            more_captions: self.more_captions.clone(),
            ..clap_data::OpenOptions::default()
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Caption {
    /// T5 model: a folder or a hub id, for example gagan3012/k2t
    #[arg(long, value_name = "DIR_OR_ID")]
    pub(crate) model: String,
    #[command(flatten)]
    pub(crate) revision: Revision,
    /// Keywords of one caption, separated by commas (repeatable)
    #[arg(long, value_name = "TAGS", required_unless_present = "data", conflicts_with = "data")]
    pub(crate) tags: Vec<String>,
    /// Data set whose clips are given captions, from their labels
    #[arg(long, value_name = "DIR_OR_SHARDS", requires = "out")]
    pub(crate) data: Option<PathBuf>,
    /// Folder to write shards into, each split a sub-folder; a stopped run is taken up there
    #[arg(long, value_name = "DIR", requires = "data")]
    pub(crate) out: Option<PathBuf>,
    /// Split of the data (default: every split)
    #[arg(long, requires = "data")]
    pub(crate) split: Option<String>,
    /// Clips of each split to take, the first ones (default: all)
    #[arg(long, value_name = "N", requires = "data")]
    pub(crate) max_clips: Option<NonZeroUsize>,
    /// Clips per shard
    #[arg(long, default_value_t = NonZeroUsize::new(512).expect("512 is not zero"))]
    pub(crate) per_shard: NonZeroUsize,
    /// How `text` is made of the labels of clips without captions of their own, as in dataset pack
    #[arg(long, value_name = "NAME_OR_TEMPLATE", default_value = "audioset")]
    pub(crate) template: String,
    /// What the model is given; {keywords} is replaced
    #[arg(long, default_value = clap_data::KeywordPrompt::TEMPLATE)]
    pub(crate) prompt: String,
    /// What stands between keywords
    #[arg(long, value_name = "TEXT", default_value = clap_data::KeywordPrompt::SEPARATOR)]
    pub(crate) keyword_separator: String,
    /// Search as the model's generation_config.json says, instead of with keytotext's options
    #[arg(long)]
    pub(crate) own_generation: bool,
    /// Texts followed at a time; 1 is greedy (default: 4)
    #[arg(long, value_name = "N")]
    pub(crate) num_beams: Option<usize>,
    /// Longest caption in tokens (default: 128)
    #[arg(long, value_name = "N")]
    pub(crate) max_length: Option<usize>,
    /// Above 0 favours long captions (default: 1.5)
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub(crate) length_penalty: Option<f64>,
    /// No N tokens in a row come twice in a caption; 0 allows all (default: 3)
    #[arg(long, value_name = "N")]
    pub(crate) no_repeat_ngram_size: Option<usize>,
    /// Draw tokens instead of searching for the likeliest
    #[arg(long, conflicts_with_all = ["num_beams", "length_penalty"])]
    pub(crate) sample: bool,
    /// With --sample: divides the logits (default: 1)
    #[arg(long, value_name = "T")]
    pub(crate) temperature: Option<f32>,
    /// With --sample: draw among the N likeliest tokens; 0 among all (default: 50)
    #[arg(long, value_name = "N")]
    pub(crate) top_k: Option<usize>,
    /// With --sample: draw among the fewest tokens that have this probability together (default: 1)
    #[arg(long, value_name = "P")]
    pub(crate) top_p: Option<f32>,
    /// Seed of the draws
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Replace words of the generated captions that say a person's sex (docs/captions.md)
    #[arg(long, value_name = "true|false", default_value_t = true, action = clap::ArgAction::Set)]
    pub(crate) debias: bool,
    /// Prompts that the model reads at a time
    #[arg(long, value_name = "N", default_value_t = NonZeroUsize::new(32).expect("32 is not zero"))]
    pub(crate) batch_size: NonZeroUsize,
    /// Stop at the first bad clip instead of skipping and counting it
    #[arg(long)]
    pub(crate) strict: bool,
    /// cpu, cuda, cuda:N, metal or auto
    #[arg(long, default_value = "auto")]
    pub(crate) device: String,
    #[command(flatten)]
    pub(crate) table: Table,
}

#[derive(Debug, Args)]
pub(crate) struct Tokenizer {
    /// Data set whose captions and labels are read (repeatable)
    #[arg(long, value_name = "DIR_OR_SHARDS", required = true)]
    pub(crate) data: Vec<PathBuf>,
    /// Split of the data to read, so that held-out captions stay unseen (default: all)
    #[arg(long)]
    pub(crate) split: Option<String>,
    /// Text around a label, as the recipe's prompt has it
    #[arg(long, default_value = "this is a sound of {label}")]
    pub(crate) template: String,
    /// Most tokens the vocabulary may have
    #[arg(long, default_value_t = 1000)]
    pub(crate) vocab_size: usize,
    /// File to write
    #[arg(long, value_name = "tokenizer.json")]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) table: Table,
}

#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// Interpreter with the packages of tests/reference/requirements.txt, for the times of PyTorch and ONNX Runtime (default: ours alone)
    #[arg(long, value_name = "PATH")]
    pub(crate) python: Option<PathBuf>,
    /// Measure single operations, fused and composed, instead of towers
    #[arg(long)]
    pub(crate) ops: bool,
    /// Measure the loader, from FLAC shards to log-mel batches, instead of towers; --threads are its workers
    #[arg(long, conflicts_with = "ops")]
    pub(crate) loader: bool,
    /// Train the small model on the embedded corpus beside the same run in laion_clap: the same initial weights and batches, nothing random,
    /// step by step in turns. The run's files go into this new folder (docs/parity.md)
    #[arg(long, value_name = "DIR", requires = "python", conflicts_with_all = ["ops", "loader", "only", "rounds"])]
    pub(crate) curve: Option<PathBuf>,
    /// Recipe of that run (default: the embedded corpus's, without augmentation); its towers may have nothing random, no dropout and no drop path.
    /// Augmentation of the recipe is in the batches, which both sides are given
    #[arg(long, value_name = "FILE.toml", requires = "curve", conflicts_with = "write")]
    pub(crate) config: Option<PathBuf>,
    /// Steps of that run
    #[arg(long, value_name = "N", requires = "curve", default_value_t = NonZeroUsize::new(200).expect("200 is not zero"))]
    pub(crate) steps: NonZeroUsize,
    /// Measure the ranks of a large split in both directions beside PyTorch's; its embeddings go into this folder (docs/metrics.md)
    #[arg(long, value_name = "DIR", requires = "python", conflicts_with_all = ["ops", "loader", "only", "rounds", "curve"])]
    pub(crate) retrieval: Option<PathBuf>,
    /// Clips of that split
    #[arg(long, value_name = "N", requires = "retrieval", default_value_t = NonZeroUsize::new(100_000).expect("100,000 is not zero"))]
    pub(crate) clips: NonZeroUsize,
    /// Captions of that split
    #[arg(long, value_name = "N", requires = "retrieval", default_value_t = NonZeroUsize::new(500_000).expect("500,000 is not zero"))]
    pub(crate) captions: NonZeroUsize,
    /// Cases whose names hold one of these, for example --only pann,train (default: all)
    #[arg(long, value_name = "PART", value_delimiter = ',')]
    pub(crate) only: Vec<String>,
    /// Times that each side runs a case, in turns
    #[arg(long, value_name = "N", default_value_t = NonZeroUsize::new(7).expect("7 is not zero"))]
    pub(crate) rounds: NonZeroUsize,
    /// Document to write the table into, between its marks, for example docs/benchmarks.md
    #[arg(long, value_name = "FILE.md", requires = "python", conflicts_with = "only")]
    pub(crate) write: Option<PathBuf>,
    /// Run one case in this process and print the seconds of each round, for example --case "roberta 77 16"; see
    /// xtask/src/bench/case.rs
    #[arg(long, value_name = "CASE", conflicts_with_all = ["python", "ops", "loader", "only", "write"])]
    pub(crate) case: Option<String>,
    /// Answer cases on standard input with seconds
    #[arg(long, hide = true)]
    pub(crate) serve: bool,
}

impl Bench {
    /// Whether `--only` names a case that is called so.
    pub(crate) fn wants(&self, names: &[&str]) -> bool {
        self.only.is_empty() || self.only.iter().any(|part| names.iter().any(|name| name.contains(part.as_str())))
    }
}

#[derive(Debug, Args)]
pub(crate) struct CheckGpu {
    /// Check only these builds (default: both)
    #[arg(value_name = "DEVICE")]
    pub(crate) devices: Vec<crate::check_gpu::Device>,
}

#[derive(Debug, Args)]
pub(crate) struct Ci {
    /// Run only these steps (default: all)
    #[arg(value_name = "STEP")]
    pub(crate) steps: Vec<crate::ci::Step>,
}
