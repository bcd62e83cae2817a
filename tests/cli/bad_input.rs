//! What is wrong is named, with what to do about it, and the exit code tells its kind.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cli::program::{recipe, tone, tones, xtask};
use crate::cli::run::trained;

/// A folder, and the path of a file in it with these bytes.
fn file(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    (folder, path)
}

fn embed(path: &Path) -> crate::cli::program::Ran {
    xtask(&["embed", "--model", &trained().model(), &path.display().to_string()])
}

/// A 32-bit float WAV of these samples.
fn float_wav(path: &Path, samples: &[f32]) {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 48_000,
        bits_per_sample: 32,
        sample_format: hound::SampleFormat::Float,
    };
    let mut writer = hound::WavWriter::create(path, spec).unwrap();
    samples.iter().for_each(|s| writer.write_sample(*s).unwrap());
    writer.finalize().unwrap();
}

#[test]
fn a_missing_sound_file() {
    embed(Path::new("no/such/dog.wav")).fails(3, &["no/such/dog.wav"]);
}

#[test]
fn a_text_file_called_wav() {
    let (_folder, path) = file("poem.wav", b"The fog comes on little cat feet.");
    embed(&path).fails(3, &["poem.wav"]);
}

#[test]
fn an_empty_file() {
    let (_folder, path) = file("nothing.wav", b"");
    embed(&path).fails(3, &["nothing.wav"]);
}

#[test]
fn a_clip_of_no_samples() {
    let (_folder, path) = file("silent.wav", b"");
    float_wav(&path, &[]);
    embed(&path).fails(3, &["silent.wav"]);
}

#[test]
fn a_clip_of_one_sample_is_embedded() {
    let (_folder, path) = file("click.wav", b"");
    float_wav(&path, &[0.5]);
    let lines = embed(&path).succeeds().json();
    let embedding: Vec<f64> = serde_json::from_value(lines[0]["embedding"].clone()).unwrap();
    assert!((embedding.iter().map(|v| v * v).sum::<f64>() - 1.0).abs() < 1e-5);
}

#[test]
fn a_clip_that_is_not_a_number() {
    let (_folder, path) = file("broken.wav", b"");
    float_wav(&path, &[0.0, f32::NAN, 0.1]);
    embed(&path).fails(3, &["broken.wav", "NaN"]);
}

#[test]
fn one_bad_file_does_not_stop_the_others() {
    let (folder, bad) = file("bad.wav", b"bad");
    let good = folder.path().join("good.wav");
    tone(&good, 440.0, 0.5);
    let paths = [bad.display().to_string(), good.display().to_string()];
    let ran = xtask(&["embed", "--model", &trained().model(), &paths[0], &paths[1]]);
    ran.fails(3, &["bad.wav", "1 of 2"]);
    assert_eq!(ran.json()[0]["id"], paths[1].as_str());
    let strict = xtask(&["embed", "--strict", "--model", &trained().model(), &paths[0], &paths[1]]);
    strict.fails(3, &["bad.wav"]);
    assert_eq!(strict.stdout, "");
}

#[test]
fn nothing_to_embed() {
    xtask(&["embed", "--model", &trained().model()]).fails(2, &["nothing to embed", "--text"]);
}

#[test]
fn a_model_that_is_not_there() {
    let (folder, _) = file("readme.txt", b"no model");
    let path = folder.path().display().to_string();
    xtask(&["embed", "--model", &path, "--text", "x"]).fails(4, &[&path, "config.json"]);
}

#[test]
fn a_device_that_is_not_there() {
    xtask(&["embed", "--model", &trained().model(), "--device", "abacus", "--text", "x"]).fails(5, &["abacus", "cpu"]);
}

#[test]
fn weights_of_another_model() {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(trained().model()).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let config = folder.path().join("config.json");
    let text = fs::read_to_string(&config).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json["projection_dim"] = 40.into();
    fs::write(&config, json.to_string()).unwrap();
    let path = folder.path().display().to_string();
    xtask(&["embed", "--model", &path, "--text", "x"])
        .fails(4, &["audio_projection.linear1.weight", "[40, 32]", "[24, 32]"]);
}

#[test]
fn an_unknown_key_in_a_recipe() {
    let (_folder, path) = file("recipe.toml", b"[optim]\nlearning_rate = 1e-3\n");
    xtask(&["train", "--config", &path.display().to_string()]).fails(2, &["recipe.toml", "optim.learning_rate"]);
}

#[test]
fn an_unknown_key_on_the_command_line() {
    xtask(&["train", "--set", "optim.lr_rate=1e-3"]).fails(2, &["optim.lr_rate", "`optim.lr`"]);
}

#[test]
fn a_recipe_that_is_not_there() {
    xtask(&["train", "--config", "no/such.toml"]).fails(3, &["no/such.toml"]);
}

#[test]
fn data_that_is_not_there() {
    xtask(&["train", "--set", "data.train=no/such/folder"]).fails(3, &["data.train", "no/such/folder"]);
    xtask(&["eval", "--model", &trained().model(), "--data", "no/such/folder"]).fails(3, &["no/such/folder"]);
}

#[test]
fn a_required_metric_that_is_not_reached() {
    let data = trained().data();
    let arguments = ["eval", "--model", &trained().model(), "--data", &data, "--require", "acc1=1.01"];
    xtask(&arguments).fails(1, &["acc1", "1.01"]);
    let arguments = ["eval", "--model", &trained().model(), "--data", &data, "--require", "accuracy=0.1"];
    xtask(&arguments).fails(2, &["accuracy", "acc1"]);
}

/// A data set with one broken clip: skipped and counted, or fatal.
#[test]
fn a_bad_clip_in_a_data_set() {
    let folder = tempfile::tempdir().unwrap();
    tones(folder.path(), 1, 2);
    fs::write(folder.path().join("hum_1.wav"), b"RIFF, or so it says").unwrap();
    let data = folder.path().display().to_string();
    let arguments = ["eval", "--json", "--model", &trained().model(), "--data", &data];
    let ran = xtask(&arguments);
    assert!(ran.succeeds().stderr.contains("hum_1.wav") && ran.stderr.contains("1 skipped"), "{ran:#?}");
    assert_eq!(ran.json()[0]["metrics"]["num_samples"], 7);
    xtask(&[&arguments[..], &["--strict"]].concat()).fails(3, &["hum_1.wav"]);
}

/// A shard cut short keeps what came before the cut.
#[test]
fn a_broken_shard() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    fs::create_dir(&source).unwrap();
    tones(&source, 1, 2);
    let shards = folder.path().join("shards");
    let paths = [source.display().to_string(), shards.display().to_string()];
    xtask(&["dataset", "pack", &paths[0], &paths[1]]).succeeds();
    let shard = shards.join("valid/0.tar");
    let bytes = fs::read(&shard).unwrap();
    fs::write(&shard, &bytes[..bytes.len() * 2 / 3]).unwrap();
    let arguments = ["eval", "--json", "--model", &trained().model(), "--data", &paths[1]];
    let ran = xtask(&arguments);
    assert!(ran.succeeds().stderr.contains("0.tar"), "{ran:#?}");
    assert!(ran.json()[0]["metrics"]["num_samples"].as_u64().unwrap() >= 4);
    xtask(&[&arguments[..], &["--strict"]].concat()).fails(3, &["0.tar"]);
}

/// A run that cannot begin leaves no folder, one that is refused its data leaves no checkpoint.
#[test]
fn a_run_that_fails_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    fs::create_dir(&data).unwrap();
    tones(&data, 1, 1);
    let file = folder.path().join("recipe.toml");
    recipe(&file, &data, &folder.path().join("no-tokenizer.json"), 1);
    let run = folder.path().join("run");
    let paths = [file.display().to_string(), run.display().to_string()];
    xtask(&["train", "--config", &paths[0], "--out", &paths[1]]).fails(2, &["data.tokenizer", "no-tokenizer.json"]);
    assert!(!run.exists());
}
