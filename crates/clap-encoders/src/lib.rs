//! clap-encoders.
