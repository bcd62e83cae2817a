//! From a log-mel spectrogram to the square image that the patches are cut from.
//!
//! Source: laion-clap 1.1.7 `htsat.py`, `reshape_wav2img`; transformers `ClapAudioEncoder.reshape_mel2img`.

use std::sync::{Mutex, PoisonError};

use candle_core::{Result, Tensor, bail};

use crate::config::HtsAtConfig;

/// Stretches the time axis to the image's number of frames and folds it into strips.
#[derive(Debug)]
pub(super) struct MelImage {
    bins: usize,
    strips: usize,
    /// Frames of the image; a shorter input is stretched to it.
    frames: usize,
    /// The stretching matrix `(frames, input frames)` of the last input length: clips of one front end agree on it.
    stretch: Mutex<Option<Tensor>>,
}

impl MelImage {
    pub(super) fn new(config: &HtsAtConfig) -> Self {
        Self {
            bins: config.num_mel_bins,
            strips: config.strips(),
            frames: config.image_frames(),
            stretch: Mutex::new(None),
        }
    }

    /// `(B, views, bins, frames)` → `(B, views, spec, spec)`.
    ///
    /// Rows of the image are (strip, mel bin), columns are frames within a strip:
    /// `image[r · bins + f, t] = mel[f, r · spec + t]`.
    pub(super) fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let (b, views, bins, frames) = xs.dims4()?;
        if bins != self.bins || frames > self.frames || frames == 0 {
            bail!(
                "the audio tower takes 1 to {} frames of {} mel bins, not {frames} frames of {bins}",
                self.frames,
                self.bins
            )
        }
        let xs = if frames < self.frames {
            clap_nn::linear(xs, &self.stretch(frames, xs)?, None)? // (B, views, bins, image frames)
        } else {
            xs.clone()
        };
        let side = self.frames / self.strips;
        xs.reshape((b, views, bins, self.strips, side))?
            .transpose(2, 3)? // (B, views, strips, bins, side)
            .reshape((b, views, self.strips * bins, side))
    }

    /// Bicubic interpolation (`align_corners`) along time as one matrix, which also gives it a gradient.
    fn stretch(&self, frames: usize, like: &Tensor) -> Result<Tensor> {
        // A poisoned lock guards a whole tensor or none: both are usable.
        let mut cached = self.stretch.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(matrix) = cached.as_ref()
            && matrix.dims() == [self.frames, frames]
            && matrix.dtype() == like.dtype()
            && matrix.device().same_device(like.device())
        {
            return Ok(matrix.clone());
        }
        let matrix = clap_nn::bicubic_matrix(frames, self.frames);
        let matrix = Tensor::from_vec(matrix, (self.frames, frames), like.device())?.to_dtype(like.dtype())?;
        *cached = Some(matrix.clone());
        Ok(matrix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn image(spec: usize, bins: usize) -> MelImage {
        MelImage::new(&HtsAtConfig { spec_size: spec, num_mel_bins: bins, ..HtsAtConfig::default() })
    }

    #[test]
    fn strips_are_stacked_on_the_frequency_axis() {
        // spec 4, 2 bins: 8 frames in 2 strips.
        let xs = Tensor::arange(0f32, 16., &Device::Cpu).unwrap().reshape((1, 1, 2, 8)).unwrap();
        let ys = image(4, 2).forward(&xs).unwrap().squeeze(0).unwrap().squeeze(0).unwrap();
        let ys: Vec<Vec<f32>> = ys.to_vec2().unwrap();
        assert_eq!(ys[0], [0., 1., 2., 3.]); // strip 0, bin 0
        assert_eq!(ys[1], [8., 9., 10., 11.]); // strip 0, bin 1
        assert_eq!(ys[2], [4., 5., 6., 7.]); // strip 1, bin 0
        assert_eq!(ys[3], [12., 13., 14., 15.]);
    }

    #[test]
    fn a_short_input_is_stretched_and_keeps_its_ends() {
        let xs = Tensor::arange(0f32, 7., &Device::Cpu).unwrap().reshape((1, 1, 1, 7)).unwrap();
        let ys = image(4, 1).forward(&xs.broadcast_as((2, 3, 1, 7)).unwrap()).unwrap();
        assert_eq!(ys.dims(), [2, 3, 4, 4]);
        let ys = ys.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(ys[0].abs() < 1e-6 && (ys[15] - 6.).abs() < 1e-5, "{ys:?}");
    }

    #[test]
    fn other_shapes_are_refused() {
        let image = image(4, 2);
        for shape in [(1, 1, 3, 8), (1, 1, 2, 9), (1, 1, 2, 0)] {
            let xs = Tensor::zeros(shape, candle_core::DType::F32, &Device::Cpu).unwrap();
            assert!(image.forward(&xs).is_err(), "{shape:?}");
        }
    }
}
