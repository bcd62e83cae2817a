//! What a sound of a Parquet file costs, in order and at random: `cargo run --release --package clap-data --features parquet
//! --example parquet_rows -- FILE_OR_FOLDER [CLIPS]`.
//!
//! Prints the milliseconds and, on Linux, the bytes that were read for a clip, and the memory that the process took at its most.

#![expect(clippy::print_stdout, reason = "its purpose")]

use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use clap_data::{LoaderConfig, OpenOptions, Sample, open, plan};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let path = PathBuf::from(arguments.next().ok_or("give a Parquet file or a folder of them")?);
    let most: usize = match arguments.next() {
        Some(count) => count.to_string_lossy().parse()?,
        None => 200,
    };
    let started = Instant::now();
    let data = open(&path, &OpenOptions::default())?;
    let seconds = started.elapsed().as_secs_f64();
    println!("{} clips opened in {:.1} ms", data.samples.len(), seconds * 1e3);
    let shuffled = LoaderConfig { shuffle: true, batch_size: 1, ..LoaderConfig::default() };
    let at_random = plan(&data.samples, &shuffled).into_iter().flatten();
    measure("in order", data.samples.iter().take(most))?;
    measure("at random", at_random.map(|at| &data.samples[at]).take(most))?;
    if let Some(peak) = field("/proc/self/status", "VmHWM:") {
        println!("{:.0} MB of memory at most", peak as f64 / 1e3);
    }
    Ok(())
}

fn measure<'a>(order: &str, samples: impl Iterator<Item = &'a Sample>) -> Result<(), Box<dyn Error>> {
    let (started, before) = (Instant::now(), field("/proc/self/io", "rchar:"));
    let (mut clips, mut bytes) = (0_u64, 0);
    for sample in samples {
        bytes += sample.audio.bytes()?.len() as u64;
        clips += 1;
    }
    let milliseconds = started.elapsed().as_secs_f64() * 1e3 / clips as f64;
    let read = before.zip(field("/proc/self/io", "rchar:")).map(|(before, after)| (after - before) / clips);
    let read = read.map_or_else(String::new, |read| format!(", {read} bytes read"));
    println!("{order}: {clips} clips of {} bytes, {milliseconds:.2} ms{read} for each", bytes / clips);
    Ok(())
}

/// A number of one of Linux's accounts of a process.
fn field(path: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}
