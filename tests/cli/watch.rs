//! `cargo xtask watch` on a run that is over, on one that was killed, and on one that goes on.

use std::fs::{self, OpenOptions};

use crate::cli::program::xtask;
use crate::cli::run::trained;

fn watch(run: &std::path::Path) -> String {
    xtask(&["watch", "--once", &run.display().to_string()]).succeeds().stdout.clone()
}

#[test]
fn a_run_that_is_over() {
    let shown = watch(&trained().run());
    for part in [
        "run  over: all epochs are done",
        "100 %  epoch 40 of 40  step 240 of 240",
        "loss of steps 1 to 240, now ",
        "gradient norm",
        "data wait",
        "zero-shot top-1",
        "last, epoch 40",
        "chance",
    ] {
        assert!(shown.contains(part), "no {part:?} in {shown}");
    }
    assert_eq!(shown.contains(" GB "), cfg!(any(target_os = "linux", target_os = "macos", windows)), "{shown}");
    // Where nobody looks there is neither colour nor movement.
    assert!(!shown.contains('\x1b'), "{shown}");
    let piped = xtask(&["watch", &trained().run().display().to_string()]);
    assert_eq!(piped.succeeds().stdout, shown);
}

#[test]
fn a_run_in_the_middle() {
    let log = fs::read_to_string(trained().run().join("metrics.jsonl")).unwrap();
    let (begun, _) = log.split_once("\"step\":21,").unwrap(); // within a line, as a killed process leaves it
    let run = tempfile::tempdir().unwrap();
    let path = run.path().join("metrics.jsonl");
    fs::write(&path, begun).unwrap();
    let shown = watch(run.path());
    assert!(shown.contains("stopped; go on with  cargo xtask train --resume"), "{shown}");
    assert!(shown.contains("epoch 4 of 40  step 20 of 240") && shown.contains("last, epoch 0"), "{shown}");

    let file = OpenOptions::new().append(true).open(&path).unwrap();
    file.lock().unwrap();
    let shown = watch(run.path());
    assert!(shown.lines().next().unwrap().ends_with("  training"), "{shown}");

    // Before the first step there is little to say, and it is said.
    fs::write(&path, begun.lines().next().unwrap().to_owned() + "\n").unwrap();
    let shown = watch(run.path());
    assert!(shown.contains("epoch 0 of 40") && shown.contains("no evaluation yet"), "{shown}");
}

#[test]
fn a_run_that_is_none() {
    xtask(&["watch", "no/such/run"]).fails(4, &["no/such/run", "metrics.jsonl"]);
    xtask(&["watch", &trained().data()]).fails(4, &["data", "no run"]);
    xtask(&["watch", "--often"]).fails(2, &["--often"]);
}
