//! Bare weight files of LAION's: every command takes them, with a tokenizer from elsewhere.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use safetensors::SafeTensors;

use crate::cli::program::{recipe, tone, xtask};
use crate::cli::run::trained;

/// A model of LAION's front end whose sizes can be read off its shapes: the run's folder, and its bare file.
struct Bare {
    folder: tempfile::TempDir,
}

impl Bare {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        text(&self.path(name))
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn tokenizer() -> String {
    text(&Path::new(&trained().model()).join("tokenizer.json"))
}

fn bare() -> &'static Bare {
    static BARE: OnceLock<Bare> = OnceLock::new();
    BARE.get_or_init(|| {
        let bare = Bare { folder: tempfile::tempdir().unwrap() };
        recipe(&bare.path("recipe.toml"), Path::new(&trained().data()), Path::new(&tokenizer()), 1);
        let (config, out) = (bare.text("recipe.toml"), bare.text("run"));
        let mut args = vec!["train", "--config", &config, "--out", &out];
        for set in [
            "preset=laion",
            "model.audio.spec_size=256",
            "model.audio.num_mel_bins=64",
            "model.audio.window_size=8",
            "model.audio.patch_embeds_hidden_size=8",
            "model.audio.hidden_size=16",
            "model.audio.depths=[1, 2]",
            "model.audio.num_attention_heads=[1, 2]",
            "model.text.hidden_size=64",
            "model.text.num_attention_heads=1",
            "model.text.layer_norm_eps=1e-5",
            "features.feature_size=64",
            "features.frequency_min=50",
            "features.max_length_s=10",
        ] {
            args.extend(["--set", set]);
        }
        xtask(&args).succeeds();
        fs::create_dir(bare.path("files")).unwrap();
        xtask(&["convert", &out, &bare.text("files/630k.pt"), "--to", "laion"]).succeeds();
        bare
    })
}

#[test]
fn a_bare_file_embeds_as_its_folder() {
    let bare = bare();
    let sound = bare.text("beep.wav");
    tone(Path::new(&sound), 900.0, 1.5);
    let run = |model: &str, tokenizer: &[&str]| {
        let arguments = [&["embed", &sound, "--text", "a beep in a room", "--model", model][..], tokenizer].concat();
        xtask(&arguments).succeeds().json()
    };
    let tokenizer = tokenizer();
    let file = run(&bare.text("files/630k.pt"), &["--tokenizer", &tokenizer]);
    assert_eq!(file.len(), 2);
    // The run knows its preset, the file's is LAION's.
    assert_eq!(file, run(&bare.text("run"), &[]));
    // A folder of nothing else, and a tokenizer by its folder.
    assert_eq!(file, run(&bare.text("files"), &["--tokenizer", &trained().model()]));
    let data = trained().data();
    let file = bare.text("files/630k.pt");
    let eval = ["eval", "--json", "--model", &file, "--tokenizer", &tokenizer, "--data", &data];
    let both = [xtask(&eval), xtask(&["eval", "--json", "--model", &bare.text("run"), "--data", &data])];
    let metrics = both.map(|ran| ran.succeeds().json().into_iter().map(|r| r["metrics"].clone()).collect::<Vec<_>>());
    assert_eq!(metrics[0], metrics[1]);
}

#[test]
fn info_needs_no_tokenizer_and_a_folder_does() {
    let bare = bare();
    let file = bare.text("files/630k.pt");
    let ran = xtask(&["info", &file]);
    for words in ["LAION layout", "HTS-AT, width 8 to 16, depths 1-2", "RoBERTa", "preset laion", "from 50 to 14000 Hz"]
    {
        assert!(ran.succeeds().stdout.contains(words), "no {words:?} in {ran:#?}");
    }
    let out = bare.text("again");
    let missing = ["roberta-base", "vocab.json with merges.txt", "HF_HUB_OFFLINE", &*bare.text("files")];
    xtask(&["convert", &file, &out, "--to", "hf"]).fails(4, &missing);
    xtask(&["embed", "--model", &file, "--text", "rain"]).fails(4, &missing);
    xtask(&["embed", "--model", &file, "--text", "rain", "--tokenizer", "/no/such"]).fails(4, &["/no/such"]);
    xtask(&["convert", &file, &out, "--to", "hf", "--tokenizer", &tokenizer()]).succeeds();
    let read = |path: PathBuf| fs::read(path).unwrap();
    let before = read(bare.path("run/checkpoints/best/model.safetensors"));
    let after = read(bare.path("again/model.safetensors"));
    let (before, after) = (SafeTensors::deserialize(&before).unwrap(), SafeTensors::deserialize(&after).unwrap());
    for (name, tensor) in before.tensors() {
        let other = after.tensor(&name).unwrap();
        assert_eq!((tensor.shape(), tensor.data()), (other.shape(), other.data()), "{name}");
    }
    // To the other layout again, which has no place for one.
    xtask(&["convert", &file, &bare.text("files-again.pt"), "--to", "laion"]).succeeds();
}

#[test]
fn a_run_starts_from_a_bare_file_or_from_towers() {
    let bare = bare();
    let (config, file) = (bare.text("recipe.toml"), bare.text("files/630k.pt"));
    let init = format!("model.init={file}");
    let anew = ["--set", "model.audio=", "--set", "model.text=", "--set", "schedule.epochs=1"];
    let whole = [&["train", "--config", &config, "--set", &init, "--set", "features="][..], &anew].concat();
    let ran = xtask(&[&whole[..], &["--out", &bare.text("tuned")]].concat());
    assert!(ran.succeeds().stderr.contains("whole model: ") && ran.stderr.contains("LAION layout"), "{ran:#?}");
    assert!(ran.stderr.contains("warning: preset is hf"), "{ran:#?}");

    let folder = trained().model();
    let (audio, text) = (format!("model.init_audio={folder}"), format!("model.init_text={folder}"));
    let towers = ["train", "--config", &config, "--set", &audio, "--set", &text];
    let ran = xtask(&[&towers[..], &anew, &["--out", &bare.text("towers")]].concat());
    assert!(ran.succeeds().stderr.contains("audio tower: ") && ran.stderr.contains("text tower: "), "{ran:#?}");
    // 64 mel bins are heard by the file's tower, 32 by the recipe's front end.
    let audio = format!("model.init_audio={file}");
    let towers = ["train", "--config", &config, "--set", &audio, "--set", "model.audio=", "--out", &bare.text("none")];
    xtask(&towers).fails(2, &["features.feature_size", "64"]);
    assert!(!bare.path("none").exists());
}

#[test]
fn a_tower_says_that_it_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let values = vec![0u8; 4 * 8 * 5 * 5];
    let view = |shape: &[usize]| {
        let bytes = 4 * shape.iter().product::<usize>();
        safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.to_vec(), &values[..bytes]).unwrap()
    };
    let path = folder.path().join("Cnn6.safetensors");
    let tensors =
        [("bn0.weight", view(&[64])), ("conv_block1.conv1.weight", view(&[8, 1, 5, 5])), ("fc1.weight", view(&[8, 8]))];
    safetensors::serialize_to_file(tensors, None, &path).unwrap();
    let ran = xtask(&["info", &text(&path)]);
    for words in ["AudioSet layout", "PANN, 1 convolutions of 5x5, widths 8, 64 mel bins", "model.init_audio"] {
        assert!(ran.succeeds().stdout.contains(words), "no {words:?} in {ran:#?}");
    }
    assert_eq!(xtask(&["info", "--json", &text(&path)]).succeeds().json()[0]["tower"], "audio");
    xtask(&["embed", "--model", &text(&path), "--text", "rain"]).fails(4, &["audio tower alone"]);
}
