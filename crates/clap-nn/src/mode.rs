//! Whether a forward pass trains, and where its randomness comes from.

use std::sync::Arc;

use rand::RngCore;
use rand_chacha::ChaCha8Rng;

use crate::{Checkpoints, Collective, InputMoments};

/// Evaluation or training; training carries the generator that dropout and drop path draw from.
#[derive(Clone, Debug)]
pub struct Mode {
    rng: Option<ChaCha8Rng>,
    /// Where the second passes of checkpointed blocks leave their gradients.
    checkpoints: Option<Checkpoints>,
    /// The second pass of a checkpointed block.
    is_replay: bool,
    /// What the first batch norm normalises by, in the place of the statistics of its own input.
    input_moments: Option<InputMoments>,
    /// The processes whose batches are one batch to batch norms.
    ranks: Option<Arc<dyn Collective>>,
}

impl Mode {
    /// Inference: no dropout, running statistics in batch norms, no randomness.
    pub fn eval() -> Self {
        Self { rng: None, checkpoints: None, is_replay: false, input_moments: None, ranks: None }
    }

    /// Training: dropout and drop path are active and draw from `rng`; batch norms use and update batch statistics.
    pub fn train(rng: ChaCha8Rng) -> Self {
        Self { rng: Some(rng), ..Self::eval() }
    }

    /// The same with blocks that keep their input alone; see [`crate::checkpoint()`]. The step's gradients are then those of
    /// [`Checkpoints::backward`].
    pub fn checkpointed(self, checkpoints: &Checkpoints) -> Self {
        Self { checkpoints: Some(checkpoints.clone()), ..self }
    }

    /// The same with batch norms that have the statistics of the batches of all ranks: synchronised batch norm.
    pub fn across(self, ranks: &Arc<dyn Collective>) -> Self {
        Self { ranks: Some(Arc::clone(ranks)), ..self }
    }

    pub(crate) fn ranks(&self) -> Option<&Arc<dyn Collective>> {
        self.ranks.as_ref()
    }

    /// Where a checkpointed block leaves its gradients, and the mode of its second pass.
    pub(crate) fn checkpoints(&self) -> Option<(Checkpoints, Self)> {
        let checkpoints = self.checkpoints.clone()?;
        Some((checkpoints, Self { checkpoints: None, is_replay: true, ..self.clone() }))
    }

    /// Gives the batch norm that comes next in training, and no other, the statistics of the whole batch of which it is
    /// shown a part.
    pub fn give_input_moments(&mut self, moments: InputMoments) {
        self.input_moments = Some(moments);
    }

    pub(crate) fn take_input_moments(&mut self) -> Option<InputMoments> {
        self.input_moments.take()
    }

    /// Whether running statistics have seen this batch already.
    pub(crate) fn is_replay(&self) -> bool {
        self.is_replay
    }

    /// True in training.
    pub fn is_train(&self) -> bool {
        self.rng.is_some()
    }

    /// The generator of a training pass.
    pub fn rng(&mut self) -> Option<&mut ChaCha8Rng> {
        self.rng.as_mut()
    }

    /// A fresh key for one random mask, or `None` in evaluation or when the rate `p` leaves nothing to draw.
    pub(crate) fn mask_key(&mut self, p: f32) -> Option<u64> {
        if p > 0.0 { self.rng.as_mut().map(RngCore::next_u64) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn keys_are_drawn_in_training_only() {
        assert_eq!(Mode::eval().mask_key(0.5), None);
        let mut mode = Mode::train(ChaCha8Rng::seed_from_u64(1));
        assert_eq!(mode.mask_key(0.0), None);
        let (a, b) = (mode.mask_key(0.5).unwrap(), mode.mask_key(0.5).unwrap());
        assert_ne!(a, b);
        let mut again = Mode::train(ChaCha8Rng::seed_from_u64(1));
        assert_eq!(again.mask_key(0.5), Some(a));
    }
}
