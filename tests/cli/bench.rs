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

/// An interpreter that answers every case with a thousand seconds.
#[cfg(unix)]
#[test]
fn the_other_side_is_asked_in_turns() {
    use std::os::unix::fs::PermissionsExt as _;

    let folder = tempfile::tempdir().unwrap();
    let python = folder.path().join("python");
    let script = "#!/bin/sh
while read -r line; do case \"$line\" in versions) echo Snake 1;; *memory) echo 3000000000;; *) echo 1000;; esac; done
";
    std::fs::write(&python, script).unwrap();
    std::fs::set_permissions(&python, std::fs::Permissions::from_mode(0o755)).unwrap();
    let python = python.display().to_string();
    let ran = xtask(&["bench", "--python", &python, "--only", "htsat-tiny mel 1", "--rounds", "1"]);
    let out = &ran.succeeds().stdout;
    assert!(out.contains("Snake 1.") && out.contains("n = 1 rounds"), "{ran:#?}");
    let row: Vec<&str> = out.lines().last().unwrap().split(" | ").collect();
    assert_eq!(row[5..7], ["PyTorch", "1000 (1000–1000)"], "{ran:#?}");
    assert!(row[8] == "≥ 1.4: yes" && row[9].starts_with("3.00"), "{ran:#?}");
}
