//! Text towers: token ids to one vector per text.

mod bart;
mod bert;
mod clip;
mod layer;

use candle_core::{DType, Result, Tensor, bail};
use candle_nn::VarBuilder;
use clap_nn::Mode;

pub use bart::{BART_POSITION_OFFSET, BartEncoder};
pub use bert::Bert;
pub use clip::ClipText;

use crate::config::{TextConfig, TextModelType};
use crate::taps::Taps;

/// The text tower that a configuration names.
#[derive(Debug)]
pub enum TextTower {
    /// BERT and RoBERTa.
    Bert(Bert),
    /// CLIP's causal transformer.
    Clip(ClipText),
    /// The encoder of BART.
    Bart(BartEncoder),
}

impl TextTower {
    /// `vb` stands at `text_model`; `config` is a validated one.
    ///
    /// # Errors
    /// Where a weight is missing or of another shape.
    pub fn new(config: &TextConfig, vb: VarBuilder<'_>) -> Result<Self> {
        Ok(match config.model_type {
            TextModelType::Roberta | TextModelType::Bert => Self::Bert(Bert::new(config, vb)?),
            TextModelType::Clip => Self::Clip(ClipText::new(config, vb)?),
            TextModelType::Bart => Self::Bart(BartEncoder::new(config, vb)?),
        })
    }

    /// Token ids `(B, T)` and their mask `(B, T)` (1 for a token, 0 for padding) → pooled embedding `(B, hidden_size)`.
    ///
    /// # Errors
    /// Where an id lies outside the vocabulary, a text is longer than the position table, or the shapes differ.
    pub fn forward_t(&self, ids: &Tensor, mask: &Tensor, mode: &mut Mode) -> Result<Tensor> {
        self.forward_with(ids, mask, mode, &mut Taps::none())
    }

    /// [`TextTower::forward_t`], showing each intermediate to `taps`.
    ///
    /// # Errors
    /// As [`TextTower::forward_t`].
    pub fn forward_with(&self, ids: &Tensor, mask: &Tensor, mode: &mut Mode, taps: &mut Taps<'_>) -> Result<Tensor> {
        if ids.dims2()? != mask.dims2()? {
            bail!("input_ids {:?} and attention_mask {:?} differ in shape", ids.shape(), mask.shape())
        }
        match self {
            Self::Bert(tower) => tower.forward_with(ids, mask, mode, taps),
            Self::Clip(tower) => tower.forward_with(ids, mode, taps),
            Self::Bart(tower) => tower.forward_with(ids, mask, mode, taps),
        }
    }
}

/// The ids of each text, all of them below `vocabulary`.
fn token_rows(ids: &Tensor, vocabulary: usize) -> Result<Vec<Vec<u32>>> {
    let rows = ids.to_dtype(DType::U32)?.to_vec2::<u32>()?;
    match rows.iter().flatten().find(|&&id| id as usize >= vocabulary) {
        None => Ok(rows),
        Some(id) => {
            bail!("token id {id} lies outside the vocabulary of {vocabulary}; is the tokenizer the model's?")
        }
    }
}

/// A text of `tokens` tokens fits into a table of `positions`.
fn check_length(tokens: usize, positions: usize) -> Result<()> {
    if tokens > positions {
        bail!("a text has {tokens} tokens, the model numbers {positions} at most; truncate it")
    }
    Ok(())
}
