//! Work on many things at once, with the results in their order and a bound on how many wait.
//!
//! [`crate::Loader`] does this for the batches of an epoch; here the items are known beforehand, the caller's thread takes the
//! results as they come, and threads may borrow.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// Results that may wait to be taken, or be worked on, for each thread: enough that one long item holds nobody up for long.
const AHEAD: usize = 4;

/// Calls `work` on every item on `threads` threads and `take` on every result, in the order of the items, on this thread.
///
/// At most four results a thread are being made or wait, so memory is bounded by those. The first error of `take` ends it.
pub(crate) fn ordered<T: Sync, R: Send, E>(
    items: &[T],
    threads: NonZeroUsize,
    work: impl Fn(&T) -> R + Sync,
    mut take: impl FnMut(usize, R) -> Result<(), E>,
) -> Result<(), E> {
    let threads = threads.get().min(items.len());
    let queue = Queue { state: Mutex::default(), room: Condvar::new(), done: Condvar::new(), bound: threads * AHEAD };
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| queue.serve(items, &work));
        }
        // Threads that wait for room would wait for ever if this one left without a word, by an error or a panic.
        let _stop = Stop(&queue);
        for index in 0..items.len() {
            match queue.next() {
                Ok(result) => take(index, result)?,
                Err(panic) => resume_unwind(panic),
            }
        }
        Ok(())
    })
}

struct Queue<R> {
    state: Mutex<State<R>>,
    /// Told when a result was taken, or to stop.
    room: Condvar,
    /// Told when a result is there.
    done: Condvar,
    bound: usize,
}

struct State<R> {
    /// Results taken.
    taken: usize,
    /// Results begun and not taken; the first is that of item `taken`.
    open: VecDeque<Option<thread::Result<R>>>,
    stop: bool,
}

impl<R> Default for State<R> {
    fn default() -> Self {
        Self { taken: 0, open: VecDeque::new(), stop: false }
    }
}

impl<R> Queue<R> {
    fn lock(&self) -> MutexGuard<'_, State<R>> {
        // The work runs outside the lock, so that no panic leaves the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The life of a thread.
    fn serve<T>(&self, items: &[T], work: &(impl Fn(&T) -> R + Sync)) {
        let mut state = self.lock();
        loop {
            let index = state.taken + state.open.len();
            if state.stop || index >= items.len() {
                return;
            }
            if state.open.len() >= self.bound {
                state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.open.push_back(None);
            drop(state);
            let result = catch_unwind(AssertUnwindSafe(|| work(&items[index])));
            state = self.lock();
            // Results before this one may have been taken meanwhile, this one not.
            let place = index - state.taken;
            state.open[place] = Some(result);
            self.done.notify_all();
        }
    }

    /// The next result in order, waiting for it.
    fn next(&self) -> thread::Result<R> {
        let mut state = self.lock();
        loop {
            match state.open.front_mut().and_then(Option::take) {
                Some(result) => {
                    state.open.pop_front();
                    state.taken += 1;
                    drop(state);
                    self.room.notify_all();
                    return result;
                }
                None => state = self.done.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

struct Stop<'a, R>(&'a Queue<R>);

impl<R> Drop for Stop<'_, R> {
    fn drop(&mut self) {
        self.0.lock().stop = true;
        self.0.room.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    fn threads(count: usize) -> NonZeroUsize {
        NonZeroUsize::new(count).unwrap()
    }

    #[test]
    fn results_keep_the_order_of_the_items() {
        let items: Vec<u64> = (0..200).collect();
        for count in [1, 3, 8] {
            let mut found = Vec::new();
            let work = |item: &u64| {
                thread::sleep(Duration::from_micros(item * 7919 % 300));
                item * item
            };
            let take = |index, result| {
                found.push((index, result));
                Ok::<(), Infallible>(())
            };
            ordered(&items, threads(count), work, take).unwrap();
            assert!(found.iter().zip(&items).all(|((at, square), item)| *at as u64 == *item && *square == item * item));
            assert_eq!(found.len(), items.len());
        }
        ordered(&[] as &[u8], threads(2), |_| (), |_, ()| Err("taken")).unwrap();
    }

    #[test]
    fn no_more_is_begun_than_is_allowed() {
        let (begun, taken) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let most = AtomicUsize::new(0);
        let work = |_: &usize| {
            let ahead = begun.fetch_add(1, Ordering::SeqCst) + 1 - taken.load(Ordering::SeqCst);
            most.fetch_max(ahead, Ordering::SeqCst);
        };
        let take = |_, ()| {
            thread::sleep(Duration::from_millis(1));
            taken.fetch_add(1, Ordering::SeqCst);
            Ok::<(), Infallible>(())
        };
        ordered(&(0..60).collect::<Vec<usize>>(), threads(3), work, take).unwrap();
        // The result that is being taken has left the queue.
        assert!(most.into_inner() <= 3 * AHEAD + 1);
    }

    #[test]
    fn an_error_and_a_panic_end_it() {
        let items: Vec<usize> = (0..1000).collect();
        let begun = AtomicUsize::new(0);
        let work = |item: &usize| {
            begun.fetch_add(1, Ordering::SeqCst);
            *item
        };
        let stopped = ordered(&items, threads(2), work, |index, _| if index == 5 { Err("enough") } else { Ok(()) });
        assert_eq!(stopped, Err("enough"));
        assert!(begun.into_inner() < 100);
        let panic = catch_unwind(|| {
            ordered(&items, threads(2), |item| assert_ne!(*item, 7, "seven"), |_, ()| Ok::<(), Infallible>(()))
        });
        assert!(panic.is_err());
    }
}
