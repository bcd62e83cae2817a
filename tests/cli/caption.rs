//! Captions from keywords, for tags and for whole data sets, by the real program.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::cli::program::{Ran, tone, xtask};
use crate::cli::run::trained;

/// A tiny random T5 (`tests/reference/make_t5.py`): what it writes is no English, but always the same.
fn t5() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    root.join("crates/clap-encoders/tests/files/t5/gated").display().to_string()
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Seven clips: some with a caption, some with labels alone, one without a label.
fn clips(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    let mut rows = String::from("file_name,text,labels\n");
    for (clip, (caption, labels)) in [
        ("a dog in the rain", "dog;rain"),
        ("", "speech"),
        ("", "dog;rain"),
        ("a man speaks", ""),
        ("", "train;bell;horn"),
        ("", "music"),
        ("", "speech"),
    ]
    .into_iter()
    .enumerate()
    {
        tone(&folder.join(format!("{clip}.wav")), 300.0 + 100.0 * clip as f32, 0.2);
        rows.push_str(&format!("{clip}.wav,{caption},{labels}\n"));
    }
    fs::write(folder.join("metadata.csv"), rows).unwrap();
}

fn caption(data: &Path, out: &Path, more: &[&str]) -> Ran {
    let (data, out, model) = (text(data), text(out), t5());
    xtask(&[&["caption", "--model", &model, "--data", &data, "--out", &out, "--per-shard", "3"][..], more].concat())
}

fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().into(), fs::read(&path).unwrap()))
        .collect();
    files.sort();
    files
}

/// The JSON members of a folder's shards, in order.
fn descriptions(folder: &Path) -> Vec<Value> {
    let mut found = Vec::new();
    for shard in 0.. {
        let Ok(bytes) = fs::read(folder.join(format!("{shard}.tar"))) else { return found };
        let mut at = 0;
        while at + 512 <= bytes.len() && bytes[at] != 0 {
            let field = |range: std::ops::Range<usize>| {
                String::from_utf8_lossy(&bytes[at + range.start..at + range.end]).trim_end_matches('\0').to_owned()
            };
            let (name, size) = (field(0..100), usize::from_str_radix(field(124..136).trim(), 8).unwrap());
            if name.ends_with(".json") {
                found.push(serde_json::from_slice(&bytes[at + 512..at + 512 + size]).unwrap());
            }
            at += 512 + size.next_multiple_of(512);
        }
    }
    found
}

#[test]
fn tags_become_captions_the_same_each_time() {
    let run = |more: &[&str]| {
        let model = t5();
        let ran =
            xtask(&[&["caption", "--model", &model, "--tags", "dog, rain", "--tags", "speech"][..], more].concat());
        ran.succeeds().stdout.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let captions = run(&[]);
    assert_eq!((captions.len(), &captions), (2, &run(&[])));
    assert_ne!(captions[0], captions[1]);
    assert_ne!(captions, run(&["--num-beams", "1", "--max-length", "6"]));
    assert_eq!(run(&["--sample", "--seed", "3"]), run(&["--sample", "--seed", "3"]));
    assert_ne!(run(&["--sample", "--seed", "3"]), run(&["--sample", "--seed", "4"]));
}

#[test]
fn a_data_set_is_written_with_captions_and_a_stopped_run_taken_up() {
    let folder = tempfile::tempdir().unwrap();
    let (data, whole, stopped) =
        (folder.path().join("clips"), folder.path().join("whole"), folder.path().join("stopped"));
    clips(&data);
    let ran = caption(&data, &whole, &[]);
    assert!(
        ran.succeeds().stdout.contains("7 clips in 3 shards") && ran.stdout.contains("6 captions written"),
        "{ran:#?}"
    );

    let found = descriptions(&whole);
    assert_eq!(found.len(), 7);
    assert_eq!(found[0]["text"], "a dog in the rain");
    assert_eq!(found[1]["text"], "The sound of speech");
    assert_eq!(found[2]["tag"], serde_json::json!(["dog", "rain"]));
    let generated = |clip: usize| found[clip]["text_augment_t5"].as_str().unwrap();
    assert_eq!(generated(0), generated(2), "equal keywords, equal captions");
    assert_ne!(generated(0), generated(4));
    assert_eq!(found[0]["text_augment_all"], serde_json::json!(["a dog in the rain", generated(0)]));
    assert_eq!(
        (&found[3]["text_augment_t5"], &found[3]["text_augment_all"]),
        (&Value::Null, &serde_json::json!(["a man speaks"]))
    );

    // A run that was stopped in its second shard.
    fs::create_dir(&stopped).unwrap();
    for file in ["0.tar", "captions.json"] {
        fs::copy(whole.join(file), stopped.join(file)).unwrap();
    }
    fs::write(stopped.join("1.tar.part"), "half").unwrap();
    let ran = caption(&data, &stopped, &[]);
    assert!(ran.succeeds().stdout.contains("3 clips were there already"), "{ran:#?}");
    assert!(files(&stopped) == files(&whole), "the same bytes as a run that was never stopped");
    caption(&data, &stopped, &["--num-beams", "2"]).fails(3, &["captions.json", "generation", "choose another folder"]);

    let few = folder.path().join("few");
    let ran = caption(&data, &few, &["--max-clips", "2", "--template", "paper"]);
    assert!(ran.succeeds().stdout.contains("2 clips in 1 shards"), "{ran:#?}");
    assert_eq!(descriptions(&few).len(), 2);
}

#[test]
fn what_cannot_be_captioned_is_refused() {
    let (folder, model) = (tempfile::tempdir().unwrap(), t5());
    let run = |arguments: &[&str]| xtask(&[&["caption"][..], arguments].concat());
    run(&["--model", &model]).fails(2, &["--tags"]);
    run(&["--model", &model, "--tags", " , "]).fails(2, &["no keyword"]);
    run(&["--model", &model, "--tags", "dog", "--num-beams", "0"]).fails(2, &["--num-beams", "between 1 and"]);
    run(&["--model", &model, "--tags", "dog", "--prompt", "no place"]).fails(2, &["{keywords}"]);
    run(&["--model", &model, "--tags", "dog", "--template", "nobody"]).fails(2, &["nobody", "audioset"]);
    run(&["--model", "gagan3012/no-such-model", "--tags", "dog"])
        .fails(4, &["gagan3012/no-such-model", "HF_HUB_OFFLINE", "tokenizer.json"]);
    run(&["--model", &text(folder.path()), "--tags", "dog"]).fails(4, &["no config.json"]);
    run(&["--model", &model, "--data", "/no/such/clips", "--out", &text(folder.path())]).fails(3, &["/no/such/clips"]);
}

#[test]
fn packing_may_retell_tags_and_de_bias() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("clips"), folder.path().join("out"));
    clips(&data);
    let ran = xtask(&["dataset", "pack", &text(&data), &text(&out), "--template", "I hear {labels}", "--debias"]);
    assert!(ran.succeeds().stderr.contains("1 words replaced: man 1"), "{ran:#?}");
    let texts: Vec<Value> = descriptions(&out).into_iter().map(|fields| fields["text"].clone()).collect();
    assert_eq!(texts[..4], ["a dog in the rain", "I hear speech", "I hear dog and rain", "a person speaks"]);
}

/// A caption that is drawn in training is one of several; measured are all of them.
#[test]
fn evaluation_takes_every_caption() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut rows = String::from("file_name,captions,label\n");
    for (file, label, hz) in [("a.wav", "drone", 150.0), ("b.wav", "whistle", 5000.0)] {
        tone(&path(file), hz, 0.5);
        rows.push_str(&format!(
            "{file},\"[\"\"a {label}\"\", \"\"the {label}\"\", \"\"one {label} in a room\"\"]\",{label}\n"
        ));
    }
    fs::write(path("metadata.csv"), rows).unwrap();
    let ran = xtask(&["eval", "--json", "--model", &trained().model(), "--data", &text(folder.path())]);
    let records = ran.succeeds().json();
    assert_eq!(records[1]["metrics"]["num_captions"], 6, "{records:?}");
    assert_eq!(records[1]["metrics"]["num_samples"], 2);
}
