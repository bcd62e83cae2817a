//! `cargo xtask train`: one recipe, one run folder, progress on the terminal, the numbers at the end.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap_train::event::Ending;
use clap_train::{RunFolder, TrainConfig, Trainer};

use crate::args;
use crate::exit::{Exit, failure};
use crate::progress::{Progress, minutes};
use crate::table;

/// What `cargo xtask train` trains when nothing else is asked for.
const DEFAULT_RECIPE: &str = "datasets/sounds-mini/recipe.toml";

pub(crate) fn run(args: args::Train) -> anyhow::Result<Exit> {
    let (trainer, run) = match &args.resume {
        Some(run) => {
            let run = if run == Path::new("latest") { last_run()? } else { run.clone() };
            (Trainer::resume(&run)?, run)
        }
        None => new(args)?,
    };
    let done = trainer.run(&mut Progress::new())?;

    eprintln!(
        "trained {} epochs, {} steps, {} clips in {} ({:.0} clips/s); best checkpoint: epoch {}{}",
        done.epochs,
        done.steps,
        done.clips_seen,
        minutes(done.elapsed),
        done.clips_per_second,
        done.best_epoch,
        match done.skipped {
            0 => String::new(),
            n => format!("; {n} skipped"),
        },
    );
    if !done.best.is_empty() {
        writeln!(std::io::stdout(), "{}", table::metrics(&[("best", &done.best), ("last", &done.last)]))?;
    }
    if done.ending == Ending::Requested {
        eprintln!("go on with  cargo xtask train --resume {}", run.display());
    }
    eprintln!("report      {}", run.join("report.md").display());
    eprintln!("checkpoint  {}", RunFolder::best(&run).display());
    Ok(Exit::Done)
}

/// The run whose checkpoint is the newest.
fn last_run() -> anyhow::Result<PathBuf> {
    let none = || failure(Exit::Model, format!("there is no run with a checkpoint in {}", crate::runs().display()));
    crate::newest_run(RunFolder::latest).ok_or_else(none)
}

/// A run from its first step.
fn new(args: args::Train) -> anyhow::Result<(Trainer, PathBuf)> {
    let recipe = args.config.unwrap_or_else(|| crate::workspace().join(DEFAULT_RECIPE));
    let mut config = TrainConfig::load(&recipe)?;
    for setting in &args.set {
        config.set(setting)?;
    }
    if let Some(device) = args.device {
        config.device = device;
    }
    config.data.strict |= args.strict;
    if args.exclude.is_some() {
        config.data.exclude = args.exclude;
    }
    let run = args.out.unwrap_or_else(|| new_run(&recipe));
    Ok((Trainer::new(config, &run)?, run))
}

/// `runs/<UTC date and time>-<recipe's folder or file name>`.
fn new_run(recipe: &Path) -> PathBuf {
    let stem = recipe.file_stem().unwrap_or_default().to_string_lossy();
    let name = match (stem.as_ref(), recipe.parent().and_then(|folder| folder.file_name())) {
        ("recipe", Some(folder)) => folder.to_string_lossy().into_owned(),
        _ => stem.into_owned(),
    };
    crate::runs().join(format!("{}-{name}", jiff::Timestamp::now().strftime("%Y-%m-%dT%H%M%S")))
}
