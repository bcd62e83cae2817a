//! Audio towers: log-mel views to one vector per clip.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use clap_nn::Mode;

use crate::config::AudioConfig;
use crate::htsat::HtsAt;
use crate::pann::Pann;
use crate::tagging::AudioTags;
use crate::taps::Taps;

/// The audio tower that a configuration names.
#[derive(Debug)]
pub enum AudioTower {
    /// The hierarchical transformer of every published CLAP.
    HtsAt(HtsAt),
    /// A convolutional network.
    Pann(Pann),
}

impl AudioTower {
    /// `vb` stands at `audio_model.audio_encoder`; `config` is a validated one.
    ///
    /// # Errors
    /// Where a weight is missing or of another shape.
    pub fn new(config: &AudioConfig, vb: VarBuilder<'_>) -> Result<Self> {
        Ok(match config {
            AudioConfig::HtsAt(config) => Self::HtsAt(HtsAt::new(config, vb)?),
            AudioConfig::Pann(config) => Self::Pann(Pann::new(config, vb)?),
        })
    }

    /// Log-mel views `(B, 1 | 4, frames, mel bins)` → embedding `(B, hidden_size)`.
    ///
    /// `is_longer` has one flag per clip and is consulted by fused models alone: the local views of a clip that is not
    /// longer are left out, so that its embedding does not depend on the rest of the batch. In training a fused batch
    /// without a longer clip lets chance pick one, as LAION's program does.
    ///
    /// # Errors
    /// Where the shape is not the model's.
    pub fn forward_t(&self, xs: &Tensor, is_longer: &[bool], mode: &mut Mode) -> Result<Tensor> {
        self.forward_with(xs, is_longer, mode, &mut Taps::none())
    }

    /// [`AudioTower::forward_t`], showing each intermediate to `taps`.
    ///
    /// # Errors
    /// As [`AudioTower::forward_t`].
    pub fn forward_with(
        &self,
        xs: &Tensor,
        is_longer: &[bool],
        mode: &mut Mode,
        taps: &mut Taps<'_>,
    ) -> Result<Tensor> {
        match self {
            Self::HtsAt(tower) => tower.forward_with(xs, is_longer, mode, taps),
            Self::Pann(tower) => tower.forward_with(xs, is_longer, mode, taps),
        }
    }

    /// As [`AudioTower::forward_t`], with the outputs along time and those of the tagging head, which the tower has where its
    /// configuration says `enable_tagging`.
    ///
    /// # Errors
    /// As [`AudioTower::forward_t`], or where the tower's sizes leave no steps of time apart.
    pub fn tag(&self, xs: &Tensor, is_longer: &[bool], mode: &mut Mode) -> Result<AudioTags> {
        match self {
            Self::HtsAt(tower) => tower.tag(xs, is_longer, mode),
            Self::Pann(tower) => tower.tag(xs, is_longer, mode),
        }
    }
}
