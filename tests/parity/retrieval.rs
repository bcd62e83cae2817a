//! Parity: retrieval.
