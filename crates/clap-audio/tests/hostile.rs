//! Damaged files through every entry: an error that names the file, or a sound of finite samples; no panic, no hang.
#![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

use std::path::Path;

use clap_audio::{
    AudioReader, Channels, Error, Result, Segment, decode_bytes, decode_segment_bytes, load_bytes, load_segment_bytes,
};

const NAME: &str = "hostile.bin";

/// The sound files of the tests, with their names.
fn files(folder: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/files").join(folder);
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| {
        path.is_file() && path.extension().is_none_or(|extension| extension != "sh" && extension != "md")
    });
    paths.sort();
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    paths.iter().map(|path| (name(path), std::fs::read(path).unwrap())).collect()
}

/// The samples, or an error that names the file.
fn samples(what: &str, outcome: Result<Vec<f32>>) -> Option<Vec<f32>> {
    match outcome {
        Ok(samples) => {
            assert!(samples.iter().all(|sample| sample.is_finite()), "{what}");
            Some(samples)
        }
        // The sound's own rate is within bounds, so this cannot be it.
        Err(error @ Error::UnsupportedRate { .. }) => panic!("{what}: {error}"),
        Err(error) => {
            let message = error.to_string();
            assert!(message.starts_with(NAME), "{what}: {message}");
            None
        }
    }
}

/// All frames by a reader that seeks about; the last seek leads to the start.
fn wander(bytes: &[u8]) -> Result<Vec<f32>> {
    let mut reader = AudioReader::from_bytes(NAME, bytes)?;
    let frames = reader.info().length.frames().unwrap_or(10_000);
    let mut buffer = vec![0.0; 1000];
    for place in [frames / 2, 3, frames, u64::MAX, frames / 3, 0] {
        reader.seek(place)?;
        let read = reader.read(&mut buffer)?;
        assert!(reader.position() >= read as u64);
    }
    reader.seek(0)?;
    let mut samples = Vec::new();
    loop {
        let read = reader.read(&mut buffer)?;
        samples.extend_from_slice(&buffer[..read]);
        if read < buffer.len() {
            return Ok(samples);
        }
    }
}

/// Every way to read a file; those that read the whole agree.
fn every_entry(what: &str, bytes: &[u8]) {
    let segment = Segment { start: 0.02, seconds: 0.05 };
    let whole = samples(what, decode_bytes(NAME, bytes, Channels::Mean).map(|wave| wave.samples));
    samples(what, load_bytes(NAME, bytes, 16_000, Channels::First).map(|wave| wave.samples));
    samples(what, decode_segment_bytes(NAME, bytes, segment, Channels::Mean).map(|wave| wave.samples));
    samples(what, load_segment_bytes(NAME, bytes, segment, 16_000, Channels::Mean).map(|wave| wave.samples));
    let wandered = samples(what, wander(bytes));
    // An Opus decoder only comes close to the state of a decode from the start.
    if what.contains(".opus") {
        return;
    }
    if let (Some(whole), Some(wandered)) = (whole, wandered) {
        assert!(whole == wandered, "{what}: {} samples decoded, {} read", whole.len(), wandered.len());
    }
}

#[test]
fn good_files() {
    let files = files("");
    assert!(files.len() > 35, "{} files", files.len());
    for (name, bytes) in &files {
        every_entry(name, bytes);
    }
}

#[test]
fn files_cut_short() {
    for (name, bytes) in files("") {
        let len = bytes.len();
        for keep in [0, 1, 3, 4, 7, 8, 11, 12, 20, 36, 44, 45, 60, 100, len / 8, len / 4, len / 2, len - 100, len - 1] {
            every_entry(&format!("{name}, {keep} bytes"), &bytes[..keep]);
        }
    }
}

#[test]
fn files_with_damaged_bytes() {
    let mut state = 17u64;
    let mut random = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for (name, bytes) in files("") {
        for round in 0..40 {
            let mut damaged = bytes.clone();
            // The header half of the time.
            let reach = if round % 2 == 0 { damaged.len().min(128) } else { damaged.len() };
            for _ in 0..1 + round % 5 {
                damaged[random(reach)] = [0, 0xff, 0x7f, 0x80, random(256) as u8][random(5)];
            }
            every_entry(&format!("{name}, round {round}"), &damaged);
        }
    }
}

#[test]
fn what_a_fuzzer_found() {
    for (name, bytes) in files("regressions") {
        every_entry(&name, &bytes);
    }
}

#[test]
fn a_reader_that_failed_stays_failed() {
    let (_, bytes) = files("").into_iter().find(|(name, _)| name == "s16le.wav").unwrap();
    let mut reader = AudioReader::from_bytes(NAME, &bytes[..1000]).unwrap();
    let mut buffer = vec![0.0; 2000];
    let read = reader.read(&mut buffer).unwrap();
    assert_eq!(read, (1000 - 44) / 2, "what is there comes first");
    assert!(matches!(reader.read(&mut buffer), Err(Error::Truncated { declared: 2000, decoded: 478, .. })));
    for _ in 0..2 {
        let message = reader.read(&mut buffer).unwrap_err().to_string();
        assert!(message.starts_with(NAME) && message.contains("ended the reading"), "{message}");
        assert!(reader.seek(0).is_err());
    }
}
