//! clap-train.
