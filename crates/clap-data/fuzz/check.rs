//! What must hold of any bytes that are given as a shard: no panic, nothing written, nothing of it larger than the bytes
//! are, every clip with words, and both readers of one mind where neither finds a fault.

use std::fs;
use std::io::Cursor;
use std::sync::Arc;

use clap_data::{Loader, LoaderConfig, OpenOptions, Sample, Stream, StreamOptions, open};

/// Reads `bytes` both ways.
pub(crate) fn check(bytes: &[u8]) {
    let streamed = stream(bytes);
    let indexed = index(bytes);
    for (samples, _) in [&streamed, &indexed] {
        for sample in samples {
            assert!(!sample.captions.is_empty() && sample.captions.iter().all(|caption| !caption.trim().is_empty()));
            assert!(!sample.id.is_empty());
        }
        let sounds: usize = samples.iter().map(|sample| sample.audio.bytes().map_or(0, |bytes| bytes.len())).sum();
        assert!(sounds <= bytes.len(), "{sounds} bytes of sounds in a shard of {}", bytes.len());
    }
    if streamed.1 == 0 && indexed.1 == 0 {
        let texts = |samples: &[Sample]| samples.iter().map(|sample| sample.captions.clone()).collect::<Vec<_>>();
        assert_eq!(texts(&streamed.0), texts(&indexed.0));
    }
}

/// Clips, and how many things were left out.
type Read = (Vec<Sample>, usize);

fn stream(bytes: &[u8]) -> Read {
    let stream = Arc::new(Stream::reader("shard.tar", Cursor::new(bytes.to_vec()), StreamOptions::default()));
    let config = LoaderConfig { batch_size: 8, workers: 0, ..LoaderConfig::default() };
    let mut loader = Loader::stream(&stream, config, |sample: &Sample, _| Ok::<_, String>(sample.clone()))
        .expect("a stream that is read once needs nothing to be known");
    let (mut samples, mut left_out) = (Vec::new(), 0);
    for batch in loader.by_ref() {
        samples.extend(batch.items);
        left_out += batch.failed.len();
    }
    (samples, left_out + loader.leftover().len())
}

fn index(bytes: &[u8]) -> Read {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let set = folder.path().join("a/b/set");
    fs::create_dir_all(&set).expect("a folder can be made");
    fs::write(set.join("0.tar"), bytes).expect("a file can be written");
    let read = match open(&set, &OpenOptions::default()) {
        Ok(data) => {
            for sample in &data.samples {
                sample.audio.bytes().expect("an indexed sound is there");
            }
            // The folder goes; what its sounds held is kept as a stream keeps it.
            let keep = |mut sample: Sample| {
                let (name, bytes) = (sample.audio.name(), sample.audio.bytes().unwrap_or_default());
                sample.audio = clap_data::AudioSource::Memory { name, bytes: bytes.into() };
                sample
            };
            (data.samples.into_iter().map(keep).collect(), data.skipped.len())
        }
        // Nothing usable in it.
        Err(_) => (Vec::new(), 1),
    };
    for (parent, only) in [("", "a"), ("a", "b"), ("a/b", "set"), ("a/b/set", "0.tar")] {
        let entries = fs::read_dir(folder.path().join(parent)).expect("the folder is still there");
        let names: Vec<_> = entries.map(|entry| entry.expect("an entry can be read").file_name()).collect();
        assert_eq!(names, [only], "nothing but the shard may be there");
    }
    read
}
