//! From sound files to a model and its numbers, by the real program.

use std::path::PathBuf;
use std::sync::OnceLock;

use crate::cli::program::{Ran, WARMUP, program, recipe, tone, tones, xtask, xtask_reading};

/// A model trained by the program on four kinds of tones; made once for all tests of this binary.
pub(crate) struct Trained {
    folder: tempfile::TempDir,
    ran: Ran,
}

impl Trained {
    pub(crate) fn data(&self) -> String {
        self.folder.path().join("data").display().to_string()
    }

    /// The run's folder.
    pub(crate) fn run(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    /// The model folder of its best checkpoint.
    pub(crate) fn model(&self) -> String {
        self.run().join("checkpoints/best").display().to_string()
    }
}

pub(crate) fn trained() -> &'static Trained {
    static TRAINED: OnceLock<Trained> = OnceLock::new();
    TRAINED.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        std::fs::create_dir(&data).unwrap();
        tones(&data, 12, 4);
        let (tokenizer, file) = (folder.path().join("tokenizer.json"), folder.path().join("recipe.toml"));
        let text = |path: &std::path::Path| path.display().to_string();
        xtask(&["tokenizer", "--data", &text(&data), "--vocab-size", "300", "--out", &text(&tokenizer)]).succeeds();
        recipe(&file, &data, &tokenizer, 40);
        let ran = xtask(&["train", "--config", &text(&file), "--out", &text(&folder.path().join("run"))]);
        ran.succeeds();
        Trained { folder, ran }
    })
}

#[test]
fn train_learns_to_tell_four_tones_apart() {
    let trained = trained();
    let ran = trained.ran.succeeds();
    assert!(ran.stdout.contains("zero-shot top-1") && ran.stdout.contains("chance"), "{ran:#?}");
    let args = ["eval", "--json", "--model", &trained.model(), "--data", &trained.data(), "--require", "acc1=0.7"];
    let records = xtask(&args).succeeds().json();
    assert_eq!(records.len(), 2);
    let (labels, captions) = (&records[0], &records[1]);
    assert_eq!(labels["task"], "zeroshot_classification");
    assert_eq!(captions["task"], "zeroshot_retrieval");
    for (record, keys) in [
        (labels, &["acc1", "acc5", "mean_per_class_recall", "chance_acc1"][..]),
        (
            captions,
            &[
                "text_to_audio_R@1",
                "audio_to_text_R@10",
                "text_to_audio_mAP@10",
                "audio_to_text_median_rank",
                "chance_R@10",
            ],
        ),
    ] {
        assert_eq!(record["split"], "valid");
        assert!(record["dataset"].is_string() && record["model"].is_string());
        for key in keys {
            assert!(record["metrics"][key].is_number(), "no {key} in {record}");
        }
    }
    assert_eq!(labels["metrics"]["chance_acc1"], 0.25);
    assert_eq!(labels["metrics"]["num_samples"], 16);
}

#[test]
fn a_run_folder_holds_what_it_should() {
    let run = trained().run();
    for file in [
        "config.toml",
        "metrics.jsonl",
        "report.md",
        "report.html",
        "checkpoints/best/config.json",
        "checkpoints/best/preprocessor_config.json",
        "checkpoints/best/model.safetensors",
        "checkpoints/best/tokenizer.json",
        "checkpoints/latest/config.json",
    ] {
        assert!(run.join(file).is_file(), "no {file}");
    }
    let report = std::fs::read_to_string(run.join("report.md")).unwrap();
    let links: Vec<&str> = report.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect();
    assert!(links.iter().any(|link| link.ends_with(".svg")), "{report}");
    for link in links {
        assert!(run.join(link).exists(), "the report names {link}, which is not there");
    }
    assert_eq!(std::fs::read_dir(run.join("tensorboard")).unwrap().count(), 1);
    let hidden = std::fs::read_dir(run.join("checkpoints")).unwrap();
    for entry in hidden {
        let name = entry.unwrap().file_name();
        assert!(!name.to_string_lossy().contains("partial"), "{name:?} was left behind");
    }
}

#[test]
fn shards_stream_from_standard_input() {
    let trained = trained();
    let folder = tempfile::tempdir().unwrap();
    let text = |name: &str| folder.path().join(name).display().to_string();
    xtask(&["dataset", "pack", &trained.data(), &text("shards"), "--per-shard", "20"]).succeeds();
    // As `cat *.tar |` would give them.
    let joined: Vec<u8> = (0..3).flat_map(|n| std::fs::read(text(&format!("shards/train/{n}.tar"))).unwrap()).collect();
    std::fs::write(text("joined"), joined).unwrap();
    let config = trained.run().join("config.toml").display().to_string();
    let (out, input) = (text("run"), || std::fs::File::open(text("joined")).unwrap());
    let args = ["train", "--config", &config, "--set", "data.train=-", "--set", "data.train_split=", "--out", &out];
    // The length of an epoch has to be said, since nobody knows it.
    xtask_reading(&args, input()).fails(2, &["data.samples_per_epoch", "standard input"]);
    let ran = xtask_reading(&[&args[..], &["--set", "data.samples_per_epoch=32"]].concat(), input());
    ran.succeeds();
    assert!(ran.stderr.contains("standard input: the stream ended after"), "{ran:#?}");
    let report = std::fs::read_to_string(folder.path().join("run/report.md")).unwrap();
    assert!(report.contains("the stream of training clips ended"), "{report}");
}

#[test]
fn the_resolved_config_trains_the_same_model() {
    let trained = trained();
    let folder = tempfile::tempdir().unwrap();
    let config = trained.run().join("config.toml").display().to_string();
    let losses = |out: &str| {
        let out = folder.path().join(out);
        let args = ["train", "--config", &config, "--set", "schedule.epochs=2", "--out", &out.display().to_string()];
        xtask(&args).succeeds();
        losses_of(&out)
    };
    let (first, second) = (losses("first"), losses("second"));
    assert!(first.len() >= 10 && first == second, "{first:?} {second:?}");
    // The warm-up does not depend on the number of epochs.
    assert_eq!(first[..WARMUP], losses_of(&trained.run())[..WARMUP]);
}

/// Products of bf16 go another way, and to the same place.
#[test]
fn mixed_precision_trains_alike() {
    let folder = tempfile::tempdir().unwrap();
    let config = trained().run().join("config.toml").display().to_string();
    let out = folder.path().join("run");
    let text = out.display().to_string();
    let set = "schedule.epochs=4";
    let args = ["train", "--config", &config, "--set", set, "--set", "precision=amp_bf16", "--out", &text];
    let ran = xtask(&args);
    let warned = ran.succeeds().stderr.contains("precision is amp_bf16");
    assert_eq!(warned, !clap_nn::has_bf16_products(), "{ran:#?}");
    let args = ["train", "--config", &config, "--set", set, "--out", &format!("{text}-whole")];
    xtask(&args).succeeds();
    let (half, whole) = (losses_of(&out), losses_of(&folder.path().join("run-whole")));
    assert_eq!(half == whole, warned);
    let mean = |losses: &[f64]| losses.iter().rev().take(5).sum::<f64>() / 5.0;
    assert!(half.len() == whole.len() && (mean(&half) - mean(&whole)).abs() < 0.05, "{half:?} {whole:?}");
}

#[test]
fn embeddings_in_bf16_are_nearly_those_in_f32() {
    let folder = tempfile::tempdir().unwrap();
    let sound = folder.path().join("a.wav");
    tone(&sound, 440.0, 1.0);
    let embed = |dtype: &str| -> Vec<Vec<f64>> {
        let sound = sound.display().to_string();
        let args = ["embed", "--model", &trained().model(), "--dtype", dtype, &sound, "--text", "a low tone"];
        let lines = xtask(&args).succeeds().json();
        lines.iter().map(|line| serde_json::from_value(line["embedding"].clone()).unwrap()).collect()
    };
    let (whole, half) = (embed("f32"), embed("bf16"));
    assert!(whole.len() == 2 && whole != half);
    for (a, b) in whole.iter().zip(&half) {
        let cosine: f64 = a.iter().zip(b).map(|(a, b)| a * b).sum();
        assert!(cosine > 0.995, "{cosine}");
    }
}

/// The loss of each step of a run.
fn losses_of(run: &std::path::Path) -> Vec<f64> {
    let log = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let events = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    events.filter(|event| event["event"] == "step").map(|event| event["loss"].as_f64().unwrap()).collect()
}

/// `eval` of a run folder takes prompt, front end and text length from the run, and so finds what training found.
#[test]
fn evaluating_a_run_gives_the_numbers_of_its_training() {
    let trained = trained();
    let report = std::fs::read_to_string(trained.run().join("metrics.jsonl")).unwrap();
    let mut done = report.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let best = done.rfind(|event| event["event"] == "done").unwrap()["best"].clone();
    let run = trained.run().display().to_string();
    let records = xtask(&["eval", "--json", "--model", &run, "--data", &trained.data()]).succeeds().json();
    for (record, prefix) in records.iter().zip(["zeroshot_", ""]) {
        for (name, value) in record["metrics"].as_object().unwrap() {
            let (found, before) = (value.as_f64().unwrap(), best[format!("{prefix}{name}")].as_f64().unwrap());
            assert!((found - before).abs() < 1e-9, "{prefix}{name}: {found}, {before} in training");
        }
    }
}

/// The four views of an unfused model cannot be had.
#[test]
fn fusion_needs_a_fused_model() {
    let arguments = ["embed", "--model", &trained().model(), "--long-audio", "fusion", "x.wav"];
    xtask(&arguments).fails(2, &["--long-audio fusion", "windows"]);
}

#[test]
fn embeddings_are_unit_vectors_whatever_the_company() {
    let trained = trained();
    let folder = tempfile::tempdir().unwrap();
    let paths: Vec<String> = [(300.0, 0.3), (900.0, 2.5), (4000.0, 1.0)]
        .iter()
        .map(|(hz, seconds)| {
            let path = folder.path().join(format!("{hz}.wav"));
            tone(&path, *hz, *seconds);
            path.display().to_string()
        })
        .collect();
    let embed = |arguments: &[&str]| {
        let model = trained.model();
        let lines = xtask(&[&["embed", "--model", model.as_str()], arguments].concat()).succeeds().json();
        lines
            .into_iter()
            .map(|line| {
                let embedding: Vec<f64> = serde_json::from_value(line["embedding"].clone()).unwrap();
                (line["kind"].as_str().unwrap().to_owned(), line["id"].as_str().unwrap().to_owned(), embedding)
            })
            .collect::<Vec<_>>()
    };
    let together = embed(&[&paths[0], &paths[1], &paths[2], "--text", "a beep in a room", "--text", "silence"]);
    let kinds: Vec<&str> = together.iter().map(|(kind, ..)| kind.as_str()).collect();
    assert_eq!(kinds, ["audio", "audio", "audio", "text", "text"]);
    assert_eq!(together[1].1, paths[1]);
    for (_, id, embedding) in &together {
        assert_eq!(embedding.len(), 24);
        let norm: f64 = embedding.iter().map(|v| v * v).sum();
        assert!((norm - 1.0).abs() < 1e-5, "{id}: {norm}");
    }
    for (path, (_, _, in_company)) in paths.iter().zip(&together) {
        let alone = &embed(&[path])[0].2;
        let difference = alone.iter().zip(in_company).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(difference < 1e-6, "{path}: {difference}");
    }
    // 2.5 s are three windows of 1 s; their mean is none of them.
    for policy in ["head", "center", "random"] {
        let one = &embed(&[&paths[1], "--long-audio", policy])[0].2;
        assert_ne!(one, &together[1].2, "{policy}");
    }
    assert_eq!(embed(&[&paths[1], "--long-audio", "windows"])[0].2, together[1].2);
}

#[test]
fn shards_and_the_folder_they_were_packed_from_score_alike() {
    let trained = trained();
    let folder = tempfile::tempdir().unwrap();
    let shards = folder.path().join("shards").display().to_string();
    xtask(&["dataset", "pack", &trained.data(), &shards, "--keep", "--per-shard", "5"]).succeeds();
    let eval = |data: &str| {
        let ran = xtask(&["eval", "--json", "--split", "valid", "--model", &trained.model(), "--data", data]);
        ran.succeeds().json().into_iter().map(|record| record["metrics"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(eval(&trained.data()), eval(&shards));
    let again = xtask(&["dataset", "pack", &trained.data(), &shards]);
    again.fails(3, &["shards"]);
}

/// The losses that a run's log has, step by step.
fn logged_losses(run: &str) -> Vec<(u64, f64)> {
    let text = std::fs::read_to_string(format!("{run}/metrics.jsonl")).unwrap_or_default();
    let events = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let steps = events.filter(|event| event["event"] == "step");
    steps.map(|step| (step["step"].as_u64().unwrap(), step["loss"].as_f64().unwrap())).collect()
}

#[test]
fn a_killed_run_goes_on_as_if_nothing_had_happened() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name).display().to_string();
    std::fs::create_dir(place("data")).unwrap();
    tones(&folder.path().join("data"), 12, 4);
    xtask(&["tokenizer", "--data", &place("data"), "--vocab-size", "300", "--out", &place("tokenizer.json")])
        .succeeds();
    recipe(&folder.path().join("recipe.toml"), &folder.path().join("data"), &folder.path().join("tokenizer.json"), 10);
    let arguments = |out: &str| {
        let often = "checkpoint.every_minutes=1e-9";
        ["train", "--config", &place("recipe.toml"), "--set", often, "--out", &place(out)].map(str::to_owned)
    };
    xtask(&arguments("whole")).succeeds();
    let whole = logged_losses(&place("whole"));
    assert_eq!(whole.len(), 60);

    let mut process = std::process::Command::new(program())
        .args(arguments("killed"))
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    while logged_losses(&place("killed")).len() < 8 && process.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    process.kill().unwrap();
    process.wait().unwrap();
    let before = logged_losses(&place("killed")).len();
    assert!((8..60).contains(&before), "{before} steps before the end");

    let on = xtask(&["train", "--resume", &place("killed")]);
    assert!(on.succeeds().stderr.contains("goes on after step") && on.stdout.contains("zero-shot top-1"), "{on:#?}");
    assert_eq!(logged_losses(&place("killed")), whole);
    assert_eq!(std::fs::read_dir(place("killed/tensorboard")).unwrap().count(), 2);
    xtask(&["train", "--resume", &place("killed")]).fails(4, &["all its epochs are done"]);
    xtask(&["train", "--resume", &place("absent")]).fails(4, &["absent", "no config.toml"]);
    xtask(&["train", "--resume", &place("killed"), "--set", "seed=1"]).fails(2, &["--resume"]);
}
