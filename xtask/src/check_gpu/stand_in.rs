//! Compilers that compile nothing: they answer what build scripts ask, and make the files that these look for, empty.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// NVIDIA's: `--version` in the four lines that cudarc counts, one empty file for each output.
const NVCC: &str = r#"#!/bin/sh
# Stands in for nvcc where `cargo check` wants its files to be there and nobody reads them.
output= folder= source=
while [ $# -gt 0 ]; do
  case "$1" in
    --version) printf 'stand-in\n\n\nCuda compilation tools, release 13.2, V13.2.0\n'; exit 0 ;;
    --list-gpu-code) echo sm_80; exit 0 ;;
    -o) output=$2; shift ;;
    --output-directory) folder=$2; shift ;;
    *.cu) source=$1 ;;
  esac
  shift
done
if [ -n "$output" ]; then : > "$output"; fi
if [ -n "$folder" ]; then : > "$folder/$(basename "$source" .cu).ptx"; fi
"#;

/// A C compiler: the preprocessor names Clang, which the `cc` crate asks for, and an object is an empty file.
const CC: &str = r#"#!/bin/sh
# Stands in for a C compiler where `cargo check` wants its files to be there and nobody reads them.
while [ $# -gt 0 ]; do
  case "$1" in
    -E) echo clang; exit 0 ;;
    -o) : > "$2"; shift ;;
    -o*) : > "${1#-o}" ;;
  esac
  shift
done
"#;

/// An archiver: an archive without members.
const AR: &str = r#"#!/bin/sh
# Stands in for an archiver where `cargo check` wants its files to be there and nobody reads them.
for word in "$@"; do
  case "$word" in *.a) printf '!<arch>\n' > "$word" ;; esac
done
"#;

/// Not `cc` and `ar`: on the path of the CUDA build they would stand in for this machine's own, which its build scripts are linked by.
pub(super) const CC_NAME: &str = "stand-in-cc";
pub(super) const AR_NAME: &str = "stand-in-ar";

/// Writes `nvcc`, the C compiler and the archiver into `tools/bin`, and an empty CUDA home beside it; gives the folder.
pub(super) fn write(tools: &Path) -> anyhow::Result<PathBuf> {
    if !cfg!(unix) {
        anyhow::bail!("there is no compiler for it here, and the stand-ins are shell scripts");
    }
    let bin = tools.join("bin");
    for folder in [&bin, &tools.join("cuda/include"), &tools.join("cuda/lib64")] {
        std::fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    }
    for (name, text) in [("nvcc", NVCC), (CC_NAME, CC), (AR_NAME, AR)] {
        let path = bin.join(name);
        // A file written anew would have the build scripts run again.
        if std::fs::read_to_string(&path).is_ok_and(|found| found == text) {
            continue;
        }
        std::fs::write(&path, text).with_context(|| format!("{} cannot be written", path.display()))?;
        executable(&path)?;
    }
    Ok(bin)
}

#[cfg(unix)]
fn executable(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?)
}

#[cfg(not(unix))]
fn executable(_: &Path) -> anyhow::Result<()> {
    Ok(())
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn the_stand_ins_make_what_is_looked_for() {
        let tools = std::env::temp_dir().join(format!("xtask-check-gpu-{}", std::process::id()));
        let bin = write(&tools).unwrap();
        let run = |name: &str, arguments: &[&str]| {
            let output = Command::new(bin.join(name)).args(arguments).current_dir(&tools).output().unwrap();
            assert!(output.status.success(), "{name} {arguments:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        let version = run("nvcc", &["--version"]);
        assert_eq!(version.lines().nth(3).unwrap().split(", ").nth(1), Some("release 13.2"));
        run("nvcc", &["--ptx", "--output-directory", ".", "-O3", "src/cast.cu"]);
        run("nvcc", &["-c", "-o", "a.o", "a.cu"]);
        assert_eq!(run(CC_NAME, &["-E", "a.c"]).trim(), "clang");
        run(CC_NAME, &["-O3", "-o", "b.o", "-c", "b.c"]);
        run(AR_NAME, &["cq", "libb.a", "b.o"]);
        for made in ["cast.ptx", "a.o", "b.o", "libb.a"] {
            assert!(tools.join(made).is_file(), "{made}");
        }
        std::fs::remove_dir_all(&tools).unwrap();
    }
}
