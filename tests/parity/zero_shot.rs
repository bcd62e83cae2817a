//! Zero-shot and multi-label metrics against LAION-CLAP's `evaluate/eval_zeroshot_classification.py` and `LPMetrics`
//! (laion-clap 1.1.7; scikit-learn's average precision and ROC area), fixture `zero_shot` of `make_fixtures.py`.

use candle_core::{Device, Tensor};
use clap_eval::{multi_label, unit_rows, zero_shot};
use clap_tests::{Fixture, check_values};

fn labels(fixture: &Fixture) -> Vec<usize> {
    fixture.i64("in/labels").0.into_iter().map(|l| usize::try_from(l).unwrap()).collect()
}

fn close(what: &str, ours: f64, theirs: f64) {
    assert!((ours - theirs).abs() <= 1e-9, "{what}: ours {ours}, reference {theirs}");
}

#[test]
fn classification() {
    let fixture = Fixture::load("zero_shot");
    let [audio, classes] = ["audio", "text"]
        .map(|side| unit_rows(side, &fixture.tensor(&format!("in/{side}_unnormalised"), &Device::Cpu)).unwrap());
    let labels = labels(&fixture);
    let ours = zero_shot(&audio, &classes, &labels).unwrap();
    let metrics = fixture.config()["metrics"].as_object().unwrap();
    assert!(metrics.len() >= 7);
    for (name, value) in metrics {
        let name = name.split_once('_').filter(|(set, _)| *set != "num").map_or(name.as_str(), |(_, metric)| metric);
        let name = match name {
            "R@1" => "acc1",
            "R@5" => "acc5",
            "R@10" => "acc10",
            name => name,
        };
        close(name, ours.get(name).unwrap(), value.as_f64().unwrap());
    }

    // Macro recall by its definition, from the predictions alone.
    let n = classes.dim(0).unwrap();
    let recalls: Vec<f64> = (0..n)
        .filter_map(|class| {
            let of_class: Vec<usize> = (0..labels.len()).filter(|&i| labels[i] == class).collect();
            let right = of_class.iter().filter(|&&i| ours.predictions[i] == class).count();
            (!of_class.is_empty()).then(|| right as f64 / of_class.len() as f64)
        })
        .collect();
    close("mean_per_class_recall", ours.mean_per_class_recall, recalls.iter().sum::<f64>() / recalls.len() as f64);
    close("chance_acc1", ours.chance_acc1, 1.0 / n as f64);
    let right = ours.per_class.iter().map(|c| c.correct).sum::<usize>();
    close("acc1 by class", right as f64 / labels.len() as f64, ours.acc1);
}

/// The reference's scores are the sigmoids of the logits.
fn sigmoid(logits: &Tensor) -> Tensor {
    candle_nn::ops::sigmoid(logits).unwrap()
}

fn class_values(per_class: &[Option<f64>]) -> Vec<f64> {
    per_class.iter().map(|ap| ap.expect("every class of the fixture has clips")).collect()
}

#[test]
fn multi_label_map_and_auc() {
    let fixture = Fixture::load("zero_shot");
    let scores = sigmoid(&fixture.tensor("in/logits", &Device::Cpu));
    let ours = multi_label(&scores, &fixture.tensor("in/multilabel", &Device::Cpu)).unwrap();
    close("map", ours.map, fixture.number("/lp/map"));
    close("mauc", ours.mauc.unwrap(), fixture.number("/lp/mauc"));
    check_values(&fixture, "out/ap_per_class", &class_values(&ours.ap_per_class), 1e-12);
}

#[test]
fn multi_label_ties() {
    let fixture = Fixture::load("zero_shot");
    let scores = sigmoid(&fixture.tensor("in/logits_ties", &Device::Cpu));
    let ours = multi_label(&scores, &fixture.tensor("in/multilabel", &Device::Cpu)).unwrap();
    check_values(&fixture, "out/ap_per_class_ties", &class_values(&ours.ap_per_class), 1e-12);
    // The ties matter: without them the values are others.
    let untied = fixture.f64("out/ap_per_class").0;
    assert_ne!(class_values(&ours.ap_per_class), untied);
}

#[test]
fn probe_accuracy() {
    let fixture = Fixture::load("zero_shot");
    let scores = fixture.tensor("in/logits", &Device::Cpu);
    let (clips, classes) = scores.dims2().unwrap();
    let mut one_hot = vec![0f32; clips * classes];
    for (i, label) in labels(&fixture).into_iter().enumerate() {
        one_hot[i * classes + label] = 1.0;
    }
    let one_hot = Tensor::from_vec(one_hot, (clips, classes), &Device::Cpu).unwrap();
    close("acc", multi_label(&scores, &one_hot).unwrap().acc, fixture.number("/lp/acc"));
}
