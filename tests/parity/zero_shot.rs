//! Parity: zero_shot.
