//! Runs that stopped and go on.

use std::fs;
use std::path::Path;

use clap_train::event::Ending;
use clap_train::{RunFolder, Trainer};

use crate::bench::{Bench, Record, losses};

/// The steps that a run's log has.
fn logged(run: &Path) -> Vec<u64> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let events = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    events.filter(|event| event["event"] == "step").map(|event| event["step"].as_u64().unwrap()).collect()
}

#[test]
fn a_stopped_run_goes_on_bit_for_bit() {
    let bench = Bench::new();
    // Four steps an epoch; dropout, random crops, gain, SpecAugment and templates are all drawn.
    let overrides = ["schedule.epochs=4", "eval.every=2"];
    let (whole_done, whole) = bench.train("whole", &overrides);
    let weights = |run: &Path| fs::read(RunFolder::latest(run).join("model.safetensors")).unwrap();
    for stop in [1, 4, 6] {
        let run = bench.path(&format!("stopped_{stop}"));
        let mut first = Record { stop_after: Some(stop), ..Record::default() };
        Trainer::new(bench.config(&overrides), &run).unwrap().run(&mut first).unwrap();
        let mut second = Record::default();
        let done = Trainer::resume(&run).unwrap().run(&mut second).unwrap();
        assert_eq!([losses(&first), losses(&second)].concat(), losses(&whole), "stopped after {stop}");
        assert_eq!((done.steps, done.epochs, done.ending), (16, 4, Ending::Epochs));
        assert_eq!((done.clips_seen, &done.last), (whole_done.clips_seen, &whole_done.last));
        assert!(done.elapsed > second.steps.last().unwrap().seconds && done.best_epoch > 0);
        assert!(weights(&run) == weights(&bench.path("whole")), "other weights after {stop}");
        assert_eq!(logged(&run), (1..=16).collect::<Vec<_>>());
        assert!(run.join("report.md").exists());
        let over = Trainer::resume(&run).unwrap_err().to_string();
        assert!(over.contains("all its epochs are done"), "{over}");
    }
}

#[test]
fn steps_after_the_checkpoint_are_taken_again() {
    let bench = Bench::new();
    let overrides = ["schedule.epochs=3", "eval.every=0"];
    let (_, whole) = bench.train("whole", &overrides);
    let run = bench.path("stopped");
    let mut first = Record { stop_after: Some(7), ..Record::default() };
    Trainer::new(bench.config(&overrides), &run).unwrap().run(&mut first).unwrap();
    // As if the process had been killed in the middle of the seventh step: the checkpoint of the sixth is the latest.
    let checkpoints = run.join("checkpoints");
    fs::remove_dir_all(checkpoints.join("epoch_2")).unwrap();
    fs::remove_file(checkpoints.join("latest")).unwrap();
    let message = Trainer::resume(&run).unwrap_err().to_string();
    assert!(message.contains("no checkpoint"), "{message}");
    let mut sixth = Record { stop_after: Some(6), ..Record::default() };
    let other = bench.path("other");
    Trainer::new(bench.config(&overrides), &other).unwrap().run(&mut sixth).unwrap();
    for name in ["epoch_2", "latest"] {
        fs::rename(other.join("checkpoints").join(name), checkpoints.join(name)).unwrap();
    }
    let mut second = Record::default();
    Trainer::resume(&run).unwrap().run(&mut second).unwrap();
    assert_eq!([losses(&sixth), losses(&second)].concat(), losses(&whole));
    assert_eq!(logged(&run), (1..=12).collect::<Vec<_>>());
}

#[test]
fn what_cannot_be_gone_on_with_is_named() {
    let bench = Bench::new();
    let message = |run: &Path| Trainer::resume(run).unwrap_err().to_string();
    assert!(message(&bench.path("absent")).contains("no config.toml"));
    let run = bench.path("run");
    let mut record = Record { stop_after: Some(2), ..Record::default() };
    Trainer::new(bench.config(&["schedule.epochs=2"]), &run).unwrap().run(&mut record).unwrap();
    // The checkpoint of another model.
    let config = fs::read_to_string(RunFolder::config(&run)).unwrap();
    fs::write(RunFolder::config(&run), config.replace("projection_dim = 16", "projection_dim = 8")).unwrap();
    let text = message(&run);
    assert!(text.contains("config.toml describes") && text.contains("projection"), "{text}");
    fs::write(RunFolder::config(&run), &config).unwrap();
    let state = RunFolder::latest(&run).join(clap_train::state::STATE_FILE);
    let bytes = fs::read(&state).unwrap();
    fs::write(&state, &bytes[..100]).unwrap();
    assert!(message(&run).contains("no readable training state"));
    fs::write(&state, &bytes).unwrap();
    // One process trains it.
    let trainer = Trainer::resume(&run).unwrap();
    assert!(message(&run).contains("another process trains this run"));
    drop(trainer);
    Trainer::resume(&run).unwrap().run(&mut ()).unwrap();
}
