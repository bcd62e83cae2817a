//! `cargo xtask train`: one recipe, one run folder, progress on the terminal, the numbers at the end.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap_data::Stream;
use clap_train::event::Ending;
use clap_train::{RunFolder, TrainConfig, Trainer};

use crate::args;
use crate::exit::{Exit, failure};
use crate::progress::{Progress, minutes};
use crate::table;
use job::Job;

mod dry_run;
mod job;

/// What `cargo xtask train` trains when nothing else is asked for.
const DEFAULT_RECIPE: &str = "datasets/sounds-mini/recipe.toml";

/// How it trains another model or other clips.
const FINE_TUNE: &str = "datasets/recipes/fine-tune.toml";

/// What data sets call the split to learn from and the one to look at meanwhile.
const TRAIN: &[&str] = &["train", "training", "development", "dev_train"];
const VALID: &[&str] = &["valid", "validation", "val", "dev", "eval", "evaluation", "test"];

pub(crate) fn run(args: args::Train) -> anyhow::Result<Exit> {
    if args.dry_run {
        let (config, _) = configured(&args)?;
        return dry_run::run(config);
    }
    let job = Job::join(args.distributed, args.device.as_deref())?;
    let ranks = job.ranks();
    let (trainer, run) = match &args.resume {
        Some(run) => {
            let run = if run == Path::new("latest") { last_run()? } else { run.clone() };
            (Trainer::resume_on(&run, ranks)?, run)
        }
        None => {
            let (config, recipe) = configured(&args)?;
            let run = args.out.unwrap_or_else(|| new_run(&recipe));
            (Trainer::new_on(config, &run, ranks)?, run)
        }
    };
    let done = trainer.run(&mut Progress::new())?;
    job.finish();
    if !job.is_first() {
        return Ok(Exit::Done);
    }

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
    eprintln!("report      {}", run.join("report.html").display());
    eprintln!("checkpoint  {}", RunFolder::best(&run).display());
    Ok(Exit::Done)
}

/// The run whose checkpoint is the newest.
fn last_run() -> anyhow::Result<PathBuf> {
    let none = || failure(Exit::Model, format!("there is no run with a checkpoint in {}", crate::runs().display()));
    crate::newest_run(RunFolder::latest).ok_or_else(none)
}

/// The recipe with what the command line changes of it, and where it lies.
fn configured(args: &args::Train) -> anyhow::Result<(TrainConfig, PathBuf)> {
    let default = if args.init.is_some() || args.data.is_some() { FINE_TUNE } else { DEFAULT_RECIPE };
    let recipe = args.config.clone().unwrap_or_else(|| crate::workspace().join(default));
    let mut config = TrainConfig::load(&recipe)?;
    if args.init.is_some() {
        config.model.init = args.init.as_deref().map(crate::model::model_folder);
    }
    if let Some(data) = &args.data {
        of_data(&mut config, data, args)?;
    }
    config.optim.freeze.extend(args.freeze.iter().cloned());
    for setting in &args.set {
        config.set(setting)?;
    }
    if let Some(device) = &args.device {
        config.device.clone_from(device);
    }
    config.data.strict |= args.strict;
    if args.exclude.is_some() {
        config.data.exclude.clone_from(&args.exclude);
    }
    Ok((config, recipe))
}

/// Trains on `data` in place of the recipe's clips, and validates on the split that it has for that, if it has one.
fn of_data(config: &mut TrainConfig, path: &Path, args: &args::Train) -> anyhow::Result<()> {
    let own = TrainConfig::default().data;
    let table = args.table.clone();
    let data = &mut config.data;
    data.train = path.to_owned();
    (data.train_split, data.more, data.valid_split) = (None, own.more, None);
    (data.audio_key, data.caption_key, data.label_key) = (table.audio_key, table.caption_key, table.label_key);
    data.separator = table.separator.map(|byte| char::from(byte).to_string());
    (data.captions, data.more_captions) = (table.captions, table.more_captions);
    data.valid.clone_from(&args.valid);
    if args.valid.is_some() {
        data.holdout = 0.0;
        return Ok(());
    }
    if Stream::is_needed(path) || data.stream {
        return Ok(());
    }
    let splits = clap_data::splits(path, &args.table.open_options())?;
    let named = |names: &[&str]| splits.iter().find(|split| names.contains(&split.as_str())).cloned();
    if let (Some(train), Some(valid)) = (named(TRAIN), named(VALID)) {
        data.valid = Some(path.to_owned());
        (data.train_split, data.valid_split, data.holdout) = (Some(train), Some(valid), 0.0);
    }
    Ok(())
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
