//! Two-dimensional convolution with the channels last (`torch.nn.Conv2d` of a permuted map).
//!
//! The weight's taps come before its input channels here, `(output, kernel rows, kernel columns, input)`: what a tap sees is then a run of
//! consecutive elements, in the map and in the weight, and a convolution is one matrix product over gathered runs.

mod bn_relu;
mod frozen;
mod fused;
mod gather;
mod winograd;

use std::sync::Arc;

use candle_core::{D, Result, Tensor};
use candle_nn::{Init, VarBuilder};

pub use bn_relu::ConvBnRelu;

use crate::cpu::{Elements, fusible};
use crate::linear::linear_composed;

/// How a kernel moves over a map, in (rows, columns).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvGeometry {
    /// Step from one output to the next.
    pub stride: (usize, usize),
    /// Zeros around the map; fewer than the kernel is large.
    pub padding: (usize, usize),
}

impl ConvGeometry {
    /// Of an odd kernel that keeps the size of the map.
    #[must_use]
    pub fn same(kernel: usize) -> Self {
        Self { stride: (1, 1), padding: (kernel / 2, kernel / 2) }
    }

    /// Size of the output of a map of `size`, or `None` where the kernel does not fit into it.
    #[must_use]
    pub fn output(&self, size: (usize, usize), kernel: (usize, usize)) -> Option<(usize, usize)> {
        let along = |size: usize, kernel: usize, stride: usize, padding: usize| {
            Some((size + 2 * padding).checked_sub(kernel)?.checked_div(stride)? + 1)
        };
        Some((
            along(size.0, kernel.0, self.stride.0, self.padding.0)?,
            along(size.1, kernel.1, self.stride.1, self.padding.1)?,
        ))
    }
}

/// A convolution.
#[derive(Clone, Debug)]
pub struct Conv2d {
    weight: Weight,
    bias: Option<Tensor>,
    geometry: ConvGeometry,
}

/// A weight in the form that the layer computes with; what does not change is brought into it once.
#[derive(Clone)]
enum Weight {
    /// `(output, input, kernel rows, kernel columns)` as in torch's files: a variable.
    Torch(Tensor),
    /// `(output, kernel rows, kernel columns, input)`: a constant.
    TapsFirst(Tensor),
    /// Transformed by Winograd's algorithm: a constant on the CPU.
    Transformed(Transformed),
}

/// A kernel of 3x3, transformed.
#[derive(Clone)]
struct Transformed {
    /// (places, input, output).
    kernel: Arc<Vec<f32>>,
    input: usize,
    output: usize,
}

impl std::fmt::Debug for Weight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Torch(weight) => write!(f, "Torch({:?})", weight.shape()),
            Self::TapsFirst(weight) => write!(f, "TapsFirst({:?})", weight.shape()),
            Self::Transformed(Transformed { input, output, .. }) => write!(f, "Transformed({output}, {input})"),
        }
    }
}

impl Conv2d {
    /// `weight` (output, input, kernel rows, kernel columns), which begins as `init` says, without a bias.
    pub fn new_no_bias(
        (input, output): (usize, usize),
        kernel: (usize, usize),
        geometry: ConvGeometry,
        init: Init,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        let weight = vb.get_with_hints((output, input, kernel.0, kernel.1), "weight", init)?;
        Self::from_parts(weight, None, geometry)
    }

    /// From existing tensors: `weight` (output, input, kernel rows, kernel columns), `bias` (output).
    pub fn from_parts(weight: Tensor, bias: Option<Tensor>, geometry: ConvGeometry) -> Result<Self> {
        let (output, input, rows, columns) = weight.dims4()?;
        // A weight that is one zero seen through a shape stands for one that a file lacks, of any size: it is not copied.
        let constant = !weight.track_op() && weight.is_contiguous();
        let transforms = fusible(&[&weight])
            && (rows, columns) == (winograd::TAPS, winograd::TAPS)
            && geometry == ConvGeometry::same(winograd::TAPS)
            && winograd::pays(input, output);
        let weight = match constant {
            false => Weight::Torch(weight),
            true if transforms => {
                let taps = taps_first(&weight)?;
                let taps = Elements::of(&taps, "conv2d");
                let kernel = winograd::transform_kernel(taps.get()?, input, output);
                let kernel = Arc::new(winograd::keep_kernel(&kernel, input, output));
                Weight::Transformed(Transformed { kernel, input, output })
            }
            true => Weight::TapsFirst(taps_first(&weight)?),
        };
        Ok(Self { weight, bias, geometry })
    }

    /// (B, H, W, input) → (B, H', W', output).
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let ys = match &self.weight {
            Weight::Torch(weight) => conv2d(xs, &taps_first(weight)?, self.geometry)?,
            Weight::TapsFirst(weight) => conv2d(xs, weight, self.geometry)?,
            Weight::Transformed(weight) => frozen::conv2d(xs, weight)?,
        };
        match &self.bias {
            Some(bias) => ys.broadcast_add(bias),
            None => Ok(ys),
        }
    }
}

/// `(output, input, kernel rows, kernel columns)` → `(output, kernel rows, kernel columns, input)`.
fn taps_first(weight: &Tensor) -> Result<Tensor> {
    weight.permute((0, 2, 3, 1))?.contiguous()
}

/// Convolution of `xs` (B, H, W, input) with `weight` (output, kernel rows, kernel columns, input) → (B, H', W', output).
pub fn conv2d(xs: &Tensor, weight: &Tensor, geometry: ConvGeometry) -> Result<Tensor> {
    check(xs, weight, geometry)?;
    if fusible(&[xs, weight]) && xs.elem_count() > 0 && weight.elem_count() > 0 {
        xs.contiguous()?.apply_op2(&weight.contiguous()?, fused::Fused { geometry })
    } else {
        conv2d_composed(xs, weight, geometry)
    }
}

/// A map that the kernel fits into.
fn check(xs: &Tensor, weight: &Tensor, geometry: ConvGeometry) -> Result<()> {
    let (_, height, width, channels) = xs.dims4()?;
    let (_, kernel_rows, kernel_columns, input) = weight.dims4()?;
    let ConvGeometry { stride, padding } = geometry;
    if channels != input {
        candle_core::bail!("a convolution of {input} channels cannot take {:?}, channels last", xs.shape());
    }
    if stride.0 == 0 || stride.1 == 0 || padding.0 >= kernel_rows || padding.1 >= kernel_columns {
        candle_core::bail!("a kernel of {kernel_rows} x {kernel_columns} cannot have {geometry:?}");
    }
    if geometry.output((height, width), (kernel_rows, kernel_columns)).is_none() {
        candle_core::bail!("a kernel of {kernel_rows} x {kernel_columns} does not fit into {:?}", xs.shape());
    }
    Ok(())
}

/// [`conv2d`] in candle's operations: the map seen through each tap, side by side, and one linear map.
pub fn conv2d_composed(xs: &Tensor, weight: &Tensor, geometry: ConvGeometry) -> Result<Tensor> {
    let (_, height, width, _) = xs.dims4()?;
    let (output, kernel_rows, kernel_columns, _) = weight.dims4()?;
    let Some((rows, columns)) = geometry.output((height, width), (kernel_rows, kernel_columns)) else {
        candle_core::bail!("a kernel of {kernel_rows} x {kernel_columns} does not fit into {:?}", xs.shape());
    };
    let padded = pad(&pad(xs, 1, geometry.padding.0)?, 2, geometry.padding.1)?;
    let mut taps = Vec::with_capacity(kernel_rows * kernel_columns);
    for row in 0..kernel_rows {
        let line = every(&padded, 1, row, rows, geometry.stride.0)?;
        for column in 0..kernel_columns {
            taps.push(every(&line, 2, column, columns, geometry.stride.1)?); // (B, H', W', input)
        }
    }
    let patches = Tensor::cat(&taps, D::Minus1)?; // (B, H', W', taps·input)
    linear_composed(&patches, &weight.reshape((output, ()))?, None)
}

/// `count` zeros before and behind.
fn pad(xs: &Tensor, dim: usize, count: usize) -> Result<Tensor> {
    if count == 0 { Ok(xs.clone()) } else { xs.pad_with_zeros(dim, count, count) }
}

/// `count` elements from `first` on, `step` apart.
fn every(xs: &Tensor, dim: usize, first: usize, count: usize, step: usize) -> Result<Tensor> {
    if step == 1 {
        return xs.narrow(dim, first, count);
    }
    let indices: Vec<u32> = (0..count).map(|i| (first + i * step) as u32).collect();
    xs.index_select(&Tensor::new(indices, xs.device())?, dim)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Module};

    use super::*;
    use crate::twin;

    fn geometry(stride: (usize, usize), padding: (usize, usize)) -> ConvGeometry {
        ConvGeometry { stride, padding }
    }

    /// Batch, odd sizes, input channels other than output channels; kernels of PANNs, of their local views, of one column.
    #[test]
    fn twins_agree() {
        for (xs, weight, geometry) in [
            ([2, 7, 5, 3], [4, 3, 3, 3], ConvGeometry::same(3)),
            ([1, 6, 9, 2], [5, 5, 5, 2], ConvGeometry::same(5)),
            ([2, 31, 8, 1], [6, 5, 5, 1], geometry((6, 2), (2, 2))),
            ([3, 23, 1, 6], [6, 5, 1, 6], geometry((3, 1), (2, 0))),
            ([2, 4, 6, 3], [2, 2, 3, 3], geometry((2, 3), (0, 0))),
            ([2, 1, 2, 5], [7, 3, 3, 5], ConvGeometry::same(3)),
            ([2, 40, 21, 8], [12, 3, 3, 8], ConvGeometry::same(3)),
            // Winograd's: even and odd sizes, channels beside whole registers, one row, a kernel beyond the cache.
            ([2, 8, 10, 16], [20, 3, 3, 16], ConvGeometry::same(3)),
            ([3, 7, 5, 19], [33, 3, 3, 19], ConvGeometry::same(3)),
            ([1, 1, 9, 8], [8, 3, 3, 8], ConvGeometry::same(3)),
            ([2, 150, 3, 9], [10, 3, 3, 9], ConvGeometry::same(3)),
            ([1, 5, 4, 190], [180, 3, 3, 190], ConvGeometry::same(3)),
            // A weight beyond the cache.
            ([1, 9, 4, 120], [130, 3, 3, 120], ConvGeometry::same(3)),
        ] {
            let fused = |xs: &[Tensor]| conv2d(&xs[0], &xs[1], geometry);
            twin::check_twins(&[&xs, &weight], 1e-5, fused, |xs| conv2d_composed(&xs[0], &xs[1], geometry));
        }
    }

    #[test]
    fn composed_gradients_follow_finite_differences() {
        for geometry in [ConvGeometry::same(3), geometry((2, 3), (1, 0))] {
            twin::check_gradient(&[&[2, 5, 7, 2], &[3, 3, 3, 2]], |xs| conv2d_composed(&xs[0], &xs[1], geometry));
        }
    }

    /// Each form of a weight: torch's own, taps first, transformed.
    #[test]
    fn it_is_the_convolution_of_torch() {
        for (input, output, side) in [(2, 5, 3), (9, 17, 3), (9, 12, 5)] {
            let weight = twin::random(1, &[output, input, side, side]).to_dtype(DType::F32).unwrap();
            let geometry = ConvGeometry::same(side);
            let xs = twin::random(2, &[2, 7, 9, input]).to_dtype(DType::F32).unwrap();
            let config = candle_nn::Conv2dConfig { padding: side / 2, ..Default::default() };
            let reference = candle_nn::Conv2d::new(weight.clone(), None, config);
            let expected = reference.forward(&xs.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap()).unwrap();
            let variable = candle_core::Var::from_tensor(&weight).unwrap().into_inner();
            for weight in [weight, variable] {
                let layer = Conv2d::from_parts(weight, None, geometry).unwrap();
                let ys = layer.forward(&xs).unwrap().permute((0, 3, 1, 2)).unwrap();
                let gap = (ys - &expected).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
                assert!(gap < 2e-5, "{gap} {layer:?}");
            }
        }
    }

    /// A transformed weight hands gradients on to what is before it.
    #[test]
    fn a_frozen_convolution_is_differentiable() {
        let weight = twin::random(1, &[11, 9, 3, 3]);
        let taps = taps_first(&weight).unwrap();
        let layer = Conv2d::from_parts(weight.to_dtype(DType::F32).unwrap(), None, ConvGeometry::same(3)).unwrap();
        assert!(matches!(layer.weight, Weight::Transformed(_)));
        let composed = |xs: &[Tensor]| conv2d_composed(&xs[0], &taps, ConvGeometry::same(3));
        twin::check_twins(&[&[2, 7, 5, 9]], 1e-5, |xs| layer.forward(&xs[0]), composed);
    }

    #[test]
    fn misfits_are_errors() {
        let zeros = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &candle_core::Device::Cpu).unwrap();
        let weight = zeros(&[4, 3, 3, 2]);
        for (xs, geometry) in [
            ([1, 5, 5, 3], ConvGeometry::same(3)),
            ([1, 2, 5, 2], geometry((1, 1), (0, 0))),
            ([1, 5, 5, 2], geometry((0, 1), (0, 0))),
            ([1, 5, 5, 2], geometry((1, 1), (3, 0))),
        ] {
            assert!(conv2d(&zeros(&xs), &weight, geometry).is_err(), "{xs:?} {geometry:?}");
        }
    }
}
