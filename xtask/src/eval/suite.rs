//! `cargo xtask eval --suite paper`: every task of the paper's tables on the data sets that are there.

use std::path::PathBuf;

use clap_data::benchmarks;

use super::{by_model, load_to_evaluate, open, probe, told};
use crate::args::{self, ProbeHead, Suite};
use crate::dataset::list::{look, root};
use crate::exit::{Exit, failure};
use crate::model::Loaded;

/// What is done with a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Retrieval of its captions, or zero-shot classification of its classes.
    ZeroShot,
    /// A probe, or fine-tuning.
    Trained,
}

/// The tasks of the paper's tables 2 to 4.
const PAPER: [(&str, Kind); 9] = [
    ("audiocaps", Kind::ZeroShot),
    ("clotho", Kind::ZeroShot),
    ("esc-50", Kind::ZeroShot),
    ("urbansound8k", Kind::ZeroShot),
    ("vggsound", Kind::ZeroShot),
    ("esc-50", Kind::Trained),
    ("urbansound8k", Kind::Trained),
    ("vggsound", Kind::Trained),
    ("fsd50k", Kind::Trained),
];

pub(super) fn run(args: &args::Eval, suite: Suite) -> anyhow::Result<Exit> {
    let tasks = match suite {
        Suite::Paper => PAPER,
    };
    let root = root(args.root.as_deref());
    let found = look(&root)?;
    let folder = |name: &str| found.iter().find(|(known, _)| *known == name).map(|(_, found)| found.folder.clone());
    let (mut loaded, mut done, mut failed): (Option<Loaded>, usize, Vec<String>) = (None, 0, Vec::new());
    for (name, kind) in tasks {
        let Some(folder) = folder(name) else { continue };
        let what = if kind == Kind::ZeroShot { "zero-shot" } else { "trained" };
        eprintln!("\n{name}, {what}  {}", folder.display());
        let loaded = match &mut loaded {
            Some(loaded) => loaded,
            None => loaded.insert(load_to_evaluate(&args.model)?),
        };
        // One data set that is broken is no reason to leave out the others.
        match task(args, loaded, folder, kind) {
            Ok(()) => done += 1,
            Err(error) => {
                eprintln!("failed: {error:#}");
                failed.push(format!("{name} ({what})"));
            }
        }
    }
    missing(|name| folder(name).is_some(), &root);
    eprintln!("{done} of {} tasks done", tasks.len());
    if let Some(out) = args.out.as_ref().filter(|_| done > 0) {
        eprintln!("side by side: cargo xtask report {}", out.display());
    }
    match (done, failed.as_slice()) {
        (_, [_, ..]) => Err(failure(Exit::Data, format!("failed: {}", failed.join(", ")))),
        (0, _) => Err(failure(Exit::NothingFound, format!("no data set of the suite is in {}", root.display()))),
        _ => Ok(Exit::Done),
    }
}

fn task(args: &args::Eval, loaded: &Loaded, folder: PathBuf, kind: Kind) -> anyhow::Result<()> {
    let mut args = args::Eval { suite: None, data: Some(folder), ..args.clone() };
    match kind {
        Kind::ZeroShot => {
            let data = open(&args)?;
            told(&args, &by_model(&args, loaded, data)?)?;
        }
        Kind::Trained => {
            // A head hears the windows that zero-shot classification lets vote, and a tower that is trained cuts longer clips itself.
            if args.probe.finetune {
                args.model.long_audio = None;
            } else if matches!(args.model.long_audio, Some(args::LongAudio::Vote)) {
                args.model.long_audio = Some(args::LongAudio::Windows);
            }
            probe::run(&args, loaded, args.probe.head().unwrap_or(ProbeHead::Linear))?;
        }
    }
    Ok(())
}

/// Says which data sets the suite has no folder of, and where to get them.
fn missing(is_here: impl Fn(&str) -> bool, root: &std::path::Path) {
    let mut wanted: Vec<&str> = PAPER.iter().map(|(name, _)| *name).collect();
    wanted.dedup();
    let missing = benchmarks().iter().filter(|known| wanted.contains(&known.name.as_str()) && !is_here(&known.name));
    for benchmark in missing {
        eprintln!(
            "missing: {} ({} clips, {:.0} h, {}): put it as published into a folder of {}; {}",
            benchmark.title,
            benchmark.clips,
            benchmark.hours,
            benchmark.licence,
            root.display(),
            benchmark.home
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_is_of_a_known_benchmark() {
        for (name, kind) in PAPER {
            let benchmark = benchmarks().iter().find(|known| known.name == name).unwrap();
            assert!(kind == Kind::ZeroShot || !benchmark.classes.is_empty(), "{name} has no classes to learn");
        }
    }
}
