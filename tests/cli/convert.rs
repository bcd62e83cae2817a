//! Models from one program's layout to the other's and back, and what `info` says of them.

use std::fs;
use std::path::Path;

use safetensors::SafeTensors;

use crate::cli::program::xtask;
use crate::cli::run::trained;

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn a_round_trip_through_laions_layout_changes_no_bit() {
    let folder = tempfile::tempdir().unwrap();
    let (laion, again) = (folder.path().join("laion"), folder.path().join("again"));
    fs::create_dir(&laion).unwrap();
    let file = laion.join("model.pt");
    xtask(&["convert", &trained().model(), &text(&file), "--to", "laion"]).succeeds();
    for name in ["config.json", "preprocessor_config.json", "tokenizer.json"] {
        fs::copy(Path::new(&trained().model()).join(name), laion.join(name)).unwrap();
    }
    xtask(&["convert", &text(&laion), &text(&again), "--to", "hf"]).succeeds();
    let read = |folder: &Path| fs::read(folder.join("model.safetensors")).unwrap();
    let (before, after) = (read(Path::new(&trained().model())), read(&again));
    let (before, after) = (SafeTensors::deserialize(&before).unwrap(), SafeTensors::deserialize(&after).unwrap());
    for (name, tensor) in before.tensors() {
        let other = after.tensor(&name).unwrap();
        assert_eq!((tensor.shape(), tensor.data()), (other.shape(), other.data()), "{name}");
    }
}

#[test]
fn info_tells_what_a_model_is_made_of() {
    let ran = xtask(&["info", &trained().model()]);
    for words in
        ["HTS-AT, width 16 to 32, depths 1-1", "RoBERTa, 1 layers", "preset hf", "in all", "Hugging Face layout"]
    {
        assert!(ran.succeeds().stdout.contains(words), "no {words:?} in {ran:#?}");
    }
    let json = &xtask(&["info", "--json", &trained().model()]).succeeds().json()[0];
    let parts = ["audio_model", "audio_projection", "text_model", "text_projection", "other"];
    let sum: u64 = parts.iter().map(|part| json["parameters"][part].as_u64().unwrap()).sum();
    assert_eq!(sum, json["parameters"]["total"].as_u64().unwrap());
    assert!(sum > 10_000, "{json}");
}

#[test]
fn what_cannot_be_converted_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let out = text(&folder.path().join("model"));
    xtask(&["convert", &trained().model(), &out, "--to", "laion"]).fails(2, &[".pt", "name OUT accordingly"]);
    xtask(&["convert", "/no/such/model", &out, "--to", "hf"]).fails(4, &["/no/such/model"]);
    assert!(!Path::new(&out).exists());
}
