//! The embedded corpus, `datasets/sounds-mini`, through the crate's front door.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap_data::{
    AudioSource, Balance, DataSet, Loader, LoaderConfig, MatchKind, OpenOptions, OverlapOptions, Sample, WaveCache,
    labels_of, open, overlap, overlap_within, splits,
};

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets/sounds-mini")
}

fn read(split: &str) -> DataSet {
    let options = OpenOptions { split: Some(split.to_owned()), strict: true, ..OpenOptions::default() };
    open(&corpus(), &options).unwrap()
}

fn field<'a>(sample: &'a Sample, name: &str) -> &'a str {
    sample.meta[name].as_str().unwrap_or_else(|| panic!("{}: no `{name}`", sample.id))
}

#[test]
fn splits_and_classes_are_those_of_the_card() {
    assert_eq!(splits(&corpus(), &OpenOptions::default()).unwrap(), ["train", "valid"]);
    let (train, valid) = (read("train"), read("valid"));
    assert_eq!((train.samples.len(), valid.samples.len()), (985, 167));
    assert_eq!(train.classes.len(), 107);
    assert_eq!(train.classes, valid.classes);
    assert_eq!(labels_of(&train.samples), train.classes);
    assert!(train.label_counts().values().all(|clips| *clips >= 5));
    let groups = |data: &DataSet| -> BTreeSet<String> {
        data.samples.iter().map(|sample| field(sample, "group").to_owned()).collect()
    };
    assert!(groups(&train).is_disjoint(&groups(&valid)), "recordings of one source stay together");
}

#[test]
fn every_clip_has_a_licence_that_the_licence_file_lists() {
    let mut clips: BTreeMap<(String, String), usize> = BTreeMap::new();
    for split in ["train", "valid"] {
        for sample in &read(split).samples {
            let key = (field(sample, "source").to_owned(), field(sample, "licence").to_owned());
            *clips.entry(key).or_default() += 1;
        }
    }
    let text = std::fs::read_to_string(corpus().join("LICENSES.md")).unwrap();
    for ((source, licence), count) in clips {
        let listed = text.lines().any(|line| {
            line.starts_with(&format!("| {source} |")) && line.contains(&format!("| {licence} | {count} |"))
        });
        assert!(listed, "{count} clips of {source} under {licence}");
    }
}

#[test]
fn real_batches_do_not_depend_on_the_workers() {
    let data = Arc::new(read("valid"));
    let epoch = |workers: usize, cache_bytes: usize| {
        let config = LoaderConfig {
            batch_size: 32,
            seed: 7,
            epoch: 1,
            balance: Balance::Labels(0.5),
            shuffle: true,
            workers,
            ..LoaderConfig::default()
        };
        let cache = WaveCache::new(cache_bytes);
        let loader = Loader::new(Arc::clone(&data), config, move |sample, _| cache.load(&sample.audio, 48_000));
        loader.map(|batch| (batch.indices, batch.items, batch.failed)).collect::<Vec<_>>()
    };
    let one = epoch(1, 0);
    assert!(one.iter().all(|(_, _, failed)| failed.is_empty()), "every clip decodes");
    assert_eq!(one.iter().map(|(indices, _, _)| indices.len()).sum::<usize>(), 167);
    assert!(one == epoch(3, 16 << 20), "three workers and a cache of half the clips give the same batches");
}

/// A clip through three codecs, softer, cut and filtered (`files/make.sh`), is found among 167, and no other.
#[test]
fn codecs_do_not_hide_a_clip() {
    let valid = read("valid");
    let options = OverlapOptions { exact_only: false, threads: std::thread::available_parallelism().unwrap() };
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/files");
    let changed = ["softer.mp3", "later.m4a", "darker.ogg"].map(|name| Sample {
        id: name.to_owned(),
        audio: AudioSource::File(files.join(name)),
        captions: Vec::new(),
        labels: Vec::new(),
        meta: serde_json::Value::Null,
    });
    let found = overlap(&changed, &valid.samples, &options, &mut |_| {});
    let pairs: Vec<_> =
        found.matches.iter().map(|found| (found.id.as_str(), found.matched.as_str(), found.kind)).collect();
    let clip = "sonic_pi_samples_loop_breakbeat_3ad929";
    let meant = ["softer.mp3", "later.m4a", "darker.ogg"].map(|name| (name, clip, MatchKind::SameSound));
    assert_eq!(pairs, meant);
    let offsets: Vec<f64> = found.matches.iter().map(|found| found.offset).collect();
    assert!(offsets.iter().zip([0.0, 0.437, 0.0]).all(|(found, meant)| (found - meant).abs() < 0.03), "{offsets:?}");
}

/// What is the same within the split is of one recording or one instrument.
#[test]
fn other_clips_are_strangers() {
    let valid = read("valid");
    let options = OverlapOptions { exact_only: false, threads: std::thread::available_parallelism().unwrap() };
    let found = overlap_within(&valid.samples, &options, &mut |_| {});
    let label = |id: &str| &valid.samples.iter().find(|sample| sample.id == id).unwrap().labels;
    for found in &found.matches {
        assert_eq!(label(&found.id), label(&found.matched), "{found:?}");
    }
    assert_eq!(found.skipped, []);
}
