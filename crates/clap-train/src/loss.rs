//! The losses: the symmetric contrastive one of CLAP, with one temperature for both directions; LAION's variants with second heads and with
//! weights; and the sigmoid loss.
//!
//! LAION-CLAP 1.1.7, `clap_module/loss.py::ClipLoss` without `mlp_loss`: with `L = scale · A Tᵀ` for a batch whose rows
//! belong together,
//!
//! ```text
//! loss = ½ · (cross_entropy(L, 0..B) + cross_entropy(Lᵀ, 0..B))
//! ```
//!
//! The same scale serves both directions, as there (`transformers` trains both terms in the text-to-audio direction, which
//! leaves audio to text out; that is not followed). On the CPU in `f32` the matrix of logits is made in blocks of bounded size, so that a
//! batch may have thousands of pairs ([`clap_nn::info_nce()`]); a test and the fixture `losses` hold the gradients, that of the scale
//! included.

use candle_core::{Result, Tensor, bail};
use clap_encoders::ClapModel;
use clap_nn::{info_nce, weighted_info_nce};
use serde::{Deserialize, Serialize};

/// Mean cross-entropy of matching audio to text and text to audio; a scalar.
///
/// * `audio`, `text`: L2-normalised embeddings `(B, D)`, row `i` of one belonging to row `i` of the other;
/// * `scale`: the temperature as a factor, `exp(logit_scale_a)`; a scalar or one element. Its gradient flows.
///
/// # Errors
/// Where the shapes differ.
pub fn contrastive(audio: &Tensor, text: &Tensor, scale: &Tensor) -> Result<Tensor> {
    info_nce(audio, text, scale)
}

/// [`contrastive`] with LAION's `weight_loss_kappa`: a clip whose text is like many others of the batch counts for more, and a text whose clip
/// is. With `w(E) = exp(Σⱼ Eᵢ·Eⱼ / (kappa · B))`, a constant to the gradient, each cross-entropy is a mean weighted by `w(text)` for audio to
/// text and by `w(audio)` for text to audio.
///
/// LAION-CLAP 1.1.7 stops with an error where it is asked for this in a run of one process; in a run of several it computes this.
///
/// # Errors
/// Where the shapes differ.
pub fn contrastive_kappa(audio: &Tensor, text: &Tensor, scale: &Tensor, kappa: f64) -> Result<Tensor> {
    let weights = [&class_weights(text, kappa)?, &class_weights(audio, kappa)?];
    weighted_info_nce(audio, text, scale, weights)
}

/// `exp(Σⱼ Eᵢ·Eⱼ / (kappa · B))` of embeddings `(B, D)` → `(B)`, detached.
fn class_weights(embeds: &Tensor, kappa: f64) -> Result<Tensor> {
    let embeds = embeds.detach();
    let sum = embeds.sum_keepdim(0)?; // (1, D)
    (embeds.broadcast_mul(&sum)?.sum(1)? / (kappa * embeds.dim(0)? as f64))?.exp()
}

/// The MLP loss of LAION-CLAP 1.1.7 (`ClipLoss` with `mlp_loss`): each side's embeddings against the other side's second head, the two
/// with a temperature each; a scalar.
///
/// * `audio`, `text`: L2-normalised embeddings `(B, D)`;
/// * `audio_mlp`, `text_mlp`: the same through [`clap_encoders::Transform`], not normalised;
/// * `scale_a`, `scale_t`: `exp(logit_scale_a)` and `exp(logit_scale_t)`. Both train, unlike in [`contrastive`];
/// * `kappa`: weights as in [`contrastive_kappa`], of the audio for the products with `audio`, of the text for those with `text`, as there.
///
/// # Errors
/// Where the shapes differ.
pub fn contrastive_mlp(
    (audio, audio_mlp): (&Tensor, &Tensor),
    (text, text_mlp): (&Tensor, &Tensor),
    (scale_a, scale_t): (&Tensor, &Tensor),
    kappa: Option<f64>,
) -> Result<Tensor> {
    let half = |xs, ys, scale, own| match kappa {
        None => info_nce(xs, ys, scale),
        Some(kappa) => {
            let weights = class_weights(own, kappa)?;
            weighted_info_nce(xs, ys, scale, [&weights, &weights])
        }
    };
    (half(audio, text_mlp, scale_a, audio)? + half(audio_mlp, text, scale_t, text)?)? * 0.5
}

/// The sigmoid loss of SigLIP (Zhai et al., "Sigmoid Loss for Language Image Pre-Training", arXiv 2303.15343, algorithm 1): each of the `B²`
/// pairs is told apart by itself, whether it belongs together or not; a scalar.
///
/// ```text
/// loss = −1/B · Σᵢⱼ log σ(zᵢⱼ · (scale · Aᵢ·Tⱼ + bias)),  z = 1 on the diagonal, −1 elsewhere
/// ```
///
/// `scale` and `bias` begin at 10 and −10 there; `bias` is a scalar. The matrix of logits is made whole: 85 MB for 4,608 pairs, a few times.
///
/// # Errors
/// Where the shapes differ.
pub fn sigmoid(audio: &Tensor, text: &Tensor, scale: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let batch = audio.dim(0)?;
    let logits = audio.matmul(&text.t()?)?.broadcast_mul(&scale.reshape(())?)?.broadcast_add(&bias.reshape(())?)?; // (B, B)
    // −log σ(u) = softplus(−u), and softplus(x) = softplus(−x) + x: the whole matrix as if nothing belonged together, less the diagonal.
    let own = (audio * text)?.sum(1)?.broadcast_mul(&scale.reshape(())?)?.broadcast_add(&bias.reshape(())?)?; // (B)
    softplus(&logits)?.sum_all()?.sub(&own.sum_all()?)? / batch as f64
}

/// `log(1 + eˣ)`, which neither overflows nor loses small ones.
fn softplus(xs: &Tensor) -> Result<Tensor> {
    let magnitude = xs.abs()?;
    xs.relu()? + (magnitude.neg()?.exp()? + 1.0)?.log()?
}

/// Which loss a run trains by; in a recipe `loss.name`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Objective {
    /// [`contrastive`], the paper's.
    #[default]
    Contrastive,
    /// [`contrastive_mlp`]: LAION's `--clap-mlploss`. The model has second heads.
    Mlp,
    /// [`sigmoid`]: SigLIP's. The model has a bias of its logits.
    Sigmoid,
}

/// The embeddings of a batch that a loss compares, `(B, D)` each.
#[derive(Clone, Debug)]
pub struct Embeddings {
    /// Of the clips, L2-normalised.
    pub audio: Tensor,
    /// Of their texts, L2-normalised.
    pub text: Tensor,
    /// Both through the second heads, where the objective is [`Objective::Mlp`].
    pub transformed: Option<(Tensor, Tensor)>,
}

/// An objective with its options.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Loss {
    /// The formula.
    pub objective: Objective,
    /// LAION's `--kappa`: see [`contrastive_kappa`].
    pub weight_loss_kappa: Option<f64>,
}

impl Loss {
    /// The loss of a batch by the temperatures (and the bias) of `model`.
    ///
    /// # Errors
    /// Where the model has not what the objective needs.
    pub fn of(&self, embeddings: &Embeddings, model: &ClapModel) -> Result<Tensor> {
        let Embeddings { audio, text, transformed } = embeddings;
        let scale_a = model.logit_scale_a().exp()?;
        match (self.objective, transformed, model.logit_bias()) {
            (Objective::Contrastive, ..) => match self.weight_loss_kappa {
                None => contrastive(audio, text, &scale_a),
                Some(kappa) => contrastive_kappa(audio, text, &scale_a, kappa),
            },
            (Objective::Mlp, Some((audio_mlp, text_mlp)), _) => {
                let scales = (&scale_a, &model.logit_scale_t().exp()?);
                contrastive_mlp((audio, audio_mlp), (text, text_mlp), scales, self.weight_loss_kappa)
            }
            (Objective::Sigmoid, _, Some(bias)) => sigmoid(audio, text, &scale_a, bias),
            (Objective::Mlp, None, _) => bail!("the MLP loss needs the model's second heads (mlp_loss)"),
            (Objective::Sigmoid, _, None) => bail!("the sigmoid loss needs the model's logit_bias"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    /// Deterministic, not symmetric, rows of norm about one.
    fn rows(batch: usize, width: usize, phase: f64) -> Vec<f64> {
        (0..batch * width).map(|i| ((i * i) as f64 * 0.37 + phase).sin() / (width as f64 / 2.0).sqrt()).collect()
    }

    /// `Σ weight · (log Σ exp − own) / Σ weight` over the rows and over the columns of the logits, in plain f64: the mean of the two.
    fn reference(a: &[f64], t: &[f64], scale: f64, weights: [&[f64]; 2]) -> f64 {
        let batch = weights[0].len();
        let logit = |i: usize, j: usize| scale * product(a, t, batch, i, j);
        let (mut rows, mut columns) = (0.0, 0.0);
        for (i, (row_weight, column_weight)) in weights[0].iter().zip(weights[1]).enumerate() {
            let row: f64 = (0..batch).map(|j| logit(i, j).exp()).sum();
            let column: f64 = (0..batch).map(|j| logit(j, i).exp()).sum();
            rows += row_weight * (row.ln() - logit(i, i));
            columns += column_weight * (column.ln() - logit(i, i));
        }
        0.5 * (rows / weights[0].iter().sum::<f64>() + columns / weights[1].iter().sum::<f64>())
    }

    /// Row `i` of `a` times row `j` of `t`.
    fn product(a: &[f64], t: &[f64], batch: usize, i: usize, j: usize) -> f64 {
        let width = a.len() / batch;
        (0..width).map(|k| a[i * width + k] * t[j * width + k]).sum()
    }

    fn reference_sigmoid(a: &[f64], t: &[f64], scale: f64, bias: f64, batch: usize) -> f64 {
        let mut total = 0.0;
        for i in 0..batch {
            for j in 0..batch {
                let z = if i == j { 1.0 } else { -1.0 };
                let u = z * (scale * product(a, t, batch, i, j) + bias);
                total += (1.0 / (1.0 + (-u).exp())).ln();
            }
        }
        -total / batch as f64
    }

    /// The weights of LAION's kappa, in plain f64.
    fn reference_weights(embeds: &[f64], batch: usize, kappa: f64) -> Vec<f64> {
        let sum = |i| (0..batch).map(|j| product(embeds, embeds, batch, i, j)).sum::<f64>();
        (0..batch).map(|i| (sum(i) / (kappa * batch as f64)).exp()).collect()
    }

    const BATCH: usize = 5;
    const WIDTH: usize = 7;

    /// Value and every gradient of `loss(audio, text, scalars)` beside the same by finite differences of `reference`.
    #[track_caller]
    fn check(
        scalars: &[f64],
        loss: impl Fn(&Tensor, &Tensor, &[Tensor]) -> Result<Tensor>,
        reference: impl Fn(&[f64], &[f64], &[f64]) -> f64,
    ) {
        let device = Device::Cpu;
        let parts = [rows(BATCH, WIDTH, 0.1), rows(BATCH, WIDTH, 1.3), scalars.to_vec()];
        let audio = Var::from_vec(parts[0].clone(), (BATCH, WIDTH), &device).unwrap();
        let text = Var::from_vec(parts[1].clone(), (BATCH, WIDTH), &device).unwrap();
        let numbers: Vec<Var> = scalars.iter().map(|x| Var::new(*x, &device).unwrap()).collect();
        let tensors: Vec<Tensor> = numbers.iter().map(|x| x.as_tensor().clone()).collect();
        let value = loss(&audio, &text, &tensors).unwrap();
        let expected = reference(&parts[0], &parts[1], scalars);
        assert!((value.to_scalar::<f64>().unwrap() - expected).abs() < 1e-12);

        let grads = value.backward().unwrap();
        let grad = |v: &Var| grads.get(v).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
        let ours = [grad(&audio), grad(&text), numbers.iter().flat_map(grad).collect()];
        let h = 1e-5;
        for (part, ours) in ours.iter().enumerate() {
            for (i, ours) in ours.iter().enumerate() {
                let nudged = |by: f64| {
                    let mut parts = parts.clone();
                    parts[part][i] += by;
                    reference(&parts[0], &parts[1], &parts[2])
                };
                let theirs = (nudged(h) - nudged(-h)) / (2.0 * h);
                assert!((ours - theirs).abs() < 1e-8, "input {part}, element {i}: {ours} {theirs}");
            }
        }
    }

    #[test]
    fn contrastive_follows_the_formula() {
        let ones = [1.0; BATCH];
        check(&[9.0], |a, t, s| contrastive(a, t, &s[0]), |a, t, s| reference(a, t, s[0], [&ones, &ones]));
    }

    #[test]
    fn kappa_weighs_a_direction_by_what_it_looks_for() {
        let kappa = 0.4;
        // Constants to the gradient: of the embeddings as they are, not as the differences nudge them.
        let weights = [1.3, 0.1].map(|phase| reference_weights(&rows(BATCH, WIDTH, phase), BATCH, kappa));
        assert!(weights[0].iter().any(|w| (w / weights[0][0] - 1.0).abs() > 0.1), "{weights:?}");
        check(
            &[9.0],
            |a, t, s| contrastive_kappa(a, t, &s[0], kappa),
            |a, t, s| reference(a, t, s[0], [&weights[0], &weights[1]]),
        );
    }

    #[test]
    fn sigmoid_follows_the_formula() {
        check(
            &[9.0, -3.0],
            |a, t, s| sigmoid(a, t, &s[0], &s[1]),
            |a, t, s| reference_sigmoid(a, t, s[0], s[1], BATCH),
        );
    }

    #[test]
    fn the_sigmoid_of_great_logits_is_finite() {
        let device = Device::Cpu;
        let same = Tensor::eye(3, candle_core::DType::F32, &device).unwrap();
        let [scale, bias] = [100f32, -10.0].map(|x| Tensor::new(x, &device).unwrap());
        let wrong = sigmoid(&same, &same.neg().unwrap(), &scale, &bias).unwrap().to_scalar::<f32>().unwrap();
        assert!((wrong - 110.0).abs() < 1e-3, "{wrong}");
        let right = sigmoid(&same, &same, &scale, &bias).unwrap().to_scalar::<f32>().unwrap();
        assert!((0.0..2e-4).contains(&right), "{right}");
    }

    #[test]
    fn the_greatest_scale_does_not_overflow() {
        let device = Device::Cpu;
        let same = Tensor::eye(4, candle_core::DType::F32, &device).unwrap();
        let opposite = same.neg().unwrap();
        let scale = Tensor::new(100f32, &device).unwrap();
        let right = contrastive(&same, &same, &scale).unwrap().to_scalar::<f32>().unwrap();
        let wrong = contrastive(&same, &opposite, &scale).unwrap().to_scalar::<f32>().unwrap();
        assert!(right.abs() < 1e-6, "{right}");
        assert!((wrong - (100.0 + 3f32.ln())).abs() < 1e-3, "{wrong}");
    }

    #[test]
    fn equal_embeddings_lose_the_logarithm_of_the_batch() {
        let device = Device::Cpu;
        let same = Tensor::ones((8, 2), candle_core::DType::F32, &device).unwrap();
        let loss = contrastive(&same, &same, &Tensor::new(1f32, &device).unwrap()).unwrap();
        assert!((loss.to_scalar::<f32>().unwrap() - 8f32.ln()).abs() < 1e-6);
    }
}
