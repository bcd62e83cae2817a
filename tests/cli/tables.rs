//! Tables of any columns and captions of another file, by the real program.

use std::fs;
use std::path::Path;

use crate::cli::program::{recipe, tone, xtask};
use crate::cli::run::trained;

/// A table of four sounds whose columns nobody would guess; its path.
fn table(folder: &Path) -> String {
    let mut rows = String::from("clip|words_1|words_2|kind\n");
    for (i, (label, hz)) in [("drone", 150.0), ("hum", 500.0), ("beep", 1600.0), ("whistle", 5000.0)].iter().enumerate()
    {
        let sound = folder.join(format!("sounds/{i}.wav"));
        fs::create_dir_all(sound.parent().unwrap()).unwrap();
        tone(&sound, *hz, 0.4);
        // Where a sound is may be said from the root as well.
        let name = if i == 0 { sound.display().to_string() } else { format!("sounds/{i}.wav") };
        rows.push_str(&format!("{name}|a {label}|a {label} in a room|{label}\n"));
    }
    let path = folder.join("clips.csv");
    fs::write(&path, rows).unwrap();
    path.display().to_string()
}

const COLUMNS: [&str; 8] = ["--separator", "|", "--audio-key", "clip", "--caption-key", "words", "--label-key", "kind"];

#[test]
fn a_table_of_named_columns() {
    let folder = tempfile::tempdir().unwrap();
    let data = table(folder.path());
    let model = trained().model();
    let ran = xtask(&[&["eval", "--json", "--strict", "--model", &model, "--data", &data], &COLUMNS[..]].concat());
    let lines = ran.succeeds().json();
    assert_eq!(lines.len(), 2, "{ran:#?}");
    assert!(lines.iter().all(|line| line["metrics"]["num_samples"] == 4), "{ran:#?}");

    let shards = folder.path().join("shards");
    let out = shards.display().to_string();
    let ran = xtask(&[&["dataset", "pack", &data, &out], &COLUMNS[..]].concat());
    assert!(ran.succeeds().stdout.contains("4 clips in 1 shards"), "{ran:#?}");
    let tokenizer = folder.path().join("tokenizer.json").display().to_string();
    xtask(&[&["tokenizer", "--data", &data, "--out", &tokenizer], &COLUMNS[..]].concat()).succeeds();

    // The table as it is, and with a column that it does not have.
    let eval = ["eval", "--model", &model, "--data", &data];
    xtask(&eval).fails(3, &["clips.csv", "clip|words_1|words_2|kind"]);
    let wrong = [&eval[..], &["--separator", "|", "--audio-key", "file"]].concat();
    xtask(&wrong).fails(3, &["no column `file`", "clip, words_1, words_2, kind"]);
    xtask(&[&eval[..], &["--separator", "||"]].concat()).fails(2, &["--separator", "one ASCII character"]);
}

#[test]
fn a_recipe_names_columns() {
    let folder = tempfile::tempdir().unwrap();
    let data = table(folder.path());
    let file = folder.path().join("recipe.toml");
    recipe(&file, Path::new(&data), &folder.path().join("tokenizer.json"), 1);
    let run = folder.path().join("run").display().to_string();
    let train = ["train", "--config", &file.display().to_string(), "--out", &run].map(str::to_owned);
    let with = |settings: &[&str]| {
        let settings = settings.iter().flat_map(|setting| ["--set".to_owned(), (*setting).to_owned()]);
        xtask(&train.iter().cloned().chain(settings).collect::<Vec<_>>())
    };
    with(&["data.separator=|", "data.audio_key=clip", "data.caption_key=said"])
        .fails(3, &["data.train", "no column `said`"]);
    with(&["data.separator=||"]).fails(2, &["data.separator"]);
    // The table is read; what is missing is its split.
    let columns = ["data.separator=|", "data.audio_key=clip", "data.caption_key=words", "data.label_key=kind"];
    with(&columns).fails(3, &["data.train", "no split `train`"]);
}

#[test]
fn captions_of_another_file() {
    let data = trained().data();
    let folder = tempfile::tempdir().unwrap();
    let captions = folder.path().join("captions.csv");
    fs::write(&captions, "id,caption\nhum_1.wav,someone hums\nbeep_1,\nnobody,x\n").unwrap();
    let captions = captions.display().to_string();
    let out = folder.path().join("shards").display().to_string();
    let ran = xtask(&["dataset", "pack", &data, &out, "--captions", &captions]);
    ran.succeeds();
    assert!(ran.stderr.contains("1 ids are no clip's, the first is nobody"), "{ran:#?}");
    assert!(ran.stderr.contains("1 rows have no caption"), "{ran:#?}");
}

#[test]
fn parquet_without_its_feature() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("train-00000-of-00001.parquet");
    fs::write(&file, "PAR1").unwrap();
    let paths = [file.display().to_string(), folder.path().join("out").display().to_string()];
    xtask(&["dataset", "pack", &paths[0], &paths[1]]).fails(2, &["train-00000-of-00001.parquet", "--features parquet"]);
}
