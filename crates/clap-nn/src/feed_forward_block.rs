//! The feed-forward half of a pre-norm transformer block as one operation: `xs + drop_path(fc2(act(fc1(norm(xs)))))`.
//!
//! Separate layers write and read ten activations and their gradients for each token; at small widths that, not arithmetic, is
//! what a training step waits for. Here a task takes a few hundred tokens through the whole half while they are in its
//! second-level cache, and the backward pass makes the intermediates again.

use candle_core::{CpuStorage, CustomOp2, D, Layout, Result, Shape, Tensor};

use crate::activation::{apply, apply_with_slope};
use crate::cpu::{
    Elements, fusible, gradient, math,
    packed::{Lengths, pack},
    parallel,
    product::{Matrix, MatrixMut, Threads},
    slice,
    vectorise::vectorised,
};
use crate::dropout::{Drop, add_scaled, residual_of};
use crate::layer_norm::{backward_rows, normalise_rows};
use crate::linear::{Affine, add_columns};
use crate::window_attention::add_all;
use crate::{Activation, LayerNorm, Linear, Mode, activated_linear};

/// Parameters up to this many elements are fused: beyond, they leave the cache at each handful of tokens and the separate
/// layers' large products win.
pub(crate) const FUSED_PARAMETERS: usize = 256 * 1024;

/// `xs + drop_path(fc2(act(fc1(norm(xs)))))` for `xs` (B, …, C); `fc1` C → H, `fc2` H → C, both with bias.
pub fn feed_forward_block(
    xs: &Tensor,
    norm: &LayerNorm,
    (fc1, activation, fc2): (&Linear, Activation, &Linear),
    drop_path: f32,
    mode: &mut Mode,
) -> Result<Tensor> {
    let scales = match Drop::draw(drop_path, mode) {
        Some(drop) => Some(drop.rows(xs.dim(0)?)),
        None => None,
    };
    let (hidden, c) = fc1.weight().dims2()?;
    let parameters = 2 * c + 2 * hidden * c + hidden + c;
    let (Some(b1), Some(b2)) = (fc1.bias(), fc2.bias()) else {
        return feed_forward_block_composed(xs, norm, (fc1, activation, fc2), scales);
    };
    // Packed parameters carry no shapes: what does not fit is left to the layers, which say so.
    let layers_fit = xs.dim(D::Minus1)? == c
        && norm.weight.dims() == [c]
        && norm.bias.dims() == [c]
        && b1.dims() == [hidden]
        && fc2.weight().dims() == [c, hidden]
        && b2.dims() == [c];
    let parts = [&norm.weight, &norm.bias, fc1.weight(), b1, fc2.weight(), b2];
    let fused =
        fusible(&[xs]) && fusible(&parts) && parameters <= FUSED_PARAMETERS && xs.elem_count() > 0 && layers_fit;
    if !fused {
        return feed_forward_block_composed(xs, norm, (fc1, activation, fc2), scales);
    }
    let op = Fused { c, hidden, activation, eps: norm.eps as f32, scales };
    xs.contiguous()?.apply_op2(&pack(&parts)?, op)
}

/// [`feed_forward_block`] from its layers, with the factors of the branch's rows given.
fn feed_forward_block_composed(
    xs: &Tensor,
    norm: &LayerNorm,
    (fc1, activation, fc2): (&Linear, Activation, &Linear),
    scales: Option<Vec<f32>>,
) -> Result<Tensor> {
    let ys = fc1.forward(&norm.forward(xs)?)?;
    residual_of(xs, &activated_linear(&ys, activation, fc2)?, scales)
}

struct Fused {
    c: usize,
    hidden: usize,
    activation: Activation,
    eps: f32,
    /// Factors of the branch by row of the batch; `None` for all ones.
    scales: Option<Vec<f32>>,
}

const NAME: &str = "feed_forward_block";

/// Buffers of one task, for as many tokens as fit the cache.
struct Buffers {
    normal: Vec<f32>,
    hidden: Vec<f32>,
    active: Vec<f32>,
    dhidden: Vec<f32>,
    dy: Vec<f32>,
}

impl Fused {
    /// norm weight, norm bias, fc1 weight, fc1 bias, fc2 weight, fc2 bias.
    fn lengths(&self) -> Lengths<6> {
        let (c, h) = (self.c, self.hidden);
        Lengths([c, c, h * c, h, c * h, c])
    }

    /// Tokens taken through the block at once: their hidden activations take about a quarter of a megabyte.
    fn tokens(&self) -> usize {
        (64 * 1024 / (self.c + self.hidden)).clamp(32, 512)
    }

    /// Multiplies the rows of `branch`, tokens from `first` on, by the factors of their rows of the batch.
    fn scale(&self, branch: &mut [f32], first: usize, tokens_per_row: usize) {
        if let Some(scales) = &self.scales {
            for (token, values) in branch.chunks_exact_mut(self.c).enumerate() {
                multiply(values, scales[(first + token) / tokens_per_row]);
            }
        }
    }

    fn forward(&self, xs: &[f32], packed: &[f32], batch: usize) -> Vec<f32> {
        let (c, hidden) = (self.c, self.hidden);
        let [norm_weight, norm_bias, w1, b1, w2, b2] = self.lengths().split(packed);
        let fc1 = Affine { weight: Matrix::new(w1, hidden, c), bias: Some(b1) };
        let fc2 = Affine { weight: Matrix::new(w2, c, hidden), bias: Some(b2) };
        let per_row = xs.len() / c / batch;
        parallel::build(xs.len(), self.tokens() * c, |start, ys| {
            let n = ys.len() / c;
            let xs = &xs[start..start + ys.len()];
            let mut inner = vec![0.0; n * hidden];
            normalise_rows(ys, xs, norm_weight, norm_bias, self.eps);
            fc1.apply(&mut inner, Matrix::new(ys, n, c));
            apply(self.activation, &mut inner);
            fc2.apply(ys, Matrix::new(&inner, n, hidden));
            self.scale(ys, start / c, per_row);
            add_all(ys, xs);
        })
    }

    /// The gradients of a run of tokens from `first` on: writes that of the input to `dx`, adds those of the parameters to `sums`.
    fn backward(
        &self,
        (x, g, packed): (&[f32], &[f32], &[f32]),
        (first, per_row): (usize, usize),
        buffers: &mut Buffers,
        dx: &mut [f32],
        sums: &mut [f32],
    ) {
        let (c, hidden) = (self.c, self.hidden);
        let n = x.len() / c;
        let [norm_weight, norm_bias, w1, b1, w2, _] = self.lengths().split(packed);
        let [dnorm_weight, dnorm_bias, dw1, db1, dw2, db2] = self.lengths().split_mut(sums);
        let (w1, w2) = (Matrix::new(w1, hidden, c), Matrix::new(w2, c, hidden));
        let normal = &mut buffers.normal[..n * c];
        let (inner, active) = (&mut buffers.hidden[..n * hidden], &mut buffers.active[..n * hidden]);
        let (dinner, dy) = (&mut buffers.dhidden[..n * hidden], &mut buffers.dy[..n * c]);
        // The forward pass again, up to the activation and its slope.
        normalise_rows(normal, x, norm_weight, norm_bias, self.eps);
        Affine { weight: w1, bias: Some(b1) }.apply(inner, Matrix::new(normal, n, c));
        apply_with_slope(self.activation, inner, active);
        // fc2
        dy.copy_from_slice(g);
        self.scale(dy, first, per_row);
        add_columns(db2, dy);
        let rows_dy = Matrix::new(dy, n, c);
        MatrixMut::new(dw2, c, hidden).add(rows_dy.t(), Matrix::new(active, n, hidden), Threads::One);
        MatrixMut::new(dinner, n, hidden).set(1.0, rows_dy, w2, Threads::One);
        // activation, fc1
        multiply_all(dinner, inner);
        add_columns(db1, dinner);
        let rows_dinner = Matrix::new(dinner, n, hidden);
        MatrixMut::new(dw1, hidden, c).add(rows_dinner.t(), Matrix::new(normal, n, c), Threads::One);
        MatrixMut::new(dx, n, c).set(1.0, rows_dinner, w1, Threads::One);
        // norm, residual
        backward_rows(dx, x, norm_weight, self.eps, dnorm_weight, dnorm_bias);
        add_scaled(dx, g, 1.0);
    }
}

impl CustomOp2 for Fused {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        layout: &Layout,
        packed: &CpuStorage,
        packed_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let batch = layout.shape().dims()[0];
        let ys = self.forward(slice(xs, layout, NAME)?, slice(packed, packed_layout, NAME)?, batch);
        Ok((CpuStorage::F32(ys), layout.shape().clone()))
    }

    fn bwd(&self, xs: &Tensor, packed: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (x, p, g) = (Elements::of(xs, NAME), Elements::of(packed, NAME), Elements::of(&grad, NAME));
        let (x, p, g) = (x.get()?, p.get()?, g.get()?);
        let (c, step, lengths) = (self.c, self.tokens(), self.lengths());
        let per_row = x.len() / c / xs.dim(0)?;
        let tokens = x.len() / c;
        let share = tokens.div_ceil(lengths.tasks()).next_multiple_of(step);
        let (dx, sums) = parallel::build_with(x.len(), share * c, |start, dx| {
            let mut sums = vec![0.0; lengths.total()];
            let room = |width: usize| vec![0.0; step * width];
            let mut buffers = Buffers {
                normal: room(c),
                hidden: room(self.hidden),
                active: room(self.hidden),
                dhidden: room(self.hidden),
                dy: room(c),
            };
            for (index, dx) in dx.chunks_mut(step * c).enumerate() {
                let at = start + index * step * c;
                let inputs = (&x[at..at + dx.len()], &g[at..at + dx.len()], p);
                self.backward(inputs, (at / c, per_row), &mut buffers, dx, &mut sums);
            }
            sums
        });
        Ok((gradient(dx, xs)?, gradient(parallel::sum_in_order(sums), packed)?))
    }
}

vectorised! {
    /// `xs ← scale · xs`.
    pub(crate) fn multiply(xs: &mut [f32], scale: f32) {
        for x in xs {
            *x *= scale;
        }
    }
}

vectorised! {
    /// `xs ← xs · ys`.
    fn multiply_all(xs: &mut [f32], ys: &[f32]) {
        math::multiply_assign(xs, ys);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::twin;

    fn layers(xs: &[Tensor]) -> (LayerNorm, Linear, Linear) {
        let norm = LayerNorm { weight: xs[1].clone(), bias: xs[2].clone(), eps: 1e-5 };
        let fc1 = Linear::from_parts(xs[3].clone(), Some(xs[4].clone()));
        (norm, fc1, Linear::from_parts(xs[5].clone(), Some(xs[6].clone())))
    }

    fn composed(xs: &[Tensor], activation: Activation, scales: Option<&[f32]>) -> Result<Tensor> {
        let (norm, fc1, fc2) = layers(xs);
        feed_forward_block_composed(&xs[0], &norm, (&fc1, activation, &fc2), scales.map(<[f32]>::to_vec))
    }

    #[test]
    fn twins_agree() {
        let scales = [1.25f32, 0.0, 1.25];
        for (tokens, c, hidden, scales) in
            [(7, 5, 9, None), (700, 12, 33, Some(&scales[..])), (301, 32, 128, Some(&scales[..]))]
        {
            let shapes: [&[usize]; 7] = [&[3, tokens, c], &[c], &[c], &[hidden, c], &[hidden], &[c, hidden], &[c]];
            for activation in [Activation::Gelu, Activation::Relu, Activation::GeluNew, Activation::QuickGelu] {
                let fused = |xs: &[Tensor]| {
                    let op = Fused { c, hidden, activation, eps: 1e-5, scales: scales.map(<[f32]>::to_vec) };
                    xs[0].apply_op2(&pack(&xs[1..].iter().collect::<Vec<_>>())?, op)
                };
                twin::check_twins(&shapes, 2e-5, fused, |xs| composed(xs, activation, scales));
            }
        }
    }

    #[test]
    fn composed_gradients_follow_finite_differences() {
        let shapes: [&[usize]; 7] = [&[2, 3, 4], &[4], &[4], &[5, 4], &[5], &[4, 5], &[4]];
        twin::check_gradient(&shapes, |xs| composed(xs, Activation::Gelu, Some(&[1.5, 0.0])));
    }

    /// Biases that are wrong one by one and right in sum: packed, they would pass for each other's.
    #[test]
    fn misfits_are_errors() {
        let zeros = |dims: &[usize]| Tensor::zeros(dims, candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();
        let shapes: [&[usize]; 7] = [&[2, 3, 4], &[4], &[4], &[5, 4], &[5], &[4, 5], &[4]];
        let run = |shapes: [&[usize]; 7]| {
            let (norm, fc1, fc2) = layers(&shapes.map(zeros));
            feed_forward_block(&zeros(shapes[0]), &norm, (&fc1, Activation::Gelu, &fc2), 0.0, &mut Mode::eval())
        };
        assert!(run(shapes).is_ok());
        for (i, j) in [(4, 6), (2, 4)] {
            let mut swapped = shapes;
            swapped.swap(i, j);
            assert!(run(swapped).is_err(), "{swapped:?}");
        }
    }

    #[test]
    fn the_public_form_dispatches_to_the_same_values() {
        let xs: Vec<Tensor> = [&[2usize, 3, 4][..], &[4], &[4], &[5, 4], &[5], &[4, 5], &[4]]
            .iter()
            .enumerate()
            .map(|(i, shape)| twin::random(i as u64, shape))
            .collect();
        let run = |xs: &[Tensor]| {
            let (norm, fc1, fc2) = layers(xs);
            feed_forward_block(&xs[0], &norm, (&fc1, Activation::Gelu, &fc2), 0.1, &mut Mode::eval()).unwrap()
        };
        let wide = run(&xs).flatten_all().unwrap().to_vec1::<f64>().unwrap();
        let narrow: Vec<Tensor> = xs.iter().map(|x| x.to_dtype(candle_core::DType::F32).unwrap()).collect();
        let narrow = run(&narrow).flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(wide.iter().zip(&narrow).all(|(a, b)| (a - f64::from(*b)).abs() < 1e-5));
    }
}
