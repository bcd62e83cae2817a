//! Log-mel spectrograms and filter banks against torchlibrosa 0.1.0 (LAION's unfused models), torchaudio (the fused ones)
//! and `transformers` 4.57.6; fixtures `mel_torchlibrosa` and `mel_torchaudio_hf` of `make_fixtures.py`.
//!
//! The bound is 1e-3 dB in every bin. The references are single precision themselves: they differ from a run in double
//! precision by up to 1e-4 dB, and from each other by up to 3e-4 dB.

use clap_audio::{LogMel, MelBank, MelConfig, MelScale, Scratch};
use clap_tests::{Fixture, record};

/// In dB.
const TOLERANCE: f64 = 1e-3;

fn i16_to_f32(values: &[i16]) -> Vec<f32> {
    values.iter().map(|&v| f32::from(v) / 32_767.0).collect()
}

/// The greatest difference, which must stay below `tolerance`; NaN counts as infinite.
pub(super) fn check(what: &str, ours: &[f32], theirs: &[f32], tolerance: f64) -> f64 {
    assert_eq!(ours.len(), theirs.len(), "{what}: number of values");
    let mut worst = (0.0, 0);
    for (index, (a, b)) in ours.iter().zip(theirs).enumerate() {
        let error = (f64::from(*a) - f64::from(*b)).abs();
        let error = if error.is_nan() { f64::INFINITY } else { error };
        if error > worst.0 {
            worst = (error, index);
        }
    }
    let (error, index) = worst;
    record("sound", what, &format!("{error:.1e}"), ours.len(), &format!("{tolerance:.0e} absolute"));
    assert!(error <= tolerance, "{what}: {error} at value {index} ({} is not {})", ours[index], theirs[index]);
    error
}

/// `numbers` names the keys of sample rate, n_fft, hop, mels, f_min and f_max in the fixture's configuration.
fn mel_config(fixture: &Fixture, numbers: [&str; 6], scale: MelScale) -> MelConfig {
    let [sample_rate, n_fft, hop, mels, f_min, f_max] = numbers.map(|key| fixture.number(key));
    MelConfig {
        sample_rate: sample_rate as u32,
        n_fft: n_fft as usize,
        hop_length: hop as usize,
        n_mels: mels as usize,
        f_min,
        f_max,
        scale,
        slaney_norm: scale == MelScale::Slaney,
    }
}

#[test]
fn torchlibrosa() {
    let fixture = Fixture::load("mel_torchlibrosa");
    let keys = ["/sr", "/n_fft", "/hop", "/mels", "/fmin", "/fmax"];
    let log_mel = LogMel::new(&mel_config(&fixture, keys, MelScale::Slaney)).unwrap();
    // Areas make these weights small, 0.02 at most: absolute bounds are relative to that.
    let (bank, _) = fixture.f32("out/melW");
    check("Slaney bank, librosa", &log_mel.bank().dense(), &bank, 1e-8);

    let (samples, shape) = fixture.i16("in/i16");
    let (theirs, theirs_shape) = fixture.f32("out/logmel");
    let (truth, _) = fixture.f32("out64/logmel_rfft");
    let row = theirs_shape[1] * theirs_shape[2];
    let mut scratch = Scratch::default();
    for (index, samples) in samples.chunks(shape[1]).enumerate() {
        let mel = log_mel.compute(&i16_to_f32(samples), &mut scratch);
        assert_eq!([mel.frames, mel.bins], theirs_shape[1..]);
        let rows = index * row..(index + 1) * row;
        check(&format!("log-mel, torchlibrosa, clip {index}"), &mel.data, &theirs[rows.clone()], TOLERANCE);
        check(&format!("log-mel, f64 run, clip {index}"), &mel.data, &truth[rows], TOLERANCE);
        if samples.iter().all(|&sample| sample == 0) {
            assert!(mel.data.iter().all(|&value| value == -100.0), "silence is exactly -100 dB");
        }
    }
}

#[test]
fn torchaudio_and_transformers() {
    let fixture = Fixture::load("mel_torchaudio_hf");
    let keys = ["sample_rate", "window_size", "hop_size", "mel_bins", "fmin", "fmax"].map(|key| format!("/acfg/{key}"));
    let keys = keys.each_ref().map(String::as_str);
    let config = |scale| mel_config(&fixture, keys, scale);
    let samples = i16_to_f32(&fixture.i16("in/i16").0);
    let mut scratch = Scratch::default();
    for (scale, outputs) in
        [(MelScale::Htk, &["laion_get_mel", "hf_mel_htk"][..]), (MelScale::Slaney, &["hf_mel_slaney"])]
    {
        let mel = LogMel::new(&config(scale)).unwrap().compute(&samples, &mut scratch);
        for output in outputs {
            let (theirs, shape) = fixture.f32(&format!("out/{output}"));
            assert_eq!([mel.frames, mel.bins], shape[..]);
            check(&format!("log-mel, {output}"), &mel.data, &theirs, TOLERANCE);
        }
    }
}

#[test]
fn banks_of_torchaudio_and_transformers() {
    let fixture = Fixture::load("mel_torchaudio_hf");
    let keys = ["sample_rate", "window_size", "hop_size", "mel_bins", "fmin", "fmax"].map(|key| format!("/acfg/{key}"));
    let keys = keys.each_ref().map(String::as_str);
    let bank = |scale, f_min| {
        let config = MelConfig { f_min, ..mel_config(&fixture, keys, scale) };
        MelBank::new(&config).unwrap().dense()
    };
    let htk = bank(MelScale::Htk, fixture.number("/acfg/fmin"));
    // torchaudio computes its bank in f32: 2e-5 of a triangle's height.
    check("HTK bank, torchaudio", &htk, &fixture.f32("out/torchaudio_fb").0, 5e-5);
    for key in fixture.keys() {
        let Some((kind, f_min)) = key.strip_prefix("out/hf_mel_filters_").and_then(|key| key.split_once("_fmin"))
        else {
            continue;
        };
        let f_min = f_min.parse().unwrap();
        let (scale, tolerance) = match kind {
            "htk" => (MelScale::Htk, 1e-6),
            "slaney" => (MelScale::Slaney, 1e-8),
            other => panic!("unknown bank {other}"),
        };
        check(
            &format!("{kind} bank, transformers, f_min {f_min}"),
            &bank(scale, f_min),
            &fixture.f32(key).0,
            tolerance,
        );
    }
}
