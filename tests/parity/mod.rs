//! Parity with the Python reference.

mod features;
mod htsat;
mod loss;
mod mel;
mod model;
mod pann;
mod recipe;
mod resample;
mod retrieval;
mod text;
mod tokenizer;
mod training;
mod zero_shot;
