//! Parity: training.
