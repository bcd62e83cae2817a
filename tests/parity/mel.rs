//! Parity: mel.
