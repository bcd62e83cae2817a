//! Parity: htsat.
