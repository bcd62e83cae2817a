//! Retrieval metrics against LAION-CLAP's own (laion-clap 1.1.7, `training/train.py`: `get_metrics`,
//! `evaluate_clotho_audiocaps`), fixtures `retrieval_single` and `retrieval_5caption` of `make_fixtures.py`.

use candle_core::{Device, Tensor};
use clap_eval::{RetrievalMetrics, contrastive_loss, retrieval, unit_rows};
use clap_tests::Fixture;
use serde_json::{Map, Value};

fn numbers(value: &Value) -> &Map<String, Value> {
    value.as_object().unwrap()
}

/// Each number of the reference under its own name, but for `prefix`; the loss is an `f32` there.
fn assert_equal(theirs: &Map<String, Value>, prefix: &str, ours: &RetrievalMetrics, loss: f64, laion_map: bool) {
    let mut compared = 0;
    for (name, value) in theirs {
        let name = name.strip_prefix(prefix).unwrap_or(name);
        let theirs = value.as_f64().unwrap();
        let (ours, tolerance) = match name {
            "cumulative_loss" => (loss, 2e-6 * theirs),
            "audio_to_text_mAP@10" if laion_map => (ours.get("audio_to_text_mAP@10_laion").unwrap(), 1e-9),
            name => (ours.get(name).unwrap(), 1e-9),
        };
        assert!((ours - theirs).abs() <= tolerance, "{name}: ours {ours}, reference {theirs}");
        compared += 1;
    }
    assert!(compared >= 12, "only {compared} metrics");
}

#[test]
fn one_caption_per_clip() {
    let fixture = Fixture::load("retrieval_single");
    let audio = fixture.tensor("in/audio", &Device::Cpu);
    let text = fixture.tensor("in/text", &Device::Cpu);
    let owners: Vec<usize> = (0..audio.dim(0).unwrap()).collect();
    let ours = retrieval(&audio, &text, &owners).unwrap();
    let loss = contrastive_loss(&audio, &text, &owners, fixture.number("/logit_scale_a")).unwrap();
    assert_equal(numbers(&fixture.config()["metrics"]), "", &ours, loss, false);
    assert_eq!(ours.audio_to_text.map_at_10, ours.audio_to_text.map_at_10_laion);
}

/// With the MLP loss the reference averages the logits of both heads, `s_a·a·t_mlpᵀ` and `s_t·a_mlp·tᵀ`, which is one dot
/// product of concatenated rows; its loss is the mean of the heads' own.
#[test]
fn both_heads_of_the_mlp_loss() {
    let fixture = Fixture::load("retrieval_single");
    let [audio, text, audio_mlp, text_mlp] =
        ["audio", "text", "audio_mlp", "text_mlp"].map(|n| fixture.tensor(&format!("in/{n}"), &Device::Cpu));
    let (scale_a, scale_t) = (fixture.number("/logit_scale_a"), fixture.number("/logit_scale_t"));
    let owners: Vec<usize> = (0..audio.dim(0).unwrap()).collect();
    let loss_a = contrastive_loss(&audio, &text_mlp, &owners, scale_a).unwrap();
    let loss_t = contrastive_loss(&audio_mlp, &text, &owners, scale_t).unwrap();
    let scaled = |x: &Tensor, s: f64| (x * (s / 2.0)).unwrap();
    let audio = Tensor::cat(&[scaled(&audio, scale_a), scaled(&audio_mlp, scale_t)], 1).unwrap();
    let text = Tensor::cat(&[text_mlp, text], 1).unwrap();
    let ours = retrieval(&audio, &text, &owners).unwrap();
    let theirs = numbers(&fixture.config()["metrics_mlp"]);
    assert_equal(theirs, "", &ours, (loss_a + loss_t) / 2.0, false);
}

fn five_captions(fixture: &Fixture) -> (Tensor, Tensor, Vec<usize>) {
    let audio = fixture.tensor("in/audio", &Device::Cpu);
    let text = unit_rows("text", &fixture.tensor("in/text_unnormalised", &Device::Cpu)).unwrap();
    let per_clip = text.dim(0).unwrap() / audio.dim(0).unwrap();
    let owners = (0..text.dim(0).unwrap()).map(|j| j / per_clip).collect();
    (audio, text, owners)
}

#[test]
fn five_captions_per_clip() {
    let fixture = Fixture::load("retrieval_5caption");
    let (audio, text, owners) = five_captions(&fixture);
    let ours = retrieval(&audio, &text, &owners).unwrap();
    let loss = contrastive_loss(&audio, &text, &owners, fixture.number("/logit_scale_a")).unwrap();
    assert_equal(numbers(&fixture.config()["metrics"]), "Clotho-test/", &ours, loss, true);

    // The reference pairs unsorted ranks; the sorted value stands in the fixture beside its own.
    let sorted = fixture.number("/audio_to_text_mAP@10_sorted");
    assert!((ours.audio_to_text.map_at_10 - sorted).abs() < 1e-9, "{} {sorted}", ours.audio_to_text.map_at_10);
    assert!(ours.audio_to_text.map_at_10 < ours.audio_to_text.map_at_10_laion);

    let (ranks, _) = fixture.i64("out/caption_ranks");
    let mine: Vec<i64> = ours.audio_to_text_ranks.iter().flatten().map(|&r| r as i64).collect();
    assert_eq!(mine, ranks);
}

/// Captions in any order give the same metrics, as long as each names its clip; only the reference's own unsorted mAP@10 and
/// its slots of the loss depend on the order of one clip's captions, which is kept here.
#[test]
fn order_of_the_captions_does_not_matter() {
    let fixture = Fixture::load("retrieval_5caption");
    let (audio, text, owners) = five_captions(&fixture);
    let expected = retrieval(&audio, &text, &owners).unwrap();
    let n = owners.len();
    let clips = audio.dim(0).unwrap();
    // All first captions, then all second ones, …
    let order: Vec<usize> = (0..n).map(|j| (j % clips) * (n / clips) + j / clips).collect();
    let index = Tensor::from_vec(order.iter().map(|&j| j as u32).collect::<Vec<_>>(), n, &Device::Cpu).unwrap();
    let shuffled = text.index_select(&index, 0).unwrap();
    let shuffled_owners: Vec<usize> = order.iter().map(|&j| owners[j]).collect();
    let ours = retrieval(&audio, &shuffled, &shuffled_owners).unwrap();
    for (name, value) in expected.to_map() {
        let (expected, ours) = (value.as_f64().unwrap(), ours.get(&name).unwrap());
        assert!((ours - expected).abs() < 1e-12, "{name}: {ours} {expected}");
    }
    let losses = [(&text, &owners), (&shuffled, &shuffled_owners)]
        .map(|(text, owners)| contrastive_loss(&audio, text, owners, 7.0).unwrap());
    assert!((losses[0] - losses[1]).abs() < 1e-6, "{losses:?}");
}
