//! Attention within shifted windows (Liu et al. 2021, arXiv 2103.14030), from the joint projection to the heads' output.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use crate::cpu::{
    Elements, fusible, gradient,
    head::{Operands, Scratch, Terms},
    math, parallel,
    product::{Matrix, MatrixMut},
    scatter::{Rows, build_rows},
    slice,
    vectorise::vectorised,
};
use crate::precision::matmul;
use crate::{WindowGeometry, softmax::softmax_composed};

/// Added to the score of two tokens of different regions (`swin_transformer.py`).
pub(crate) const MASKED: f32 = -100.0;

/// Multi-head attention of each window, in natural token order.
///
/// `qkv` (B, H·W, 3C) holds queries, keys and values, each split into heads; `bias` (heads, N, N) is added to the scores of all
/// windows. The cyclic shift, the partition, the mask between regions, the scale head_dim^-½ and the softmax are folded in.
/// Returns (B, H·W, C).
pub fn window_attention(qkv: &Tensor, bias: &Tensor, geometry: &WindowGeometry) -> Result<Tensor> {
    let (_, tokens, width) = qkv.dims3()?;
    if width % 3 != 0 {
        candle_core::bail!("window attention: {width} channels are not queries, keys and values");
    }
    check_geometry((tokens, width / 3), bias, geometry)?;
    if fusible(&[qkv, bias]) && qkv.elem_count() > 0 {
        qkv.contiguous()?.apply_op2(&bias.contiguous()?, Fused { plan: Plan::new(geometry) })
    } else {
        window_attention_composed(qkv, bias, geometry)
    }
}

/// Checks tokens, channels and bias against a geometry.
pub(crate) fn check_geometry((tokens, c): (usize, usize), bias: &Tensor, geometry: &WindowGeometry) -> Result<()> {
    geometry.validate()?;
    let (heads, area) = (geometry.heads, geometry.area());
    if tokens != geometry.height * geometry.width || c % heads != 0 || bias.dims() != [heads, area, area] {
        candle_core::bail!(
            "window attention: {tokens} tokens of {c} channels and bias {:?} do not fit {geometry:?}",
            bias.shape()
        );
    }
    Ok(())
}

/// [`window_attention`] in candle's operations.
pub fn window_attention_composed(qkv: &Tensor, bias: &Tensor, geometry: &WindowGeometry) -> Result<Tensor> {
    let (b, tokens, width) = qkv.dims3()?;
    let (c, heads, area, windows) = (width / 3, geometry.heads, geometry.area(), geometry.windows());
    let head_dim = c / heads;
    let order = geometry.token_order();
    let mut inverse = vec![0u32; tokens];
    for (position, &token) in order.iter().enumerate() {
        inverse[token as usize] = position as u32;
    }
    let device = qkv.device();
    let parts = qkv
        .contiguous()?
        .index_select(&Tensor::from_vec(order, tokens, device)?, 1)?
        .reshape(&[b * windows, area, 3, heads, head_dim])?
        .permute([2, 0, 3, 1, 4])? // (3, B·windows, heads, N, head_dim)
        .contiguous()?;
    let (q, k, v) = (parts.get(0)?, parts.get(1)?, parts.get(2)?);
    let scores = matmul(&(q * (head_dim as f64).powf(-0.5))?, &k.t()?)?; // (B·windows, heads, N, N)
    let mut scores = scores.broadcast_add(&bias.unsqueeze(0)?)?;
    if geometry.shift > 0 {
        let mask =
            Tensor::from_vec(region_mask(geometry), (1, windows, 1, area, area), device)?.to_dtype(qkv.dtype())?;
        scores = scores.reshape(&[b, windows, heads, area, area])?.broadcast_add(&mask)?.reshape((
            b * windows,
            heads,
            area,
            area,
        ))?;
    }
    matmul(&softmax_composed(&scores)?, &v)?
        .transpose(1, 2)? // (B·windows, N, heads, head_dim)
        .contiguous()?
        .reshape((b, tokens, c))?
        .index_select(&Tensor::from_vec(inverse, tokens, device)?, 1) // (B, H·W, C)
}

/// 0 or [`MASKED`] for each pair of tokens of each window (windows, N, N).
fn region_mask(geometry: &WindowGeometry) -> Vec<f32> {
    let area = geometry.area();
    let masks =
        (0..geometry.windows()).map(|window| window_mask(geometry, window).unwrap_or_else(|| vec![0.0; area * area]));
    masks.collect::<Vec<_>>().concat()
}

/// 0 or [`MASKED`] for each pair of tokens (N, N); `None` for a window of a single region.
fn window_mask(geometry: &WindowGeometry, window: usize) -> Option<Vec<f32>> {
    let labels = geometry.regions(window)?;
    let row = |query: u8| labels.iter().map(move |&key| if key == query { 0.0 } else { MASKED });
    Some(labels.iter().copied().flat_map(row).collect())
}

/// What the fused forward and backward passes know of a geometry.
pub(crate) struct Plan {
    pub(crate) geometry: WindowGeometry,
    /// Natural token indices, window by window.
    order: Vec<u32>,
    /// Of each window; empty for a window of a single region.
    masks: Vec<Vec<f32>>,
}

impl Plan {
    pub(crate) fn new(geometry: &WindowGeometry) -> Self {
        let masks = (0..geometry.windows()).map(|window| window_mask(geometry, window).unwrap_or_default()).collect();
        Self { geometry: *geometry, order: geometry.token_order(), masks }
    }

    /// Windows of `batch` images, and how many of them make a task. At most 64 tasks, since each sums a gradient of the bias.
    pub(crate) fn tasks(&self, batch: usize) -> (usize, usize) {
        let windows = batch * self.geometry.windows();
        (windows, windows.div_ceil(64).max(1))
    }

    /// The rows, in a (batch · tokens, …) matrix, of a window's tokens.
    pub(crate) fn rows(&self, window: usize) -> impl Iterator<Item = usize> {
        let (image, inner, area) = self.split(window);
        let first = image * self.geometry.height * self.geometry.width;
        self.order[inner * area..][..area].iter().map(move |&token| first + token as usize)
    }

    fn split(&self, window: usize) -> (usize, usize, usize) {
        let per_image = self.geometry.windows();
        (window / per_image, window % per_image, self.geometry.area())
    }

    /// What is added to the scores of a head of a window.
    pub(crate) fn terms<'a>(&'a self, window: usize, head: usize, bias: &'a [f32]) -> Terms<'a> {
        let (_, inner, area) = self.split(window);
        Terms { bias: &bias[head * area * area..][..area * area], mask: &self.masks[inner], drop: None }
    }

    /// The operands of a head in a window's rows of q|k|v (N, 3C).
    pub(crate) fn operands<'a>(&self, head: usize, rows: &'a [f32]) -> Operands<'a> {
        let (area, c, head_dim) = self.sizes(rows.len());
        let part = |part: usize| Matrix::strided(&rows[part * c + head * head_dim..], area, head_dim, 3 * c);
        Operands { q: part(0), k: part(1), v: part(2), scale: (head_dim as f32).sqrt().recip() }
    }

    /// N, C and head_dim, from the length of a window's q|k|v.
    fn sizes(&self, len: usize) -> (usize, usize, usize) {
        let area = self.geometry.area();
        let c = len / (3 * area);
        (area, c, c / self.geometry.heads)
    }

    /// The heads' output (N, C) of a window's q|k|v (N, 3C).
    pub(crate) fn forward(&self, window: usize, qkv: &[f32], bias: &[f32], scratch: &mut Scratch, out: &mut [f32]) {
        let (area, c, head_dim) = self.sizes(qkv.len());
        for head in 0..self.geometry.heads {
            let out = MatrixMut::strided(&mut out[head * head_dim..], area, head_dim, c);
            scratch.forward(self.operands(head, qkv), self.terms(window, head, bias), out);
        }
    }

    /// From the gradient of a window's output (N, C), writes that of its q|k|v (N, 3C) and adds that of the bias. The output
    /// itself goes to `out` where it is asked for again.
    pub(crate) fn backward(
        &self,
        window: usize,
        (qkv, bias, dout): (&[f32], &[f32], &[f32]),
        scratch: &mut Scratch,
        (dqkv, dbias): (&mut [f32], &mut [f32]),
        mut out: Option<&mut [f32]>,
    ) {
        let (area, c, head_dim) = self.sizes(qkv.len());
        for (head, dbias) in dbias.chunks_exact_mut(area * area).enumerate() {
            let offset = head * head_dim;
            let dout = Matrix::strided(&dout[offset..], area, head_dim, c);
            let out = out.as_mut().map(|out| MatrixMut::strided(&mut out[offset..], area, head_dim, c));
            let grads = scratch.backward(self.operands(head, qkv), self.terms(window, head, bias), dout, out);
            add_all(dbias, grads.scores);
            for (part, block) in grads.inputs.chunks_exact(area * head_dim).enumerate() {
                for (row, values) in dqkv.chunks_exact_mut(3 * c).zip(block.chunks_exact(head_dim)) {
                    row[part * c + offset..][..head_dim].copy_from_slice(values);
                }
            }
        }
    }
}

vectorised! {
    /// `total += xs`.
    pub(crate) fn add_all(total: &mut [f32], xs: &[f32]) {
        math::add_assign(total, xs);
    }
}

struct Fused {
    plan: Plan,
}

const NAME: &str = "window_attention";

/// Copies `rows` of a matrix of `width` columns next to each other.
pub(crate) fn gather(rows: impl Iterator<Item = usize>, matrix: &[f32], width: usize, out: &mut [f32]) {
    for (row, out) in rows.zip(out.chunks_exact_mut(width)) {
        out.copy_from_slice(&matrix[row * width..][..width]);
    }
}

impl CustomOp2 for Fused {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        qkv: &CpuStorage,
        layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (qkv, bias) = (slice(qkv, layout, NAME)?, slice(bias, bias_layout, NAME)?);
        let (batch, tokens, width) = layout.shape().dims3()?;
        let (plan, c, area) = (&self.plan, width / 3, self.plan.geometry.area());
        let (windows, step) = plan.tasks(batch);
        let task = |task: usize, out: &Rows<'_>| {
            let mut scratch = Scratch::new(area, c / plan.geometry.heads);
            let (mut inputs, mut outputs) = (vec![0.0; area * width], vec![0.0; area * c]);
            for window in task * step..((task + 1) * step).min(windows) {
                gather(plan.rows(window), qkv, width, &mut inputs);
                plan.forward(window, &inputs, bias, &mut scratch, &mut outputs);
                for (row, values) in plan.rows(window).zip(outputs.chunks_exact(c)) {
                    // SAFETY: each token belongs to one window, and each window to one task.
                    unsafe { out.write(row, values) };
                }
            }
        };
        // SAFETY: the windows of all tasks cover every token once.
        let (ys, _) = unsafe { build_rows(batch * tokens, c, windows.div_ceil(step), task) };
        Ok((CpuStorage::F32(ys), (batch, tokens, c).into()))
    }

    fn bwd(&self, qkv: &Tensor, bias: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (x, b, g) = (Elements::of(qkv, NAME), Elements::of(bias, NAME), Elements::of(&grad, NAME));
        let (x, b, g) = (x.get()?, b.get()?, g.get()?);
        let (batch, tokens, width) = qkv.dims3()?;
        let (plan, c, area) = (&self.plan, width / 3, self.plan.geometry.area());
        let (windows, step) = plan.tasks(batch);
        let task = |task: usize, out: &Rows<'_>| {
            let mut scratch = Scratch::new(area, c / plan.geometry.heads);
            let (mut inputs, mut grads) = (vec![0.0; area * width], vec![0.0; area * c]);
            let (mut dqkv, mut dbias) = (vec![0.0; area * width], vec![0.0; b.len()]);
            for window in task * step..((task + 1) * step).min(windows) {
                gather(plan.rows(window), x, width, &mut inputs);
                gather(plan.rows(window), g, c, &mut grads);
                plan.backward(window, (&inputs, b, &grads), &mut scratch, (&mut dqkv, &mut dbias), None);
                for (row, values) in plan.rows(window).zip(dqkv.chunks_exact(width)) {
                    // SAFETY: each token belongs to one window, and each window to one task.
                    unsafe { out.write(row, values) };
                }
            }
            dbias
        };
        // SAFETY: the windows of all tasks cover every token once.
        let (dqkv, dbias) = unsafe { build_rows(batch * tokens, width, windows.div_ceil(step), task) };
        Ok((gradient(dqkv, qkv)?, gradient(parallel::sum_in_order(dbias), bias)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::twin;

    fn check(batch: usize, (height, width): (usize, usize), window: usize, shift: usize, (heads, c): (usize, usize)) {
        let geometry = WindowGeometry { height, width, window, shift, heads };
        let area = window * window;
        let shapes: [&[usize]; 2] = [&[batch, height * width, 3 * c], &[heads, area, area]];
        // Larger scores than those of values in ±1, so that the softmax is not flat.
        let spread = |xs: &[Tensor]| xs[0].affine(2.0, 0.0);
        let fused = |xs: &[Tensor]| window_attention(&spread(xs)?, &xs[1], &geometry);
        let composed = |xs: &[Tensor]| window_attention_composed(&spread(xs)?, &xs[1], &geometry);
        twin::check_twins(&shapes, 1e-5, fused, composed);
    }

    #[test]
    fn twins_agree() {
        check(2, (16, 8), 8, 0, (2, 32));
        check(2, (16, 16), 8, 4, (2, 48));
        check(3, (6, 9), 3, 1, (3, 15));
        check(1, (4, 4), 4, 0, (1, 4));
        check(5, (16, 16), 4, 2, (4, 12));
    }

    #[test]
    fn composed_gradients_follow_finite_differences() {
        let geometry = WindowGeometry { height: 4, width: 6, window: 2, shift: 1, heads: 2 };
        let shapes: [&[usize]; 2] = [&[2, 24, 12], &[2, 4, 4]];
        twin::check_gradient(&shapes, |xs| window_attention_composed(&xs[0], &xs[1], &geometry));
    }

    /// Equal keys everywhere: each token gets the mean of the values it may see.
    #[test]
    fn tokens_do_not_attend_across_the_seam() {
        let geometry = WindowGeometry { height: 4, width: 4, window: 4, shift: 2, heads: 1 };
        let mut qkv = vec![0f32; 16 * 3];
        for (token, row) in qkv.chunks_exact_mut(3).enumerate() {
            row[2] = token as f32;
        }
        let qkv = Tensor::from_vec(qkv, (1, 16, 3), &candle_core::Device::Cpu).unwrap();
        let bias = Tensor::zeros((1, 16, 16), qkv.dtype(), qkv.device()).unwrap();
        let ys = window_attention(&qkv, &bias, &geometry).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        // The four 2x2 corners of the image, each by itself.
        assert!((ys[0] - 2.5).abs() < 1e-5 && (ys[3] - 4.5).abs() < 1e-5 && (ys[15] - 12.5).abs() < 1e-5, "{ys:?}");
    }

    #[test]
    fn misfits_are_errors() {
        let zeros = |dims: &[usize]| Tensor::zeros(dims, candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();
        let geometry = WindowGeometry { height: 4, width: 4, window: 2, shift: 0, heads: 2 };
        assert!(window_attention(&zeros(&[1, 15, 12]), &zeros(&[2, 4, 4]), &geometry).is_err());
        assert!(window_attention(&zeros(&[1, 16, 9]), &zeros(&[2, 4, 4]), &geometry).is_err());
        assert!(window_attention(&zeros(&[1, 16, 12]), &zeros(&[1, 4, 4]), &geometry).is_err());
    }
}
