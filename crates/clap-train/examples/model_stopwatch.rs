//! Times whole towers and training steps for another program, so that both can be timed in turns: `tests/reference/bench_models.py`.
//!
//! Each line of standard input names a case, each answer is the seconds of one run; a new case runs once beforehand. `memory` answers with the
//! greatest resident size so far, in bytes.
//!
//! ```text
//! htsat-tiny mel 8            HTS-AT tiny and its projection, from 8 log-mel spectrograms of 1001 frames
//! htsat-tiny-fused mel 8      the same of 4 views, every clip longer
//! htsat-base mel 8            HTS-AT base
//! pann-14 wave 8              PANN-14 from 8 waveforms of 10 s at 48 kHz; pann-10, pann-6; `mel` leaves the front end out
//! roberta 77 16               RoBERTa-base and its projection, 16 texts of 9 to 31 tokens padded to 77; `0` pads to the longest
//! train htsat-tiny roberta 8  a training step from waveforms and texts of 77: forward, loss, backward, Adam
//! ```
#![expect(clippy::print_stdout, reason = "its purpose")]

use std::collections::HashMap;
use std::error::Error;
use std::io::Write as _;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use clap_audio::{FeatureConfig, FeatureExtractor, LongAudio, Preset, Truncation, Waveform};
use clap_encoders::checkpoint::Checkpoint;
use clap_encoders::{AudioConfig, ClapConfig, ClapModel, HtsAtConfig, PannConfig, TextConfig, TextModelType};
use clap_nn::{Mode, Vars, init::seeded_vars};
use clap_train::loss::contrastive;
use clap_train::{AdamConfig, Optimizer};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The runner's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Something to time.
type Case = Box<dyn FnMut() -> Outcome<()>>;

const RATE: u32 = 48_000;
const SECONDS: usize = 10;
const FRAMES: usize = 1001;

fn audio_config(name: &str) -> Outcome<AudioConfig> {
    let wide = HtsAtConfig {
        patch_embeds_hidden_size: 128,
        depths: vec![2, 2, 12, 2],
        hidden_size: 1024,
        ..HtsAtConfig::default()
    };
    let fused = HtsAtConfig { enable_fusion: true, ..HtsAtConfig::default() };
    Ok(match name {
        "htsat-tiny" => HtsAtConfig::default().into(),
        "htsat-tiny-fused" => fused.into(),
        "htsat-base" => wide.into(),
        "pann-14" => PannConfig::cnn14().into(),
        "pann-10" => PannConfig::cnn10().into(),
        "pann-6" => PannConfig::cnn6().into(),
        _ => return Err(format!("no audio tower `{name}`").into()),
    })
}

fn text_config(name: &str) -> Outcome<TextConfig> {
    Ok(match name {
        "roberta" => TextConfig { layer_norm_eps: 1e-5, ..TextConfig::default() },
        "bert" => TextConfig {
            model_type: TextModelType::Bert,
            vocab_size: 30_522,
            max_position_embeddings: 512,
            type_vocab_size: 2,
            pad_token_id: 0,
            bos_token_id: 101,
            eos_token_id: 102,
            ..TextConfig::default()
        },
        "none" => TextConfig {
            vocab_size: 10,
            hidden_size: 8,
            num_hidden_layers: 1,
            num_attention_heads: 1,
            ..TextConfig::default()
        },
        _ => return Err(format!("no text tower `{name}`").into()),
    })
}

fn config(audio: &str, text: &str) -> Outcome<ClapConfig> {
    let mut audio_config = audio_config(audio)?;
    if let AudioConfig::HtsAt(config) = &mut audio_config {
        // LAION's, in training.
        config.drop_path_rate = 0.1;
    }
    Ok(ClapConfig { audio_config, text_config: text_config(text)?, ..ClapConfig::default() })
}

/// A new model: of constants for inference, of variables for training.
fn model(config: &ClapConfig) -> Outcome<ClapModel> {
    let (vars, vb) = seeded_vars(1, &Device::Cpu, DType::F32);
    ClapModel::new(config, vb)?;
    let weights: HashMap<String, Tensor> = vars
        .to_tensors()
        .into_iter()
        .map(|(name, t)| Ok((name, t.copy()?.detach())))
        .collect::<candle_core::Result<_>>()?;
    drop(vars);
    Ok(Checkpoint::from_tensors(weights)?.build(DType::F32, &Device::Cpu, |vb| ClapModel::new(config, vb))?)
}

fn trainable(config: &ClapConfig) -> Outcome<(Vars, ClapModel)> {
    let (vars, vb) = seeded_vars(1, &Device::Cpu, DType::F32);
    let model = ClapModel::new(config, vb)?;
    Ok((vars, model))
}

fn noise(shape: &[usize], scale: f32, offset: f32) -> Outcome<Tensor> {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| rng.random_range(-1f32..1.0) * scale + offset).collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

fn waves(batch: usize) -> Vec<Waveform> {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let clip = |_| Waveform {
        samples: (0..RATE as usize * SECONDS).map(|_| rng.random_range(-0.5f32..0.5)).collect(),
        sample_rate: RATE,
    };
    (0..batch).map(clip).collect()
}

/// Log-mel of waveforms, as the towers without fusion take it.
fn front_end() -> Outcome<impl Fn(&[Waveform]) -> Outcome<Tensor>> {
    let features = FeatureConfig { frequency_min: 50.0, truncation: Truncation::RandTrunc, ..FeatureConfig::default() };
    let extractor = FeatureExtractor::new(features, Preset::Hf)?;
    Ok(move |waves: &[Waveform]| {
        let mut batch = Vec::new();
        for wave in waves {
            batch.extend(extractor.extract(wave, LongAudio::Head, None)?);
        }
        Ok(clap_encoders::features_tensor(&batch, &Device::Cpu)?.0)
    })
}

/// Ids and mask of texts of 9 to 31 tokens, padded to `length` or, where that is 0, to the longest.
fn texts(config: &TextConfig, batch: usize, length: usize) -> Outcome<(Tensor, Tensor)> {
    let lengths: Vec<usize> = (0..batch).map(|i| 9 + (5 * i) % 23).collect();
    let padded = if length > 0 { length } else { lengths.iter().copied().max().unwrap_or(1) };
    let (mut ids, mut mask) = (Vec::new(), Vec::new());
    for (i, length) in lengths.into_iter().map(|length| length.min(padded)).enumerate() {
        for at in 0..padded {
            ids.push(match at {
                0 => config.bos_token_id,
                _ if at + 1 == length => config.eos_token_id,
                _ if at < length => 1000 + (i * 31 + at * 7) as u32,
                _ => config.pad_token_id,
            });
            mask.push(u32::from(at < length));
        }
    }
    let tensor = |values| Tensor::from_vec(values, (batch, padded), &Device::Cpu);
    Ok((tensor(ids)?, tensor(mask)?))
}

fn audio_case(tower: &str, input: &str, batch: usize) -> Outcome<Case> {
    let config = config(tower, "none")?;
    let model = model(&config)?;
    let is_longer = vec![true; batch];
    Ok(match input {
        "wave" => {
            let (front_end, waves) = (front_end()?, waves(batch));
            Box::new(move || {
                model.get_audio_features(&front_end(&waves)?, &is_longer)?;
                Ok(())
            })
        }
        _ => {
            let xs = noise(&[batch, config.audio_config.views(), FRAMES, 64], 30.0, -30.0)?;
            Box::new(move || {
                model.get_audio_features(&xs, &is_longer)?;
                Ok(())
            })
        }
    })
}

fn text_case(tower: &str, length: usize, batch: usize) -> Outcome<Case> {
    let mut config = config("htsat-tiny", tower)?;
    config.audio_config = HtsAtConfig {
        depths: vec![1],
        num_attention_heads: vec![2],
        patch_embeds_hidden_size: 8,
        hidden_size: 8,
        ..HtsAtConfig::default()
    }
    .into();
    let model = model(&config)?;
    let (ids, mask) = texts(&config.text_config, batch, length)?;
    Ok(Box::new(move || {
        model.get_text_features(&ids, &mask)?;
        Ok(())
    }))
}

fn training_case(audio: &str, text: &str, batch: usize) -> Outcome<Case> {
    let config = config(audio, text)?;
    let (vars, model) = trainable(&config)?;
    let mut optimizer = Optimizer::new(vars.trainable(), AdamConfig::default())?;
    let (front_end, waves) = (front_end()?, waves(batch));
    let (ids, mask) = texts(&config.text_config, batch, 77)?;
    let mut mode = Mode::train(ChaCha8Rng::seed_from_u64(4));
    let is_longer = vec![false; batch];
    Ok(Box::new(move || {
        let audio = model.audio_embeds_t(&front_end(&waves)?, &is_longer, &mut mode)?;
        let text = model.text_embeds_t(&ids, &mask, &mut mode)?;
        let loss = contrastive(&audio, &text, &model.logit_scale_a().exp()?)?;
        let norm = optimizer.step(&loss.backward()?, 1e-5)?;
        if norm.is_finite() { Ok(()) } else { Err("the gradient is not finite".into()) }
    }))
}

fn case(line: &str) -> Outcome<Case> {
    match line.split_whitespace().collect::<Vec<_>>()[..] {
        ["train", audio, text, batch] => training_case(audio, text, batch.parse()?),
        [tower, input @ ("mel" | "wave"), batch] => audio_case(tower, input, batch.parse()?),
        [tower, length, batch] => text_case(tower, length.parse()?, batch.parse()?),
        _ => Err(format!("`{line}` is no case").into()),
    }
}

/// `VmHWM` of Linux; zero elsewhere.
fn peak_memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok()).unwrap_or(0) * 1024
}

fn main() -> Outcome<()> {
    let mut current: Option<(String, Case)> = None;
    for line in std::io::stdin().lines() {
        let line = line?;
        if line == "memory" {
            println!("{}", peak_memory());
        } else {
            if current.as_ref().is_none_or(|(name, _)| *name != line) {
                // The last model's memory goes first.
                drop(current.take());
                let mut case = case(&line)?;
                case()?;
                current = Some((line, case));
            }
            if let Some((_, case)) = &mut current {
                let start = Instant::now();
                case()?;
                println!("{}", start.elapsed().as_secs_f64());
            }
        }
        std::io::stdout().flush()?;
    }
    Ok(())
}
