//! `cargo xtask eval --probe` and `--finetune`: a classifier trained on a model's audio embeddings, or with its tower.

use std::collections::HashSet;
use std::io::Write as _;
use std::sync::Arc;

use candle_core::Tensor;
use clap_audio::FeatureExtractor;
use clap_data::{DataSet, OpenOptions, Skipped, WaveCache};
use clap_eval::{ClassifierMetrics, Evaluation, EvaluationConfig, LabelledFeatures, Record, Task};
use clap_train::probe::{FineTune, FineTuneConfig, HeadKind, Probe, ProbeConfig, ProbeLoss};
use serde_json::{Map, json};

use super::{BOOTSTRAP_SEED, cache_folder, data_path, listening};
use crate::args::{self, LongAudio, ProbeHead};
use crate::counter::Counter;
use crate::exit::{Exit, failure};
use crate::model::{Loaded, model_folder};
use crate::{results, table};

/// Names by which data sets call what is trained on, in the order in which they are looked for.
const TRAIN: [&str; 3] = ["train", "dev", "development"];

/// One round: what is trained on, what it is tested on, and what that is called.
struct Round {
    name: String,
    train: DataSet,
    test: DataSet,
}

/// What a round gave.
struct Tested {
    name: String,
    logits: Tensor,
    labels: Vec<Vec<usize>>,
}

pub(super) fn run(args: &args::Eval, loaded: &Loaded, head: ProbeHead) -> anyhow::Result<Exit> {
    if matches!(args.model.long_audio, Some(LongAudio::Vote)) {
        return Err(failure(Exit::Usage, "--long-audio vote is for zero-shot classification; a probe takes windows"));
    }
    if args.probe.finetune && (args.model.revision.revision.is_some() || args.model.allow_missing) {
        let text =
            "--finetune opens the model once more, and not by --revision or --allow-missing: convert it to a folder";
        return Err(failure(Exit::Usage, text));
    }
    if args.probe.finetune && args.model.long_audio.is_some() {
        let text = "--finetune cuts longer clips at random in training and from the middle in the test; leave out --long-audio";
        return Err(failure(Exit::Usage, text));
    }
    let rounds = rounds(args)?;
    let several = rounds[0].test.multi_label;
    let config = config(args, head, several);
    let task = if args.probe.finetune { Task::FineTune } else { Task::Probe };
    let mut skipped = Vec::new();
    let tested = match task {
        Task::FineTune => fine_tuned(args, loaded, &rounds, config, &mut skipped)?,
        _ => probed(args, loaded, &rounds, &config, &mut skipped)?,
    };
    // Every fold tells of what its data set lacks.
    let mut told = HashSet::new();
    skipped.retain(|clip: &Skipped| told.insert(clip.to_string()));
    for clip in &skipped {
        eprintln!("skipped {clip}");
    }
    if args.strict && !skipped.is_empty() {
        return Err(failure(Exit::Data, "--strict: a data set with bad clips is not evaluated"));
    }

    let logits = Tensor::cat(&tested.iter().map(|round| &round.logits).collect::<Vec<_>>(), 0)?;
    let labels: Vec<Vec<usize>> = tested.iter().flat_map(|round| round.labels.clone()).collect();
    let metrics = ClassifierMetrics::new(&logits, &labels, several)?;
    let split = if tested.len() == 1 { tested[0].name.clone() } else { format!("{} folds", tested.len()) };
    let data = &rounds[0].test;
    let mut record = Record::of_classifier(task, &metrics, (&data.name, &split, &loaded.name), BOOTSTRAP_SEED)?;
    if tested.len() > 1 {
        for round in &tested {
            let of_fold = ClassifierMetrics::new(&round.logits, &round.labels, several)?;
            record.metrics.insert(format!("acc_{}", round.name), of_fold.by_class.acc.into());
        }
    }
    record.settings = listening(args, loaded)?;
    record.settings.extend(settings(args, &config));
    if let Some(folder) = &args.out {
        results::save_record(folder, &record)?;
        eprintln!("results {}", folder.display());
    }
    let mut out = std::io::stdout();
    if args.json {
        writeln!(out, "{}", record.to_json_line())?;
    } else {
        eprintln!("model {}\ndata  {}, {split}", loaded.name, data.name);
        writeln!(out, "{}", table::record(&record))?;
    }
    Ok(Exit::Done)
}

fn config(args: &args::Eval, head: ProbeHead, several: bool) -> ProbeConfig {
    let head = match head {
        ProbeHead::Linear => HeadKind::Linear,
        ProbeHead::Mlp => HeadKind::Mlp,
    };
    let loss = match args.probe.probe_loss {
        Some(args::ProbeLoss::Bce) => ProbeLoss::Bce,
        Some(args::ProbeLoss::Ce) => ProbeLoss::Ce,
        Some(args::ProbeLoss::Mse) => ProbeLoss::Mse,
        None if several => ProbeLoss::Bce,
        None => ProbeLoss::Ce,
    };
    let usual = ProbeConfig::new(head, loss);
    ProbeConfig {
        lr: args.probe.probe_lr.unwrap_or(usual.lr),
        epochs: args.probe.probe_epochs.unwrap_or(usual.epochs),
        batch_size: args.probe.probe_batch_size.unwrap_or(usual.batch_size),
        seed: args.model.seed,
        ..usual
    }
}

fn settings(args: &args::Eval, config: &ProbeConfig) -> Map<String, serde_json::Value> {
    let mut settings = Map::new();
    for (name, value) in [
        ("head", json!(format!("{:?}", config.head).to_lowercase())),
        ("loss", json!(format!("{:?}", config.loss).to_lowercase())),
        ("lr", json!(config.lr)),
        ("tower_lr", json!(args.probe.finetune.then_some(args.probe.tower_lr))),
        ("epochs", json!(config.epochs)),
        ("batch_size", json!(config.batch_size)),
        ("mixup", json!(args.probe.mixup)),
        ("train_split", json!(args.probe.train_split)),
        ("warmup", json!(args.probe.probe_warmup)),
    ] {
        settings.insert(name.to_owned(), value);
    }
    settings
}

/// The data set's folds in turn, or a part that is trained on and one that is tested.
fn rounds(args: &args::Eval) -> anyhow::Result<Vec<Round>> {
    let path = data_path(args);
    let columns = args.table.open_options();
    let open = |split: Option<String>| {
        let options = OpenOptions { split, strict: args.strict, exclude: args.exclude.clone(), ..columns.clone() };
        clap_data::open(&path, &options)
    };
    if args.split.is_none() && args.probe.train_split.is_none() {
        let whole = open(None)?;
        let folds = whole.folds();
        if folds.len() > 1 {
            let rounds = folds.into_iter().filter_map(|name| {
                let fold = whole.fold(&name)?;
                Some(Round { name, train: fold.train, test: fold.test })
            });
            return Ok(rounds.collect());
        }
    }
    let split = match &args.split {
        Some(split) => split.clone(),
        None => clap_data::evaluation_split(&path, &columns)?.ok_or_else(|| {
            let text = format!("{} has neither folds nor a split to test on; name one with --split", path.display());
            failure(Exit::Usage, text)
        })?,
    };
    let train = match &args.probe.train_split {
        Some(train) => train.clone(),
        None => {
            let splits = clap_data::splits(&path, &columns)?;
            let named = TRAIN.iter().find(|name| splits.iter().any(|split| split == *name) && **name != split);
            named.map_or_else(|| format!("!{split}"), |name| (*name).to_owned())
        }
    };
    let round = Round { name: split.clone(), train: open(Some(train))?, test: open(Some(split))? };
    if round.train.classes != round.test.classes {
        let text = "the clips to train on and those to test have other classes; put a classes.json into the data set";
        return Err(failure(Exit::Data, text));
    }
    Ok(vec![round])
}

/// Probes on embeddings that are made once, however many folds there are.
fn probed(
    args: &args::Eval,
    loaded: &Loaded,
    rounds: &[Round],
    config: &ProbeConfig,
    skipped: &mut Vec<Skipped>,
) -> anyhow::Result<Vec<Tested>> {
    // What one fold is tested on, the others are trained on.
    let mut rows = Vec::new();
    let mut parts: Vec<&DataSet> = match rounds {
        [one] => vec![&one.train, &one.test],
        folds => folds.iter().map(|fold| &fold.test).collect(),
    };
    // Clips without a fold are trained on in every round.
    let folded: HashSet<&str> =
        rounds.iter().flat_map(|round| &round.test.samples).map(|sample| sample.id.as_str()).collect();
    let mut rest = rounds[0].train.clone();
    rest.samples.retain(|sample| !folded.contains(sample.id.as_str()));
    if rounds.len() > 1 && !rest.samples.is_empty() {
        parts.push(&rest);
    }
    for part in parts {
        let (found, left_out) = features(args, loaded, part)?;
        skipped.extend(part.skipped.iter().cloned().chain(left_out));
        rows.push(found);
    }
    if let ([round], [train, test]) = (rounds, rows.as_slice()) {
        return Ok(vec![round_of(&round.name, &[train], test, config)?]);
    }
    let all: Vec<&LabelledFeatures> = rows.iter().collect();
    let mut tested = Vec::new();
    for (place, round) in rounds.iter().enumerate() {
        let train: Vec<&LabelledFeatures> =
            all.iter().enumerate().filter(|(other, _)| *other != place).map(|(_, rows)| *rows).collect();
        tested.push(round_of(&round.name, &train, all[place], config)?);
    }
    Ok(tested)
}

/// Trains on some features and gives the logits of others.
fn round_of(
    name: &str,
    train: &[&LabelledFeatures],
    test: &LabelledFeatures,
    config: &ProbeConfig,
) -> anyhow::Result<Tested> {
    let features = Tensor::cat(&train.iter().map(|part| &part.features).collect::<Vec<_>>(), 0)?;
    let targets = train.iter().map(|part| part.targets()).collect::<Result<Vec<_>, _>>()?;
    let mut counter = Counter::new(config.epochs as usize, "epochs", name);
    let probe = Probe::fit(&features, &Tensor::cat(&targets, 0)?, config, &mut |epoch, loss| {
        counter.set(epoch as usize, &format!("loss {loss:.4}"));
    })?;
    counter.finish();
    Ok(Tested { name: name.to_owned(), logits: probe.logits(&test.features)?, labels: test.labels.clone() })
}

fn features(args: &args::Eval, loaded: &Loaded, data: &DataSet) -> anyhow::Result<(LabelledFeatures, Vec<Skipped>)> {
    let model = &loaded.model;
    let config = EvaluationConfig {
        long_audio: args.model.long_audio.map(Into::into),
        seed: args.model.seed,
        ..EvaluationConfig::default()
    };
    let extractor = FeatureExtractor::new(model.extractor().config().clone(), model.extractor().preset())?;
    let evaluation = Evaluation::new(Arc::new(data.clone()), Arc::new(WaveCache::new(0)), Arc::new(extractor), config)?;
    let cache = match cache_folder(args) {
        None => None,
        Some(folder) => evaluation.cache(&folder, model.model(), model.device())?.map(Arc::new),
    };
    let mut counter = Counter::new(data.samples.len(), "clips", &data.split);
    let found = evaluation.features(model.model(), model.device(), cache.as_ref(), &mut |done, _| {
        counter.set(done, "");
    })?;
    counter.finish();
    Ok(found)
}

/// The tower and a head, trained anew in each round.
fn fine_tuned(
    args: &args::Eval,
    loaded: &Loaded,
    rounds: &[Round],
    config: ProbeConfig,
    skipped: &mut Vec<Skipped>,
) -> anyhow::Result<Vec<Tested>> {
    let name = std::path::Path::new(&loaded.name);
    let config = FineTuneConfig {
        probe: config,
        tower_lr: args.probe.tower_lr,
        warmup: args.probe.probe_warmup,
        mixup: args.probe.mixup,
        preset: loaded.model.extractor().preset(),
        tokenizer: args.model.tokenizer.clone(),
        workers: 2,
    };
    let tuning = FineTune::new(&model_folder(name), loaded.model.device(), config)?;
    let mut tested = Vec::new();
    for round in rounds {
        let mut counter = Counter::new(0, "steps", &round.name);
        let tuned = tuning.run(&round.train, &mut |step, steps, loss| {
            counter.of(steps);
            counter.set(step as usize, &format!("loss {loss:.4}"));
        })?;
        counter.finish();
        let mut counter = Counter::new(round.test.samples.len(), "clips", &round.name);
        let answers = tuned.answers(&round.test, &mut |done, _| counter.set(done, ""))?;
        counter.finish();
        skipped.extend([&round.train, &round.test].into_iter().flat_map(|part| part.skipped.iter().cloned()));
        skipped.extend(tuned.skipped.into_iter().chain(answers.skipped));
        tested.push(Tested { name: round.name.clone(), logits: answers.logits, labels: answers.labels });
    }
    Ok(tested)
}
