//! Times the front end for another program, so that both can be timed in turns: `tests/reference/bench_audio.py`.
//!
//! Each line of standard input is an order, each answer a line:
//!
//! ```text
//! time REPEATS CASE    seconds that one of REPEATS runs took, after a run that is not counted when the case is new
//! write FILE CASE      runs once and writes the result as f32; answers with the number of values
//! ```
//!
//! A case is one of
//!
//! ```text
//! mel SCALE THREADS CLIPS FILE             log-mel of FILE (f32 at 48 kHz), cut into CLIPS clips, on THREADS threads
//! features TRUNCATION THREADS CLIPS FILE   the features of the same, preset hf
//! resample FROM TO FILE                    FILE from one rate to another
//! load SCALE FILE                          a sound file to log-mel at 48 kHz
//! decode FILE                              a sound file to mono samples
//! folder THREADS FOLDER                    the features of every file of a folder, a sum for each
//! rustfft COUNT, realfft COUNT             the transforms of COUNT frames of 1024 samples, and nothing else
//! ```
#![expect(clippy::print_stdout, reason = "its purpose")]

use std::cell::RefCell;
use std::collections::HashMap;
use std::error::Error;
use std::hint::black_box;
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use clap_audio::{
    Channels, FeatureConfig, FeatureExtractor, LogMel, LongAudio, Preset, Resampler, Scratch, Truncation, Waveform,
    load,
};
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use realfft::RealFftPlanner;
use rustfft::FftPlanner;
use rustfft::num_complex::Complex;

/// The runner's: glibc maps each clip's buffers anew, and two threads then wait for each other's page faults (13 % of the time).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Something to time, and its result.
type Case = Box<dyn FnMut() -> Vec<Vec<f32>>>;

fn read_samples(file: &str) -> Outcome<Vec<f32>> {
    let bytes = std::fs::read(file)?;
    Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

/// A file of samples as `count` clips of equal length.
fn read_clips(count: &str, file: &str) -> Outcome<Vec<Waveform>> {
    let samples = read_samples(file)?;
    let len = samples.len() / count.parse::<usize>()?;
    Ok(samples.chunks_exact(len).map(|clip| Waveform { samples: clip.to_vec(), sample_rate: 48_000 }).collect())
}

fn config(truncation: &str) -> Outcome<FeatureConfig> {
    Ok(FeatureConfig::published(match truncation {
        "slaney" | "rand_trunc" => Truncation::RandTrunc,
        "htk" | "fusion" => Truncation::Fusion,
        other => return Err(format!("{other} is neither a scale nor a truncation").into()),
    }))
}

/// No pool for one thread, so that nothing has to be woken up.
fn pool(threads: &str) -> Outcome<Option<ThreadPool>> {
    Ok(match threads.parse()? {
        1 => None,
        threads => Some(ThreadPoolBuilder::new().num_threads(threads).build()?),
    })
}

fn each<T: Sync, R: Send>(pool: Option<&ThreadPool>, items: &[T], work: impl Fn(&T) -> R + Send + Sync) -> Vec<R> {
    match pool {
        None => items.iter().map(work).collect(),
        Some(pool) => pool.install(|| items.par_iter().map(work).collect()),
    }
}

thread_local! {
    /// Buffers that live from run to run, as those of `FeatureExtractor` do.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

fn mel(log_mel: &LogMel, wave: &Waveform) -> Vec<f32> {
    SCRATCH.with_borrow_mut(|scratch| log_mel.compute(&wave.samples, scratch).data)
}

fn features(extractor: &FeatureExtractor, wave: &Waveform) -> Vec<f32> {
    let mut items = extractor.extract(wave, LongAudio::Head, None).expect("a clip at the right rate");
    items.swap_remove(0).data
}

fn case(order: &str) -> Outcome<Case> {
    let words: Vec<&str> = order.split(' ').collect();
    Ok(match words[..] {
        ["mel", scale, threads, clips, file] => {
            let (log_mel, pool, clips) =
                (LogMel::new(&config(scale)?.mel())?, pool(threads)?, read_clips(clips, file)?);
            Box::new(move || each(pool.as_ref(), &clips, |clip| mel(&log_mel, clip)))
        }
        ["features", truncation, threads, clips, file] => {
            let extractor = FeatureExtractor::new(config(truncation)?, Preset::Hf)?;
            let (pool, clips) = (pool(threads)?, read_clips(clips, file)?);
            Box::new(move || each(pool.as_ref(), &clips, |clip| features(&extractor, clip)))
        }
        ["resample", from, to, file] => {
            let (resampler, samples) = (Resampler::new(from.parse()?, to.parse()?)?, read_samples(file)?);
            Box::new(move || vec![resampler.resample(&samples)])
        }
        ["load", scale, file] => {
            let (log_mel, file) = (LogMel::new(&config(scale)?.mel())?, PathBuf::from(file));
            Box::new(move || vec![mel(&log_mel, &load(&file, 48_000, Channels::Mean).expect("a good file"))])
        }
        ["decode", file] => {
            let file = PathBuf::from(file);
            Box::new(move || vec![clap_audio::decode(&file, Channels::Mean).expect("a good file").samples])
        }
        ["folder", threads, folder] => {
            let entries = std::fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
            let mut files: Vec<PathBuf> = entries.iter().map(std::fs::DirEntry::path).collect();
            files.sort();
            let (extractor, pool) = (FeatureExtractor::new(config("rand_trunc")?, Preset::Hf)?, pool(threads)?);
            Box::new(move || {
                let sum = |file: &PathBuf| {
                    let wave = load(file, 48_000, Channels::Mean).expect("a good file");
                    features(&extractor, &wave).iter().sum()
                };
                vec![each(pool.as_ref(), &files, sum)]
            })
        }
        ["rustfft", count] => {
            let (fft, count) = (FftPlanner::<f32>::new().plan_fft_forward(512), count.parse::<usize>()?);
            let mut frame = vec![Complex::default(); 512];
            let mut scratch = vec![Complex::default(); fft.get_inplace_scratch_len()];
            Box::new(move || {
                (0..count).for_each(|_| fft.process_with_scratch(black_box(&mut frame), &mut scratch));
                Vec::new()
            })
        }
        ["realfft", count] => {
            let (fft, count) = (RealFftPlanner::<f32>::new().plan_fft_forward(1024), count.parse::<usize>()?);
            let (mut frame, mut spectrum) = (fft.make_input_vec(), fft.make_output_vec());
            let mut scratch = fft.make_scratch_vec();
            Box::new(move || {
                for _ in 0..count {
                    fft.process_with_scratch(black_box(&mut frame), &mut spectrum, &mut scratch).expect("its buffers");
                }
                Vec::new()
            })
        }
        _ => return Err(format!("{order} is no case").into()),
    })
}

fn main() -> Outcome<()> {
    let mut cases: HashMap<String, Case> = HashMap::new();
    for line in std::io::stdin().lines() {
        let line = line?;
        let mut words = line.splitn(3, ' ');
        let (Some(verb), Some(argument), Some(order)) = (words.next(), words.next(), words.next()) else {
            return Err(format!("{line} is no order").into());
        };
        if !cases.contains_key(order) {
            let mut new = case(order)?;
            black_box(new());
            cases.insert(order.to_owned(), new);
        }
        let run = cases.get_mut(order).expect("just put there");
        match verb {
            "time" => {
                let repeats: u32 = argument.parse()?;
                let start = Instant::now();
                for _ in 0..repeats {
                    black_box(run());
                }
                println!("{:.9}", start.elapsed().as_secs_f64() / f64::from(repeats));
            }
            "write" => {
                let values = run().concat();
                std::fs::write(argument, values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())?;
                println!("{}", values.len());
            }
            _ => return Err(format!("{verb} is neither time nor write").into()),
        }
        std::io::stdout().flush()?;
    }
    Ok(())
}
