//! Batches prepared on worker threads and handed out in the order of the plan, or of a stream.
//!
//! Workers take one clip at a time, the earliest not yet taken, so that the batch needed next is the one they all work on.
//! No clip of a batch more than `prefetch` ahead of the consumer is started, which bounds the memory. Each clip has a
//! generator of its own ([`crate::sample_rng`]), so what a batch holds does not depend on who prepared it or when.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;

use crate::plan::keyed_rng;
use crate::stream::{Fed, Stream, feed};
use crate::{DataSet, LoaderConfig, Sample, Skipped, plan};

/// One batch, its failed clips left out.
#[derive(Debug)]
pub struct LoadedBatch<T> {
    /// Its number in the epoch.
    pub batch: usize,
    /// Which samples of the data set the items are, one for one; of a stream, their numbers in the order they came by.
    pub indices: Vec<usize>,
    /// What the loader's function made of them.
    pub items: Vec<T>,
    /// The clips it failed on; of a stream, also what was left out on the way to this batch.
    pub failed: Vec<Skipped>,
    /// How long the consumer waited: the share of time that more workers could win.
    pub waited: Duration,
}

/// An iterator over the batches of one epoch. Dropping it stops its threads.
pub struct Loader<T> {
    shared: Arc<Shared<T>>,
    threads: Vec<JoinHandle<()>>,
    has_workers: bool,
}

/// What to do with one draw of one clip.
type Prepare<T> = dyn Fn(&Sample, &mut ChaCha8Rng) -> Result<T, String> + Send + Sync;

struct Shared<T> {
    supply: Supply,
    /// Batches of the whole epoch, where that is known.
    batches: Option<usize>,
    prefetch: usize,
    prepare: Box<Prepare<T>>,
    queue: Mutex<Queue<T>>,
    /// Told when there may be work or room, or when to stop.
    work: Condvar,
    /// Told when a batch may be complete.
    done: Condvar,
    /// Set with the queue locked.
    stop: Arc<AtomicBool>,
}

/// Where batches come from.
enum Supply {
    /// Any clip at any time: the epoch as (index of the sample, key of its generator).
    Planned { data: Arc<DataSet>, plan: Vec<Vec<(usize, RngKey)>> },
    /// One batch after the other, put into the queue by a thread of its own; so many bytes may wait in it.
    Streamed { max_bytes: usize },
}

type RngKey = [u64; 4];

struct Queue<T> {
    /// The batch the consumer gets next; the first of `open`.
    front: usize,
    /// The clip to start next: batch and place in it.
    next: (usize, usize),
    /// Batches begun and not handed out.
    open: VecDeque<Open<T>>,
    /// Bytes of streamed sounds in them that are not prepared yet.
    bytes: usize,
    /// Whether a stream has put in its last batch.
    is_complete: bool,
    /// What a stream left out after that.
    leftover: Vec<Skipped>,
}

/// A batch some of whose clips are still being prepared.
struct Open<T> {
    clips: Vec<Clip>,
    items: Vec<Option<Result<T, Skipped>>>,
    missing: usize,
    /// Left out before it came here.
    skipped: Vec<Skipped>,
}

/// A clip to prepare.
struct Clip {
    index: usize,
    rng_key: RngKey,
    /// A streamed clip itself, until a thread takes it.
    sample: Option<Box<Sample>>,
}

/// A clip that a thread took, and where its item goes.
struct Job {
    batch: usize,
    place: usize,
    clip: Clip,
}

impl<T: Send + 'static> Loader<T> {
    /// Plans the epoch and starts preparing it. `prepare` makes an item of a sample; whatever it draws has to come from
    /// the generator it is given. A panic in it counts as a failure of that clip.
    pub fn new<E: fmt::Display>(
        data: Arc<DataSet>,
        config: LoaderConfig,
        prepare: impl Fn(&Sample, &mut ChaCha8Rng) -> Result<T, E> + Send + Sync + 'static,
    ) -> Self {
        let mut seen: HashMap<usize, u64> = HashMap::new();
        let mut keyed = |index: usize| {
            let copies = seen.entry(index).or_default();
            *copies += 1;
            (index, [config.seed, config.epoch, index as u64, *copies - 1])
        };
        let plan: Vec<Vec<_>> =
            plan(&data.samples, &config).into_iter().map(|batch| batch.into_iter().map(&mut keyed).collect()).collect();
        let batches = Some(plan.len());
        let mut loader = Self::with(Supply::Planned { data, plan }, batches, &config, prepare);
        loader.start_workers(config.workers);
        loader
    }

    /// Starts reading and preparing an epoch of a stream. Its batches follow from the stream and the configuration, whatever
    /// the workers and the prefetch.
    ///
    /// # Errors
    /// [`crate::Error::Stream`] for labels to balance, for ranks that share out a stream of unknown length, and for a second
    /// epoch of what can be read once and has no epochs.
    pub fn stream<E: fmt::Display>(
        stream: &Arc<Stream>,
        config: LoaderConfig,
        prepare: impl Fn(&Sample, &mut ChaCha8Rng) -> Result<T, E> + Send + Sync + 'static,
    ) -> crate::Result<Self> {
        stream.check(&config)?;
        let batches = stream.batches(&config).map(|batches| usize::try_from(batches).unwrap_or(usize::MAX));
        let supply = Supply::Streamed { max_bytes: stream.buffer_bytes() };
        let mut loader = Self::with(supply, batches, &config, prepare);
        let (shared, stream, workers) = (Arc::clone(&loader.shared), Arc::clone(stream), config.workers);
        let started = thread::Builder::new().name("loader-stream".to_owned()).spawn(move || {
            shared.read(&stream, &config);
        });
        loader.threads.push(started.map_err(|error| crate::Error::Stream {
            what: "the thread that makes batches".to_owned(),
            reason: error.to_string(),
        })?);
        loader.start_workers(workers);
        Ok(loader)
    }

    fn with<E: fmt::Display>(
        supply: Supply,
        batches: Option<usize>,
        config: &LoaderConfig,
        prepare: impl Fn(&Sample, &mut ChaCha8Rng) -> Result<T, E> + Send + Sync + 'static,
    ) -> Self {
        let queue = Queue {
            front: config.first_batch,
            next: (config.first_batch, 0),
            open: VecDeque::new(),
            bytes: 0,
            is_complete: false,
            leftover: Vec::new(),
        };
        let shared = Shared {
            supply,
            batches,
            prefetch: config.prefetch.max(1),
            prepare: Box::new(move |sample, rng| prepare(sample, rng).map_err(|error| error.to_string())),
            queue: Mutex::new(queue),
            work: Condvar::new(),
            done: Condvar::new(),
            stop: Arc::default(),
        };
        Self { shared: Arc::new(shared), threads: Vec::new(), has_workers: false }
    }

    fn start_workers(&mut self, workers: usize) {
        for number in 0..workers {
            let shared = Arc::clone(&self.shared);
            match thread::Builder::new().name(format!("loader-{number}")).spawn(move || shared.work()) {
                Ok(thread) => {
                    self.threads.push(thread);
                    self.has_workers = true;
                }
                // Fewer workers only cost time; without any, the consumer prepares its batches itself.
                Err(error) => tracing::warn!(%error, "a loader thread could not be started"),
            }
        }
    }

    /// Batches of the whole epoch, those already handed out included; `None` for a stream of unknown length.
    pub fn batches(&self) -> Option<usize> {
        self.shared.batches
    }

    /// What a stream left out after its last batch; to be asked for when the iteration has ended.
    pub fn leftover(&mut self) -> Vec<Skipped> {
        std::mem::take(&mut self.shared.queue().leftover)
    }
}

impl<T: Send + 'static> Iterator for Loader<T> {
    type Item = LoadedBatch<T>;

    fn next(&mut self) -> Option<LoadedBatch<T>> {
        let shared = &self.shared;
        let started = Instant::now();
        let mut queue = shared.queue();
        while queue.open.front().is_none_or(|open| open.missing > 0) {
            if shared.is_over(&queue) {
                return None;
            }
            let job = if self.has_workers { None } else { shared.begin(&mut queue) };
            queue = match job {
                Some(job) => {
                    drop(queue);
                    shared.prepare(job)
                }
                None => shared.done.wait(queue).unwrap_or_else(PoisonError::into_inner),
            };
        }
        let open = queue.open.pop_front().expect("the loop above ends at a complete batch");
        let batch = queue.front;
        queue.front += 1;
        drop(queue);
        shared.work.notify_all();

        let mut loaded = LoadedBatch {
            batch,
            indices: Vec::with_capacity(open.clips.len()),
            items: Vec::with_capacity(open.clips.len()),
            failed: open.skipped,
            waited: started.elapsed(),
        };
        for (clip, item) in open.clips.iter().zip(open.items) {
            match item.expect("no clip is missing in a complete batch") {
                Ok(item) => {
                    loaded.indices.push(clip.index);
                    loaded.items.push(item);
                }
                Err(failed) => loaded.failed.push(failed),
            }
        }
        Some(loaded)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let front = self.shared.queue().front;
        match (&self.shared.supply, self.shared.batches) {
            (Supply::Planned { .. }, Some(batches)) => {
                (batches.saturating_sub(front), Some(batches.saturating_sub(front)))
            }
            // A stream may end early.
            (_, batches) => (0, batches.map(|batches| batches.saturating_sub(front))),
        }
    }
}

impl<T> Shared<T> {
    fn queue(&self) -> MutexGuard<'_, Queue<T>> {
        // The user's function runs outside the lock, so no panic can leave the queue half changed.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether every batch has been handed out.
    fn is_over(&self, queue: &Queue<T>) -> bool {
        match &self.supply {
            Supply::Planned { plan, .. } => queue.front >= plan.len(),
            Supply::Streamed { .. } => queue.is_complete && queue.open.is_empty(),
        }
    }

    /// The life of a worker.
    fn work(&self) {
        let mut queue = self.queue();
        while !self.stop.load(Ordering::Relaxed) {
            let job = self.begin(&mut queue);
            queue = match job {
                Some(job) => {
                    drop(queue);
                    self.prepare(job)
                }
                None if self.is_all_begun(&queue) => return,
                None => self.work.wait(queue).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Whether there is nothing to begin and never will be.
    fn is_all_begun(&self, queue: &Queue<T>) -> bool {
        let (batch, _) = queue.next;
        match &self.supply {
            Supply::Planned { plan, .. } => batch >= plan.len(),
            Supply::Streamed { .. } => queue.is_complete && batch >= queue.front + queue.open.len(),
        }
    }

    /// Takes the next clip that may be started.
    fn begin(&self, queue: &mut Queue<T>) -> Option<Job> {
        loop {
            let (batch, place) = queue.next;
            // A batch of which nothing is left needs no work, and may be handed out before any thread passes it.
            let Some(at) = batch.checked_sub(queue.front) else {
                queue.next = (queue.front, 0);
                continue;
            };
            if at == queue.open.len() {
                let Supply::Planned { plan, .. } = &self.supply else { return None };
                let planned = plan.get(batch).filter(|_| at <= self.prefetch)?;
                let clip = |&(index, rng_key): &(usize, RngKey)| Clip { index, rng_key, sample: None };
                self.open(queue, Open::new(planned.iter().map(clip).collect(), Vec::new()));
            }
            let Some(clip) = queue.open[at].clips.get_mut(place) else {
                queue.next = (batch + 1, 0);
                continue;
            };
            let clip = Clip { index: clip.index, rng_key: clip.rng_key, sample: clip.sample.take() };
            queue.next = (batch, place + 1);
            return Some(Job { batch, place, clip });
        }
    }

    fn open(&self, queue: &mut Queue<T>, open: Open<T>) {
        if open.missing == 0 {
            self.done.notify_all();
        }
        queue.open.push_back(open);
    }

    /// Prepares a clip and puts the result in its place.
    fn prepare(&self, Job { batch, place, clip }: Job) -> MutexGuard<'_, Queue<T>> {
        let planned = match &self.supply {
            Supply::Planned { data, .. } => data.samples.get(clip.index),
            Supply::Streamed { .. } => None,
        };
        let sample =
            clip.sample.as_deref().or(planned).expect("a planned clip is of the data set, a streamed one is here");
        let mut rng = keyed_rng(clip.rng_key);
        let item = catch_unwind(AssertUnwindSafe(|| (self.prepare)(sample, &mut rng)))
            .unwrap_or_else(|panic| Err(format!("the program failed on it: {}", message(panic.as_ref()))))
            .map_err(|reason| {
                let what = sample.audio.name();
                // A sound's own errors name it already.
                let reason = reason.strip_prefix(&format!("{what}: ")).map(str::to_owned).unwrap_or(reason);
                Skipped { what, reason }
            });
        let bytes = clip.sample.as_ref().map_or(0, |sample| sample.audio.held_bytes());
        drop(clip);

        let mut queue = self.queue();
        // The batch is still there: none is handed out before it is complete.
        let at = batch - queue.front;
        let open = &mut queue.open[at];
        open.items[place] = Some(item);
        open.missing -= 1;
        if open.missing == 0 {
            self.done.notify_all();
        }
        if bytes > 0 {
            queue.bytes = queue.bytes.saturating_sub(bytes);
            self.work.notify_all();
        }
        queue
    }

    /// The life of the thread that a stream's batches come from.
    fn read(&self, stream: &Arc<Stream>, config: &LoaderConfig) {
        let leftover = feed(stream, config, &self.stop, &mut |fed| self.push(fed));
        let mut queue = self.queue();
        queue.leftover = leftover;
        queue.is_complete = true;
        drop(queue);
        self.work.notify_all();
        self.done.notify_all();
    }

    /// Puts in a batch once there is room; false when nobody wants it any more.
    fn push(&self, fed: Fed) -> bool {
        let Supply::Streamed { max_bytes } = self.supply else { return false };
        let mut queue = self.queue();
        while !self.stop.load(Ordering::Relaxed)
            && (queue.open.len() > self.prefetch
                || !queue.open.is_empty() && queue.bytes.saturating_add(fed.bytes) > max_bytes)
        {
            queue = self.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        let clip = |(index, rng_key, sample)| Clip { index, rng_key, sample: Some(sample) };
        queue.bytes = queue.bytes.saturating_add(fed.bytes);
        self.open(&mut queue, Open::new(fed.clips.into_iter().map(clip).collect(), fed.skipped));
        drop(queue);
        self.work.notify_all();
        // Without workers the consumer itself prepares what it waits for.
        self.done.notify_all();
        !self.stop.load(Ordering::Relaxed)
    }
}

impl<T> Open<T> {
    fn new(clips: Vec<Clip>, skipped: Vec<Skipped>) -> Self {
        let (items, missing) = (clips.iter().map(|_| None).collect(), clips.len());
        Self { clips, items, missing, skipped }
    }
}

/// What a panic said.
fn message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a message")
}

impl<T> Drop for Loader<T> {
    fn drop(&mut self) {
        let queue = self.shared.queue();
        self.shared.stop.store(true, Ordering::Relaxed);
        drop(queue);
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            // A worker's panics are caught where they happen; there is nothing left to report.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;
