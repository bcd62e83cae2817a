//! A segment, decoded and resampled: two bytes of start, two of length, in 1/4096 s; the file.
#![no_main]

use clap_audio::{Channels, Segment, decode_segment_bytes, load_segment_bytes};
use libfuzzer_sys::fuzz_target;

mod panics;

fuzz_target!(|input: &[u8]| {
    panics::are_errors();
    let Some((numbers, bytes)) = input.split_first_chunk::<4>() else { return };
    let seconds = |low: u8, high: u8| f64::from(u16::from_le_bytes([low, high])) / 4096.0;
    let segment = Segment { start: seconds(numbers[0], numbers[1]), seconds: seconds(numbers[2], numbers[3]) };
    for outcome in [
        decode_segment_bytes("fuzz", bytes, segment, Channels::Mean),
        load_segment_bytes("fuzz", bytes, segment, 16_000, Channels::First),
    ] {
        match outcome {
            Ok(wave) => {
                assert!(!wave.samples.is_empty() && wave.samples.iter().all(|sample| sample.is_finite()));
                let most = (segment.seconds * f64::from(wave.sample_rate)).round().max(1.0);
                assert!(wave.samples.len() as f64 <= most, "{} samples of {segment:?}", wave.samples.len());
            }
            Err(error) => assert!(error.to_string().starts_with("fuzz: "), "{error}"),
        }
    }
});
