//! Gradient caching: the exact gradient of a large contrastive batch in the memory of a small one (Gao et al., "Scaling Deep
//! Contrastive Learning Batch Size under Memory Limited Setup", arXiv 2101.06983).
//!
//! The towers see the batch micro-batch by micro-batch, and of each only the embeddings are kept. The loss compares the embeddings
//! of the whole batch; in its backward pass each micro-batch goes through the towers once more and its activations are gone before
//! the next. That is activation checkpointing ([`clap_nn::checkpoint()`]) with a whole tower as the block, so a step costs a second
//! forward pass.
//!
//! What a layer draws, it draws again: the second pass begins with the generator as it was. Masks are drawn for each micro-batch, so
//! with dropout the numbers are another, equally likely draw than those without caching. The batch norm at the input of a tower, the
//! only one of HTS-AT without attentional fusion, normalises by the whole batch and its gradient is exact; batch norms further in
//! (PANNs, attentional fusion) see a micro-batch, as they see their share of the batch in a run on several devices. Running
//! statistics move in the first pass only.

use candle_core::Tensor;
use clap_nn::{InputMoments, Mode, checkpoint};

use crate::collate::Batch;
use crate::distributed::Ranks;
use crate::error::Result;
use crate::towers::Towers;

/// Embeddings `(B, D)` of the clips and of the texts, made `micro_batch` at a time. `mode` has to carry the
/// [`clap_nn::Checkpoints`] that the step goes backward by.
pub(crate) fn embeddings(
    towers: &Towers,
    batch: &Batch,
    micro_batch: usize,
    ranks: &Ranks,
    mode: &mut Mode,
) -> Result<(Tensor, Tensor)> {
    let clips = batch.is_longer.len();
    let mut moments = InputMoments::of(&batch.input_features)?;
    if let Some(ranks) = ranks.collective() {
        moments = moments.over(&**ranks)?;
    }
    let (mut audio, mut text) = (Vec::new(), Vec::new());
    for start in (0..clips).step_by(micro_batch.max(1)) {
        let count = micro_batch.max(1).min(clips - start);
        // A frozen tower asks for none.
        if !towers.frozen.audio {
            mode.give_input_moments(if start == 0 { moments.clone() } else { moments.seen() });
        }
        let (towers, is_longer) = (towers.clone(), batch.is_longer[start..start + count].to_vec());
        let features = batch.input_features.narrow(0, start, count)?;
        audio.push(checkpoint(&features, mode, move |xs, mode| {
            towers.audio(xs, &is_longer, mode).map_err(candle_core::Error::wrap)
        })?);
    }
    for start in (0..clips).step_by(micro_batch.max(1)) {
        let count = micro_batch.max(1).min(clips - start);
        let (towers, mask) = (towers.clone(), batch.attention_mask.narrow(0, start, count)?);
        let ids = batch.input_ids.narrow(0, start, count)?;
        text.push(checkpoint(&ids, mode, move |ids, mode| {
            towers.text(ids, &mask, mode).map_err(candle_core::Error::wrap)
        })?);
    }
    Ok((Tensor::cat(&audio, 0)?, Tensor::cat(&text, 0)?))
}
