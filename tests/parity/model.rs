//! Parity: model.
