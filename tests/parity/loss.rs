//! The contrastive loss and the learning-rate schedule against `laion_clap` 1.1.7 (`clap_module/loss.py::ClipLoss`,
//! `training/scheduler.py::cosine_lr`; fixtures `losses`, `lr_schedule` of `make_fixtures.py`).

use candle_core::{DType, Device, Tensor, Var};
use clap_tests::{Fixture, check_values};
use clap_train::Schedule;
use clap_train::loss::{contrastive, contrastive_mlp};

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

#[test]
fn mlp_loss_and_its_gradients() {
    let fixture = Fixture::load("losses");
    let device = Device::Cpu;
    let input = |name: &str| Var::from_tensor(&fixture.tensor(&format!("in/{name}"), &device)).unwrap();
    let scale = |name: &str| Var::new(fixture.number(&format!("/logit_{name}")) as f32, &device).unwrap();
    let vars = ["audio", "audio_mlp", "text", "text_mlp"].map(|name| (name, input(name)));
    let scales = ["scale_a", "scale_t"].map(|name| (name, scale(name)));
    let [(_, audio), (_, audio_mlp), (_, text), (_, text_mlp)] = &vars;
    let loss = contrastive_mlp((audio, audio_mlp), (text, text_mlp), (&scales[0].1, &scales[1].1)).unwrap();
    let grads = loss.backward().unwrap();
    check_values(&fixture, "out/mlp/loss", &numbers(&loss), 1e-6);
    for (name, var) in vars.iter().chain(&scales) {
        check_values(&fixture, &format!("grad/mlp/{name}"), &numbers(grads.get(var).unwrap()), 1e-5);
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
        let schedule =
            Schedule { base_lr: base.parse().unwrap(), warmup: warmup.parse().unwrap(), total: total.parse().unwrap() };
        let steps = fixture.i64(&format!("out/{run}/step")).0;
        let ours: Vec<f64> = steps.iter().map(|&s| schedule.lr(s as u64)).collect();
        check_values(&fixture, &format!("out/{run}/lr"), &ours, 1e-14);
    }
}
