//! The threads that read a stream, and the one that makes batches of what they bring.
//!
//! Each reader goes through the shards of its turns and hands over clip by clip through a channel of a few; it waits where
//! nobody takes them. What a batch holds does not depend on how fast any of them is.

use std::collections::HashSet;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, TryLockError};
use std::thread;
use std::time::Duration;

use super::order::{Arrival, Buffer, Lane, Mixer, Reports, Slot, Turns, turns_behind};
use super::shard::{self, Passing};
use super::{Source, Stream};
use crate::{LoaderConfig, Sample, Skipped, TextAugment};

/// Clips between a reader and the mixer.
const CHANNEL: usize = 4;

/// How often a thread that waits for clips looks whether it is to stop.
const PATIENCE: Duration = Duration::from_millis(50);

/// A batch as it comes off the stream, its sounds undecoded.
#[derive(Debug, Default)]
pub(crate) struct Fed {
    /// Number in the epoch, key of the generator, clip.
    pub(crate) clips: Vec<(usize, [u64; 4], Box<Sample>)>,
    /// Bytes of their sounds.
    pub(crate) bytes: usize,
    /// What was left out since the batch before.
    pub(crate) skipped: Vec<Skipped>,
}

/// What can be read once: how far it is, and the thread that reads it.
pub(super) struct Once {
    name: String,
    augment: TextAugment,
    unread: Option<Box<dyn Read + Send>>,
    coming: Option<Receiver<Passing>>,
    /// Pairs that came by.
    position: u64,
}

impl Once {
    pub(super) fn new(name: String, bytes: Box<dyn Read + Send>, augment: TextAugment) -> Self {
        Self { name, augment, unread: Some(bytes), coming: None, position: 0 }
    }

    /// The pairs from number `start` on of which every `world`th is the rank's.
    fn lane<'a>(
        &'a mut self,
        start: u64,
        (rank, world): (u64, u64),
        stop: &'a AtomicBool,
    ) -> impl Iterator<Item = Arrival> + 'a {
        if let Some(bytes) = self.unread.take() {
            let (sender, coming) = sync_channel(CHANNEL);
            let (name, augment) = (self.name.clone(), self.augment);
            let read = move || {
                shard::read(&name, std::io::BufReader::new(bytes), augment, &mut |passing| {
                    sender.send(passing).is_ok()
                });
            };
            match thread::Builder::new().name("stream".to_owned()).spawn(read) {
                Ok(_) => self.coming = Some(coming),
                Err(error) => tracing::warn!(%error, "the thread that reads {} cannot be started", self.name),
            }
        }
        std::iter::from_fn(move || {
            loop {
                match receive(self.coming.as_ref()?, stop)? {
                    Passing::Skipped(skipped) => return Some(Arrival::Skipped(skipped)),
                    Passing::Pair(sample) => {
                        let ordinal = self.position;
                        self.position += 1;
                        if ordinal >= start && (ordinal - start) % world == rank {
                            return Some(Arrival::Slot(Slot { turn: 0, shard: 0, ordinal, number: 0, sample }));
                        }
                    }
                }
            }
        })
    }
}

/// Reads one epoch and hands its batches to `push`, from [`LoaderConfig::first_batch`] on, until it wants no more. What was
/// left out after the last batch comes back.
pub(crate) fn feed(
    stream: &Arc<Stream>,
    config: &LoaderConfig,
    stop: &Arc<AtomicBool>,
    push: &mut dyn FnMut(Fed) -> bool,
) -> Vec<Skipped> {
    let length = stream.length(config);
    let options = &stream.options;
    let buffer = Buffer { clips: options.shuffle_buffer, bytes: options.buffer_bytes };
    let mut reports = Reports::default();
    match &stream.source {
        Source::Shards(shards) => {
            let turns = Turns::new(shards.len(), config, length.is_some());
            let behind = match (&stream.sizes, length) {
                (Some(sizes), Some(length)) if config.first_batch > 0 => {
                    let places = (config.first_batch as u64).saturating_mul(config.batch_size as u64);
                    turns_behind(&turns, sizes, options.readers, (places, length), buffer, config)
                }
                _ => HashSet::new(),
            };
            let lanes = lanes(stream, &turns, &Arc::new(behind), stop, &mut reports);
            let mut mixer = Mixer::new(lanes, length, buffer, config);
            batches(&mut mixer, stream, config, stop, &mut reports, push);
        }
        Source::Once(once) => {
            let mut once = match once.try_lock() {
                Ok(once) => once,
                Err(TryLockError::Poisoned(once)) => once.into_inner(),
                Err(TryLockError::WouldBlock) => {
                    let reason = "another loader reads it".to_owned();
                    return vec![Skipped { what: stream.name.clone(), reason }];
                }
            };
            let (rank, world) = (config.rank as u64, config.world.max(1) as u64);
            let start = config.epoch.saturating_mul(length.unwrap_or(0)).saturating_mul(world);
            if once.position > start {
                let reason = format!("epoch {} began before what is still to come", config.epoch);
                return vec![Skipped { what: stream.name.clone(), reason }];
            }
            let lane = Box::new(once.lane(start, (rank, world), stop));
            let mut mixer = Mixer::new(vec![lane], length, buffer, config);
            batches(&mut mixer, stream, config, stop, &mut reports, push);
        }
    }
    reports.take()
}

/// Batches of what the mixer gives.
fn batches(
    mixer: &mut Mixer<'_>,
    stream: &Stream,
    config: &LoaderConfig,
    stop: &AtomicBool,
    reports: &mut Reports,
    push: &mut dyn FnMut(Fed) -> bool,
) {
    let batch_size = config.batch_size.max(1);
    let mut number = 0;
    loop {
        let mut fed = Fed::default();
        let mut places = 0;
        while places < batch_size
            && let Some(slot) = mixer.next(fed.bytes, reports)
        {
            places += 1;
            if number < config.first_batch {
                continue;
            }
            fed.bytes += slot.bytes();
            let key = slot.rng_key(config.seed, config.epoch);
            let index = usize::try_from(slot.number).unwrap_or(usize::MAX);
            fed.clips.extend(slot.sample.map(|sample| (index, key, sample)));
        }
        let is_whole = places == batch_size;
        if stop.load(Ordering::Relaxed) {
            return;
        }
        if places > 0 && (is_whole || !config.drop_last) {
            number += 1;
            if number > config.first_batch {
                fed.skipped = reports.take();
                if !push(fed) {
                    return;
                }
            }
        }
        if !is_whole {
            break;
        }
        // The sum of the sizes is known, so nothing is gained by waiting for a clip that does not come.
        if stream.batches(config).is_some_and(|all| number as u64 >= all) {
            return;
        }
    }
    if let Some(all) = stream.batches(config).filter(|all| (number as u64) < *all) {
        let reason = format!("the stream ended after {number} of the epoch's {all} batches");
        reports.add(Skipped { what: stream.name.clone(), reason });
    }
}

/// Starts the readers.
fn lanes<'a>(
    stream: &Arc<Stream>,
    turns: &Turns,
    behind: &Arc<HashSet<u64>>,
    stop: &'a AtomicBool,
    reports: &mut Reports,
) -> Vec<Lane<'a>> {
    let count = turns.lanes(stream.options.readers);
    let mut lanes: Vec<Lane<'a>> = Vec::new();
    for lane in 0..count {
        let (sender, arrivals) = sync_channel(CHANNEL);
        let mut reader =
            Reader { stream: Arc::clone(stream), turns: turns.clone(), behind: Arc::clone(behind), arrivals: sender };
        let run = move || {
            // What ends it early is that nobody listens any more.
            let _ = reader.run(lane, count);
        };
        match thread::Builder::new().name(format!("stream-{lane}")).spawn(run) {
            Ok(_) => lanes.push(Box::new(std::iter::from_fn(move || receive(&arrivals, stop)))),
            Err(error) => {
                let reason = format!("the thread that reads a share of it cannot be started ({error})");
                reports.add(Skipped { what: stream.name.clone(), reason });
            }
        }
    }
    lanes
}

/// The next of a channel; nothing when its sender is done or the loader is to stop.
fn receive<T>(channel: &Receiver<T>, stop: &AtomicBool) -> Option<T> {
    loop {
        match channel.recv_timeout(PATIENCE) {
            Ok(next) => return Some(next),
            Err(RecvTimeoutError::Timeout) if stop.load(Ordering::Relaxed) => return None,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return None,
        }
    }
}

/// One reader's share of the turns.
struct Reader {
    stream: Arc<Stream>,
    turns: Turns,
    behind: Arc<HashSet<u64>>,
    arrivals: SyncSender<Arrival>,
}

/// Nobody takes what is read.
struct Unwanted;

impl Reader {
    /// Goes through the turns `lane`, `lane` + `lanes`, … until they end, or none of a whole pass brings anything.
    fn run(&mut self, lane: u64, lanes: u64) -> Result<(), Unwanted> {
        let mut fruitless = 0;
        let mut turn = lane;
        while fruitless <= self.turns.per_pass()
            && let Some((shard, name)) = self.turns.shard(turn)
        {
            let found = if self.behind.contains(&turn) {
                self.pad(turn, name, 0, self.size(shard).unwrap_or(0))?
            } else {
                self.read(turn, shard, name)?
            };
            fruitless = if found > 0 { 0 } else { fruitless + 1 };
            if self.turns.is_new_pass(turn, turn + lanes) {
                self.send(Arrival::PassEnd)?;
            }
            turn += lanes;
        }
        Ok(())
    }

    fn size(&self, shard: usize) -> Option<u64> {
        self.stream.sizes.as_ref().map(|sizes| sizes[shard])
    }

    /// Reads a shard; gives the places of this rank in it.
    fn read(&self, turn: u64, shard: usize, name: u64) -> Result<u64, Unwanted> {
        let Source::Shards(shards) = &self.stream.source else { return Ok(0) };
        let place = &shards[shard];
        let what = place.name();
        let size = self.size(shard);
        let (mut ordinal, mut ours, mut too_many, mut unwanted) = (0, 0, false, false);
        let is_whole = match place.open() {
            Err(error) => {
                self.send(Arrival::Skipped(Skipped { what: what.clone(), reason: error.to_string() }))?;
                false
            }
            Ok(bytes) => shard::read(&what, bytes, self.stream.options.augment, &mut |passing| {
                let arrival = match passing {
                    Passing::Skipped(skipped) => Arrival::Skipped(skipped),
                    Passing::Pair(_) if size.is_some_and(|size| ordinal >= size) => {
                        too_many = true;
                        return false;
                    }
                    Passing::Pair(sample) => {
                        let slot = Slot { turn, shard: name, ordinal, number: 0, sample };
                        ordinal += 1;
                        if !self.turns.is_ours(slot.ordinal) {
                            return true;
                        }
                        ours += 1;
                        Arrival::Slot(slot)
                    }
                };
                unwanted = self.send(arrival).is_err();
                !unwanted
            }),
        };
        if unwanted {
            return Err(Unwanted);
        }
        let Some(size) = size else { return Ok(ours) };
        let mismatch = if too_many {
            Some(format!("sizes.json promises {size} pairs for it and it holds more, which are left out"))
        } else if is_whole && ordinal < size {
            Some(format!("sizes.json promises {size} pairs for it and it holds {ordinal}"))
        } else {
            None
        };
        if let Some(reason) = mismatch {
            self.send(Arrival::Skipped(Skipped { what, reason }))?;
        }
        Ok(ours + self.pad(turn, name, ordinal, size)?)
    }

    /// Empty places in a shard, from one number up to another.
    fn pad(&self, turn: u64, shard: u64, from: u64, to: u64) -> Result<u64, Unwanted> {
        let mut ours = 0;
        for ordinal in (from..to).filter(|ordinal| self.turns.is_ours(*ordinal)) {
            self.send(Arrival::Slot(Slot { turn, shard, ordinal, number: 0, sample: None }))?;
            ours += 1;
        }
        Ok(ours)
    }

    fn send(&self, arrival: Arrival) -> Result<(), Unwanted> {
        self.arrivals.send(arrival).map_err(|_| Unwanted)
    }
}
