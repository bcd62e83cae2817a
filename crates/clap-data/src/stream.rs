//! Shards read from front to back, for data that cannot be indexed: standard input, object stores, very many shards.
//!
//! [`crate::open`] goes through every shard once before the first batch and then reads clips wherever they are. A [`Stream`]
//! begins at once, holds a bounded number of clips and seeks nowhere; what it gives up is the exact shuffle and the balance
//! of labels. [`crate::Loader::stream`] makes batches of one. Nothing is written, and no shard is ever held whole.
//!
//! Where every shard has its size in a `sizes.json` beside it, those sizes are the length of the epoch: a shard that holds
//! more is read so far, one that holds less leaves places empty. A run that goes on in the middle of an epoch then reads only
//! the shards that it has not behind it; without sizes it reads everything again up to its place.

mod feed;
#[cfg(feature = "object-store")]
mod object;
pub(crate) mod order;
pub(crate) mod shard;

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::shard_sizes::ShardSizes;
use crate::skipped::Report;
use crate::{Balance, Error, LoaderConfig, Result, TextAugment, source};
pub(crate) use feed::{Fed, feed};

/// More pairs than any shard has; a larger number in a `sizes.json` is a slip.
const MAX_SIZE: u64 = 1 << 24;

/// How a stream is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamOptions {
    /// The split wanted of a folder with one folder of shards for each; all of them when `None`.
    pub split: Option<String>,
    /// Which texts of a shard are its captions.
    pub augment: TextAugment,
    /// Clips that wait undecoded to be drawn from. More mix better; each costs the bytes of its file.
    pub shuffle_buffer: usize,
    /// The most bytes of sounds that wait there, and as many again in batches that are being prepared. A clip for which there
    /// is no room is left out and reported.
    pub buffer_bytes: usize,
    /// Shards read at the same time. More hide the latency of a network and mix better; the order depends on it.
    pub readers: usize,
    /// Clips of an epoch over all ranks, where the shards' sizes are unknown or an epoch is to be shorter or longer than the
    /// data.
    pub samples_per_epoch: Option<u64>,
}

impl Default for StreamOptions {
    /// One shard at a time, 512 clips and 2 GiB in the buffer, epochs as long as the data.
    fn default() -> Self {
        Self {
            split: None,
            augment: TextAugment::None,
            shuffle_buffer: 512,
            buffer_bytes: 2 << 30,
            readers: 1,
            samples_per_epoch: None,
        }
    }
}

/// Shards to be read from front to back. Opening it reads their inventory and no shard.
#[derive(Debug)]
pub struct Stream {
    name: String,
    source: Source,
    /// Pairs in each shard, where all are known.
    sizes: Option<Vec<u64>>,
    options: StreamOptions,
}

enum Source {
    Shards(Vec<Shard>),
    /// What can be read once, held by the epoch that reads it.
    Once(Mutex<feed::Once>),
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shards(shards) => write!(f, "{} shards", shards.len()),
            Self::Once(_) => f.write_str("read once"),
        }
    }
}

/// Where a shard is.
enum Shard {
    File(PathBuf),
    #[cfg(feature = "object-store")]
    Object(object::Object),
}

impl Shard {
    /// Its path or URL.
    fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            #[cfg(feature = "object-store")]
            Self::Object(object) => object.name().to_owned(),
        }
    }

    fn open(&self) -> io::Result<Box<dyn Read>> {
        Ok(match self {
            Self::File(path) => Box::new(io::BufReader::with_capacity(1 << 17, File::open(path)?)),
            #[cfg(feature = "object-store")]
            Self::Object(object) => Box::new(object.open()?),
        })
    }
}

impl Stream {
    /// Whether `place` can be streamed and not opened: standard input or a URL.
    pub fn is_needed(place: &Path) -> bool {
        place == Path::new("-") || url(place).is_some()
    }

    /// The shards at `place`: `-` for standard input; a URL with or without braces (`https://host/train/{0..511}.tar`; `s3`,
    /// `gs`, `az`, `http` and `file` with the feature `object-store`); or what [`crate::open`] finds shards at.
    ///
    /// # Errors
    /// [`Error`] where there are no shards, the inventory beside them is unreadable, or a URL needs a feature that is off.
    pub fn open(place: &Path, options: StreamOptions) -> Result<Self> {
        if Self::is_needed(place)
            && let Some(split) = &options.split
        {
            let reason = format!("a stream has no splits; name the shards of `{split}` alone");
            return Err(Error::Stream { what: place.display().to_string(), reason });
        }
        if place == Path::new("-") {
            return Ok(Self::reader("standard input", io::stdin(), options));
        }
        if let Some(url) = url(place) {
            return Self::remote(url, options);
        }
        let (mut shards, folders) = source::shards(place, options.split.as_deref())?;
        let (mut inventory, mut report) = (ShardSizes::default(), Report::new(true));
        // A shard that is promised and not there keeps its places, and is reported when its turn comes.
        for folder in folders {
            for (name, _) in inventory.absent(&folder, &shards, &mut report)? {
                if Path::new(&name).file_name() != Some(name.as_ref()) {
                    let what = folder.join("sizes.json").display().to_string();
                    return Err(Error::Stream { what, reason: format!("`{name}` is no name of a shard beside it") });
                }
                shards.push(folder.join(name));
            }
        }
        let mut sizes = Vec::with_capacity(shards.len());
        for shard in &shards {
            sizes.push(inventory.promised(shard, &mut report)?);
        }
        let shards = shards.into_iter().map(Shard::File).collect();
        Self::of(place.display().to_string(), shards, sizes, options)
    }

    /// One tar file, or several joined end to end, that can be read once. Its epochs follow each other in it, each of
    /// [`StreamOptions::samples_per_epoch`] clips; without that there is one.
    pub fn reader(name: &str, bytes: impl Read + Send + 'static, options: StreamOptions) -> Self {
        let once = feed::Once::new(name.to_owned(), Box::new(bytes), options.augment);
        Self { name: name.to_owned(), source: Source::Once(Mutex::new(once)), sizes: None, options }
    }

    #[cfg(not(feature = "object-store"))]
    fn remote(url: &str, _options: StreamOptions) -> Result<Self> {
        Err(Error::NeedsFeature { path: PathBuf::from(url), feature: "object-store" })
    }

    #[cfg(feature = "object-store")]
    fn remote(url: &str, options: StreamOptions) -> Result<Self> {
        let (objects, sizes) = object::objects(url)?;
        Self::of(url.to_owned(), objects.into_iter().map(Shard::Object).collect(), sizes, options)
    }

    fn of(name: String, shards: Vec<Shard>, sizes: Vec<Option<u64>>, options: StreamOptions) -> Result<Self> {
        if let Some((shard, size)) = shards.iter().zip(&sizes).find(|(_, size)| size.is_some_and(|n| n > MAX_SIZE)) {
            let reason = format!("sizes.json promises {} pairs for it, more than {MAX_SIZE}", size.unwrap_or(0));
            return Err(Error::Stream { what: shard.name(), reason });
        }
        let sizes: Option<Vec<u64>> = sizes.into_iter().collect();
        Ok(Self { name, source: Source::Shards(shards), sizes, options })
    }

    /// Its path, pattern or URL as it was given, or `standard input`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Shards; one where they are joined end to end.
    pub fn shards(&self) -> usize {
        match &self.source {
            Source::Shards(shards) => shards.len(),
            Source::Once(_) => 1,
        }
    }

    /// Clips of an epoch over all ranks, unusable ones included, where that is known.
    pub fn samples(&self) -> Option<u64> {
        self.options.samples_per_epoch.or_else(|| self.sizes.as_ref().map(|sizes| sizes.iter().sum()))
    }

    /// Clips of an epoch for one rank: whole batches where the last one is left out otherwise.
    fn length(&self, config: &LoaderConfig) -> Option<u64> {
        let (samples, world) = (self.samples()?, config.world.max(1) as u64);
        let batch = config.batch_size.max(1) as u64;
        Some(if config.drop_last { samples / batch.saturating_mul(world) * batch } else { samples.div_ceil(world) })
    }

    /// Batches of an epoch, where that is known: the same for every rank.
    pub fn batches(&self, config: &LoaderConfig) -> Option<u64> {
        Some(self.length(config)?.div_ceil(config.batch_size.max(1) as u64))
    }

    pub(crate) fn buffer_bytes(&self) -> usize {
        self.options.buffer_bytes
    }

    /// Refuses what a stream cannot do.
    pub(crate) fn check(&self, config: &LoaderConfig) -> Result<()> {
        let refuse = |reason: &str| Err(Error::Stream { what: self.name.clone(), reason: reason.to_owned() });
        if config.balance != Balance::None {
            return refuse("a stream does not know its labels beforehand, so it cannot balance them; index the shards");
        }
        if self.samples().is_some() {
            return Ok(());
        }
        if config.world > 1 {
            return refuse(
                "how many clips it holds is unknown, so ranks cannot agree on the batches of an epoch; put a \
                           sizes.json beside the shards or say how many samples an epoch has",
            );
        }
        if config.epoch > 0 && matches!(self.source, Source::Once(_)) {
            return refuse("it can be read once; say how many samples an epoch has to read several epochs of it");
        }
        Ok(())
    }
}

/// The place as a URL, if it is one.
fn url(place: &Path) -> Option<&str> {
    let text = place.to_str()?;
    let (scheme, _) = text.split_once("://")?;
    let is_scheme = !scheme.is_empty() && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    is_scheme.then_some(text)
}

#[cfg(test)]
mod tests;
