//! One tower from a file of its own: AudioSet's programs, PANNs', `transformers`' and sentence-transformers' text models.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use candle_core::{DType, Tensor};
use clap_nn::Vars;
use clap_nn::init::{normal, seeded_vars};
use serde_json::json;

use super::bare::laions;
use super::{CPU, Tiny, laion, tiny};
use crate::checkpoint::{Format, Tower};
use crate::{
    AudioConfig, AudioTowerFile, ClapModel, FusionType, Opened, PannConfig, TextModelType, TextTowerFile, open,
};

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(shape, DType::F32, &CPU).unwrap()
}

fn fresh(tiny: &Tiny) -> Vars {
    let (vars, vb) = seeded_vars(77, &CPU, DType::F32);
    ClapModel::new(&tiny.config, vb).unwrap();
    vars
}

fn values(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

/// How many variables below `prefix` have the values of `tensors`.
fn taken(vars: &Vars, tensors: &HashMap<String, Tensor>, prefix: &str) -> usize {
    let is_taken = |(name, var): &(String, candle_core::Var)| {
        name.starts_with(prefix) && tensors.get(name).is_some_and(|t| values(t) == values(var.as_tensor()))
    };
    vars.iter().filter(is_taken).count()
}

/// The audio tower of a model as HTS-AT's program saves it.
fn sed_model(tiny: &Tiny) -> Vec<(String, Tensor)> {
    let laion = laion::to_laion(&tiny.tensors).unwrap().into_iter();
    let mut tensors: Vec<(String, Tensor)> =
        laion.filter_map(|(key, t)| Some((format!("sed_model.{}", key.strip_prefix("audio_branch.")?), t))).collect();
    for (key, shape) in [
        ("tscam_conv.weight", &[527, 16, 8, 3][..]),
        ("tscam_conv.bias", &[527]),
        ("head.weight", &[527, 527]),
        ("spectrogram_extractor.stft.conv_real.weight", &[513, 1, 1024]),
        ("layers.0.blocks.1.attn_mask", &[64, 64, 64]),
    ] {
        tensors.push((format!("sed_model.{key}"), zeros(shape)));
    }
    tensors
}

#[test]
fn an_audio_tower_comes_from_audio_sets_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("HTSAT_AudioSet_Saved_1.ckpt");
    let unfused = laions(None);
    safetensors::serialize_to_file(sed_model(&unfused), None, &path).unwrap();
    let Opened::Audio(tower) = open(&path).unwrap() else { panic!("an audio tower") };
    let AudioConfig::HtsAt(mut expected) = unfused.config.audio_config.clone() else { panic!("an HTS-AT") };
    // Not the contrastive program's.
    expected.drop_path_rate = 0.0;
    assert_eq!((&tower.config, tower.checkpoint.format()), (&expected.into(), Format::AudioSet));

    // The parts that join views are no part of it, and begin anew.
    let fused = laions(Some(FusionType::Aff2d));
    let vars = fresh(&fused);
    let before = vars.to_tensors().into_iter().map(|(name, t)| (name, t.copy().unwrap())).collect::<HashMap<_, _>>();
    let report = tower.fill(&vars).unwrap();
    let prefix = "audio_model.audio_encoder.";
    let own = unfused.tensors.keys().filter(|key| key.starts_with(prefix)).count();
    assert_eq!((report.taken, taken(&vars, &unfused.tensors, prefix)), (own, own));
    assert!(report.fresh.iter().all(|key| key.contains("fusion_model") || key.contains("mel_conv2d")), "{report:?}");
    assert_eq!(report.fresh.len() + own, vars.iter().filter(|(name, _)| name.starts_with(prefix)).count());
    assert_eq!(report.left_out.len(), 4, "{report:?}");
    let others: HashMap<_, _> = before.into_iter().filter(|(name, _)| !name.starts_with(prefix)).collect();
    assert_eq!(taken(&vars, &others, ""), others.len(), "the rest is as it was");
    let told = report.to_string();
    for words in [
        "HTSAT_AudioSet_Saved_1.ckpt",
        "new: patch_embed.fusion_model (",
        "patch_embed.mel_conv2d (2)",
        "left out: head (1), spectrogram_extractor (1), tscam_conv (2)",
    ] {
        assert!(told.contains(words), "{words} in {told}");
    }
}

#[test]
fn a_tower_that_is_not_whole_is_refused_by_its_keys() {
    let unfused = laions(None);
    let mut tensors: HashMap<String, Tensor> = sed_model(&unfused).into_iter().collect();
    tensors.remove("sed_model.norm.bias");
    tensors.insert("sed_model.layers.1.blocks.0.mlp.fc1.bias".to_owned(), zeros(&[3]));
    // A part of fusion, where all of it must be there or nothing.
    tensors.insert("sed_model.patch_embed.mel_conv2d.bias".to_owned(), zeros(&[8]));
    let checkpoint = super::checkpoint(&tensors);
    let fused = laions(Some(FusionType::Daf2d));
    let vars = fresh(&fused);
    let before = values(vars.get("audio_model.audio_encoder.batch_norm.weight").unwrap().as_tensor());
    let message = checkpoint.fill_tower(&vars, Tower::Audio).unwrap_err().to_string();
    for key in ["norm.bias", "layers.1.blocks.0.intermediate.dense.bias", "patch_embed.mel_conv2d.weight"] {
        assert!(message.contains(&format!("audio_model.audio_encoder.{key}")), "{key} in {message}");
    }
    assert_eq!(values(vars.get("audio_model.audio_encoder.batch_norm.weight").unwrap().as_tensor()), before);
}

#[test]
fn an_audio_tower_comes_from_a_whole_model_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let tiny = tiny(None);
    let folder = dir.path().join("model");
    tiny.save(&folder).unwrap();
    let vars = fresh(&tiny);
    let report = AudioTowerFile::open(&folder).unwrap().fill(&vars).unwrap();
    assert!(report.fresh.is_empty() && report.to_string().contains("text_model ("), "{report}");
    let report = TextTowerFile::open(&folder).unwrap().fill(&vars).unwrap();
    assert!(report.fresh.is_empty() && report.to_string().contains("audio_model ("), "{report}");
    let towers = taken(&vars, &tiny.tensors, "audio_model.") + taken(&vars, &tiny.tensors, "text_model.");
    assert_eq!(towers, tiny.tensors.keys().filter(|key| key.contains("_model.")).count());
}

/// Weights of a PANN under the names of its program, of small widths.
fn pann(config: &PannConfig) -> Vec<(String, Tensor)> {
    let mut tensors = Vec::new();
    let mut add = |key: String, shape: &[usize]| tensors.push((key, zeros(shape)));
    for leaf in ["weight", "bias", "running_mean", "running_var"] {
        add(format!("bn0.{leaf}"), &[config.num_mel_bins]);
    }
    let mut channels = if config.fusion() == Some(FusionType::ChannelMap) { 4 } else { 1 };
    for (block, &width) in (1..).zip(&config.block_widths) {
        for j in 1..=config.convolutions_per_block {
            let k = config.kernel_size;
            add(format!("conv_block{block}.conv{j}.weight"), &[width, channels, k, k]);
            add(format!("conv_block{block}.bn{j}.weight"), &[width]);
            channels = width;
        }
    }
    add("fc1.weight".to_owned(), &[config.hidden_size, channels]);
    add("fc1.bias".to_owned(), &[config.hidden_size]);
    add("fc_audioset.weight".to_owned(), &[config.num_classes, config.hidden_size]);
    if let Some(fusion) = config.fusion() {
        let (conv, width) = match fusion.is_1d() {
            true => ("mel_conv1d", config.num_mel_bins),
            false => ("mel_conv2d", config.block_widths[0]),
        };
        if fusion != FusionType::ChannelMap {
            add(format!("{conv}.0.weight"), &[width, 1, 5, 5]);
        }
        if fusion.is_attentional() {
            add("fusion_model.local_att.0.weight".to_owned(), &[width / config.aff_block_r, width, 1, 1]);
        }
        if matches!(fusion, FusionType::Iaff1d | FusionType::Iaff2d) {
            add("fusion_model.local_att2.0.weight".to_owned(), &[width / config.aff_block_r, width, 1, 1]);
        }
    }
    tensors
}

#[test]
fn panns_are_told_by_their_shapes() {
    use FusionType::{Aff1d, Aff2d, ChannelMap, Daf1d, Daf2d, Iaff1d, Iaff2d};
    let kinds = [Aff1d, Aff2d, Iaff1d, Iaff2d, Daf1d, Daf2d, ChannelMap];
    let small = |mut config: PannConfig| {
        config.block_widths.iter_mut().for_each(|width| *width /= 8);
        config.hidden_size /= 8;
        config
    };
    for config in [PannConfig::cnn6(), PannConfig::cnn10(), PannConfig::cnn14()] {
        for fusion_type in kinds.into_iter().map(Some).chain([None]) {
            let config = PannConfig { enable_fusion: fusion_type.is_some(), fusion_type, ..small(config.clone()) };
            for prefix in ["", "sed_model.", "module.audio_branch."] {
                let tensors = pann(&config).into_iter().map(|(key, t)| (format!("{prefix}{key}"), t)).collect();
                let found = super::checkpoint(&tensors).detect_audio_config();
                assert_eq!(found, Some(config.clone().into()), "{prefix}");
            }
        }
    }
}

#[test]
fn a_pann_fills_the_variables_of_one() {
    let config = PannConfig { block_widths: vec![4, 6], hidden_size: 6, num_mel_bins: 8, ..PannConfig::cnn6() };
    let tensors: HashMap<String, Tensor> = pann(&config).into_iter().collect();
    let (vars, vb) = seeded_vars(3, &CPU, DType::F32);
    let vb = vb.pp("audio_model").pp("audio_encoder");
    for (key, tensor) in &tensors {
        let key = key.replacen("bn0.", "batch_norm.", 1);
        if !key.starts_with("fc_audioset") {
            vb.get_with_hints(tensor.dims(), &key, normal(1.0)).unwrap();
        }
    }
    // A fused model's, which begin anew.
    vb.get_with_hints((4, 1, 5, 5), "mel_conv2d.0.weight", normal(1.0)).unwrap();
    let report = super::checkpoint(&tensors).fill_tower(&vars, Tower::Audio).unwrap();
    assert_eq!(report.taken, tensors.len() - 1);
    assert_eq!(report.fresh, ["audio_model.audio_encoder.mel_conv2d.0.weight"]);
    assert_eq!(report.left_out, ["audio_model.audio_encoder.fc_audioset.weight"]);
    let sum: f32 =
        values(vars.get("audio_model.audio_encoder.conv_block2.conv1.weight").unwrap().as_tensor()).iter().sum();
    assert_eq!(sum, 0.0);
}

/// A text model's folder: the tower of `tiny` below `prefix`, and its configuration.
fn text_folder(folder: &Path, tiny: &Tiny, prefix: &str, edit: impl Fn(&str) -> Option<String>) {
    fs::create_dir_all(folder).unwrap();
    let tower = tiny.tensors.iter().filter_map(|(key, t)| Some((key.strip_prefix("text_model.")?, t.clone())));
    let mut tensors: Vec<(String, Tensor)> =
        tower.filter_map(|(key, t)| Some((format!("{prefix}{}", edit(key)?), t))).collect();
    tensors.push(("cls.predictions.bias".to_owned(), zeros(&[7])));
    safetensors::serialize_to_file(tensors, None, &folder.join("model.safetensors")).unwrap();
    let mut config = serde_json::to_value(&tiny.config.text_config).unwrap();
    config["model_type"] = match tiny.config.text_config.model_type {
        TextModelType::Bert => "bert",
        _ => "roberta",
    }
    .into();
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
}

#[test]
fn a_text_tower_comes_from_transformers_folder() {
    for prefix in ["", "roberta."] {
        let dir = tempfile::tempdir().unwrap();
        let tiny = tiny(None);
        // Names of 2019, and no pooler, as masked language models are saved.
        let old = |key: &str| {
            let key = key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta");
            (!key.starts_with("pooler.")).then_some(key)
        };
        text_folder(dir.path(), &tiny, prefix, old);
        tiny.tokenizer.save(&dir.path().join("tokenizer.json")).unwrap();
        let Opened::Text(tower) = open(dir.path()).unwrap() else { panic!("a text tower") };
        assert_eq!((&tower.config, tower.checkpoint.format()), (&tiny.config.text_config, Format::Text));
        assert_eq!(tower.tokenizer(None).unwrap().vocab_size(), tiny.tokenizer.vocab_size());
        let vars = fresh(&tiny);
        let report = tower.fill(&vars).unwrap();
        assert_eq!(report.fresh, ["text_model.pooler.dense.bias", "text_model.pooler.dense.weight"]);
        assert!(matches!(&report.left_out[..], [key] if key.ends_with("cls.predictions.bias")), "{report:?}");
        // The pooler's bias is zero, new or not.
        let mut stored = tiny.tensors.clone();
        stored.retain(|key, _| !key.contains("pooler"));
        assert_eq!(taken(&vars, &stored, "text_model."), report.taken);
        assert!(report.to_string().contains("not in it, so new: pooler (2); left out: cls (1)"), "{report}");
        let message = AudioTowerFile::open(dir.path()).unwrap_err().to_string();
        assert!(message.contains("no audio tower"), "{message}");
    }
}

#[test]
fn a_text_tower_comes_from_sentence_transformers_folder() {
    for inner in ["", "0_Transformer"] {
        let dir = tempfile::tempdir().unwrap();
        let mut tiny = tiny(None);
        tiny.config.text_config.model_type = TextModelType::Bert;
        text_folder(&dir.path().join(inner), &tiny, "", |key| Some(key.to_owned()));
        let modules = json!([
            {"idx": 0, "name": "0", "path": inner, "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        ]);
        fs::write(dir.path().join("modules.json"), modules.to_string()).unwrap();
        tiny.tokenizer.save(&dir.path().join("tokenizer.json")).unwrap();
        let tower = TextTowerFile::open(dir.path()).unwrap();
        assert_eq!(tower.config, tiny.config.text_config);
        assert_eq!(tower.tokenizer(None).unwrap().vocab_size(), tiny.tokenizer.vocab_size());
        let vars = fresh(&tiny);
        assert!(tower.fill(&vars).unwrap().fresh.is_empty());

        for path in ["../elsewhere", ".."] {
            let modules = json!([{"path": path, "type": "sentence_transformers.models.Transformer"}]);
            fs::write(dir.path().join("modules.json"), modules.to_string()).unwrap();
            assert!(TextTowerFile::open(dir.path()).unwrap_err().to_string().contains("modules.json"));
        }
    }
}
