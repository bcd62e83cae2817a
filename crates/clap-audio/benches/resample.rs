//! Resampling 10 s between common rates: `cargo bench -p clap-audio --bench resample`.

use std::hint::black_box;

use clap_audio::Resampler;
use criterion::{Criterion, Throughput};

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("resample");
    for (from, to) in [
        (8_000, 48_000),
        (16_000, 48_000),
        (22_050, 48_000),
        (32_000, 48_000),
        (44_100, 48_000),
        (96_000, 48_000),
        (48_000, 44_100),
        (48_000, 16_000),
    ] {
        let samples: Vec<f32> = (0..10 * from).map(|n| (n as f32 * 0.05).sin() * 0.3).collect();
        let resampler = Resampler::new(from, to).expect("usual rates");
        group.throughput(Throughput::Elements(10 * u64::from(to)));
        group.bench_function(format!("{from} to {to}"), |bencher| {
            bencher.iter(|| resampler.resample(black_box(&samples)));
        });
    }
    group.finish();
    let mut group = criterion.benchmark_group("design");
    group.bench_function("44100 to 48000", |bencher| bencher.iter(|| Resampler::new(44_100, 48_000)));
    group.finish();
    criterion.final_summary();
}
