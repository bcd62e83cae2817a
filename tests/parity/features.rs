//! Whole feature extraction against `get_audio_features` of laion-clap 1.1.7 and `ClapFeatureExtractor` of `transformers`
//! 4.57.6; fixtures `audio_features_laion` and `audio_features_hf` of `make_fixtures.py`, which record what the
//! references drew at random.
//!
//! LAION computes the log-mel of an unfused clip inside the model, so its fixture holds the waveform there (which must
//! agree bit for bit) and the views only of a fused one.

use clap_audio::length::fill;
use clap_audio::{
    FeatureConfig, FeatureExtractor, Features, LogMel, LongAudio, Placement, Preset, Scratch, Truncation, Waveform,
    int16_round_trip, to_int16,
};
use clap_tests::{Fixture, synth_f32};
use serde_json::Value;

use super::mel::check;

/// In dB.
const TOLERANCE: f64 = 1e-3;

fn cases(fixture: &Fixture) -> impl Iterator<Item = (&String, &Value)> {
    fixture.config()["cases"].as_object().unwrap().iter()
}

fn draws(case: &Value) -> Vec<usize> {
    case["rand"].as_array().unwrap().iter().map(|draw| draw.as_u64().unwrap() as usize).collect()
}

/// Where the reference took its views, by the length of the clip and what it drew.
fn placement(config: &FeatureConfig, samples: usize, draws: &[usize]) -> Placement {
    let total_frames = samples / config.hop_length + 1;
    match (config.truncation, draws) {
        _ if samples <= config.max_samples() => Placement::Window(0),
        (Truncation::RandTrunc, [start, ..]) => Placement::Crop(*start),
        (Truncation::Fusion, [front, middle, back, ..]) => Placement::Fusion([*front, *middle, *back]),
        (Truncation::Fusion, _) if total_frames == config.frames() => Placement::Fusion([0; 3]),
        _ => panic!("{draws:?} does not say where the views of {samples} samples are"),
    }
}

#[test]
fn laion() {
    let fixture = Fixture::load("audio_features_laion");
    let acfg = &fixture.config()["acfg"];
    for (name, case) in cases(&fixture) {
        let config: FeatureConfig = serde_json::from_value(serde_json::json!({
            "feature_size": acfg["mel_bins"],
            "sampling_rate": acfg["sample_rate"],
            "hop_length": acfg["hop_size"],
            "fft_window_size": acfg["window_size"],
            "frequency_min": acfg["fmin"],
            "frequency_max": acfg["fmax"],
            "max_length_s": fixture.number("/max_len") / fixture.number("/acfg/sample_rate"),
            "truncation": case["truncating"],
            "padding": case["filling"],
        }))
        .unwrap();
        let samples: Vec<f32> =
            fixture.i16(&format!("in/{name}/i16")).0.iter().map(|&v| f32::from(v) / 32_767.0).collect();
        let wave = Waveform { samples, sample_rate: config.sampling_rate };
        let draws = draws(case);
        let extractor = FeatureExtractor::new(config.clone(), Preset::Laion).unwrap();
        let features = extractor.extract_at(&wave, placement(&config, wave.samples.len(), &draws)).unwrap();
        let longer = fixture.u8(&format!("out/{name}/longer")).0[0] != 0;
        assert_eq!(features.is_longer, longer, "{name}: longer");

        // In every case the reference also crops the waveform; the crop is its last draw.
        let start = if wave.samples.len() > config.max_samples() { *draws.last().unwrap() } else { 0 };
        let waveform = fill(&wave.samples[start..], config.max_samples(), config.padding);
        assert_eq!(waveform, fixture.f32(&format!("out/{name}/waveform")).0, "{name}: waveform");
        if config.truncation == Truncation::RandTrunc {
            let mel = LogMel::new(&config.mel()).unwrap().compute(&waveform, &mut Scratch::default());
            check(&format!("{name}: view of the reference's waveform"), &features.data, &mel.data, TOLERANCE);
            continue;
        }
        let (theirs, shape) = fixture.f32(&format!("out/{name}/mel_fusion"));
        assert_eq!([features.views, features.frames, features.bins], shape[..], "{name}: shape");
        let view = shape[1] * shape[2];
        // The torchvision of the fixture's making antialiases, the one that LAION's models were trained with did not:
        // the global view is compared with a resize without.
        let global = format!("out/{name}/shrink_no_antialias");
        let global = if fixture.has(&global) { fixture.f32(&global).0 } else { theirs[..view].to_vec() };
        check(&format!("{name}: global view"), &features.data[..view], &global, TOLERANCE);
        check(&format!("{name}: three windows"), &features.data[view..], &theirs[view..], TOLERANCE);
    }
}

#[test]
fn laion_int16_round_trip() {
    let fixture = Fixture::load("audio_features_laion");
    let (mut samples, _) = fixture.f32("in/quantise");
    let integers: Vec<i16> = samples.iter().map(|&sample| to_int16(sample)).collect();
    assert_eq!(integers, fixture.i16("out/quantise_i16").0);
    int16_round_trip(&mut samples);
    assert_eq!(samples, fixture.f32("out/quantise_f32").0);
}

/// Compares with `out/NAME` in full, or at the points of `probe/NAME`.
fn check_stored(fixture: &Fixture, name: &str, ours: &[f32]) {
    let out = format!("out/{name}");
    if fixture.has(&out) {
        check(name, ours, &fixture.f32(&out).0, TOLERANCE);
        return;
    }
    let (theirs, _) = fixture.f32(&format!("probe/{name}"));
    let points: Vec<f32> =
        clap_tests::probe_indices(theirs.len(), ours.len()).into_iter().map(|index| ours[index]).collect();
    check(name, &points, &theirs, TOLERANCE);
}

#[test]
fn transformers() {
    let fixture = Fixture::load("audio_features_hf");
    for (name, case) in cases(&fixture) {
        let config: FeatureConfig = serde_json::from_value(serde_json::json!({
            "frequency_min": fixture.config()["frequency_min"],
            "frequency_max": fixture.config()["frequency_max"],
            "truncation": case["truncation"],
            "padding": case["padding"],
        }))
        .unwrap();
        let samples = synth_f32(case["n"].as_u64().unwrap() as usize, case["synth_seed"].as_u64().unwrap());
        let wave = Waveform { samples, sample_rate: config.sampling_rate };
        let extractor = FeatureExtractor::new(config.clone(), Preset::Hf).unwrap();
        let place = placement(&config, wave.samples.len(), &draws(case));
        let features = extractor.extract_at(&wave, place).unwrap();
        assert_eq!(case["is_longer"], serde_json::json!([features.is_longer]), "{name}: is_longer");
        let shape = serde_json::json!([1, features.views, features.frames, features.bins]);
        assert_eq!(case["shape"], shape, "{name}: shape");

        if fixture.has(&format!("out/{name}/shrink")) {
            let views: Vec<&[f32]> = features.data.chunks(features.frames * features.bins).collect();
            check_stored(&fixture, &format!("{name}/shrink"), views[0]);
            for (index, view) in views.iter().enumerate().skip(1) {
                check_stored(&fixture, &format!("{name}/chunk{index}"), view);
            }
        } else {
            check_stored(&fixture, name, &features.data);
        }
        if place == Placement::Window(0) {
            let again: Vec<Features> = extractor.extract(&wave, LongAudio::Head, None).unwrap();
            assert_eq!(again, [features], "{name}: the public way gives the same");
        }
    }
}
