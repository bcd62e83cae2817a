//! clap-eval.
