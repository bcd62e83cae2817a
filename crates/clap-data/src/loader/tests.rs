//! Batches of planned epochs: the same for any number of workers, with failures named and memory bounded.

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
    assert_eq!((loader.size_hint(), loader.batches()), ((11, Some(11)), Some(15)));
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
