//! T5 as a writer of captions: keywords in, a sentence out (the paper's keyword-to-caption augmentation, arXiv 2211.06687, section
//! 2.3, with the models of `keytotext`). Any T5 checkpoint folder does. Inference only, in `f32`.

mod beams;
mod config;
mod constraints;
mod generation;
mod layer;
mod network;
mod position;
mod writer;

pub use config::T5Config;
pub use generation::{EarlyStopping, Generation, Sampling};
pub use writer::CaptionModel;

#[cfg(test)]
mod tests;
