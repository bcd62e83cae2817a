//! The training clips: any of them at any time, or one after the other as a stream brings them.

use std::collections::BTreeMap;
use std::sync::Arc;

use clap_data::{
    Balance, DataSet, Debias, Excluded, Loader, LoaderConfig, OpenOptions, Skipped, Stream, StreamOptions,
};

use crate::collate::{Collate, Item};
use crate::config::{DataConfig, TrainConfig};
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
    /// Opens `data.train`.
    ///
    /// # Errors
    /// Naming the key at fault.
    pub(crate) fn open(config: &TrainConfig) -> Result<Self> {
        let data = &config.data;
        if !data.stream && !Stream::is_needed(&data.train) {
            return open_indexed(config).map(|data| Self::Indexed(Arc::new(data)));
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
        Ok(Self::Streamed(Arc::new(stream)))
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

/// The training clips, with the captions that are kept apart from them and without those that a list takes out.
fn open_indexed(config: &TrainConfig) -> Result<DataSet> {
    let data = &config.data;
    let options = OpenOptions {
        split: data.train_split.clone(),
        captions: data.captions.clone(),
        more_captions: data.more_captions.clone(),
        augment: data.text_augment_selection,
        // The validation clips are why others are excluded.
        exclude: data.exclude.clone(),
        ..open_options(config)?
    };
    let mut train = clap_data::open(&data.train, &options).map_err(refused)?;
    if data.debias {
        let counts = Debias::default().samples(&mut train.samples);
        tracing::info!(words = counts.values().sum::<usize>(), ?counts, "training captions de-biased");
    }
    Ok(train)
}

/// What needs all clips at hand is refused rather than left undone.
fn refuse_for_streams(data: &DataConfig) -> Result<()> {
    let asked = [
        ("data.captions", data.captions.is_some()),
        ("data.more_captions", data.more_captions.is_some()),
        ("data.exclude", data.exclude.is_some()),
        ("data.debias", data.debias),
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

/// How epoch `epoch` is batched: shuffled, balanced, whole batches only.
pub(crate) fn loader_config(config: &TrainConfig, epoch: u64) -> LoaderConfig {
    let data = &config.data;
    LoaderConfig {
        batch_size: data.batch_size,
        seed: config.seed,
        epoch,
        balance: if data.balance > 0.0 { Balance::Labels(data.balance) } else { Balance::None },
        drop_last: true,
        shuffle: true,
        workers: data.workers,
        prefetch: data.prefetch,
        ..LoaderConfig::default()
    }
}
