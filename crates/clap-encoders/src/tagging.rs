//! What an audio tower says of a clip beside its embedding: which sounds there are, and when.

use candle_core::{Result, Tensor};

/// All outputs of an audio tower for `B` clips, by the names of LAION's output dictionary (laion-clap 1.1.7 `htsat.py`,
/// `forward_features`; `pann_model.py`).
///
/// `frames` are those of the spectrogram as the tower takes it. HTS-AT stretches a shorter input to
/// [`image_frames`](crate::HtsAtConfig::image_frames), so that frame `i` of an output lies at `i / image_frames` of the input.
#[derive(Clone, Debug)]
pub struct AudioTags {
    /// `(B, hidden_size)`: what [`crate::AudioTower::forward_t`] returns.
    pub embedding: Tensor,
    /// The embedding of each moment, `(B, frames, hidden_size)`; neighbouring frames share a step of the last layer and are alike.
    pub fine_grained_embedding: Tensor,
    /// Probability of each class at each moment, `(B, frames, num_classes)`; with a tagging head.
    pub framewise_output: Option<Tensor>,
    /// Probability of each class in the clip, `(B, num_classes)`; with a tagging head. Classes do not exclude each other.
    pub clipwise_output: Option<Tensor>,
}

/// `(B, steps, C)` → `(B, steps · times, C)`: each step `times` times in a row (`interpolate` of PANNs' `pytorch_utils.py`).
pub(crate) fn repeat_steps(xs: &Tensor, times: usize) -> Result<Tensor> {
    let (b, steps, c) = xs.dims3()?;
    xs.unsqueeze(2)?.broadcast_as((b, steps, times, c))?.reshape((b, steps * times, c))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    #[test]
    fn steps_are_repeated_one_by_one() {
        let xs = Var::new(&[[[1f32, 2.], [3., 4.]]], &Device::Cpu).unwrap();
        let ys = repeat_steps(&xs, 3).unwrap();
        let expected = [[1., 2.], [1., 2.], [1., 2.], [3., 4.], [3., 4.], [3., 4.]];
        assert_eq!(ys.to_vec3::<f32>().unwrap()[0], expected);
        let grads = ys.sum_all().unwrap().backward().unwrap();
        assert_eq!(grads.get(&xs).unwrap().to_vec3::<f32>().unwrap()[0], [[3., 3.], [3., 3.]]);
    }
}
