//! The features of a clip, from samples at 48 kHz on: `cargo bench -p clap-audio --bench features`.

use std::hint::black_box;

use clap_audio::{FeatureConfig, FeatureExtractor, LongAudio, Preset, Truncation, Waveform};
use criterion::{Criterion, Throughput};

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("features");
    group.throughput(Throughput::Elements(1));
    for (truncation, policy) in [(Truncation::RandTrunc, LongAudio::Head), (Truncation::Fusion, LongAudio::Fusion)] {
        for preset in [Preset::Hf, Preset::Laion] {
            let extractor =
                FeatureExtractor::new(FeatureConfig::published(truncation), preset).expect("the published settings");
            for seconds in [1, 10, 30] {
                let samples = (0..seconds * 48_000).map(|n| (n as f32 * 0.05).sin() * 0.3).collect();
                let wave = Waveform { samples, sample_rate: 48_000 };
                group.bench_function(format!("{truncation:?}, {preset}, {seconds} s"), |bencher| {
                    bencher.iter(|| extractor.extract(black_box(&wave), policy, None));
                });
            }
        }
    }
    group.finish();
    criterion.final_summary();
}
