//! A whole clip from bytes.
#![no_main]

use clap_audio::{Channels, decode_bytes};
use libfuzzer_sys::fuzz_target;

mod panics;

fuzz_target!(|bytes: &[u8]| {
    panics::are_errors();
    match decode_bytes("fuzz", bytes, Channels::Mean) {
        Ok(wave) => assert!(!wave.samples.is_empty() && wave.samples.iter().all(|sample| sample.is_finite())),
        Err(error) => assert!(error.to_string().starts_with("fuzz: "), "{error}"),
    }
});
