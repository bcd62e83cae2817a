//! The tower's tokens along time, and the tagging head on them.
//!
//! Source: laion-clap 1.1.7 `htsat.py`, `forward_features` and `tscam_conv` (the token-semantic module of arXiv 2202.00874,
//! section 2.2). Sizes follow the configuration where the reference has those of its four stages written in.

use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;
use candle_nn::ops::sigmoid;
use clap_nn::init::torch_default;

use crate::config::HtsAtConfig;
use crate::tagging::{AudioTags, repeat_steps};

/// Steps of time that the head looks at, the middle one being its own.
const REACH: usize = 3;

/// How the square of tokens that the last stage leaves is laid out: strips of the spectrogram above each other, each of some rows
/// (frequency) and columns (time).
#[derive(Debug)]
pub(super) struct Timeline {
    strips: usize,
    side: usize,
    /// Frames of the image that a column stands for.
    frames_per_step: usize,
}

impl Timeline {
    pub(super) fn new(config: &HtsAtConfig) -> Self {
        let side = config.stage_side(config.depths.len() - 1);
        Self { strips: config.strips(), side, frames_per_step: config.spec_size / side }
    }

    /// `(B, side², C)` → `(B, steps, rows, C)`: the strips one after the other.
    fn unroll(&self, xs: &Tensor) -> Result<Tensor> {
        let (b, _, c) = xs.dims3()?;
        let (strips, side) = (self.strips, self.side);
        if !side.is_multiple_of(strips) {
            bail!(
                "the {side} rows of tokens that the last stage leaves do not divide into {strips} strips: no token has a time"
            )
        }
        xs.reshape((b, strips, side / strips, side, c))?
            .transpose(2, 3)? // (B, strips, side, rows, C)
            .reshape((b, strips * side, side / strips, c))
    }

    /// The last stage's tokens `(B, side², C)` → all outputs.
    pub(super) fn tags(&self, xs: &Tensor, embedding: Tensor, head: Option<&TaggingHead>) -> Result<AudioTags> {
        let xs = self.unroll(xs)?; // (B, steps, rows, C)
        let fine_grained_embedding = repeat_steps(&xs.mean(2)?, self.frames_per_step)?; // (B, frames, C)
        let (mut framewise_output, mut clipwise_output) = (None, None);
        if let Some(head) = head {
            let ys = head.forward(&xs)?; // (B, steps, classes)
            framewise_output = Some(repeat_steps(&sigmoid(&ys)?, self.frames_per_step)?); // (B, frames, classes)
            clipwise_output = Some(sigmoid(&ys.mean(1)?)?); // (B, classes)
        }
        Ok(AudioTags { embedding, fine_grained_embedding, framewise_output, clipwise_output })
    }
}

/// A convolution over all rows of a strip and [`REACH`] steps of time.
#[derive(Debug)]
pub(crate) struct TaggingHead {
    /// `(classes, C, rows, REACH)`.
    weight: Tensor,
    /// `(classes)`.
    bias: Tensor,
}

impl TaggingHead {
    /// `vb` stands at `tscam_conv`.
    pub(crate) fn new(config: &HtsAtConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let (classes, c, rows) = (config.num_classes, config.hidden_size, config.strip_rows());
        let init = torch_default(c * rows * REACH);
        Ok(Self {
            weight: vb.get_with_hints((classes, c, rows, REACH), "weight", init)?,
            bias: vb.get_with_hints(classes, "bias", init)?,
        })
    }

    /// `(B, steps, rows, C)` → logits `(B, steps, classes)`, zeros standing before the first step and after the last.
    ///
    /// `ys[t, k] = bias[k] + Σ_c Σ_r Σ_d weight[k, c, r, d] · xs[t + d - 1, r, c]`, as one matrix product.
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let (b, steps, rows, c) = xs.dims4()?;
        let padded = xs.transpose(2, 3)?.contiguous()?.pad_with_zeros(1, 1, 1)?; // (B, steps + 2, C, rows)
        let shifted = (0..REACH).map(|d| padded.narrow(1, d, steps)).collect::<Result<Vec<_>>>()?;
        let columns = Tensor::stack(&shifted, 4)?.reshape((b, steps, c * rows * REACH))?;
        clap_nn::linear(&columns, &self.weight.flatten_from(1)?, Some(&self.bias)) // (B, steps, classes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device, Var};
    use clap_nn::init::seeded_vars;

    /// An image of 48, 3 strips of 16 bins, 2 stages: 6 x 6 tokens at the end, 2 rows to a strip.
    fn config() -> HtsAtConfig {
        HtsAtConfig {
            spec_size: 48,
            num_mel_bins: 16,
            patch_size: 4,
            patch_stride: [4; 2],
            depths: vec![1, 1],
            hidden_size: 5,
            num_classes: 7,
            ..HtsAtConfig::default()
        }
    }

    fn gap(a: &Tensor, b: &Tensor) -> f32 {
        (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
    }

    #[test]
    fn strips_follow_each_other_in_time() {
        // A token's value is its place in the square: row · 6 + column.
        let xs = Tensor::arange(0f32, 36., &Device::Cpu).unwrap().reshape((1, 36, 1)).unwrap();
        let timeline = Timeline::new(&config());
        let ys = timeline.unroll(&xs).unwrap().squeeze(3).unwrap().squeeze(0).unwrap();
        let ys: Vec<Vec<f32>> = ys.to_vec2().unwrap();
        assert_eq!(
            (ys.len(), &ys[0], &ys[5], &ys[6], &ys[17]),
            (18, &vec![0., 6.], &vec![5., 11.], &vec![12., 18.], &vec![29., 35.])
        );
        assert_eq!(18 * timeline.frames_per_step, config().image_frames());
    }

    #[test]
    fn the_head_is_a_convolution() {
        let (vars, vb) = seeded_vars(3, &Device::Cpu, DType::F32);
        let head = TaggingHead::new(&config(), vb).unwrap();
        let xs = Var::from_tensor(&Tensor::randn(0f32, 1., (2, 18, 2, 5), &Device::Cpu).unwrap()).unwrap();
        // candle's has one padding for both sides: time is padded beforehand.
        let theirs = xs.permute((0, 3, 2, 1)).unwrap().contiguous().unwrap(); // (B, C, rows, steps)
        let theirs =
            theirs.pad_with_zeros(3, 1, 1).unwrap().conv2d(&head.weight, 0, 1, 1, 1).unwrap().squeeze(2).unwrap();
        let theirs = theirs.transpose(1, 2).unwrap().broadcast_add(&head.bias).unwrap();
        let ours = head.forward(&xs).unwrap();
        assert_eq!(ours.dims(), [2, 18, 7]);
        assert!(gap(&ours, &theirs) < 1e-5);

        let factors = Tensor::randn(0f32, 1., (2, 18, 7), &Device::Cpu).unwrap();
        let [ours, theirs] = [ours, theirs].map(|ys| (ys * &factors).unwrap().sum_all().unwrap().backward().unwrap());
        let variables = ["weight", "bias"].map(|name| vars.get(name).unwrap());
        for var in variables.iter().chain([&xs]) {
            assert!(gap(ours.get(var).unwrap(), theirs.get(var).unwrap()) < 1e-4);
        }
    }

    #[test]
    fn tokens_of_two_strips_have_no_time() {
        let config = HtsAtConfig { depths: vec![1, 1, 1], ..config() }; // 3 x 3 tokens
        let tokens = |side: usize| Tensor::zeros((1, side * side, 5), DType::F32, &Device::Cpu).unwrap();
        assert!(Timeline::new(&config).unroll(&tokens(3)).is_ok());
        let config = HtsAtConfig { spec_size: 64, ..config }; // 4 x 4 tokens, 4 strips
        assert!(Timeline::new(&config).unroll(&tokens(4)).is_ok());
        let config = HtsAtConfig { num_mel_bins: 8, ..config }; // 8 strips
        assert!(Timeline::new(&config).unroll(&tokens(4)).is_err());
    }
}
