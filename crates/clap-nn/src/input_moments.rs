//! Statistics of a whole batch for a network that sees it part by part.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};

use crate::batch_norm::moments_last;
use crate::{Collective, sum_numbers};

/// Mean and variance of each channel of an input. A batch norm that stands at the input of a network, so that nothing learnt comes
/// before it, can be given those of the whole batch: its output and its gradients are then the whole batch's, part by part.
#[derive(Clone, Debug)]
pub struct InputMoments {
    mean: Arc<[f32]>,
    var: Arc<[f32]>,
    count: usize,
    is_new: bool,
}

impl InputMoments {
    /// Of an input (…, channels), over all other dimensions.
    ///
    /// # Errors
    /// Where there is less than two values a channel.
    pub fn of(xs: &Tensor) -> Result<Self> {
        let count = xs.elem_count() / xs.dim(candle_core::D::Minus1)?.max(1);
        if count < 2 {
            bail!("batch norm cannot train on a single value per channel, got {:?}", xs.shape());
        }
        let (mean, var) = moments_last(xs)?;
        Ok(Self { mean: mean.into(), var: var.into(), count, is_new: true })
    }

    /// Of the inputs of all ranks together, of which these are one's.
    ///
    /// # Errors
    /// Where the ranks have lost each other.
    pub fn over(&self, ranks: &dyn Collective) -> Result<Self> {
        let own = self.count as f32;
        let weighted: Vec<f32> = [own].into_iter().chain(self.mean.iter().map(|mean| mean * own)).collect();
        let sums = sum_numbers(&weighted, ranks)?;
        let count = sums[0];
        let mean: Arc<[f32]> = sums[1..].iter().map(|sum| sum / count).collect();
        // Σ (x - mean)² of a rank: around its own mean, and of that around the common one.
        let squares = self.var.iter().zip(self.mean.iter().zip(&*mean));
        let squares: Vec<f32> =
            squares.map(|(var, (own_mean, mean))| own * (var + (own_mean - mean).powi(2))).collect();
        let var = sum_numbers(&squares, ranks)?.into_iter().map(|sum| sum / count).collect();
        Ok(Self { mean, var, count: count as usize, is_new: self.is_new })
    }

    /// The same for the parts after the first: running statistics have seen the batch.
    #[must_use]
    pub fn seen(&self) -> Self {
        Self { is_new: false, ..self.clone() }
    }

    /// Mean and variance, for a norm of so many channels.
    pub(crate) fn of_channels(&self, channels: usize) -> Result<(&[f32], &[f32])> {
        if self.mean.len() != channels {
            bail!("statistics of {} channels were given to a batch norm of {channels}", self.mean.len());
        }
        Ok((&self.mean, &self.var))
    }

    /// Values of a channel.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    pub(crate) fn is_new(&self) -> bool {
        self.is_new
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::{BatchNorm, Mode, twin};

    /// Output, gradients of weight and bias, and running variance, of parts of so many rows; whole without.
    fn run(part: Option<usize>) -> Vec<Vec<f32>> {
        let xs = twin::random(1, &[10, 3, 6]).to_dtype(DType::F32).unwrap();
        let (vars, vb) = crate::init::seeded_vars(1, &Device::Cpu, DType::F32);
        let norm = BatchNorm::new(6, 1e-5, vb).unwrap();
        let mut mode = Mode::train(ChaCha8Rng::seed_from_u64(1));
        let moments = InputMoments::of(&xs).unwrap();
        let mut parts = Vec::new();
        for start in (0..10).step_by(part.unwrap_or(10)) {
            let rows = xs.narrow(0, start, part.unwrap_or(10).min(10 - start)).unwrap();
            if part.is_some() {
                mode.give_input_moments(if start == 0 { moments.clone() } else { moments.seen() });
            }
            parts.push(norm.forward_last_t(&rows, &mut mode).unwrap());
        }
        let ys = Tensor::cat(&parts, 0).unwrap();
        let weights = twin::random(2, &[10, 3, 6]).to_dtype(DType::F32).unwrap();
        let grads = (&ys * weights).unwrap().sum_all().unwrap().backward().unwrap();
        let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let var = |name: &str| -> Var { vars.get(name).unwrap() };
        let of = |name: &str| flat(grads.get(&var(name)).unwrap());
        vec![
            flat(&ys),
            of("weight"),
            of("bias"),
            flat(var("running_mean").as_tensor()),
            flat(var("running_var").as_tensor()),
        ]
    }

    #[test]
    fn parts_are_normalised_as_the_whole() {
        let whole = run(None);
        for part in [10, 4, 1] {
            for (parts, whole) in run(Some(part)).iter().zip(&whole) {
                let worst = parts.iter().zip(whole).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(worst < 1e-5, "parts of {part}: {worst}");
            }
        }
    }

    #[test]
    fn other_channels_are_refused() {
        let (_, vb) = crate::init::seeded_vars(1, &Device::Cpu, DType::F32);
        let norm = BatchNorm::new(6, 1e-5, vb).unwrap();
        let mut mode = Mode::train(ChaCha8Rng::seed_from_u64(1));
        mode.give_input_moments(InputMoments::of(&twin::random(1, &[4, 5])).unwrap());
        let xs = twin::random(1, &[4, 6]).to_dtype(DType::F32).unwrap();
        assert!(norm.forward_last_t(&xs, &mut mode).unwrap_err().to_string().contains("5 channels"));
        assert!(InputMoments::of(&twin::random(1, &[1, 6])).is_err());
    }
}
