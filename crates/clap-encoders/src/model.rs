//! The whole model: two towers, two projections, two temperatures.
//!
//! Source: transformers 4.57.6 `ClapModel` (weight and method names); laion-clap 1.1.7 `model.py` (`CLAP`).

use candle_core::{D, DType, Result, Tensor};
use candle_nn::{Init, VarBuilder};
use clap_nn::{Mode, l2_normalize, widened};

use crate::audio_tower::AudioTower;
use crate::config::ClapConfig;
use crate::error::Result as ClapResult;
use crate::projection::Projection;
use crate::taps::Taps;
use crate::text::TextTower;
use crate::transform::Transform;

/// Below this length an embedding is not scaled up (torch's `F.normalize`).
const NORMALIZE_EPS: f64 = 1e-12;

/// Contrastive language-audio model.
#[derive(Debug)]
pub struct ClapModel {
    audio_model: AudioTower,
    audio_projection: Projection,
    text_model: TextTower,
    text_projection: Projection,
    transforms: Option<Transforms>,
    logit_scale_a: Tensor,
    logit_scale_t: Tensor,
    logit_bias: Option<Tensor>,
    dtype: DType,
}

/// The heads of the MLP loss.
#[derive(Debug)]
struct Transforms {
    audio: Transform,
    text: Transform,
}

impl ClapModel {
    /// `vb` stands at the root; its paths are the keys of a Hugging Face CLAP checkpoint.
    ///
    /// # Errors
    /// Where the configuration describes no model, or a weight is missing or of another shape.
    pub fn new(config: &ClapConfig, vb: VarBuilder<'_>) -> ClapResult<Self> {
        config.validate()?;
        Ok(Self::build(config, vb)?)
    }

    fn build(config: &ClapConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let projection =
            |width, name| Projection::new(width, config.projection_dim, config.projection_hidden_act, vb.pp(name));
        let transform = |name| Transform::new(config.projection_dim, config.mlp_dropout, vb.pp(name));
        let transforms = match config.mlp_loss {
            true => Some(Transforms { audio: transform("audio_transform")?, text: transform("text_transform")? }),
            false => None,
        };
        let scale = |name| vb.get_with_hints((), name, Init::Const(config.logit_scale_init_value.ln()));
        Ok(Self {
            audio_model: AudioTower::new(&config.audio_config, vb.pp("audio_model").pp("audio_encoder"))?,
            audio_projection: projection(config.audio_config.hidden_size(), "audio_projection")?,
            text_model: TextTower::new(&config.text_config, vb.pp("text_model"))?,
            text_projection: projection(config.text_config.hidden_size, "text_projection")?,
            transforms,
            logit_scale_a: scale("logit_scale_a")?,
            logit_scale_t: scale("logit_scale_t")?,
            logit_bias: match config.logit_bias_init_value {
                Some(bias) => Some(vb.get_with_hints((), "logit_bias", Init::Const(bias))?),
                None => None,
            },
            dtype: vb.dtype(),
        })
    }

    /// The audio tower alone.
    #[must_use]
    pub fn audio_model(&self) -> &AudioTower {
        &self.audio_model
    }

    /// The audio tower's way into the joint space.
    #[must_use]
    pub fn audio_projection(&self) -> &Projection {
        &self.audio_projection
    }

    /// The text tower alone.
    #[must_use]
    pub fn text_model(&self) -> &TextTower {
        &self.text_model
    }

    /// The text tower's way into the joint space.
    #[must_use]
    pub fn text_projection(&self) -> &Projection {
        &self.text_projection
    }

    /// The audio side's second head, where the model was made for LAION's MLP loss (`mlp_loss` of its configuration).
    #[must_use]
    pub fn audio_transform(&self) -> Option<&Transform> {
        Some(&self.transforms.as_ref()?.audio)
    }

    /// The text side's second head, as [`ClapModel::audio_transform`].
    #[must_use]
    pub fn text_transform(&self) -> Option<&Transform> {
        Some(&self.transforms.as_ref()?.text)
    }

    /// Log-mel views `(B, 1 | 4, frames, mel bins)` → L2-normalised embeddings `(B, projection_dim)`, for inference.
    ///
    /// `is_longer` has one flag per clip; models without fusion ignore it, and it may be empty for them.
    ///
    /// # Errors
    /// Where the shape is not the model's.
    pub fn get_audio_features(&self, input_features: &Tensor, is_longer: &[bool]) -> ClapResult<Tensor> {
        self.audio_embeds_t(input_features, is_longer, &mut Mode::eval())
    }

    /// Token ids and mask, each `(B, T)` → L2-normalised embeddings `(B, projection_dim)`, for inference.
    ///
    /// # Errors
    /// Where an id lies outside the vocabulary or a text is too long.
    pub fn get_text_features(&self, input_ids: &Tensor, attention_mask: &Tensor) -> ClapResult<Tensor> {
        self.text_embeds_t(input_ids, attention_mask, &mut Mode::eval())
    }

    /// As [`ClapModel::get_audio_features`], differentiable, in training or evaluation.
    ///
    /// # Errors
    /// As there.
    pub fn audio_embeds_t(&self, input_features: &Tensor, is_longer: &[bool], mode: &mut Mode) -> ClapResult<Tensor> {
        self.audio_embeds_with(input_features, is_longer, mode, &mut Taps::none())
    }

    /// As [`ClapModel::audio_embeds_t`], showing each intermediate of the tower to `taps`, and then `projection`.
    ///
    /// # Errors
    /// As there.
    pub fn audio_embeds_with(
        &self,
        input_features: &Tensor,
        is_longer: &[bool],
        mode: &mut Mode,
        taps: &mut Taps<'_>,
    ) -> ClapResult<Tensor> {
        let xs = self.audio_hidden_with(input_features, is_longer, mode, taps)?;
        joint(&self.audio_projection, &xs, taps)
    }

    /// What the audio tower alone makes of log-mel views: `(B, hidden size)`.
    ///
    /// # Errors
    /// As [`ClapModel::get_audio_features`].
    pub fn audio_hidden_t(&self, input_features: &Tensor, is_longer: &[bool], mode: &mut Mode) -> ClapResult<Tensor> {
        self.audio_hidden_with(input_features, is_longer, mode, &mut Taps::none())
    }

    fn audio_hidden_with(
        &self,
        input_features: &Tensor,
        is_longer: &[bool],
        mode: &mut Mode,
        taps: &mut Taps<'_>,
    ) -> ClapResult<Tensor> {
        // Decibels reach the tower whole; it narrows them once its batch norm has centred them.
        let xs = input_features.to_dtype(widened(self.dtype))?;
        Ok(self.audio_model.forward_with(&xs, is_longer, mode, taps)?)
    }

    /// [`ClapModel::audio_hidden_t`]'s `(B, hidden size)` → L2-normalised embeddings `(B, projection_dim)`.
    ///
    /// # Errors
    /// Where the width differs.
    pub fn audio_joint(&self, hidden: &Tensor) -> ClapResult<Tensor> {
        joint(&self.audio_projection, hidden, &mut Taps::none())
    }

    /// What LAION's probes are trained on: the embedding before it is normalised, `(B, projection_dim)`, for inference.
    ///
    /// # Errors
    /// As [`ClapModel::get_audio_features`].
    pub fn audio_projected(&self, input_features: &Tensor, is_longer: &[bool]) -> ClapResult<Tensor> {
        self.audio_projected_t(input_features, is_longer, &mut Mode::eval())
    }

    /// As [`ClapModel::audio_projected`], differentiable, in training or evaluation.
    ///
    /// # Errors
    /// As there.
    pub fn audio_projected_t(
        &self,
        input_features: &Tensor,
        is_longer: &[bool],
        mode: &mut Mode,
    ) -> ClapResult<Tensor> {
        Ok(self.audio_projection.forward(&self.audio_hidden_t(input_features, is_longer, mode)?)?)
    }

    /// Rows divided by their lengths: what makes an embedding of [`ClapModel::audio_projected`].
    ///
    /// # Errors
    /// Outside a bug, none.
    pub fn normalized(projected: &Tensor) -> ClapResult<Tensor> {
        Ok(l2_normalize(projected, NORMALIZE_EPS)?)
    }

    /// As [`ClapModel::get_text_features`], differentiable, in training or evaluation.
    ///
    /// # Errors
    /// As there.
    pub fn text_embeds_t(&self, input_ids: &Tensor, attention_mask: &Tensor, mode: &mut Mode) -> ClapResult<Tensor> {
        self.text_embeds_with(input_ids, attention_mask, mode, &mut Taps::none())
    }

    /// As [`ClapModel::text_embeds_t`], showing each intermediate of the tower to `taps`, and then `projection`.
    ///
    /// # Errors
    /// As there.
    pub fn text_embeds_with(
        &self,
        input_ids: &Tensor,
        attention_mask: &Tensor,
        mode: &mut Mode,
        taps: &mut Taps<'_>,
    ) -> ClapResult<Tensor> {
        let xs = self.text_model.forward_with(input_ids, attention_mask, mode, taps)?;
        joint(&self.text_projection, &xs, taps)
    }

    /// What the text tower alone makes of token ids and mask: `(B, hidden size)`.
    ///
    /// # Errors
    /// As [`ClapModel::get_text_features`].
    pub fn text_hidden_t(&self, input_ids: &Tensor, attention_mask: &Tensor, mode: &mut Mode) -> ClapResult<Tensor> {
        Ok(self.text_model.forward_with(input_ids, attention_mask, mode, &mut Taps::none())?)
    }

    /// [`ClapModel::text_hidden_t`]'s `(B, hidden size)` → L2-normalised embeddings `(B, projection_dim)`.
    ///
    /// # Errors
    /// Where the width differs.
    pub fn text_joint(&self, hidden: &Tensor) -> ClapResult<Tensor> {
        joint(&self.text_projection, hidden, &mut Taps::none())
    }

    /// Logarithm of the temperature of the audio-to-text logits, a scalar; the only one that LAION's loss trains.
    #[must_use]
    pub fn logit_scale_a(&self) -> &Tensor {
        &self.logit_scale_a
    }

    /// Logarithm of the temperature of the text-to-audio logits, a scalar.
    #[must_use]
    pub fn logit_scale_t(&self) -> &Tensor {
        &self.logit_scale_t
    }

    /// Bias of the logits, a scalar, where the model was made for the sigmoid loss (`logit_bias_init_value` of its configuration). It
    /// moves all logits alike, so it decides no ranking.
    #[must_use]
    pub fn logit_bias(&self) -> Option<&Tensor> {
        self.logit_bias.as_ref()
    }

    /// `exp(logit_scale_a) · A · Tᵀ` of normalised embeddings `(A, D)` and `(T, D)` → `(A, T)`.
    ///
    /// # Errors
    /// Where the widths differ.
    pub fn logits_per_audio(&self, audio_embeds: &Tensor, text_embeds: &Tensor) -> ClapResult<Tensor> {
        Ok(logits(&self.logit_scale_a, audio_embeds, text_embeds)?)
    }

    /// `exp(logit_scale_t) · T · Aᵀ` → `(T, A)`, as `transformers` has it; LAION's program scales both directions by
    /// `logit_scale_a`, which is the transpose of [`ClapModel::logits_per_audio`].
    ///
    /// # Errors
    /// Where the widths differ.
    pub fn logits_per_text(&self, audio_embeds: &Tensor, text_embeds: &Tensor) -> ClapResult<Tensor> {
        Ok(logits(&self.logit_scale_t, text_embeds, audio_embeds)?)
    }
}

/// A tower's output in the joint space, normalised.
fn joint(projection: &Projection, hidden: &Tensor, taps: &mut Taps<'_>) -> ClapResult<Tensor> {
    let xs = projection.forward(hidden)?;
    taps.see(format_args!("projection"), &xs);
    ClapModel::normalized(&xs)
}

fn logits(scale: &Tensor, rows: &Tensor, columns: &Tensor) -> Result<Tensor> {
    rows.matmul(&columns.transpose(D::Minus2, D::Minus1)?)?.broadcast_mul(&scale.exp()?)
}
