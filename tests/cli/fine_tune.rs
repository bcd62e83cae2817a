//! Training from a trained model on clips of one's own, and the recipes that are shipped.

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use clap_train::TrainConfig;

use crate::cli::program::{Ran, tone, tones, xtask};
use crate::cli::run::trained;

/// Tones of one's own, as a table without splits.
fn table(folder: &Path) -> String {
    tones(folder, 8, 0);
    let rows = fs::read_to_string(folder.join("metadata.csv")).unwrap();
    let kept: Vec<String> = rows.lines().map(|row| row.split(',').take(2).collect::<Vec<_>>().join(",")).collect();
    fs::remove_file(folder.join("metadata.csv")).unwrap();
    let path = folder.join("my.csv");
    fs::write(&path, kept.join("\n")).unwrap();
    path.display().to_string()
}

fn tensors(model: &Path) -> Vec<(String, Vec<f32>)> {
    let stored = candle_core::safetensors::load(model.join("model.safetensors"), &Device::Cpu).unwrap();
    let values = |tensor: &Tensor| {
        let tensor = tensor.to_dtype(candle_core::DType::F32).unwrap();
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    };
    stored.iter().map(|(name, tensor)| (name.clone(), values(tensor))).collect()
}

#[test]
fn a_model_is_fine_tuned_on_a_table() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (table(folder.path()), folder.path().join("run"));
    let (model, run) = (trained().model(), out.display().to_string());
    let base = ["train", "--init", &model, "--data", &data, "--freeze", "text", "--set", "data.batch_size=8"];
    let short = ["--set", "schedule.epochs=2", "--set", "optim.lr=1e-3", "--set", "optim.micro_batch_size=4"];
    let args = [&base[..], &short, &["--out", &run]].concat();

    let dry = xtask(&[&args[..], &["--dry-run"]].concat());
    for words in [
        "training    29 clips",
        "validation  3 clips, split held out",
        "whole model: ",
        "input_features (8, 1, ",
        "steps       3 an epoch, 6 in 2 epochs; 8 clips each",
        " M are frozen",
        "time  ",
        "reckoned from steps of 2 and 4 clips",
    ] {
        assert!(dry.succeeds().stdout.contains(words), "no {words:?} in {dry:#?}");
    }
    assert_eq!(dry.stdout.contains("memory"), cfg!(target_os = "linux"), "{dry:#?}");
    assert!(!out.exists(), "a dry run writes nothing");

    let ran = xtask(&args);
    assert!(ran.succeeds().stderr.contains("29 training clips, 3 validation clips"), "{ran:#?}");
    let parameters = dry.stdout.lines().find(|line| line.starts_with("parameters")).unwrap().split_whitespace().nth(1);
    let trained = format!("model      {} M trainable parameters", parameters.unwrap());
    assert!(ran.stderr.contains(&trained), "frozen ones do not count: {ran:#?}");
    let before = tensors(Path::new(&model));
    let after: std::collections::HashMap<_, _> = tensors(&out.join("checkpoints/latest")).into_iter().collect();
    let (mut text, mut audio) = (0, 0);
    for (name, values) in &before {
        match (name.starts_with("text_model."), name.ends_with("layernorm_after.weight")) {
            (true, _) => {
                assert_eq!(&after[name], values, "{name} is frozen");
                text += 1;
            }
            (false, true) => {
                assert_ne!(&after[name], values, "{name} trains");
                audio += 1;
            }
            _ => {}
        }
    }
    assert!(text > 10 && audio > 1, "{text} {audio}");
    // And the checkpoint is a model like any other.
    xtask(&[
        "classify",
        "--model",
        &out.display().to_string(),
        "--label",
        "hum",
        &format!("{}/hum_0.wav", folder.path().display()),
    ])
    .succeeds();
}

#[test]
fn splits_of_the_data_are_used() {
    let folder = tempfile::tempdir().unwrap();
    tones(folder.path(), 6, 2);
    let data = folder.path().display().to_string();
    let dry =
        // A run stands for its best checkpoint.
        xtask(&["train", "--init", &trained().run().display().to_string(), "--data", &data, "--dry-run", "--set", "data.batch_size=4"]);
    assert!(dry.succeeds().stdout.contains("training    24 clips"), "{dry:#?}");
    assert!(dry.stdout.contains("validation  8 clips, split valid"), "{dry:#?}");
}

#[test]
fn what_cannot_be_is_refused_by_name_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (table(folder.path()), folder.path().join("run"));
    let (model, run) = (trained().model(), out.display().to_string());
    let base = ["train", "--init", &model, "--data", &data, "--out", &run, "--set", "data.batch_size=8"];
    let refused = |more: &[&str], code, words: &[&str]| {
        xtask(&[&base[..], more].concat()).fails(code, words);
        assert!(!out.exists(), "{more:?} left a run");
    };
    refused(&["--freeze", "txet"], 2, &["optim.freeze", "txet", "text_model"]);
    refused(&["--set", "data.batch_size=0"], 2, &["data.batch_size"]);
    refused(&["--set", "data.batch_size=64"], 2, &["data.batch_size", "29"]);
    refused(&["--set", "data.holdout=0.99"], 2, &["data.holdout", "32"]);
    refused(&["--set", "model.text.num_attention_heads=3"], 2, &["model.text"]);
    refused(&["--set", "schedule.name=wsd", "--set", "schedule.warmup=1000"], 2, &["schedule.decay", "1000"]);
    refused(&["--set", "lora.parameters=[\"*.quary.weight\"]"], 2, &["lora.parameters", "quary"]);
    refused(&["--valid", "no/such/folder"], 3, &["data.valid", "no/such/folder"]);
    refused(&["--init", "no/such/model"], 2, &["--init"]);
    refused(&["--distributed", "mpi"], 2, &["--features mpi"]);
    refused(&["--distributed", "nccl"], 2, &["--features nccl"]);
}

/// The folder of the recipes for data that is not shipped.
fn recipes() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("datasets/recipes")
}

/// What the paper says of its runs (arXiv 2211.06687, sections 3.2 and 4; LAION's scripts for what it leaves open).
#[test]
fn the_papers_recipes_have_its_hyper_parameters() {
    let load = |name: &str| TrainConfig::load(&recipes().join(name)).unwrap();
    for (name, batch, fusion) in [
        ("audiocaps-clotho.toml", 768, false),
        ("laion-630k-fusion.toml", 2304, true),
        ("laion-630k-audioset.toml", 4608, true),
    ] {
        let config = load(name);
        config.validate().unwrap();
        assert_eq!(config.data.batch_size, batch, "{name}");
        assert_eq!(
            (config.optim.lr, config.optim.betas, config.optim.weight_decay),
            (1e-4, [0.9, 0.999], 0.0),
            "{name}"
        );
        assert_eq!((config.schedule.warmup, config.schedule.epochs), (3200, 45), "{name}");
        assert_eq!((config.model.projection_dim, config.data.max_tokens), (512, 77), "{name}");
        assert_eq!(config.model.audio.as_ref().unwrap().fusion().is_some(), fusion, "{name}");
        let features = config.features.as_ref().unwrap();
        assert_eq!(
            (features.frames(), features.feature_size, features.views()),
            (1001, 64, if fusion { 4 } else { 1 })
        );
    }
    let mut fine_tune = load("fine-tune.toml");
    assert!(fine_tune.validate().unwrap_err().to_string().contains("data.train"));
    fine_tune.set("data.train=my.csv").unwrap();
    fine_tune.set("model.init=laion/clap-htsat-unfused").unwrap();
    fine_tune.validate().unwrap();
}

/// AudioCaps and Clotho with two clips in each split that the recipe names.
fn audiocaps_and_clotho(root: &Path) {
    let (audiocaps, clotho) = (root.join("AudioCaps"), root.join("Clotho"));
    fs::create_dir_all(audiocaps.join("sounds")).unwrap();
    let mut table = String::from("audiocap_id,youtube_id,start_time,caption\n");
    for (id, start) in [("r1nicOVtvkQ", 130), ("s0nicOVtvkQ", 30)] {
        tone(&audiocaps.join(format!("sounds/{id}_{start}.wav")), 300.0, 1.0);
        table.push_str(&format!("91139,{id},{start},A woman talks as a pump hums\n"));
    }
    fs::write(audiocaps.join("train.csv"), &table).unwrap();
    fs::write(audiocaps.join("val.csv"), table).unwrap();
    for split in ["development", "validation"] {
        fs::create_dir_all(clotho.join(split)).unwrap();
        let mut table = String::from("file_name,caption_1,caption_2,caption_3,caption_4,caption_5\n");
        for (clip, hz) in [("one.wav", 400.0), ("two.wav", 900.0)] {
            tone(&clotho.join(split).join(clip), hz, 1.5);
            table.push_str(&format!("{clip},a tone,a hum,a beep,a sound,a note\n"));
        }
        fs::write(clotho.join(format!("clotho_captions_{split}.csv")), table).unwrap();
    }
}

/// The paper's first recipe with its data in their layouts, and towers small enough for a test.
#[test]
fn the_papers_recipe_opens_both_data_sets() {
    let root = tempfile::tempdir().unwrap();
    audiocaps_and_clotho(root.path());
    let config = recipes().join("audiocaps-clotho.toml").display().to_string();
    let path = |name: &str| root.path().join(name).display().to_string();
    let tokenizer = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("datasets/sounds-mini/tokenizer.json");
    let settings = [
        format!("data.train={}", path("AudioCaps")),
        format!("data.more=[{{ path = '{}', split = 'development' }}]", path("Clotho")),
        format!("data.valid={}", path("Clotho")),
        format!("eval.more=[{{ path = '{}', split = 'val' }}]", path("AudioCaps")),
        format!("data.tokenizer={}", tokenizer.display()),
        "data.batch_size=4".to_owned(),
        "model.init_text=".to_owned(),
        "model.init_audio=".to_owned(),
        "model.audio.depths=[1, 1]".to_owned(),
        "model.audio.num_attention_heads=[1, 2]".to_owned(),
        "model.audio.patch_embeds_hidden_size=8".to_owned(),
        "model.audio.hidden_size=16".to_owned(),
        "model.text={ hidden_size = 16, num_hidden_layers = 1, num_attention_heads = 2, intermediate_size = 32 }"
            .to_owned(),
    ];
    let mut args = vec!["train", "--dry-run", "--config", &config];
    args.extend(settings.iter().flat_map(|setting| ["--set", setting]));
    let dry: Ran = xtask(&args);
    for words in ["training    4 clips", "validation  2 clips, split validation", "(4, 1, 1001, 64)", "45 epochs"] {
        assert!(dry.succeeds().stdout.contains(words), "no {words:?} in {dry:#?}");
    }
    assert!(dry.stderr.contains("schedule.warmup is 3200 steps"), "{dry:#?}");
}
