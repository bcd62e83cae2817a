//! The symmetric contrastive loss of CLAP, with one temperature for both directions, and its variant with second heads.
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

use candle_core::{Result, Tensor};
use clap_nn::info_nce;

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

/// The MLP loss of LAION-CLAP 1.1.7 (`ClipLoss` with `mlp_loss`): each side's embeddings against the other side's second head, the two
/// with a temperature each; a scalar.
///
/// * `audio`, `text`: L2-normalised embeddings `(B, D)`;
/// * `audio_mlp`, `text_mlp`: the same through [`clap_encoders::Transform`], not normalised;
/// * `scale_a`, `scale_t`: `exp(logit_scale_a)` and `exp(logit_scale_t)`. Both train, unlike in [`contrastive`].
///
/// # Errors
/// Where the shapes differ.
pub fn contrastive_mlp(
    (audio, audio_mlp): (&Tensor, &Tensor),
    (text, text_mlp): (&Tensor, &Tensor),
    (scale_a, scale_t): (&Tensor, &Tensor),
) -> Result<Tensor> {
    (contrastive(audio, text_mlp, scale_a)? + contrastive(audio_mlp, text, scale_t)?)? * 0.5
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    /// Deterministic, not symmetric, rows of norm about one.
    fn rows(batch: usize, width: usize, phase: f64) -> Vec<f64> {
        (0..batch * width).map(|i| ((i * i) as f64 * 0.37 + phase).sin() / (width as f64 / 2.0).sqrt()).collect()
    }

    /// The formula again, in plain f64.
    fn reference(a: &[f64], t: &[f64], scale: f64, batch: usize) -> f64 {
        let width = a.len() / batch;
        let logit = |i: usize, j: usize| scale * (0..width).map(|k| a[i * width + k] * t[j * width + k]).sum::<f64>();
        let mut total = 0.0;
        for i in 0..batch {
            let row: f64 = (0..batch).map(|j| logit(i, j).exp()).sum();
            let column: f64 = (0..batch).map(|j| logit(j, i).exp()).sum();
            total += 0.5 * (row.ln() + column.ln()) - logit(i, i);
        }
        total / batch as f64
    }

    #[test]
    fn value_and_every_gradient_match_finite_differences() {
        let (batch, width, scale) = (5, 7, 9.0);
        let (a, t) = (rows(batch, width, 0.1), rows(batch, width, 1.3));
        let device = Device::Cpu;
        let audio = Var::from_vec(a.clone(), (batch, width), &device).unwrap();
        let text = Var::from_vec(t.clone(), (batch, width), &device).unwrap();
        let log_scale = Var::new(scale, &device).unwrap();
        let loss = contrastive(&audio, &text, &log_scale).unwrap();
        let value = loss.to_scalar::<f64>().unwrap();
        assert!((value - reference(&a, &t, scale, batch)).abs() < 1e-12);

        let grads = loss.backward().unwrap();
        let grad = |v: &Var| grads.get(v).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
        let h = 1e-5;
        let nudged = |xs: &[f64], i: usize, by: f64| {
            let mut ys = xs.to_vec();
            ys[i] += by;
            ys
        };
        let (grad_a, grad_t) = (grad(&audio), grad(&text));
        for i in 0..batch * width {
            let da = reference(&nudged(&a, i, h), &t, scale, batch) - reference(&nudged(&a, i, -h), &t, scale, batch);
            let dt = reference(&a, &nudged(&t, i, h), scale, batch) - reference(&a, &nudged(&t, i, -h), scale, batch);
            assert!((grad_a[i] - da / (2.0 * h)).abs() < 1e-8);
            assert!((grad_t[i] - dt / (2.0 * h)).abs() < 1e-8);
        }
        let ds = reference(&a, &t, scale + h, batch) - reference(&a, &t, scale - h, batch);
        assert!((grad(&log_scale)[0] - ds / (2.0 * h)).abs() < 1e-8);
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
