//! clap-audio.
