//! PANNs against `laion_clap`'s `Cnn14`, `Cnn10` and `Cnn6`: every block, the embedding and its projection.
//!
//! Fixtures `pann*` (`laion-clap` 1.1.7; `make_fixtures.py`, `full_audio`).

use std::collections::BTreeMap;

use candle_core::Tensor;
use clap_encoders::{ClapConfig, ClapModel, FusionType, PannConfig, Taps};
use clap_nn::Mode;
use clap_tests::{Fixture, check_cosine, check_probe, fused_mel};

use super::htsat::log_mel;
use super::model::{COSINE, POINT, companion_text, laion_weights, model};

/// The tower and model of a case.
fn case(name: &str) -> (Fixture, ClapModel) {
    let fixture = Fixture::load(name);
    let (cfg, amodel) = (&fixture.config()["model_cfg"], fixture.config()["amodel"].as_str().unwrap());
    let sizes = match amodel {
        "PANN-6" => PannConfig::cnn6(),
        "PANN-10" => PannConfig::cnn10(),
        "PANN-14" => PannConfig::cnn14(),
        other => panic!("{name}: {other} is no PANN"),
    };
    let fused = cfg["enable_fusion"].as_bool().unwrap();
    let fusion: Option<FusionType> = fused.then(|| serde_json::from_value(cfg["fusion_type"].clone()).unwrap());
    let weights = fixture.weights();
    let config = ClapConfig {
        audio_config: PannConfig {
            num_mel_bins: cfg["audio_cfg"]["mel_bins"].as_u64().unwrap() as usize,
            num_classes: cfg["audio_cfg"]["class_num"].as_u64().unwrap() as usize,
            enable_tagging: true,
            enable_fusion: fused,
            fusion_type: fusion,
            ..sizes
        }
        .into(),
        text_config: companion_text(),
        projection_dim: weights["audio_projection.0.weight"].dims()[0],
        mlp_loss: fixture.has("out/audio_transform"),
        ..ClapConfig::default()
    };
    let weights = laion_weights(&config, fixture.seed(), weights);
    (fixture, model(&config, weights))
}

/// Compares every block with the reference's, then the embedding, its projection and what comes after.
fn compare(fixture: &Fixture, model: &ClapModel, xs: &Tensor, is_longer: &[bool]) {
    let mut seen = BTreeMap::new();
    let mut observe = |name: &str, xs: &Tensor| {
        let channels_first = match name {
            "bn0" => xs.permute((0, 3, 2, 1)).unwrap(), // (B, mel, frames, views)
            _ if name.starts_with("conv_block") => xs.permute((0, 3, 1, 2)).unwrap(),
            _ => xs.clone(),
        };
        seen.insert(name.to_owned(), channels_first);
    };
    let embeds = model.audio_embeds_with(xs, is_longer, &mut Mode::eval(), &mut Taps::new(&mut observe)).unwrap();
    let transform = model.audio_transform().unwrap().forward_t(&embeds, &mut Mode::eval()).unwrap();
    seen.insert("audio_transform".to_owned(), transform);
    seen.insert("normalized".to_owned(), embeds);
    let mut blocks = 0;
    for (name, ours) in &seen {
        blocks += usize::from(name.starts_with("conv_block"));
        check_probe(fixture, name, ours, POINT);
    }
    assert!(blocks >= 4, "{blocks} blocks");
    let tags = model.audio_model().tag(xs, is_longer, &mut Mode::eval()).unwrap();
    check_probe(fixture, "embedding", &tags.embedding, POINT);
    check_probe(fixture, "fine_grained_embedding", &tags.fine_grained_embedding, POINT);
    check_probe(fixture, "clipwise_output", &tags.clipwise_output.unwrap(), POINT);
    for point in ["embedding", "projection", "normalized"] {
        check_cosine(fixture, point, &seen[point], COSINE);
    }
}

fn unfused(name: &str) {
    let (fixture, model) = case(name);
    let input = fixture.config()["input"].as_str().unwrap();
    // `synth_f32(96000, seed 1 and 2)`
    let samples = input.split(['(', ',']).nth(1).unwrap().parse().unwrap();
    let xs = log_mel(&fixture.config()["model_cfg"]["audio_cfg"], samples);
    compare(&fixture, &model, &xs, &[]);
}

fn fused(name: &str) {
    let (fixture, model) = case(name);
    compare(&fixture, &model, &fused_mel(2, 1001, 64), &[true, false]);
}

#[test]
fn pann14() {
    unfused("pann14");
}

#[test]
fn pann10() {
    unfused("pann10");
}

#[test]
fn pann6() {
    unfused("pann6");
}

#[test]
fn pann14_fused_aff_2d() {
    fused("pann14_fused_aff_2d");
}

#[test]
fn pann14_fused_aff_1d() {
    fused("pann14_fused_aff_1d");
}

#[test]
fn an_audio_embedding_does_not_depend_on_the_batch() {
    for name in ["pann14_fused_aff_2d", "pann14_fused_aff_1d"] {
        let (_, model) = case(name);
        let xs = fused_mel(2, 1001, 64);
        let both = model.get_audio_features(&xs, &[true, false]).unwrap();
        for (row, longer) in [(0, true), (1, false)] {
            let alone = model.get_audio_features(&xs.narrow(0, row, 1).unwrap(), &[longer]).unwrap();
            let gap = (both.narrow(0, row, 1).unwrap() - alone).unwrap().abs().unwrap().max_all().unwrap();
            assert!(gap.to_scalar::<f32>().unwrap() < 2e-6, "{name}, row {row}: {gap}");
        }
    }
}
