//! The command line of `cargo xtask dataset`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use clap_data::{Fraction, GroupBy, PackedSound};

use super::Table;

#[derive(Debug, Subcommand)]
pub(crate) enum Dataset {
    /// Print the benchmarks that are known by name, and which of them are on this machine
    List(DatasetList),
    /// Say what a data set is made of, and what is wrong with it
    Inspect(Inspect),
    /// Write a data set as WebDataset shards, as LAION-CLAP reads them
    Pack(Pack),
    /// Divide a data set into splits that share no speaker, recording or other group
    Split(Split),
    /// Find the clips of one data set that another has too, re-encoded or cut, and list them
    Overlap(Overlap),
}

#[derive(Debug, Args)]
pub(crate) struct DatasetList {
    /// Folder whose folders are looked through for them (default: $CLAP_DATASETS, else datasets/ of this repository)
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// Print one JSON line for each
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Every sound is decoded. Silent: its peak is below -60 dB. Clipped: three or more samples in a row at full \
scale. A sound is there twice where its samples are the same at 48 kHz and 16 bits."
)]
pub(crate) struct Inspect {
    /// An audiofolder, shards, or one split of such
    #[arg(value_name = "SRC")]
    pub(crate) source: PathBuf,
    /// Split to look at (default: all, each by itself and together)
    #[arg(long)]
    pub(crate) split: Option<String>,
    /// Read headers only: seconds instead of minutes, but no levels, no repeated sounds, and damage behind a header stays unseen
    #[arg(long)]
    pub(crate) fast: bool,
    /// Page with plots to write
    #[arg(long, value_name = "FILE.html")]
    pub(crate) html: Option<PathBuf>,
    /// Log-mel spectrograms of clips drawn at random on the page
    #[arg(long, value_name = "N", default_value_t = 6)]
    pub(crate) pictures: usize,
    /// Seed of that draw
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Write over an existing page
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// Count the tokens of captions as well: a folder that holds a tokenizer, a tokenizer.json or a hub id
    #[arg(long, value_name = "DIR_OR_ID")]
    pub(crate) tokenizer: Option<PathBuf>,
    /// Print one JSON object instead of tables
    #[arg(long)]
    pub(crate) json: bool,
    /// Exit with code 3 if anything was left out or a sound is broken
    #[arg(long)]
    pub(crate) strict: bool,
    #[command(flatten)]
    pub(crate) table: Table,
}

#[derive(Debug, Args)]
#[command(
    after_help = "A stopped run goes on where it was when it is started again in the same way, and gives the same bytes."
)]
pub(crate) struct Pack {
    /// An audiofolder, a table, a benchmark as it is published, or other shards
    #[arg(value_name = "SRC")]
    pub(crate) source: PathBuf,
    /// Folder to write; each split becomes a sub-folder
    #[arg(value_name = "OUT")]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) sounds: Sounds,
    /// How captions are made of the labels of clips without captions of their own: audioset, fsd50k, us8k, epidemic or paper,
    /// after the scripts that LAION made these with, or a template with {labels} or {label}
    #[arg(long, value_name = "NAME_OR_TEMPLATE", default_value = "audioset")]
    pub(crate) template: String,
    /// Replace words of the captions that say a person's sex (docs/captions.md)
    #[arg(long)]
    pub(crate) debias: bool,
    /// Leave out the clips of this list
    #[arg(long, value_name = "FILE")]
    pub(crate) exclude: Option<PathBuf>,
    /// Stop at the first bad clip instead of skipping and counting it
    #[arg(long)]
    pub(crate) strict: bool,
    #[command(flatten)]
    pub(crate) table: Table,
}

/// How sounds go into shards.
#[derive(Clone, Debug, Args)]
pub(crate) struct Sounds {
    /// Sounds become mono FLAC of 16 bits (the default); files that are just that already keep their bytes
    #[arg(long, conflicts_with = "keep")]
    pub(crate) flac: bool,
    /// Sound files stay as they are, whatever their format
    #[arg(long)]
    pub(crate) keep: bool,
    /// Rate of the FLAC files in Hz, or `no` to leave each sound its own
    #[arg(long, value_name = "HZ", default_value = "48000", value_parser = rate, conflicts_with = "keep")]
    pub(crate) resample: Rate,
    /// Clips per shard
    #[arg(long, value_name = "N", default_value_t = NonZeroUsize::new(512).expect("512 is not zero"))]
    pub(crate) per_shard: NonZeroUsize,
}

/// A rate, or each sound's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate(pub(crate) Option<u32>);

impl Sounds {
    pub(crate) fn packed(&self) -> PackedSound {
        if self.keep { PackedSound::Kept } else { PackedSound::Flac { sample_rate: self.resample.0 } }
    }
}

fn rate(text: &str) -> Result<Rate, String> {
    if text == "no" {
        return Ok(Rate(None));
    }
    let (least, most) = (clap_audio::MIN_SAMPLE_RATE, 655_350);
    match text.parse() {
        Ok(rate) if (least..=most).contains(&rate) => Ok(Rate(Some(rate))),
        _ => Err(format!("a rate within {least} and {most} Hz, or `no`")),
    }
}

#[derive(Debug, Args)]
#[command(
    after_help = "Each split becomes an audiofolder, whose files are second names (hard links) of the originals where the \
file system has such, or with --shards a folder of shards. Splits that the source has already are joined first."
)]
pub(crate) struct Split {
    /// An audiofolder or shards
    #[arg(value_name = "SRC")]
    pub(crate) source: PathBuf,
    /// Folder to write; each split becomes a sub-folder
    #[arg(value_name = "OUT")]
    pub(crate) out: PathBuf,
    /// What stays together: a column of the metadata such as speaker, `label`, or `none`
    #[arg(long, value_name = "COLUMN|label|none", value_parser = group_by)]
    pub(crate) by: GroupBy,
    /// The splits and their shares
    #[arg(long, value_name = "NAME=SHARE,...", value_delimiter = ',', value_parser = fraction,
          default_value = "train=.8,valid=.1,test=.1")]
    pub(crate) fractions: Vec<Fraction>,
    /// Seed of the order in which groups of one size are dealt out
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Split of the source to divide (default: all of it)
    #[arg(long)]
    pub(crate) split: Option<String>,
    /// Write shards, as `dataset pack` does
    #[arg(long)]
    pub(crate) shards: bool,
    #[command(flatten)]
    pub(crate) sounds: Sounds,
    /// Leave out the clips of this list
    #[arg(long, value_name = "FILE")]
    pub(crate) exclude: Option<PathBuf>,
    /// Print one JSON object with the counts instead of a table
    #[arg(long)]
    pub(crate) json: bool,
    /// Stop at the first bad clip instead of skipping and counting it
    #[arg(long)]
    pub(crate) strict: bool,
    #[command(flatten)]
    pub(crate) table: Table,
}

fn group_by(text: &str) -> Result<GroupBy, String> {
    match text {
        "" => Err("a column, `label` or `none`".to_owned()),
        "none" => Ok(GroupBy::Clip),
        "label" => Ok(GroupBy::Label),
        column => Ok(GroupBy::Column(column.to_owned())),
    }
}

fn fraction(text: &str) -> Result<Fraction, String> {
    let parsed = text.split_once('=').and_then(|(name, share)| Some((name, share.trim().parse().ok()?)));
    let (name, share) = parsed.ok_or("write NAME=SHARE, as in train=.8")?;
    Ok(Fraction { name: name.trim().to_owned(), share })
}

#[derive(Debug, Args)]
#[command(
    after_help = "The list names clips of A. Give it to `train --exclude`, `eval --exclude` or `dataset pack --exclude`, with A as \
the data, or as the recipe's data.exclude. Without B, clips of A that are there twice are looked for, and all but the first listed."
)]
pub(crate) struct Overlap {
    /// The data to be cleaned, usually that for training
    #[arg(value_name = "A")]
    pub(crate) a: PathBuf,
    /// The data whose clips it must not have, usually that for evaluation
    #[arg(value_name = "B")]
    pub(crate) b: Option<PathBuf>,
    /// Split of A (default: all of it)
    #[arg(long, value_name = "SPLIT")]
    pub(crate) split_a: Option<String>,
    /// Split of B (default: all of it)
    #[arg(long, value_name = "SPLIT", requires = "b")]
    pub(crate) split_b: Option<String>,
    /// List to write, a CSV table with the columns id, reason, matched, score, offset
    #[arg(long, value_name = "FILE.csv")]
    pub(crate) out: Option<PathBuf>,
    /// Write over an existing list
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// Look for the same samples only, not for the same sound re-encoded, at another level, or in part
    #[arg(long)]
    pub(crate) exact: bool,
    /// Print one JSON line for each match instead of a table
    #[arg(long)]
    pub(crate) json: bool,
    /// Stop at the first bad clip instead of skipping and counting it
    #[arg(long)]
    pub(crate) strict: bool,
}
