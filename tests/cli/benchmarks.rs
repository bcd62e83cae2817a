//! Benchmarks in the layouts of their authors: found, listed, evaluated by fold, packed.

use std::fs;
use std::path::Path;

use crate::cli::program::{tone, xtask};
use crate::cli::run::trained;

/// ESC-50 with ten clips of two classes in five folds, and a row whose sound is not there.
pub(crate) fn esc50(folder: &Path) {
    fs::create_dir_all(folder.join("audio")).unwrap();
    fs::create_dir_all(folder.join("meta")).unwrap();
    let mut table = String::from("filename,fold,target,category,esc10,src_file,take\n");
    for (fold, hz) in [(1, 300.0), (2, 320.0), (3, 340.0), (4, 360.0), (5, 380.0)] {
        for (target, class, factor) in [(0, "dog", 1.0), (38, "clock_tick", 8.0)] {
            let name = format!("{fold}-100-A-{target}.wav");
            tone(&folder.join("audio").join(&name), hz * factor, 0.5);
            table.push_str(&format!("{name},{fold},{target},{class},False,100,A\n"));
        }
    }
    table.push_str("1-101-A-0.wav,1,0,dog,False,101,A\n");
    fs::write(folder.join("meta/esc50.csv"), table).unwrap();
}

#[test]
fn known_ones_are_listed_and_found() {
    let root = tempfile::tempdir().unwrap();
    esc50(&root.path().join("ESC-50-master"));
    let path = root.path().display().to_string();
    let ran = xtask(&["dataset", "list", "--root", &path]);
    assert!(ran.succeeds().stderr.contains("1 of 8 found"), "{ran:#?}");
    for text in ["urbansound8k", "CC BY-NC 3.0", "https://github.com/karolpiczak/ESC-50", "here: ", "fold1, fold2"] {
        assert!(ran.stdout.contains(text), "no {text:?} in {ran:#?}");
    }
    let lines = xtask(&["dataset", "list", "--json", "--root", &path]).succeeds().json();
    assert_eq!(lines.len(), 8);
    assert_eq!((&lines[0]["name"], &lines[0]["clips"]), (&"esc-50".into(), &2000.into()));
    assert_eq!(lines[0]["found"][0]["splits"].as_array().unwrap().len(), 5);
    assert_eq!(lines[7]["classes"], 527);
    xtask(&["dataset", "list", "--root", "no/such/folder"]).fails(3, &["no/such/folder"]);
}

#[test]
fn a_fold_is_evaluated_with_the_official_prompt_and_classes() {
    let root = tempfile::tempdir().unwrap();
    esc50(root.path());
    let path = root.path().display().to_string();
    let model = trained().model();
    let ran = xtask(&["eval", "--json", "--model", &model, "--data", &path, "--split", "fold2"]);
    assert!(ran.succeeds().stderr.contains("ESC-50 fold2: 2 of 400 clips"), "{ran:#?}");
    let lines = ran.json();
    assert_eq!((&lines[0]["dataset"], &lines[0]["split"]), (&"esc-50".into(), &"fold2".into()));
    assert_eq!(lines[0]["metrics"]["num_samples"], 2);
    assert_eq!(lines[0]["metrics"]["num_classes"], 50);
    // All clips but a fold, and by default all.
    for (split, clips) in [(Some("!fold2"), 8), (None, 10)] {
        let mut arguments = vec!["eval", "--json", "--model", &model, "--data", &path];
        arguments.extend(split.iter().flat_map(|split| ["--split", split]));
        let ran = xtask(&arguments);
        assert_eq!(ran.succeeds().json()[0]["metrics"]["num_samples"], clips);
        assert!(ran.stderr.contains("1 without a sound file, the first: 1-101-A-0.wav"), "{ran:#?}");
    }
    xtask(&["eval", "--model", &model, "--data", &path, "--split", "fold6"]).fails(3, &["no split `fold6`", "fold5"]);
    xtask(&["eval", "--strict", "--model", &model, "--data", &path]).fails(3, &["10 of 2,000 clips"]);
}

#[test]
fn several_labels_are_measured_by_average_precision() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path();
    fs::create_dir_all(folder.join("FSD50K.eval_audio")).unwrap();
    fs::create_dir_all(folder.join("FSD50K.ground_truth")).unwrap();
    let mut table = String::from("fname,labels,mids\n");
    for (name, hz, labels) in [(1, 200.0, "Dog,Animal"), (2, 900.0, "Cat,Animal"), (3, 4000.0, "Bell")] {
        tone(&folder.join(format!("FSD50K.eval_audio/{name}.wav")), hz, 0.5);
        table.push_str(&format!("{name},\"{labels}\",\"\"\n"));
    }
    fs::write(folder.join("FSD50K.ground_truth/eval.csv"), table).unwrap();
    let path = folder.display().to_string();
    let ran = xtask(&["eval", "--json", "--model", &trained().model(), "--data", &path]);
    let lines = ran.succeeds().json();
    assert_eq!((&lines[0]["task"], &lines[0]["split"]), (&"zeroshot_classification".into(), &"eval".into()));
    let metrics = &lines[0]["metrics"];
    assert!((0.0..=1.0).contains(&metrics["map"].as_f64().unwrap()) && metrics.get("acc1").is_none(), "{metrics}");
    assert_eq!((&metrics["num_classes"], &metrics["num_classes_present"]), (&200.into(), &4.into()));
    // Animal has two clips of three, the other three classes one: (2 + 1 + 1 + 1) / 3 / 4.
    assert!((metrics["chance_map"].as_f64().unwrap() - 5.0 / 12.0).abs() < 1e-9, "{metrics}");
    let text = xtask(&["eval", "--model", &trained().model(), "--data", &path]);
    assert!(text.succeeds().stdout.contains("zero-shot mAP, several labels"), "{text:#?}");
    let (dev, words) = (folder.join("FSD50K.ground_truth/dev.csv"), "fname,labels,mids,split\n");
    fs::write(dev, format!("{words}4,Bell,,train\n5,Bell,,val\n")).unwrap();
    // The other splits were never fetched, which is no reason not to pack this one.
    let out = root.path().join("shards").display().to_string();
    let packed = xtask(&["dataset", "pack", &path, &out]);
    assert!(packed.succeeds().stdout.contains("3 clips in 1 shards"), "{packed:#?}");
    assert!(packed.stderr.contains("skipped split") && packed.stderr.contains("no usable clip"), "{packed:#?}");
    xtask(&["dataset", "pack", "--strict", &path, &format!("{out}-2")]).fails(3, &["0 of 36,796 clips"]);
}

#[test]
fn a_benchmark_is_packed_by_split() {
    let root = tempfile::tempdir().unwrap();
    esc50(&root.path().join("esc"));
    let out = root.path().join("shards");
    let (from, to) = (root.path().join("esc").display().to_string(), out.display().to_string());
    xtask(&["dataset", "pack", &from, &to]).succeeds();
    let classes: Vec<String> = serde_json::from_slice(&fs::read(out.join("classes.json")).unwrap()).unwrap();
    assert_eq!((classes.len(), classes[38].as_str()), (50, "clock_tick"));
    assert!(out.join("fold1/0.tar").is_file() && out.join("fold5/0.tar").is_file());
}
