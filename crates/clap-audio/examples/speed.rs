//! How long the steps of the front end take on one thread: `cargo run --release -p clap-audio --example speed [FILE…]`.
//!
//! Each figure is the median of 21 runs, in milliseconds. Files, if given, are decoded and resampled to 48 kHz.
#![expect(clippy::print_stdout, reason = "its purpose")]

use std::hint::black_box;
use std::time::Instant;

use clap_audio::{Channels, FeatureConfig, FeatureExtractor, LongAudio, Preset, Resampler, Truncation, Waveform};

fn median_ms(mut work: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..21)
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[10]
}

/// Ten seconds of a sweep.
fn sweep(sample_rate: u32) -> Waveform {
    let step = 0.15 / f64::from(sample_rate);
    let samples = (0..10 * sample_rate).map(|n| (f64::from(n) * f64::from(n) * step).sin() as f32 * 0.3).collect();
    Waveform { samples, sample_rate }
}

fn main() -> clap_audio::Result<()> {
    for (truncation, preset) in [(Truncation::RandTrunc, Preset::Hf), (Truncation::Fusion, Preset::Laion)] {
        let extractor = FeatureExtractor::new(FeatureConfig::published(truncation), preset)?;
        let wave = sweep(48_000);
        let ms = median_ms(|| {
            black_box(extractor.extract(&wave, LongAudio::Head, None).is_ok());
        });
        println!("features of 10 s at 48 kHz, {truncation:?}, {preset}: {ms:.2} ms");
    }
    for from in [8_000, 16_000, 22_050, 32_000, 44_100, 96_000] {
        let (wave, resampler) = (sweep(from), Resampler::new(from, 48_000)?);
        let ms = median_ms(|| {
            black_box(resampler.resample(&wave.samples));
        });
        println!("resampling 10 s from {from} Hz to 48 kHz: {ms:.2} ms");
    }
    for file in std::env::args().skip(1) {
        let wave = clap_audio::load(file.as_ref(), 48_000, Channels::Mean)?;
        let ms = median_ms(|| {
            black_box(clap_audio::load(file.as_ref(), 48_000, Channels::Mean).is_ok());
        });
        println!("{file}: {:.2} s in {ms:.2} ms", wave.seconds());
    }
    Ok(())
}
