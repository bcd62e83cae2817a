//! The log-mel spectrogram of 10 s at 48 kHz, and the bare transforms under it: `cargo bench -p clap-audio --bench log_mel`.

use std::hint::black_box;

use clap_audio::{FeatureConfig, LogMel, Scratch, Truncation};
use criterion::{Criterion, Throughput};
use realfft::RealFftPlanner;
use rustfft::FftPlanner;
use rustfft::num_complex::Complex;

/// Of 10 s, with a hop of 480 samples.
const FRAMES: u64 = 1001;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let samples: Vec<f32> = (0..480_000).map(|n| (n as f32 * 0.05).sin() * 0.3).collect();
    let mut group = criterion.benchmark_group("log_mel");
    group.throughput(Throughput::Elements(FRAMES));
    for (name, truncation) in [("slaney", Truncation::RandTrunc), ("htk", Truncation::Fusion)] {
        let log_mel =
            LogMel::new(&FeatureConfig::published(truncation).mel()).expect("the published settings are valid");
        let mut scratch = Scratch::default();
        group.bench_function(name, |bencher| bencher.iter(|| log_mel.compute(black_box(&samples), &mut scratch)));
    }
    group.finish();

    let mut group = criterion.benchmark_group("transform");
    group.throughput(Throughput::Elements(FRAMES));
    group.bench_function("1001 of rustfft, 512", |bencher| {
        let fft = FftPlanner::<f32>::new().plan_fft_forward(512);
        let mut frame = vec![Complex::default(); 512];
        let mut scratch = vec![Complex::default(); fft.get_inplace_scratch_len()];
        bencher.iter(|| (0..FRAMES).for_each(|_| fft.process_with_scratch(black_box(&mut frame), &mut scratch)));
    });
    group.bench_function("1001 of realfft, 1024", |bencher| {
        let fft = RealFftPlanner::<f32>::new().plan_fft_forward(1024);
        let (mut frame, mut spectrum) = (fft.make_input_vec(), fft.make_output_vec());
        let mut scratch = fft.make_scratch_vec();
        bencher.iter(|| {
            for _ in 0..FRAMES {
                fft.process_with_scratch(black_box(&mut frame), &mut spectrum, &mut scratch).expect("its own buffers");
            }
        });
    });
    group.finish();
    criterion.final_summary();
}
