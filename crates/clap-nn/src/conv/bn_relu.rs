//! The unit that convolutional networks repeat: convolution, batch norm, ReLU.

use candle_core::{Result, Tensor};

use super::{Conv2d, Weight, frozen};
use crate::cpu::fusible;
use crate::{Activation, BatchNorm, Mode, avg_pool_2x2};

/// A convolution without a bias, batch norm over its channels, ReLU; then, where asked for, 2x2 average pooling.
#[derive(Clone, Debug)]
pub struct ConvBnRelu {
    conv: Conv2d,
    norm: BatchNorm,
}

impl ConvBnRelu {
    /// Of its two layers.
    #[must_use]
    pub fn new(conv: Conv2d, norm: BatchNorm) -> Self {
        Self { conv, norm }
    }

    /// (B, H, W, input) → (B, H', W', output).
    pub fn forward_t(&self, xs: &Tensor, mode: &mut Mode) -> Result<Tensor> {
        self.run(xs, false, mode)
    }

    /// (B, H, W, input) → (B, H'/2, W'/2, output).
    pub fn forward_pooled_t(&self, xs: &Tensor, mode: &mut Mode) -> Result<Tensor> {
        self.run(xs, true, mode)
    }

    fn run(&self, xs: &Tensor, pools: bool, mode: &mut Mode) -> Result<Tensor> {
        // Constants in evaluation: a scale and a shift of each channel are all that batch norm is.
        let frozen =
            !mode.is_train() && fusible(&[xs]) && xs.elem_count() > 0 && !xs.track_op() && self.conv.bias.is_none();
        if frozen && let Some((scale, shift)) = self.norm.constant_affine()? {
            match &self.conv.weight {
                Weight::Transformed(weight) if !pools || xs.dim(1)?.min(xs.dim(2)?) >= 2 => {
                    return frozen::block(xs, weight, frozen::Block { scale, shift, pools });
                }
                Weight::TapsFirst(weight) if fusible(&[weight]) => {
                    let block = frozen::Block { scale, shift, pools: false };
                    let ys = frozen::general_block(xs, weight, self.conv.geometry, block)?;
                    return if pools { avg_pool_2x2(&ys) } else { Ok(ys) };
                }
                _ => {}
            }
        }
        let ys = Activation::Relu.forward(&self.norm.forward_last_t(&self.conv.forward(xs)?, mode)?)?;
        if pools { avg_pool_2x2(&ys) } else { Ok(ys) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use candle_core::{DType, Device};
    use candle_nn::VarBuilder;

    use super::*;
    use crate::ConvGeometry;
    use crate::twin;

    /// A unit of constants and one of variables, of the same values.
    fn units(input: usize, output: usize, side: usize) -> [ConvBnRelu; 2] {
        let values = |seed, shape: &[usize]| twin::random(seed, shape).to_dtype(DType::F32).unwrap();
        let tensors: HashMap<String, Tensor> = [
            ("weight".to_owned(), values(3, &[output])),
            ("bias".to_owned(), values(4, &[output])),
            ("running_mean".to_owned(), values(5, &[output])),
            ("running_var".to_owned(), (values(6, &[output]).abs().unwrap() + 0.1).unwrap()),
        ]
        .into();
        let weight = values(2, &[output, input, side, side]);
        [false, true].map(|variable| {
            let of = |t: &Tensor| match variable {
                true => candle_core::Var::from_tensor(t).unwrap().into_inner(),
                false => t.clone(),
            };
            let tensors = tensors.iter().map(|(name, t)| (name.clone(), of(t))).collect();
            let norm =
                BatchNorm::new(output, 1e-5, VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu)).unwrap();
            ConvBnRelu::new(Conv2d::from_parts(of(&weight), None, ConvGeometry::same(side)).unwrap(), norm)
        })
    }

    #[test]
    fn constants_and_variables_agree_in_evaluation() {
        for (input, output, side) in [(1, 9, 3), (16, 8, 3), (21, 35, 3), (9, 12, 5)] {
            let [frozen, variable] = units(input, output, side);
            for size in [(9, 6), (2, 2), (12, 5)] {
                let xs = twin::random(1, &[2, size.0, size.1, input]).to_dtype(DType::F32).unwrap();
                for pools in [false, true] {
                    let [a, b] = [&frozen, &variable].map(|unit| unit.run(&xs, pools, &mut Mode::eval()).unwrap());
                    assert_eq!(a.dims(), b.dims());
                    let gap = (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
                    assert!(gap < 2e-5, "{input} {output} {side} {size:?} {pools}: {gap}");
                }
            }
        }
    }

    /// A broken clip must show.
    #[test]
    fn nan_passes_through() {
        for (input, side) in [(1, 3), (9, 3), (9, 5)] {
            let [frozen, _] = units(input, 8, side);
            let xs = Tensor::full(f32::NAN, (1, 4, 4, input), &Device::Cpu).unwrap();
            let ys = frozen.forward_pooled_t(&xs, &mut Mode::eval()).unwrap().flatten_all().unwrap();
            assert!(ys.to_vec1::<f32>().unwrap().iter().all(|y| y.is_nan()), "{input} {side}");
        }
    }
}
