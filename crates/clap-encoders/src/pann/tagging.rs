//! The tower's output along time, and the tagging head.
//!
//! Source: laion-clap 1.1.7 `pann_model.py` (`latent_output`, `fc_audioset`). LAION's network tags clips alone; moments are tagged here as by
//! PANNs' decision-level networks (`Cnn14_DecisionLevelAvg`), with the same head.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use candle_nn::ops::sigmoid;
use clap_nn::Linear;

use super::block::xavier;
use crate::config::PannConfig;
use crate::tagging::{AudioTags, repeat_steps};

/// `fc_audioset`, `(classes, hidden_size)`.
pub(super) fn head(config: &PannConfig, vb: VarBuilder<'_>) -> Result<Linear> {
    let (hidden, classes) = (config.hidden_size, config.num_classes);
    Linear::new(hidden, classes, xavier(hidden, classes), vb)
}

/// `max_pool1d` and `avg_pool1d` of three steps, added: `(B, steps, C)` → the same. Padding is nothing to a maximum and zero to a mean.
pub(super) fn smoothed(xs: &Tensor) -> Result<Tensor> {
    let steps = xs.dim(1)?;
    let (first, last) = (xs.narrow(1, 0, 1)?, xs.narrow(1, steps - 1, 1)?);
    let before = Tensor::cat(&[&first, &xs.narrow(1, 0, steps - 1)?], 1)?;
    let after = Tensor::cat(&[&xs.narrow(1, 1, steps - 1)?, &last], 1)?;
    let peak = before.maximum(xs)?.maximum(&after)?;
    let padded = xs.pad_with_zeros(1, 1, 1)?;
    let sum = ((padded.narrow(1, 0, steps)? + xs)? + padded.narrow(1, 2, steps)?)?;
    peak + (sum / 3.0)?
}

/// All outputs, from the last layer's of the clips `(B, hidden)` and of their steps `(B, steps, hidden)`.
pub(super) fn tags(
    clip: &Tensor,
    steps: &Tensor,
    embedding: Tensor,
    head: Option<&Linear>,
    frames_per_step: usize,
) -> Result<AudioTags> {
    let (mut framewise_output, mut clipwise_output) = (None, None);
    if let Some(head) = head {
        framewise_output = Some(repeat_steps(&sigmoid(&head.forward(steps)?)?, frames_per_step)?); // (B, frames, classes)
        clipwise_output = Some(sigmoid(&head.forward(clip)?)?); // (B, classes)
    }
    let fine_grained_embedding = repeat_steps(steps, frames_per_step)?; // (B, frames, hidden)
    Ok(AudioTags { embedding, fine_grained_embedding, framewise_output, clipwise_output })
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn neighbours_are_pooled_as_torch_pools_them() {
        let xs = Tensor::new(&[[[1f32], [4.], [-2.], [-3.]]], &Device::Cpu).unwrap();
        let ys = smoothed(&xs).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        // max (1, 4, 4, -2) + mean ((0+1+4), (1+4-2), (4-2-3), (-2-3+0)) / 3
        let expected = [4. + 5. / 3., 4. + 1., 4. - 1. / 3., -2. - 5. / 3.];
        assert!(ys.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{ys:?}");
        let one = smoothed(&xs.narrow(1, 0, 1).unwrap()).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!((one[0] - 4. / 3.).abs() < 1e-6);
    }
}
