//! Parity: loss.
