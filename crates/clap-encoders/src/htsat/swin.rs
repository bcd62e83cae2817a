//! Swin Transformer blocks and patch merging.
//!
//! Liu et al., "Swin Transformer" (arXiv 2103.14030); source: laion-clap 1.1.7 `htsat.py` (`SwinTransformerBlock`,
//! `PatchMerging`); transformers `ClapAudioLayer`, `ClapAudioPatchMerging`.
//!
//! Stochastic depth drops both residual branches, as LAION's program does (`transformers` drops the attention branch alone).

use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};
use clap_nn::init::normal;
use clap_nn::{
    Activation, LayerNorm, Linear, Mode, WindowGeometry, checkpoint, feed_forward_block, merge_patches,
    relative_position_bias, residual, window_attention, window_attention_block,
};

use super::patch::LAYER_NORM_EPS;
use crate::config::HtsAtConfig;
use crate::taps::Taps;

/// Blocks of one resolution, then patch merging unless it is the last stage.
#[derive(Debug)]
pub(super) struct Stage {
    blocks: Vec<Block>,
    downsample: Option<PatchMerging>,
    index: usize,
}

impl Stage {
    pub(super) fn new(config: &HtsAtConfig, index: usize, vb: VarBuilder<'_>) -> Result<Self> {
        // One table of offsets serves all blocks of a stage.
        let window = config.stage_window(index);
        let pairs = Tensor::from_vec(clap_nn::relative_position_index(window), window.pow(4), vb.device())?;
        let blocks = (0..config.depths[index])
            .map(|j| Block::new(config, (index, j), &pairs, vb.pp("blocks").pp(j)))
            .collect::<Result<Vec<_>>>()?;
        let last = index + 1 == config.depths.len();
        let downsample = match last {
            true => None,
            false => Some(PatchMerging::new(config, index, vb.pp("downsample"))?),
        };
        Ok(Self { blocks, downsample, index })
    }

    /// `(B, side², C)` → `(B, (side/2)², 2C)`, or the same shape in the last stage.
    pub(super) fn forward_t(&self, xs: Tensor, mode: &mut Mode, taps: &mut Taps<'_>) -> Result<Tensor> {
        let i = self.index;
        let mut xs = xs;
        for (j, block) in self.blocks.iter().enumerate() {
            xs = if taps.are_watched() {
                block.forward_t(&xs, mode, (i, j), taps)?
            } else {
                let block = block.clone();
                checkpoint(&xs, mode, move |xs, mode| block.forward_t(xs, mode, (i, j), &mut Taps::none()))?
            };
            taps.see(format_args!("s{i}b{j}"), &xs);
        }
        if let Some(downsample) = &self.downsample {
            xs = downsample.forward(&xs)?;
        }
        taps.see(format_args!("stage{i}"), &xs);
        Ok(xs)
    }
}

/// Pre-norm window attention and feed-forward, each with a residual.
#[derive(Clone, Debug)]
struct Block {
    norm1: LayerNorm,
    qkv: Qkv,
    bias: RelativeBias,
    proj: Linear,
    norm2: LayerNorm,
    fc1: Linear,
    act: Activation,
    fc2: Linear,
    geometry: WindowGeometry,
    drop_path: f32,
}

impl Block {
    /// `pairs` is the stage's [`clap_nn::relative_position_index`].
    fn new(config: &HtsAtConfig, (stage, block): (usize, usize), pairs: &Tensor, vb: VarBuilder<'_>) -> Result<Self> {
        let c = config.stage_width(stage);
        let hidden = config.stage_hidden(stage);
        let (side, window) = (config.stage_side(stage), config.stage_window(stage));
        // A window that covers its stage has nowhere to shift to.
        let shifted = block % 2 == 1 && side > config.window_size;
        let heads = config.num_attention_heads[stage];
        // Stochastic depth rises linearly over all blocks of the tower: linspace(0, rate, blocks).
        let before: usize = config.depths[..stage].iter().sum();
        let blocks: usize = config.depths.iter().sum();
        let drop_path = config.drop_path_rate * (before + block) as f64 / (blocks.max(2) - 1) as f64;
        let attention = vb.pp("attention");
        let init = normal(config.initializer_range);
        Ok(Self {
            norm1: LayerNorm::new(c, config.layer_norm_eps, vb.pp("layernorm_before"))?,
            qkv: Qkv::new(c, config.qkv_bias, init, attention.pp("self"))?,
            bias: RelativeBias::new((window, heads), pairs, init, attention.pp("self"))?,
            proj: Linear::new(c, c, init, attention.pp("output").pp("dense"))?,
            norm2: LayerNorm::new(c, config.layer_norm_eps, vb.pp("layernorm_after"))?,
            fc1: Linear::new(c, hidden, init, vb.pp("intermediate").pp("dense"))?,
            act: config.hidden_act,
            fc2: Linear::new(hidden, c, init, vb.pp("output").pp("dense"))?,
            geometry: WindowGeometry {
                height: side,
                width: side,
                window,
                shift: if shifted { config.window_size / 2 } else { 0 },
                heads,
            },
            drop_path: drop_path as f32,
        })
    }

    fn forward_t(&self, xs: &Tensor, mode: &mut Mode, at: (usize, usize), taps: &mut Taps<'_>) -> Result<Tensor> {
        let (qkv, bias) = (self.qkv.join()?, self.bias.forward()?);
        let xs = if taps.are_watched() {
            let ys = window_attention(&qkv.forward(&self.norm1.forward(xs)?)?, &bias, &self.geometry)?; // (B, side², C)
            let ys = self.proj.forward(&ys)?;
            taps.see(format_args!("s{}b{}.attn", at.0, at.1), &ys);
            residual(xs, &ys, self.drop_path, mode)?
        } else {
            // The same, without the branch's output ever being whole.
            window_attention_block(xs, &self.norm1, (&qkv, &bias, &self.proj), &self.geometry, self.drop_path, mode)?
        };
        feed_forward_block(&xs, &self.norm2, (&self.fc1, self.act, &self.fc2), self.drop_path, mode) // (B, side², C)
    }
}

/// Query, key and value: three tensors in the file, one matrix product here.
#[derive(Clone, Debug)]
enum Qkv {
    /// Joined once; what inference holds.
    Joined(Linear),
    /// Variables are joined at each step, so that each of them receives its gradient.
    Separate {
        /// `(C, C)` of query, key, value.
        weights: [Tensor; 3],
        /// `(C)` of query, key, value.
        biases: Option<[Tensor; 3]>,
    },
}

impl Qkv {
    fn new(c: usize, bias: bool, init: Init, vb: VarBuilder<'_>) -> Result<Self> {
        let get = |name: &str| vb.pp(name).get_with_hints((c, c), "weight", init);
        let weights = [get("query")?, get("key")?, get("value")?];
        let get = |name: &str| vb.pp(name).get_with_hints(c, "bias", Init::Const(0.0));
        let biases = match bias {
            true => Some([get("query")?, get("key")?, get("value")?]),
            false => None,
        };
        let joinable = weights.iter().chain(biases.iter().flatten()).all(is_constant);
        let separate = Self::Separate { weights, biases };
        if joinable { Ok(Self::Joined(separate.join()?)) } else { Ok(separate) }
    }

    /// `(3C, C)`.
    fn join(&self) -> Result<Linear> {
        match self {
            Self::Joined(linear) => Ok(linear.clone()),
            Self::Separate { weights, biases } => {
                let bias = biases.as_ref().map(|b| Tensor::cat(b, 0)).transpose()?; // (3C)
                Ok(Linear::from_parts(Tensor::cat(weights, 0)?, bias)) // (3C, C)
            }
        }
    }
}

/// True where what is made of a weight may be made once: not of a variable, and not of one zero seen through a shape, as a file's
/// missing weight is, of whatever size a wrong configuration asks for.
fn is_constant(weight: &Tensor) -> bool {
    !weight.is_variable() && weight.is_contiguous()
}

/// Relative position bias of a window: a table with one row per offset, spread over pairs of tokens.
#[derive(Clone, Debug)]
struct RelativeBias {
    table: Tensor,
    index: Tensor,
    /// Spread once, where the table is no variable.
    spread: Option<Tensor>,
}

impl RelativeBias {
    fn new((window, heads): (usize, usize), pairs: &Tensor, init: Init, vb: VarBuilder<'_>) -> Result<Self> {
        let offsets = 2 * window - 1;
        let table = vb.get_with_hints((offsets * offsets, heads), "relative_position_bias_table", init)?;
        let mut bias = Self { table, index: pairs.clone(), spread: None };
        if is_constant(&bias.table) {
            bias.spread = Some(bias.forward()?);
        }
        Ok(bias)
    }

    /// `(heads, window², window²)`.
    fn forward(&self) -> Result<Tensor> {
        match &self.spread {
            Some(spread) => Ok(spread.clone()),
            None => relative_position_bias(&self.table, &self.index),
        }
    }
}

/// Four neighbouring tokens become one of twice the width.
#[derive(Debug)]
struct PatchMerging {
    norm: LayerNorm,
    reduction: Linear,
    side: usize,
}

impl PatchMerging {
    fn new(config: &HtsAtConfig, stage: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let c = config.stage_width(stage);
        let init = normal(config.initializer_range);
        Ok(Self {
            norm: LayerNorm::new(4 * c, LAYER_NORM_EPS, vb.pp("norm"))?,
            reduction: Linear::new_no_bias(4 * c, 2 * c, init, vb.pp("reduction"))?,
            side: config.stage_side(stage),
        })
    }

    /// `(B, side², C)` → `(B, (side/2)², 2C)`.
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let xs = merge_patches(xs, self.side, self.side)?; // (B, (side/2)², 4C)
        self.reduction.forward(&self.norm.forward(&xs)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device, Var};
    use std::collections::HashMap;

    #[test]
    fn joined_and_separate_projections_agree() {
        let dev = Device::Cpu;
        let mut tensors = HashMap::new();
        for name in ["query", "key", "value"] {
            tensors.insert(format!("{name}.weight"), Tensor::randn(0f32, 1., (6, 6), &dev).unwrap());
            tensors.insert(format!("{name}.bias"), Tensor::randn(0f32, 1., 6, &dev).unwrap());
        }
        let vars: HashMap<_, _> =
            tensors.iter().map(|(k, v)| (k.clone(), Var::from_tensor(v).unwrap().into_inner())).collect();
        let load =
            |tensors| Qkv::new(6, true, normal(0.02), VarBuilder::from_tensors(tensors, DType::F32, &dev)).unwrap();
        let (joined, separate) = (load(tensors), load(vars));
        assert!(matches!(joined, Qkv::Joined(_)) && matches!(separate, Qkv::Separate { .. }));
        let xs = Tensor::randn(0f32, 1., (2, 5, 6), &dev).unwrap();
        let [a, b] = [joined, separate].map(|projection| projection.join().unwrap().forward(&xs).unwrap());
        let difference = (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert_eq!(difference, 0.0);
    }
}
