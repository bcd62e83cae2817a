//! A segment is the slice of the whole, in every format.

use std::io::{Cursor, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::{decode, decode_bytes, load};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/files").join(name)
}

/// Segments of a file at `places` places and of three lengths are slices of the whole, in every bit.
fn check_bytes(name: &str, bytes: &[u8], places: usize) {
    let whole = decode_bytes(name, bytes, Channels::Mean).unwrap();
    let rate = f64::from(whole.sample_rate);
    let total = whole.samples.len();
    for n in 0..places {
        let first = total * n / places + n % 7;
        for count in [1, 3333, total] {
            let segment = Segment { start: first as f64 / rate, seconds: count as f64 / rate };
            let part = decode_segment_bytes(name, bytes, segment, Channels::Mean).unwrap();
            assert_eq!(part.sample_rate, whole.sample_rate);
            assert!(part.samples == whole.samples[first..total.min(first + count)], "{name}: {count} from {first}");
        }
    }
}

fn check(name: &str) {
    check_bytes(name, &std::fs::read(file(name)).unwrap(), 40);
}

#[test]
fn lossless_segments_are_slices() {
    for name in ["s16le.wav", "s24le.wav", "f64le.wav", "alaw.wav", "adpcm_ms.wav", "adpcm_ima.wav", "6_channels.wav"] {
        check(name);
    }
    for name in [
        "s24be.aiff",
        "mulaw.aifc",
        "s24be.au",
        "2_channels.au",
        "s16.flac",
        "s24.flac",
        "192_khz.flac",
        "flac.oga",
        "alac.m4a",
    ] {
        check(name);
    }
}

#[test]
fn mp3_segments_are_slices() {
    for name in ["long.mp3", "cbr.mp3", "vbr.mp3", "8_khz.mp3", "no_tag.mp3"] {
        check(name);
    }
}

#[test]
fn vorbis_segments_are_slices() {
    check("long.ogg");
    check("vorbis.ogg");
}

#[test]
fn vorbis_segments_are_slices_where_the_pages_are_searched() {
    check("long/clicks.ogg");
}

#[test]
fn aac_segments_are_slices() {
    for name in ["long.m4a", "aac.m4a", "fragmented.m4a", "adts.aac", "long.aac"] {
        check(name);
    }
}

#[test]
fn aac_segments_are_slices_across_restarts() {
    let bytes = std::fs::read(file("long.aac")).unwrap().repeat(13);
    check_bytes("repeated.aac", &bytes, 30);
}

#[test]
fn segments_of_joined_files_are_slices() {
    let joined = |names: &[&str]| names.iter().flat_map(|name| std::fs::read(file(name)).unwrap()).collect::<Vec<_>>();
    check_bytes("joined.mp3", &joined(&["long.mp3", "long.mp3", "long.mp3"]), 20);
    check_bytes("joined.ogg", &joined(&["long.ogg", "long.ogg", "long.ogg"]), 20);
}

/// What the decoder remembers of packets before its lead-in.
#[cfg(feature = "opus")]
#[test]
fn opus_segments_are_slices_to_1e_5() {
    for name in ["opus.opus", "long.opus", "speech.opus", "surround.opus"] {
        let whole = decode(&file(name), Channels::Mean).unwrap();
        let total = whole.samples.len();
        for n in 0..40 {
            let first = total * n / 40 + n % 7;
            let segment = Segment { start: first as f64 / 48_000.0, seconds: 0.1 };
            let part = decode_segment(&file(name), segment, Channels::Mean).unwrap();
            let truth = &whole.samples[first..total.min(first + 4800)];
            assert_eq!(part.samples.len(), truth.len(), "{name} from {first}");
            let worst = part.samples.iter().zip(truth).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
            assert!(worst <= 1e-5, "{name} from {first}: {worst}");
        }
    }
}

#[test]
fn loaded_segments_are_slices() {
    for name in ["s16le.wav", "s16.flac", "long.mp3", "vorbis.ogg", "192_khz.flac", "long.m4a", "4_khz.wav"] {
        for to in [48_000, 44_100, 8_000, 47_999] {
            let whole = load(&file(name), to, Channels::First).unwrap().samples;
            let rate = f64::from(to);
            for n in 0..10 {
                let first = whole.len() * n / 10 + n;
                for count in [1, whole.len() / 3, whole.len()] {
                    let segment = Segment { start: first as f64 / rate, seconds: count as f64 / rate };
                    let part = load_segment(&file(name), segment, to, Channels::First).unwrap().samples;
                    let truth = &whole[first..whole.len().min(first + count)];
                    assert_eq!(part.len(), truth.len(), "{name} at {to} Hz: {count} from {first}");
                    let worst = part.iter().zip(truth).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
                    assert!(worst <= 1e-6, "{name} at {to} Hz: {count} from {first}: {worst}");
                }
            }
        }
    }
}

#[test]
fn a_start_beyond_the_end_is_an_error_with_start_and_length() {
    for name in ["s16le.wav", "s16.flac", "long.mp3", "long.ogg", "long.m4a", "long.aac", "alac.m4a"] {
        let whole = decode(&file(name), Channels::Mean).unwrap();
        for start in [whole.seconds(), whole.seconds() + 0.01, 1e9] {
            let segment = Segment { start, seconds: 1.0 };
            for error in [
                decode_segment(&file(name), segment, Channels::Mean).unwrap_err(),
                load_segment(&file(name), segment, 48_000, Channels::Mean).unwrap_err(),
            ] {
                match error {
                    Error::BeyondEnd { name: ref file, start: got, length } => {
                        assert!(file.ends_with(name) && got == start && length == whole.seconds(), "{error}");
                    }
                    other => panic!("{other}"),
                }
            }
        }
    }
}

#[test]
fn a_segment_beyond_the_end_gives_what_there_is() {
    let path = file("s16le.wav");
    let segment = Segment { start: 0.2, seconds: f64::INFINITY };
    assert_eq!(decode_segment(&path, segment, Channels::Mean).unwrap().samples.len(), 400);
    assert_eq!(load_segment(&path, segment, 16_000, Channels::Mean).unwrap().samples.len(), 800);
}

#[test]
fn segments_that_make_no_sense_are_refused() {
    for (start, seconds) in
        [(-1.0, 1.0), (0.0, 0.0), (0.0, -1.0), (f64::NAN, 1.0), (0.0, f64::NAN), (f64::INFINITY, 1.0)]
    {
        let segment = Segment { start, seconds };
        let message = decode_segment(&file("s16le.wav"), segment, Channels::Mean).unwrap_err().to_string();
        assert!(message.contains("s16le.wav: a segment of"), "{message}");
        let error = load_segment(&file("s16le.wav"), segment, 48_000, Channels::Mean).unwrap_err();
        assert!(matches!(error, Error::Segment { .. }), "{error}");
    }
}

#[test]
fn a_truncated_file_is_read_as_far_as_the_segment_lies_within() {
    let bytes = std::fs::read(file("s16le.wav")).unwrap();
    let cut = &bytes[..44 + 2000];
    let part = |start, seconds| decode_segment_bytes("cut.wav", cut, Segment { start, seconds }, Channels::Mean);
    assert_eq!(part(0.05, 0.05).unwrap().samples.len(), 400);
    for (start, seconds) in [(0.1, 0.1), (0.13, 0.1), (0.2, 0.01)] {
        match part(start, seconds) {
            Err(Error::Truncated { declared: 2000, decoded: 1000, .. }) => {}
            other => panic!("{start} {seconds}: {other:?}"),
        }
    }
}

/// A recording of silence that exists byte by byte only as it is read, and counts the bytes.
struct Recording {
    header: Vec<u8>,
    len: u64,
    at: u64,
    read: Arc<AtomicU64>,
}

impl Read for Recording {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = buffer.len().min((self.len - self.at.min(self.len)) as usize);
        for (n, byte) in buffer[..count].iter_mut().enumerate() {
            *byte = self.header.get(self.at as usize + n).copied().unwrap_or(0);
        }
        self.at += count as u64;
        self.read.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

impl Seek for Recording {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.at = match to {
            SeekFrom::Start(at) => at,
            SeekFrom::End(offset) => self.len.saturating_add_signed(offset),
            SeekFrom::Current(offset) => self.at.saturating_add_signed(offset),
        };
        Ok(self.at)
    }
}

#[test]
fn five_hours_of_wav_are_not_read_for_a_second_of_it() {
    let mut header = Cursor::new(Vec::new());
    let spec = hound::WavSpec {
        channels: 2,
        sample_rate: 48_000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    hound::WavWriter::new(&mut header, spec).unwrap().finalize().unwrap();
    let mut header = header.into_inner();
    let data = 5 * 3600 * 48_000 * 4u32;
    header[4..8].copy_from_slice(&(data + 36).to_le_bytes());
    header[40..44].copy_from_slice(&data.to_le_bytes());
    let read = Arc::new(AtomicU64::new(0));
    let recording = Recording { len: u64::from(data) + 44, header, at: 0, read: Arc::clone(&read) };
    let reader = AudioReader::from_reader("recording.wav", recording).unwrap();
    assert_eq!(reader.info().seconds(), Some(5.0 * 3600.0));
    let part = load_part(reader, Segment { start: 4.0 * 3600.0, seconds: 1.0 }, 16_000).unwrap();
    assert_eq!(part.samples, vec![0.0; 16_000]);
    let read = read.load(Ordering::Relaxed);
    assert!(read < 1 << 20, "{read} bytes were read");
}
