//! Batches prepared on worker threads and handed out in the order of the plan.
//!
//! Workers take one clip at a time, the earliest not yet taken, so that the batch needed next is the one they all work on.
//! No clip of a batch more than `prefetch` ahead of the consumer is started, which bounds the memory. Each clip has a
//! generator of its own ([`crate::sample_rng`]), so what a batch holds does not depend on who prepared it or when.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;

use crate::{DataSet, LoaderConfig, Sample, Skipped, plan, sample_rng};

/// One batch, its failed clips left out.
#[derive(Debug)]
pub struct LoadedBatch<T> {
    /// Its number in the epoch.
    pub batch: usize,
    /// Which samples of the data set the items are, one for one.
    pub indices: Vec<usize>,
    /// What the loader's function made of them.
    pub items: Vec<T>,
    /// The clips it failed on.
    pub failed: Vec<Skipped>,
    /// How long the consumer waited: the share of time that more workers could win.
    pub waited: Duration,
}

/// An iterator over the batches of one epoch. Dropping it stops its threads.
pub struct Loader<T> {
    shared: Arc<Shared<T>>,
    workers: Vec<JoinHandle<()>>,
}

/// What to do with one draw of one clip.
type Prepare<T> = dyn Fn(&Sample, &mut ChaCha8Rng) -> Result<T, String> + Send + Sync;

struct Shared<T> {
    data: Arc<DataSet>,
    /// The epoch: (index of the sample, how many times it came up before).
    plan: Vec<Vec<(usize, u32)>>,
    seed: u64,
    epoch: u64,
    prefetch: usize,
    prepare: Box<Prepare<T>>,
    queue: Mutex<Queue<T>>,
    /// Told when there may be work, or when to stop.
    work: Condvar,
    /// Told when a batch may be complete.
    done: Condvar,
}

struct Queue<T> {
    /// The batch the consumer gets next; the first of `open`.
    front: usize,
    /// The clip to start next: batch and place in it.
    next: (usize, usize),
    /// Batches begun and not handed out.
    open: VecDeque<Open<T>>,
    stop: bool,
}

/// A batch some of whose clips are still being prepared.
struct Open<T> {
    items: Vec<Option<Result<T, String>>>,
    missing: usize,
}

impl<T: Send + 'static> Loader<T> {
    /// Plans the epoch and starts preparing it. `prepare` makes an item of a sample; whatever it draws has to come from
    /// the generator it is given. A panic in it counts as a failure of that clip.
    pub fn new<E: fmt::Display>(
        data: Arc<DataSet>,
        config: LoaderConfig,
        prepare: impl Fn(&Sample, &mut ChaCha8Rng) -> Result<T, E> + Send + Sync + 'static,
    ) -> Self {
        let mut seen: HashMap<usize, u32> = HashMap::new();
        let mut numbered = |index: usize| {
            let copies = seen.entry(index).or_default();
            *copies += 1;
            (index, *copies - 1)
        };
        let plan = plan(&data.samples, &config)
            .into_iter()
            .map(|batch| batch.into_iter().map(&mut numbered).collect())
            .collect();
        let shared = Arc::new(Shared {
            data,
            plan,
            seed: config.seed,
            epoch: config.epoch,
            prefetch: config.prefetch.max(1),
            prepare: Box::new(move |sample, rng| prepare(sample, rng).map_err(|error| error.to_string())),
            queue: Mutex::new(Queue { front: 0, next: (0, 0), open: VecDeque::new(), stop: false }),
            work: Condvar::new(),
            done: Condvar::new(),
        });
        let start = |number| {
            let shared = Arc::clone(&shared);
            let started = thread::Builder::new().name(format!("loader-{number}")).spawn(move || shared.work());
            // Fewer workers only cost time; without any, the consumer prepares its batches itself.
            started.inspect_err(|error| tracing::warn!(%error, "a loader thread could not be started")).ok()
        };
        let workers = (0..config.workers).filter_map(start).collect();
        Self { shared, workers }
    }

    /// Batches of the whole epoch, those already handed out included.
    pub fn batches(&self) -> usize {
        self.shared.plan.len()
    }
}

impl<T: Send + 'static> Iterator for Loader<T> {
    type Item = LoadedBatch<T>;

    fn next(&mut self) -> Option<LoadedBatch<T>> {
        let shared = &self.shared;
        let started = Instant::now();
        let mut queue = shared.queue();
        let batch = queue.front;
        let planned = shared.plan.get(batch)?;
        while queue.open.front().is_none_or(|open| open.missing > 0) {
            if self.workers.is_empty() {
                queue = shared.prepare_next(queue);
            } else {
                queue = shared.done.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
        }
        let open = queue.open.pop_front().expect("the loop above ends at a complete batch");
        queue.front += 1;
        drop(queue);
        shared.work.notify_all();

        let mut loaded = LoadedBatch {
            batch,
            indices: Vec::with_capacity(planned.len()),
            items: Vec::with_capacity(planned.len()),
            failed: Vec::new(),
            waited: started.elapsed(),
        };
        for (&(index, _), item) in planned.iter().zip(open.items) {
            match item.expect("no clip is missing in a complete batch") {
                Ok(item) => {
                    loaded.indices.push(index);
                    loaded.items.push(item);
                }
                Err(reason) => {
                    let what = shared.data.samples[index].audio.name();
                    // A sound's own errors name it already.
                    let reason = reason.strip_prefix(&format!("{what}: ")).map(str::to_owned).unwrap_or(reason);
                    loaded.failed.push(Skipped { what, reason });
                }
            }
        }
        Some(loaded)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.shared.plan.len() - self.shared.queue().front;
        (left, Some(left))
    }
}

impl<T: Send + 'static> ExactSizeIterator for Loader<T> {}

impl<T> Shared<T> {
    fn queue(&self) -> MutexGuard<'_, Queue<T>> {
        // The user's function runs outside the lock, so no panic can leave the queue half changed.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The life of a worker.
    fn work(&self) {
        let mut queue = self.queue();
        loop {
            let (batch, _) = queue.next;
            if queue.stop || batch >= self.plan.len() {
                return;
            }
            queue = if batch <= queue.front.saturating_add(self.prefetch) {
                self.prepare_next(queue)
            } else {
                self.work.wait(queue).unwrap_or_else(PoisonError::into_inner)
            };
        }
    }

    /// Takes the next clip of the plan, prepares it with the lock released, and puts the result in its place.
    fn prepare_next<'a>(&'a self, mut queue: MutexGuard<'a, Queue<T>>) -> MutexGuard<'a, Queue<T>> {
        let (batch, place) = queue.next;
        let planned = &self.plan[batch];
        if place == 0 {
            let items = planned.iter().map(|_| None).collect();
            queue.open.push_back(Open { items, missing: planned.len() });
        }
        queue.next = if place + 1 < planned.len() { (batch, place + 1) } else { (batch + 1, 0) };
        drop(queue);

        let (index, copy) = planned[place];
        let mut rng = sample_rng(self.seed, self.epoch, index, copy);
        let sample = &self.data.samples[index];
        let item = catch_unwind(AssertUnwindSafe(|| (self.prepare)(sample, &mut rng)))
            .unwrap_or_else(|panic| Err(format!("the program failed on it: {}", message(panic.as_ref()))));

        let mut queue = self.queue();
        // The batch is still there: none is handed out before it is complete.
        let at = batch - queue.front;
        let open = &mut queue.open[at];
        open.items[place] = Some(item);
        open.missing -= 1;
        if open.missing == 0 {
            self.done.notify_all();
        }
        queue
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
        self.shared.queue().stop = true;
        self.shared.work.notify_all();
        for worker in self.workers.drain(..) {
            // A worker's panics are caught where they happen; there is nothing left to report.
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rand::Rng;
    use serde_json::Value;

    use super::*;
    use crate::{AudioSource, Balance};

    fn data(count: usize) -> Arc<DataSet> {
        let sample = |number: usize| Sample {
            id: number.to_string(),
            audio: AudioSource::File(PathBuf::from(format!("{number}.wav"))),
            captions: vec!["x".to_owned()],
            labels: vec![if number.is_multiple_of(10) { "rare" } else { "frequent" }.to_owned()],
            meta: Value::Null,
        };
        Arc::new(DataSet {
            name: "set".to_owned(),
            split: "train".to_owned(),
            samples: (0..count).map(sample).collect(),
            ..DataSet::default()
        })
    }

    fn config(workers: usize) -> LoaderConfig {
        LoaderConfig {
            batch_size: 7,
            seed: 3,
            epoch: 5,
            balance: Balance::Labels(1.0),
            shuffle: true,
            workers,
            ..LoaderConfig::default()
        }
    }

    /// Draws a number per clip after a delay that differs by clip; every 13th clip fails.
    fn loader(workers: usize) -> Loader<(String, u64)> {
        Loader::new(data(100), config(workers), |sample, rng| {
            let drawn: u64 = rng.random();
            thread::sleep(Duration::from_micros(drawn % 500));
            let number: usize = sample.id.parse().unwrap();
            if number % 13 == 12 { Err("unlucky") } else { Ok((sample.id.clone(), drawn)) }
        })
    }

    type Seen = Vec<(usize, Vec<usize>, Vec<(String, u64)>, Vec<Skipped>)>;

    fn seen(loader: Loader<(String, u64)>) -> Seen {
        loader.map(|batch| (batch.batch, batch.indices, batch.items, batch.failed)).collect()
    }

    #[test]
    fn batches_do_not_depend_on_the_workers() {
        let expected = seen(loader(0));
        assert_eq!(expected.len(), 15);
        for workers in [1, 3, 16] {
            assert_eq!(seen(loader(workers)), expected, "{workers} workers");
        }
        let drawn: Vec<u64> = expected.iter().flat_map(|(_, _, items, _)| items).map(|(_, drawn)| *drawn).collect();
        let distinct: std::collections::HashSet<&u64> = drawn.iter().collect();
        assert_eq!(distinct.len(), drawn.len(), "copies of a clip draw anew");
    }

    #[test]
    fn failures_are_named_and_left_out() {
        let batches = seen(loader(2));
        let failed: Vec<&Skipped> = batches.iter().flat_map(|(_, _, _, failed)| failed).collect();
        assert!(!failed.is_empty());
        assert!(failed.iter().all(|failed| failed.what.ends_with(".wav") && failed.reason == "unlucky"), "{failed:?}");
        for (_, indices, items, failed) in &batches[..14] {
            assert_eq!(items.len() + failed.len(), 7);
            assert_eq!(indices.len(), items.len());
            assert!(indices.iter().zip(items).all(|(index, (id, _))| *id == index.to_string()));
        }
    }

    #[test]
    fn the_batches_left_are_counted() {
        let mut loader = loader(2);
        loader.by_ref().take(4).for_each(drop);
        assert_eq!((loader.len(), loader.batches()), (11, 15));
    }

    #[test]
    fn the_prefetch_may_be_any_number() {
        let config = LoaderConfig { prefetch: usize::MAX, ..config(2) };
        let loader = Loader::new(data(100), config, |_, _| Ok::<_, String>(()));
        let (sender, receiver) = std::sync::mpsc::channel();
        // On a thread of its own, because a consumer whose workers are idle waits for ever.
        thread::spawn(move || sender.send(loader.count()));
        assert_eq!(receiver.recv_timeout(Duration::from_secs(30)), Ok(15));
    }

    #[test]
    fn a_panic_is_a_failure_of_its_clip() {
        for workers in [0, 2] {
            let loader = Loader::new(data(10), LoaderConfig { workers, ..LoaderConfig::default() }, |sample, _| {
                assert!(sample.id != "4", "clip four");
                Ok::<_, String>(())
            });
            let batches: Vec<_> = loader.collect();
            assert_eq!(batches[0].items.len(), 9);
            assert_eq!(batches[0].failed[0].to_string(), "4.wav: the program failed on it: clip four");
        }
    }

    #[test]
    fn a_sound_is_named_once() {
        let loader = Loader::new(data(1), LoaderConfig::default(), |sample, _| sample.audio.load(8000));
        let batches: Vec<_> = loader.collect();
        let failed = batches[0].failed[0].to_string();
        assert_eq!(failed.matches("0.wav").count(), 1, "{failed}");
    }

    #[test]
    fn no_more_than_the_prefetch_is_begun() {
        let started = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&started);
        let config = LoaderConfig { batch_size: 2, workers: 4, prefetch: 3, ..LoaderConfig::default() };
        let mut loader = Loader::new(data(100), config, move |_, _| {
            counter.fetch_add(1, Ordering::SeqCst);
            Ok::<_, String>(())
        });
        for handed_out in 0..5 {
            let allowed = (handed_out + 1 + 3) * 2;
            let begun = Instant::now();
            while started.load(Ordering::SeqCst) < allowed && begun.elapsed() < Duration::from_secs(5) {
                thread::sleep(Duration::from_millis(1));
            }
            // Long enough for idle workers to go too far, were they let.
            thread::sleep(Duration::from_millis(30));
            assert_eq!(started.load(Ordering::SeqCst), allowed);
            loader.next().unwrap();
        }
    }

    #[test]
    fn dropping_stops_the_threads() {
        let alive = Arc::new(());
        let held = Arc::clone(&alive);
        let mut loader = Loader::new(data(100), config(3), move |_, _| {
            let _held = &held;
            Ok::<_, String>(())
        });
        loader.next().unwrap();
        drop(loader);
        assert_eq!(Arc::strong_count(&alive), 1, "threads and their function are gone");
    }
}
