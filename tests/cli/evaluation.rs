//! `cargo xtask eval` and `report`: embeddings kept, handed in and compared.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::cli::benchmarks::esc50;
use crate::cli::program::{Ran, tone, tones_in_turn, xtask};
use crate::cli::run::trained;

fn eval(extra: &[&str]) -> Ran {
    let (model, data) = (trained().model(), trained().data());
    xtask(&[&["eval", "--json", "--model", &model, "--data", &data], extra].concat())
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Metrics and intervals of the records, without what they are called.
fn numbers(ran: &Ran) -> Vec<(Value, Value)> {
    ran.succeeds().json().iter().map(|record| (record["metrics"].clone(), record["intervals"].clone())).collect()
}

#[test]
fn a_second_evaluation_hears_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let cache = ["--cache", &text(folder.path())];
    let first = eval(&cache);
    assert!(!first.succeeds().stderr.contains("embedded before"), "{first:#?}");
    let second = eval(&cache);
    assert_eq!(numbers(&second), numbers(&first));
    assert!(second.stderr.contains("16 of 16 clips were embedded before"), "{second:#?}");
    assert_eq!(numbers(&eval(&["--no-cache"])), numbers(&first));
    // Another policy is another question, and a file of its own.
    let head = eval(&[&cache[..], &["--long-audio", "head"]].concat());
    assert!(!head.succeeds().stderr.contains("embedded before"), "{head:#?}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn embeddings_of_any_program_are_measured_alike() {
    let folder = tempfile::tempdir().unwrap();
    let out = text(&folder.path().join("results"));
    let by_model = eval(&["--out", &out, "--no-cache"]);
    let expected = numbers(&by_model);
    let metrics = &expected[0].0;
    let [low, high] = [0, 1].map(|end| expected[0].1["acc1"][end].as_f64().unwrap());
    assert!(low <= metrics["acc1"].as_f64().unwrap() && metrics["acc1"].as_f64().unwrap() <= high);

    // Our own file says what it is of.
    let stem =
        |record: &Value| format!("{}-{}", record["dataset"].as_str().unwrap(), record["split"].as_str().unwrap());
    let records = by_model.json();
    let file = text(&folder.path().join("results").join(format!("{}.safetensors", stem(&records[0]))));
    assert_eq!(numbers(&xtask(&["eval", "--json", "--embeddings", &file])), expected);

    // The lines of `embed` are put beside the data set.
    let (model, data) = (trained().model(), trained().data());
    let clips: Vec<String> = ["drone", "hum", "beep", "whistle"]
        .iter()
        .flat_map(|label| (12..16).map(move |i| format!("{label}_{i}.wav")))
        .collect();
    let mut arguments = vec!["embed".to_owned(), "--model".to_owned(), model];
    arguments.extend(clips.iter().map(|clip| format!("{data}/{clip}")));
    for label in ["drone", "hum", "beep", "whistle"] {
        for words in [format!("a {label} in a room"), format!("this is a sound of {label}")] {
            arguments.extend(["--text".to_owned(), words]);
        }
    }
    let lines = folder.path().join("embeds.jsonl");
    fs::write(&lines, &xtask(&arguments).succeeds().stdout).unwrap();
    let lines = text(&lines);
    let named = ["eval", "--json", "--split", "valid", "--embeddings", &lines, "--data", &data];
    let found = numbers(&xtask(&named));
    assert_eq!(found.len(), 2);
    for ((found, _), (expected, _)) in found.iter().zip(&expected) {
        for (name, value) in expected.as_object().unwrap() {
            let (found, value) = (found[name].as_f64().unwrap(), value.as_f64().unwrap());
            assert!((found - value).abs() < 1e-9, "{name}: {found} {value}");
        }
    }
    xtask(&["eval", "--embeddings", &lines]).fails(2, &["--data"]);
    xtask(&["eval", "--split", "train", "--embeddings", &lines, "--data", &data]).fails(3, &["none of the 48 clips"]);
    let nothing = text(&folder.path().join("none.npy"));
    xtask(&["eval", "--embeddings", &nothing, "--data", &data]).fails(3, &["none.npy"]);
    fs::write(&nothing, b"\x93NUMPY").unwrap();
    xtask(&["eval", "--embeddings", &nothing, "--data", &data]).fails(3, &["none.npy"]);
}

/// Clips of three windows, of which the last two sound like the class: one hears the first and is wrong, the others outvote it.
#[test]
fn windows_of_a_long_clip_vote() {
    let folder = tempfile::tempdir().unwrap();
    for (name, first, then) in [("hum_0.wav", 5000.0, 500.0), ("whistle_0.wav", 500.0, 5000.0)] {
        tones_in_turn(&folder.path().join(name), &[(first, 1.0), (then, 2.0)]);
    }
    let rows = "file_name,label\nhum_0.wav,hum\nwhistle_0.wav,whistle\n";
    fs::write(folder.path().join("metadata.csv"), rows).unwrap();
    let (model, data) = (trained().model(), text(folder.path()));
    let by = |policy: &str| {
        let ran = xtask(&["eval", "--json", "--model", &model, "--data", &data, "--long-audio", policy]);
        let records = ran.succeeds().json();
        let classification = records.iter().find(|record| record["task"] == "zeroshot_classification").unwrap();
        assert_eq!(classification["settings"]["long_audio"], policy);
        classification["metrics"]["acc1"].as_f64().unwrap()
    };
    assert_eq!((by("vote"), by("head")), (1.0, 0.0));
    xtask(&["embed", "--model", &model, "--long-audio", "vote", "--text", "a"]).fails(2, &["eval", "windows"]);
}

#[test]
fn a_report_puts_models_beside_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| text(&folder.path().join(name));
    // The model at its best, and asked nonsense.
    eval(&["--out", &path("best")]).succeeds();
    eval(&["--out", &path("odd"), "--template", "{label} <i>nothing</i> | of it", "--template", "no {label}"])
        .succeeds();
    let run = text(&trained().run());
    let model = trained().run().display().to_string();
    let other = xtask(&["eval", "--model", &model, "--data", &trained().data(), "--out", &path("best")]);
    other.fails(2, &["best", "a folder of its own"]);
    let ran = xtask(&["report", &path("best"), &path("odd"), &run, "--out", &path("report")]);
    assert_eq!(ran.succeeds().stdout.lines().count(), 3);
    let read = |name: &str| fs::read_to_string(folder.path().join("report").join(name)).unwrap();
    let (markdown, csv, html) = (read("report.md"), read("report.csv"), read("report.html"));
    for heading in ["zero-shot classification", "retrieval", "less "] {
        assert!(markdown.lines().any(|line| line.starts_with("## ") && line.contains(heading)), "{markdown}");
    }
    assert!(markdown.contains("p 1.000"), "the captions were the same: {markdown}");
    assert!(markdown.contains("(templates ["), "one model, told apart by its prompts: {markdown}");
    let mut rows = csv.lines();
    assert_eq!(rows.next(), Some("dataset,split,task,model,metric,value,low,high"));
    // Names are quoted, and have commas; value and interval stand behind them.
    assert!(rows.all(|row| row.starts_with('"') && row.rsplit(',').nth(2).unwrap().parse::<f64>().is_ok()), "{csv}");
    assert!(csv.contains(",\"acc1\","), "{csv}");
    for part in ["Confusions", "The space as a map", "Clips and captions", "Training loss", "data:audio/flac;base64,"] {
        assert!(html.contains(part), "{part}");
    }
    assert!(!html.contains("src=\"http") && !html.contains("href=\"http"), "the page fetches something");
    // Sixteen clips of two evaluations.
    assert_eq!(html.matches("data-sound=\"").count(), 32);

    let empty = path("empty");
    fs::create_dir(&empty).unwrap();
    xtask(&["report", &empty]).fails(3, &["nothing to report"]);
    fs::write(folder.path().join("empty/x.json"), "{\"dataset\": 1}").unwrap();
    xtask(&["report", &empty]).fails(3, &["x.json", "not a record"]);
    xtask(&["report", &path("nowhere")]).fails(3, &["nowhere"]);
}

/// Four tones with the folds of a benchmark, and as splits.
#[test]
fn probes_learn_what_the_tower_hears() {
    let folder = tempfile::tempdir().unwrap();
    let mut rows = String::from("file_name,label,fold\n");
    for (label, hz) in [("drone", 150.0), ("hum", 500.0), ("beep", 1600.0), ("whistle", 5000.0)] {
        for i in 0..6 {
            let name = format!("{label}_{i}.wav");
            tone(&folder.path().join(&name), hz * (1.0 + 0.05 * i as f32), 0.5);
            rows.push_str(&format!("{name},{label},{}\n", i % 3 + 1));
        }
    }
    fs::write(folder.path().join("metadata.csv"), rows).unwrap();
    let (model, folds) = (trained().model(), text(folder.path()));
    let out = text(&folder.path().join("results"));
    let args = ["eval", "--json", "--model", &model, "--data", &folds, "--probe", "linear", "--probe-epochs", "200"];
    let by_folds = xtask(&[&args[..], &["--probe-lr", "0.01", "--out", &out]].concat());
    let record = &by_folds.succeeds().json()[0];
    assert_eq!((&record["task"], &record["split"]), (&"linear_probe".into(), &"3 folds".into()));
    assert!(record["metrics"]["acc"].as_f64().unwrap() >= 0.9, "{record}");
    assert_eq!(record["metrics"]["num_samples"], 24);
    for key in ["acc_fold1", "acc_fold3", "map", "mauc", "mean_per_class_recall"] {
        assert!(record["metrics"][key].is_number(), "{record}");
    }
    assert!(record["intervals"]["acc"].is_array());
    xtask(&["report", &out, "--out", &text(&folder.path().join("report"))]).succeeds();

    // Splits, and the tower with the head.
    let data = trained().data();
    let tuned = ["eval", "--model", &model, "--data", &data, "--finetune", "--probe-epochs", "40", "--mixup"];
    let rates = ["--probe", "linear", "--probe-lr", "1e-2", "--tower-lr", "3e-4", "--probe-batch-size", "16"];
    let ran = xtask(&[&tuned[..], &rates].concat());
    assert!(ran.succeeds().stdout.contains("accuracy") && ran.stdout.contains("16 clips, 4 classes"), "{ran:#?}");
    let accuracy = ran.stdout.lines().find(|line| line.contains("accuracy ")).unwrap();
    assert!(accuracy.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() >= 0.7, "{ran:#?}");

    let refused = |extra: &[&str], code, words: &[&str]| {
        let base = ["eval", "--model", &model, "--data", &data, "--probe", "mlp"];
        xtask(&[&base[..], extra].concat()).fails(code, words);
    };
    refused(&["--probe-lr", "0"], 2, &["probe.lr"]);
    refused(&["--probe-epochs", "0"], 2, &["probe.epochs"]);
    refused(&["--long-audio", "vote"], 2, &["vote"]);
    refused(&["--mixup"], 2, &["--finetune"]);
    refused(&["--train-split", "dev"], 3, &["dev"]);
}

#[test]
fn the_papers_suite_runs_what_is_there_and_names_the_rest() {
    let root = tempfile::tempdir().unwrap();
    esc50(&root.path().join("ESC-50-master"));
    let (model, path) = (trained().model(), text(root.path()));
    let out = text(&root.path().join("results"));
    let suite = ["eval", "--suite", "paper", "--model", &model, "--root", &path, "--out", &out];
    // What votes for zero-shot classification is no way to train: heads take the windows.
    let ran = xtask(&[&suite[..], &["--probe-epochs", "5", "--long-audio", "vote"]].concat());
    assert!(ran.succeeds().stderr.contains("2 of 9 tasks done"), "{ran:#?}");
    for missing in ["AudioCaps", "Clotho", "UrbanSound8K", "VGGSound", "FSD50K"] {
        assert!(ran.stderr.contains(&format!("missing: {missing}")), "no {missing} in {ran:#?}");
    }
    assert!(!ran.stderr.contains("missing: ESC-50") && ran.stderr.contains("https://"), "{ran:#?}");
    let names: Vec<String> =
        fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    for end in ["-zeroshot_classification.json", "-linear_probe.json", ".safetensors"] {
        assert!(names.iter().any(|name| name.ends_with(end)), "{names:?}");
    }
    let report = text(&root.path().join("report"));
    xtask(&["report", &out, "--out", &report]).succeeds();
    let markdown = fs::read_to_string(root.path().join("report/report.md")).unwrap();
    assert!(markdown.contains("The paper's table 4") && markdown.contains("| CLAP, K2C | 91.0 |"), "{markdown}");

    let empty = tempfile::tempdir().unwrap();
    let nothing = ["eval", "--suite", "paper", "--model", &model, "--out", &out, "--root", &text(empty.path())];
    xtask(&nothing).fails(1, &["no data set of the suite"]);
    xtask(&["eval", "--suite", "paper", "--model", &model]).fails(2, &["--out"]);
}
