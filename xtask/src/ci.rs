//! `cargo xtask ci`: everything a change must pass, each step as one would type it.

use std::time::Instant;

use clap::ValueEnum;

use crate::args;
use crate::cargo::cargo;
use crate::exit::{Exit, failure};

/// One step; the order is from cheap to dear.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Step {
    /// cargo fmt --check
    Fmt,
    /// cargo clippy, warnings denied
    Clippy,
    /// cargo clippy with the features of clap-data that no other step compiles: parquet and object-store
    Features,
    /// cargo doc, warnings denied
    Doc,
    /// cargo test, every crate and the workspace tests (parity, gradients, command line, tidy)
    Test,
}

impl Step {
    /// The arguments of cargo, and the environment.
    fn command(self) -> (&'static [&'static str], Option<(&'static str, &'static str)>) {
        match self {
            Step::Fmt => (&["fmt", "--all", "--check"], None),
            Step::Clippy => {
                (&["clippy", "--release", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"], None)
            }
            // Running their tests would mean eight minutes more of compiling; docs/data.md has the command.
            Step::Features => (
                &[
                    "clippy",
                    "--release",
                    "--package",
                    "clap-data",
                    "--all-targets",
                    "--features",
                    "parquet,object-store",
                    "--quiet",
                    "--",
                    "-D",
                    "warnings",
                ],
                None,
            ),
            Step::Doc => {
                (&["doc", "--release", "--workspace", "--no-deps", "--quiet"], Some(("RUSTDOCFLAGS", "-D warnings")))
            }
            // The release profile, so that candle is compiled once for the runner and the tests.
            Step::Test => (&["test", "--release", "--workspace"], None),
        }
    }
}

/// Runs the steps and stops at the first that fails.
pub(crate) fn run(args: args::Ci) -> anyhow::Result<Exit> {
    let steps = if args.steps.is_empty() { Step::value_variants().to_vec() } else { args.steps };
    for step in steps {
        let (arguments, variable) = step.command();
        eprintln!("── cargo {}", arguments.join(" "));
        let started = Instant::now();
        let status = cargo().args(arguments).envs(variable).current_dir(crate::workspace()).status()?;
        if !status.success() {
            return Err(failure(Exit::NothingFound, format!("cargo {} failed: see above", arguments.join(" "))));
        }
        eprintln!("── done in {:.0} s", started.elapsed().as_secs_f64());
    }
    Ok(Exit::Done)
}
