//! `cargo xtask train --dry-run`: what a run would be, from everything opened and a few clips tried.

use std::io::Write;

use clap_train::{DryRun, Setup, TrainConfig};

use crate::exit::Exit;

pub(super) fn run(config: TrainConfig) -> anyhow::Result<Exit> {
    let mut setup = Setup::open(config)?;
    let train = setup.train.clips();
    let valid = setup.validation.as_ref().map(|validation| validation.data());
    let valid = valid.map_or_else(
        || "none".to_owned(),
        |data| format!("{} clips, split {}, {} classes", data.samples.len(), data.split, data.classes.len()),
    );
    let excluded = match setup.train.skipped().len() {
        0 => String::new(),
        skipped => format!(", {skipped} left out"),
    };
    eprintln!("trying a few clips …");
    let dry = setup.dry_run()?;
    let (schedule, config) = (&setup.schedule, &setup.config);
    let [batch, views, frames, bins] = dry.input_features;
    let mut lines = vec![("training", format!("{train} clips{excluded}")), ("validation", valid)];
    lines.extend(setup.initialised.iter().map(|message| ("weights", message.clone())));
    lines.extend([
        ("parameters", format!("{:.2} M train, {:.2} M are frozen", millions(dry.trained), millions(dry.frozen))),
        (
            "batch",
            format!("input_features ({batch}, {views}, {frames}, {bins}), input_ids ({batch}, ≤ {})", setup.max_tokens),
        ),
        (
            "steps",
            format!(
                "{} an epoch, {} in {} epochs; {} clips each",
                setup.steps_per_epoch, schedule.total, config.schedule.epochs, dry.clips_per_step
            ),
        ),
        (
            "rate",
            format!("{:?} to {:e}, {} steps of warm-up", schedule.shape, schedule.base_lr, schedule.warmup)
                .to_lowercase(),
        ),
    ]);
    lines.extend(reckoned(&dry, schedule.total));
    let mut out = std::io::stdout().lock();
    for (name, value) in lines {
        writeln!(out, "{name:<11} {value}")?;
    }
    for warning in &setup.warnings {
        eprintln!("warning: {warning}");
    }
    Ok(Exit::Done)
}

/// Time and memory.
fn reckoned(dry: &DryRun, total: u64) -> Vec<(&'static str, String)> {
    let from = format!("reckoned from steps of 2 and {} clips", dry.tried);
    let whole = dry.seconds_per_step * total as f64;
    let mut lines = vec![(
        "time",
        format!("{} a step, {} of training without evaluations ({from})", span(dry.seconds_per_step), span(whole)),
    )];
    let gigabytes = |bytes: u64| format!("{:.1} GB", bytes as f64 / 1e9);
    if let Some(bytes) = dry.training_bytes {
        let evaluation =
            dry.evaluation_bytes.map_or_else(String::new, |bytes| format!(", evaluation {}", gigabytes(bytes)));
        lines.push((
            "memory",
            format!("training {}{evaluation}, without the cache of clips ({from})", gigabytes(bytes)),
        ));
    }
    lines
}

fn millions(count: usize) -> f64 {
    count as f64 / 1e6
}

/// `0.42 s`, `5:07 min`, `3.4 h`, `2.1 days`.
fn span(seconds: f64) -> String {
    match seconds {
        s if s < 60.0 => format!("{s:.2} s"),
        s if s < 3600.0 => format!("{} min", crate::progress::minutes(s)),
        s if s < 48.0 * 3600.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.1} days", s / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn spans_have_the_unit_a_person_would_use() {
        for (seconds, text) in [(0.418, "0.42 s"), (307.0, "5:07 min"), (12_300.0, "3.4 h"), (1_814_400.0, "21.0 days")]
        {
            assert_eq!(super::span(seconds), text);
        }
    }
}
