//! Sound files in memory to mono samples: `cargo bench -p clap-audio --bench decode`.
//!
//! 10 s of stereo as 16-bit WAV, and a recording of the embedded corpus (Ogg Vorbis).

use std::hint::black_box;
use std::io::Cursor;
use std::path::Path;

use clap_audio::{Channels, decode_bytes};
use criterion::{Criterion, Throughput};

fn wav() -> Vec<u8> {
    let spec = hound::WavSpec {
        channels: 2,
        sample_rate: 44_100,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut bytes = Vec::new();
    let mut writer = hound::WavWriter::new(Cursor::new(&mut bytes), spec).expect("a valid header");
    for n in 0..2 * 441_000 {
        writer.write_sample(((f64::from(n) * 0.01).sin() * 8_000.0) as i16).expect("memory takes it");
    }
    writer.finalize().expect("memory takes it");
    bytes
}

/// The first sound of a shard: a tar archive's header is 512 bytes, the size in octal at 124.
fn ogg() -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets/sounds-mini/valid/0.tar");
    let shard = std::fs::read(path).expect("the embedded corpus");
    let size = std::str::from_utf8(&shard[124..135]).ok().and_then(|size| usize::from_str_radix(size, 8).ok());
    shard[512..512 + size.expect("an octal number")].to_vec()
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("decode");
    for (name, bytes) in [("clip.wav", wav()), ("clip.ogg", ogg())] {
        let wave = decode_bytes(name, &bytes, Channels::Mean).expect("a good file");
        group.throughput(Throughput::Elements(wave.samples.len() as u64));
        group.bench_function(format!("{name}, {:.2} s", wave.seconds()), |bencher| {
            bencher.iter(|| decode_bytes(name, black_box(&bytes), Channels::Mean));
        });
    }
    group.finish();
    criterion.final_summary();
}
