//! Every test that needs more than one crate, in one binary.
//!
//! `parity::` holds each number to the Python reference (fixtures, see `tests/fixtures/README.md`; another set of the
//! same format is used when `PARITY_FIXTURES` names its folder), `gradients::` proves that nothing detaches silently,
//! `peers::` compares with other Rust implementations, `cli::` drives the real program from sound files to metrics, `tidy::` keeps the house rules.
#![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

mod cli;
mod gradients;
mod parity;
mod peers;
mod tidy;
