//! The table of the loader: clips a second from FLAC shards to batches of log-mel spectrograms, beside PyTorch's DataLoader with
//! torchaudio, and the memory of a long pass.
//!
//! The shards are made once, by `bench_loader.py --make`, and read by both sides. Everything happens on as many workers on both; the thread
//! that takes the batches only waits.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, bail};
use clap_audio::{FeatureConfig, FeatureExtractor, LongAudio, Preset, Truncation};
use clap_data::{
    AudioSource, DataSet, Loader, LoaderConfig, OpenOptions, PackOptions, PackedSound, Sample, Stream, StreamOptions,
};

use super::case::{Case, Reading};
use super::child::{PAUSE, Timer, resident_memory};
use super::machine::origin;
use super::report::{Report, Times, three_digits};
use super::workload::Workload;
use crate::args;

/// The script that makes the shards and times their side.
const SCRIPT: &str = "bench_loader.py";

/// Clips of a set, as the script makes it.
const CLIPS: usize = 512;

/// Clips of one of its shards.
const PER_SHARD: usize = 64;

/// Shards of LAION-Audio-630K, about, and clips of each.
const MANY_SHARDS: usize = 1200;
const MANY_CLIPS: usize = 512;

/// The least ratio of clips a second, ours to theirs, that we want.
const GOAL: f64 = 2.0;

/// A line of the table: what, our case, theirs.
const ROWS: [(&str, &str, &str); 4] = [
    ("44.1 kHz stereo", "loader stereo-44100", "loader stereo-44100"),
    ("48 kHz mono", "loader mono-48000", "loader mono-48000"),
    ("44.1 kHz stereo, streamed", "loader stream stereo-44100", "loader stereo-44100"),
    ("48 kHz mono, streamed", "loader stream mono-48000", "loader mono-48000"),
];

/// Measures, prints each line once it is known and, where asked, writes the table into a document.
pub(super) fn run(args: &args::Bench, workers: usize) -> anyhow::Result<()> {
    let mut report = Report::new(args.write.as_deref(), "loader")?;
    make_shards(args.python.as_deref())?;
    origin(&mut report, args, (SCRIPT, 1))?;
    report.line(&format!("{CLIPS} clips of 10 s in {} shards, {workers} workers.\n", CLIPS / PER_SHARD))?;
    let beside = args.python.is_some();
    let more = ["theirs, clips/s", "ratio", "goal"];
    report.header(&[&["FLAC", "ours, clips/s"][..], if beside { &more } else { &[] }].concat())?;
    for (what, ours, theirs) in ROWS.iter().filter(|row| args.wants(&[row.0, row.1])) {
        report.row(&measure(what, (ours, theirs), args, workers)?)?;
    }
    report.line("")?;
    report.header(&["resident memory in MB", "at shard 10", "50", "100", "of a second pass 10", "50", "100"])?;
    for (what, reading) in [("indexed", Reading::Indexed), ("streamed", Reading::Streamed)] {
        if args.wants(&[what, "memory"]) {
            let found = memory(reading, workers)?.into_iter().map(|bytes| three_digits(bytes as f64 / 1e6));
            report.row(&[what.to_owned()].into_iter().chain(found).collect::<Vec<_>>())?;
        }
    }
    if args.wants(&["opening"]) {
        let (seconds, bytes) = opening()?;
        report.line("")?;
        report.header(&["opening", "s", "resident memory, MB", "bytes a clip"])?;
        let clips = MANY_SHARDS * MANY_CLIPS;
        let cells = [three_digits(seconds), three_digits(bytes as f64 / 1e6), (bytes / clips as u64).to_string()];
        let what = format!("{MANY_SHARDS} shards of {MANY_CLIPS} clips, cached by the system");
        report.row(&[&[what], &cells[..]].concat())?;
    }
    report.finish()
}

/// The cells of a line.
fn measure(
    what: &str,
    (ours, theirs): (&str, &str),
    args: &args::Bench,
    workers: usize,
) -> anyhow::Result<Vec<String>> {
    let (ours, theirs) = (format!("{ours} {workers}"), format!("{theirs} {workers}"));
    let mut our_timer = Timer::ours(1)?;
    let mut their_timer = args.python.as_ref().map(|python| Timer::script(python, SCRIPT, 1)).transpose()?;
    let (mut our_times, mut their_times) = (Times::default(), Times::default());
    for _ in 0..args.rounds.get() {
        if let Some(timer) = &mut their_timer {
            their_times.0.push(timer.time(&theirs)?);
            std::thread::sleep(PAUSE);
        }
        our_times.0.push(our_timer.time(&ours)?);
        std::thread::sleep(PAUSE);
    }
    let mut cells = vec![what.to_owned(), rate(&our_times)];
    if their_timer.is_some() {
        let ratio = their_times.median() / our_times.median();
        let verdict = if ratio >= GOAL { "yes" } else { "**missed**" };
        cells.extend([rate(&their_times), format!("{ratio:.2}"), format!("≥ {GOAL}: {verdict}")]);
    }
    Ok(cells)
}

/// Clips a second of a pass: median, least and greatest.
fn rate(times: &Times) -> String {
    Times(times.0.iter().map(|seconds| CLIPS as f64 / seconds).collect()).cell(1.0)
}

/// Seconds and resident bytes that it takes to open a set as large as LAION-Audio-630K: one small shard under many names.
fn opening() -> anyhow::Result<(f64, u64)> {
    let large = folder().join("large");
    if !large.is_dir() {
        let one = folder().join("one");
        let sample = |clip: usize| Sample {
            id: format!("clip_{clip}"),
            audio: AudioSource::Memory { name: format!("clip_{clip}.flac"), bytes: vec![0; 1000].into() },
            captions: vec![format!("A person speaks while the rain falls on a roof of tin, recording {clip}")],
            labels: vec!["speech".to_owned(), "rain".to_owned()],
            meta: serde_json::json!({ "title": format!("recording {clip}"), "licence": "CC0" }),
        };
        if !one.join("sizes.json").is_file() {
            let samples: Vec<Sample> = (0..MANY_CLIPS).map(sample).collect();
            let options = PackOptions { sound: PackedSound::Kept, ..PackOptions::default() };
            clap_data::pack(&samples, &one, &options, &mut |_| {})?;
        }
        std::fs::create_dir(&large)?;
        for shard in 0..MANY_SHARDS {
            std::fs::hard_link(one.join("0.tar"), large.join(format!("{shard}.tar")))?;
        }
    }
    let (before, start) = (resident_memory(), Instant::now());
    let data = clap_data::open(&large, &OpenOptions::default())?;
    let (seconds, after) = (start.elapsed().as_secs_f64(), resident_memory());
    if data.samples.len() != MANY_SHARDS * MANY_CLIPS {
        bail!("{} clips instead of {}", data.samples.len(), MANY_SHARDS * MANY_CLIPS);
    }
    Ok((seconds, after.saturating_sub(before)))
}

/// Where the shards are.
fn folder() -> PathBuf {
    crate::workspace().join("target/bench-loader")
}

/// Makes the shards unless they are there.
fn make_shards(python: Option<&Path>) -> anyhow::Result<()> {
    // The script writes this file last.
    let finished = folder().join("mono-48000/sizes.json");
    if finished.is_file() {
        return Ok(());
    }
    let Some(python) = python else {
        bail!("{} is not there yet; with --python, bench_loader.py makes the shards", folder().display());
    };
    let script = crate::workspace().join("tests/reference").join(SCRIPT);
    let status = Command::new(python).arg(&script).arg("--make").arg(folder()).status();
    let status = status.with_context(|| format!("{} cannot be started", python.display()))?;
    if !status.success() {
        bail!("{} could not make the shards; what it said stands above", script.display());
    }
    Ok(())
}

/// A pass over a set, as a workload.
pub(super) fn workload(reading: Reading, set: &str, workers: usize) -> anyhow::Result<Workload> {
    let mut pass = Pass::open(reading, &folder().join(set), workers)?;
    Ok(Box::new(move || {
        let clips = pass.run(&mut |_| {})?;
        if clips == CLIPS { Ok(()) } else { bail!("{clips} clips instead of {CLIPS}") }
    }))
}

/// Resident bytes at the 10th, the 50th and the 100th shard of two passes.
fn memory(reading: Reading, workers: usize) -> anyhow::Result<Vec<u64>> {
    let set = folder().join("mono-48000");
    let many = folder().join("many");
    std::fs::create_dir_all(&many)?;
    for shard in 0..100 {
        let link = many.join(format!("{shard}.tar"));
        if !link.exists() {
            std::fs::hard_link(set.join(format!("{}.tar", shard % (CLIPS / PER_SHARD))), &link)
                .with_context(|| format!("cannot make {}", link.display()))?;
        }
    }
    let mut pass = Pass::open(reading, &many, workers)?;
    let mut found = Vec::new();
    for _ in 0..2 {
        let mut wanted = [10, 50, 100].into_iter().peekable();
        pass.run(&mut |clips| {
            if wanted.next_if(|shard| clips >= shard * PER_SHARD).is_some() {
                found.push(resident_memory());
            }
        })?;
    }
    Ok(found)
}

/// Epoch after epoch of a set.
struct Pass {
    source: Source,
    config: LoaderConfig,
    extractor: Arc<FeatureExtractor>,
}

enum Source {
    Indexed(Arc<DataSet>),
    Streamed(Arc<Stream>),
}

impl Pass {
    fn open(reading: Reading, folder: &Path, workers: usize) -> anyhow::Result<Self> {
        let source = match reading {
            Reading::Indexed => Source::Indexed(Arc::new(clap_data::open(folder, &OpenOptions::default())?)),
            Reading::Streamed => Source::Streamed(Arc::new(Stream::open(folder, StreamOptions::default())?)),
        };
        let config = LoaderConfig { batch_size: 32, shuffle: true, workers, ..LoaderConfig::default() };
        let extractor = FeatureExtractor::new(FeatureConfig::published(Truncation::RandTrunc), Preset::Laion)?;
        Ok(Self { source, config, extractor: Arc::new(extractor) })
    }

    /// One epoch; gives its clips, and tells how many there were after each batch.
    fn run(&mut self, after: &mut dyn FnMut(usize)) -> anyhow::Result<usize> {
        let extractor = Arc::clone(&self.extractor);
        let rate = extractor.config().sampling_rate;
        let prepare = move |sample: &Sample, _: &mut _| {
            extractor
                .extract(&sample.audio.load(rate)?, LongAudio::Head, None)
                .map(|mut views| views.swap_remove(0).data)
        };
        let loader = match &self.source {
            Source::Indexed(data) => Loader::new(Arc::clone(data), self.config.clone(), prepare),
            Source::Streamed(stream) => Loader::stream(stream, self.config.clone(), prepare)?,
        };
        self.config.epoch += 1;
        let mut clips = 0;
        for batch in loader {
            if let Some(failed) = batch.failed.first() {
                bail!("{failed}");
            }
            clips += batch.items.len();
            // As a batch is stacked for a model.
            std::hint::black_box(batch.items.concat());
            after(clips);
        }
        Ok(clips)
    }
}

impl Case {
    /// The case of the words behind `loader`.
    pub(super) fn loader(words: &[&str]) -> anyhow::Result<Self> {
        let (reading, words) = match words {
            ["stream", words @ ..] => (Reading::Streamed, words),
            words => (Reading::Indexed, words),
        };
        let [set, workers] = words else { bail!("see the head of xtask/src/bench/case.rs") };
        Ok(Self::Loader { reading, set: (*set).to_owned(), workers: super::case::number(workers)? })
    }
}
