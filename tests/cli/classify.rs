//! Zero-shot labels of sound files, by the real program.

use std::fs;

use crate::cli::program::{tone, xtask};
use crate::cli::run::trained;

#[test]
fn the_likeliest_labels_come_first() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (sound, bad, labels) = (path("whistle.wav"), path("bad.wav"), path("labels.json"));
    let (sound, bad, labels) = (sound.as_str(), bad.as_str(), labels.as_str());
    tone(sound.as_ref(), 5000.0, 0.6);
    fs::write(bad, "no sound").unwrap();
    fs::write(labels, r#"{"drone": 0, "hum": 1, "beep": 2, "whistle": 3}"#).unwrap();
    let model = trained().model();
    let classify = |arguments: &[&str]| xtask(&[&["classify", "--model", &model][..], arguments].concat());

    let ran = classify(&[sound, "--labels", labels]);
    let lines: Vec<&str> = ran.succeeds().stdout.lines().collect();
    assert_eq!((lines[0], lines.len()), (sound, 5), "{ran:#?}");
    assert!(lines[1].contains("whistle"), "{ran:#?}");

    let given = ["--label", "drone", "--label", "whistle", "--label", "hum", "--top", "2", "--json"];
    let ran = classify(&[&[sound, bad, sound][..], &given].concat());
    ran.fails(3, &["skipped: ", "bad.wav", "1 of 3 sound files could not be classified"]);
    let lines = ran.json();
    assert_eq!((lines.len(), &lines[0]), (2, &lines[1]));
    let top = lines[0]["labels"].as_array().unwrap();
    assert_eq!((top.len(), &top[0]["label"]), (2, &"whistle".into()));
    assert!(top[0]["score"].as_f64().unwrap() >= top[1]["score"].as_f64().unwrap());
    let strict = classify(&[&[bad, sound, "--strict"][..], &given].concat());
    assert!(strict.fails(3, &["bad.wav"]).stdout.is_empty());
}

#[test]
fn what_cannot_be_asked_is_refused_before_the_model_is_read() {
    for (arguments, words) in [
        (&["x.wav"][..], &["no labels", "--label"][..]),
        (&["x.wav", "--label", "a", "--template", "a sound"], &["--template", "{label}"]),
        (&["x.wav", "--labels", "/no/such.txt"], &["--labels", "/no/such.txt"]),
        (&["--label", "a"], &["FILE"]),
        (&["x.wav", "--label", "a", "--top", "0"], &["--top"]),
    ] {
        xtask(&[&["classify", "--model", "/no/such/model"], arguments].concat()).fails(2, words);
    }
}
