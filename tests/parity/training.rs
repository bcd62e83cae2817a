//! Training of a whole small CLAP against `laion_clap` 1.1.7 and PyTorch's Adam (fixtures `train_small_*_adam` of
//! `make_fixtures.py`, a text tower each): loss, embeddings and every gradient in evaluation mode, then three steps in training mode with
//! everything random off, and the parameters after the first and the third.

use std::collections::HashMap;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor};
use clap_audio::{LogMel, MelConfig, MelScale, Scratch};
use clap_encoders::ClapModel;
use clap_encoders::checkpoint::laion;
use clap_nn::init::seeded_vars;
use clap_nn::{Mode, Vars};
use clap_tests::{
    Fixture, check_cosine, check_probe, check_values, fused_mel, probe_indices, recipe_weights, record, relative_error,
    synth_f32,
};
use clap_train::loss::{contrastive, contrastive_mlp};
use clap_train::{Algorithm, Optimizer, OptimizerConfig, Schedule};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::model::small_config;
use super::text::tokens;

/// The first clip's number in the waveform recipe, the next clips follow: the manifest says "…, seeds 30..33)".
fn first_clip(fixture: &Fixture) -> u64 {
    let text = fixture.config()["waves"].as_str().unwrap();
    let numbers = text.split("seeds ").nth(1).unwrap();
    numbers.split("..").next().unwrap().parse().unwrap()
}

/// The fixture's model with the recipe's weights, and its batch.
struct Case {
    fixture: Fixture,
    vars: Vars,
    model: ClapModel,
    features: Tensor,
    is_longer: Vec<bool>,
    ids: Tensor,
    mask: Tensor,
}

/// Loss and embeddings of one pass.
struct Pass {
    loss: Tensor,
    audio: Tensor,
    text: Tensor,
    /// Embeddings through the second heads, with the MLP loss.
    mlp: Option<(Tensor, Tensor)>,
}

impl Case {
    fn load(name: &str) -> Self {
        let fixture = Fixture::load(name);
        let (vars, vb) = seeded_vars(0, &Device::Cpu, DType::F32);
        let mut config = small_config(&fixture.config()["model"]);
        config.mlp_dropout = 0.0;
        config.mlp_loss = fixture.config()["mlp_loss"].as_bool().unwrap();
        let model = ClapModel::new(&config, vb).unwrap();
        let built = laion::to_laion(&vars.to_tensors()).unwrap();
        let shapes = built.iter().map(|(name, tensor)| (name.as_str(), tensor.dims().to_vec()));
        let weights = recipe_weights(shapes, fixture.seed()).into_iter().collect();
        vars.load(&laion::to_hf(&weights).unwrap()).unwrap();

        let (ids, mask) = tokens(&fixture);
        let clips = ids.dim(0).unwrap();
        // `train_case` of the generator: every other clip of a fused batch is longer.
        let (features, is_longer) = match config.audio_config.fusion() {
            None => (log_mels(&fixture, clips), vec![false; clips]),
            Some(_) => (views(&fixture, clips), (0..clips).map(|clip| clip % 2 == 0).collect()),
        };
        Self { fixture, vars, model, features, is_longer, ids, mask }
    }

    fn forward(&self, mode: &mut Mode) -> Pass {
        let audio = self.model.audio_embeds_t(&self.features, &self.is_longer, mode).unwrap();
        let text = self.model.text_embeds_t(&self.ids, &self.mask, mode).unwrap();
        let (scale_a, scale_t) = (self.model.logit_scale_a().exp().unwrap(), self.model.logit_scale_t().exp().unwrap());
        let mlp = match (self.model.audio_transform(), self.model.text_transform()) {
            (Some(a), Some(t)) => Some((a.forward_t(&audio, mode).unwrap(), t.forward_t(&text, mode).unwrap())),
            _ => None,
        };
        let loss = match &mlp {
            Some((audio_mlp, text_mlp)) => {
                contrastive_mlp((&audio, audio_mlp), (&text, text_mlp), (&scale_a, &scale_t), None).unwrap()
            }
            None => contrastive(&audio, &text, &scale_a).unwrap(),
        };
        Pass { loss, audio, text, mlp }
    }

    /// Gradients under LAION's names.
    fn gradients(&self, grads: &GradStore) -> HashMap<String, Tensor> {
        let named = self.vars.trainable().filter_map(|(name, var)| Some((name, grads.get(&var)?.clone())));
        laion::to_laion(&named.collect()).unwrap()
    }

    /// Parameters and running statistics under LAION's names.
    fn values(&self) -> HashMap<String, Tensor> {
        laion::to_laion(&self.vars.to_tensors()).unwrap()
    }

    /// Bound of the gradients in training mode. In a fused case batch norm over the pooled rows of two longer clips divides by what they
    /// differ by, which multiplies rounding.
    fn gradient_bound(&self) -> f64 {
        if self.is_longer.contains(&true) { 3e-4 } else { 1e-4 }
    }

    /// Every stored gradient of `stage`: sampled points relative to the gradient's own greatest point, and its norm.
    fn check_gradients(&self, stage: &str, grads: &GradStore, bound: f64) {
        let ours = self.gradients(grads);
        let norms: Vec<(&str, f64)> = self
            .fixture
            .keys()
            .filter_map(|key| key.strip_prefix(&format!("gradnorm/{stage}/")))
            .map(|name| (name, self.fixture.f64(&format!("gradnorm/{stage}/{name}")).0[0]))
            .collect();
        assert!(norms.len() > 100, "{stage}: {} gradients", norms.len());
        let names: Vec<&str> = norms.iter().map(|(name, _)| *name).collect();
        let missing: Vec<&String> = ours.keys().filter(|name| !names.contains(&name.as_str())).collect();
        assert!(missing.is_empty(), "gradients that the reference has not: {missing:?}");
        // A bias added before a softmax over keys has no gradient but rounding: nothing below this is a number.
        let whole = norms.iter().map(|(_, n)| n * n).sum::<f64>().sqrt();
        let floor = whole * 1e-4;
        let (mut worst_point, mut worst_norm) = ((0.0, ""), (0.0, ""));
        for &(name, norm) in &norms {
            let grad = ours.get(name).unwrap_or_else(|| panic!("{stage}: {name} has no gradient"));
            let values = flat(grad);
            let theirs = self.fixture.float(&format!("gradprobe/{stage}/{name}")).0;
            let sample = probe(&values, theirs.len());
            let rms = norm / (values.len() as f64).sqrt();
            let magnitude = theirs.iter().fold(rms, |m: f64, v| m.max(v.abs())).max(floor);
            let point = relative_error(&sample, &theirs, Some(magnitude)).max_rel;
            let own = values.iter().map(|v| v * v).sum::<f64>().sqrt();
            let norm_error = (own - norm).abs() / norm.max(floor);
            worst_point = if point > worst_point.0 { (point, name) } else { worst_point };
            worst_norm = if norm_error > worst_norm.0 { (norm_error, name) } else { worst_norm };
        }
        for (what, worst) in [("points", worst_point), ("norms", worst_norm)] {
            let key = format!("{stage} gradient {what}, worst {}", worst.1);
            record(self.fixture.name(), &key, &format!("{:.1e}", worst.0), norms.len(), &format!("{bound:.0e}"));
        }
        assert!(worst_point.0 < bound, "{stage}: gradient of {} is off by {:.2e}", worst_point.1, worst_point.0);
        assert!(worst_norm.0 < bound, "{stage}: norm of {} is off by {:.2e}", worst_norm.1, worst_norm.0);
    }

    /// Parameters after `steps` steps, in units of the learning rates summed so far: Adam moves each element by about the
    /// learning rate whatever its gradient, so elements whose gradient is mostly rounding are left out.
    fn check_parameters(&self, steps: u64, moved: f64, tolerance: f64) {
        let stage = format!("after{steps}");
        let ours = self.values();
        let (mut worst, mut compared, mut all) = ((0.0, ""), 0usize, 0usize);
        for name in self.fixture.keys().filter_map(|key| key.strip_prefix(&format!("{stage}/"))) {
            let theirs = self.fixture.float(&format!("{stage}/{name}")).0;
            if name.contains("running") {
                // Before the fusion's norms stand biases without a gradient but rounding, which Adam moves by whole steps.
                let bound = if steps > 1 && name.contains("fusion_model") { 2e-2 } else { 1e-5 };
                check_values(&self.fixture, &format!("{stage}/{name}"), &flat(&ours[name]), bound);
                continue;
            }
            // Heads that CLAP does not use exist there only, and have no gradient.
            let Some(tensor) = ours.get(name) else { continue };
            let gradient = format!("gradprobe/step0/{name}");
            if !self.fixture.has(&gradient) {
                check_values(&self.fixture, &format!("{stage}/{name}"), &flat(tensor), 1e-7);
                continue;
            }
            let gradient = self.fixture.float(&gradient).0;
            let count = tensor.elem_count() as f64;
            let rms = self.fixture.f64(&format!("gradnorm/step0/{name}")).0[0] / count.sqrt();
            let sample = probe(&flat(tensor), theirs.len());
            for ((our, their), g) in sample.iter().zip(&theirs).zip(&gradient) {
                all += 1;
                if g.abs() > (0.01 * rms).max(1e-6) {
                    compared += 1;
                    // What `f32` cannot hold is no error: a weight near 1 comes in steps of 1.2e-7.
                    let ulp = their.abs() * f64::from(f32::EPSILON);
                    let error = ((our - their).abs() - ulp).max(0.0) / moved;
                    worst = if error > worst.0 { (error, name) } else { worst };
                }
            }
        }
        let key = format!("{stage}: {compared} of {all} elements, worst {}", worst.1);
        let found = format!("{:.1e} of the distance moved", worst.0);
        record(self.fixture.name(), &key, &found, compared, &format!("{tolerance:.0e}"));
        assert!(compared * 10 > all * 8, "only {compared} of {all} elements have a gradient to speak of");
        assert!(worst.0 < tolerance, "{stage}: {} is off by {:.2e} of the distance moved", worst.1, worst.0);
    }
}

/// Log-mels of the recipe's waveforms, `(clips, 1, frames, bins)`, from our own front end.
fn log_mels(fixture: &Fixture, clips: usize) -> Tensor {
    let number = |key: &str| fixture.number(&format!("/model/audio_cfg/{key}"));
    let log_mel = LogMel::new(&MelConfig {
        sample_rate: number("sample_rate") as u32,
        n_fft: number("window_size") as usize,
        hop_length: number("hop_size") as usize,
        n_mels: number("mel_bins") as usize,
        f_min: number("fmin"),
        f_max: number("fmax"),
        scale: MelScale::Slaney,
        slaney_norm: true,
    })
    .unwrap();
    let mels = (0..clips as u64).map(|clip| {
        let wave = synth_f32(number("clip_samples") as usize, first_clip(fixture) + clip);
        let mel = log_mel.compute(&wave, &mut Scratch::default());
        Tensor::from_vec(mel.data, (1, mel.frames, mel.bins), &Device::Cpu).unwrap()
    });
    Tensor::stack(&mels.collect::<Vec<_>>(), 0).unwrap()
}

/// The recipe's log-mel views of as many frames as a clip has, `(clips, 4, frames, bins)`.
fn views(fixture: &Fixture, clips: usize) -> Tensor {
    let number = |key: &str| fixture.number(&format!("/model/audio_cfg/{key}")) as usize;
    fused_mel(clips, number("clip_samples") / number("hop_size") + 1, number("mel_bins"))
}

fn flat(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn probe(values: &[f64], points: usize) -> Vec<f64> {
    if points >= values.len() {
        return values.to_vec();
    }
    probe_indices(points, values.len()).into_iter().map(|i| values[i]).collect()
}

fn loss_embeddings_and_gradients(name: &str) {
    let case = Case::load(name);
    let pass = case.forward(&mut Mode::eval());
    check_values(&case.fixture, "out/eval/loss", &flat(&pass.loss), 1e-5);
    for (key, tensor) in [("eval/audio", &pass.audio), ("eval/text", &pass.text)] {
        check_probe(&case.fixture, key, tensor, 1e-4);
        check_cosine(&case.fixture, key, tensor, 0.999_999);
    }
    if let Some((audio_mlp, text_mlp)) = &pass.mlp {
        check_probe(&case.fixture, "eval/audio_mlp", audio_mlp, 1e-4);
        check_probe(&case.fixture, "eval/text_mlp", text_mlp, 1e-4);
    }
    case.check_gradients("eval", &pass.loss.backward().unwrap(), 1e-4);
}

fn three_steps(name: &str) {
    let case = Case::load(name);
    let fixture = &case.fixture;
    let betas = &fixture.config()["betas"];
    let adam = OptimizerConfig {
        algorithm: match fixture.config()["optimizer"].as_str() {
            Some("adam") => Algorithm::Adam,
            Some("adamw") => Algorithm::AdamW,
            other => panic!("optimizer {other:?}"),
        },
        betas: (betas[0].as_f64().unwrap(), betas[1].as_f64().unwrap()),
        eps: fixture.number("/eps"),
        weight_decay: fixture.number("/wd"),
        ..OptimizerConfig::default()
    };
    let number = |key| fixture.number(key);
    let schedule = Schedule::cosine(number("/base_lr"), number("/warmup") as u64, number("/total") as u64);
    let mut optimizer = Optimizer::new(case.vars.trainable(), adam).unwrap();
    let mut moved = 0.0;
    for step in 0..3 {
        let lr = schedule.lr(step);
        check_values(fixture, &format!("out/step{step}/lr"), &[lr], 1e-14);
        let pass = case.forward(&mut Mode::train(ChaCha8Rng::seed_from_u64(step)));
        check_values(fixture, &format!("out/step{step}/loss"), &flat(&pass.loss), 1e-4);
        let grads = pass.loss.backward().unwrap();
        if step == 0 {
            check_probe(fixture, "step0/audio", &pass.audio, 1e-4);
            check_probe(fixture, "step0/text", &pass.text, 1e-4);
            case.check_gradients("step0", &grads, case.gradient_bound());
        }
        optimizer.step(&grads, lr).unwrap();
        optimizer.clamp_logit_scales().unwrap();
        moved += lr;
        match step {
            0 => case.check_parameters(1, moved, 1e-4),
            2 => case.check_parameters(3, moved, 1e-3),
            _ => {}
        }
    }
    let pass = case.forward(&mut Mode::eval());
    check_values(fixture, "out/final_eval/loss", &flat(&pass.loss), 1e-4);
}

macro_rules! cases {
    ($($tower:ident: $name:expr;)*) => {$(
        mod $tower {
            #[test]
            fn loss_embeddings_and_gradients_in_evaluation() {
                super::loss_embeddings_and_gradients($name);
            }

            #[test]
            fn three_steps_of_adam() {
                super::three_steps($name);
            }
        }
    )*};
}

cases! {
    roberta: "train_small_roberta_adam";
    bert: "train_small_bert_adam";
    clip: "train_small_clip_adam";
    mlp_loss: "train_small_roberta_mlp_adamw";
    fused: "train_small_roberta_fused_adam";
}
