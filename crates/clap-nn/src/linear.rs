//! Affine maps: `xs · weightᵀ + bias`.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, D, Layout, Result, Shape, Tensor};
use candle_nn::{Init, VarBuilder};
use rayon::prelude::*;

use crate::cpu::{
    Elements, fusible, gradient, math, parallel,
    product::{self, Matrix, MatrixMut, Threads},
    slice,
    vectorise::vectorised,
};
use crate::precision::matmul;

/// An affine map of the last dimension.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// `weight` (output, input), which begins as `init` says, and `bias` (output), which begins as zero.
    pub fn new(input: usize, output: usize, init: Init, vb: VarBuilder<'_>) -> Result<Self> {
        let bias = vb.get_with_hints(output, "bias", Init::Const(0.0))?;
        Ok(Self { bias: Some(bias), ..Self::new_no_bias(input, output, init, vb)? })
    }

    /// `weight` (output, input) alone.
    pub fn new_no_bias(input: usize, output: usize, init: Init, vb: VarBuilder<'_>) -> Result<Self> {
        Ok(Self { weight: vb.get_with_hints((output, input), "weight", init)?, bias: None })
    }

    /// From existing tensors: `weight` (output, input), `bias` (output).
    pub fn from_parts(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self { weight, bias }
    }

    /// The weight (output, input).
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// The bias (output).
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// (…, input) → (…, output).
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        linear(xs, &self.weight, self.bias.as_ref())
    }
}

/// `xs · weightᵀ + bias`: `xs` (…, input), `weight` (output, input), `bias` (output) → (…, output).
pub fn linear(xs: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (output, input) = weight.dims2()?;
    if xs.dim(D::Minus1)? != input {
        candle_core::bail!("a linear map of {input} inputs cannot take {:?}", xs.shape());
    }
    let has_elements = xs.elem_count() > 0 && weight.elem_count() > 0;
    match bias {
        Some(bias) if bias.dims() != [output] => {
            candle_core::bail!("a linear map of {output} outputs cannot have a bias of shape {:?}", bias.shape())
        }
        Some(bias) if has_elements && fusible(&[xs, weight, bias]) => {
            xs.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, Fused)
        }
        None if has_elements && fusible(&[xs, weight]) => xs.contiguous()?.apply_op2(&weight.contiguous()?, Fused),
        _ => linear_composed(xs, weight, bias),
    }
}

/// [`linear`] in candle's operations.
pub fn linear_composed(xs: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (output, input) = weight.dims2()?;
    let mut dims = xs.dims().to_vec();
    let rows: usize = dims.iter().rev().skip(1).product();
    let ys = matmul(&xs.contiguous()?.reshape((rows, input))?, &weight.t()?)?; // (rows, output)
    let ys = match bias {
        Some(bias) => ys.broadcast_add(bias)?,
        None => ys,
    };
    if let Some(last) = dims.last_mut() {
        *last = output;
    }
    ys.reshape(dims) // (…, output)
}

/// Weights up to this many elements stay in a core's second-level cache: rows are then cut into tasks that each use the whole
/// weight, with the gradients' sums in the same pass. Larger products are cut for all threads.
const CACHED_WEIGHT: usize = 64 * 1024;

struct Fused;

const NAME: &str = "linear";

/// Sizes of one product, none of them zero.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    rows: usize,
    input: usize,
    output: usize,
}

impl Sizes {
    pub(crate) fn of(xs: &Shape, weight: &Shape) -> Result<Self> {
        let (output, input) = weight.dims2()?;
        Ok(Self { rows: xs.elem_count() / input, input, output })
    }

    fn is_cached(self) -> bool {
        self.input * self.output <= CACHED_WEIGHT
    }

    /// Rows whose inputs and outputs take a quarter of a megabyte.
    fn rows_per_task(self) -> usize {
        (64 * 1024 / (self.input + self.output)).max(64)
    }
}

/// A weight (output, input) and its bias, on slices.
#[derive(Clone, Copy)]
pub(crate) struct Affine<'a> {
    pub(crate) weight: Matrix<'a>,
    pub(crate) bias: Option<&'a [f32]>,
}

impl Affine<'_> {
    /// `ys ← xs · weightᵀ + bias`, on this thread.
    pub(crate) fn apply(&self, ys: &mut [f32], xs: Matrix<'_>) {
        let ys = MatrixMut::new(ys, xs.rows(), self.weight.rows());
        match self.bias {
            Some(bias) => ys.affine(xs, self.weight.t(), bias, Threads::One),
            None => ys.set(1.0, xs, self.weight.t(), Threads::One),
        }
    }
}

/// `xs · weightᵀ + bias` on slices.
pub(crate) fn forward(xs: &[f32], weight: &[f32], bias: Option<&[f32]>, sizes: Sizes) -> Vec<f32> {
    let Sizes { rows, input, output } = sizes;
    product::build(Matrix::new(xs, rows, input), Matrix::new(weight, output, input).t(), bias, Threads::All)
}

impl Fused {
    fn backward(&self, xs: &Tensor, weight: &Tensor, bias: Option<&Tensor>, grad: &Tensor) -> Result<Gradients> {
        let grad = grad.contiguous()?;
        let (x, w, g) = (Elements::of(xs, NAME), Elements::of(weight, NAME), Elements::of(&grad, NAME));
        let needs = Needs::of(xs, weight, bias);
        Ok(Gradients::of((x.get()?, w.get()?, g.get()?), Sizes::of(xs.shape(), weight.shape())?, needs))
    }
}

/// Which gradients are asked for. A constant matrix, as of an interpolation, or a frozen layer would pay a product for each.
#[derive(Clone, Copy)]
pub(crate) struct Needs {
    dx: bool,
    dw: bool,
    db: bool,
}

impl Needs {
    pub(crate) fn of(xs: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Self {
        Self { dx: xs.track_op(), dw: weight.track_op(), db: bias.is_some_and(Tensor::track_op) }
    }
}

/// The gradients of the inputs, the weight and the bias, as far as they are needed.
pub(crate) struct Gradients {
    pub(crate) dx: Option<Vec<f32>>,
    pub(crate) dw: Option<Vec<f32>>,
    pub(crate) db: Option<Vec<f32>>,
}

impl Gradients {
    /// From the inputs, the weight and the gradient of the outputs.
    pub(crate) fn of((x, w, g): (&[f32], &[f32], &[f32]), sizes: Sizes, needs: Needs) -> Self {
        let Sizes { rows, input, output } = sizes;
        let Needs { dx: need_dx, dw: need_dw, db: need_db } = needs;
        let w = Matrix::new(w, output, input);
        if !sizes.is_cached() {
            let all = Matrix::new(g, rows, output);
            let dx = need_dx.then(|| product::build(all, w, None, Threads::All));
            let dw = need_dw.then(|| product::build(all.t(), Matrix::new(x, rows, input), None, Threads::All));
            return Self { dx, dw, db: need_db.then(|| column_sums(g, output)) };
        }
        // A task adds up its rows' share of the weight's gradient; the shares are few enough not to cost more than the products.
        let step = sizes.rows_per_task();
        let shares = (rows * (input + output) / (4 * input * output)).clamp(2, 64);
        let share = rows.div_ceil(shares).next_multiple_of(step).max(step);
        let work = |start: usize, mut dx: Option<&mut [f32]>| {
            let mut sums =
                (vec![0.0; if need_dw { output * input } else { 0 }], vec![0.0; if need_db { output } else { 0 }]);
            let mut first = start;
            let last = (start + share).min(rows);
            while first < last {
                let count = step.min(last - first);
                let g = &g[first * output..][..count * output];
                let rows_g = Matrix::new(g, count, output);
                if let Some(dx) = &mut dx {
                    let dx = &mut dx[(first - start) * input..][..count * input];
                    MatrixMut::new(dx, count, input).set(1.0, rows_g, w, Threads::One);
                }
                if need_dw {
                    let x = Matrix::new(&x[first * input..][..count * input], count, input);
                    MatrixMut::new(&mut sums.0, output, input).add(rows_g.t(), x, Threads::One);
                }
                if need_db {
                    add_columns(&mut sums.1, g);
                }
                first += count;
            }
            sums
        };
        let (dx, sums) = if need_dx {
            let (dx, sums) =
                parallel::build_with(rows * input, share * input, |start, dx| work(start / input, Some(dx)));
            (Some(dx), sums)
        } else {
            let starts: Vec<usize> = (0..rows).step_by(share).collect();
            (None, starts.into_par_iter().map(|start| work(start, None)).collect())
        };
        let (dw, db): (Vec<_>, Vec<_>) = sums.into_iter().unzip();
        let dw = need_dw.then(|| parallel::sum_in_order(dw));
        Self { dx, dw, db: need_db.then(|| parallel::sum_in_order(db)) }
    }
}

/// A gradient, if there is one, as a tensor of the shape of `like`.
pub(crate) fn optional(values: Option<Vec<f32>>, like: &Tensor) -> Result<Option<Tensor>> {
    values.map_or(Ok(None), |values| gradient(values, like))
}

fn column_sums(xs: &[f32], width: usize) -> Vec<f32> {
    let chunk = parallel::rows_per_task(width) * width;
    let parts: Vec<Vec<f32>> = xs
        .par_chunks(chunk)
        .map(|xs| {
            let mut sums = vec![0.0; width];
            add_columns(&mut sums, xs);
            sums
        })
        .collect();
    parallel::sum_in_order(parts)
}

vectorised! {
    /// Adds the rows of `xs`, each as long as `sums`.
    pub(crate) fn add_columns(sums: &mut [f32], xs: &[f32]) {
        for row in xs.chunks_exact(sums.len()) {
            math::add_assign(sums, row);
        }
    }
}

pub(crate) fn output_shape(xs: &Layout, weight: &Layout) -> Result<Shape> {
    let mut dims = xs.shape().dims().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = weight.shape().dims2()?.0;
    }
    Ok(dims.into())
}

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
        let bias = slice(bias, bias_layout, NAME)?;
        let ys = forward(slice(xs, xs_layout, NAME)?, slice(weight, weight_layout, NAME)?, Some(bias), sizes);
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
        let Gradients { dx, dw, db } = self.backward(xs, weight, Some(bias), grad)?;
        Ok((optional(dx, xs)?, optional(dw, weight)?, optional(db, bias)?))
    }
}

impl CustomOp2 for Fused {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        xs_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let sizes = Sizes::of(xs_layout.shape(), weight_layout.shape())?;
        let ys = forward(slice(xs, xs_layout, NAME)?, slice(weight, weight_layout, NAME)?, None, sizes);
        Ok((CpuStorage::F32(ys), output_shape(xs_layout, weight_layout)?))
    }

    fn bwd(&self, xs: &Tensor, weight: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let Gradients { dx, dw, .. } = self.backward(xs, weight, None, grad)?;
        Ok((optional(dx, xs)?, optional(dw, weight)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::twin;

    #[test]
    fn twins_agree_with_and_without_bias() {
        // One task, several tasks with an odd rest, a weight beyond the cache, a single row and a single column.
        for (lead, input, output) in
            [(&[3usize, 5][..], 7, 11), (&[2, 1501], 33, 17), (&[2, 37], 300, 241), (&[1], 5, 3), (&[4, 9], 6, 1)]
        {
            let xs: Vec<usize> = lead.iter().copied().chain([input]).collect();
            let biased = |xs: &[Tensor]| linear(&xs[0], &xs[1], Some(&xs[2]));
            let twin_of = |xs: &[Tensor]| linear_composed(&xs[0], &xs[1], Some(&xs[2]));
            twin::check_twins(&[&xs, &[output, input], &[output]], 5e-6, biased, twin_of);
            let plain = |xs: &[Tensor]| linear(&xs[0], &xs[1], None);
            twin::check_twins(&[&xs, &[output, input]], 5e-6, plain, |xs| linear_composed(&xs[0], &xs[1], None));
        }
    }

    #[test]
    fn composed_gradients_follow_finite_differences() {
        let shapes: [&[usize]; 3] = [&[2, 3, 5], &[4, 5], &[4]];
        twin::check_gradient(&shapes, |xs| linear_composed(&xs[0], &xs[1], Some(&xs[2])));
    }

    #[test]
    fn an_input_without_history_gets_no_gradient_and_the_weight_does() {
        let xs = twin::random(1, &[700, 6]).to_dtype(candle_core::DType::F32).unwrap();
        let weight = candle_core::Var::zeros((3, 6), candle_core::DType::F32, xs.device()).unwrap();
        let grads = linear(&xs, &weight, None).unwrap().sum_all().unwrap().backward().unwrap();
        let expected = xs.sum(0).unwrap().to_vec1::<f32>().unwrap();
        let grad = grads.get(&weight).unwrap().to_vec2::<f32>().unwrap();
        assert!(grad.iter().all(|row| row.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-3)));
        assert!(grads.get(&xs).is_none());
    }

    /// In both forms of the product, and for each of the three: a constant gets no gradient, and the others keep theirs.
    #[test]
    fn constants_get_no_gradient() {
        for (rows, input, output) in [(700, 6, 3), (9, 300, 241)] {
            let shapes = [vec![rows, input], vec![output, input], vec![output]];
            let make = |i: usize| twin::random(i as u64, &shapes[i]).to_dtype(candle_core::DType::F32).unwrap();
            let vars = [0, 1, 2].map(|i| candle_core::Var::from_tensor(&make(i)).unwrap());
            let run = |[xs, weight, bias]: [&Tensor; 3]| {
                let ys = linear(xs, weight, Some(bias)).unwrap();
                (&ys * &ys).unwrap().sum_all().unwrap().backward().unwrap()
            };
            let all = run([&vars[0], &vars[1], &vars[2]]);
            for frozen in 0..3 {
                let inputs = [0, 1, 2].map(|i| if i == frozen { make(i) } else { vars[i].as_tensor().clone() });
                let grads = run([&inputs[0], &inputs[1], &inputs[2]]);
                assert!(grads.get(&inputs[frozen]).is_none(), "input {frozen}");
                for i in (0..3).filter(|&i| i != frozen) {
                    let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                    assert_eq!(flat(grads.get(&vars[i]).unwrap()), flat(all.get(&vars[i]).unwrap()), "input {i}");
                }
            }
        }
    }

    #[test]
    fn nothing_at_all_is_mapped_too() {
        let ones = |dims: &[usize]| Tensor::ones(dims, candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();
        for (lead, input, output) in [(&[0usize, 4][..], 3, 2), (&[4], 0, 2), (&[4], 3, 0), (&[0], 0, 0)] {
            let xs: Vec<usize> = lead.iter().copied().chain([input]).collect();
            let expected: Vec<usize> = lead.iter().copied().chain([output]).collect();
            for bias in [None, Some(ones(&[output]))] {
                let weight = candle_core::Var::from_tensor(&ones(&[output, input])).unwrap();
                let ys = linear(&ones(&xs), &weight, bias.as_ref()).unwrap();
                assert_eq!(ys.dims(), expected);
                let value = if bias.is_some() { 1.0 } else { 0.0 };
                assert_eq!(ys.flatten_all().unwrap().to_vec1::<f32>().unwrap(), vec![value; ys.elem_count()]);
            }
        }
    }

    #[test]
    fn misfits_are_errors() {
        let zeros = |dims: &[usize]| Tensor::zeros(dims, candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();
        assert!(linear(&zeros(&[2, 3]), &zeros(&[4, 5]), None).is_err());
        assert!(linear(&zeros(&[2, 5]), &zeros(&[4, 5]), Some(&zeros(&[5]))).is_err());
    }
}
