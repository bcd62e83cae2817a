//! `cargo xtask eval`: retrieval and zero-shot classification of a model on a data set.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use clap_audio::FeatureExtractor;
use clap_data::{DataSet, OpenOptions, WaveCache};
use clap_eval::{Evaluation, EvaluationConfig, Record};
use indicatif::{ProgressBar, ProgressStyle};

use crate::args;
use crate::exit::{Exit, failure};
use crate::model::load;
use crate::table;

/// What is evaluated when nothing else is asked for.
const DEFAULT_DATA: &str = "datasets/sounds-mini";

pub(crate) fn run(args: args::Eval) -> anyhow::Result<Exit> {
    let requirements = args.require.iter().map(|text| Requirement::parse(text)).collect::<anyhow::Result<Vec<_>>>()?;
    let data = Arc::new(open(&args)?);
    let loaded = load(&args.model)?;
    let model = &loaded.model;

    let defaults = EvaluationConfig::default();
    // The prompts of a benchmark are part of it: with those of the run a number could not be compared.
    let asked = args.template.as_ref();
    let trained = loaded.run.as_ref();
    let positions = model.config().text_config.max_tokens();
    let config = EvaluationConfig {
        templates: match (asked, trained) {
            (Some(asked), _) => vec![asked.clone()],
            (None, Some(run)) if data.templates.is_empty() => vec![run.eval.template.clone()],
            (None, _) => Vec::new(),
        },
        long_audio: args.model.long_audio.map(Into::into),
        seed: args.model.seed,
        max_tokens: trained.map_or(defaults.max_tokens, |run| run.data.max_tokens).min(positions),
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
        eprintln!("{} skipped", skipped.len());
    }
    if args.strict && !skipped.is_empty() {
        return Err(failure(Exit::Data, "--strict: a data set with bad clips is not evaluated"));
    }

    let metrics = outcome.metrics();
    let mut out = std::io::stdout();
    if args.json {
        for record in [
            outcome.zero_shot.as_ref().map(|found| Record::zero_shot(&data.name, &loaded.name, &data.split, found)),
            outcome.multi_label.as_ref().map(|found| Record::multi_label(&data.name, &loaded.name, &data.split, found)),
            outcome.retrieval.as_ref().map(|found| Record::retrieval(&data.name, &loaded.name, &data.split, found)),
        ]
        .into_iter()
        .flatten()
        {
            writeln!(out, "{}", record.to_json_line())?;
        }
    } else {
        eprintln!("model {}\ndata  {}, split {}", loaded.name, data.name, data.split);
        writeln!(out, "{}", table::metrics(&[("value", &metrics)]))?;
    }
    let missed: Vec<String> = requirements.iter().filter_map(|required| required.missed(&metrics)).collect();
    if missed.is_empty() { Ok(Exit::Done) } else { Err(failure(Exit::NothingFound, missed.join("; "))) }
}

/// Opens the data: the split asked for, else a held-out one, else all there is.
fn open(args: &args::Eval) -> anyhow::Result<DataSet> {
    let path: PathBuf = args.data.clone().unwrap_or_else(|| crate::workspace().join(DEFAULT_DATA));
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

/// `--require METRIC=VALUE`.
struct Requirement {
    /// Its name in [`clap_eval::Outcome::metrics`].
    metric: String,
    at_least: f64,
}

impl Requirement {
    /// Classification's names may be written without `zeroshot_`.
    fn parse(text: &str) -> anyhow::Result<Self> {
        let parsed = text.split_once('=').and_then(|(metric, value)| Some((metric, value.parse::<f64>().ok()?)));
        let Some((name, at_least)) = parsed.filter(|(_, value)| value.is_finite()) else {
            return Err(failure(Exit::Usage, format!("--require {text}: write METRIC=VALUE, as in acc1=0.2")));
        };
        let known = clap_eval::metric_names();
        let metric = [name.to_owned(), format!("zeroshot_{name}")].into_iter().find(|name| known.contains(name));
        let Some(metric) = metric else {
            let text = format!("--require {text}: there is no metric `{name}`; there are {}", known.join(", "));
            return Err(failure(Exit::Usage, text));
        };
        Ok(Self { metric, at_least })
    }

    /// What to tell if the metric is below, or was not measured.
    fn missed(&self, metrics: &clap_train::Metrics) -> Option<String> {
        match metrics.get(&self.metric) {
            Some(value) if *value >= self.at_least => None,
            Some(value) => Some(format!("{} is {value:.4}, below the required {}", self.metric, self.at_least)),
            None => Some(format!("{} was required and could not be measured on this data", self.metric)),
        }
    }
}
