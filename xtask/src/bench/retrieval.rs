//! Ranks of a large split in both directions, beside the same in PyTorch: time, memory and the metrics of each side.
//!
//! The embeddings are made by `tests/reference/bench_retrieval.py`, which also runs the other side; each side has a process of its own.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, bail};
use candle_core::Device;
use candle_core::safetensors::MmapedSafetensors;

use super::child::{Timer, peak_memory};
use super::machine::place;
use super::report::{Report, three_digits};
use crate::args;

const SCRIPT: &str = "bench_retrieval.py";
const WIDTH: usize = 512;

pub(super) fn run(args: &args::Bench, folder: &Path, python: &Path, threads: usize) -> anyhow::Result<()> {
    let mut report = Report::new(args.write.as_deref(), "retrieval")?;
    let (clips, captions) = (args.clips.get(), args.captions.get());
    if captions < clips {
        bail!("--captions {captions} are fewer than --clips {clips}: each clip has one at least");
    }
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    place(&mut report, args, (SCRIPT, threads))?;
    let script = || Timer::script(python, SCRIPT, threads);
    script()?.ask(&format!("make {} {clips} {captions} {WIDTH}", folder.display()))?;

    // SAFETY: the file was just made, and nothing else writes it.
    let file = unsafe { MmapedSafetensors::new(folder.join("embeds.safetensors"))? };
    let [audio, text] = ["audio", "text"].map(|name| file.load(name, &Device::Cpu));
    let (audio, text) = (audio?, text?);
    drop(file);
    let caption_of: Vec<usize> = (0..captions).map(|caption| caption * clips / captions).collect();
    let start = Instant::now();
    let found = clap_eval::retrieval(&audio, &text, &caption_of)?;
    let (ours, our_memory) = (start.elapsed().as_secs_f64(), peak_memory() as f64 / 1e9);
    drop((audio, text));
    // The other side takes minutes, and may not come back.
    eprintln!("here: {} s, {} GB at most", three_digits(ours), three_digits(our_memory));

    let mut other = script()?;
    let answer = other.ask(&format!("run {}", folder.display()))?;
    let (theirs, metrics): (f64, BTreeMap<String, f64>) = serde_json::from_str(&answer)?;
    let their_memory = other.ask("memory")?.parse::<f64>()? / 1e9;

    let matrix = clips as f64 * captions as f64 * 4.0 / 1e9;
    report
        .line(&format!("{clips} clips, {captions} captions, {WIDTH} wide; their matrix would be {matrix:.0} GB.\n"))?;
    report.header(&["", "here", "PyTorch, in blocks"])?;
    let row = |name: &str, ours: String, theirs: String| [name.to_owned(), ours, theirs];
    report.row(&row("seconds, both directions", three_digits(ours), three_digits(theirs)))?;
    report.row(&row("peak memory of the process, GB", three_digits(our_memory), three_digits(their_memory)))?;
    let of = found.to_map();
    for (name, theirs) in metrics {
        let ours = of.get(&name).and_then(serde_json::Value::as_f64).with_context(|| format!("no {name} here"))?;
        report.row(&row(&name, format!("{ours:.7}"), format!("{theirs:.7}")))?;
    }
    report.finish()
}
