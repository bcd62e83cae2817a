//! The attention half of a Swin block as one operation: `xs + drop_path(proj(window_attention(qkv(norm(xs)))))`.
//!
//! A task takes a few windows through the whole half while they are in its second-level cache; the backward pass makes the
//! intermediates again. See [`mod@crate::feed_forward_block`] for why.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};

use crate::cpu::{
    Elements, fusible, gradient,
    head::Scratch,
    packed::{Lengths, pack},
    parallel,
    product::{Matrix, MatrixMut, Threads},
    scatter::{Rows, build_rows},
    slice,
};
use crate::dropout::{Drop, add_scaled, residual_of};
use crate::feed_forward_block::{FUSED_PARAMETERS, multiply};
use crate::layer_norm::{backward_rows, normalise_rows};
use crate::linear::{Affine, add_columns};
use crate::window_attention::{Plan, add_all, check_geometry, gather};
use crate::{LayerNorm, Linear, Mode, WindowGeometry, window_attention};

/// `xs + drop_path(proj(window_attention(qkv(norm(xs)), bias)))` for `xs` (B, H·W, C); `qkv` C → 3C and `proj` C → C, `bias`
/// (heads, N, N).
pub fn window_attention_block(
    xs: &Tensor,
    norm: &LayerNorm,
    (qkv, bias, proj): (&Linear, &Tensor, &Linear),
    geometry: &WindowGeometry,
    drop_path: f32,
    mode: &mut Mode,
) -> Result<Tensor> {
    let (batch, _, c) = xs.dims3()?;
    let scales = Drop::draw(drop_path, mode).map(|drop| drop.rows(batch));
    let (Some(qkv_bias), Some(proj_bias)) = (qkv.bias(), proj.bias()) else {
        return window_attention_block_composed(xs, norm, (qkv, bias, proj), geometry, scales);
    };
    // Packed parameters carry no shapes: what does not fit is left to the layers, which say so.
    let layers_fit = norm.weight.dims() == [c]
        && norm.bias.dims() == [c]
        && qkv.weight().dims() == [3 * c, c]
        && qkv_bias.dims() == [3 * c]
        && proj.weight().dims() == [c, c]
        && proj_bias.dims() == [c];
    let parts = [&norm.weight, &norm.bias, qkv.weight(), qkv_bias, proj.weight(), proj_bias];
    let parameters = 4 * c * c + 6 * c;
    let fused =
        fusible(&[xs, bias]) && fusible(&parts) && parameters <= FUSED_PARAMETERS && xs.elem_count() > 0 && layers_fit;
    if !fused {
        return window_attention_block_composed(xs, norm, (qkv, bias, proj), geometry, scales);
    }
    check_geometry((xs.dims()[1], c), bias, geometry)?;
    let op = Fused { plan: Plan::new(geometry), c, eps: norm.eps as f32, scales };
    xs.contiguous()?.apply_op3(&pack(&parts)?, &bias.contiguous()?, op)
}

/// [`window_attention_block`] from its layers, with the factors of the branch's rows given.
fn window_attention_block_composed(
    xs: &Tensor,
    norm: &LayerNorm,
    (qkv, bias, proj): (&Linear, &Tensor, &Linear),
    geometry: &WindowGeometry,
    scales: Option<Vec<f32>>,
) -> Result<Tensor> {
    let ys = window_attention(&qkv.forward(&norm.forward(xs)?)?, bias, geometry)?;
    residual_of(xs, &proj.forward(&ys)?, scales)
}

struct Fused {
    plan: Plan,
    c: usize,
    eps: f32,
    /// Factors of the branch by image; `None` for all ones.
    scales: Option<Vec<f32>>,
}

const NAME: &str = "window_attention_block";

/// How windows are dealt to tasks.
#[derive(Clone, Copy)]
struct Deal {
    /// Windows of the batch.
    windows: usize,
    /// Windows of a task.
    share: usize,
    /// Windows taken through the block at once.
    group: usize,
}

impl Deal {
    fn tasks(self) -> usize {
        self.windows.div_ceil(self.share)
    }

    /// The groups of a task, as ranges of windows.
    fn groups(self, task: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
        let last = ((task + 1) * self.share).min(self.windows);
        (task * self.share..last).step_by(self.group).map(move |first| first..(first + self.group).min(last))
    }
}

impl Fused {
    /// norm weight, norm bias, qkv weight, qkv bias, proj weight, proj bias.
    fn lengths(&self) -> Lengths<6> {
        let c = self.c;
        Lengths([c, c, 3 * c * c, 3 * c, c * c, c])
    }

    fn deal(&self, batch: usize) -> Deal {
        let windows = batch * self.plan.geometry.windows();
        // About 8 C floats for each token in a quarter of a megabyte.
        let tokens = (64 * 1024 / (8 * self.c)).clamp(1, 256);
        let group = (tokens / self.plan.geometry.area()).max(1);
        Deal { windows, share: windows.div_ceil(self.lengths().tasks()).next_multiple_of(group), group }
    }

    /// Multiplies the rows of each window of `branch` by its image's factor.
    fn scale(&self, branch: &mut [f32], windows: std::ops::Range<usize>) {
        if let Some(scales) = &self.scales {
            let (area, per_image) = (self.plan.geometry.area(), self.plan.geometry.windows());
            for (window, rows) in windows.zip(branch.chunks_exact_mut(area * self.c)) {
                multiply(rows, scales[window / per_image]);
            }
        }
    }

    fn gather(&self, windows: std::ops::Range<usize>, matrix: &[f32], out: &mut [f32]) {
        let rows = windows.flat_map(|window| self.plan.rows(window));
        gather(rows, matrix, self.c, out);
    }

    /// # Safety
    /// No window may be scattered twice.
    unsafe fn scatter(&self, windows: std::ops::Range<usize>, values: &[f32], out: &Rows<'_>) {
        let rows = windows.flat_map(|window| self.plan.rows(window));
        for (row, values) in rows.zip(values.chunks_exact(self.c)) {
            // SAFETY: each token belongs to one window.
            unsafe { out.write(row, values) };
        }
    }

    fn forward(&self, xs: &[f32], packed: &[f32], bias: &[f32], batch: usize) -> Vec<f32> {
        let (c, area) = (self.c, self.plan.geometry.area());
        let [norm_weight, norm_bias, wqkv, bqkv, wproj, bproj] = self.lengths().split(packed);
        let qkv = Affine { weight: Matrix::new(wqkv, 3 * c, c), bias: Some(bqkv) };
        let proj = Affine { weight: Matrix::new(wproj, c, c), bias: Some(bproj) };
        let deal = self.deal(batch);
        let task = |task: usize, out: &Rows<'_>| {
            let mut scratch = Scratch::new(area, c / self.plan.geometry.heads);
            let room = |width: usize| vec![0.0; deal.group * area * width];
            let (mut x, mut y, mut inner) = (room(c), room(c), room(3 * c));
            for windows in deal.groups(task) {
                let n = windows.len() * area;
                let (x, y, inner) = (&mut x[..n * c], &mut y[..n * c], &mut inner[..n * 3 * c]);
                self.gather(windows.clone(), xs, x);
                normalise_rows(y, x, norm_weight, norm_bias, self.eps);
                qkv.apply(inner, Matrix::new(y, n, c));
                let parts = inner.chunks_exact(area * 3 * c).zip(y.chunks_exact_mut(area * c));
                for (window, (qkv, out)) in windows.clone().zip(parts) {
                    self.plan.forward(window, qkv, bias, &mut scratch, out);
                }
                // The projection reuses the room of q|k|v.
                let branch = &mut inner[..n * c];
                proj.apply(branch, Matrix::new(y, n, c));
                self.scale(branch, windows.clone());
                add_all(branch, x);
                // SAFETY: each window belongs to one group of one task.
                unsafe { self.scatter(windows, branch, out) };
            }
        };
        // SAFETY: the groups of all tasks cover every window, and the windows every token, once.
        unsafe { build_rows(xs.len() / c, c, deal.tasks(), task) }.0
    }
}

/// Buffers of one task's backward pass, for one group of windows.
struct Buffers {
    x: Vec<f32>,
    g: Vec<f32>,
    normal: Vec<f32>,
    qkv: Vec<f32>,
    attended: Vec<f32>,
    dattended: Vec<f32>,
    dqkv: Vec<f32>,
}

impl Fused {
    /// The gradients of a group of windows: leaves that of the input in `buffers.dattended` and adds those of the parameters to `sums`
    /// and of the bias to `dbias`.
    fn backward(
        &self,
        windows: std::ops::Range<usize>,
        (xs, gs, packed, bias): (&[f32], &[f32], &[f32], &[f32]),
        (buffers, scratch): (&mut Buffers, &mut Scratch),
        (sums, dbias): (&mut [f32], &mut [f32]),
    ) {
        let (c, area) = (self.c, self.plan.geometry.area());
        let n = windows.len() * area;
        let [norm_weight, norm_bias, wqkv, bqkv, wproj, _] = self.lengths().split(packed);
        let [dnorm_weight, dnorm_bias, dwqkv, dbqkv, dwproj, dbproj] = self.lengths().split_mut(sums);
        let (wqkv, wproj) = (Matrix::new(wqkv, 3 * c, c), Matrix::new(wproj, c, c));
        let (x, g, normal) = (&mut buffers.x[..n * c], &mut buffers.g[..n * c], &mut buffers.normal[..n * c]);
        let (qkv, dqkv) = (&mut buffers.qkv[..n * 3 * c], &mut buffers.dqkv[..n * 3 * c]);
        let (attended, dattended) = (&mut buffers.attended[..n * c], &mut buffers.dattended[..n * c]);
        // The forward pass again, up to the projections.
        self.gather(windows.clone(), xs, x);
        self.gather(windows.clone(), gs, g);
        normalise_rows(normal, x, norm_weight, norm_bias, self.eps);
        Affine { weight: wqkv, bias: Some(bqkv) }.apply(qkv, Matrix::new(normal, n, c));
        // The output projection. Its weight's gradient waits for the attended values.
        self.scale(g, windows.clone());
        add_columns(dbproj, g);
        MatrixMut::new(dattended, n, c).set(1.0, Matrix::new(g, n, c), wproj, Threads::One);
        for (index, window) in windows.clone().enumerate() {
            let (narrow, wide) =
                (index * area * c..(index + 1) * area * c, index * area * 3 * c..(index + 1) * area * 3 * c);
            let inputs = (&qkv[wide.clone()], bias, &dattended[narrow.clone()]);
            self.plan.backward(window, inputs, scratch, (&mut dqkv[wide], dbias), Some(&mut attended[narrow]));
        }
        let rows_g = Matrix::new(g, n, c);
        MatrixMut::new(dwproj, c, c).add(rows_g.t(), Matrix::new(attended, n, c), Threads::One);
        // The joint projection.
        add_columns(dbqkv, dqkv);
        let rows_dqkv = Matrix::new(dqkv, n, 3 * c);
        MatrixMut::new(dwqkv, 3 * c, c).add(rows_dqkv.t(), Matrix::new(normal, n, c), Threads::One);
        MatrixMut::new(dattended, n, c).set(1.0, rows_dqkv, wqkv, Threads::One);
        // The norm, and the residual with the gradient before its scaling.
        backward_rows(dattended, x, norm_weight, self.eps, dnorm_weight, dnorm_bias);
        if self.scales.is_some() {
            self.gather(windows, gs, g);
        }
        add_scaled(dattended, g, 1.0);
    }
}

impl CustomOp3 for Fused {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        layout: &Layout,
        packed: &CpuStorage,
        packed_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (packed, bias) = (slice(packed, packed_layout, NAME)?, slice(bias, bias_layout, NAME)?);
        let batch = layout.shape().dims()[0];
        let ys = self.forward(slice(xs, layout, NAME)?, packed, bias, batch);
        Ok((CpuStorage::F32(ys), layout.shape().clone()))
    }

    fn bwd(
        &self,
        xs: &Tensor,
        packed: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (x, p, b, g) =
            (Elements::of(xs, NAME), Elements::of(packed, NAME), Elements::of(bias, NAME), Elements::of(&grad, NAME));
        let (x, p, b, g) = (x.get()?, p.get()?, b.get()?, g.get()?);
        let (c, area, lengths) = (self.c, self.plan.geometry.area(), self.lengths());
        let deal = self.deal(xs.dim(0)?);
        let task = |task: usize, out: &Rows<'_>| {
            let mut scratch = Scratch::new(area, c / self.plan.geometry.heads);
            let room = |width: usize| vec![0.0; deal.group * area * width];
            let mut buffers = Buffers {
                x: room(c),
                g: room(c),
                normal: room(c),
                qkv: room(3 * c),
                attended: room(c),
                dattended: room(c),
                dqkv: room(3 * c),
            };
            let (mut sums, mut dbias) = (vec![0.0; lengths.total()], vec![0.0; b.len()]);
            for windows in deal.groups(task) {
                let n = windows.len() * area * c;
                self.backward(windows.clone(), (x, g, p, b), (&mut buffers, &mut scratch), (&mut sums, &mut dbias));
                // SAFETY: each window belongs to one group of one task.
                unsafe { self.scatter(windows, &buffers.dattended[..n], out) };
            }
            (sums, dbias)
        };
        // SAFETY: the groups of all tasks cover every window, and the windows every token, once.
        let (dx, sums) = unsafe { build_rows(x.len() / c, c, deal.tasks(), task) };
        let (sums, dbias): (Vec<_>, Vec<_>) = sums.into_iter().unzip();
        let sums = gradient(parallel::sum_in_order(sums), packed)?;
        Ok((gradient(dx, xs)?, sums, gradient(parallel::sum_in_order(dbias), bias)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::twin;

    fn composed(xs: &[Tensor], geometry: &WindowGeometry, scales: Option<&[f32]>) -> Result<Tensor> {
        let norm = LayerNorm { weight: xs[1].clone(), bias: xs[2].clone(), eps: 1e-5 };
        let qkv = Linear::from_parts(xs[3].clone(), Some(xs[4].clone()));
        let proj = Linear::from_parts(xs[5].clone(), Some(xs[6].clone()));
        window_attention_block_composed(&xs[0], &norm, (&qkv, &xs[7], &proj), geometry, scales.map(<[f32]>::to_vec))
    }

    fn check(batch: usize, geometry: WindowGeometry, c: usize, scales: Option<&[f32]>) {
        let tokens = geometry.height * geometry.width;
        let area = geometry.area();
        let shapes: [&[usize]; 8] =
            [&[batch, tokens, c], &[c], &[c], &[3 * c, c], &[3 * c], &[c, c], &[c], &[geometry.heads, area, area]];
        let fused = |xs: &[Tensor]| {
            let op = Fused { plan: Plan::new(&geometry), c, eps: 1e-5, scales: scales.map(<[f32]>::to_vec) };
            xs[0].apply_op3(&pack(&xs[1..7].iter().collect::<Vec<_>>())?, &xs[7], op)
        };
        twin::check_twins(&shapes, 3e-5, fused, |xs| composed(xs, &geometry, scales));
    }

    #[test]
    fn twins_agree() {
        let scales = [1.25f32, 0.0, 1.25, 1.25, 0.0];
        check(2, WindowGeometry { height: 16, width: 8, window: 8, shift: 0, heads: 2 }, 32, None);
        check(3, WindowGeometry { height: 16, width: 16, window: 8, shift: 4, heads: 3 }, 12, Some(&scales[..3]));
        check(5, WindowGeometry { height: 6, width: 9, window: 3, shift: 1, heads: 1 }, 7, Some(&scales));
        check(1, WindowGeometry { height: 2, width: 2, window: 2, shift: 0, heads: 2 }, 4, None);
    }

    /// Biases that are wrong one by one and right in sum: packed, they would pass for each other's.
    #[test]
    fn misfits_are_errors() {
        let geometry = WindowGeometry { height: 4, width: 2, window: 2, shift: 1, heads: 2 };
        let zeros = |dims: &[usize]| Tensor::zeros(dims, candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();
        let shapes: [&[usize]; 8] = [&[2, 8, 4], &[4], &[4], &[12, 4], &[12], &[4, 4], &[4], &[2, 4, 4]];
        let run = |shapes: [&[usize]; 8]| {
            let [xs, weight, bias, wqkv, bqkv, wproj, bproj, table] = shapes.map(zeros);
            let norm = LayerNorm { weight, bias, eps: 1e-5 };
            let (qkv, proj) = (Linear::from_parts(wqkv, Some(bqkv)), Linear::from_parts(wproj, Some(bproj)));
            window_attention_block(&xs, &norm, (&qkv, &table, &proj), &geometry, 0.0, &mut Mode::eval())
        };
        assert!(run(shapes).is_ok());
        for (i, j) in [(4, 6), (2, 4)] {
            let mut swapped = shapes;
            swapped.swap(i, j);
            assert!(run(swapped).is_err(), "{swapped:?}");
        }
    }

    #[test]
    fn composed_gradients_follow_finite_differences() {
        let geometry = WindowGeometry { height: 4, width: 2, window: 2, shift: 1, heads: 2 };
        let shapes: [&[usize]; 8] = [&[2, 8, 4], &[4], &[4], &[12, 4], &[12], &[4, 4], &[4], &[2, 4, 4]];
        twin::check_gradient(&shapes, |xs| composed(xs, &geometry, Some(&[1.5, 0.0])));
    }
}
