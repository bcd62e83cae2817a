//! Differentiable layers of the audio and text towers, on candle tensors.
//!
//! Every layer has two forms that a test holds together in value and gradient:
//!
//! * `*_composed`: plain candle operations; the definition, for any device and float type;
//! * a fused CPU path in `f32`: one [`candle_core::CustomOp1`]-style operation with a forward and a backward of its own,
//!   multi-threaded, with the instruction set chosen at run time.
//!
//! The plain function or layer picks the form by itself. candle's own `LayerNorm` and `softmax_last_dim` have no backward and
//! detach the graph without a word, so nothing here uses them.
//!
//! Results of the fused forms do not depend on the number of threads: work is cut by the sizes of the tensors alone and
//! partial sums are added in order.

#![cfg_attr(test, expect(clippy::unwrap_used, reason = "tests"))]

pub mod activated_linear;
pub mod activation;
pub mod add_norm;
pub mod attention;
pub mod batch_norm;
pub mod checkpoint;
pub mod collective;
pub mod conv;
mod cpu;
pub mod dropout;
pub mod embedding;
pub mod feed_forward_block;
pub mod gate;
pub mod info_nce;
pub mod init;
mod input_moments;
pub mod layer_norm;
pub mod linear;
pub mod mode;
pub mod normalize;
pub mod patch;
pub mod pool;
mod precision;
pub mod resize;
pub mod rows;
pub mod sequences;
pub mod softmax;
pub mod vars;
pub mod window;
pub mod window_attention;
pub mod window_attention_block;

#[cfg(test)]
mod determinism;
#[cfg(test)]
mod twin;

pub use activated_linear::activated_linear;
pub use activation::{Activation, gelu};
pub use add_norm::add_norm;
pub use attention::{AttentionMask, attention};
pub use batch_norm::BatchNorm;
pub use checkpoint::{Checkpoints, checkpoint};
pub use collective::{Collective, gather_rows, sum_numbers, sum_over_ranks};
pub use conv::{Conv2d, ConvBnRelu, ConvGeometry};
pub use dropout::{drop_path, dropout, residual};
pub use embedding::Embedding;
pub use feed_forward_block::feed_forward_block;
pub use gate::gated_sum;
pub use info_nce::{info_nce, weighted_info_nce};
pub use input_moments::InputMoments;
pub use layer_norm::{LayerNorm, layer_norm};
pub use linear::{Linear, linear};
pub use mode::Mode;
pub use normalize::l2_normalize;
pub use patch::{PatchConv, merge_patches};
pub use pool::avg_pool_2x2;
pub use precision::{MatmulPrecision, has_bf16_products, matmul_precision, set_matmul_precision, widened};
pub use resize::bicubic_matrix;
pub use rows::{add_rows, mean_rows};
pub use sequences::Sequences;
pub use softmax::softmax_last_dim;
pub use vars::{Vars, is_foreign_buffer, is_trainable};
pub use window::{WindowGeometry, relative_position_bias, relative_position_index};
pub use window_attention::window_attention;
pub use window_attention_block::window_attention_block;
