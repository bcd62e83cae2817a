//! The second layer of a feed-forward network with the activation before it, as one operation: `linear(activation(xs))`.
//!
//! The activation is the largest tensor of a transformer layer, and as a layer of its own it is kept for the backward pass beside its
//! argument, which is as large. Here the backward pass makes it again, with its slope, of which it has need anyway.

use candle_core::{CpuStorage, CustomOp3, D, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::activation::{activated, activated_with_slope};
use crate::cpu::{Elements, fusible, math, parallel, slice, vectorise::vectorised};
use crate::linear::{self, Gradients, Needs, Sizes, optional, output_shape};
use crate::{Activation, Linear};

/// `layer(activation(xs))`: (…, input) → (…, output).
pub fn activated_linear(xs: &Tensor, activation: Activation, layer: &Linear) -> Result<Tensor> {
    let weight = layer.weight();
    let (output, input) = weight.dims2()?;
    match layer.bias() {
        // What does not fit is left to the layers, which say so.
        Some(bias)
            if xs.dim(D::Minus1)? == input
                && bias.dims() == [output]
                && xs.elem_count() > 0
                && weight.elem_count() > 0
                && fusible(&[xs, weight, bias]) =>
        {
            xs.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, Fused(activation))
        }
        _ => activated_linear_composed(xs, activation, layer),
    }
}

/// [`activated_linear`] from its layers.
fn activated_linear_composed(xs: &Tensor, activation: Activation, layer: &Linear) -> Result<Tensor> {
    layer.forward(&activation.forward(xs)?)
}

struct Fused(Activation);

const NAME: &str = "activated_linear";

impl CustomOp3 for Fused {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        xs_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let sizes = Sizes::of(xs_layout.shape(), weight_layout.shape())?;
        let active = activated(self.0, slice(xs, xs_layout, NAME)?);
        let bias = slice(bias, bias_layout, NAME)?;
        let ys = linear::forward(&active, slice(weight, weight_layout, NAME)?, Some(bias), sizes);
        Ok((CpuStorage::F32(ys), output_shape(xs_layout, weight_layout)?))
    }

    fn bwd(
        &self,
        xs: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let elements = [xs, weight, &grad].map(|t| Elements::of(t, NAME));
        let [x, w, g] = [elements[0].get()?, elements[1].get()?, elements[2].get()?];
        let (active, slopes) = activated_with_slope(self.0, x);
        let sizes = Sizes::of(xs.shape(), weight.shape())?;
        let Gradients { mut dx, dw, db } = Gradients::of((&active, w, g), sizes, Needs::of(xs, weight, Some(bias)));
        if let Some(dx) = &mut dx {
            let parts = dx.par_chunks_mut(parallel::GRAIN).zip(slopes.par_chunks(parallel::GRAIN));
            parts.for_each(|(dx, slopes)| multiply(dx, slopes));
        }
        Ok((optional(dx, xs)?, optional(dw, weight)?, optional(db, bias)?))
    }
}

vectorised! {
    /// `xs ← xs · ys`.
    fn multiply(xs: &mut [f32], ys: &[f32]) {
        math::multiply_assign(xs, ys);
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::twin;

    const ALL: [Activation; 4] = [Activation::Gelu, Activation::GeluNew, Activation::Relu, Activation::QuickGelu];

    fn layer(xs: &[Tensor]) -> Linear {
        Linear::from_parts(xs[1].clone(), Some(xs[2].clone()))
    }

    #[test]
    fn twins_agree() {
        // One task and several, a weight beyond the cache, a single row and a single column.
        for (lead, input, output) in
            [(&[3usize, 5][..], 7, 11), (&[2, 1501], 33, 17), (&[37], 300, 241), (&[1], 5, 3), (&[4, 9], 6, 1)]
        {
            let xs: Vec<usize> = lead.iter().copied().chain([input]).collect();
            for activation in ALL {
                let fused = |xs: &[Tensor]| activated_linear(&(&xs[0] * 3.0)?, activation, &layer(xs));
                let composed = |xs: &[Tensor]| activated_linear_composed(&(&xs[0] * 3.0)?, activation, &layer(xs));
                twin::check_twins(&[&xs, &[output, input], &[output]], 1e-5, fused, composed);
            }
        }
    }

    #[test]
    fn composed_gradients_follow_finite_differences() {
        let shapes: [&[usize]; 3] = [&[2, 3, 5], &[4, 5], &[4]];
        twin::check_gradient(&shapes, |xs| activated_linear_composed(&xs[0], Activation::Gelu, &layer(xs)));
    }

    #[test]
    fn a_layer_without_bias_and_misfits_go_to_the_layers() {
        let zeros = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &Device::Cpu).unwrap();
        let run = |xs: &[usize], bias: Option<usize>| {
            let layer = Linear::from_parts(zeros(&[4, 3]), bias.map(|bias| zeros(&[bias])));
            activated_linear(&zeros(xs), Activation::Gelu, &layer)
        };
        assert_eq!(run(&[2, 3], None).unwrap().dims(), [2, 4]);
        assert!(run(&[2, 4], Some(4)).unwrap_err().to_string().contains("of 3 inputs"));
        assert!(run(&[2, 3], Some(3)).unwrap_err().to_string().contains("of 4 outputs"));
    }
}
