//! The hot loops allocate nothing: as many allocations for 100 seconds of sound as for one, those of the result.
#![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use clap_audio::{FeatureConfig, FeatureExtractor, LongAudio, Preset, Resampler, Scratch, Truncation, Waveform};

/// The system's allocator, counting per thread.
struct Counting;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often `work` allocates on this thread.
fn allocations<T>(work: impl FnOnce() -> T) -> usize {
    let before = COUNT.get();
    let result = work();
    let count = COUNT.get() - before;
    drop(result);
    count
}

fn tone(seconds: usize, sample_rate: u32) -> Waveform {
    let samples = (0..seconds * sample_rate as usize).map(|n| (n as f32 * 0.05).sin() * 0.3).collect();
    Waveform { samples, sample_rate }
}

#[test]
fn allocations_are_counted() {
    assert_eq!(allocations(|| vec![1u8; 100]), 1);
    assert_eq!(allocations(|| 1 + 1), 0);
}

#[test]
fn a_spectrogram_allocates_its_result_alone() {
    let extractor = FeatureExtractor::new(FeatureConfig::published(Truncation::RandTrunc), Preset::Hf).unwrap();
    let mut scratch = Scratch::default();
    extractor.log_mel().compute(&tone(1, 48_000).samples, &mut scratch);
    for seconds in [1, 100] {
        let wave = tone(seconds, 48_000);
        assert_eq!(allocations(|| extractor.log_mel().compute(&wave.samples, &mut scratch)), 1, "{seconds} s");
    }
}

#[test]
fn features_allocate_as_often_for_a_long_clip_as_for_a_short_one() {
    for preset in [Preset::Hf, Preset::Laion] {
        let extractor = FeatureExtractor::new(FeatureConfig::published(Truncation::RandTrunc), preset).unwrap();
        // The first call of a thread makes its buffers.
        extractor.extract(&tone(1, 48_000), LongAudio::Head, None).unwrap();
        let count = |seconds| {
            let wave = tone(seconds, 48_000);
            allocations(|| extractor.extract(&wave, LongAudio::Head, None).unwrap())
        };
        // The places, the items, the values.
        assert_eq!([count(1), count(10), count(100)], [3; 3], "{preset}");
    }
}

#[test]
fn resampling_allocates_its_buffers_and_its_result() {
    for from in [8_000, 22_050, 44_100, 96_000] {
        let resampler = Resampler::new(from, 48_000).unwrap();
        let count = |seconds| {
            let wave = tone(seconds, from);
            allocations(|| resampler.resample(&wave.samples))
        };
        // A block, its spectrum, the transforms' scratch, the samples.
        assert_eq!([count(1), count(100)], [4; 2], "{from} Hz");
    }
}
