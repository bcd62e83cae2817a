//! Classifiers on the audio tower's embeddings: a probe, for which the tower stays as it is, or fine-tuning, which trains it with them.
//!
//! Source: laion-clap 1.1.7 `clap_module/linear_probe.py`, `clap_module/loss.py` (`LPLoss`), `training/lp_main.py`. The head sees embeddings
//! that are not normalised. A probe has one learning rate and no schedule; fine-tuning has two, the tower's and the head's, on one cosine
//! (LAION's program knows one for both).

use candle_core::{D, DType, Device, Result as TensorResult, Tensor};
use candle_nn::VarBuilder;
use clap_nn::init::{seeded_vars, torch_default};
use clap_nn::{Activation, Linear, Mode, dropout};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::error::{Error, Result};
use crate::optimizer::{Optimizer, OptimizerConfig};

mod fine_tune;

pub use fine_tune::{Answers, FineTune, FineTuneConfig, Tuned};

/// Width of the two-layer head, and the dropout in it.
const HIDDEN: usize = 1024;
const DROPOUT: f32 = 0.1;

/// What stands on the embeddings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadKind {
    /// One linear layer.
    Linear,
    /// Linear, ReLU, dropout 0.1, linear, 1,024 channels wide (`--lp-mlp`).
    Mlp,
}

/// What is minimised (`--lp-loss`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeLoss {
    /// Binary cross-entropy of each class by itself.
    Bce,
    /// Cross-entropy with the class of each clip, or with the shares of mixed clips' classes.
    Ce,
    /// Squared distance of the logits from 0 and 1.
    Mse,
}

/// How a probe is trained.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProbeConfig {
    /// What stands on the embeddings.
    pub head: HeadKind,
    /// What is minimised.
    pub loss: ProbeLoss,
    /// Learning rate of the head.
    pub lr: f64,
    /// Passes over the clips.
    pub epochs: u64,
    /// Clips of a step.
    pub batch_size: usize,
    /// Seed of weights, order and dropout.
    pub seed: u64,
}

impl ProbeConfig {
    /// LAION's scripts for ESC-50 and FSD50K in the learning rate's order; a linear head learns so little of a step that it takes a larger one.
    #[must_use]
    pub fn new(head: HeadKind, loss: ProbeLoss) -> Self {
        let lr = if head == HeadKind::Linear { 1e-3 } else { 1e-4 };
        Self { head, loss, lr, epochs: 100, batch_size: 160, seed: 0 }
    }

    fn validate(&self) -> Result<()> {
        let bad = |key: &str, reason: &str| Err(Error::config(key, reason));
        match self {
            Self { lr, .. } if !(lr.is_finite() && *lr > 0.0) => bad("probe.lr", "must be a number above 0"),
            Self { epochs: 0, .. } => bad("probe.epochs", "must be 1 at least"),
            Self { batch_size: 0, .. } => bad("probe.batch_size", "must be 1 at least"),
            _ => Ok(()),
        }
    }
}

impl ProbeLoss {
    /// The loss of `logits` for `targets`, `(B, classes)` each; targets are shares between 0 and 1.
    ///
    /// # Errors
    /// Where the shapes differ.
    pub fn of(self, logits: &Tensor, targets: &Tensor) -> TensorResult<Tensor> {
        match self {
            // max(x, 0) − x·z + ln(1 + e^−|x|), which overflows nowhere.
            Self::Bce => {
                let positive = logits.relu()?;
                let rest = (logits.abs()?.neg()?.exp()? + 1.0)?.log()?;
                ((positive - (logits * targets)?)? + rest)?.mean_all()
            }
            // LAION takes the class of the greatest target; of one class a clip that is the same.
            Self::Ce => (candle_nn::ops::log_softmax(logits, D::Minus1)? * targets)?.sum(D::Minus1)?.mean_all()?.neg(),
            Self::Mse => (logits - targets)?.sqr()?.mean_all(),
        }
    }
}

/// A classifier of embeddings.
#[derive(Debug)]
pub struct Head {
    layers: Vec<Linear>,
}

impl Head {
    /// From `width` channels to `classes`; layers begin as torch's.
    ///
    /// # Errors
    /// Where a weight is of another shape.
    pub fn new(kind: HeadKind, width: usize, classes: usize, vb: &VarBuilder<'_>) -> TensorResult<Self> {
        let layer = |input: usize, output: usize, place: usize| -> TensorResult<Linear> {
            let (init, vb) = (torch_default(input), vb.pp(format!("lp_layer.{place}")));
            let weight = vb.get_with_hints((output, input), "weight", init)?;
            Ok(Linear::from_parts(weight, Some(vb.get_with_hints(output, "bias", init)?)))
        };
        let layers = match kind {
            HeadKind::Linear => vec![layer(width, classes, 0)?],
            HeadKind::Mlp => vec![layer(width, HIDDEN, 0)?, layer(HIDDEN, classes, 3)?],
        };
        Ok(Self { layers })
    }

    /// `(B, width)` → logits `(B, classes)`.
    ///
    /// # Errors
    /// Where the width differs.
    pub fn forward_t(&self, xs: &Tensor, mode: &mut Mode) -> TensorResult<Tensor> {
        let mut xs = self.layers[0].forward(xs)?;
        for layer in &self.layers[1..] {
            xs = layer.forward(&dropout(&Activation::Relu.forward(&xs)?, DROPOUT, mode)?)?;
        }
        Ok(xs)
    }
}

/// A trained head.
#[derive(Debug)]
pub struct Probe {
    head: Head,
}

impl Probe {
    /// Trains a head on `features` `(N, width)` for `targets` `(N, classes)`. `progress` is told epochs done and the mean loss of the last one.
    ///
    /// # Errors
    /// Where a setting is impossible, features are not finite or the loss leaves the numbers.
    pub fn fit(
        features: &Tensor,
        targets: &Tensor,
        config: &ProbeConfig,
        progress: &mut dyn FnMut(u64, f64),
    ) -> Result<Self> {
        config.validate()?;
        let (clips, width) = features.dims2()?;
        let (_, classes) = targets.dims2()?;
        let (features, targets) = (features.to_dtype(DType::F32)?.detach(), targets.to_dtype(DType::F32)?);
        let (vars, vb) = seeded_vars(config.seed, features.device(), DType::F32);
        let head = Head::new(config.head, width, classes, &vb)?;
        let mut optimizer = Optimizer::new(vars.trainable(), OptimizerConfig::default())?;
        let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
        let mut order: Vec<u32> = (0..clips as u32).collect();
        let mut step = 0;
        for epoch in 0..config.epochs {
            order.shuffle(&mut rng);
            let mut sum = 0.0;
            for rows in order.chunks(config.batch_size) {
                let rows = Tensor::new(rows, features.device())?;
                let mut mode = Mode::train(ChaCha8Rng::seed_from_u64(rng.random()));
                let logits = head.forward_t(&features.index_select(&rows, 0)?, &mut mode)?;
                let loss = config.loss.of(&logits, &targets.index_select(&rows, 0)?)?;
                let value = f64::from(loss.to_scalar::<f32>()?);
                if !value.is_finite() {
                    return Err(Error::Diverged { step, what: "loss", value });
                }
                sum += value * rows.elem_count() as f64;
                optimizer.step(&loss.backward()?, config.lr)?;
                step += 1;
            }
            progress(epoch + 1, sum / clips as f64);
        }
        Ok(Self { head })
    }

    /// Logits `(N, classes)` of features `(N, width)`.
    ///
    /// # Errors
    /// Where the width differs.
    pub fn logits(&self, features: &Tensor) -> Result<Tensor> {
        Ok(self.head.forward_t(&features.to_dtype(DType::F32)?, &mut Mode::eval())?.detach())
    }
}

/// Mixes each clip of a batch with the one at the same place from its end, by a share drawn from Beta(1/2, 1/2): `do_mixup` of
/// laion-clap's `utils.py`, on what the tower is given instead of behind its first batch norm. Inputs and targets alike.
fn mixup(features: &Tensor, targets: &Tensor, rng: &mut ChaCha8Rng) -> TensorResult<(Tensor, Tensor)> {
    let clips = features.dim(0)?;
    // Beta(1/2, 1/2) is the arcsine distribution.
    let share = |_| (rng.random::<f32>() * std::f32::consts::FRAC_PI_2).sin().powi(2);
    let shares: Vec<f32> = (0..clips).map(share).collect();
    let backward: Vec<u32> = (0..clips as u32).rev().collect();
    let mix = |xs: &Tensor| -> TensorResult<Tensor> {
        let mut shape = vec![clips];
        shape.resize(xs.rank(), 1);
        let shares = Tensor::from_slice(&shares, shape, &Device::Cpu)?.to_device(xs.device())?;
        let others = xs.index_select(&Tensor::new(backward.as_slice(), xs.device())?, 0)?;
        xs.broadcast_mul(&shares)? + others.broadcast_mul(&(1.0 - &shares)?)?
    };
    Ok((mix(features)?, mix(targets)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor<const N: usize, const M: usize>(rows: [[f32; M]; N]) -> Tensor {
        Tensor::new(&rows, &Device::Cpu).unwrap()
    }

    /// Values of `torch.nn.BCEWithLogitsLoss`, `CrossEntropyLoss` and `MSELoss`, written out.
    #[test]
    fn losses_are_torchs() {
        let (logits, targets) =
            (tensor([[2.0, -1.0, 0.5], [90.0, -90.0, 0.0]]), tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]));
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let bce = [-sigmoid(2.0).ln(), -(1.0 - sigmoid(-1.0)).ln(), -(1.0 - sigmoid(0.5)).ln(), 90.0, 0.0, 2f64.ln()];
        let log_sum = |row: [f64; 3]| row.iter().map(|x| x.exp()).sum::<f64>().ln();
        let ce = [log_sum([2.0, -1.0, 0.5]) - 2.0, log_sum([90.0, -90.0, 0.0])];
        let mse = [1.0, 1.0, 0.25, 8100.0, 8100.0, 1.0];
        for (loss, expected) in [
            (ProbeLoss::Bce, bce.iter().sum::<f64>() / 6.0),
            (ProbeLoss::Ce, ce.iter().sum::<f64>() / 2.0),
            (ProbeLoss::Mse, mse.iter().sum::<f64>() / 6.0),
        ] {
            let found = f64::from(loss.of(&logits, &targets).unwrap().to_scalar::<f32>().unwrap());
            assert!((found - expected).abs() < 1e-5 * expected, "{loss:?}: {found} {expected}");
        }
    }

    /// Sixty clips around three corners, and what they are.
    fn clips() -> (Tensor, Tensor, Vec<usize>) {
        let labels: Vec<usize> = (0..60).map(|i| i % 3).collect();
        let values = labels.iter().enumerate().flat_map(|(i, &label)| {
            (0..4).map(move |k| f32::from(u8::from(k == label)) + ((i * 7 + k * 13) % 11) as f32 * 0.05)
        });
        let targets = labels.iter().flat_map(|&label| (0..3).map(move |k| f32::from(u8::from(k == label))));
        let tensor = |values: Vec<f32>, width| Tensor::from_vec(values, (60, width), &Device::Cpu).unwrap();
        (tensor(values.collect(), 4), tensor(targets.collect(), 3), labels)
    }

    #[test]
    fn every_head_learns_by_every_loss() {
        let (features, targets, labels) = clips();
        for head in [HeadKind::Linear, HeadKind::Mlp] {
            for loss in [ProbeLoss::Bce, ProbeLoss::Ce, ProbeLoss::Mse] {
                let config = ProbeConfig { lr: 1e-2, epochs: 40, batch_size: 16, ..ProbeConfig::new(head, loss) };
                let mut losses = Vec::new();
                let probe = Probe::fit(&features, &targets, &config, &mut |_, loss| losses.push(loss)).unwrap();
                assert_eq!(losses.len(), 40);
                assert!(losses[39] < losses[0] / 2.0, "{head:?} {loss:?}: {losses:?}");
                let answers = probe.logits(&features).unwrap().argmax(1).unwrap().to_vec1::<u32>().unwrap();
                assert!(answers.iter().zip(&labels).all(|(a, l)| *a as usize == *l), "{head:?} {loss:?}");
                let again = Probe::fit(&features, &targets, &config, &mut |_, _| {}).unwrap();
                let flat = |probe: &Probe| probe.logits(&features).unwrap().to_vec2::<f32>().unwrap();
                assert_eq!(flat(&again), flat(&probe));
            }
        }
    }

    #[test]
    fn impossible_settings_are_named() {
        let (features, targets, _) = clips();
        let plain = ProbeConfig::new(HeadKind::Linear, ProbeLoss::Ce);
        for (config, key) in [
            (ProbeConfig { lr: 0.0, ..plain }, "probe.lr"),
            (ProbeConfig { epochs: 0, ..plain }, "probe.epochs"),
            (ProbeConfig { batch_size: 0, ..plain }, "probe.batch_size"),
        ] {
            let error = Probe::fit(&features, &targets, &config, &mut |_, _| {}).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
        let error = Probe::fit(&(features * f64::NAN).unwrap(), &targets, &plain, &mut |_, _| {}).unwrap_err();
        assert!(matches!(error, Error::Diverged { .. }));
    }

    /// A clip of two classes in equal shares is half as far from each.
    #[test]
    fn shares_of_classes_are_learnt_by_cross_entropy() {
        let logits = tensor([[2.0, -1.0, 0.5]]);
        let of = |targets: [f32; 3]| {
            f64::from(ProbeLoss::Ce.of(&logits, &tensor([targets])).unwrap().to_scalar::<f32>().unwrap())
        };
        let (first, last) = (of([1.0, 0.0, 0.0]), of([0.0, 0.0, 1.0]));
        assert!((of([0.25, 0.0, 0.75]) - (0.25 * first + 0.75 * last)).abs() < 1e-6);
    }

    #[test]
    fn mixed_clips_have_mixed_targets() {
        let (features, targets) =
            (tensor([[1.0, 0.0], [0.0, 1.0], [5.0, 5.0]]), tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]));
        let (mixed, mixed_targets) = mixup(&features, &targets, &mut ChaCha8Rng::seed_from_u64(1)).unwrap();
        let (mixed, mixed_targets) = (mixed.to_vec2::<f32>().unwrap(), mixed_targets.to_vec2::<f32>().unwrap());
        // The first with the last: its share of the target is its share of the sound.
        let share = mixed_targets[0][0];
        assert!((0.0..=1.0).contains(&share));
        assert!(
            (mixed[0][0] - (share + 5.0 * (1.0 - share))).abs() < 1e-6
                && (mixed[0][1] - 5.0 * (1.0 - share)).abs() < 1e-6
        );
        // The one in the middle is mixed with itself.
        assert!((mixed[1][1] - 1.0).abs() < 1e-6 && mixed[1][0] == 0.0);
        let shares: Vec<f32> = (0..2000)
            .map(|seed| {
                mixup(&features, &targets, &mut ChaCha8Rng::seed_from_u64(seed)).unwrap().1.to_vec2::<f32>().unwrap()[0]
                    [0]
            })
            .collect();
        // Of Beta(1/2, 1/2): mean 1/2, a third below 1/4.
        let below = shares.iter().filter(|share| **share < 0.25).count() as f64 / 2000.0;
        assert!((below - 1.0 / 3.0).abs() < 0.05, "{below}");
    }
}
