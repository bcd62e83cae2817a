//! Multi-head attention with a padding or a causal mask, of a text encoder (Vaswani et al. 2017, arXiv 1706.03762, §3.2).
//!
//! A batch comes padded, (B, T, C), or as its sequences one after another, (N, C): then no work is done on padding.

use std::borrow::Cow;

use candle_core::{CpuStorage, CustomOp3, DType, Layout, Result, Shape, Tensor};

use crate::cpu::{
    Elements, fusible, gradient,
    head::{Operands, Scratch, Terms},
    parallel,
    product::{Matrix, MatrixMut},
    slice,
};
use crate::dropout::{Drop, dropout_composed_from};
use crate::precision::matmul;
use crate::{Mode, Sequences, softmax::softmax_composed};

/// Which keys a query may attend to, and how the sequences lie.
#[derive(Clone, Copy, Debug)]
pub enum AttentionMask<'a> {
    /// All, of (B, T, C).
    None,
    /// Those that are not zero in a tensor (B, T) of any type: the tokens of a padded batch (B, T, C).
    Keys(&'a Tensor),
    /// Its own and those before it, of (B, T, C).
    Causal,
    /// All of its own sequence, of (N, C).
    Within(&'a Sequences),
    /// Its own and those before it in its own sequence, of (N, C).
    CausalWithin(&'a Sequences),
}

impl AttentionMask<'_> {
    /// Whether it is one of tokens of shape `dims`.
    fn fits(self, dims: &[usize]) -> bool {
        match (self, dims) {
            (Self::None | Self::Causal, [_, _, _]) => true,
            (Self::Keys(keys), [b, t, _]) => keys.dims() == [*b, *t],
            (Self::Within(sequences) | Self::CausalWithin(sequences), [n, _]) => sequences.tokens() == *n,
            _ => false,
        }
    }
}

/// Multi-head attention: `q`, `k`, `v` of one shape, (B, T, C) or (N, C) as `mask` has it.
///
/// A masked key has a weight of exactly zero, unless all keys of a sequence are masked: all scores are then lowered alike, and
/// the sequence attends as if it had no mask, up to the rounding of its scores to multiples of 2⁻⁹. Probabilities are dropped at
/// rate `dropout_p` in training; which ones, a padded batch and its sequences alone draw differently. Returns the shape of `q`.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    mask: AttentionMask<'_>,
    heads: usize,
    dropout_p: f32,
    mode: &mut Mode,
) -> Result<Tensor> {
    let dims = q.dims();
    let divides = heads > 0 && dims.last().is_some_and(|c| c % heads == 0);
    if !divides || k.dims() != dims || v.dims() != dims {
        candle_core::bail!(
            "attention with {heads} heads: {:?}, {:?} and {:?} do not fit",
            q.shape(),
            k.shape(),
            v.shape()
        );
    }
    if !mask.fits(dims) {
        match mask {
            AttentionMask::Keys(keys) => {
                candle_core::bail!("attention over {:?} cannot take a key mask {:?}", q.shape(), keys.shape())
            }
            AttentionMask::Within(sequences) | AttentionMask::CausalWithin(sequences) => {
                candle_core::bail!("{:?} are not sequences of {:?} tokens", q.shape(), sequences.lengths())
            }
            AttentionMask::None | AttentionMask::Causal => {
                candle_core::bail!("attention over {:?}, which is not (batch, tokens, width)", q.shape())
            }
        }
    }
    let drop = Drop::draw(dropout_p, mode);
    if fusible(&[q, k, v]) && q.elem_count() > 0 {
        q.contiguous()?.apply_op3(&k.contiguous()?, &v.contiguous()?, Fused::new(mask, dims, heads, drop)?)
    } else {
        attention_composed([q, k, v], mask, heads, drop)
    }
}

/// [`attention`] in candle's operations.
pub(crate) fn attention_composed(
    qkv: [&Tensor; 3],
    mask: AttentionMask<'_>,
    heads: usize,
    drop: Option<Drop>,
) -> Result<Tensor> {
    match mask {
        AttentionMask::Within(sequences) => each_composed(qkv, sequences, AttentionMask::None, heads, drop),
        AttentionMask::CausalWithin(sequences) => each_composed(qkv, sequences, AttentionMask::Causal, heads, drop),
        _ => padded_composed(qkv, mask, heads, drop.map(|drop| (drop, 0))),
    }
}

/// Each sequence of (N, C) attends by itself.
fn each_composed(
    qkv: [&Tensor; 3],
    sequences: &Sequences,
    mask: AttentionMask<'_>,
    heads: usize,
    drop: Option<Drop>,
) -> Result<Tensor> {
    let mut outputs = Vec::with_capacity(sequences.lengths().len());
    for (index, start) in probability_starts(sequences, heads).into_iter().enumerate() {
        let rows = sequences.rows(index);
        if !rows.is_empty() {
            let part = |xs: &Tensor| xs.narrow(0, rows.start, rows.len())?.unsqueeze(0);
            let [q, k, v] = [part(qkv[0])?, part(qkv[1])?, part(qkv[2])?]; // (1, length, C)
            outputs.push(padded_composed([&q, &k, &v], mask, heads, drop.map(|drop| (drop, start)))?.squeeze(0)?);
        }
    }
    if outputs.is_empty() { qkv[0].zeros_like() } else { Tensor::cat(&outputs, 0) }
}

/// The index of the first probability of each sequence, for dropout: (heads, length, length) of the one follow those of the other.
fn probability_starts(sequences: &Sequences, heads: usize) -> Vec<usize> {
    let mut next = 0;
    let start = |length: &usize| {
        let start = next;
        next += heads * length * length;
        start
    };
    sequences.lengths().iter().map(start).collect()
}

/// (B, T, C), with the probabilities' dropout and the index of the first one.
fn padded_composed(
    qkv: [&Tensor; 3],
    mask: AttentionMask<'_>,
    heads: usize,
    drop: Option<(Drop, usize)>,
) -> Result<Tensor> {
    let (b, t, c) = qkv[0].dims3()?;
    let head_dim = c / heads;
    let split = |xs: &Tensor| xs.reshape((b, t, heads, head_dim))?.transpose(1, 2)?.contiguous();
    let [q, k, v] = [split(qkv[0])?, split(qkv[1])?, split(qkv[2])?]; // (B, heads, T, head_dim)
    let scores = matmul(&(q * (head_dim as f64).powf(-0.5))?, &k.t()?)?; // (B, heads, T, T)
    let scores = match mask {
        AttentionMask::Keys(keys) => {
            scores.broadcast_add(&key_penalty(keys)?.to_dtype(scores.dtype())?.reshape((b, 1, 1, t))?)?
        }
        AttentionMask::Causal => {
            let penalty = Tensor::from_vec(causal_penalty(t), (t, t), scores.device())?;
            scores.broadcast_add(&penalty.to_dtype(scores.dtype())?)?
        }
        _ => scores,
    };
    let probabilities = softmax_composed(&scores)?;
    let probabilities = match drop {
        None => probabilities,
        Some((drop, start)) => dropout_composed_from(&probabilities, drop, start)?,
    };
    matmul(&probabilities, &v)?.transpose(1, 2)?.contiguous()?.reshape((b, t, c))
}

/// Added to the score of a masked key: e^-30000 is zero in every float type, and the number fits f16.
const MASKED: f64 = -30_000.0;

/// 0 for keys that may be attended to, [`MASKED`] for others: (B, T) in `f32`.
fn key_penalty(keys: &Tensor) -> Result<Tensor> {
    keys.eq(&keys.zeros_like()?)?.to_dtype(DType::F32)? * MASKED
}

/// 0 on and below the diagonal of (T, T), [`MASKED`] above it.
fn causal_penalty(t: usize) -> Vec<f32> {
    (0..t * t).map(|i| if i % t > i / t { MASKED as f32 } else { 0.0 }).collect()
}

struct Fused {
    heads: usize,
    /// Those of a padded batch are all of one length.
    sequences: Sequences,
    /// Index of each sequence's first probability.
    starts: Vec<usize>,
    penalty: Penalty,
    drop: Option<Drop>,
}

/// What is added to the scores.
enum Penalty {
    None,
    /// (N), for all queries of a sequence.
    Keys(Vec<f32>),
    /// That of [`causal_penalty`].
    Causal,
}

const NAME: &str = "attention";

impl Fused {
    /// For tokens of shape `dims`, which the mask fits.
    fn new(mask: AttentionMask<'_>, dims: &[usize], heads: usize, drop: Option<Drop>) -> Result<Self> {
        let penalty = match mask {
            AttentionMask::None | AttentionMask::Within(_) => Penalty::None,
            AttentionMask::Keys(keys) => Penalty::Keys(key_penalty(keys)?.flatten_all()?.to_vec1()?),
            AttentionMask::Causal | AttentionMask::CausalWithin(_) => Penalty::Causal,
        };
        let sequences = match mask {
            AttentionMask::Within(sequences) | AttentionMask::CausalWithin(sequences) => sequences.clone(),
            _ => Sequences::new(vec![dims[1]; dims[0]]),
        };
        Ok(Self { heads, starts: probability_starts(&sequences, heads), sequences, penalty, drop })
    }

    /// What is added to the scores of a sequence.
    fn mask(&self, sequence: usize) -> Cow<'_, [f32]> {
        let rows = self.sequences.rows(sequence);
        match &self.penalty {
            Penalty::None => Cow::Borrowed(&[]),
            Penalty::Keys(keys) => Cow::Borrowed(&keys[rows]),
            Penalty::Causal => Cow::Owned(causal_penalty(rows.len())),
        }
    }

    fn terms<'a>(&self, sequence: usize, head: usize, mask: &'a [f32]) -> Terms<'a> {
        let t = self.sequences.rows(sequence).len();
        Terms { bias: &[], mask, drop: self.drop.map(|drop| (drop, self.starts[sequence] + head * t * t)) }
    }

    /// Elements of each sequence's part of a tensor of width `c`.
    fn parts(&self, c: usize) -> Vec<usize> {
        self.sequences.lengths().iter().map(|length| length * c).collect()
    }
}

/// One head of one sequence of (T, C) queries, keys and values.
fn operands<'a>([q, k, v]: [&'a [f32]; 3], offset: usize, (t, c): (usize, usize), head_dim: usize) -> Operands<'a> {
    let part = |xs: &'a [f32]| Matrix::strided(&xs[offset..], t, head_dim, c);
    Operands { q: part(q), k: part(k), v: part(v), scale: (head_dim as f32).sqrt().recip() }
}

impl CustomOp3 for Fused {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let qkv = [slice(q, q_layout, NAME)?, slice(k, k_layout, NAME)?, slice(v, v_layout, NAME)?];
        let c = width(q_layout.shape());
        let head_dim = c / self.heads;
        let ([ys], _) = parallel::build_parts(&self.parts(c), |index, [out]| {
            let (rows, mask) = (self.sequences.rows(index), self.mask(index));
            let t = rows.len();
            if t == 0 {
                return;
            }
            let mut scratch = Scratch::new(t, head_dim);
            for head in 0..self.heads {
                let x = operands(qkv, rows.start * c + head * head_dim, (t, c), head_dim);
                let out = MatrixMut::strided(&mut out[head * head_dim..], t, head_dim, c);
                scratch.forward(x, self.terms(index, head, &mask), out);
            }
        });
        Ok((CpuStorage::F32(ys), q_layout.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let elements = [Elements::of(q, NAME), Elements::of(k, NAME), Elements::of(v, NAME)];
        let qkv = [elements[0].get()?, elements[1].get()?, elements[2].get()?];
        let g = Elements::of(&grad, NAME);
        let g = g.get()?;
        let c = width(q.shape());
        let head_dim = c / self.heads;
        let ([dq, dk, dv], _) = parallel::build_parts(&self.parts(c), |index, grads: [&mut [f32]; 3]| {
            let (rows, mask) = (self.sequences.rows(index), self.mask(index));
            let t = rows.len();
            if t == 0 {
                return;
            }
            let mut scratch = Scratch::new(t, head_dim);
            let mut grads = grads;
            for head in 0..self.heads {
                let offset = head * head_dim;
                let x = operands(qkv, rows.start * c + offset, (t, c), head_dim);
                let dout = Matrix::strided(&g[rows.start * c + offset..], t, head_dim, c);
                let blocks = scratch.backward(x, self.terms(index, head, &mask), dout, None).inputs;
                for (grad, block) in grads.iter_mut().zip(blocks.chunks_exact(t * head_dim)) {
                    for (row, values) in grad.chunks_exact_mut(c).zip(block.chunks_exact(head_dim)) {
                        row[offset..][..head_dim].copy_from_slice(values);
                    }
                }
            }
        });
        Ok((gradient(dq, q)?, gradient(dk, k)?, gradient(dv, v)?))
    }
}

/// The last dimension.
fn width(shape: &Shape) -> usize {
    shape.dims().last().copied().unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::twin;

    /// Ragged lengths, longest first.
    fn mask(b: usize, t: usize) -> Tensor {
        let lengths: Vec<usize> = (0..b).map(|row| t - row.min(t - 1)).collect();
        mask_of(&lengths, t)
    }

    fn mask_of(lengths: &[usize], t: usize) -> Tensor {
        let keep: Vec<u32> = lengths.iter().flat_map(|length| (0..t).map(move |i| u32::from(i < *length))).collect();
        Tensor::from_vec(keep, (lengths.len(), t), &Device::Cpu).unwrap()
    }

    fn check_twins(shape: &[usize], mask: AttentionMask<'_>, heads: usize, drop: Option<Drop>) {
        let fused =
            |xs: &[Tensor]| xs[0].affine(3.0, 0.0)?.apply_op3(&xs[1], &xs[2], Fused::new(mask, shape, heads, drop)?);
        let composed =
            |xs: &[Tensor]| attention_composed([&xs[0].affine(3.0, 0.0)?, &xs[1], &xs[2]], mask, heads, drop);
        twin::check_twins(&[shape, shape, shape], 1e-5, fused, composed);
    }

    #[test]
    fn twins_agree() {
        for (b, t, c, heads) in [(3usize, 7usize, 12usize, 3usize), (2, 20, 32, 2), (1, 1, 4, 1), (4, 33, 30, 5)] {
            let shape: &[usize] = &[b, t, c];
            let keys = mask(b, t);
            for mask in [AttentionMask::None, AttentionMask::Keys(&keys), AttentionMask::Causal] {
                for drop in [None, Some(Drop { key: 5, p: 0.3 })] {
                    check_twins(shape, mask, heads, drop);
                }
            }
        }
    }

    #[test]
    fn twins_agree_on_sequences() {
        for (lengths, c, heads) in
            [(&[7usize, 1, 12, 3][..], 12, 3), (&[20], 32, 2), (&[1, 1], 4, 1), (&[33, 0, 2, 40], 30, 5)]
        {
            let sequences = Sequences::new(lengths.to_vec());
            for mask in [AttentionMask::Within(&sequences), AttentionMask::CausalWithin(&sequences)] {
                for drop in [None, Some(Drop { key: 5, p: 0.3 })] {
                    check_twins(&[sequences.tokens(), c], mask, heads, drop);
                }
            }
        }
    }

    /// Padding, with a mask, and no padding are two ways to the same sequences.
    #[test]
    fn sequences_attend_as_their_padded_batch_does() {
        let (sequences, keep) = (Sequences::new(vec![4, 1, 3]), mask_of(&[4, 1, 3], 4));
        let real: Vec<u32> = vec![0, 1, 2, 3, 4, 8, 9, 10];
        let real = Tensor::from_vec(real, 8, &Device::Cpu).unwrap();
        for causal in [false, true] {
            let (padded, packed) = if causal {
                (AttentionMask::Causal, AttentionMask::CausalWithin(&sequences))
            } else {
                (AttentionMask::Keys(&keep), AttentionMask::Within(&sequences))
            };
            let run = |qkv: [&Tensor; 3], mask| attention(qkv[0], qkv[1], qkv[2], mask, 2, 0.1, &mut Mode::eval());
            let pad = |xs: &[Tensor]| {
                let padded_xs = [&xs[0], &xs[1], &xs[2]].map(|xs| xs.reshape((3, 4, 6)).unwrap());
                run(padded_xs.each_ref(), padded)?.reshape((12, 6))?.index_select(&real, 0)
            };
            let pack = |xs: &[Tensor]| {
                let packed_xs = [&xs[0], &xs[1], &xs[2]].map(|xs| xs.index_select(&real, 0).unwrap());
                run(packed_xs.each_ref(), packed)
            };
            twin::check_twins(&[&[12, 6], &[12, 6], &[12, 6]], 1e-5, pack, pad);
        }
    }

    #[test]
    fn masks_of_other_shapes_are_errors() {
        let zeros = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &Device::Cpu).unwrap();
        let message = |dims: &[usize], mask| {
            let xs = zeros(dims);
            attention(&xs, &xs, &xs, mask, 2, 0.0, &mut Mode::eval()).unwrap_err().to_string()
        };
        let (sequences, keys) = (Sequences::new(vec![2, 1]), zeros(&[3, 2]));
        assert!(message(&[4, 6], AttentionMask::Within(&sequences)).contains("not sequences of [2, 1] tokens"));
        assert!(message(&[1, 3, 6], AttentionMask::CausalWithin(&sequences)).contains("not sequences of"));
        assert!(message(&[3, 6], AttentionMask::None).contains("not (batch, tokens, width)"));
        assert!(message(&[2, 3, 6], AttentionMask::Keys(&keys)).contains("key mask [3, 2]"));
        assert!(message(&[2, 3, 5], AttentionMask::Causal).contains("do not fit"));
    }

    #[test]
    fn composed_gradients_follow_finite_differences() {
        let shape: &[usize] = &[2, 4, 6];
        let keys = mask(2, 4);
        let drop = Some(Drop { key: 1, p: 0.2 });
        for mask in [AttentionMask::Keys(&keys), AttentionMask::Causal] {
            let f = |xs: &[Tensor]| attention_composed([&xs[0], &xs[1], &xs[2]], mask, 2, drop);
            twin::check_gradient(&[shape, shape, shape], f);
        }
    }

    /// Both twins of an evaluation.
    fn twins(q: &Tensor, v: &Tensor, keep: &Tensor) -> [Vec<f32>; 2] {
        let mask = AttentionMask::Keys(keep);
        let fused = attention(q, q, v, mask, 2, 0.0, &mut Mode::eval()).unwrap();
        let composed = attention_composed([q, q, v], mask, 2, None).unwrap();
        [fused, composed].map(|ys| ys.flatten_all().unwrap().to_vec1().unwrap())
    }

    /// The values of masked keys are as large as a float can be: any weight at all would show.
    #[test]
    fn masked_keys_have_no_weight_at_all() {
        let q = twin::random(3, &[1, 3, 4]).to_dtype(DType::F32).unwrap();
        let v = Tensor::new(&[[[1f32, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0], [3e38, 3e38, 3e38, 3e38]]], &Device::Cpu);
        let keep = Tensor::new(&[[1u32, 1, 0]], &Device::Cpu).unwrap();
        for ys in twins(&q, &v.unwrap(), &keep) {
            assert!(ys.iter().all(|y| (y - 1.0).abs() < 1e-6), "{ys:?}");
        }
    }

    #[test]
    fn a_sequence_without_any_key_attends_as_without_a_mask() {
        let q = (twin::random(3, &[1, 5, 4]) * 3.0).unwrap().to_dtype(DType::F32).unwrap();
        let v = twin::random(4, &[1, 5, 4]).to_dtype(DType::F32).unwrap();
        let none = Tensor::zeros((1, 5), DType::U32, &Device::Cpu).unwrap();
        let [expected, _] = twins(&q, &v, &none.ones_like().unwrap());
        for ys in twins(&q, &v, &none) {
            assert!(ys.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 2e-3), "{ys:?} against {expected:?}");
        }
    }

    #[test]
    fn padding_changes_nothing() {
        let xs = twin::random(3, &[1, 5, 8]).to_dtype(DType::F32).unwrap();
        let short = xs.narrow(1, 0, 3).unwrap();
        let keep = Tensor::new(&[[1i64, 1, 1, 0, 0]], &Device::Cpu).unwrap();
        let mut mode = Mode::eval();
        let keys = AttentionMask::Keys(&keep);
        let long = attention(&xs, &xs, &xs, keys, 2, 0.1, &mut mode).unwrap().narrow(1, 0, 3).unwrap();
        let short = attention(&short, &short, &short, AttentionMask::None, 2, 0.1, &mut mode).unwrap();
        let gap = (long - short).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(gap < 1e-6, "{gap}");
    }

    #[test]
    fn a_causal_sequence_does_not_see_its_future() {
        let xs = twin::random(3, &[1, 5, 8]).to_dtype(DType::F32).unwrap();
        let causal = |t: usize| {
            let xs = xs.narrow(1, 0, t).unwrap();
            let ys = attention(&xs, &xs, &xs, AttentionMask::Causal, 2, 0.0, &mut Mode::eval()).unwrap();
            ys.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        let whole = causal(5);
        for t in 1..5 {
            let gap = causal(t).iter().zip(&whole).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
            assert!(gap < 1e-6, "{t} tokens: {gap}");
        }
    }
}
