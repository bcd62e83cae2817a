//! The real program as a person runs it: results, messages and exit codes.

mod bad_input;
mod bench;
mod benchmarks;
mod caption;
mod classify;
mod convert;
mod dataset;
mod evaluation;
mod fine_tune;
mod program;
mod run;
mod sound;
mod tables;
mod watch;
mod weights;
