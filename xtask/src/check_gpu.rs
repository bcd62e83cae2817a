//! `cargo xtask check-gpu`: do the CUDA and the Metal build still type-check, on a machine that has neither device.
//!
//! `cargo check` translates Rust to no machine code and links nothing, so what it needs of a foreign platform is little: Rust's own
//! libraries for it, which rustup has, and compilers for the C and CUDA sources of dependencies, whose output nobody reads. Where there
//! is no such compiler, [`stand_in`] takes its place. What is ours is checked in full; that candle's kernels compile, is not.

mod stand_in;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use clap::ValueEnum;

use crate::args;
use crate::cargo::cargo;
use crate::exit::{Exit, failure};

/// A build for a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Device {
    /// Features cuda of every crate, for this machine
    Cuda,
    /// Features metal and accelerate of every crate, for macOS on Apple's processors
    Metal,
}

/// Where Metal is.
const APPLE: &str = "aarch64-apple-darwin";

/// What there is to be said of a build.
#[derive(Debug)]
enum Outcome {
    /// It type-checks; with what was in the way of more.
    Checks(String),
    /// It does not; the compiler said why.
    Fails,
    /// It could not be tried, and why.
    NotTried(String),
}

/// The command of a check: what the compilers of this machine leave open, and what was done about it.
struct Check {
    features: &'static str,
    target: Option<&'static str>,
    variables: Vec<(&'static str, PathBuf)>,
    with: String,
}

/// Checks one after the other and says of each how it went. 1 where one does not check, else 5 where one could not be tried.
pub(crate) fn run(args: &args::CheckGpu) -> anyhow::Result<Exit> {
    let devices = if args.devices.is_empty() { Device::value_variants() } else { &args.devices };
    let tools = crate::workspace().join("target/gpu-tools");
    let mut outcomes = Vec::new();
    for &device in devices {
        let started = Instant::now();
        let outcome = match device.check(&tools) {
            Ok(check) => check.run()?,
            Err(reason) => Outcome::NotTried(format!("{reason:#}")),
        };
        outcomes.push((device, outcome, started.elapsed().as_secs_f64()));
    }
    for (device, outcome, seconds) in &outcomes {
        let name = device.name();
        match outcome {
            Outcome::Checks(with) => eprintln!("{name}: type-checks ({seconds:.0} s; {with})"),
            Outcome::Fails => eprintln!("{name}: FAILS: see above"),
            Outcome::NotTried(reason) => eprintln!("{name}: could not be tried: {reason}"),
        }
    }
    if outcomes.iter().any(|(_, outcome, _)| matches!(outcome, Outcome::Fails)) {
        return Err(failure(Exit::NothingFound, "a build for a device does not type-check"));
    }
    let open = outcomes.iter().any(|(_, outcome, _)| matches!(outcome, Outcome::NotTried(_)));
    Ok(if open { Exit::Device } else { Exit::Done })
}

impl Device {
    fn name(self) -> &'static str {
        match self {
            Device::Cuda => "CUDA",
            Device::Metal => "Metal",
        }
    }

    /// Prepares a check, in the folder `tools`.
    fn check(self, tools: &Path) -> anyhow::Result<Check> {
        match self {
            Device::Cuda if cfg!(target_os = "macos") => anyhow::bail!("there is no CUDA on macOS"),
            Device::Cuda => cuda(tools),
            Device::Metal if cfg!(target_os = "macos") => {
                let with = "on a Mac, with its own compilers".to_owned();
                Ok(Check { features: "metal,accelerate", target: None, variables: Vec::new(), with })
            }
            Device::Metal => metal(tools),
        }
    }
}

fn cuda(tools: &Path) -> anyhow::Result<Check> {
    let mut check = Check {
        features: "cuda,clap-train/nccl",
        target: None,
        variables: Vec::new(),
        with: "nvcc of this machine".to_owned(),
    };
    if !runs("nvcc", "--version") {
        let bin = stand_in::write(tools)?;
        // cudarc looks for `nvcc` on the path alone.
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(std::iter::once(bin.clone()).chain(std::env::split_paths(&path)))?;
        check.variables = vec![
            ("CUDA_HOME", bin.with_file_name("cuda")),
            ("CUDA_COMPUTE_CAP", "80".into()),
            ("NVCC", bin.join("nvcc")),
            ("PATH", path.into()),
        ];
        check.with = "a stand-in for nvcc: candle's own kernels were not compiled".to_owned();
    }
    Ok(check)
}

fn metal(tools: &Path) -> anyhow::Result<Check> {
    add_target(APPLE)?;
    let bin = stand_in::write(tools)?;
    let variables = vec![
        ("CC_aarch64_apple_darwin", bin.join(stand_in::CC_NAME)),
        ("CXX_aarch64_apple_darwin", bin.join(stand_in::CC_NAME)),
        ("AR_aarch64_apple_darwin", bin.join(stand_in::AR_NAME)),
        // Or the `cc` crate asks Xcode.
        ("SDKROOT", bin),
    ];
    let with = "a stand-in for Apple's C compiler: C sources of dependencies were not compiled".to_owned();
    Ok(Check { features: "metal,accelerate", target: Some(APPLE), variables, with })
}

/// Has rustup fetch Rust's libraries for `target`, where they are missing.
fn add_target(target: &str) -> anyhow::Result<()> {
    let libraries = output("rustc", &["--print", "target-libdir", "--target", target]);
    if libraries.is_some_and(|folder| Path::new(folder.trim()).is_dir()) {
        return Ok(());
    }
    eprintln!("── rustup target add {target}");
    match Command::new("rustup").args(["target", "add", target]).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => anyhow::bail!("rustup has no libraries for {target}: see above"),
        Err(e) => {
            anyhow::bail!("Rust's libraries for {target} are missing, and rustup, which has them, cannot be run: {e}")
        }
    }
}

fn runs(program: &str, argument: &str) -> bool {
    output(program, &[argument]).is_some()
}

/// The standard output of a program that succeeds.
fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

impl Check {
    fn run(self) -> anyhow::Result<Outcome> {
        let mut arguments = vec!["check", "--release", "--workspace", "--features", self.features];
        arguments.extend(self.target.iter().flat_map(|target| ["--target", target]));
        eprintln!("── cargo {}", arguments.join(" "));
        let status = cargo().args(arguments).envs(self.variables).current_dir(crate::workspace()).status()?;
        Ok(if status.success() { Outcome::Checks(self.with) } else { Outcome::Fails })
    }
}
