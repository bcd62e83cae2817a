//! The curves of a report.

use crate::event::Step;
use crate::history::History;
use crate::plot::{Chart, Series, Stroke};

/// Weight of the newest step in a smoothed curve: about the last forty steps count, or the last tenth of a shorter run.
const SMOOTHING: f64 = 0.05;

/// A chart and the name of its file, without the ending.
pub(super) struct Curve {
    pub(super) name: &'static str,
    pub(super) chart: Chart,
}

/// What a run has to show.
pub(super) fn of(history: &History) -> Vec<Curve> {
    let curve = |name, title: &str, from_zero, series| {
        let chart = Chart { title: title.to_owned(), x_label: "step".to_owned(), from_zero, series };
        Curve { name, chart }
    };
    let points = |of: fn(&Step) -> Option<f64>| -> Vec<(f64, f64)> {
        history.steps.iter().filter_map(|step| Some((step.step as f64, of(step)?))).collect()
    };
    let plain = |name: &str, of| vec![Series::new(name, points(of))];
    let smoothed = |of| vec![Series::faint("each step", points(of)), Series::new("smoothed", smooth(&points(of)))];
    let metric = |name: &str, metric: &str| Series::new(name, of_metric(history, metric));
    let level = |name: &str, metric: &str| level(history, name, metric);
    let curves = [
        curve("loss", "Training loss", false, smoothed(|step| Some(step.loss))),
        curve(
            "retrieval",
            "Validation retrieval",
            true,
            vec![
                metric("audio→text R@10", "audio_to_text_R@10"),
                metric("text→audio R@10", "text_to_audio_R@10"),
                metric("audio→text mAP@10", "audio_to_text_mAP@10"),
                metric("text→audio mAP@10", "text_to_audio_mAP@10"),
                level("chance R@10", "chance_R@10"),
            ],
        ),
        curve(
            "zero_shot",
            "Validation zero-shot classification",
            true,
            vec![
                metric("top-1", "zeroshot_acc1"),
                metric("top-5", "zeroshot_acc5"),
                metric("macro recall", "zeroshot_mean_per_class_recall"),
                level("chance top-1", "zeroshot_chance_acc1"),
            ],
        ),
        curve("learning_rate", "Learning rate", true, plain("learning rate", |step| Some(step.lr))),
        curve(
            "logit_scale",
            "Temperature factor exp(logit_scale_a)",
            false,
            plain("logit scale", |step| Some(step.logit_scale)),
        ),
        curve("gradient_norm", "Gradient norm", true, smoothed(|step| Some(step.grad_norm))),
        curve(
            "throughput",
            "Clips per second of training",
            true,
            smoothed(|step| share(step.clips as f64, step.seconds)),
        ),
        curve(
            "data_wait",
            "Waiting for data, % of a step",
            true,
            smoothed(|step| share(100.0 * step.data_wait, step.seconds)),
        ),
        curve(
            "memory",
            "Resident memory, GB",
            true,
            plain("memory of the process", |step| Some(step.memory? as f64 / 1e9)),
        ),
    ];
    // A line needs two points.
    let drawn = |series: &Series| series.stroke == Stroke::Line && series.points.len() > 1;
    curves.into_iter().filter(|curve| curve.chart.series.iter().any(drawn)).collect()
}

fn share(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| part / whole)
}

fn of_metric(history: &History, metric: &str) -> Vec<(f64, f64)> {
    history.evals.iter().filter_map(|eval| Some((eval.step as f64, *eval.metrics.get(metric)?))).collect()
}

/// The last value of a metric that does not change, over all evaluations.
fn level(history: &History, name: &str, metric: &str) -> Series {
    let points = of_metric(history, metric);
    points.last().map_or_else(Series::default, |&(end, value)| Series::level(name, value, (0.0, end)))
}

/// Exponential moving average, its start not pulled towards zero.
fn smooth(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let (mut mean, mut weight) = (0.0, 0.0);
    let newest = (20.0 / points.len() as f64).clamp(SMOOTHING, 0.5);
    points
        .iter()
        .map(|&(x, y)| {
            mean += newest * (y - mean);
            weight += newest * (1.0 - weight);
            (x, mean / weight)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;

    #[test]
    fn smoothing_starts_at_the_first_value() {
        let smoothed = smooth(&[(0.0, 4.0), (1.0, 4.0), (2.0, 2.0)]);
        assert_eq!(smoothed[0].1, 4.0);
        assert!((smoothed[1].1 - 4.0).abs() < 1e-12 && smoothed[2].1 < 4.0 && smoothed[2].1 > 2.0);
    }

    #[test]
    fn only_what_was_measured_is_drawn() {
        let steps = |memory| {
            let mut history = History::default();
            for step in [1, 2] {
                history.take(Event::Step(Step { step, seconds: 0.5, clips: 8, memory, ..Step::default() }));
            }
            of(&history).iter().map(|curve| curve.name).collect::<Vec<_>>()
        };
        let known = ["loss", "learning_rate", "logit_scale", "gradient_norm", "throughput", "data_wait"];
        assert_eq!(steps(None), known);
        assert_eq!(steps(Some(1)), [&known[..], &["memory"]].concat());
    }
}
