//! The gradient of one step: forward, loss, backward.

use candle_core::Var;
use candle_core::backprop::GradStore;
use clap_nn::{Checkpoints, Mode};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::collate::{Batch, Item};
use crate::error::{Error, Result};
use crate::grad_cache;
use crate::groups::Frozen;
use crate::lora::Lora;
use crate::loss::{Embeddings, Objective};
use crate::setup::Setup;
use crate::towers::Towers;

/// What a step learns from.
#[derive(Debug)]
pub struct Gradient {
    /// Of the parameters that train.
    pub grads: GradStore,
    /// Mean of the losses of the step's batches.
    pub loss: f64,
    /// The factor `exp(logit_scale_a)` that they were made with.
    pub logit_scale: f64,
}

impl Setup {
    /// Towers that do not train in `epoch`.
    fn frozen_in(&self, epoch: u64) -> Frozen {
        let late = self.config.optim.freeze_text_after.is_some_and(|after| epoch >= after);
        Frozen { text: self.frozen.text || late, ..self.frozen }
    }

    /// The gradient of step `step` of `epoch` (both from 0) for its clips: the mean over batches of `data.batch_size`, each with a loss of
    /// its own. A rest of one clip, which has nothing to be told apart from, is left out. Of several ranks each calls this with as many
    /// clips, and has the gradient of all.
    ///
    /// # Errors
    /// [`Error::Diverged`] where a loss is no number, or where a tower or the device fails.
    pub fn gradient(&self, items: Vec<Item>, step: u64, epoch: u64) -> Result<Gradient> {
        let towers = Towers { model: self.model.clone(), frozen: self.frozen_in(epoch) };
        let wanted: Vec<&Var> = self.optimizer.vars().chain(self.lora.iter().flat_map(Lora::weights)).collect();
        let checkpoints = Checkpoints::of(wanted.iter().copied());
        let mut mode = Mode::train(step_rng(self.config.seed, step, self.ranks.rank()));
        if let Some(ranks) = self.ranks.collective() {
            mode = mode.across(ranks);
        }
        if self.config.checkpoint_blocks || self.micro_batch_size().is_some() {
            mode = mode.checkpointed(&checkpoints);
        }
        let batches = batches(items, self.config.data.batch_size, self.fewest());
        let count = batches.len() as f64;
        let (mut total, mut loss_value) = (GradStore::default(), 0.0);
        for batch in batches {
            let mut batch = Batch::new(batch, &self.extractor, &self.tokenizer, self.max_tokens, &self.device)?;
            if self.clap_config.audio_config.fusion().is_some() {
                flag_one(&mut batch.is_longer, &mut mode);
            }
            let embeddings = self.ranks.gather(self.embeddings(&towers, &batch, &mut mode)?)?;
            let loss = (self.loss.of(&embeddings, &self.model)? / count)?;
            let value = f64::from(loss.to_scalar::<f32>()?);
            if !value.is_finite() {
                return Err(Error::Diverged { step, what: "loss", value });
            }
            loss_value += value;
            let grads = checkpoints.backward(&loss)?;
            let mut own = GradStore::default();
            for var in &wanted {
                if let Some(grad) = grads.get(var) {
                    own.insert(var, grad.clone());
                }
            }
            total.extend(own)?;
        }
        if let Some(lora) = &self.lora {
            lora.lead_on(&mut total)?;
        }
        let total = self.ranks.reduce(total, &self.optimizer)?;
        let logit_scale = f64::from(self.model.logit_scale_a().exp()?.to_scalar::<f32>()?);
        Ok(Gradient { grads: total, loss: loss_value, logit_scale })
    }

    /// Clips without which a rank's batch is no batch: all ranks' are told apart.
    pub(crate) fn fewest(&self) -> usize {
        if self.ranks.world() > 1 { 1 } else { 2 }
    }

    /// Clips that go through the towers at a time, where a batch has more.
    fn micro_batch_size(&self) -> Option<usize> {
        self.config.optim.micro_batch_size.filter(|size| *size < self.config.data.batch_size)
    }

    /// What the loss compares, `(B, D)` each.
    fn embeddings(&self, towers: &Towers, batch: &Batch, mode: &mut Mode) -> Result<Embeddings> {
        let (audio, text) = match self.micro_batch_size() {
            Some(size) => grad_cache::embeddings(towers, batch, size, &self.ranks, mode)?,
            None => (
                towers.audio(&batch.input_features, &batch.is_longer, mode)?,
                towers.text(&batch.input_ids, &batch.attention_mask, mode)?,
            ),
        };
        let heads = (self.model.audio_transform(), self.model.text_transform());
        let transformed = match (self.loss.objective, heads) {
            (Objective::Mlp, (Some(a), Some(t))) => Some((a.forward_t(&audio, mode)?, t.forward_t(&text, mode)?)),
            _ => None,
        };
        Ok(Embeddings { audio, text, transformed })
    }
}

/// Items in batches of `size`, the last one shorter, but not shorter than `fewest`.
fn batches(items: Vec<Item>, size: usize, fewest: usize) -> Vec<Vec<Item>> {
    let mut items = items.into_iter();
    let mut batches = Vec::new();
    loop {
        let batch: Vec<Item> = items.by_ref().take(size).collect();
        if batch.len() < fewest {
            return batches;
        }
        batches.push(batch);
    }
}

/// Where no clip is longer than the window, one of them drawn at random passes for one, so that the fusion of views learns from every batch
/// (LAION-CLAP 1.1.7, `htsat.py`, in training).
fn flag_one(is_longer: &mut [bool], mode: &mut Mode) {
    if !is_longer.contains(&true)
        && let Some(rng) = mode.rng()
    {
        let drawn = rng.random_range(0..is_longer.len());
        is_longer[drawn] = true;
    }
}

/// The generator of one step's dropout on one rank: a function of seed, step and rank, so that nothing has to be saved to continue.
fn step_rng(seed: u64, step: u64, rank: usize) -> ChaCha8Rng {
    /// Keeps the seeds of ranks apart from the seeds that people give.
    const APART: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut rng = ChaCha8Rng::seed_from_u64(seed.wrapping_add(APART.wrapping_mul(rank as u64)));
    rng.set_stream(step);
    rng
}

#[cfg(test)]
mod tests {
    use rand::RngCore;

    use super::*;

    #[test]
    fn steps_draw_differently_and_repeatably() {
        let draw = |seed, step| step_rng(seed, step, 0).next_u64();
        assert_ne!(draw(1, 5), step_rng(1, 5, 1).next_u64());
        assert_eq!(draw(1, 5), draw(1, 5));
        assert_ne!(draw(1, 5), draw(1, 6));
        assert_ne!(draw(1, 5), draw(2, 5));
    }

    #[test]
    fn a_batch_without_longer_clips_gets_one() {
        let flagged = |seed| {
            let mut flags = [false; 8];
            flag_one(&mut flags, &mut Mode::train(step_rng(seed, 0, 0)));
            flags
        };
        assert!((0..9).all(|seed| flagged(seed).iter().filter(|flag| **flag).count() == 1));
        assert!((1..9).any(|seed| flagged(seed) != flagged(0)));
        let mut flags = [false, true, true];
        flag_one(&mut flags, &mut Mode::train(step_rng(0, 0, 0)));
        assert_eq!(flags, [false, true, true]);
    }
}
