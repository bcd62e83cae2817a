//! Batch normalisation (Ioffe & Szegedy 2015, arXiv 1502.03167), as `torch.nn.BatchNorm1d/2d`.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp3, DType, Layout, Result, Shape, Tensor, Var};
use candle_nn::{Init, VarBuilder};
use rayon::prelude::*;

use crate::cpu::{Elements, fusible, gradient, math, parallel, slice, vectorise::vectorised};
use crate::precision::widened;
use crate::{Collective, InputMoments, Linear, Mode, sum_numbers, sum_over_ranks};

/// Weight of a new batch in the running statistics (PyTorch's default).
const MOMENTUM: f64 = 0.1;

/// Normalises each channel by its statistics over the batch (training) or by running statistics (evaluation).
#[derive(Clone, Debug)]
pub struct BatchNorm {
    weight: Tensor,
    bias: Tensor,
    running_mean: Var,
    running_var: Var,
    eps: f64,
}

impl BatchNorm {
    /// `weight`, `bias`, `running_mean`, `running_var`, each (channels), in `f32` at least: half types round statistics of decibels
    /// by half a decibel. When `vb` hands out variables, training updates the running statistics in them, so that the store saves them.
    pub fn new(channels: usize, eps: f64, vb: VarBuilder<'_>) -> Result<Self> {
        let vb = vb.to_dtype(widened(vb.dtype()));
        let get = |name, value| vb.get_with_hints(channels, name, Init::Const(value));
        Ok(Self {
            weight: get("weight", 1.0)?,
            bias: get("bias", 0.0)?,
            running_mean: Var::from_tensor(&get("running_mean", 0.0)?)?,
            running_var: Var::from_tensor(&get("running_var", 1.0)?)?,
            eps,
        })
    }

    /// (B, channels, …) → the same shape. In training the running statistics move by a tenth towards the batch's, with the
    /// unbiased variance.
    pub fn forward_t(&self, xs: &Tensor, mode: &mut Mode) -> Result<Tensor> {
        self.forward_dim(xs, 1, mode)
    }

    /// (…, channels) → the same shape: the same map with the channels last, which saves a transpose of (frames, bins) features.
    pub fn forward_last_t(&self, xs: &Tensor, mode: &mut Mode) -> Result<Tensor> {
        self.forward_dim(xs, xs.rank().saturating_sub(1), mode)
    }

    /// The scale and shift of each channel in evaluation, or `None` where gradients are asked of them.
    pub(crate) fn constant_affine(&self) -> Result<Option<(Vec<f32>, Vec<f32>)>> {
        if self.weight.track_op() || self.bias.track_op() || !fusible(&[&self.weight, &self.bias]) {
            return Ok(None);
        }
        let (mean, var): (Vec<f32>, Vec<f32>) = (self.running_mean.to_vec1()?, self.running_var.to_vec1()?);
        let rstd = var.iter().map(|var| (var + self.eps as f32).sqrt().recip());
        let scale: Vec<f32> = self.weight.to_vec1::<f32>()?.iter().zip(rstd).map(|(w, rstd)| w * rstd).collect();
        let bias = self.bias.to_vec1::<f32>()?;
        let shift = bias.iter().zip(&mean).zip(&scale).map(|((b, mean), a)| b - mean * a).collect();
        Ok(Some((scale, shift)))
    }

    /// `linear` with this layer behind it as one affine map, where both are constants: in evaluation, on the CPU in `f32`, with no
    /// gradients asked of either.
    pub fn folded_into(&self, linear: &Linear, mode: &Mode) -> Result<Option<Linear>> {
        let (weight, Some(bias)) = (linear.weight(), linear.bias()) else {
            return Ok(None);
        };
        if mode.is_train() || weight.track_op() || bias.track_op() || !fusible(&[weight, bias]) {
            return Ok(None);
        }
        let Some((scale, shift)) = self.constant_affine()? else {
            return Ok(None);
        };
        let column = |values: Vec<f32>| Tensor::from_vec(values, self.weight.dim(0)?, weight.device());
        let (scale, shift) = (column(scale)?, column(shift)?);
        let folded = weight.broadcast_mul(&scale.unsqueeze(1)?)?; // (output, input)
        Ok(Some(Linear::from_parts(folded, Some(((bias * scale)? + shift)?))))
    }

    fn forward_dim(&self, xs: &Tensor, dim: usize, mode: &mut Mode) -> Result<Tensor> {
        let channels = self.weight.dim(0)?;
        if xs.dim(dim)? != channels {
            candle_core::bail!("batch norm of {channels} channels cannot take {:?} with dimension {dim}", xs.shape());
        }
        let count = xs.elem_count() / channels.max(1);
        if mode.is_train()
            && let Some(moments) = mode.take_input_moments()
        {
            return self.forward_given(xs, dim, &moments, mode);
        }
        if let (true, Some(ranks)) = (mode.is_train(), mode.ranks()) {
            return self.synchronised(xs, dim, ranks, mode);
        }
        if mode.is_train() && count < 2 {
            candle_core::bail!("batch norm cannot train on a single value per channel, got {:?}", xs.shape());
        }
        if fusible(&[xs, &self.weight, &self.bias]) && count > 0 {
            self.fused(&xs.contiguous()?, dim, mode)
        } else {
            self.composed(xs, dim, mode)
        }
    }

    /// Normalises by statistics that do not depend on `xs`, and moves the running ones towards them where they are new.
    fn forward_given(&self, xs: &Tensor, dim: usize, moments: &InputMoments, mode: &Mode) -> Result<Tensor> {
        let channels = self.weight.dim(0)?;
        let (mean, var) = moments.of_channels(channels)?;
        let tensor = |values: &[f32]| Tensor::from_slice(values, channels, xs.device());
        let (mean_tensor, var_tensor) = (tensor(mean)?, tensor(var)?);
        if moments.is_new() {
            self.update(&mean_tensor, &var_tensor, moments.count(), mode)?;
        }
        if !fusible(&[xs, &self.weight, &self.bias]) {
            let wide = xs.to_dtype(widened(xs.dtype()))?;
            return self.affine(&wide, &mean_tensor, &var_tensor, dim)?.to_dtype(xs.dtype());
        }
        self.apply_fused(&xs.contiguous()?, self.planes(xs, dim)?, (mean.to_vec(), var), false)
    }

    /// The layer in candle's operations; half types by way of `f32`.
    fn composed(&self, xs: &Tensor, dim: usize, mode: &Mode) -> Result<Tensor> {
        let dtype = xs.dtype();
        let xs = &xs.to_dtype(widened(dtype))?;
        if !mode.is_train() {
            let (mean, var) = (self.running_mean.as_detached_tensor(), self.running_var.as_detached_tensor());
            return self.affine(xs, &mean, &var, dim)?.to_dtype(dtype);
        }
        let channels = self.weight.dim(0)?;
        let outer = xs.dims()[..dim].iter().product::<usize>();
        let rows = xs.reshape((outer, channels, ()))?; // (outer, channels, inner)
        let mean = rows.mean((0, 2))?; // (channels)
        let var = rows.broadcast_sub(&mean.reshape((1, channels, 1))?)?.sqr()?.mean((0, 2))?; // (channels)
        self.update(&mean.detach(), &var.detach(), xs.elem_count() / channels, mode)?;
        self.affine(xs, &mean, &var, dim)?.to_dtype(dtype)
    }

    /// The layer in training by the statistics of all ranks' `xs`, which need not be of one length.
    fn synchronised(&self, xs: &Tensor, dim: usize, ranks: &Arc<dyn Collective>, mode: &Mode) -> Result<Tensor> {
        let (dtype, channels) = (xs.dtype(), self.weight.dim(0)?);
        let xs = &xs.to_dtype(DType::F32)?;
        let outer = xs.dims()[..dim].iter().product::<usize>();
        let rows = xs.reshape((outer, channels, ()))?; // (outer, channels, inner)
        let own = xs.elem_count() / channels.max(1);
        let count = sum_numbers(&[own as f32], &**ranks)?[0];
        if count < 2.0 {
            candle_core::bail!("batch norm cannot train on a single value per channel, got {:?}", xs.shape());
        }
        let count = f64::from(count);
        let mean = (sum_over_ranks(&rows.sum((0, 2))?, ranks)? / count)?; // (channels)
        let squares = rows.broadcast_sub(&mean.reshape((1, channels, 1))?)?.sqr()?.sum((0, 2))?;
        let var = (sum_over_ranks(&squares, ranks)? / count)?;
        self.update(&mean.detach(), &var.detach(), count as usize, mode)?;
        self.affine(xs, &mean, &var, dim)?.to_dtype(dtype)
    }

    fn fused(&self, xs: &Tensor, dim: usize, mode: &Mode) -> Result<Tensor> {
        let train = mode.is_train();
        let planes = self.planes(xs, dim)?;
        let channels = planes.channels;
        let (mean, var) = if train {
            let elements = Elements::of(xs, NAME);
            let (mean, var) = planes.moments(elements.get()?);
            let tensor = |values: &[f32]| Tensor::from_slice(values, channels, xs.device());
            self.update(&tensor(&mean)?, &tensor(&var)?, xs.elem_count() / channels, mode)?;
            (mean, var)
        } else {
            (self.running_mean.to_vec1()?, self.running_var.to_vec1()?)
        };
        self.apply_fused(xs, planes, (mean, &var), train)
    }

    fn planes(&self, xs: &Tensor, dim: usize) -> Result<Planes> {
        Ok(Planes { channels: self.weight.dim(0)?, inner: xs.dims()[dim + 1..].iter().product() })
    }

    /// `train` says whether mean and variance are those of `xs` itself.
    fn apply_fused(&self, xs: &Tensor, planes: Planes, (mean, var): (Vec<f32>, &[f32]), train: bool) -> Result<Tensor> {
        let rstd = var.iter().map(|var| (var + self.eps as f32).sqrt().recip()).collect();
        xs.apply_op3(&self.weight.contiguous()?, &self.bias.contiguous()?, Fused { planes, mean, rstd, train })
    }

    fn affine(&self, xs: &Tensor, mean: &Tensor, var: &Tensor, dim: usize) -> Result<Tensor> {
        let mut dims = vec![1; xs.rank()];
        dims[dim] = mean.dim(0)?;
        let column = |t: &Tensor| t.to_dtype(xs.dtype())?.reshape(dims.as_slice());
        let std = (column(var)? + self.eps)?.sqrt()?;
        xs.broadcast_sub(&column(mean)?)?
            .broadcast_div(&std)?
            .broadcast_mul(&column(&self.weight)?)?
            .broadcast_add(&column(&self.bias)?)
    }

    /// running ← 0.9 · running + 0.1 · batch, with the variance scaled to the unbiased one; once for each batch.
    fn update(&self, mean: &Tensor, var: &Tensor, count: usize, mode: &Mode) -> Result<()> {
        if mode.is_replay() {
            return Ok(());
        }
        let count = count as f64;
        let blend = |running: &Var, batch: &Tensor, scale: f64| {
            let old = (running.as_detached_tensor().to_dtype(batch.dtype())? * (1.0 - MOMENTUM))?;
            running.set(&(old + (batch * (MOMENTUM * scale))?)?.to_dtype(running.dtype())?)
        };
        blend(&self.running_mean, mean, 1.0)?;
        blend(&self.running_var, var, count / (count - 1.0))
    }
}

const NAME: &str = "batch_norm";

/// Mean and biased variance over all dimensions but the last, which is that of the channels.
pub(crate) fn moments_last(xs: &Tensor) -> Result<(Vec<f32>, Vec<f32>)> {
    let channels = xs.dim(candle_core::D::Minus1)?;
    if fusible(&[xs]) && xs.elem_count() > 0 {
        let xs = xs.contiguous()?;
        return Ok(Planes { channels, inner: 1 }.moments(Elements::of(&xs, NAME).get()?));
    }
    let rows = xs.detach().to_dtype(candle_core::DType::F32)?.reshape(((), channels))?;
    let mean = rows.mean(0)?;
    let var = rows.broadcast_sub(&mean.unsqueeze(0)?)?.sqr()?.mean(0)?;
    Ok((mean.to_vec1()?, var.to_vec1()?))
}

/// A contiguous tensor seen as (outer, channels, inner).
#[derive(Clone, Copy)]
struct Planes {
    channels: usize,
    inner: usize,
}

impl Planes {
    /// Elements of one outer index.
    fn width(self) -> usize {
        self.channels * self.inner
    }

    /// Elements of one task: whole outer indices, at most about 64 tasks.
    fn chunk(self, len: usize) -> usize {
        (len / self.width()).div_ceil(64).max(parallel::rows_per_task(self.width())) * self.width()
    }

    /// Sums over each channel, added up in `f64` over the tasks: `add(chunk start, chunk length, sums)`.
    fn sums(self, len: usize, count: usize, add: impl Fn(std::ops::Range<usize>, &mut [f32]) + Sync) -> Vec<f64> {
        let chunk = self.chunk(len);
        let starts: Vec<usize> = (0..len).step_by(chunk).collect();
        let parts: Vec<Vec<f32>> = starts
            .into_par_iter()
            .map(|start| {
                let mut sums = vec![0.0; count * self.channels];
                add(start..(start + chunk).min(len), &mut sums);
                sums
            })
            .collect();
        let mut total = vec![0.0; count * self.channels];
        for part in parts {
            total.iter_mut().zip(part).for_each(|(total, part)| *total += f64::from(part));
        }
        total
    }

    /// Mean and biased variance of each channel, in two passes.
    fn moments(self, xs: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let count = (xs.len() / self.channels) as f64;
        let average = |sums: Vec<f64>| sums.iter().map(|sum| (sum / count) as f32).collect::<Vec<f32>>();
        let mean = average(self.sums(xs.len(), 1, |range, sums| add_planes(&xs[range], self, sums)));
        let var = average(self.sums(xs.len(), 1, |range, sums| add_squares(&xs[range], self, &mean, sums)));
        (mean, var)
    }
}

struct Fused {
    planes: Planes,
    mean: Vec<f32>,
    rstd: Vec<f32>,
    /// Whether the statistics are the batch's own and so depend on the input.
    train: bool,
}

impl CustomOp3 for Fused {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let xs = slice(xs, layout, NAME)?;
        let (weight, bias) = (slice(weight, weight_layout, NAME)?, slice(bias, bias_layout, NAME)?);
        // y = a·(x - mean) + bias with a = weight · rstd. With the mean in the constant, two values of a channel that are nearly alike
        // would lose in a difference what they differ by.
        let a: Vec<f32> = weight.iter().zip(&self.rstd).map(|(w, rstd)| w * rstd).collect();
        let ys = parallel::build(xs.len(), self.planes.chunk(xs.len()), |start, ys| {
            affine_planes(ys, &xs[start..start + ys.len()], self.planes, &self.mean, &a, bias);
        });
        Ok((CpuStorage::F32(ys), layout.shape().clone()))
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
        let (x, w, g) = (Elements::of(xs, NAME), Elements::of(weight, NAME), Elements::of(&grad, NAME));
        let (x, w, g) = (x.get()?, w.get()?, g.get()?);
        let channels = self.planes.channels;
        // Σ grad and Σ grad · (x - mean) of each channel.
        let sums = self.planes.sums(x.len(), 2, |range, sums| {
            add_gradients(&x[range.clone()], &g[range], self.planes, &self.mean, sums);
        });
        let (plain, centred) = sums.split_at(channels);
        let dw = centred.iter().zip(&self.rstd).map(|(sum, rstd)| (sum * f64::from(*rstd)) as f32).collect();
        let db = plain.iter().map(|sum| *sum as f32).collect();
        let dx = if xs.track_op() {
            // dx = a·grad + b·(x - mean) + c; in training b and c carry the dependence of the statistics on x.
            let count = (x.len() / channels) as f64;
            let (mut a, mut b, mut c) = (Vec::new(), vec![0.0; channels], vec![0.0; channels]);
            for i in 0..channels {
                let rstd = f64::from(self.rstd[i]);
                let scale = f64::from(w[i]) * rstd;
                a.push(scale as f32);
                if self.train {
                    b[i] = (-scale * rstd * rstd * centred[i] / count) as f32;
                    c[i] = (-scale * plain[i] / count) as f32;
                }
            }
            let dx = parallel::build(x.len(), self.planes.chunk(x.len()), |start, dx| {
                let end = start + dx.len();
                affine_planes(dx, &x[start..end], self.planes, &self.mean, &b, &c);
                add_scaled_planes(dx, &g[start..end], self.planes, &a);
            });
            gradient(dx, xs)?
        } else {
            None
        };
        Ok((dx, gradient(dw, weight)?, gradient(db, bias)?))
    }
}

/// Calls `row` for rows of channels when they are innermost, else `plane` for the run of each channel.
macro_rules! each_plane {
    ($planes:ident, $len:expr, |$offset:ident| $row:block, |$start:ident, $channel:ident| $plane:block) => {
        let mut base = 0;
        while base < $len {
            if $planes.inner == 1 {
                let $offset = base;
                $row
            } else {
                for $channel in 0..$planes.channels {
                    let $start = base + $channel * $planes.inner;
                    $plane
                }
            }
            base += $planes.channels * $planes.inner;
        }
    };
}

vectorised! {
    /// Adds each channel's elements to `sums`.
    fn add_planes(xs: &[f32], planes: Planes, sums: &mut [f32]) {
        each_plane!(planes, xs.len(), |at| {
            math::add_assign(sums, &xs[at..][..planes.channels]);
        }, |start, channel| {
            sums[channel] += math::sum(&xs[start..][..planes.inner]);
        });
    }
}

vectorised! {
    /// Adds each channel's squared distances from its mean to `sums`.
    fn add_squares(xs: &[f32], planes: Planes, mean: &[f32], sums: &mut [f32]) {
        each_plane!(planes, xs.len(), |at| {
            for ((sum, x), mean) in sums.iter_mut().zip(&xs[at..][..planes.channels]).zip(mean) {
                *sum = (x - mean).mul_add(x - mean, *sum);
            }
        }, |start, channel| {
            sums[channel] += math::sum_squares(&xs[start..][..planes.inner], mean[channel]);
        });
    }
}

vectorised! {
    /// Adds Σ grad to the first half of `sums` and Σ grad · (x - mean) to the second.
    fn add_gradients(xs: &[f32], grads: &[f32], planes: Planes, mean: &[f32], sums: &mut [f32]) {
        let (plain, centred) = sums.split_at_mut(planes.channels);
        each_plane!(planes, xs.len(), |at| {
            let grad = &grads[at..][..planes.channels];
            math::add_assign(plain, grad);
            for (((sum, x), mean), grad) in centred.iter_mut().zip(&xs[at..][..planes.channels]).zip(mean).zip(grad) {
                *sum = grad.mul_add(x - mean, *sum);
            }
        }, |start, channel| {
            let grad = &grads[start..][..planes.inner];
            plain[channel] += math::sum(grad);
            centred[channel] += math::dot_shifted(grad, &xs[start..][..planes.inner], mean[channel]);
        });
    }
}

vectorised! {
    /// `ys ← a · (xs - mean) + b` by channel.
    fn affine_planes(ys: &mut [f32], xs: &[f32], planes: Planes, mean: &[f32], a: &[f32], b: &[f32]) {
        each_plane!(planes, xs.len(), |at| {
            let row = ys[at..][..planes.channels].iter_mut().zip(&xs[at..][..planes.channels]);
            for (((y, x), mean), (a, b)) in row.zip(mean).zip(a.iter().zip(b)) {
                *y = a.mul_add(*x - *mean, *b);
            }
        }, |start, channel| {
            let (mean, a, b) = (mean[channel], a[channel], b[channel]);
            for (y, x) in ys[start..][..planes.inner].iter_mut().zip(&xs[start..][..planes.inner]) {
                *y = a.mul_add(*x - mean, b);
            }
        });
    }
}

vectorised! {
    /// `ys += a · xs` by channel.
    fn add_scaled_planes(ys: &mut [f32], xs: &[f32], planes: Planes, a: &[f32]) {
        each_plane!(planes, xs.len(), |at| {
            for ((y, x), a) in ys[at..][..planes.channels].iter_mut().zip(&xs[at..][..planes.channels]).zip(a) {
                *y = a.mul_add(*x, *y);
            }
        }, |start, channel| {
            let a = a[channel];
            for (y, x) in ys[start..][..planes.inner].iter_mut().zip(&xs[start..][..planes.inner]) {
                *y = a.mul_add(*x, *y);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::init::seeded_vars;
    use crate::twin;

    fn train() -> Mode {
        Mode::train(ChaCha8Rng::seed_from_u64(1))
    }

    /// A layer around the given weight and bias, with running statistics that differ by channel.
    fn layer(weight: &Tensor, bias: &Tensor) -> BatchNorm {
        let ramp =
            Tensor::arange(0u32, weight.elem_count() as u32, &Device::Cpu).unwrap().to_dtype(weight.dtype()).unwrap();
        BatchNorm {
            weight: weight.clone(),
            bias: bias.clone(),
            running_mean: Var::from_tensor(&(&ramp * 0.1).unwrap()).unwrap(),
            running_var: Var::from_tensor(&ramp.affine(0.2, 0.5).unwrap()).unwrap(),
            eps: 1e-5,
        }
    }

    #[test]
    fn twins_agree() {
        for (shape, dim) in
            [(&[3usize, 5, 7, 11][..], 1), (&[7, 5], 1), (&[2, 3001, 9], 2), (&[4, 6, 1200], 1), (&[2, 3, 40, 8], 3)]
        {
            for mode in [train(), Mode::eval()] {
                let channels = [shape[dim]];
                let shapes = [shape, &channels, &channels];
                let fused = |xs: &[Tensor]| layer(&xs[1], &xs[2]).fused(&xs[0], dim, &mode);
                let composed = |xs: &[Tensor]| layer(&xs[1], &xs[2]).composed(&xs[0], dim, &mode);
                twin::check_twins(&shapes, 1e-5, fused, composed);
            }
        }
    }

    #[test]
    fn composed_gradients_follow_finite_differences() {
        for mode in [train(), Mode::eval()] {
            let shapes: [&[usize]; 3] = [&[3, 4, 5], &[4], &[4]];
            twin::check_gradient(&shapes, |xs| layer(&xs[1], &xs[2]).composed(&xs[0], 1, &mode));
        }
    }

    /// Expected values by hand: mean 2.5, unbiased variance 5/3, a tenth of the way from (0, 1).
    #[test]
    fn running_statistics_move_in_the_store_in_training_only() {
        for dtype in [DType::F32, DType::F64] {
            let (vars, vb) = seeded_vars(1, &Device::Cpu, dtype);
            let norm = BatchNorm::new(1, 1e-5, vb.pp("bn")).unwrap();
            let xs = Tensor::new(&[[1f32], [2.0], [3.0], [4.0]], &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
            norm.forward_t(&xs, &mut Mode::eval()).unwrap();
            let read = |name: &str| {
                let var = vars.get(name).unwrap();
                var.to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap()[0]
            };
            assert_eq!(read("bn.running_mean"), 0.0);
            norm.forward_t(&xs, &mut train()).unwrap();
            assert!((read("bn.running_mean") - 0.25).abs() < 1e-6);
            assert!((read("bn.running_var") - (0.9 + 0.1 * 5.0 / 3.0)).abs() < 1e-6);
        }
    }

    /// The sum of this channel, 256 thousand, is beyond f16.
    #[test]
    fn half_types_do_not_overflow() {
        let (vars, vb) = seeded_vars(1, &Device::Cpu, DType::F16);
        let norm = BatchNorm::new(1, 1e-5, vb.pp("bn")).unwrap();
        let column: Vec<f32> = (0..256).map(|i| 1000.0 + (i % 4) as f32).collect();
        let xs = Tensor::from_vec(column, (256, 1), &Device::Cpu).unwrap().to_dtype(DType::F16).unwrap();
        let read = |t: &Tensor| t.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let ys = norm.forward_t(&xs, &mut train()).unwrap();
        assert_eq!(ys.dtype(), DType::F16);
        for (y, expected) in read(&ys).iter().zip([-1.341_635, -0.447_212, 0.447_212, 1.341_635]) {
            assert!((y - expected).abs() < 2e-3, "{y} against {expected}");
        }
        let mean = read(&vars.get("bn.running_mean").unwrap())[0];
        assert!((mean - 100.15).abs() < 0.1, "{mean}");
        let evaluated = read(&norm.forward_t(&xs, &mut Mode::eval()).unwrap());
        assert!(evaluated.iter().all(|y| y.is_finite()));
    }

    #[test]
    fn channels_last_is_the_same_map() {
        let (_, vb) = seeded_vars(1, &Device::Cpu, DType::F32);
        let norm = BatchNorm::new(5, 1e-5, vb).unwrap();
        let xs = twin::random(1, &[3, 2, 7, 5]).to_dtype(DType::F32).unwrap();
        let last = norm.forward_last_t(&xs, &mut train()).unwrap();
        let first = norm.forward_t(&xs.transpose(1, 3).unwrap(), &mut train()).unwrap().transpose(1, 3).unwrap();
        let gap = (last - first).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(gap < 1e-5, "{gap}");
    }

    #[test]
    fn a_linear_map_takes_the_norm_in() {
        let random = |seed, shape: &[usize]| twin::random(seed, shape).to_dtype(DType::F32).unwrap();
        let norm = layer(&random(1, &[5]), &random(2, &[5]));
        let linear = Linear::from_parts(random(3, &[5, 7]), Some(random(4, &[5])));
        let xs = random(5, &[40, 7]);
        let folded = norm.folded_into(&linear, &Mode::eval()).unwrap().unwrap().forward(&xs).unwrap();
        let plain = norm.forward_last_t(&linear.forward(&xs).unwrap(), &mut Mode::eval()).unwrap();
        let gap = (folded - plain).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(gap < 1e-5, "{gap}");
        assert!(norm.folded_into(&linear, &train()).unwrap().is_none(), "the batch has statistics of its own");
        let learnt =
            Linear::from_parts(Var::from_tensor(linear.weight()).unwrap().into_inner(), linear.bias().cloned());
        assert!(norm.folded_into(&learnt, &Mode::eval()).unwrap().is_none(), "a gradient is asked of the weight");
    }

    #[test]
    fn misfits_are_errors() {
        let (_, vb) = seeded_vars(1, &Device::Cpu, DType::F32);
        let norm = BatchNorm::new(5, 1e-5, vb).unwrap();
        let zeros = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &Device::Cpu).unwrap();
        assert!(norm.forward_t(&zeros(&[2, 4]), &mut Mode::eval()).is_err());
        assert!(norm.forward_t(&zeros(&[1, 5]), &mut train()).is_err());
    }
}
