//! `cargo xtask eval`: retrieval and zero-shot classification of a model on a data set.

use std::path::PathBuf;
use std::sync::Arc;

use clap_audio::FeatureExtractor;
use clap_data::{DataSet, OpenOptions, WaveCache};
use clap_encoders::ClapTokenizer;
use clap_eval::{Evaluation, EvaluationConfig, Record};
use indicatif::{ProgressBar, ProgressStyle};

use crate::args;
use crate::exit::{Exit, failure};
use crate::model::load;
use crate::table;

/// What is evaluated when nothing else is asked for.
const DEFAULT_DATA: &str = "datasets/sounds-mini";

/// Splits that are held out, in the order of preference; the first that a data set has is evaluated.
const HELD_OUT: [&str; 6] = ["valid", "val", "validation", "test", "eval", "evaluation"];

pub(crate) fn run(args: args::Eval) -> anyhow::Result<Exit> {
    let requirements = args.require.iter().map(|text| Requirement::parse(text)).collect::<anyhow::Result<Vec<_>>>()?;
    let data = Arc::new(open(&args)?);
    let loaded = load(&args.model)?;
    let model = &loaded.model;

    let config = EvaluationConfig {
        template: args.template,
        long_audio: args.model.long_audio.map(Into::into),
        seed: args.model.seed,
        max_tokens: ClapTokenizer::MAX_TOKENS.min(model.config().text_config.max_tokens()),
        ..EvaluationConfig::default()
    };
    let extractor = FeatureExtractor::new(model.extractor().config().clone(), model.extractor().preset())?;
    let cache = Arc::new(WaveCache::new(0)); // each clip is heard once
    let evaluation = Evaluation::new(Arc::clone(&data), cache, Arc::new(extractor), config)?;
    let bar = ProgressBar::new(data.samples.len() as u64);
    bar.set_style(
        ProgressStyle::with_template("{bar:24.cyan/dim} {pos}/{len} clips  {eta} left")?.progress_chars("━━─"),
    );
    let outcome = evaluation
        .run(model.model(), model.tokenizer(), model.device(), &mut |done, _| bar.set_position(done as u64))?;
    bar.finish_and_clear();

    let skipped: Vec<_> = data.skipped.iter().chain(&outcome.skipped).collect();
    for clip in &skipped {
        eprintln!("skipped {clip}");
    }
    if !skipped.is_empty() {
        eprintln!("{} bad clips skipped", skipped.len());
    }
    if args.strict && !skipped.is_empty() {
        return Err(failure(Exit::Data, "--strict: a data set with bad clips is not evaluated"));
    }

    let metrics = outcome.metrics();
    if args.json {
        for record in [
            outcome.zero_shot.as_ref().map(|found| Record::zero_shot(&data.name, &loaded.name, &data.split, found)),
            outcome.retrieval.as_ref().map(|found| Record::retrieval(&data.name, &loaded.name, &data.split, found)),
        ]
        .into_iter()
        .flatten()
        {
            println!("{}", record.to_json_line());
        }
    } else {
        eprintln!("model {}\ndata  {}, split {}", loaded.name, data.name, data.split);
        println!("{}", table::metrics(&metrics));
    }
    let missed: Vec<String> = requirements
        .iter()
        .filter_map(|required| required.missed(&metrics).transpose())
        .collect::<anyhow::Result<_>>()?;
    if missed.is_empty() { Ok(Exit::Done) } else { Err(failure(Exit::NothingFound, missed.join("; "))) }
}

/// Opens the data: the split asked for, else a held-out one, else all there is.
fn open(args: &args::Eval) -> anyhow::Result<DataSet> {
    let path: PathBuf = args.data.clone().unwrap_or_else(|| crate::workspace().join(DEFAULT_DATA));
    let split = match &args.split {
        Some(split) => Some(split.clone()),
        None => {
            let splits = clap_data::splits(&path)?;
            HELD_OUT.iter().find(|name| splits.iter().any(|split| split == *name)).map(ToString::to_string)
        }
    };
    Ok(clap_data::open(&path, &OpenOptions { split, strict: args.strict, ..OpenOptions::default() })?)
}

/// `--require METRIC=VALUE`.
struct Requirement {
    metric: String,
    at_least: f64,
}

impl Requirement {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let parsed = text.split_once('=').and_then(|(metric, value)| {
            Some(Self { metric: metric.to_owned(), at_least: value.parse().ok().filter(|v: &f64| v.is_finite())? })
        });
        parsed
            .ok_or_else(|| failure(Exit::Usage, format!("--require {text}: write METRIC=VALUE, for example acc1=0.2")))
    }

    /// What to tell if the metric is below; classification's names may be written without `zeroshot_`.
    fn missed(&self, metrics: &clap_train::Metrics) -> anyhow::Result<Option<String>> {
        let value = metrics.get(&self.metric).or_else(|| metrics.get(&format!("zeroshot_{}", self.metric)));
        let Some(value) = value else {
            let known: Vec<&str> = metrics.keys().map(String::as_str).collect();
            let text = format!("--require {}: no such metric; there are {}", self.metric, known.join(", "));
            return Err(failure(Exit::Usage, text));
        };
        let missed = *value < self.at_least;
        Ok(missed.then(|| format!("{} is {value:.4}, below the required {}", self.metric, self.at_least)))
    }
}
