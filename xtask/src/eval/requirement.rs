//! `--require METRIC=VALUE`: what an evaluation has to reach.

use crate::exit::{Exit, failure};

pub(super) struct Requirement {
    /// Its name in [`clap_eval::Outcome::metrics`].
    metric: String,
    at_least: f64,
}

impl Requirement {
    /// Classification's names may be written without `zeroshot_`.
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
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
    pub(super) fn missed(&self, metrics: &clap_train::Metrics) -> Option<String> {
        match metrics.get(&self.metric) {
            Some(value) if *value >= self.at_least => None,
            Some(value) => Some(format!("{} is {value:.4}, below the required {}", self.metric, self.at_least)),
            None => Some(format!("{} was required and could not be measured on this data", self.metric)),
        }
    }
}
