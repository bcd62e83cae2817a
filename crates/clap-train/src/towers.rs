//! The model's two ways into the joint space, as a run trains them: whole, or with a tower that nothing is learnt in.

use std::sync::Arc;

use candle_core::Tensor;
use clap_encoders::{ClapModel, Result};
use clap_nn::Mode;

use crate::groups::Frozen;

/// A model of which some towers are frozen. Behind their outputs no graph is kept, so they cost a forward pass alone.
#[derive(Clone, Debug)]
pub(crate) struct Towers {
    /// The model.
    pub(crate) model: Arc<ClapModel>,
    /// Which of its towers do not train.
    pub(crate) frozen: Frozen,
}

impl Towers {
    /// Log-mel views `(B, 1 | 4, frames, bins)` → L2-normalised embeddings `(B, D)`.
    pub(crate) fn audio(&self, input_features: &Tensor, is_longer: &[bool], mode: &mut Mode) -> Result<Tensor> {
        if !self.frozen.audio {
            return self.model.audio_embeds_t(input_features, is_longer, mode);
        }
        let hidden = self.model.audio_hidden_t(input_features, is_longer, &mut Mode::eval())?;
        self.model.audio_joint(&hidden.detach())
    }

    /// Token ids and mask `(B, T)` → L2-normalised embeddings `(B, D)`.
    pub(crate) fn text(&self, input_ids: &Tensor, attention_mask: &Tensor, mode: &mut Mode) -> Result<Tensor> {
        if !self.frozen.text {
            return self.model.text_embeds_t(input_ids, attention_mask, mode);
        }
        let hidden = self.model.text_hidden_t(input_ids, attention_mask, mode)?;
        self.model.text_joint(&hidden.detach())
    }
}
