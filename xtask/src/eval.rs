//! `cargo xtask eval`: retrieval and zero-shot classification of a model, or of embeddings that any program made, on a data set.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use clap_audio::FeatureExtractor;
use clap_data::{DataSet, OpenOptions, Skipped, WaveCache};
use clap_eval::{Embedded, EmbeddingFile, Evaluation, EvaluationConfig, Interval, Outcome, Record};
use clap_train::{Metrics, TrainConfig};
use serde_json::{Map, Value, json};

use crate::args::{self, LongAudio};
use crate::counter::Counter;
use crate::exit::{Exit, failure};
use crate::model::{Loaded, load};
use crate::results::Results;
use crate::table;

mod probe;
mod requirement;
mod suite;

use requirement::Requirement;

/// What is evaluated when nothing else is asked for.
const DEFAULT_DATA: &str = "datasets/sounds-mini";

/// Names the folder of embeddings where there is no `--cache`.
const CACHE: &str = "CLAP_EMBEDDINGS";

/// Seed of the draws that intervals are made of.
pub(crate) const BOOTSTRAP_SEED: u64 = 0;

pub(crate) fn run(args: args::Eval) -> anyhow::Result<Exit> {
    let requirements = args.require.iter().map(|text| Requirement::parse(text)).collect::<anyhow::Result<Vec<_>>>()?;
    if let Some(suite) = args.suite {
        return suite::run(&args, suite);
    }
    if let Some(head) = args.probe.head() {
        return probe::run(&args, &load(&args.model)?, head);
    }
    let evaluated = if args.embeddings.is_empty() {
        let data = open(&args)?;
        by_model(&args, &load_to_evaluate(&args.model)?, data)?
    } else {
        by_file(&args)?
    };
    let metrics = told(&args, &evaluated)?;
    let missed: Vec<String> = requirements.iter().filter_map(|required| required.missed(&metrics)).collect();
    if missed.is_empty() { Ok(Exit::Done) } else { Err(failure(Exit::NothingFound, missed.join("; "))) }
}

/// Measures, writes and prints; the metrics by name.
fn told(args: &args::Eval, evaluated: &Evaluated) -> anyhow::Result<Metrics> {
    let Evaluated { embedded, skipped, model, .. } = evaluated;
    for clip in skipped {
        eprintln!("skipped {clip}");
    }
    if !skipped.is_empty() {
        eprintln!("{} skipped", skipped.len());
    }
    if args.strict && !skipped.is_empty() {
        return Err(failure(Exit::Data, "--strict: a data set with bad clips is not evaluated"));
    }

    let outcome = embedded.measure()?;
    let intervals = outcome.intervals(BOOTSTRAP_SEED);
    let records = evaluated.records(&outcome, &intervals);
    if let Some(folder) = &args.out {
        Results { records: records.clone(), embedded: embedded.clone() }.save(folder)?;
        eprintln!("results {}", folder.display());
    }
    let metrics = outcome.metrics();
    let mut out = std::io::stdout();
    if args.json {
        for record in &records {
            writeln!(out, "{}", record.to_json_line())?;
        }
    } else {
        eprintln!("model {model}\ndata  {}, split {}", embedded.dataset, embedded.split);
        writeln!(out, "{}", table::evaluation(&metrics, &intervals))?;
    }
    Ok(metrics)
}

/// A split that was embedded, and how.
pub(crate) struct Evaluated {
    pub(crate) embedded: Embedded,
    pub(crate) skipped: Vec<Skipped>,
    /// The model's name, or the file's.
    pub(crate) model: String,
    pub(crate) settings: Map<String, Value>,
}

impl Evaluated {
    /// A record of each task.
    fn records(&self, outcome: &Outcome, intervals: &BTreeMap<String, Interval>) -> Vec<Record> {
        let Embedded { dataset, split, .. } = &self.embedded;
        let mut records = Record::of(outcome, intervals, (dataset, split, &self.model));
        for record in &mut records {
            record.settings.clone_from(&self.settings);
        }
        records
    }
}

/// Loads a model for an evaluation, in which the windows of a long clip may vote.
fn load_to_evaluate(args: &args::Model) -> anyhow::Result<Loaded> {
    let votes = matches!(args.long_audio, Some(LongAudio::Vote));
    load(&args::Model { long_audio: if votes { Some(LongAudio::Windows) } else { args.long_audio }, ..args.clone() })
}

/// Embeds a data set by a model, clip by clip but those that the cache has.
pub(crate) fn by_model(args: &args::Eval, loaded: &Loaded, data: DataSet) -> anyhow::Result<Evaluated> {
    let data = Arc::new(data);
    let model = &loaded.model;
    let defaults = EvaluationConfig::default();
    let trained = loaded.run.as_ref();
    let positions = model.config().text_config.max_tokens();
    let templates = templates(args, &data, trained);
    let config = EvaluationConfig {
        templates: templates.clone(),
        long_audio: args.model.long_audio.map(Into::into),
        vote: matches!(args.model.long_audio, Some(LongAudio::Vote)),
        seed: args.model.seed,
        max_tokens: trained.map_or(defaults.max_tokens, |run| run.data.max_tokens).min(positions),
        ..EvaluationConfig::default()
    };
    let extractor = FeatureExtractor::new(model.extractor().config().clone(), model.extractor().preset())?;
    let waves = Arc::new(WaveCache::new(0)); // each clip is heard once
    let evaluation = Evaluation::new(Arc::clone(&data), waves, Arc::new(extractor), config)?;
    let cache = match cache_folder(args) {
        None => None,
        Some(folder) => evaluation.cache(&folder, model.model(), model.device())?.map(Arc::new),
    };
    let known = cache.as_ref().map_or(0, |cache| cache.len());
    let mut counter = Counter::new(data.samples.len(), "clips", "");
    let (embedded, skipped) =
        evaluation.embed(model.model(), model.tokenizer(), model.device(), cache.as_ref(), &mut |done, _| {
            counter.set(done, "");
        })?;
    counter.finish();
    if let Some(cache) = &cache {
        let kept = embedded.clips.len().saturating_sub(cache.len() - known);
        if kept > 0 {
            eprintln!("{kept} of {} clips were embedded before ({})", embedded.clips.len(), cache.path().display());
        }
    }
    let skipped = data.skipped.iter().cloned().chain(skipped).collect();
    let mut settings = listening(args, loaded)?;
    settings.insert("templates".to_owned(), templates.into());
    Ok(Evaluated { embedded, skipped, model: loaded.name.clone(), settings })
}

/// How a model was given the data, for a record.
fn listening(args: &args::Eval, loaded: &Loaded) -> anyhow::Result<Map<String, Value>> {
    let extractor = loaded.model.extractor();
    let policy = args.model.long_audio.and_then(|policy| clap::ValueEnum::to_possible_value(&policy));
    let policy = policy.map_or_else(|| extractor.default_policy().to_string(), |value| value.get_name().to_owned());
    let mut settings = Map::new();
    for (name, value) in [
        ("data", json!(std::path::absolute(data_path(args))?)),
        ("exclude", json!(args.exclude)),
        ("long_audio", json!(policy)),
        ("seed", json!(args.model.seed)),
        ("preset", json!(extractor.preset())),
        ("dtype", json!(args.model.dtype)),
        ("bootstrap_seed", json!(BOOTSTRAP_SEED)),
    ] {
        settings.insert(name.to_owned(), value);
    }
    Ok(settings)
}

/// The prompts of classes: those asked for, else the data set's own, which are part of a benchmark, else the run's, else the usual one.
fn templates(args: &args::Eval, data: &DataSet, trained: Option<&TrainConfig>) -> Vec<String> {
    match (args.template.as_slice(), data.templates.as_slice(), trained) {
        ([], [], Some(run)) => vec![run.eval.template.clone()],
        ([], [], None) => vec![EvaluationConfig::TEMPLATE.to_owned()],
        ([], own, _) => own.to_vec(),
        (asked, ..) => asked.to_vec(),
    }
}

/// Takes embeddings from files; the data set gives captions and labels where the file does not.
fn by_file(args: &args::Eval) -> anyhow::Result<Evaluated> {
    let file = EmbeddingFile::open(&args.embeddings)?;
    let model = args.embeddings[0].display().to_string();
    let settings = Map::from_iter([("bootstrap_seed".to_owned(), BOOTSTRAP_SEED.into())]);
    let (embedded, skipped) = match file {
        EmbeddingFile::Split(split) => {
            if args.data.is_some() || args.split.is_some() || args.exclude.is_some() || !args.template.is_empty() {
                let text = "says itself what it is of: leave out --data, --split, --exclude and --template";
                return Err(failure(Exit::Usage, format!("{model} {text}")));
            }
            (*split, Vec::new())
        }
        file if args.data.is_none() => {
            drop(file);
            let text = format!("{model} has embeddings alone: give the data set they are of with --data");
            return Err(failure(Exit::Usage, text));
        }
        file => {
            let data = open(args)?;
            let templates = templates(args, &data, None);
            let templates = templates.iter().map(|pattern| clap_data::caption::template(pattern));
            let (embedded, mut skipped) = file.join(&data, &templates.collect::<Result<Vec<_>, _>>()?)?;
            skipped.splice(0..0, data.skipped);
            (embedded, skipped)
        }
    };
    Ok(Evaluated { embedded, skipped, model, settings })
}

/// Where embeddings are kept, if they are.
fn cache_folder(args: &args::Eval) -> Option<PathBuf> {
    if args.no_cache {
        return None;
    }
    let named = args.cache.clone().or_else(|| std::env::var_os(CACHE).map(PathBuf::from));
    Some(named.unwrap_or_else(|| crate::runs().join("embeddings")))
}

fn data_path(args: &args::Eval) -> PathBuf {
    args.data.clone().unwrap_or_else(|| crate::workspace().join(DEFAULT_DATA))
}

/// Opens the data: the split asked for, else a held-out one, else all there is.
fn open(args: &args::Eval) -> anyhow::Result<DataSet> {
    let path = data_path(args);
    let columns = args.table.open_options();
    let split = match &args.split {
        Some(split) => Some(split.clone()),
        None => clap_data::evaluation_split(&path, &columns)?,
    };
    let options = OpenOptions { split, strict: args.strict, exclude: args.exclude.clone(), ..columns };
    let data = clap_data::open(&path, &options)?;
    if let Some(excluded) = &data.excluded {
        eprintln!("{}", table::excluded(excluded));
    }
    Ok(data)
}
