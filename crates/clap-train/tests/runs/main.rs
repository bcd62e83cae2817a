//! Whole runs of a tiny model on sounds made here.
#![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

mod bench;
mod distributed;
mod gradients;
mod resume;
mod run;
