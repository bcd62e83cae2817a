//! Resampling against librosa's `soxr_hq`, fixture `resample` of `make_fixtures.py`: tones at 440 Hz, 0.31 and 0.47 of
//! the input rate and an impulse.
//!
//! The last tone and the impulse lie in the filters' transition bands, where two good resamplers may differ: agreement here
//! is agreement of the filters. soxr's number of taps depends on the ratio, which is what remains. Within a few samples of
//! the ends soxr's later stages meet their own ends, so these are held to a wider bound.

use clap_audio::Resampler;
use clap_tests::{Fixture, record};

#[test]
fn soxr_hq() {
    let fixture = Fixture::load("resample");
    let rates: Vec<u32> = fixture.keys().filter_map(|key| key.strip_prefix("in/")?.parse().ok()).collect();
    assert!(!rates.is_empty());
    for from in rates {
        let (input, _) = fixture.f32(&format!("in/{from}"));
        let ours = Resampler::new(from, 48_000).unwrap().resample(&input);
        // librosa rounds the length up.
        let exact = input.len() as f64 * 48_000.0 / f64::from(from);
        assert_eq!(ours.len(), exact.round() as usize);
        let (theirs, _) = fixture.f32(&format!("out/{from}/soxr_hq"));
        assert!(theirs.len() == exact.ceil() as usize);
        let errors: Vec<f64> = ours.iter().zip(&theirs).map(|(a, b)| f64::from(*a) - f64::from(*b)).collect();
        let max = |errors: &[f64]| errors.iter().fold(0f64, |max, error| max.max(error.abs()));
        let power = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>();
        let theirs: Vec<f64> = theirs[..ours.len()].iter().map(|&value| f64::from(value)).collect();
        let inner = 100..ours.len() - 100;
        let level = 10.0 * (power(&errors[inner.clone()]) / power(&theirs[inner.clone()])).log10();
        let (all, inner) = (max(&errors), max(&errors[inner]));
        let found = format!("{inner:.1e} ({all:.1e} with the ends, {level:.0} dB)");
        record("resample", &format!("{from} to 48000"), &found, errors.len(), "1e-3 (1e-2, -60 dB)");
        assert!(all < 1e-2 && inner < 1e-3 && level < -60.0, "{from}: {all} {inner} {level} dB");
    }
}
