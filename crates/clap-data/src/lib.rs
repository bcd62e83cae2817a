//! clap-data.
