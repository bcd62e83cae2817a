//! The text towers against `laion_clap`'s: every hooked intermediate, the pooled output and its projection.
//!
//! Fixtures `text_small_*` and `text_full_*` (`laion-clap` 1.1.7, `transformers` 4.57.6; `make_fixtures.py`, `text_run`).

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{DType, Device, Tensor};
use clap_encoders::checkpoint::Checkpoint;
use clap_encoders::{ClapConfig, ClapModel, Taps, TextModelType};
use clap_nn::Mode;
use clap_tests::{Fixture, check_cosine, check_probe};

use super::model::{COSINE, POINT, companion_audio, laion_weights, model, small_config};

/// Ids and mask of a fixture. CLIP's has no mask, for what follows a text's end does not matter to it.
pub(super) fn tokens(fixture: &Fixture) -> (Tensor, Tensor) {
    let input = |key: &str| fixture.tensor(&format!("in/{key}"), &Device::Cpu).to_dtype(DType::U32).unwrap();
    if fixture.keys().any(|key| key == "in/input_ids") {
        return (input("input_ids"), input("attention_mask"));
    }
    let ids = input("ids");
    let mask = ids.ones_like().unwrap();
    (ids, mask)
}

fn compare(fixture: &Fixture, model: &ClapModel) {
    let mut seen = BTreeMap::new();
    let mut observe = |name: &str, xs: &Tensor| {
        // LAION's transformer works on (T, B, C).
        if let Ok(turned) = xs.transpose(0, 1) {
            seen.insert(format!("{name}_LND"), turned.contiguous().unwrap());
        }
        seen.insert(name.to_owned(), xs.clone());
    };
    let (ids, mask) = tokens(fixture);
    let embeds = model.text_embeds_with(&ids, &mask, &mut Mode::eval(), &mut Taps::new(&mut observe)).unwrap();
    let transform = model.text_transform().unwrap();
    seen.insert("text_transform".to_owned(), transform.forward_t(&embeds, &mut Mode::eval()).unwrap());
    seen.insert("normalized".to_owned(), embeds);
    let points: BTreeSet<&str> =
        fixture.keys().filter_map(|key| key.strip_prefix("out/").or_else(|| key.strip_prefix("probe/"))).collect();
    assert!(points.len() >= 4, "the fixture has hardly any points: {points:?}");
    for point in &points {
        let ours = seen.get(*point).unwrap_or_else(|| panic!("{}: no tap `{point}`", fixture.name()));
        check_probe(fixture, point, ours, POINT);
    }
    for point in ["pooler", "projection", "normalized"].iter().filter(|point| points.contains(*point)) {
        check_cosine(fixture, point, &seen[*point], COSINE);
    }
}

fn small(tower: &str, model_type: TextModelType) {
    let fixture = Fixture::load(&format!("text_small_{tower}"));
    let config = ClapConfig { audio_config: companion_audio(), mlp_loss: true, ..small_config(fixture.config()) };
    assert_eq!(config.text_config.model_type, model_type);
    compare(&fixture, &model(&config, laion_weights(&config, fixture.seed(), fixture.weights())));
}

/// The configuration is found by the shapes of the weights.
fn full(tower: &str, model_type: TextModelType) {
    let fixture = Fixture::load(&format!("text_full_{tower}"));
    let weights = fixture.weights();
    let shapes = Checkpoint::from_tensors(weights.clone().into_iter().collect()).unwrap();
    let config = ClapConfig {
        text_config: shapes.detect_text_config().unwrap(),
        audio_config: companion_audio(),
        projection_dim: shapes.shape("text_projection.linear1.weight").unwrap()[0],
        mlp_loss: true,
        ..ClapConfig::default()
    };
    assert_eq!(config.text_config.model_type, model_type);
    compare(&fixture, &model(&config, laion_weights(&config, fixture.seed(), weights)));
}

#[test]
fn small_roberta() {
    small("roberta", TextModelType::Roberta);
}

#[test]
fn small_bert() {
    small("bert", TextModelType::Bert);
}

#[test]
fn small_clip() {
    small("transformer", TextModelType::Clip);
}

#[test]
fn small_bart() {
    small("bart", TextModelType::Bart);
}

#[test]
fn full_roberta() {
    full("roberta", TextModelType::Roberta);
}

#[test]
fn full_bert() {
    full("bert", TextModelType::Bert);
}

#[test]
fn full_clip() {
    full("transformer", TextModelType::Clip);
}

#[test]
fn full_bart() {
    full("bart", TextModelType::Bart);
}
