//! The bench, by the real program; what it measures is not judged here.

use crate::cli::program::xtask;

#[test]
fn a_case_is_timed_round_by_round() {
    let ran = xtask(&["bench", "--case", "product 64", "--rounds", "3"]);
    let seconds: Vec<f64> = ran.succeeds().stdout.lines().map(|line| line.parse().unwrap()).collect();
    assert!(seconds.len() == 3 && seconds.iter().all(|s| *s > 0.0), "{ran:#?}");
}

#[test]
fn what_cannot_be_timed_is_named() {
    xtask(&["bench", "--case", "htsat-huge mel 8"]).fails(2, &["htsat-huge"]);
    // Our side alone is no comparison to write down.
    xtask(&["bench", "--write", "docs/benchmarks.md"]).fails(2, &["--python"]);
    let ran = xtask(&["bench", "--python", "no/such/python", "--write", "no/such/document.md"]);
    ran.fails(2, &["no/such/document.md"]);
}

/// An interpreter in `folder` that answers a line by the cases of a shell.
#[cfg(unix)]
fn interpreter(folder: &std::path::Path, cases: &str) -> String {
    use std::os::unix::fs::PermissionsExt as _;

    let python = folder.join("python");
    std::fs::write(&python, format!("#!/bin/sh\nwhile read -r line; do case \"$line\" in {cases} esac; done\n"))
        .unwrap();
    std::fs::set_permissions(&python, std::fs::Permissions::from_mode(0o755)).unwrap();
    python.display().to_string()
}

#[cfg(unix)]
#[test]
fn the_other_side_is_asked_in_turns() {
    let folder = tempfile::tempdir().unwrap();
    let python = interpreter(folder.path(), "versions) echo Snake 1;; *memory) echo 3000000000;; *) echo 1000;;");
    let ran = xtask(&["bench", "--python", &python, "--only", "htsat-tiny mel 1", "--rounds", "1"]);
    let out = &ran.succeeds().stdout;
    assert!(out.contains("Snake 1.") && out.contains("n = 1 rounds"), "{ran:#?}");
    let row: Vec<&str> = out.lines().last().unwrap().split(" | ").collect();
    assert_eq!(row[5..7], ["PyTorch", "1000 (1000–1000)"], "{ran:#?}");
    assert!(row[8] == "≥ 1.4: yes" && row[9].starts_with("3.00"), "{ran:#?}");
}

#[cfg(unix)]
#[test]
fn a_run_is_compared_with_one_of_the_same_learning_rates() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run").display().to_string();
    xtask(&["bench", "--curve", &run]).fails(2, &["--python"]);
    let python = interpreter(folder.path(), "versions) echo Snake 1;; step*) echo 4.5 0.25 1000;; *) echo 1;;");
    let ran = xtask(&["bench", "--curve", &run, "--steps", "1", "--python", &python]);
    assert!(ran.stderr.contains("step 1: the learning rate is") && ran.stderr.contains("0.25 there"), "{ran:#?}");
    assert_ne!(ran.code, Some(0), "{ran:#?}");
    for made in ["start/config.json", "start.pt", "batches/000.safetensors", "ours/config.toml"] {
        assert!(folder.path().join("run").join(made).is_file(), "{made}");
    }
}
