//! Multi-head attention with a padding or a causal mask, of a text encoder (Vaswani et al. 2017, arXiv 1706.03762, §3.2).

use candle_core::{CpuStorage, CustomOp3, DType, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::cpu::{
    Elements, fusible, gradient,
    head::{Operands, Scratch, Terms},
    parallel,
    product::{Matrix, MatrixMut},
    slice,
};
use crate::dropout::{Drop, dropout_composed};
use crate::{Mode, softmax::softmax_composed};

/// Which keys a query may attend to.
#[derive(Clone, Copy, Debug)]
pub enum AttentionMask<'a> {
    /// All.
    None,
    /// Those that are not zero in a tensor (B, T) of any type: the tokens of a padded batch.
    Keys(&'a Tensor),
    /// Its own and those before it.
    Causal,
}

/// Multi-head attention: `q`, `k`, `v` (B, T, C) each.
///
/// A masked key has a weight of exactly zero, unless all keys of a sequence are masked: all scores are then lowered alike, and
/// the sequence attends as if it had no mask, up to the rounding of its scores to multiples of 2⁻⁹. Probabilities are dropped at
/// rate `dropout_p` in training. Returns (B, T, C).
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    mask: AttentionMask<'_>,
    heads: usize,
    dropout_p: f32,
    mode: &mut Mode,
) -> Result<Tensor> {
    let (b, t, c) = q.dims3()?;
    if heads == 0 || c % heads != 0 || k.dims() != q.dims() || v.dims() != q.dims() {
        candle_core::bail!(
            "attention with {heads} heads: {:?}, {:?} and {:?} do not fit",
            q.shape(),
            k.shape(),
            v.shape()
        );
    }
    if matches!(mask, AttentionMask::Keys(keys) if keys.dims() != [b, t]) {
        candle_core::bail!("attention over {:?} cannot take a key mask other than ({b}, {t})", q.shape());
    }
    let drop = Drop::draw(dropout_p, mode);
    if fusible(&[q, k, v]) && q.elem_count() > 0 {
        let fused = Fused { heads, penalty: Penalty::of(mask, t)?, drop };
        q.contiguous()?.apply_op3(&k.contiguous()?, &v.contiguous()?, fused)
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
    let (b, t, c) = qkv[0].dims3()?;
    let head_dim = c / heads;
    let split = |xs: &Tensor| xs.reshape((b, t, heads, head_dim))?.transpose(1, 2)?.contiguous();
    let [q, k, v] = [split(qkv[0])?, split(qkv[1])?, split(qkv[2])?]; // (B, heads, T, head_dim)
    let scores = (q * (head_dim as f64).powf(-0.5))?.matmul(&k.t()?)?; // (B, heads, T, T)
    let scores = match mask {
        AttentionMask::None => scores,
        AttentionMask::Keys(keys) => {
            scores.broadcast_add(&key_penalty(keys)?.to_dtype(scores.dtype())?.reshape((b, 1, 1, t))?)?
        }
        AttentionMask::Causal => {
            let penalty = Tensor::from_vec(causal_penalty(t), (t, t), scores.device())?;
            scores.broadcast_add(&penalty.to_dtype(scores.dtype())?)?
        }
    };
    let probabilities = softmax_composed(&scores)?;
    let probabilities = match drop {
        None => probabilities,
        Some(drop) => dropout_composed(&probabilities, drop)?,
    };
    probabilities.matmul(&v)?.transpose(1, 2)?.contiguous()?.reshape((b, t, c))
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
    penalty: Penalty,
    drop: Option<Drop>,
}

/// What is added to the scores.
enum Penalty {
    None,
    /// (B, T), a row for all queries of a sequence.
    Keys(Vec<f32>),
    /// (T, T), the same for all sequences.
    Causal(Vec<f32>),
}

impl Penalty {
    /// For sequences of `t` tokens.
    fn of(mask: AttentionMask<'_>, t: usize) -> Result<Self> {
        Ok(match mask {
            AttentionMask::None => Self::None,
            AttentionMask::Keys(keys) => Self::Keys(key_penalty(keys)?.to_vec2()?.concat()),
            AttentionMask::Causal => Self::Causal(causal_penalty(t)),
        })
    }
}

const NAME: &str = "attention";

impl Fused {
    fn terms(&self, sequence: usize, head: usize, t: usize) -> Terms<'_> {
        let mask = match &self.penalty {
            Penalty::None => &[][..],
            Penalty::Keys(keys) => &keys[sequence * t..][..t],
            Penalty::Causal(all) => all,
        };
        Terms { bias: &[], mask, drop: self.drop.map(|drop| (drop, (sequence * self.heads + head) * t * t)) }
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
        let (_, t, c) = q_layout.shape().dims3()?;
        let head_dim = c / self.heads;
        let ys = parallel::build(qkv[0].len(), t * c, |start, out| {
            let mut scratch = Scratch::new(t, head_dim);
            for head in 0..self.heads {
                let x = operands(qkv, start + head * head_dim, (t, c), head_dim);
                let out = MatrixMut::strided(&mut out[head * head_dim..], t, head_dim, c);
                scratch.forward(x, self.terms(start / (t * c), head, t), out);
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
        let (b, t, c) = q.dims3()?;
        let head_dim = c / self.heads;
        let sequence = |index: usize| {
            let mut scratch = Scratch::new(t, head_dim);
            let mut grads = [vec![0.0; t * c], vec![0.0; t * c], vec![0.0; t * c]];
            for head in 0..self.heads {
                let offset = head * head_dim;
                let x = operands(qkv, index * t * c + offset, (t, c), head_dim);
                let dout = Matrix::strided(&g[index * t * c + offset..], t, head_dim, c);
                let blocks = scratch.backward(x, self.terms(index, head, t), dout, None).inputs;
                for (grad, block) in grads.iter_mut().zip(blocks.chunks_exact(t * head_dim)) {
                    for (row, values) in grad.chunks_exact_mut(c).zip(block.chunks_exact(head_dim)) {
                        row[offset..][..head_dim].copy_from_slice(values);
                    }
                }
            }
            grads
        };
        let sequences: Vec<[Vec<f32>; 3]> = (0..b).into_par_iter().map(sequence).collect();
        let join = |part: usize, like: &Tensor| {
            let mut joined = Vec::with_capacity(b * t * c);
            sequences.iter().for_each(|grads| joined.extend_from_slice(&grads[part]));
            gradient(joined, like)
        };
        Ok((join(0, q)?, join(1, k)?, join(2, v)?))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::twin;

    /// Ragged lengths, longest first.
    fn mask(b: usize, t: usize) -> Tensor {
        let keep: Vec<u32> = (0..b * t).map(|i| u32::from(i % t < t - (i / t).min(t - 1))).collect();
        Tensor::from_vec(keep, (b, t), &Device::Cpu).unwrap()
    }

    #[test]
    fn twins_agree() {
        for (b, t, c, heads) in [(3usize, 7usize, 12usize, 3usize), (2, 20, 32, 2), (1, 1, 4, 1), (4, 33, 30, 5)] {
            let shape: &[usize] = &[b, t, c];
            let keys = mask(b, t);
            for mask in [AttentionMask::None, AttentionMask::Keys(&keys), AttentionMask::Causal] {
                for drop in [None, Some(Drop { key: 5, p: 0.3 })] {
                    let fused = |xs: &[Tensor]| {
                        let fused = Fused { heads, penalty: Penalty::of(mask, t)?, drop };
                        xs[0].affine(3.0, 0.0)?.apply_op3(&xs[1], &xs[2], fused)
                    };
                    let composed = |xs: &[Tensor]| {
                        attention_composed([&xs[0].affine(3.0, 0.0)?, &xs[1], &xs[2]], mask, heads, drop)
                    };
                    twin::check_twins(&[shape, shape, shape], 1e-5, fused, composed);
                }
            }
        }
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
