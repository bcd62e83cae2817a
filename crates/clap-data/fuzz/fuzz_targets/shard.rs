//! Any bytes as a shard, indexed and streamed; `cargo +nightly fuzz run shard` in `crates/clap-data`.
//!
//! What must hold is in `check.rs`, which `tests/shard_fuzz.rs` runs on stable Rust with mutations of its own.
#![no_main]

#[path = "../check.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::check(bytes));
