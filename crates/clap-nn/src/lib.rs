//! clap-nn.
