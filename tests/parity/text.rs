//! The text tower against `laion_clap`'s RoBERTa: every hooked intermediate, the pooled output and its projection.
//!
//! Fixtures `text_small_roberta`, `text_full_roberta` (`laion-clap` 1.1.7, `transformers` 4.57.6; `make_fixtures.py`,
//! `text_run`).

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{Device, Tensor};
use clap_encoders::checkpoint::Checkpoint;
use clap_encoders::{ClapConfig, ClapModel, Taps};
use clap_nn::Mode;
use clap_tests::{Fixture, check_cosine, check_probe};

use super::model::{COSINE, POINT, companion_audio, laion_weights, model, small_config};

fn compare(fixture: &Fixture, model: &ClapModel) {
    let input = |key: &str| fixture.tensor(&format!("in/{key}"), &Device::Cpu);
    let mut seen = BTreeMap::new();
    let mut observe = |name: &str, xs: &Tensor| {
        seen.insert(name.to_owned(), xs.clone());
    };
    let (ids, mask) = (input("input_ids"), input("attention_mask"));
    let embeds = model.text_embeds_with(&ids, &mask, &mut Mode::eval(), &mut Taps::new(&mut observe)).unwrap();
    seen.insert("normalized".to_owned(), embeds);
    let points: BTreeSet<&str> = fixture
        .keys()
        .filter_map(|key| key.strip_prefix("out/").or_else(|| key.strip_prefix("probe/")))
        .filter(|&point| point != "text_transform") // LAION's second loss head
        .collect();
    assert!(points.len() >= 5, "the fixture has hardly any points: {points:?}");
    for point in points {
        let ours = seen.get(point).unwrap_or_else(|| panic!("{}: no tap `{point}`", fixture.name()));
        check_probe(fixture, point, ours, POINT);
    }
    for point in ["pooler", "projection", "normalized"] {
        check_cosine(fixture, point, &seen[point], COSINE);
    }
}

#[test]
fn small_roberta() {
    let fixture = Fixture::load("text_small_roberta");
    let config = ClapConfig { audio_config: companion_audio(), ..small_config(fixture.config()) };
    compare(&fixture, &model(&config, laion_weights(&config, fixture.seed(), fixture.weights())));
}

#[test]
fn full_roberta() {
    let fixture = Fixture::load("text_full_roberta");
    let weights = fixture.weights();
    let shapes = Checkpoint::from_tensors(weights.clone().into_iter().collect()).unwrap();
    let config = ClapConfig {
        text_config: shapes.detect_text_config().unwrap(),
        audio_config: companion_audio(),
        projection_dim: shapes.shape("text_projection.linear1.weight").unwrap()[0],
        ..ClapConfig::default()
    };
    compare(&fixture, &model(&config, laion_weights(&config, fixture.seed(), weights)));
}
