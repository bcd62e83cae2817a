//! One attention head over one short sequence: softmax(scale · Q Kᵀ + bias + mask) · V, forward and backward.
//!
//! The probabilities live in a scratch buffer that stays in cache; the backward pass makes them again.

use super::product::{Matrix, MatrixMut, Threads};
use super::{math, vectorise::vectorised};
use crate::dropout::{Drop, drop_elements};
use crate::softmax::softmax_backward_rows;

/// What is added to the scores (n, n) and dropped from the probabilities.
#[derive(Clone, Copy, Default)]
pub(crate) struct Terms<'a> {
    /// (n, n), or empty for none.
    pub(crate) bias: &'a [f32],
    /// (n, n), or one row (n) for all queries, or empty for none.
    pub(crate) mask: &'a [f32],
    /// Dropout of the probabilities, with the index of the first one.
    pub(crate) drop: Option<(Drop, usize)>,
}

/// Room for the probabilities and the gradients of one head.
pub(crate) struct Scratch {
    n: usize,
    head_dim: usize,
    scores: Vec<f32>,
    dropped: Vec<f32>,
    grads: Vec<f32>,
    inputs: Vec<f32>,
}

/// The gradients of one head: of the scores (n, n), and of q, k and v (3, n, head_dim).
pub(crate) struct Gradients<'a> {
    pub(crate) scores: &'a [f32],
    pub(crate) inputs: &'a [f32],
}

/// The operands of one head: each (n, head_dim) with rows `stride` apart.
#[derive(Clone, Copy)]
pub(crate) struct Operands<'a> {
    pub(crate) q: Matrix<'a>,
    pub(crate) k: Matrix<'a>,
    pub(crate) v: Matrix<'a>,
    pub(crate) scale: f32,
}

impl Scratch {
    /// For sequences of `n` tokens.
    pub(crate) fn new(n: usize, head_dim: usize) -> Self {
        Self { n, head_dim, scores: vec![0.0; n * n], dropped: Vec::new(), grads: Vec::new(), inputs: Vec::new() }
    }

    fn probabilities(&mut self, x: Operands<'_>, terms: Terms<'_>) {
        let n = self.n;
        MatrixMut::new(&mut self.scores, n, n).set(x.scale, x.q, x.k.t(), Threads::One);
        masked_softmax_rows(&mut self.scores, n, terms.bias, terms.mask);
    }

    /// Writes the head's output (n, head_dim) to `out`.
    pub(crate) fn forward(&mut self, x: Operands<'_>, terms: Terms<'_>, out: MatrixMut<'_>) {
        self.probabilities(x, terms);
        if let Some((drop, start)) = terms.drop {
            drop_elements(&mut self.scores, drop, start);
        }
        out.set(1.0, Matrix::new(&self.scores, self.n, self.n), x.v, Threads::One);
    }

    /// The gradients, from that of the output (n, head_dim). The output itself goes to `out` where it is asked for again.
    pub(crate) fn backward(
        &mut self,
        x: Operands<'_>,
        terms: Terms<'_>,
        dout: Matrix<'_>,
        out: Option<MatrixMut<'_>>,
    ) -> Gradients<'_> {
        let (n, d) = (self.n, self.head_dim);
        self.probabilities(x, terms);
        self.grads.resize(n * n, 0.0);
        self.inputs.resize(3 * n * d, 0.0);
        let (dq, rest) = self.inputs.split_at_mut(n * d);
        let (dk, dv) = rest.split_at_mut(n * d);
        MatrixMut::new(&mut self.grads, n, n).set(1.0, dout, x.v.t(), Threads::One);
        let used = match terms.drop {
            None => &self.scores,
            Some((drop, start)) => {
                self.dropped.clone_from(&self.scores);
                drop_elements(&mut self.dropped, drop, start);
                drop_elements(&mut self.grads, drop, start);
                &self.dropped
            }
        };
        if let Some(out) = out {
            out.set(1.0, Matrix::new(used, n, n), x.v, Threads::One);
        }
        MatrixMut::new(dv, n, d).set(1.0, Matrix::new(used, n, n).t(), dout, Threads::One);
        softmax_backward_rows(&mut self.grads, &self.scores, n);
        let dscores = Matrix::new(&self.grads, n, n);
        MatrixMut::new(dq, n, d).set(x.scale, dscores, x.k, Threads::One);
        MatrixMut::new(dk, n, d).set(x.scale, dscores.t(), x.q, Threads::One);
        Gradients { scores: &self.grads, inputs: &self.inputs }
    }
}

vectorised! {
    /// Adds `bias` and `mask` (see [`Terms`]) to rows of `n` scores and takes the softmax of each.
    fn masked_softmax_rows(scores: &mut [f32], n: usize, bias: &[f32], mask: &[f32]) {
        for (i, row) in scores.chunks_exact_mut(n).enumerate() {
            if !bias.is_empty() {
                math::add_assign(row, &bias[i * n..][..n]);
            }
            if mask.len() == n {
                math::add_assign(row, mask);
            } else if !mask.is_empty() {
                math::add_assign(row, &mask[i * n..][..n]);
            }
            math::softmax(row);
        }
    }
}
