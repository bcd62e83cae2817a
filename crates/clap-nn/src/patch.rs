//! Patch embedding and patch merging of a Swin transformer (Liu et al. 2021, arXiv 2103.14030).

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use candle_nn::VarBuilder;

use crate::cpu::{Elements, fusible, gradient, parallel, slice};
use crate::init::torch_default;
use crate::linear;

/// A convolution whose stride is its kernel, without padding: each patch is one row of a matrix product.
#[derive(Clone, Debug)]
pub struct PatchConv {
    weight: Tensor,
    bias: Tensor,
}

impl PatchConv {
    /// `weight` (output, input, kernel height, kernel width) and `bias` (output), with PyTorch's initial values of a convolution.
    pub fn new(input: usize, output: usize, kernel: (usize, usize), vb: VarBuilder<'_>) -> Result<Self> {
        let init = torch_default(input * kernel.0 * kernel.1);
        Ok(Self {
            weight: vb.get_with_hints((output, input, kernel.0, kernel.1), "weight", init)?,
            bias: vb.get_with_hints(output, "bias", init)?,
        })
    }

    /// (B, input, H, W) → (B, H/kh, W/kw, output). Rows and columns that do not fill a patch are left out, as a convolution does.
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let (output, input, kh, kw) = self.weight.dims4()?;
        let (_, channels, ..) = xs.dims4()?;
        if channels != input {
            candle_core::bail!("a patch convolution of {input} channels cannot take {:?}", xs.shape());
        }
        let patches = patches(xs, (kh, kw))?; // (B, H/kh, W/kw, input·kh·kw)
        linear(&patches, &self.weight.reshape((output, input * kh * kw))?, Some(&self.bias)) // (B, H/kh, W/kw, output)
    }
}

/// Cuts images into patches: (B, C, H, W) → (B, H/kh, W/kw, C·kh·kw). Rows and columns that do not fill a patch are left out.
pub fn patches(xs: &Tensor, kernel: (usize, usize)) -> Result<Tensor> {
    let (b, c, height, width) = xs.dims4()?;
    if kernel.0 == 0 || kernel.1 == 0 || height < kernel.0 || width < kernel.1 {
        candle_core::bail!("cannot cut {:?} into patches of {kernel:?}", xs.shape());
    }
    if fusible(&[xs]) && b * c > 0 {
        let moves = Moves::patches((c, height, width), kernel);
        xs.contiguous()?.apply_op1(moves)
    } else {
        patches_composed(xs, kernel)
    }
}

/// [`patches`] in candle's operations.
pub fn patches_composed(xs: &Tensor, (kh, kw): (usize, usize)) -> Result<Tensor> {
    let (b, c, h, w) = xs.dims4()?;
    let (rows, columns) = (h / kh, w / kw);
    xs.narrow(2, 0, rows * kh)?
        .narrow(3, 0, columns * kw)?
        .contiguous()?
        .reshape(&[b, c, rows, kh, columns, kw])?
        .permute([0, 2, 4, 1, 3, 5])?
        .contiguous()?
        .reshape((b, rows, columns, c * kh * kw))
}

/// Gathers 2×2 neighbours: `xs` (B, H·W, C), row-major tokens, H and W even → (B, H/2·W/2, 4C) with the order
/// (0,0), (1,0), (0,1), (1,1) of (row, column) offsets in the channels.
pub fn merge_patches(xs: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    check_grid(xs, height, width)?;
    let (_, _, c) = xs.dims3()?;
    if fusible(&[xs]) && xs.elem_count() > 0 {
        xs.contiguous()?.apply_op1(Moves::merge((height, width), c))
    } else {
        merge_patches_composed(xs, height, width)
    }
}

/// Tokens of an even grid.
fn check_grid(xs: &Tensor, height: usize, width: usize) -> Result<()> {
    let (_, tokens, _) = xs.dims3()?;
    if tokens != height * width || tokens == 0 || !height.is_multiple_of(2) || !width.is_multiple_of(2) {
        candle_core::bail!("cannot merge 2x2 patches of {:?} as {height} x {width} tokens", xs.shape());
    }
    Ok(())
}

/// [`merge_patches`] in candle's operations.
pub fn merge_patches_composed(xs: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    let (b, _, c) = xs.dims3()?;
    check_grid(xs, height, width)?;
    let (rows, columns) = (height / 2, width / 2);
    xs.reshape(&[b, rows, 2, columns, 2, c])?
        .permute([0, 1, 3, 4, 2, 5])? // (B, rows, columns, column offset, row offset, C)
        .contiguous()?
        .reshape((b, rows * columns, 4 * c))
}

/// A rearrangement of each image by runs of consecutive elements.
struct Moves {
    /// Elements of an image before the move.
    image: usize,
    /// Length of a run.
    run: usize,
    /// For each run of the result in turn, where it starts in the image.
    sources: Vec<u32>,
    /// Shape of a result, without the batch.
    shape: Vec<usize>,
}

impl Moves {
    fn patches((c, height, width): (usize, usize, usize), (kh, kw): (usize, usize)) -> Self {
        let (rows, columns) = (height / kh, width / kw);
        let mut sources = Vec::with_capacity(rows * columns * c * kh);
        for patch in 0..rows * columns {
            for line in 0..c * kh {
                let (channel, row) = (line / kh, patch / columns * kh + line % kh);
                sources.push(((channel * height + row) * width + patch % columns * kw) as u32);
            }
        }
        Self { image: c * height * width, run: kw, sources, shape: vec![rows, columns, c * kh * kw] }
    }

    fn merge((height, width): (usize, usize), c: usize) -> Self {
        let (rows, columns) = (height / 2, width / 2);
        let mut sources = Vec::with_capacity(height * width);
        for patch in 0..rows * columns {
            for (row, column) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
                sources.push((((patch / columns * 2 + row) * width + patch % columns * 2 + column) * c) as u32);
            }
        }
        Self { image: height * width * c, run: c, sources, shape: vec![rows * columns, 4 * c] }
    }

    /// Elements of a result.
    fn len(&self) -> usize {
        self.sources.len() * self.run
    }

    /// Pairs of (source range, destination range) of one image.
    fn ranges(&self) -> impl Iterator<Item = (std::ops::Range<usize>, std::ops::Range<usize>)> {
        self.sources.iter().enumerate().map(|(index, &source)| {
            let (source, target) = (source as usize, index * self.run);
            (source..source + self.run, target..target + self.run)
        })
    }
}

impl CustomOp1 for Moves {
    fn name(&self) -> &'static str {
        "moves"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let xs = slice(storage, layout, self.name())?;
        let batch = xs.len() / self.image;
        let ys = parallel::build(batch * self.len(), self.len(), |start, ys| {
            let xs = &xs[start / self.len() * self.image..][..self.image];
            self.ranges().for_each(|(source, target)| ys[target].copy_from_slice(&xs[source]));
        });
        let mut dims = vec![batch];
        dims.extend(&self.shape);
        Ok((CpuStorage::F32(ys), dims.into()))
    }

    fn bwd(&self, xs: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let g = Elements::of(&grad, self.name());
        let g = g.get()?;
        // Runs do not overlap, so a gradient is a copy; what no run covers stays zero.
        let dxs = parallel::build(xs.elem_count(), self.image, |start, dxs| {
            let g = &g[start / self.image * self.len()..][..self.len()];
            self.ranges().for_each(|(source, target)| dxs[source].copy_from_slice(&g[target]));
        });
        gradient(dxs, xs)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Module};

    use super::*;
    use crate::init::seeded_vars;
    use crate::twin;

    #[test]
    fn twins_agree() {
        let fused = |xs: &[Tensor]| patches(&xs[0], (2, 3));
        twin::check_twins(&[&[3, 2, 7, 11]], 1e-7, fused, |xs| patches_composed(&xs[0], (2, 3)));
        let fused = |xs: &[Tensor]| merge_patches(&xs[0], 6, 4);
        twin::check_twins(&[&[3, 24, 5]], 1e-7, fused, |xs| merge_patches_composed(&xs[0], 6, 4));
    }

    #[test]
    fn composed_gradients_follow_finite_differences() {
        twin::check_gradient(&[&[2, 2, 5, 7]], |xs| patches_composed(&xs[0], (2, 3)));
        twin::check_gradient(&[&[2, 8, 3]], |xs| merge_patches_composed(&xs[0], 2, 4));
    }

    #[test]
    fn a_patch_convolution_is_a_convolution() {
        let (_, vb) = seeded_vars(1, &Device::Cpu, DType::F32);
        let patch = PatchConv::new(2, 5, (3, 3), vb).unwrap();
        let xs = twin::random(2, &[2, 2, 7, 9]).to_dtype(DType::F32).unwrap();
        let config = candle_nn::Conv2dConfig { stride: 3, ..Default::default() };
        let conv = candle_nn::Conv2d::new(patch.weight.clone(), Some(patch.bias.clone()), config);
        let expected = conv.forward(&xs).unwrap().permute((0, 2, 3, 1)).unwrap();
        let gap = (patch.forward(&xs).unwrap() - expected).unwrap().abs().unwrap().max_all().unwrap();
        assert!(gap.to_scalar::<f32>().unwrap() < 1e-6);
    }

    #[test]
    fn merging_keeps_the_order_of_swin() {
        let xs = Tensor::arange(0f32, 16.0, &Device::Cpu).unwrap().reshape((1, 16, 1)).unwrap();
        let ys = merge_patches(&xs, 4, 4).unwrap().to_vec3::<f32>().unwrap();
        assert_eq!(
            ys[0],
            [[0.0, 4.0, 1.0, 5.0], [2.0, 6.0, 3.0, 7.0], [8.0, 12.0, 9.0, 13.0], [10.0, 14.0, 11.0, 15.0]]
        );
    }

    #[test]
    fn misfits_are_errors() {
        let xs = Tensor::zeros((1, 9, 1), DType::F32, &Device::Cpu).unwrap();
        assert!(merge_patches(&xs, 3, 3).is_err());
        assert!(merge_patches(&xs, 2, 4).is_err());
        assert!(patches(&xs.reshape((1, 1, 3, 3)).unwrap(), (4, 1)).is_err());
    }
}
