//! Parquet files of Python's `datasets` 5.2.0 and pyarrow 26.0.1, written by tests/reference/make_parquet.py.
#![cfg(feature = "parquet")]
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap_data::{
    Columns, DataSet, Loader, LoaderConfig, OpenOptions, PackOptions, PackedSound, Sample, open, pack, splits,
};

fn files() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/files/parquet")
}

fn strict(split: Option<&str>) -> OpenOptions {
    OpenOptions { split: split.map(str::to_owned), strict: true, ..OpenOptions::default() }
}

fn read(path: &str, split: Option<&str>) -> DataSet {
    open(&files().join(path), &strict(split)).unwrap()
}

/// Samples of the clip when decoded: row `r` of `data` has `100 + r`.
fn length(sample: &Sample) -> usize {
    sample.audio.load(8000).unwrap().samples.len()
}

fn ids(data: &DataSet) -> Vec<&str> {
    data.samples.iter().map(|sample| sample.id.as_str()).collect()
}

#[test]
fn a_data_set_as_the_hub_has_it() {
    // The folder above `data`, where a hub's data set has its card.
    assert_eq!(splits(&files().join("data"), &OpenOptions::default()).unwrap(), ["test", "train"]);
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("data")).unwrap();
    for file in fs::read_dir(files().join("data")).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), folder.path().join("data").join(file.file_name())).unwrap();
    }
    let train = open(folder.path(), &strict(Some("train"))).unwrap();
    assert_eq!(train.split, "train");
    assert_eq!(
        ids(&train),
        ["clip_0.wav", "clip_1.wav", "train-00000-of-00002-2", "clip_3.wav", "clip_4.wav", "clip_5.wav"]
    );
    assert_eq!(train.classes, ["rain", "dog", "church bells"], "in the order of the file");
    for (r, sample) in train.samples.iter().enumerate() {
        assert_eq!(length(sample), 100 + r, "{}", sample.audio);
        assert_eq!(sample.labels, [train.classes[r % 3].as_str()]);
        let captions: Vec<String> = (0..=r % 2).map(|n| format!("caption {r}, {n}")).collect();
        assert_eq!(sample.captions, captions);
        assert_eq!((&sample.meta["fold"], &sample.meta["caption"]), (&(r / 2).into(), &format!("caption {r}").into()));
    }
    assert!(train.samples[4].audio.name().ends_with("train-00001-of-00002.parquet row 0"));
    assert_eq!(open(folder.path(), &strict(None)).unwrap().samples.len(), 8);
    let error = open(folder.path(), &strict(Some("valid"))).unwrap_err().to_string();
    assert!(error.contains("there are: test, train"), "{error}");
}

#[test]
fn one_file_or_a_pattern_of_them() {
    let data = read("data/train-00001-of-00002.parquet", None);
    assert_eq!((data.split.as_str(), data.samples.len()), ("train", 2));
    assert_eq!(read("data/train-0000{0..1}-of-00002.parquet", None).samples.len(), 6);
    let caption = Columns { caption: Some("caption".to_owned()), ..Columns::default() };
    let options = OpenOptions { columns: caption, ..strict(None) };
    let data = open(&files().join("data/test-00000-of-00001.parquet"), &options).unwrap();
    assert_eq!(data.samples[1].captions, ["caption 7"]);
    let unknown = Columns { caption: Some("words".to_owned()), ..Columns::default() };
    let error = open(&files().join("data"), &OpenOptions { columns: unknown, ..strict(None) }).unwrap_err().to_string();
    assert!(error.contains("no column `words`; its columns are: audio, caption, captions, label, fold"), "{error}");
}

/// Plain bytes, zstd, no index of pages, large strings, lists of classes, columns of kinds that are not read.
#[test]
fn other_writers() {
    let data = open(&files().join("variants.parquet"), &OpenOptions::default()).unwrap();
    assert_eq!(ids(&data), ["variants-0", "variants-1"], "a row without words is left out");
    assert_eq!(data.skipped.len(), 2);
    assert!(data.skipped[0].to_string().contains("variants.parquet row 2: "), "{:?}", data.skipped);
    assert_eq!(data.samples[0].labels, ["rain", "church bells"]);
    assert_eq!(data.samples[0].captions, ["The sounds of rain and church bells"]);
    assert_eq!(length(&data.samples[0]), 200);
    let error = data.samples[1].audio.load(8000).unwrap_err().to_string();
    assert!(error.contains("variants.parquet row 1") && error.contains("no sound"), "{error}");

    let title = Columns { caption: Some("title".to_owned()), ..Columns::default() };
    let data = open(&files().join("variants.parquet"), &OpenOptions { columns: title, ..Default::default() }).unwrap();
    assert_eq!((data.samples[2].captions[0].as_str(), length(&data.samples[2])), ("c", 202));
    assert_eq!(data.samples[2].labels, [] as [&str; 0], "-1 is no class");
}

#[test]
fn any_order_and_any_number_of_threads() {
    let data = Arc::new(read("data", None));
    let expected = |id: usize| if id < 2 { 106 + id } else { 98 + id };
    for order in
        [[0, 1, 2, 3, 4, 5, 6, 7], [7, 6, 5, 4, 3, 2, 1, 0], [3, 3, 2, 7, 2, 4, 0, 3], [2, 5, 3, 4, 2, 3, 5, 6]]
    {
        for at in order {
            assert_eq!(length(&data.samples[at]), expected(at), "{order:?}");
        }
    }
    for workers in [0, 3] {
        let config = LoaderConfig { batch_size: 3, shuffle: true, seed: 3, workers, ..LoaderConfig::default() };
        let loader = Loader::new(Arc::clone(&data), config, |sample, _| Ok::<_, String>(length(sample)));
        let mut seen = 0;
        for batch in loader {
            assert!(batch.failed.is_empty());
            assert!(batch.indices.iter().zip(&batch.items).all(|(at, length)| expected(*at) == *length));
            seen += batch.items.len();
        }
        assert_eq!(seen, 8);
    }
}

#[test]
fn packing_keeps_the_bytes() {
    let data = read("data", Some("train"));
    let out = tempfile::tempdir().unwrap();
    let kept = PackOptions { sound: PackedSound::Kept, ..PackOptions::default() };
    pack(&data.samples, &out.path().join("shards"), &kept, &mut |_| {}).unwrap();
    let packed = open(&out.path().join("shards"), &strict(None)).unwrap();
    assert_eq!(packed.samples.len(), 6);
    for (before, after) in data.samples.iter().zip(&packed.samples) {
        assert_eq!(before.audio.bytes().unwrap(), after.audio.bytes().unwrap());
        assert_eq!((&before.captions, &before.labels), (&after.captions, &after.labels));
    }
}

/// Cut and changed files end in an error or in clips that fail; the reader's own panics, which it tells of, go no further.
#[test]
fn damaged_files() {
    let whole = fs::read(files().join("data/train-00000-of-00002.parquet")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("train.parquet");
    let mut faults = 0;
    let mut check = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        let survived = catch_unwind(|| match open(&path, &OpenOptions::default()) {
            Ok(data) => data.samples.iter().any(|sample| sample.audio.load(8000).is_err()),
            Err(error) => {
                assert!(error.to_string().contains("train.parquet"), "{error}");
                true
            }
        });
        faults += usize::from(survived.unwrap());
    };
    for length in [0, 3, 8, whole.len() / 2, whole.len() - 9, whole.len() - 1] {
        check(&whole[..length]);
    }
    let mut state = 1_u64;
    for _ in 0..3000 {
        let mut bytes = whole.clone();
        for _ in 0..1 + state % 3 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = usize::try_from(state >> 33).unwrap() % bytes.len();
            bytes[at] = (state >> 24) as u8;
        }
        check(&bytes);
    }
    assert!(faults > 100, "{faults} of the changed files were noticed");
}
