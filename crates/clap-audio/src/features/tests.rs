//! Policies, flags and shapes; the numbers are held to the references by the workspace's parity tests.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::config::Padding;
use crate::mel::{MelBank, MelScale};

fn extractor(truncation: Truncation, preset: Preset) -> FeatureExtractor {
    let config = FeatureConfig {
        feature_size: 16,
        sampling_rate: 8_000,
        hop_length: 80,
        fft_window_size: 256,
        frequency_min: 50.0,
        frequency_max: 4_000.0,
        max_length_s: 0.5,
        truncation,
        ..FeatureConfig::default()
    };
    FeatureExtractor::new(config, preset).unwrap()
}

fn wave(len: usize) -> Waveform {
    let samples = (0..len).map(|n| (n as f32 * n as f32 * 1e-4).sin() * 0.5).collect();
    Waveform { samples, sample_rate: 8_000 }
}

#[test]
fn every_length_gives_the_configured_shape() {
    for truncation in [Truncation::Fusion, Truncation::RandTrunc] {
        let extractor = extractor(truncation, Preset::Laion);
        for len in [1, 2, 100, 3999, 4000, 4001, 4079, 4080, 4081, 9000] {
            for policy in [extractor.default_policy(), LongAudio::Head, LongAudio::Center] {
                for features in extractor.extract(&wave(len), policy, None).unwrap() {
                    assert_eq!((features.views, features.frames, features.bins), (extractor.views(), 51, 16));
                    assert_eq!(features.data.len(), features.views * 51 * 16);
                    assert!(features.data.iter().all(|v| v.is_finite() && *v >= -100.0), "len {len}");
                }
            }
        }
    }
}

#[test]
fn windows_cover_the_clip_and_equal_their_own_extraction() {
    let extractor = extractor(Truncation::RandTrunc, Preset::Hf);
    let clip = wave(9_100);
    let windows = extractor.extract(&clip, LongAudio::Windows { hop_s: Some(0.25) }, None).unwrap();
    let starts = [0, 2000, 4000, 5100];
    assert_eq!(windows.len(), starts.len());
    for (window, start) in windows.iter().zip(starts) {
        let part = Waveform { samples: clip.samples[start..start + 4000].to_vec(), sample_rate: 8_000 };
        assert_eq!(window.data, extractor.extract(&part, LongAudio::Head, None).unwrap()[0].data);
        assert!(!window.is_longer);
    }
}

#[test]
fn head_center_and_random_are_windows_of_the_clip() {
    let extractor = extractor(Truncation::RandTrunc, Preset::Hf);
    let clip = wave(9_001);
    let at = |start| extractor.extract_at(&clip, Placement::Crop(start)).unwrap();
    assert_eq!(extractor.extract(&clip, LongAudio::Head, None).unwrap(), [at(0)]);
    assert_eq!(extractor.extract(&clip, LongAudio::Center, None).unwrap(), [at(2500)]);
    let start = ChaCha8Rng::seed_from_u64(4).random_range(0..=5001);
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    assert_eq!(extractor.extract(&clip, LongAudio::Random, Some(&mut rng)).unwrap(), [at(start)]);
}

#[test]
fn fusion_is_deterministic_without_a_generator_and_seeded_with_one() {
    let extractor = extractor(Truncation::Fusion, Preset::Laion);
    let clip = wave(9_000);
    // 113 frames, 63 starts, parts of 21
    let middle = extractor.extract_at(&clip, Placement::Fusion([10, 31, 52])).unwrap();
    assert_eq!(extractor.extract(&clip, LongAudio::Fusion, None).unwrap(), [middle]);
    let draw = |seed| {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        extractor.extract(&clip, LongAudio::Fusion, Some(&mut rng)).unwrap()
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
}

#[test]
fn longer_by_less_than_a_hop_is_taken_whole() {
    let extractor = extractor(Truncation::Fusion, Preset::Laion);
    let features = &extractor.extract(&wave(4_079), LongAudio::Fusion, None).unwrap()[0];
    assert!(!features.is_longer);
    let views: Vec<_> = features.data.chunks(51 * 16).collect();
    assert!(views.iter().all(|view| *view == views[0]));
    assert!(extractor.extract(&wave(4_080), LongAudio::Fusion, None).unwrap()[0].is_longer);
}

fn check_flag(truncation: Truncation, preset: Preset, len: usize, policy: LongAudio, is_longer: bool, really: bool) {
    let features = &extractor(truncation, preset).extract(&wave(len), policy, None).unwrap()[0];
    assert_eq!(
        (features.is_longer, features.really_longer),
        (is_longer, really),
        "{truncation:?} {preset} {len} {policy}"
    );
}

#[test]
fn the_flag_follows_the_reference() {
    use {Preset::*, Truncation::*};
    check_flag(Fusion, Laion, 3_000, LongAudio::Fusion, false, false);
    check_flag(Fusion, Hf, 3_000, LongAudio::Fusion, true, false);
    check_flag(Fusion, Laion, 9_000, LongAudio::Fusion, true, true);
    check_flag(Fusion, Hf, 9_000, LongAudio::Fusion, true, true);
    check_flag(Fusion, Laion, 9_000, LongAudio::Head, false, false);
    check_flag(RandTrunc, Laion, 3_000, LongAudio::Head, false, false);
    check_flag(RandTrunc, Hf, 3_000, LongAudio::Head, false, false);
    check_flag(RandTrunc, Hf, 9_000, LongAudio::Head, true, true);
}

#[test]
fn a_batch_of_short_clips_has_one_flag_in_transformers_and_none_in_laion() {
    let flags = |preset, lens: &[usize]| {
        let extractor = extractor(Truncation::Fusion, preset);
        let mut batch: Vec<_> =
            lens.iter().flat_map(|&len| extractor.extract(&wave(len), LongAudio::Fusion, None).unwrap()).collect();
        extractor.flag_batch(&mut batch);
        batch.iter().map(|features| features.is_longer).collect::<Vec<_>>()
    };
    assert_eq!(flags(Preset::Hf, &[3_000, 3_000]), [true, false]);
    assert_eq!(flags(Preset::Hf, &[3_000, 9_000]), [false, true]);
    assert_eq!(flags(Preset::Laion, &[3_000, 3_000]), [false, false]);
    assert_eq!(flags(Preset::Laion, &[3_000, 9_000]), [false, true]);
}

#[test]
fn laion_hears_16_bits_and_hf_all_of_them() {
    let mut quiet = wave(4_000);
    quiet.samples.iter_mut().for_each(|sample| *sample *= 1.8 / 32767.0);
    let laion = extractor(Truncation::RandTrunc, Preset::Laion);
    assert!(laion.extract(&quiet, LongAudio::Head, None).unwrap()[0].data.iter().all(|&v| v == -100.0));
    let hf = extractor(Truncation::RandTrunc, Preset::Hf);
    assert!(hf.extract(&quiet, LongAudio::Head, None).unwrap()[0].data.iter().any(|&v| v > -95.0));
}

#[test]
fn the_bank_follows_the_truncation() {
    let slaney = extractor(Truncation::RandTrunc, Preset::Hf);
    let htk = extractor(Truncation::Fusion, Preset::Hf);
    assert_eq!(slaney.log_mel().config().scale, MelScale::Slaney);
    assert!(slaney.log_mel().config().slaney_norm);
    assert_eq!(htk.log_mel().config().scale, MelScale::Htk);
    assert_eq!(*htk.log_mel().bank(), MelBank::new(&htk.config().mel()).unwrap());
}

#[test]
fn what_cannot_be_done_is_refused_with_the_reason() {
    let unfused = extractor(Truncation::RandTrunc, Preset::Hf);
    let check = |wave: &Waveform, policy, text: &str| {
        let error = unfused.extract(wave, policy, None).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    };
    check(&wave(100), LongAudio::Fusion, "truncation \"fusion\"");
    check(&wave(9_000), LongAudio::Random, "needs a seed");
    check(&wave(9_000), LongAudio::Windows { hop_s: Some(0.0) }, "hop of 0 s");
    check(&wave(9_000), LongAudio::Windows { hop_s: Some(f64::NAN) }, "hop of NaN s");
    check(&Waveform { sample_rate: 48_000, ..wave(100) }, LongAudio::Head, "48000 Hz, the features need 8000 Hz");
    check(&wave(0), LongAudio::Head, "no samples");
    let mut broken = wave(100);
    broken.samples[7] = f32::NAN;
    check(&broken, LongAudio::Head, "sample 7 is NaN");
    broken.samples[7] = 1e30;
    check(&broken, LongAudio::Head, "sample 7 is");
    for placement in [Placement::Crop(1), Placement::Window(usize::MAX), Placement::Fusion([0; 3])] {
        assert!(matches!(unfused.extract_at(&wave(4_000), placement), Err(Error::Policy { .. })));
    }
    let fused = extractor(Truncation::Fusion, Preset::Hf);
    for starts in [[0, 0, 63], [usize::MAX, 0, 0]] {
        assert!(matches!(fused.extract_at(&wave(9_000), Placement::Fusion(starts)), Err(Error::Policy { .. })));
    }
}

#[test]
fn fusion_of_a_clip_is_bounded_by_its_spectrogram() {
    let mut config = extractor(Truncation::Fusion, Preset::Hf).config().clone();
    (config.hop_length, config.feature_size, config.max_length_s) = (1, 256, 0.01);
    let extractor = FeatureExtractor::new(config, Preset::Hf).unwrap();
    // 2^20 + 1 frames of 2^8 bins
    let clip = Waveform { samples: vec![0.1; 1 << 20], sample_rate: 8_000 };
    for error in [
        extractor.extract(&clip, LongAudio::Fusion, None).unwrap_err(),
        extractor.extract_at(&clip, Placement::Fusion([0; 3])).unwrap_err(),
    ] {
        assert!(error.to_string().contains("268435712 values"), "{error}");
    }
    assert!(extractor.extract(&clip, LongAudio::Head, None).is_ok());
}

#[test]
fn padding_is_the_configured_one() {
    let mut config = extractor(Truncation::RandTrunc, Preset::Hf).config().clone();
    config.padding = Padding::Pad;
    let extractor = FeatureExtractor::new(config, Preset::Hf).unwrap();
    let features = &extractor.extract(&wave(1000), LongAudio::Head, None).unwrap()[0];
    // 1000 samples reach no further than frame (1000 + 128) / 80
    assert!(features.data[15 * 16..].iter().all(|&v| v == -100.0));
    assert!(features.data[..12 * 16].iter().any(|&v| v > -60.0));
}

#[test]
fn presets_have_names() {
    for preset in [Preset::Hf, Preset::Laion] {
        assert_eq!(preset.to_string().parse::<Preset>().unwrap(), preset);
        assert_eq!(serde_json::to_value(preset).unwrap(), preset.to_string());
    }
    assert!("openclip".parse::<Preset>().unwrap_err().to_string().contains("openclip"));
}
