//! HTS-AT against `laion_clap`'s `HTSAT_Swin_Transformer`: every hooked intermediate, the embedding and its projection.
//!
//! Fixtures `htsat_small_*`, `htsat_full_tiny_unfused` (`laion-clap` 1.1.7; `make_fixtures.py`, `run_small`, `full_audio`).

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{Device, Tensor};
use clap_audio::{LogMel, MelConfig, MelScale, Scratch};
use clap_encoders::checkpoint::Checkpoint;
use clap_encoders::{AudioConfig, ClapConfig, ClapModel, HtsAtConfig, Taps};
use clap_nn::Mode;
use clap_tests::{Fixture, check_cosine, check_probe, fused_mel, synth_f32};

use super::model::{COSINE, POINT, companion_text, laion_weights, model, small_config};

/// Points of the fixtures that are not compared here: the front end (tested as such), and the runs with other flags.
const ELSEWHERE: [&str; 5] =
    ["power_spec", "logmel", "in_mel_fusion", "none_longer/projection", "one_longer/projection"];

/// Every intermediate of an evaluation pass by its tap's name, in the reference's layout.
fn intermediates(model: &ClapModel, config: &AudioConfig, xs: &Tensor, is_longer: &[bool]) -> BTreeMap<String, Tensor> {
    let AudioConfig::HtsAt(config) = config else { panic!("the fixture's tower is an HTS-AT") };
    let mut seen = BTreeMap::new();
    let mut observe = |name: &str, xs: &Tensor| {
        seen.insert(name.to_owned(), xs.clone());
    };
    let embeds = model.audio_embeds_with(xs, is_longer, &mut Mode::eval(), &mut Taps::new(&mut observe)).unwrap();
    if let Some(transform) = model.audio_transform() {
        seen.insert("audio_transform".to_owned(), transform.forward_t(&embeds, &mut Mode::eval()).unwrap());
    }
    seen.insert("normalized".to_owned(), embeds);
    if config.enable_tagging {
        let tags = model.audio_model().tag(xs, is_longer, &mut Mode::eval()).unwrap();
        assert_eq!(tags.embedding.to_vec2::<f32>().unwrap(), seen["embedding"].to_vec2::<f32>().unwrap());
        seen.insert("fine_grained_embedding".to_owned(), tags.fine_grained_embedding);
        seen.insert("framewise_output".to_owned(), tags.framewise_output.unwrap());
        seen.insert("clipwise_output".to_owned(), tags.clipwise_output.unwrap());
    }
    for (name, xs) in &mut seen {
        *xs = as_the_reference(name, xs, config);
    }
    seen
}

/// The reference has channels first, and attention outputs in shifted windows.
fn as_the_reference(name: &str, xs: &Tensor, config: &HtsAtConfig) -> Tensor {
    match name {
        "bn0" => xs.permute((0, 3, 2, 1)).unwrap(),        // (B, mel, frames, views)
        "patch_proj" => xs.permute((0, 3, 1, 2)).unwrap(), // (B, width, grid, grid)
        _ => match name.strip_suffix(".attn") {
            None => xs.clone(),
            Some(block) => {
                let (stage, block) = block[1..].split_once('b').unwrap();
                let (stage, block): (usize, usize) = (stage.parse().unwrap(), block.parse().unwrap());
                let (side, window) = (config.stage_side(stage), config.stage_window(stage));
                let shifted = block % 2 == 1 && side > config.window_size;
                windows(xs, side, window, if shifted { window as i32 / 2 } else { 0 })
            }
        },
    }
}

/// `(B, side², C)` → `(B · windows, window², C)` after a cyclic shift.
fn windows(xs: &Tensor, side: usize, window: usize, shift: i32) -> Tensor {
    let (b, _, c) = xs.dims3().unwrap();
    let n = side / window;
    let xs = xs.reshape((b, side, side, c)).unwrap().roll(-shift, 1).unwrap().roll(-shift, 2).unwrap();
    let xs = xs.reshape((b, n, window, n, window, c)).unwrap().permute((0, 1, 3, 2, 4, 5)).unwrap();
    xs.reshape((b * n * n, window * window, c)).unwrap()
}

/// Compares every point that the fixture has with ours; all of them must be ours but [`ELSEWHERE`].
fn compare(fixture: &Fixture, mut seen: BTreeMap<String, Tensor>) {
    // The small unfused case keeps one channel of these.
    if fixture.has("out/bn0") {
        let bn0 = seen.get_mut("bn0").unwrap();
        *bn0 = bn0.squeeze(3).unwrap();
    }
    if fixture.has("out/image") {
        let image = seen.get_mut("image").unwrap();
        *image = image.squeeze(1).unwrap();
    }
    let points: BTreeSet<&str> = fixture
        .keys()
        .filter_map(|key| key.strip_prefix("out/").or_else(|| key.strip_prefix("probe/")))
        .filter(|point| !ELSEWHERE.contains(point))
        .collect();
    assert!(points.len() >= 9, "the fixture has hardly any points: {points:?}");
    for point in points {
        let ours = seen.get(point).unwrap_or_else(|| panic!("{}: no tap `{point}`", fixture.name()));
        check_probe(fixture, point, ours, POINT);
    }
    for point in ["embedding", "projection", "normalized"] {
        check_cosine(fixture, point, &seen[point], COSINE);
    }
}

/// Builds the tagging head where the fixture has its outputs.
fn enable_tagging(audio: &mut AudioConfig, fixture: &Fixture) {
    let AudioConfig::HtsAt(audio) = audio else { panic!("the fixture's tower is an HTS-AT") };
    audio.enable_tagging = fixture.has("out/clipwise_output");
}

fn small(name: &str) -> (Fixture, ClapConfig, ClapModel) {
    let fixture = Fixture::load(name);
    let mut config = small_config(fixture.config());
    enable_tagging(&mut config.audio_config, &fixture);
    config.mlp_loss = fixture.has("out/audio_transform");
    let stored: Vec<(String, Tensor)> =
        if fixture.keys().any(|key| key.starts_with("w/")) { fixture.weights().into_iter().collect() } else { vec![] };
    let model = model(&config, laion_weights(&config, fixture.seed(), stored));
    (fixture, config, model)
}

#[test]
fn small_unfused() {
    let (fixture, config, model) = small("htsat_small_unfused");
    let xs = fixture.tensor("out/logmel", &Device::Cpu).unsqueeze(1).unwrap(); // (B, 1, frames, mel)
    compare(&fixture, intermediates(&model, &config.audio_config, &xs, &[]));
}

/// A small fused case: the flags of the fixture, then no clip longer, then one.
fn small_fused(name: &str) {
    small_fused_with(name, &[("none_longer", [false; 3]), ("one_longer", [false, true, false])]);
}

/// As [`small_fused`], but the reference fails where no clip is longer: its first convolution is given four channels.
fn small_fused_1d(name: &str) {
    small_fused_with(name, &[("one_longer", [false, true, false])]);
}

fn small_fused_with(name: &str, runs: &[(&str, [bool; 3])]) {
    let (fixture, config, model) = small(name);
    let longer: Vec<u8> = serde_json::from_value(fixture.config()["longer"].clone()).unwrap();
    let longer: Vec<bool> = longer.into_iter().map(|flag| flag != 0).collect();
    let frames = fixture.number("/frames") as usize;
    let xs = fused_mel(longer.len(), frames, config.audio_config.num_mel_bins());
    compare(&fixture, intermediates(&model, &config.audio_config, &xs, &longer));
    for (run, longer) in runs {
        let seen = intermediates(&model, &config.audio_config, &xs, longer);
        check_probe(&fixture, &format!("{run}/projection"), &seen["projection"], POINT);
    }
}

#[test]
fn small_fused_aff_2d() {
    small_fused("htsat_small_fused_aff_2d");
}

#[test]
fn small_fused_iaff_2d() {
    small_fused("htsat_small_fused_iaff_2d");
}

#[test]
fn small_fused_daf_2d() {
    small_fused("htsat_small_fused_daf_2d");
}

#[test]
fn small_fused_channel_map() {
    small_fused("htsat_small_fused_channel_map");
}

#[test]
fn small_fused_aff_1d() {
    small_fused_1d("htsat_small_fused_aff_1d");
}

#[test]
fn small_fused_iaff_1d() {
    small_fused_1d("htsat_small_fused_iaff_1d");
}

#[test]
fn small_fused_daf_1d() {
    small_fused_1d("htsat_small_fused_daf_1d");
}

/// A full-size tower: its sizes from its shapes, its weights from the recipe.
fn full(name: &str) -> (Fixture, ClapConfig, ClapModel) {
    let fixture = Fixture::load(name);
    let weights = fixture.weights();
    let shapes = Checkpoint::from_tensors(weights.clone().into_iter().collect()).unwrap();
    let mut config = ClapConfig {
        audio_config: shapes.detect_audio_config().unwrap(),
        text_config: companion_text(),
        projection_dim: shapes.shape("audio_projection.linear1.weight").unwrap()[0],
        mlp_loss: fixture.has("out/audio_transform"),
        ..ClapConfig::default()
    };
    enable_tagging(&mut config.audio_config, &fixture);
    let model = model(&config, laion_weights(&config, fixture.seed(), weights));
    (fixture, config, model)
}

/// Log-mel of `samples` samples of the waveform recipe's clips 1 and 2, `(2, 1, frames, mel)`.
pub(crate) fn log_mel(cfg: &serde_json::Value, samples: usize) -> Tensor {
    let number = |key: &str| cfg[key].as_f64().unwrap();
    let mel = MelConfig {
        sample_rate: number("sample_rate") as u32,
        n_fft: number("window_size") as usize,
        hop_length: number("hop_size") as usize,
        n_mels: number("mel_bins") as usize,
        f_min: number("fmin"),
        f_max: number("fmax"),
        scale: MelScale::Slaney,
        slaney_norm: true,
    };
    let (mel, mut scratch) = (LogMel::new(&mel).unwrap(), Scratch::default());
    let clip = |seed| mel.compute(&synth_f32(samples, seed), &mut scratch);
    let clips: Vec<_> = [1, 2].map(clip).into();
    let (frames, bins) = (clips[0].frames, clips[0].bins);
    let data: Vec<f32> = clips.into_iter().flat_map(|clip| clip.data).collect();
    Tensor::from_vec(data, (2, 1, frames, bins), &Device::Cpu).unwrap()
}

fn full_unfused(name: &str) {
    let (fixture, config, model) = full(name);
    let cfg = &fixture.config()["model_cfg"]["audio_cfg"];
    let xs = log_mel(cfg, cfg["clip_samples"].as_u64().unwrap() as usize);
    compare(&fixture, intermediates(&model, &config.audio_config, &xs, &[]));
}

#[test]
fn full_tiny_unfused() {
    full_unfused("htsat_full_tiny_unfused");
}

#[test]
fn full_tiny_fused() {
    let (fixture, config, model) = full("htsat_full_tiny_fused");
    let xs = fused_mel(2, 1001, config.audio_config.num_mel_bins());
    compare(&fixture, intermediates(&model, &config.audio_config, &xs, &[true, false]));
}

#[test]
fn full_base_unfused() {
    full_unfused("htsat_full_base_unfused");
}
