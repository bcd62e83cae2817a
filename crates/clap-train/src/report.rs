//! `report.md` of a run: its last numbers beside chance, and its curves.
//!
//! The curves are drawn from `metrics.jsonl`, so a report can be made again from the folder alone.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use clap_eval::{HEADLINES, Headline};
use serde_json::Value;

use crate::config::TrainConfig;
use crate::error::{Error, Result};
use crate::event::{Done, Ending, Metrics};
use crate::plot::{Chart, Series};
use crate::run_folder::write_atomically;

/// Weight of the newest step in the smoothed loss: about the last forty steps count.
const SMOOTHING: f64 = 0.05;

/// One metric of the final table.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// What it measures, for people.
    pub label: &'static str,
    /// Its name in [`crate::Metrics`].
    pub name: &'static str,
    /// At the best evaluation.
    pub best: Option<f64>,
    /// At the last evaluation.
    pub last: Option<f64>,
    /// What guessing gives, where that is known.
    pub chance: Option<f64>,
}

/// The final table; metrics that the run has not measured are left out.
#[must_use]
pub fn table(done: &Done) -> Vec<Row> {
    let row = |&Headline { label, name, chance }: &Headline| Row {
        label,
        name,
        best: done.best.get(name).copied(),
        last: done.last.get(name).copied(),
        chance: chance.and_then(|chance| done.last.get(chance).copied()),
    };
    HEADLINES.iter().map(row).filter(|row| row.best.is_some() || row.last.is_some()).collect()
}

/// What a run's log says of its best evaluation and of its last one.
///
/// # Errors
/// Where `metrics.jsonl` cannot be read.
pub(crate) fn best_and_last(run: &Path) -> Result<[Metrics; 2]> {
    Ok(History::read(run)?.best_and_last())
}

/// Writes `report.md` and `curves/*.svg` into the run's folder.
///
/// # Errors
/// Where `metrics.jsonl` cannot be read or a file cannot be written.
pub fn write(run: &Path, config: &TrainConfig, done: &Done) -> Result<()> {
    let curves = run.join("curves");
    fs::create_dir_all(&curves).map_err(|e| Error::io(&curves, e))?;
    let history = History::read(run)?;
    let mut drawn = Vec::new();
    for (file, chart) in history.charts() {
        // A line needs two points.
        if chart.series.iter().any(|series| !series.reference && series.points.len() > 1) {
            write_atomically(&curves.join(file), chart.to_svg().as_bytes())?;
            drawn.push((file, chart.title));
        }
    }
    let text = markdown(run, config, done, &drawn);
    write_atomically(&run.join("report.md"), text.as_bytes())
}

fn markdown(run: &Path, config: &TrainConfig, done: &Done, curves: &[(&str, String)]) -> String {
    let name = run.file_name().unwrap_or_default().to_string_lossy();
    let ending = match done.ending {
        Ending::Epochs => "all epochs done",
        Ending::Time => "the time budget was spent",
        Ending::Requested => "stopped on request",
        Ending::Data => "the stream of training clips ended",
    };
    let mut text = format!(
        "# CLAP training run `{name}`\n\n\
         {} steps of {} clips in {:.1} minutes ({ending}), epoch {}, {:.0} training clips/s, {:.0} % of the \
         time waiting for data, {} clips left out, seed {}. \
         The whole configuration is in [config.toml](config.toml), every event in [metrics.jsonl](metrics.jsonl).\n\n",
        done.steps,
        config.data.batch_size,
        done.elapsed / 60.0,
        done.epochs,
        done.clips_per_second,
        done.data_wait * 100.0,
        done.skipped,
        config.seed,
    );
    let rows = table(done);
    if rows.is_empty() {
        text.push_str("The run had no validation clips.\n\n");
    } else {
        let on = config.data.valid.as_deref().unwrap_or(Path::new("")).display();
        let split = config.data.valid_split.as_deref().map(|s| format!(", split `{s}`")).unwrap_or_default();
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "## Validation (`{on}`{split})\n\n\
             | metric | [best](checkpoints/best) (epoch {}) | [last](checkpoints/latest) | chance |\n|---|---:|---:|---:|",
            done.best_epoch
        );
        for row in rows {
            let cells = [row.best, row.last, row.chance].map(|v| v.map_or_else(|| "–".to_owned(), number));
            let _ = writeln!(text, "| {} | {} |", row.label, cells.join(" | "));
        }
        let _ = writeln!(
            text,
            "\nThe best checkpoint has the greatest mean of {}. It was chosen on these same clips, so its numbers are a little \
             optimistic; those of the last one are not chosen.\n",
            config.eval.select.join(", ")
        );
    }
    if !curves.is_empty() {
        text.push_str("## Curves\n\n");
    }
    for (file, title) in curves {
        let _ = writeln!(text, "![{title}](curves/{file})\n");
    }
    text
}

/// Three decimals for shares, one for ranks.
fn number(value: f64) -> String {
    if value <= 1.0 { format!("{value:.3}") } else { format!("{value:.1}") }
}

/// The steps and evaluations of a run.
#[derive(Debug, Default)]
struct History {
    steps: Vec<Value>,
    evals: Vec<Value>,
}

impl History {
    fn read(run: &Path) -> Result<Self> {
        let path = run.join("metrics.jsonl");
        let text = fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
        let mut history = Self::default();
        // A killed run may have left half a line.
        for event in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            match event["event"].as_str() {
                Some("step") => history.steps.push(event),
                Some("eval") => history.evals.push(event),
                _ => {}
            }
        }
        Ok(history)
    }

    /// The metrics of the best evaluation and of the last one.
    fn best_and_last(&self) -> [Metrics; 2] {
        let metrics = |eval: Option<&Value>| {
            eval.and_then(|eval| serde_json::from_value(eval["metrics"].clone()).ok()).unwrap_or_default()
        };
        [metrics(self.evals.iter().rfind(|eval| eval["best"] == true)), metrics(self.evals.last())]
    }

    fn charts(&self) -> Vec<(&'static str, Chart)> {
        let chart = |title: &str, from_zero, series| Chart {
            title: title.to_owned(),
            x_label: "step".to_owned(),
            from_zero,
            series,
        };
        let of_step = |name, field| Series::new(name, self.step_points(field));
        vec![
            (
                "loss.svg",
                chart("Training loss, smoothed", false, vec![Series::new("loss", smooth(&self.step_points("loss")))]),
            ),
            (
                "retrieval.svg",
                chart(
                    "Validation retrieval",
                    true,
                    vec![
                        self.of_eval("audio→text R@10", "audio_to_text_R@10"),
                        self.of_eval("text→audio R@10", "text_to_audio_R@10"),
                        self.of_eval("audio→text mAP@10", "audio_to_text_mAP@10"),
                        self.of_eval("text→audio mAP@10", "text_to_audio_mAP@10"),
                        self.level("chance R@10", "chance_R@10"),
                    ],
                ),
            ),
            (
                "zero_shot.svg",
                chart(
                    "Validation zero-shot classification",
                    true,
                    vec![
                        self.of_eval("top-1", "zeroshot_acc1"),
                        self.of_eval("top-5", "zeroshot_acc5"),
                        self.of_eval("macro recall", "zeroshot_mean_per_class_recall"),
                        self.level("chance top-1", "zeroshot_chance_acc1"),
                    ],
                ),
            ),
            ("learning_rate.svg", chart("Learning rate", true, vec![of_step("learning rate", "lr")])),
            (
                "logit_scale.svg",
                chart("Temperature factor exp(logit_scale_a)", false, vec![of_step("logit scale", "logit_scale")]),
            ),
            (
                "gradient_norm.svg",
                chart(
                    "Gradient norm, smoothed",
                    true,
                    vec![Series::new("norm", smooth(&self.step_points("grad_norm")))],
                ),
            ),
        ]
    }

    fn step_points(&self, field: &str) -> Vec<(f64, f64)> {
        self.steps.iter().filter_map(|s| Some((s["step"].as_f64()?, s[field].as_f64()?))).collect()
    }

    fn of_eval(&self, name: &str, metric: &str) -> Series {
        let points = self.evals.iter().filter_map(|e| Some((e["step"].as_f64()?, e["metrics"][metric].as_f64()?)));
        Series::new(name, points.collect())
    }

    fn level(&self, name: &str, metric: &str) -> Series {
        let value = self.evals.last().and_then(|e| e["metrics"][metric].as_f64());
        let end = self.evals.last().and_then(|e| e["step"].as_f64()).unwrap_or(0.0);
        value.map_or_else(Series::default, |value| Series::level(name, value, (0.0, end)))
    }
}

/// Exponential moving average, its start not pulled towards zero.
fn smooth(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let (mut mean, mut weight) = (0.0, 0.0);
    points
        .iter()
        .map(|&(x, y)| {
            mean += SMOOTHING * (y - mean);
            weight += SMOOTHING * (1.0 - weight);
            (x, mean / weight)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Eval, Event, Metrics};
    use crate::run_folder::RunFolder;

    fn done() -> Done {
        let metrics: Metrics = [
            ("text_to_audio_R@10", 0.6401),
            ("chance_R@10", 0.06),
            ("zeroshot_acc5", 0.5),
            ("zeroshot_chance_acc5", 0.0465),
            ("audio_to_text_median_rank", 7.0),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        Done {
            ending: Ending::Time,
            steps: 300,
            epochs: 12,
            clips_seen: 19_200,
            clips_per_second: 81.6,
            data_wait: 0.02,
            elapsed: 470.0,
            skipped: 1,
            last: metrics.clone(),
            best: metrics,
            best_epoch: 11,
        }
    }

    #[test]
    fn the_table_sets_numbers_beside_chance() {
        let rows = table(&done());
        assert_eq!(
            rows.iter().map(|r| r.name).collect::<Vec<_>>(),
            ["zeroshot_acc5", "audio_to_text_median_rank", "text_to_audio_R@10"]
        );
        assert_eq!(rows[2].chance, Some(0.06));
        assert_eq!(rows[0].chance, Some(0.0465));
        assert_eq!(rows[1].chance, None);
    }

    #[test]
    fn a_report_links_only_what_exists() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("a");
        let mut run = RunFolder::create(&path, "").unwrap();
        for step in 0..3 {
            let eval = Eval { step, epoch: step, metrics: done().last, selected: 0.6, best: true, seconds: 1.0 };
            run.log(&Event::Eval(eval)).unwrap();
        }
        write(&path, &TrainConfig::default(), &done()).unwrap();
        let text = fs::read_to_string(path.join("report.md")).unwrap();
        assert!(text.contains("| text→audio R@10 | 0.640 | 0.640 | 0.060 |"), "{text}");
        assert!(text.contains("| audio→text median rank | 7.0 | 7.0 | – |"), "{text}");
        let linked: Vec<&str> =
            text.match_indices("(curves/").map(|(i, _)| text[i + 1..].split(')').next().unwrap()).collect();
        assert_eq!(linked, ["curves/retrieval.svg", "curves/zero_shot.svg"]);
        assert!(linked.iter().all(|file| path.join(file).is_file()));
    }

    #[test]
    fn smoothing_starts_at_the_first_value() {
        let smoothed = smooth(&[(0.0, 4.0), (1.0, 4.0), (2.0, 2.0)]);
        assert_eq!(smoothed[0].1, 4.0);
        assert!((smoothed[1].1 - 4.0).abs() < 1e-12 && smoothed[2].1 < 4.0 && smoothed[2].1 > 2.0);
    }
}
