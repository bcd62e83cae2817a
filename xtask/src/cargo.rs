//! Calling cargo from a program that cargo has started.

use std::process::Command;

/// What cargo tells the program of a package about it.
const OF_A_PACKAGE: [&str; 2] = ["CARGO_PKG_", "CARGO_MANIFEST_"];

/// `cargo`, as from a shell. Build scripts that look at the variables of a package, ring's for one, would run again whenever these differ, and
/// everything behind them would be compiled anew.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        if OF_A_PACKAGE.iter().any(|start| name.to_string_lossy().starts_with(start)) {
            cargo.env_remove(name);
        }
    }
    cargo
}
