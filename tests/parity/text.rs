//! Parity: text.
