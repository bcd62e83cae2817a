//! In which order a stream's clips are seen: a function of seed, epoch, rank, readers and the shards' sizes, and of nothing
//! else.
//!
//! ```text
//! shards, shuffled ─► one share per rank ─► dealt to the readers ─► one clip of each reader in turn ─► shuffle buffer ─► batches
//! ```
//!
//! A clip that is unusable keeps its place, as in a planned epoch, so that what is broken moves nothing else. Where all sizes
//! are known, the places alone tell which shards a resumed run has behind it, and those are not read again.

use std::collections::{HashMap, HashSet};

use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::plan::keyed_rng;
use crate::{LoaderConfig, Sample, Skipped};

/// Left-out clips that a batch names; more are counted.
const MAX_REPORTS: usize = 1000;

/// A place of the epoch.
#[derive(Debug)]
pub(crate) struct Slot {
    /// Which of the rank's turns it belongs to; see [`Turns`].
    pub(crate) turn: u64,
    /// The shard, as (how many times the data came up before in this epoch) · 2³² + number.
    pub(crate) shard: u64,
    /// Its number in the shard.
    pub(crate) ordinal: u64,
    /// Its number in the epoch, in the order in which the clips came by.
    pub(crate) number: u64,
    /// The clip; nothing where it is unusable or behind the place where the run goes on.
    pub(crate) sample: Option<Box<Sample>>,
}

impl Slot {
    /// The clip's own generator.
    pub(crate) fn rng_key(&self, seed: u64, epoch: u64) -> [u64; 4] {
        [seed, epoch, self.shard, self.ordinal]
    }

    /// Bytes of the encoded sound.
    pub(crate) fn bytes(&self) -> usize {
        self.sample.as_ref().map_or(0, |sample| sample.audio.held_bytes())
    }
}

/// What a reader hands over.
#[derive(Debug)]
pub(crate) enum Arrival {
    Slot(Slot),
    Skipped(Skipped),
    /// Its share of the data has come by; what follows is the share of the next pass.
    PassEnd,
}

/// What was left out since the last batch.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    named: Vec<Skipped>,
    more: usize,
}

impl Reports {
    pub(crate) fn add(&mut self, skipped: Skipped) {
        tracing::debug!(%skipped, "left out");
        if self.named.len() < MAX_REPORTS {
            self.named.push(skipped);
        } else {
            self.more += 1;
        }
    }

    /// All of them, and none from now on.
    pub(crate) fn take(&mut self) -> Vec<Skipped> {
        let Self { mut named, more } = std::mem::take(self);
        if more > 0 {
            let reason = "left out since the last batch".to_owned();
            named.push(Skipped { what: format!("{more} more members"), reason });
        }
        named
    }
}

/// The shards that a rank reads, turn by turn; pass after pass where the epoch is longer than the data.
#[derive(Debug, Clone)]
pub(crate) struct Turns {
    shards: usize,
    seed: u64,
    epoch: u64,
    shuffle: bool,
    rank: usize,
    world: usize,
    /// Turns of a pass.
    per_pass: u64,
    /// Whether the data are begun anew when they end.
    pub(crate) repeats: bool,
    /// The pass that was asked for last, and its order.
    order: (u64, Vec<usize>),
}

impl Turns {
    pub(crate) fn new(shards: usize, config: &LoaderConfig, repeats: bool) -> Self {
        let LoaderConfig { seed, epoch, shuffle, rank, .. } = *config;
        let world = config.world.max(1);
        let mut turns =
            Self { shards, seed, epoch, shuffle, rank, world, per_pass: 0, repeats, order: (0, Vec::new()) };
        turns.order = (0, turns.pass(0));
        turns.per_pass = turns.order.1.len() as u64;
        turns
    }

    /// Whether the ranks share out the clips of each shard, because there are fewer shards than ranks.
    fn splits_shards(&self) -> bool {
        self.shards < self.world
    }

    /// The shards of this rank in the order of one pass.
    fn pass(&self, pass: u64) -> Vec<usize> {
        let shuffle = |order: &mut Vec<usize>, pass: u64| {
            if self.shuffle {
                order.shuffle(&mut keyed_rng([self.seed, self.epoch, u64::MAX, 1 + (pass << 32)]));
            }
        };
        // The ranks share out one order for all passes, so that no two have a shard in common, however often they begin anew.
        let mut order: Vec<usize> = (0..self.shards).collect();
        shuffle(&mut order, 0);
        if !self.splits_shards() {
            order = order.into_iter().skip(self.rank).step_by(self.world).collect();
        }
        if pass > 0 {
            shuffle(&mut order, pass);
        }
        order
    }

    /// The number of the shard whose turn it is and the name it has for generators; nothing after the last.
    pub(crate) fn shard(&mut self, turn: u64) -> Option<(usize, u64)> {
        let pass = turn.checked_div(self.per_pass)?;
        if pass > 0 && !self.repeats {
            return None;
        }
        if self.order.0 != pass {
            self.order = (pass, self.pass(pass));
        }
        let shard = self.order.1[usize::try_from(turn % self.per_pass).ok()?];
        Some((shard, (pass << 32) | shard as u64))
    }

    /// Whether a reader that goes from one turn to another begins its share anew.
    pub(crate) fn is_new_pass(&self, from: u64, to: u64) -> bool {
        self.repeats && from.checked_div(self.per_pass) != to.checked_div(self.per_pass)
    }

    /// Turns of a pass.
    pub(crate) fn per_pass(&self) -> u64 {
        self.per_pass
    }

    /// Whether a clip of a shard is this rank's.
    pub(crate) fn is_ours(&self, ordinal: u64) -> bool {
        !self.splits_shards() || ordinal % self.world as u64 == self.rank as u64
    }

    /// Readers at work: no more than there are shards, and one where the order is that of the source.
    pub(crate) fn lanes(&self, readers: usize) -> u64 {
        if self.shuffle { (readers as u64).clamp(1, self.per_pass.max(1)) } else { 1 }
    }
}

/// What a reader hands over, one after another.
pub(crate) type Lane<'a> = Box<dyn Iterator<Item = Arrival> + 'a>;

/// One clip of each reader in turn, through a shuffle buffer. A reader that is through with the data waits for the others
/// before it begins them anew, so that no clip comes up a second time before all have come up once.
pub(crate) struct Mixer<'a> {
    /// Readers, and whether they wait at the end of a pass.
    lanes: Vec<(Lane<'a>, bool)>,
    /// The lane whose turn it is.
    lane: usize,
    /// Clips still to be taken in.
    left: u64,
    taken: u64,
    buffer: Vec<Slot>,
    capacity: usize,
    rng: ChaCha8Rng,
    bytes: usize,
    max_bytes: usize,
}

/// How much a [`Mixer`] holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Buffer {
    pub(crate) clips: usize,
    pub(crate) bytes: usize,
}

impl<'a> Mixer<'a> {
    /// `length` is how many clips the epoch has, where that is known.
    pub(crate) fn new(lanes: Vec<Lane<'a>>, length: Option<u64>, buffer: Buffer, config: &LoaderConfig) -> Self {
        Self {
            lanes: lanes.into_iter().map(|lane| (lane, false)).collect(),
            lane: 0,
            left: length.unwrap_or(u64::MAX),
            taken: 0,
            buffer: Vec::new(),
            capacity: if config.shuffle { buffer.clips.max(1) } else { 1 },
            rng: keyed_rng([config.seed, config.epoch, u64::MAX, 2 + ((config.rank as u64) << 32)]),
            bytes: 0,
            max_bytes: buffer.bytes,
        }
    }

    /// The next place of the epoch. `held` bytes of sounds wait elsewhere and count like those of the buffer.
    pub(crate) fn next(&mut self, held: usize, reports: &mut Reports) -> Option<Slot> {
        while self.buffer.len() < self.capacity && self.left > 0 {
            let Some(mut slot) = self.arrival(reports) else {
                self.left = 0;
                break;
            };
            slot.number = self.taken;
            self.taken += 1;
            self.left -= 1;
            if self.bytes.saturating_add(held).saturating_add(slot.bytes()) > self.max_bytes
                && let Some(sample) = slot.sample.take()
            {
                let reason = format!(
                    "no room in the stream's buffer of {} MiB, which {} clips fill; give it more, or fewer clips",
                    self.max_bytes >> 20,
                    self.buffer.len()
                );
                reports.add(Skipped { what: sample.audio.name(), reason });
            }
            self.bytes += slot.bytes();
            self.buffer.push(slot);
        }
        if self.buffer.is_empty() {
            return None;
        }
        let slot = self.buffer.swap_remove(self.rng.random_range(0..self.buffer.len()));
        self.bytes -= slot.bytes();
        Some(slot)
    }

    /// One clip of the next reader that has one.
    fn arrival(&mut self, reports: &mut Reports) -> Option<Slot> {
        while !self.lanes.is_empty() {
            if self.lanes.iter().all(|(_, waits)| *waits) {
                self.lanes.iter_mut().for_each(|(_, waits)| *waits = false);
            }
            self.lane %= self.lanes.len();
            let (lane, waits) = &mut self.lanes[self.lane];
            if *waits {
                self.lane += 1;
                continue;
            }
            match lane.next() {
                Some(Arrival::Slot(slot)) => {
                    self.lane += 1;
                    return Some(slot);
                }
                Some(Arrival::Skipped(skipped)) => reports.add(skipped),
                Some(Arrival::PassEnd) => *waits = true,
                None => drop(self.lanes.remove(self.lane)),
            }
        }
        None
    }
}

/// The turns of which nothing is left after `places` places of the epoch, told from the shards' sizes alone.
pub(crate) fn turns_behind(
    turns: &Turns,
    sizes: &[u64],
    readers: usize,
    (places, length): (u64, u64),
    buffer: Buffer,
    config: &LoaderConfig,
) -> HashSet<u64> {
    let lanes = turns.lanes(readers);
    let counted = (0..lanes).map(|lane| Box::new(counted_lane(turns.clone(), sizes, lane, lanes)) as Box<_>).collect();
    let mut mixer = Mixer::new(counted, Some(length), buffer, config);
    let mut reports = Reports::default();
    let mut seen: HashMap<u64, u64> = HashMap::new();
    for _ in 0..places {
        let Some(slot) = mixer.next(0, &mut reports) else { break };
        *seen.entry(slot.turn).or_default() += 1;
    }
    let mut turns = turns.clone();
    let mut is_behind = |turn: u64, seen: u64| {
        let size = turns.shard(turn).map_or(0, |(shard, _)| sizes[shard]);
        seen == (0..size).filter(|ordinal| turns.is_ours(*ordinal)).count() as u64
    };
    seen.into_iter().filter(|(turn, seen)| is_behind(*turn, *seen)).map(|(turn, _)| turn).collect()
}

/// The places of a reader's turns, without their clips.
fn counted_lane(mut turns: Turns, sizes: &[u64], lane: u64, lanes: u64) -> impl Iterator<Item = Arrival> + '_ {
    let mut fruitless = 0;
    let mut turn = lane;
    let mut ordinal = 0;
    std::iter::from_fn(move || {
        while fruitless <= turns.per_pass() {
            let (shard, name) = turns.shard(turn)?;
            while ordinal < sizes[shard] {
                let slot = Slot { turn, shard: name, ordinal, number: 0, sample: None };
                ordinal += 1;
                if turns.is_ours(slot.ordinal) {
                    fruitless = 0;
                    return Some(Arrival::Slot(slot));
                }
            }
            fruitless += 1;
            let begun = turn;
            turn += lanes;
            ordinal = 0;
            if turns.is_new_pass(begun, turn) {
                return Some(Arrival::PassEnd);
            }
        }
        None
    })
}
