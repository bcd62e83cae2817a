//! A run before it is one: steps on a few of its clips, from which its memory and its time are reckoned.

use std::time::Instant;

use clap_data::LoaderConfig;
use clap_nn::Mode;

use crate::collate::{Batch, Item};
use crate::error::{Error, Result};
use crate::peak_memory;
use crate::setup::Setup;
use crate::train_data::loader_config;

/// What a run would be. Times and memory are reckoned along a line through two measurements.
#[derive(Clone, Debug)]
pub struct DryRun {
    /// Shape of a batch's log-mel views, `(B, views, frames, bins)`.
    pub input_features: [usize; 4],
    /// Tokens of the longest text that was tried; a batch is as long as its longest.
    pub tokens: usize,
    /// Clips of a step.
    pub clips_per_step: usize,
    /// Scalars that train.
    pub trained: usize,
    /// Scalars that do not.
    pub frozen: usize,
    /// Clips of the greater of the two steps that were tried.
    pub tried: usize,
    /// Of one step, the wait for its data left out.
    pub seconds_per_step: f64,
    /// Most memory of training in bytes, without the cache of decoded clips, where the system tells.
    pub training_bytes: Option<u64>,
    /// The same of an evaluation, by `eval.batch_size`; nothing without validation.
    pub evaluation_bytes: Option<u64>,
}

/// Clips of the two steps that are measured.
const FEW: usize = 2;
const MORE: usize = 4;

/// Time and peak memory of one size.
#[derive(Clone, Copy, Debug)]
struct Measured {
    seconds: f64,
    bytes: Option<u64>,
}

impl Setup {
    /// Reads the first clips of the run and takes steps on them with a learning rate of zero. Weights stay; running statistics do not, so
    /// that the setup is of no other use afterwards.
    ///
    /// # Errors
    /// What the first step of the run would fail with.
    pub fn dry_run(&mut self) -> Result<DryRun> {
        clap_nn::set_matmul_precision(self.matmul_precision);
        let batch_size = self.config.data.batch_size;
        let more = MORE.min(batch_size);
        let items = self.first_items(more)?;
        let batch = self.batch(items.clone())?;
        let (_, views, frames, bins) = batch.input_features.dims4()?;

        self.measure_step(&items[..FEW])?; // the first one allocates
        let (few, all) = (self.measure_step(&items[..FEW])?, self.measure_step(&items)?);
        let clips_per_step = batch_size * self.config.optim.accumulate;
        let in_flight = self.config.optim.micro_batch_size.unwrap_or(batch_size).min(batch_size);
        // What waits in the queue, and the batch itself.
        let queued = (clips_per_step * (self.config.data.prefetch + 1) * views * frames * bins * 4) as u64;
        let evaluation_bytes = match &self.validation {
            None => None,
            Some(_) => {
                let (few, all) = (self.measure_evaluation(&items[..FEW])?, self.measure_evaluation(&items)?);
                line(few.bytes, all.bytes, more, self.config.eval.batch_size)
            }
        };
        let trained = self.optimizer.vars().map(|var| var.elem_count()).sum();
        Ok(DryRun {
            input_features: [batch_size, views, frames, bins],
            tokens: batch.input_ids.dim(1)?,
            clips_per_step,
            trained,
            frozen: self.vars.trainable_elements() - trained,
            tried: more,
            seconds_per_step: along(few.seconds, all.seconds, more, clips_per_step),
            training_bytes: line(few.bytes, all.bytes, more, in_flight).map(|bytes| bytes + queued),
            evaluation_bytes,
        })
    }

    /// The first clips of the first epoch that can be read, over again if there are fewer.
    fn first_items(&self, count: usize) -> Result<Vec<Item>> {
        let config = LoaderConfig { batch_size: count, prefetch: 1, ..loader_config(&self.config, &self.ranks, 0) };
        let (mut items, mut failed) = (Vec::new(), Vec::new());
        for batch in self.train.loader(config, self.collate.clone())? {
            items.extend(batch.items);
            failed.extend(batch.failed);
            if items.len() >= count {
                break;
            }
        }
        match failed.into_iter().next() {
            Some(failed) if self.config.data.strict || items.is_empty() => {
                return Err(Error::BadClip { what: failed.what, reason: failed.reason });
            }
            _ => {}
        }
        if items.is_empty() {
            return Err(Error::NothingTrained { clips: self.train.clips(), skipped: 0 });
        }
        Ok(items.iter().cycle().take(count).cloned().collect())
    }

    fn batch(&self, items: Vec<Item>) -> Result<Batch> {
        Batch::new(items, &self.extractor, &self.tokenizer, self.max_tokens, &self.device)
    }

    fn measure_step(&mut self, items: &[Item]) -> Result<Measured> {
        measure(|| {
            let gradient = self.gradient(items.to_vec(), 0, 0)?;
            self.optimizer.step(&gradient.grads, 0.0)?;
            Ok(())
        })
    }

    fn measure_evaluation(&self, items: &[Item]) -> Result<Measured> {
        let (model, batch) = (self.inference_model()?, self.batch(items.to_vec())?);
        measure(|| {
            let audio = model.audio_embeds_t(&batch.input_features, &batch.is_longer, &mut Mode::eval())?;
            let text = model.text_embeds_t(&batch.input_ids, &batch.attention_mask, &mut Mode::eval())?;
            audio.matmul(&text.t()?)?.device().synchronize()?;
            Ok(())
        })
    }
}

fn measure(work: impl FnOnce() -> Result<()>) -> Result<Measured> {
    peak_memory::reset();
    let started = Instant::now();
    work()?;
    Ok(Measured { seconds: started.elapsed().as_secs_f64(), bytes: peak_memory::read() })
}

/// What `clips` clips take, if `FEW` take `few` and `more` take `all`: never less than was seen.
fn along(few: f64, all: f64, more: usize, clips: usize) -> f64 {
    if more <= FEW {
        return few * clips as f64 / FEW as f64;
    }
    let slope = ((all - few) / (more - FEW) as f64).max(0.0);
    (few + slope * (clips as f64 - FEW as f64)).max(few)
}

fn line(few: Option<u64>, all: Option<u64>, more: usize, clips: usize) -> Option<u64> {
    Some(along(few? as f64, all? as f64, more, clips) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_sizes_make_a_line() {
        assert_eq!(along(3.0, 5.0, 4, 10), 11.0);
        assert_eq!(along(3.0, 5.0, 4, 4), 5.0);
        assert_eq!(along(3.0, 2.9, 4, 10), 3.0, "noise is no gain");
        assert_eq!(along(3.0, 3.0, 2, 4), 6.0);
    }
}
