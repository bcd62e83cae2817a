//! The contrastive loss and the learning-rate schedule against `laion_clap` 1.1.7 (`clap_module/loss.py::ClipLoss`,
//! `training/scheduler.py::cosine_lr`; fixtures `losses`, `lr_schedule` of `make_fixtures.py`).

use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};
use clap_tests::{Fixture, check_values};
use clap_train::Schedule;
use clap_train::loss::{contrastive, contrastive_kappa, contrastive_mlp, sigmoid};

fn numbers(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn clip_loss_and_its_gradients() {
    let fixture = Fixture::load("losses");
    let device = Device::Cpu;
    let audio = Var::from_tensor(&fixture.tensor("in/audio", &device)).unwrap();
    let text = Var::from_tensor(&fixture.tensor("in/text", &device)).unwrap();
    let scale = Var::new(fixture.number("/logit_scale_a") as f32, &device).unwrap();
    let loss = contrastive(&audio, &text, &scale).unwrap();
    let grads = loss.backward().unwrap();
    check_values(&fixture, "out/clip/loss", &numbers(&loss), 1e-6);
    for (key, var) in [("grad/clip/audio", &audio), ("grad/clip/text", &text), ("grad/clip/scale_a", &scale)] {
        check_values(&fixture, key, &numbers(grads.get(var).unwrap()), 1e-5);
    }
}

/// `run` of the fixture, with the second heads.
#[track_caller]
fn mlp_loss(run: &str, kappa: Option<f64>) {
    let fixture = Fixture::load("losses");
    let device = Device::Cpu;
    let input = |name: &str| Var::from_tensor(&fixture.tensor(&format!("in/{name}"), &device)).unwrap();
    let scale = |name: &str| Var::new(fixture.number(&format!("/logit_{name}")) as f32, &device).unwrap();
    let vars = ["audio", "audio_mlp", "text", "text_mlp"].map(|name| (name, input(name)));
    let scales = ["scale_a", "scale_t"].map(|name| (name, scale(name)));
    let [(_, audio), (_, audio_mlp), (_, text), (_, text_mlp)] = &vars;
    let loss = contrastive_mlp((audio, audio_mlp), (text, text_mlp), (&scales[0].1, &scales[1].1), kappa).unwrap();
    let grads = loss.backward().unwrap();
    check_values(&fixture, &format!("out/{run}/loss"), &numbers(&loss), 1e-6);
    for (name, var) in vars.iter().chain(&scales) {
        check_values(&fixture, &format!("grad/{run}/{name}"), &numbers(grads.get(var).unwrap()), 1e-5);
    }
}

#[test]
fn mlp_loss_and_its_gradients() {
    mlp_loss("mlp", None);
}

#[test]
fn mlp_loss_with_kappa_and_its_gradients() {
    mlp_loss("mlp_kappa0.5", Some(0.5));
}

/// Losses that the fixture set has not (`make_losses.py`): these files are the repository's own, whatever `PARITY_FIXTURES` says.
fn more_losses() -> Fixture {
    Fixture::load_from(&Path::new(env!("CARGO_MANIFEST_DIR")).join("data/losses"), "more_losses")
}

#[test]
fn clip_loss_with_kappa_and_its_gradients() {
    let fixture = more_losses();
    let device = Device::Cpu;
    let [audio, text] = ["in/audio", "in/text"].map(|key| Var::from_tensor(&fixture.tensor(key, &device)).unwrap());
    let scale = Var::new(fixture.number("/scale") as f32, &device).unwrap();
    let loss = contrastive_kappa(&audio, &text, &scale, 0.5).unwrap();
    let grads = loss.backward().unwrap();
    check_values(&fixture, "out/kappa0.5/loss", &numbers(&loss), 1e-6);
    for (name, var) in [("audio", &audio), ("text", &text), ("scale", &scale)] {
        check_values(&fixture, &format!("grad/kappa0.5/{name}"), &numbers(grads.get(var).unwrap()), 1e-5);
    }
}

/// `transformers` 4.57.6, `SiglipModel`: it normalises what its towers give, so the gradient goes through that here, too.
#[test]
fn sigmoid_loss_and_its_gradients() {
    let fixture = more_losses();
    let device = Device::Cpu;
    let [audio, text] = ["in/audio", "in/text"].map(|key| Var::from_tensor(&fixture.tensor(key, &device)).unwrap());
    let [log_scale, bias] = ["/log_scale", "/bias"].map(|key| Var::new(fixture.number(key) as f32, &device).unwrap());
    let unit = |xs: &Var| xs.broadcast_div(&xs.sqr().unwrap().sum_keepdim(1).unwrap().sqrt().unwrap()).unwrap();
    let loss = sigmoid(&unit(&audio), &unit(&text), &log_scale.exp().unwrap(), &bias).unwrap();
    let grads = loss.backward().unwrap();
    check_values(&fixture, "out/siglip/loss", &numbers(&loss), 1e-6);
    for (name, var) in [("audio", &audio), ("text", &text), ("log_scale", &log_scale), ("bias", &bias)] {
        check_values(&fixture, &format!("grad/siglip/{name}"), &numbers(grads.get(var).unwrap()), 1e-5);
    }
}

#[test]
fn learning_rates() {
    let fixture = Fixture::load("lr_schedule");
    let runs: Vec<String> =
        fixture.keys().filter_map(|key| Some(key.strip_prefix("out/")?.strip_suffix("/lr")?.to_owned())).collect();
    assert!(!runs.is_empty(), "the fixture has no runs");
    for run in runs {
        let parts: Vec<&str> = run.split('_').collect();
        let [base, warmup, total] = parts[..] else { panic!("{run} is no base_warmup_total") };
        let schedule = Schedule::cosine(base.parse().unwrap(), warmup.parse().unwrap(), total.parse().unwrap());
        let steps = fixture.i64(&format!("out/{run}/step")).0;
        let ours: Vec<f64> = steps.iter().map(|&s| schedule.lr(s as u64)).collect();
        check_values(&fixture, &format!("out/{run}/lr"), &ours, 1e-14);
    }
}
