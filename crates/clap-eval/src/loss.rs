//! The contrastive loss over a whole split, without its matrix: `cumulative_loss` of LAION-CLAP's evaluation.

use candle_core::Tensor;
use rayon::prelude::*;

use crate::error::Result;
use crate::ranks::Targets;
use crate::similarity::{Embeddings, rows_per_block};

/// Symmetric cross-entropy over all clips and captions of a split, the scores being `logit_scale · audio · textᵀ`.
///
/// With one caption per clip this is LAION-CLAP's `cumulative_loss` (`get_metrics`), with five that of
/// `evaluate_clotho_audiocaps`: text to audio, the mean over captions of the cross-entropy over clips; audio to text, the
/// mean over caption slots `d` of the cross-entropy over the `d`-th caption of every clip; then the mean of both. A clip with
/// fewer captions than another starts over with its first. Clips without captions are left out.
///
/// Not to be compared between splits of different sizes, nor with a training loss: it grows with the number of rivals.
///
/// # Errors
/// As [`retrieval`](crate::retrieval).
pub fn contrastive_loss(audio: &Tensor, text: &Tensor, caption_of: &[usize], logit_scale: f64) -> Result<f64> {
    let clips = audio.dims().first().copied().unwrap_or(0);
    let captions = Targets::captions(caption_of, clips)?;
    let captioned: Vec<usize> = (0..clips).filter(|&c| !captions.of(c).is_empty()).collect();
    let slots = captioned.iter().map(|&c| captions.of(c).len()).max().unwrap_or(0);
    let (audio, text) = (Embeddings::new("audio", audio)?, Embeddings::new("text", text)?);

    let mut text_to_audio = 0.0;
    text.for_each_block(&audio, rows_per_block(audio.rows), |first, scores| {
        text_to_audio += scores
            .par_chunks_exact(audio.rows)
            .enumerate()
            .map(|(i, row)| cross_entropy(captioned.iter().map(|&c| row[c]), row[caption_of[first + i]], logit_scale))
            .collect::<Vec<f64>>()
            .iter()
            .sum::<f64>();
        Ok(())
    })?;

    let mut audio_to_text = 0.0;
    audio.for_each_block(&text, rows_per_block(text.rows), |first, scores| {
        let of_row = |(i, row): (usize, &[f32])| -> f64 {
            if captions.of(first + i).is_empty() {
                return 0.0;
            }
            let of_slot = |d: usize| {
                let caption = |clip: usize| captions.of(clip)[d % captions.of(clip).len()];
                let rivals = captioned.iter().map(|&c| row[caption(c)]);
                cross_entropy(rivals, row[caption(first + i)], logit_scale)
            };
            (0..slots).map(of_slot).sum()
        };
        // Summed in order: the result does not depend on the number of threads.
        audio_to_text +=
            scores.par_chunks_exact(text.rows).enumerate().map(of_row).collect::<Vec<f64>>().iter().sum::<f64>();
        Ok(())
    })?;

    let text_to_audio = text_to_audio / text.rows as f64;
    let audio_to_text = audio_to_text / (captioned.len() * slots) as f64;
    Ok((text_to_audio + audio_to_text) / 2.0)
}

/// `log Σ exp(scale · score) - scale · target`, in `f64` about the greatest score.
fn cross_entropy(scores: impl Iterator<Item = f32> + Clone, target: f32, scale: f64) -> f64 {
    let greatest = scores.clone().map(|s| f64::from(s) * scale).fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = scores.map(|s| (f64::from(s) * scale - greatest).exp()).sum();
    greatest + sum.ln() - f64::from(target) * scale
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn equal_scores_give_the_logarithm_of_the_rivals() {
        let audio = Tensor::ones((4, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
        let loss = contrastive_loss(&audio, &audio, &[0, 1, 2, 3], 5.0).unwrap();
        assert!((loss - 4f64.ln()).abs() < 1e-9, "{loss}");
        let twice = Tensor::ones((8, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
        let loss = contrastive_loss(&audio, &twice, &[0, 1, 2, 3, 3, 2, 1, 0], 5.0).unwrap();
        assert!((loss - 4f64.ln()).abs() < 1e-9, "{loss}");
    }

    #[test]
    fn great_scales_do_not_overflow() {
        let eye = Tensor::new(&[[1f32, 0.0], [0.0, 1.0]], &Device::Cpu).unwrap();
        assert!(contrastive_loss(&eye, &eye, &[0, 1], 1e4).unwrap().abs() < 1e-9);
        let wrong = contrastive_loss(&eye, &eye, &[1, 0], 1e4).unwrap();
        assert!((wrong - 1e4).abs() < 1e-6, "{wrong}");
    }

    #[test]
    fn a_clip_without_captions_is_no_rival() {
        let audio = Tensor::ones((3, 2), candle_core::DType::F32, &Device::Cpu).unwrap();
        let text = Tensor::ones((2, 2), candle_core::DType::F32, &Device::Cpu).unwrap();
        let loss = contrastive_loss(&audio, &text, &[0, 2], 1.0).unwrap();
        assert!((loss - 2f64.ln()).abs() < 1e-9, "{loss}");
    }
}
