//! Convolutions whose weight does not change, on the CPU: for inference together with what follows them, a block's affine map, ReLU and pooling,
//! while the sums are in cache.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};

use super::fused::Sizes;
use super::winograd::{self, Direction, Finish, Kernel, Maps};
use super::{ConvGeometry, Transformed};
use crate::cpu::{Elements, gradient, slice};

const NAME: &str = "frozen_conv2d";

/// What becomes of the sums: see [`Finish::Block`].
pub(super) struct Block {
    pub(super) scale: Vec<f32>,
    pub(super) shift: Vec<f32>,
    pub(super) pools: bool,
}

impl Block {
    fn finish(&self) -> Finish<'_> {
        Finish::Block { scale: &self.scale, shift: &self.shift, pools: self.pools }
    }
}

/// Convolution with a transformed weight: (B, H, W, input) → (B, H, W, output).
pub(super) fn conv2d(xs: &Tensor, weight: &Transformed) -> Result<Tensor> {
    run(xs, weight, None)
}

/// The same, finished; for tensors without history.
pub(super) fn block(xs: &Tensor, weight: &Transformed, block: Block) -> Result<Tensor> {
    run(xs, weight, Some(block))
}

fn run(xs: &Tensor, weight: &Transformed, block: Option<Block>) -> Result<Tensor> {
    let (_, height, width, channels) = xs.dims4()?;
    if channels != weight.input || height == 0 || width == 0 {
        candle_core::bail!("a convolution of {} channels cannot take {:?}, channels last", weight.input, xs.shape());
    }
    xs.contiguous()?.apply_op1(Winograd { weight: weight.clone(), block })
}

/// The convolution with any other constant weight, taps first, finished without pooling.
pub(super) fn general_block(xs: &Tensor, weight: &Tensor, geometry: ConvGeometry, block: Block) -> Result<Tensor> {
    super::check(xs, weight, geometry)?;
    xs.contiguous()?.apply_op2(weight, General { geometry, block })
}

struct Winograd {
    weight: Transformed,
    block: Option<Block>,
}

impl Winograd {
    fn kernel(&self) -> Kernel<'_> {
        Kernel::Kept(&self.weight.kernel)
    }

    fn maps(&self, xs: &Shape) -> Result<Maps> {
        let (batch, height, width, input) = xs.dims4()?;
        Ok(Maps { batch, height, width, input, output: self.weight.output })
    }
}

impl CustomOp1 for Winograd {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, xs: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let maps = self.maps(layout.shape())?;
        let finish = self.block.as_ref().map_or(Finish::Plain, Block::finish);
        let ys = winograd::convolve(slice(xs, layout, NAME)?, self.kernel(), maps, Direction::Forward, finish);
        let shrink = if finish.pools() { 2 } else { 1 };
        Ok((CpuStorage::F32(ys), (maps.batch, maps.height / shrink, maps.width / shrink, maps.output).into()))
    }

    fn bwd(&self, xs: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        if self.block.is_some() {
            candle_core::bail!("{NAME}: a finished block has no gradient")
        }
        let maps = self.maps(xs.shape())?.back();
        let grad = grad.contiguous()?;
        let grads = Elements::of(&grad, NAME);
        gradient(winograd::convolve(grads.get()?, self.kernel(), maps, Direction::Backward, Finish::Plain), xs)
    }
}

struct General {
    geometry: ConvGeometry,
    block: Block,
}

impl CustomOp2 for General {
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
        let sizes = Sizes::of(xs_layout.shape(), weight_layout.shape(), self.geometry)?;
        let ys = sizes.forward(slice(xs, xs_layout, NAME)?, slice(weight, weight_layout, NAME)?, self.block.finish());
        Ok((CpuStorage::F32(ys), sizes.shape()))
    }
}
