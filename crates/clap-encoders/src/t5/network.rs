//! The network: an encoder that reads a prompt, and a decoder that is asked for one token after another.
//!
//! Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer" (arXiv 1910.10683).
//! Source: transformers 4.57.6 `T5ForConditionalGeneration`. candle-transformers 0.11.1 has a T5 as well, which cannot be used
//! here: its encoder takes no padding mask, its decoder sorts distances as the encoder does (another bias from the eighth token
//! on), a tied output layer is scaled by `√d_model` instead of its inverse (the same greatest logit, other probabilities), and
//! its cache of keys and values can neither follow a beam to another row nor be kept for the prompt.

use candle_core::{D, DType, Result, Tensor};
use candle_nn::VarBuilder;
use clap_nn::init::normal;
use clap_nn::{Embedding, Linear, linear};

use super::config::T5Config;
use super::layer::{Attention, FeedForward, KeysValues, Norm};
use super::position::{Direction, PositionBias};

/// A T5 with its output layer, for inference in `f32`.
#[derive(Debug)]
pub(crate) struct Network {
    shared: Embedding,
    encoder: Encoder,
    decoder: Decoder,
    /// `None` where the embedding is the output layer too.
    head: Option<Linear>,
    /// Factor of the last hidden states.
    scale: f64,
}

impl Network {
    /// `vb` stands at the root of the checkpoint; `config` is a validated one.
    pub(crate) fn new(config: &T5Config, vb: VarBuilder<'_>) -> Result<Self> {
        let (rows, width) = (config.vocab_size, config.d_model);
        let head = match config.tie_word_embeddings {
            true => None,
            false => Some(Linear::new_no_bias(width, rows, normal(0.02), vb.pp("lm_head"))?),
        };
        Ok(Self {
            shared: Embedding::new(rows, width, normal(1.0), vb.pp("shared"))?,
            encoder: Encoder::new(config, vb.pp("encoder"))?,
            decoder: Decoder::new(config, vb.pp("decoder"))?,
            scale: if head.is_none() { (width as f64).powf(-0.5) } else { 1.0 },
            head,
        })
    }

    /// Rows of the embedding: ids lie below.
    pub(crate) fn vocab_size(&self) -> usize {
        self.shared.weight().dims()[0]
    }

    /// Reads prompts, ids and mask `(prompts, tokens)`, and makes ready to write `beams` texts for each.
    pub(crate) fn read(&self, ids: &Tensor, mask: &Tensor, beams: usize) -> Result<Writing> {
        let (prompts, tokens) = ids.dims2()?;
        // As transformers does: what is masked stays a number, so that a row of padding alone is no NaN.
        let mask = mask.to_dtype(DType::F32)?.affine(f64::from(f32::MAX), -f64::from(f32::MAX))?;
        let mask = mask.reshape((prompts, 1, 1, tokens))?;
        let hidden = self.encoder.forward(&self.shared.forward(ids)?, &mask)?; // (prompts, tokens, d_model)
        let blocks = self.decoder.blocks.iter();
        let prompt = blocks.map(|block| block.cross.keys_values(&hidden)).collect::<Result<_>>()?;
        Ok(Writing { beams, length: 0, mask, prompt, written: vec![None; self.decoder.blocks.len()] })
    }

    /// Takes the last token of every text, `prompts · beams` of them, and gives the logits of the next, `(texts, vocab_size)`.
    pub(crate) fn write(&self, tokens: &[u32], writing: &mut Writing) -> Result<Tensor> {
        let ids = Tensor::new(tokens, self.shared.weight().device())?;
        let xs = self.decoder.forward(&self.shared.forward(&ids)?.unsqueeze(1)?, writing)?; // (texts, 1, d_model)
        let xs = (xs.squeeze(1)? * self.scale)?; // (texts, d_model)
        match &self.head {
            Some(head) => head.forward(&xs),
            None => linear(&xs, self.shared.weight(), None),
        }
    }
}

/// What the decoder knows of the texts it writes: `texts = prompts · beams`, those of one prompt side by side.
pub(crate) struct Writing {
    beams: usize,
    /// Tokens written of each text, the one that starts it included.
    length: usize,
    /// What is added to the scores over the prompt, `(prompts, 1, 1, tokens)`.
    mask: Tensor,
    /// Keys and values of the prompt, by block: once for all beams of a prompt.
    prompt: Vec<KeysValues>,
    /// Keys and values of the tokens written, by block: of each text.
    written: Vec<Option<KeysValues>>,
}

impl Writing {
    /// Goes on with the given prompts and, for each of their beams in turn, the given text: both are numbers from before.
    pub(crate) fn select(&mut self, prompts: &[u32], texts: &[u32]) -> Result<()> {
        let device = self.mask.device().clone();
        if prompts.len() != self.mask.dims()[0] {
            let prompts = Tensor::new(prompts, &device)?;
            self.mask = self.mask.index_select(&prompts, 0)?;
            self.prompt = self.prompt.iter().map(|there| there.select(&prompts)).collect::<Result<_>>()?;
        }
        let rows = Tensor::new(texts, &device)?;
        for written in self.written.iter_mut().flatten() {
            *written = written.select(&rows)?;
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Encoder {
    blocks: Vec<EncoderBlock>,
    position: PositionBias,
    norm: Norm,
}

#[derive(Debug)]
struct EncoderBlock {
    norm: Norm,
    attention: Attention,
    feed_forward_norm: Norm,
    feed_forward: FeedForward,
}

impl Encoder {
    fn new(config: &T5Config, vb: VarBuilder<'_>) -> Result<Self> {
        let block = |i: usize| {
            let vb = vb.pp("block").pp(i).pp("layer");
            Ok(EncoderBlock {
                norm: Norm::new(config, vb.pp(0).pp("layer_norm"))?,
                attention: Attention::new(config, vb.pp(0).pp("SelfAttention"))?,
                feed_forward_norm: Norm::new(config, vb.pp(1).pp("layer_norm"))?,
                feed_forward: FeedForward::new(config, vb.pp(1).pp("DenseReluDense"))?,
            })
        };
        Ok(Self {
            blocks: (0..config.num_layers).map(block).collect::<Result<_>>()?,
            position: PositionBias::new(config, Direction::Both, vb.pp("block.0.layer.0.SelfAttention"))?,
            norm: Norm::new(config, vb.pp("final_layer_norm"))?,
        })
    }

    /// Embeddings `(prompts, tokens, d_model)` and mask `(prompts, 1, 1, tokens)` → hidden states of the embeddings' shape.
    fn forward(&self, xs: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let tokens = xs.dim(1)?;
        let bias = self.position.forward(0..tokens, tokens)?.broadcast_add(mask)?; // (prompts, heads, tokens, tokens)
        let mut xs = xs.clone();
        for block in &self.blocks {
            let ys = block.norm.forward(&xs)?;
            xs = (xs + block.attention.forward(&ys, &block.attention.keys_values(&ys)?, &bias)?)?;
            xs = (&xs + block.feed_forward.forward(&block.feed_forward_norm.forward(&xs)?)?)?;
        }
        self.norm.forward(&xs)
    }
}

#[derive(Debug)]
struct Decoder {
    blocks: Vec<DecoderBlock>,
    position: PositionBias,
    norm: Norm,
}

#[derive(Debug)]
struct DecoderBlock {
    norm: Norm,
    attention: Attention,
    cross_norm: Norm,
    cross: Attention,
    feed_forward_norm: Norm,
    feed_forward: FeedForward,
}

impl Decoder {
    fn new(config: &T5Config, vb: VarBuilder<'_>) -> Result<Self> {
        let block = |i: usize| {
            let vb = vb.pp("block").pp(i).pp("layer");
            Ok(DecoderBlock {
                norm: Norm::new(config, vb.pp(0).pp("layer_norm"))?,
                attention: Attention::new(config, vb.pp(0).pp("SelfAttention"))?,
                cross_norm: Norm::new(config, vb.pp(1).pp("layer_norm"))?,
                cross: Attention::new(config, vb.pp(1).pp("EncDecAttention"))?,
                feed_forward_norm: Norm::new(config, vb.pp(2).pp("layer_norm"))?,
                feed_forward: FeedForward::new(config, vb.pp(2).pp("DenseReluDense"))?,
            })
        };
        Ok(Self {
            blocks: (0..config.decoder_layers()).map(block).collect::<Result<_>>()?,
            position: PositionBias::new(config, Direction::Back, vb.pp("block.0.layer.0.SelfAttention"))?,
            norm: Norm::new(config, vb.pp("final_layer_norm"))?,
        })
    }

    /// Embeddings of one token of each text, `(texts, 1, d_model)` → hidden states of that shape.
    fn forward(&self, xs: &Tensor, writing: &mut Writing) -> Result<Tensor> {
        let (texts, _, width) = xs.dims3()?;
        let (now, beams) = (writing.length, writing.beams);
        writing.length += 1;
        let bias = self.position.forward(now..now + 1, now + 1)?; // (1, heads, 1, tokens)
        let mut xs = xs.clone();
        for (i, block) in self.blocks.iter().enumerate() {
            let ys = block.norm.forward(&xs)?;
            let own = block.attention.keys_values(&ys)?;
            let own = match &writing.written[i] {
                Some(before) => before.then(&own)?,
                None => own,
            };
            xs = (xs + block.attention.forward(&ys, &own, &bias)?)?;
            writing.written[i] = Some(own);

            // The beams of a prompt look at it together: as many queries of one row.
            let ys = block.cross_norm.forward(&xs)?.reshape((texts / beams, beams, width))?;
            let ys = block.cross.forward(&ys, &writing.prompt[i], &writing.mask)?;
            xs = (xs + ys.reshape((texts, 1, width))?)?;
            xs = (&xs + block.feed_forward.forward(&block.feed_forward_norm.forward(&xs)?)?)?;
        }
        self.norm.forward(&xs)
    }
}

/// The logarithm of the softmax over the last dimension, row by row, on the host.
pub(crate) fn log_softmax(logits: &Tensor) -> Result<Vec<Vec<f32>>> {
    candle_nn::ops::log_softmax(&logits.to_dtype(DType::F32)?, D::Minus1)?.to_vec2()
}
