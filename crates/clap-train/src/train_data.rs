//! The training clips: any of them at any time, or one after the other as a stream brings them.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use clap_data::{
    Balance, DataSet, Debias, Excluded, Fraction, GroupBy, Loader, LoaderConfig, OpenOptions, Sample, Skipped, Stream,
    StreamOptions,
};

use crate::collate::{Collate, Item};
use crate::config::{DataConfig, SourceConfig, TrainConfig};
use crate::distributed::Ranks;
use crate::error::{Error, Result};
use crate::setup::open_options;

/// Training clips as the configuration's `data.train` names them.
#[derive(Clone, Debug)]
pub enum TrainData {
    /// Clips whose places are known: shuffled as a whole, balanced by label.
    Indexed(Arc<DataSet>),
    /// Shards read from front to back: standard input, URLs, and folders with `data.stream`.
    Streamed(Arc<Stream>),
}

impl TrainData {
    /// Opens `data.train` and `data.more`; with `data.holdout` a share of the clips is given for validation.
    ///
    /// # Errors
    /// Naming the key at fault.
    pub(crate) fn open(config: &TrainConfig) -> Result<(Self, Option<DataSet>)> {
        let data = &config.data;
        if !data.stream && !Stream::is_needed(&data.train) {
            let mut train = open_indexed(config)?;
            let held_out = (data.holdout > 0.0).then(|| hold_out(&mut train, config)).transpose()?;
            if data.debias {
                let counts = Debias::default().samples(&mut train.samples);
                tracing::info!(words = counts.values().sum::<usize>(), ?counts, "training captions de-biased");
            }
            return Ok((Self::Indexed(Arc::new(train)), held_out));
        }
        refuse_for_streams(data)?;
        if data.balance > 0.0 {
            let reason = "is above 0, but a stream does not know its labels beforehand; leave it at 0";
            return Err(Error::config("data.balance", reason));
        }
        let stream = Stream::open(&data.train, stream_options(data)).map_err(refused)?;
        if stream.samples().is_none() {
            let reason = format!(
                "is not set, but how many clips {} holds is not known; set it, or put a sizes.json beside the shards",
                stream.name()
            );
            return Err(Error::config("data.samples_per_epoch", reason));
        }
        Ok((Self::Streamed(Arc::new(stream)), None))
    }

    /// Clips of an epoch.
    #[must_use]
    pub fn clips(&self) -> usize {
        match self {
            Self::Indexed(data) => data.samples.len(),
            Self::Streamed(stream) => stream.samples().and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX),
        }
    }

    /// How labels are said, where the data set has its own wording.
    pub(crate) fn phrases(&self) -> BTreeMap<String, String> {
        match self {
            Self::Indexed(data) => data.phrases.clone(),
            Self::Streamed(_) => BTreeMap::new(),
        }
    }

    /// What a list took out.
    pub(crate) fn excluded(&self) -> Option<Excluded> {
        match self {
            Self::Indexed(data) => data.excluded,
            Self::Streamed(_) => None,
        }
    }

    /// What opening left out; a stream finds out on the way.
    #[must_use]
    pub fn skipped(&self) -> &[Skipped] {
        match self {
            Self::Indexed(data) => &data.skipped,
            Self::Streamed(_) => &[],
        }
    }

    /// Batches of an epoch.
    pub(crate) fn batches(&self, config: &LoaderConfig) -> u64 {
        match self {
            Self::Indexed(data) => clap_data::plan(&data.samples, config).len() as u64,
            Self::Streamed(stream) => stream.batches(config).unwrap_or(0),
        }
    }

    /// Starts preparing an epoch.
    ///
    /// # Errors
    /// Where a stream cannot be read.
    pub(crate) fn loader(&self, config: LoaderConfig, collate: Arc<Collate>) -> Result<Loader<Item>> {
        match self {
            Self::Indexed(data) => {
                Ok(Loader::new(Arc::clone(data), config, move |sample, rng| collate.item(sample, rng)))
            }
            Self::Streamed(stream) => {
                Loader::stream(stream, config, move |sample, rng| collate.item(sample, rng)).map_err(refused)
            }
        }
    }
}

/// The training clips of all data sets, with the captions that are kept apart from them and without those that a list takes out.
fn open_indexed(config: &TrainConfig) -> Result<DataSet> {
    let data = &config.data;
    let first = SourceConfig {
        path: data.train.clone(),
        split: data.train_split.clone(),
        captions: data.captions.clone(),
        more_captions: data.more_captions.clone(),
    };
    let mut train = open_source("data.train", &first, config)?;
    for source in &data.more {
        let DataSet { samples, skipped, excluded, phrases, .. } = open_source("data.more", source, config)?;
        train.samples.extend(samples);
        train.skipped.extend(skipped);
        train.phrases.extend(phrases);
        if let (Some(all), Some(excluded)) = (&mut train.excluded, excluded) {
            all.removed += excluded.removed;
        }
    }
    Ok(train)
}

/// The further validation clips, with the captions that are theirs.
pub(crate) fn open_more_valid(config: &TrainConfig) -> Result<Vec<DataSet>> {
    let open = |source: &SourceConfig| {
        let options = OpenOptions {
            split: source.split.clone(),
            captions: source.captions.clone(),
            more_captions: source.more_captions.clone(),
            ..open_options(config)?
        };
        clap_data::open(&source.path, &options)
            .map_err(|error| Error::Data { key: "eval.more".to_owned(), source: error })
    };
    config.eval.more.iter().map(open).collect()
}

fn open_source(key: &str, source: &SourceConfig, config: &TrainConfig) -> Result<DataSet> {
    let options = OpenOptions {
        split: source.split.clone(),
        captions: source.captions.clone(),
        more_captions: source.more_captions.clone(),
        augment: config.data.text_augment_selection,
        // The validation clips are why others are excluded.
        exclude: config.data.exclude.clone(),
        ..open_options(config)?
    };
    clap_data::open(&source.path, &options).map_err(|error| Error::Data { key: key.to_owned(), source: error })
}

/// Takes the share of `data.holdout` out of the training clips.
fn hold_out(train: &mut DataSet, config: &TrainConfig) -> Result<DataSet> {
    let share = config.data.holdout;
    let split = |name: &str, share| Fraction { name: name.to_owned(), share };
    let fractions = [split("train", 1.0 - share), split("valid", share)];
    let partition = clap_data::partition(&train.samples, &GroupBy::Clip, &fractions, config.seed)
        .map_err(|error| Error::config("data.holdout", error.to_string()))?;
    let clips = train.samples.len();
    let held_out: HashSet<usize> = partition.splits.into_iter().skip(1).flat_map(|(_, clips)| clips).collect();
    if held_out.is_empty() || held_out.len() == clips {
        let reason = format!("is {share}: of {clips} training clips {} are held out", held_out.len());
        return Err(Error::config("data.holdout", reason));
    }
    let samples = std::mem::take(&mut train.samples).into_iter().enumerate();
    let (valid, rest): (Vec<_>, Vec<_>) = samples.partition(|(clip, _)| held_out.contains(clip));
    let unnumbered = |samples: Vec<(usize, Sample)>| samples.into_iter().map(|(_, sample)| sample).collect();
    train.samples = unnumbered(rest);
    let valid = DataSet { samples: unnumbered(valid), skipped: Vec::new(), excluded: None, ..train.clone() };
    Ok(DataSet { split: "held out".to_owned(), ..valid })
}

/// What needs all clips at hand is refused rather than left undone.
fn refuse_for_streams(data: &DataConfig) -> Result<()> {
    let asked = [
        ("data.captions", data.captions.is_some()),
        ("data.more_captions", data.more_captions.is_some()),
        ("data.exclude", data.exclude.is_some()),
        ("data.debias", data.debias),
        ("data.more", !data.more.is_empty()),
        ("data.holdout", data.holdout > 0.0),
    ];
    match asked.into_iter().find(|(_, asked)| *asked) {
        None => Ok(()),
        Some((key, _)) => {
            Err(Error::config(key, "is for clips that are indexed, not for a stream; pack such a data set first"))
        }
    }
}

fn refused(source: clap_data::Error) -> Error {
    Error::Data { key: "data.train".to_owned(), source }
}

fn stream_options(data: &DataConfig) -> StreamOptions {
    StreamOptions {
        split: data.train_split.clone(),
        augment: data.text_augment_selection,
        shuffle_buffer: data.shuffle_buffer,
        buffer_bytes: usize::try_from(data.buffer_mb.saturating_mul(1 << 20)).unwrap_or(usize::MAX),
        readers: data.readers,
        samples_per_epoch: data.samples_per_epoch,
    }
}

/// How epoch `epoch` is divided into what a step takes: shuffled, balanced, whole steps only.
pub(crate) fn loader_config(config: &TrainConfig, ranks: &Ranks, epoch: u64) -> LoaderConfig {
    let data = &config.data;
    LoaderConfig {
        batch_size: data.batch_size.saturating_mul(config.optim.accumulate),
        seed: config.seed,
        epoch,
        balance: if data.balance > 0.0 { Balance::Labels(data.balance) } else { Balance::None },
        drop_last: true,
        shuffle: true,
        workers: data.workers,
        prefetch: data.prefetch,
        rank: ranks.rank(),
        world: ranks.world(),
        ..LoaderConfig::default()
    }
}
