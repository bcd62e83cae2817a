//! Parity: features.
