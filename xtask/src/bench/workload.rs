//! A case as something that runs: random weights and inputs, made once.

use std::collections::HashMap;

use anyhow::bail;
use candle_core::{DType, Device, Tensor};
use clap_audio::{FeatureConfig, FeatureExtractor, LongAudio, Preset, Truncation, Waveform};
use clap_encoders::checkpoint::Checkpoint;
use clap_encoders::{AudioConfig, ClapConfig, ClapModel, TextConfig};
use clap_nn::init::seeded_vars;
use clap_nn::{Checkpoints, MatmulPrecision, Mode, set_matmul_precision};
use clap_train::loss::contrastive;
use clap_train::{Optimizer, OptimizerConfig};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::case::{CONTEXT, Case, Input, Precision, Texts};
use super::loader;
use super::peak;
use super::towers::{no_audio_tower, no_text_tower};

/// Runs a case once.
pub(super) type Workload = Box<dyn FnMut() -> anyhow::Result<()>>;

const RATE: u32 = 48_000;
const SECONDS: usize = 10;
/// Log-mel frames of a clip.
pub(super) const FRAMES: usize = 1001;

/// Weights and inputs of a case.
pub(super) fn workload(case: &Case) -> anyhow::Result<Workload> {
    match case {
        Case::Audio { tower, input, clips, precision } => audio(tower, *input, *clips, *precision),
        Case::Text { tower, texts, precision } => text(tower, *texts, *precision),
        Case::Training { audio, text, pairs, precision, checkpointed } => {
            training(audio, text, *pairs, *precision, *checkpointed)
        }
        Case::Adam { audio, text, fused } => adam(audio, text, *fused),
        Case::Loader { reading, set, workers } => loader::workload(*reading, set, *workers),
        Case::Product { size } => product(*size),
        Case::MultiplyAdds => Ok(Box::new(|| {
            peak::multiply_adds();
            Ok(())
        })),
    }
}

fn audio(tower: &AudioConfig, input: Input, clips: usize, precision: Precision) -> anyhow::Result<Workload> {
    let config = config(tower.clone(), no_text_tower());
    let model = model(&config, precision)?;
    let is_longer = vec![true; clips];
    Ok(match input {
        Input::Wave => {
            let (front_end, waves) = (front_end()?, waves(clips));
            Box::new(move || {
                model.get_audio_features(&front_end(&waves)?, &is_longer)?;
                Ok(())
            })
        }
        Input::Mel => {
            // Decibels.
            let xs = noise(&[clips, tower.views(), FRAMES, tower.num_mel_bins()])?.affine(30.0, -30.0)?;
            Box::new(move || {
                model.get_audio_features(&xs, &is_longer)?;
                Ok(())
            })
        }
    })
}

fn text(tower: &TextConfig, texts: Texts, precision: Precision) -> anyhow::Result<Workload> {
    let model = model(&config(no_audio_tower(), tower.clone()), precision)?;
    let (ids, mask) = token_ids(tower, texts)?;
    Ok(Box::new(move || {
        model.get_text_features(&ids, &mask)?;
        Ok(())
    }))
}

fn training(
    audio: &AudioConfig,
    text: &TextConfig,
    pairs: usize,
    precision: Precision,
    checkpointed: bool,
) -> anyhow::Result<Workload> {
    set_precision(precision);
    let mut config = config(audio.clone(), text.clone());
    if let AudioConfig::HtsAt(config) = &mut config.audio_config {
        // LAION's, in training.
        config.drop_path_rate = 0.1;
    }
    let (vars, vb) = seeded_vars(1, &Device::Cpu, DType::F32);
    let model = ClapModel::new(&config, vb)?;
    let mut optimizer = Optimizer::new(vars.trainable(), OptimizerConfig::default())?;
    let (front_end, waves) = (front_end()?, waves(pairs));
    let (ids, mask) = token_ids(text, Texts::padded(pairs, CONTEXT))?;
    let parameters: Vec<_> = vars.trainable().map(|(_, var)| var).collect();
    let checkpoints = Checkpoints::of(&parameters);
    let mut mode = Mode::train(ChaCha8Rng::seed_from_u64(4));
    if checkpointed {
        mode = mode.checkpointed(&checkpoints);
    }
    let is_longer = vec![false; pairs];
    Ok(Box::new(move || {
        let audio = model.audio_embeds_t(&front_end(&waves)?, &is_longer, &mut mode)?;
        let text = model.text_embeds_t(&ids, &mask, &mut mode)?;
        let loss = contrastive(&audio, &text, &model.logit_scale_a().exp()?)?;
        let norm = optimizer.step(&checkpoints.backward(&loss)?, 1e-5)?;
        if norm.is_finite() { Ok(()) } else { bail!("the gradient is not finite") }
    }))
}

fn adam(audio: &AudioConfig, text: &TextConfig, fused: bool) -> anyhow::Result<Workload> {
    let (vars, vb) = seeded_vars(1, &Device::Cpu, DType::F32);
    ClapModel::new(&config(audio.clone(), text.clone()), vb)?;
    // Gradients that are tensors of their own: twice the weights.
    let squares = vars.trainable().map(|(_, var)| var.sqr()?.sum_all());
    let squares = squares.collect::<candle_core::Result<Vec<_>>>()?;
    let grads = Tensor::stack(&squares, 0)?.sum_all()?.backward()?;
    let (parameters, config) = (vars.trainable(), OptimizerConfig::default());
    let mut optimizer =
        if fused { Optimizer::new(parameters, config)? } else { Optimizer::composed(parameters, config)? };
    Ok(Box::new(move || {
        optimizer.step(&grads, 1e-5)?;
        Ok(())
    }))
}

/// By the `gemm` crate, which is none of the towers' any more: a yardstick of its own.
fn product(size: usize) -> anyhow::Result<Workload> {
    let values = |_| anyhow::Ok(noise(&[size, size])?.flatten_all()?.to_vec1::<f32>()?);
    let (a, b, mut c) = (values(())?, values(())?, vec![0f32; size * size]);
    Ok(Box::new(move || {
        let (row, parallelism) = (size as isize, gemm::Parallelism::Rayon(0));
        // SAFETY: each of the three has the elements of a dense square matrix, and `c` is borrowed mutably.
        unsafe {
            gemm::gemm(
                size,
                size,
                size,
                c.as_mut_ptr(),
                1,
                row,
                false,
                a.as_ptr(),
                1,
                row,
                b.as_ptr(),
                1,
                row,
                0.0,
                1.0,
                false,
                false,
                false,
                parallelism,
            );
        }
        Ok(())
    }))
}

fn config(audio_config: AudioConfig, text_config: TextConfig) -> ClapConfig {
    ClapConfig { audio_config, text_config, ..ClapConfig::default() }
}

/// Of the process, which may have timed another case before.
fn set_precision(precision: Precision) {
    let products = precision == Precision::Bf16Products;
    set_matmul_precision(if products { MatmulPrecision::Bf16 } else { MatmulPrecision::Highest });
}

/// A model for inference: of constants, as a loaded checkpoint's is.
fn model(config: &ClapConfig, precision: Precision) -> anyhow::Result<ClapModel> {
    set_precision(precision);
    let dtype = if precision == Precision::Bf16Weights { DType::BF16 } else { DType::F32 };
    let (vars, vb) = seeded_vars(1, &Device::Cpu, DType::F32);
    ClapModel::new(config, vb)?;
    let constants = vars.to_tensors().into_iter().map(|(name, t)| Ok((name, t.copy()?.detach())));
    let constants: HashMap<String, Tensor> = constants.collect::<candle_core::Result<_>>()?;
    drop(vars);
    Ok(Checkpoint::from_tensors(constants)?.build(dtype, &Device::Cpu, |vb| ClapModel::new(config, vb))?)
}

/// Values in ±1.
fn noise(shape: &[usize]) -> candle_core::Result<Tensor> {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| rng.random_range(-1f32..1.0)).collect();
    Tensor::from_vec(values, shape, &Device::Cpu)
}

fn waves(clips: usize) -> Vec<Waveform> {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let clip = |_| Waveform {
        samples: (0..RATE as usize * SECONDS).map(|_| rng.random_range(-0.5f32..0.5)).collect(),
        sample_rate: RATE,
    };
    (0..clips).map(clip).collect()
}

/// Log-mel of waveforms, as the towers without fusion take it.
fn front_end() -> anyhow::Result<impl Fn(&[Waveform]) -> anyhow::Result<Tensor>> {
    let extractor = FeatureExtractor::new(FeatureConfig::published(Truncation::RandTrunc), Preset::Hf)?;
    Ok(move |waves: &[Waveform]| {
        let mut batch = Vec::new();
        for wave in waves {
            batch.extend(extractor.extract(wave, LongAudio::Head, None)?);
        }
        Ok(clap_encoders::features_tensor(&batch, &Device::Cpu)?.0)
    })
}

/// Ids and mask `(texts, width)`.
fn token_ids(tower: &TextConfig, texts: Texts) -> anyhow::Result<(Tensor, Tensor)> {
    let width = texts.width();
    let (mut ids, mut mask) = (Vec::new(), Vec::new());
    for (i, tokens) in texts.tokens().into_iter().enumerate() {
        for at in 0..width {
            ids.push(match at {
                0 => tower.bos_token_id,
                _ if at + 1 == tokens => tower.eos_token_id,
                _ if at < tokens => 1000 + (i * 31 + at * 7) as u32,
                _ => tower.pad_token_id,
            });
            mask.push(u32::from(at < tokens));
        }
    }
    let tensor = |values| Tensor::from_vec(values, (texts.count, width), &Device::Cpu);
    Ok((tensor(ids)?, tensor(mask)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_marked_and_padded() {
        let tower = TextConfig::default();
        let (ids, mask) = token_ids(&tower, Texts::padded(2, 16)).unwrap();
        let (ids, mask) = (ids.to_vec2::<u32>().unwrap(), mask.to_vec2::<u32>().unwrap());
        assert_eq!((ids[0][0], ids[0][8], ids[0][9]), (tower.bos_token_id, tower.eos_token_id, tower.pad_token_id));
        assert_eq!((mask[0].iter().sum::<u32>(), mask[1].iter().sum::<u32>()), (9, 14));
    }
}
