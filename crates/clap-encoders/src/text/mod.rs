//! Text towers: token ids to one vector per text.

mod bart;
mod bert;
mod clip;
mod layer;
mod rows;

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
    /// Where an id lies outside the vocabulary, a text has no token or more than the position table, or the shapes differ.
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
        if ids.dim(1)? == 0 {
            bail!("input_ids {:?} are texts without any token", ids.shape())
        }
        match self {
            Self::Bert(tower) => tower.forward_with(ids, mask, mode, taps),
            Self::Clip(tower) => tower.forward_with(ids, mode, taps),
            Self::Bart(tower) => tower.forward_with(ids, mask, mode, taps),
        }
    }
}

/// The ids of all texts, one text after the other, each of them below `vocabulary`.
fn token_ids(ids: &Tensor, vocabulary: usize) -> Result<Vec<u32>> {
    let ids = ids.to_dtype(DType::U32)?.flatten_all()?.to_vec1::<u32>()?;
    match ids.iter().find(|&&id| id as usize >= vocabulary) {
        None => Ok(ids),
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

#[cfg(test)]
mod tests {
    use candle_core::{Device, backprop::GradStore};

    use super::*;

    const ALL: [TextModelType; 4] =
        [TextModelType::Roberta, TextModelType::Bert, TextModelType::Clip, TextModelType::Bart];

    fn tower(model_type: TextModelType) -> (clap_nn::Vars, TextTower) {
        let config = TextConfig {
            model_type,
            vocab_size: 20,
            hidden_size: 12,
            num_hidden_layers: 2,
            num_attention_heads: 3,
            intermediate_size: 10,
            max_position_embeddings: 9,
            context_length: 7,
            ..TextConfig::default()
        };
        let (vars, vb) = clap_nn::init::seeded_vars(3, &Device::Cpu, DType::F32);
        (vars, TextTower::new(&config, vb).unwrap())
    }

    /// The embeddings of ids and masks, and the gradients of a sum that weighs all their elements differently.
    fn run(tower: &TextTower, texts: &[[(u32, u32); 6]], taps: &mut Taps<'_>) -> (Tensor, GradStore) {
        let tensor = |value: fn(&(u32, u32)) -> u32| {
            let values: Vec<u32> = texts.iter().flatten().map(value).collect();
            Tensor::from_vec(values, (texts.len(), 6), &Device::Cpu).unwrap()
        };
        let ys = tower.forward_with(&tensor(|text| text.0), &tensor(|text| text.1), &mut Mode::eval(), taps).unwrap();
        let weights =
            (Tensor::arange(0f32, ys.elem_count() as f32, &Device::Cpu).unwrap() * 0.7).unwrap().sin().unwrap();
        let sum = (ys.flatten_all().unwrap() * weights).unwrap().sum_all().unwrap();
        (ys.detach(), sum.backward().unwrap())
    }

    fn gap(a: &Tensor, b: &Tensor) -> f32 {
        (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
    }

    /// An observer makes a tower compute its padding: embeddings and gradients are the same with and without.
    #[test]
    fn work_on_padding_changes_nothing() {
        let full = [(0, 1), (3, 1), (4, 1), (5, 1), (6, 1), (2, 1)];
        let short = [(0, 1), (7, 1), (2, 1), (1, 0), (1, 0), (1, 0)];
        let one = [(2, 1), (1, 0), (1, 0), (1, 0), (1, 0), (1, 0)];
        let holes = [(0, 1), (3, 0), (4, 1), (1, 0), (6, 1), (2, 0)];
        let late = [(1, 0), (1, 0), (0, 1), (5, 1), (6, 1), (2, 1)];
        let nothing = [(1, 0); 6];
        for model_type in ALL {
            let (vars, tower) = tower(model_type);
            for texts in [&[full, short, one, holes][..], &[full, full], &[one], &[short, late], &[nothing, full]] {
                let (ys, grads) = run(&tower, texts, &mut Taps::none());
                let mut observer = |_: &str, _: &Tensor| {};
                let (expected, expected_grads) = run(&tower, texts, &mut Taps::new(&mut observer));
                assert!(gap(&ys, &expected) < 1e-5, "{model_type:?} {texts:?}: {}", gap(&ys, &expected));
                for (name, var) in vars.trainable() {
                    let (Some(grad), Some(expected)) = (grads.get(&var), expected_grads.get(&var)) else {
                        panic!("{model_type:?}: {name} has no gradient")
                    };
                    assert!(gap(grad, expected) < 2e-5, "{model_type:?} {texts:?} {name}: {}", gap(grad, expected));
                }
            }
        }
    }

    #[test]
    fn texts_without_tokens_are_errors() {
        let none = Tensor::zeros((2, 0), DType::U32, &Device::Cpu).unwrap();
        for model_type in ALL {
            let result = tower(model_type).1.forward_t(&none, &none, &mut Mode::eval());
            assert!(result.unwrap_err().to_string().contains("without any token"));
        }
    }
}
