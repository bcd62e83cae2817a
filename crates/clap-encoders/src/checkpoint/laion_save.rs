//! Writing LAION's `.pt`: every tensor that `laion_clap` asks for, under its names, those that a model here has not included.
//!
//! Source: laion-clap 1.1.7 `factory.py` (`load_state_dict`), `htsat.py`, torchlibrosa `stft.py`. `laion_clap` loads strictly: it
//! wants its front end as convolutions and a matrix, the masks of shifted windows, counters, the tagging head and the heads of the MLP
//! loss. What follows from the configuration is computed; a head that the model was never given starts as a new one of ours.

use std::collections::{BTreeMap, HashMap};
use std::f64::consts::TAU;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::Path;

use candle_core::{DType, Device, Result as CandleResult, Tensor};
use candle_nn::VarBuilder;
use clap_audio::{FeatureConfig, MelBank};
use clap_nn::WindowGeometry;
use clap_nn::init::{seeded_vars, torch_default};

use super::audit::INITIAL_SEED;
use super::{hf, laion, save, torch_save};
use crate::config::{AudioConfig, ClapConfig, HtsAtConfig};
use crate::error::{Error, Result};
use crate::htsat::TaggingHead;
use crate::transform::Transform;

/// Prefix of data-parallel training, which the published files carry and `laion_clap` takes off.
const MODULE: &str = "module.";

/// Writes `path`, a checkpoint that `laion_clap` loads. `tensors` are the model's, under Hugging Face's names, with whatever
/// buffers and heads of LAION's it came with; these are written as they are. The file appears complete or not at all.
///
/// # Errors
/// Where the file cannot be written, or a weight that LAION keeps joined is there in part.
pub fn save_laion(
    path: &Path,
    config: &ClapConfig,
    features: &FeatureConfig,
    tensors: &HashMap<String, Tensor>,
) -> Result<()> {
    config.validate()?;
    let mut all = hf::buffers(config)?;
    // `laion_clap` deletes this one, whichever text tower it has, and fails where there is none.
    all.entry("text_model.embeddings.position_ids".to_owned()).or_insert(positions(config)?);
    all.extend(front_end(features)?);
    if let AudioConfig::HtsAt(audio) = &config.audio_config {
        all.extend(masks(audio)?);
    }
    all.extend(heads(config)?);
    all.extend(tensors.iter().map(|(key, tensor)| (key.clone(), tensor.clone())));
    // Hugging Face's alone.
    all.remove("text_model.embeddings.token_type_ids");
    let named: BTreeMap<String, Tensor> = laion::to_laion(&all.into_iter().collect())?
        .into_iter()
        .map(|(key, tensor)| (format!("{MODULE}{key}"), tensor))
        .collect();

    let draft = save::sibling(path, "clap-new")?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let written = File::create(&draft).map_err(Error::io(&draft)).and_then(|file| {
        torch_save::save(BufWriter::new(file), &name, &named)?;
        save::sync(&draft)?;
        fs::rename(&draft, path).map_err(Error::io(path))
    });
    if written.is_err() {
        // Best effort: the error is what matters.
        let _ = fs::remove_file(&draft);
    }
    written
}

/// `position_ids` of a text tower that Hugging Face gives none.
fn positions(config: &ClapConfig) -> CandleResult<Tensor> {
    Tensor::arange(0i64, config.text_config.max_position_embeddings as i64, &Device::Cpu)?.unsqueeze(0)
}

/// torchlibrosa's short-time Fourier transform as two convolutions `(n_fft / 2 + 1, 1, n_fft)`, and the mel bank `(n_fft / 2 + 1, mel bins)`.
fn front_end(features: &FeatureConfig) -> Result<Vec<(String, Tensor)>> {
    let at = |key: &str| format!("audio_model.audio_encoder.{key}");
    let mut mel = features.mel();
    // The bank in the file is librosa's, whichever bank a fused model's loader uses.
    (mel.scale, mel.slaney_norm) = (clap_audio::MelScale::Slaney, true);
    let bank = MelBank::new(&mel)?;
    let (n, rows) = (mel.n_fft, bank.n_freqs());
    let wave = |phase: fn(f64) -> f64| -> CandleResult<Tensor> {
        let table: Vec<f64> = (0..n).map(|i| phase(TAU * i as f64 / n as f64)).collect();
        let window: Vec<f64> = (0..n).map(|i| 0.5 - 0.5 * (TAU * i as f64 / n as f64).cos()).collect();
        let values: Vec<f32> = (0..rows)
            .flat_map(|k| (0..n).map(move |i| (k, i)))
            .map(|(k, i)| (table[k * i % n] * window[i]) as f32)
            .collect();
        Tensor::from_vec(values, (rows, 1, n), &Device::Cpu)
    };
    Ok(vec![
        (at("spectrogram_extractor.stft.conv_real.weight"), wave(f64::cos)?),
        (at("spectrogram_extractor.stft.conv_imag.weight"), wave(|x| -x.sin())?),
        (at("logmel_extractor.melW"), Tensor::from_vec(bank.dense(), (rows, bank.n_mels()), &Device::Cpu)?),
    ])
}

/// What may attend to what in shifted windows, `(windows, area, area)`: 0 within a region, -100 across.
fn masks(config: &HtsAtConfig) -> Result<Vec<(String, Tensor)>> {
    const APART: f32 = -100.0;
    let mut masks = Vec::new();
    for (stage, &depth) in config.depths.iter().enumerate() {
        let (side, window) = (config.stage_side(stage), config.stage_window(stage));
        if side <= config.window_size {
            continue;
        }
        let geometry = WindowGeometry { height: side, width: side, window, shift: config.window_size / 2, heads: 1 };
        let (windows, area) = (geometry.windows(), geometry.area());
        let mut mask = vec![0f32; windows * area * area];
        for (index, mask) in mask.chunks_exact_mut(area * area).enumerate() {
            let Some(regions) = geometry.regions(index) else { continue };
            for (row, own) in mask.chunks_exact_mut(area).zip(&regions) {
                row.iter_mut().zip(&regions).filter(|(_, other)| *other != own).for_each(|(value, _)| *value = APART);
            }
        }
        let mask = Tensor::from_vec(mask, (windows, area, area), &Device::Cpu)?;
        masks.extend(
            (1..depth).step_by(2).map(|block| {
                (format!("audio_model.audio_encoder.layers.{stage}.blocks.{block}.attn_mask"), mask.clone())
            }),
        );
    }
    Ok(masks)
}

/// The tagging head and the heads of the MLP loss, as a new model has them.
fn heads(config: &ClapConfig) -> Result<HashMap<String, Tensor>> {
    let (vars, vb) = seeded_vars(INITIAL_SEED, &Device::Cpu, DType::F32);
    for modality in ["audio_transform", "text_transform"] {
        Transform::new(config.projection_dim, config.mlp_dropout, vb.pp(modality))?;
    }
    let encoder = vb.pp("audio_model").pp("audio_encoder");
    match &config.audio_config {
        AudioConfig::HtsAt(audio) => {
            TaggingHead::new(audio, encoder.pp("tscam_conv"))?;
            layer(&[audio.num_classes; 2], encoder.pp("head"))?;
        }
        AudioConfig::Pann(audio) => layer(&[audio.num_classes, audio.hidden_size], encoder.pp("fc_audioset"))?,
    }
    Ok(vars.to_tensors())
}

/// Weight and bias of a layer of torch's.
fn layer(shape: &[usize], vb: VarBuilder<'_>) -> CandleResult<()> {
    let init = torch_default(shape[1..].iter().product());
    vb.get_with_hints(shape, "weight", init)?;
    vb.get_with_hints(shape[0], "bias", init)?;
    Ok(())
}
