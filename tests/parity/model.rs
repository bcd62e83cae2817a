//! The whole model against `transformers.ClapModel` and `laion_clap`: embeddings and logits of the same weights.
//!
//! Fixture `htsat_small_hf` (`transformers` 4.57.6, `laion-clap` 1.1.7; `make_fixtures.py`, `htsat_small_hf`).

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use clap_encoders::checkpoint::{Checkpoint, laion};
use clap_encoders::{AudioConfig, ClapConfig, ClapModel, HtsAtConfig, TextConfig};
use clap_nn::Mode;
use clap_tests::{Fixture, check_cosine, check_probe, recipe_weights};
use serde_json::{Value, json};

/// Bound on the error of every probed point, relative to the greatest magnitude of its tensor.
pub(crate) const POINT: f64 = 1e-4;

/// Least cosine of an embedding with the reference's.
pub(crate) const COSINE: f64 = 0.999_999;

/// The configuration of a small case of the fixtures (`clapref.laion_small_clap`), whichever of its parts it gives.
pub(crate) fn small_config(config: &Value) -> ClapConfig {
    let mut text = json!({"layer_norm_eps": config.get("ln_eps").cloned().unwrap_or(json!(1e-5))});
    if let Some(cfg) = config.get("text_cfg") {
        text["vocab_size"] = cfg["vocab_size"].clone();
        text["hidden_size"] = cfg["width"].clone();
        text["num_hidden_layers"] = cfg["layers"].clone();
        text["num_attention_heads"] = cfg["heads"].clone();
        text["intermediate_size"] = config["intermediate"].clone();
        text["max_position_embeddings"] = config["max_pos"].clone();
        text["context_length"] = cfg["context_length"].clone();
        match cfg["model_type"].as_str() {
            Some("bert") => {
                text["model_type"] = json!("bert");
                text["layer_norm_eps"] = json!(1e-12);
                text["type_vocab_size"] = json!(2);
                text["pad_token_id"] = json!(0);
            }
            Some("transformer") => {
                text["model_type"] = json!("clip_text_model");
                // LAION's transformer is four times as wide inside and numbers as many positions as its context has.
                text["intermediate_size"] = json!(4 * cfg["width"].as_u64().unwrap());
                text["max_position_embeddings"] = cfg["context_length"].clone();
                text["pad_token_id"] = json!(0);
            }
            Some("bart") => text["model_type"] = json!("bart"),
            _ => {}
        }
        text["hidden_dropout_prob"] = json!(0.0);
        text["attention_probs_dropout_prob"] = json!(0.0);
    }
    let mut audio = json!({});
    if let Some(cfg) = config.get("audio_cfg") {
        let depths: Vec<u64> = serde_json::from_value(config["depths"].clone()).unwrap();
        let width = config["embed_dim"].as_u64().unwrap();
        audio = json!({
            "window_size": config["window"], "num_mel_bins": cfg["mel_bins"], "spec_size": config["spec"],
            "patch_size": config["patch"], "patch_stride": config["patch_stride"], "num_classes": cfg["class_num"],
            "depths": depths, "num_attention_heads": config["heads"], "mlp_ratio": config["mlp_ratio"],
            "patch_embeds_hidden_size": width, "hidden_size": width << (depths.len() - 1),
            "enable_fusion": config["fusion"], "fusion_type": config["fusion_type"],
        });
    }
    let config = json!({"text_config": text, "audio_config": audio, "projection_dim": config["joint"]});
    let config: ClapConfig = serde_json::from_value(config).unwrap();
    config.validate().unwrap();
    config
}

/// Every weight of a model under LAION's names: the recipe's, or those of `stored` where it has them.
pub(crate) fn laion_weights(
    config: &ClapConfig,
    seed: u64,
    stored: impl IntoIterator<Item = (String, Tensor)>,
) -> HashMap<String, Tensor> {
    let (vars, vb) = clap_nn::init::seeded_vars(0, &Device::Cpu, DType::F32);
    ClapModel::new(config, vb).unwrap();
    let names = laion::to_laion(&vars.to_tensors()).unwrap();
    let shapes: Vec<(&str, Vec<usize>)> = names.iter().map(|(k, v)| (k.as_str(), v.dims().to_vec())).collect();
    let mut weights: HashMap<String, Tensor> = recipe_weights(shapes, seed).into_iter().collect();
    weights.extend(stored);
    weights
}

/// The model of a case, read as a LAION checkpoint.
pub(crate) fn model(config: &ClapConfig, weights: HashMap<String, Tensor>) -> ClapModel {
    let checkpoint = Checkpoint::from_tensors(weights).unwrap();
    checkpoint.build(DType::F32, &Device::Cpu, |vb| ClapModel::new(config, vb)).unwrap()
}

/// A text tower to go along with an audio tower under test, and the other way round.
pub(crate) fn companion_text() -> TextConfig {
    TextConfig {
        vocab_size: 20,
        hidden_size: 8,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        intermediate_size: 8,
        max_position_embeddings: 12,
        ..TextConfig::default()
    }
}

/// See [`companion_text`].
pub(crate) fn companion_audio() -> AudioConfig {
    HtsAtConfig {
        spec_size: 16,
        num_mel_bins: 8,
        window_size: 2,
        depths: vec![1],
        num_attention_heads: vec![2],
        patch_embeds_hidden_size: 8,
        hidden_size: 8,
        ..HtsAtConfig::default()
    }
    .into()
}

fn hf(tag: &str) {
    let fixture = Fixture::load("htsat_small_hf");
    let config = small_config(&fixture.config()[tag]["cfg"]);
    let model = model(&config, laion_weights(&config, fixture.seed(), []));
    let input = |key: &str| fixture.tensor(&format!("in/{key}"), &Device::Cpu);
    let is_longer: Vec<bool> = fixture.u8(&format!("in/{tag}/is_longer")).0.into_iter().map(|flag| flag != 0).collect();

    let audio = model.get_audio_features(&input(&format!("{tag}/input_features")), &is_longer).unwrap();
    let text = model.get_text_features(&input("input_ids"), &input("attention_mask")).unwrap();
    for (name, ours) in
        [("hf_audio_embeds", &audio), ("laion_audio", &audio), ("hf_text_embeds", &text), ("laion_text", &text)]
    {
        check_probe(&fixture, &format!("{tag}/{name}"), ours, POINT);
        check_cosine(&fixture, &format!("{tag}/{name}"), ours, COSINE);
    }
    let per_audio = model.logits_per_audio(&audio, &text).unwrap();
    check_probe(&fixture, &format!("{tag}/hf_logits_per_audio"), &per_audio, POINT);
    let per_text = model.logits_per_text(&audio, &text).unwrap();
    check_probe(&fixture, &format!("{tag}/hf_logits_per_text"), &per_text, POINT);
}

#[test]
fn unfused_model_equals_transformers_and_laion() {
    hf("unfused");
}

#[test]
fn fused_model_equals_transformers_and_laion() {
    hf("fused");
}

#[test]
fn hugging_faces_keys_are_ours() {
    let fixture = Fixture::load("htsat_small_hf");
    for tag in ["unfused", "fused"] {
        let config = small_config(&fixture.config()[tag]["cfg"]);
        let (vars, vb) = clap_nn::init::seeded_vars(0, &Device::Cpu, DType::F32);
        ClapModel::new(&config, vb).unwrap();
        let buffer = |key: &str| {
            ["position_ids", "token_type_ids", "relative_position_index", "num_batches_tracked"]
                .iter()
                .any(|ending| key.ends_with(ending))
        };
        let keys: Vec<String> = serde_json::from_value(fixture.config()[tag]["keys"].clone()).unwrap();
        let mut theirs: Vec<String> = keys.into_iter().filter(|key| !buffer(key)).collect();
        theirs.sort();
        let ours: Vec<String> = vars.iter().map(|(name, _)| name).collect();
        assert_eq!(ours, theirs, "{tag}");
    }
}

#[test]
fn an_audio_embedding_does_not_depend_on_the_batch() {
    let fixture = Fixture::load("htsat_small_hf");
    let config = small_config(&fixture.config()["fused"]["cfg"]);
    let model = model(&config, laion_weights(&config, fixture.seed(), []));
    let xs = fixture.tensor("in/fused/input_features", &Device::Cpu);
    let both = model.get_audio_features(&xs, &[true, false]).unwrap();
    for (row, longer) in [(0, true), (1, false)] {
        let mut mode = Mode::eval();
        let alone = model.audio_embeds_t(&xs.narrow(0, row, 1).unwrap(), &[longer], &mut mode).unwrap();
        let difference = (both.narrow(0, row, 1).unwrap() - alone).unwrap().abs().unwrap().max_all().unwrap();
        assert!(difference.to_scalar::<f32>().unwrap() < 2e-6, "row {row}: {difference}");
    }
}
