//! A block of convolutions of one width.
//!
//! Source: laion-clap 1.1.7 `pann_model.py` (`ConvBlock`, `ConvBlock5x5`).

use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};
use clap_nn::{BatchNorm, Conv2d, ConvBnRelu, ConvGeometry, Mode};

use crate::config::PannConfig;
use crate::fusion::BATCH_NORM_EPS;

/// Convolution, batch norm and ReLU, once or more, then 2x2 average pooling where the block is pooled.
#[derive(Clone, Debug)]
pub(super) struct ConvBlock {
    layers: Vec<ConvBnRelu>,
    pools: bool,
}

impl ConvBlock {
    /// Block `index`, of which the first takes `channels` channels.
    pub(super) fn new(config: &PannConfig, index: usize, channels: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let width = config.block_widths[index];
        let before = if index == 0 { channels } else { config.block_widths[index - 1] };
        let side = config.kernel_size;
        let layers = (1..=config.convolutions_per_block)
            .map(|layer| {
                let input = if layer == 1 { before } else { width };
                let init = xavier(input * side * side, width * side * side);
                let geometry = ConvGeometry::same(side);
                let (conv, norm) = (vb.pp(format!("conv{layer}")), vb.pp(format!("bn{layer}")));
                let conv = Conv2d::new_no_bias((input, width), (side, side), geometry, init, conv)?;
                Ok(ConvBnRelu::new(conv, BatchNorm::new(width, BATCH_NORM_EPS, norm)?))
            })
            .collect::<Result<_>>()?;
        Ok(Self { layers, pools: index < config.pooled_blocks })
    }

    /// `(B, frames, bins, C)` → `(B, frames/2, bins/2, C')`, or the same frames and bins where the block is not pooled.
    pub(super) fn forward_t(&self, xs: &Tensor, mode: &mut Mode) -> Result<Tensor> {
        let (last, layers) = self.layers.split_last().expect("a block has a layer, by its configuration");
        let mut xs = xs.clone();
        for layer in layers {
            xs = layer.forward_t(&xs, mode)?;
        }
        if self.pools { last.forward_pooled_t(&xs, mode) } else { last.forward_t(&xs, mode) }
    }
}

/// Glorot's uniform initialisation (`xavier_uniform_`).
pub(super) fn xavier(fan_in: usize, fan_out: usize) -> Init {
    let bound = (6.0 / (fan_in + fan_out) as f64).sqrt();
    Init::Uniform { lo: -bound, up: bound }
}
