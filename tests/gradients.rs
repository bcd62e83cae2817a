//! Every trainable variable receives a finite, non-zero gradient from the contrastive loss, in every tower combination, in
//! training and in evaluation. candle's own LayerNorm and `softmax_last_dim` cut gradients without a word; this is the test
//! that nothing of the kind came in.

use candle_core::{DType, Device, Tensor};
use clap_encoders::{
    AudioConfig, ClapConfig, ClapModel, FusionType, HtsAtConfig, PannConfig, TextConfig, TextModelType,
};
use clap_nn::{Checkpoints, Mode, Vars};
use clap_tests::{fused_mel, token_ids, unit_fill};
use clap_train::loss::contrastive;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// Frames that fill the image of [`htsat`].
const FRAMES: usize = 256;

/// Odd sizes throughout: nothing may be wired to those of the published models.
fn htsat(fusion: Option<FusionType>) -> AudioConfig {
    HtsAtConfig {
        window_size: 4,
        num_mel_bins: 16,
        spec_size: 64,
        patch_size: 4,
        patch_stride: [4, 4],
        depths: vec![1, 2, 2],
        num_attention_heads: vec![2, 3, 6],
        patch_embeds_hidden_size: 12,
        hidden_size: 48,
        drop_path_rate: 0.1,
        mlp_ratio: 1.5,
        enable_fusion: fusion.is_some(),
        fusion_type: fusion,
        ..HtsAtConfig::default()
    }
    .into()
}

/// As [`htsat`].
fn pann(fusion: Option<FusionType>) -> AudioConfig {
    PannConfig {
        num_mel_bins: 18,
        block_widths: vec![8, 12, 20],
        pooled_blocks: 2,
        hidden_size: 28,
        dropout: 0.1,
        output_dropout: 0.1,
        enable_fusion: fusion.is_some(),
        fusion_type: fusion,
        ..PannConfig::cnn14()
    }
    .into()
}

fn config(audio: AudioConfig, text: TextModelType) -> ClapConfig {
    ClapConfig {
        projection_dim: 20,
        audio_config: audio,
        text_config: TextConfig {
            model_type: text,
            vocab_size: 50,
            hidden_size: 30,
            num_hidden_layers: 2,
            num_attention_heads: 5,
            intermediate_size: 44,
            max_position_embeddings: 20,
            context_length: 15,
            layer_norm_eps: 1e-5,
            ..TextConfig::default()
        },
        ..ClapConfig::default()
    }
}

/// Of the greatest gradient: what is left of one that is zero by right.
const ROUNDING: f32 = 1e-4;

/// Why a variable has no gradient by right, if it has none.
fn exception(name: &str, train: bool) -> Option<&'static str> {
    if name == "logit_scale_t" {
        return Some("LAION's loss scales both directions by logit_scale_a");
    }
    if name.ends_with("attention.self.key.bias") || name.ends_with("self_attn.k_proj.bias") {
        return Some(
            "a constant added to all scores of a query leaves its softmax as it is: the gradient is zero up to rounding",
        );
    }
    if name.contains("fusion_model.global_att2.") {
        return Some("LAION's iAFF builds this branch and does not use it");
    }
    let before_batch_norm = [
        "local_att.0.",
        "local_att.3.",
        "global_att.1.",
        "global_att.4.",
        "local_att2.0.",
        "local_att2.3.",
        "mel_conv1d.0.",
        "mel_conv2d.0.",
    ];
    if train && name.ends_with(".bias") && before_batch_norm.iter().any(|part| name.contains(part)) {
        return Some("batch norm subtracts the batch's mean, and with it this bias");
    }
    None
}

fn every_variable_learns(audio: AudioConfig, text: TextModelType, train: bool) {
    let config = config(audio, text);
    let (vars, vb) = clap_nn::init::seeded_vars(5, &Device::Cpu, DType::F32);
    let model = ClapModel::new(&config, vb).unwrap();
    larger_weights(&vars);
    let batch = 4;
    let mut mode = if train { Mode::train(ChaCha8Rng::seed_from_u64(11)) } else { Mode::eval() };

    let mel = fused_mel(batch, FRAMES - 5, config.audio_config.num_mel_bins());
    let mel = mel.narrow(1, 0, config.audio_config.views()).unwrap();
    // Batch norm over two pooled rows is a sign: three clips are longer, so that the fusion's global branch can learn.
    let audio = model.audio_embeds_t(&mel, &[true, false, true, true], &mut mode).unwrap();
    let (ids, mask) = token_ids(batch, 12, config.text_config.vocab_size, 3, Some(&[12, 5, 9, 7]));
    let tokens = |values| Tensor::from_vec(values, (batch, 12), &Device::Cpu).unwrap();
    let text = model.text_embeds_t(&tokens(ids), &tokens(mask), &mut mode).unwrap();
    let loss = contrastive(&audio, &text, &model.logit_scale_a().exp().unwrap()).unwrap();
    let grads = loss.backward().unwrap();

    let peak = |name: &str, var: &Tensor| {
        let values = grads.get(var)?.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(values.len(), var.elem_count(), "{name}");
        Some(values.iter().fold(0f32, |m, v| if v.is_finite() { m.max(v.abs()) } else { f32::INFINITY }))
    };
    let peaks: Vec<(String, Option<f32>)> =
        vars.trainable().map(|(name, var)| (name.clone(), peak(&name, &var))).collect();
    let (count, greatest) = (peaks.len(), peaks.iter().filter_map(|(_, peak)| *peak).fold(0f32, f32::max));
    let mut faults = Vec::new();
    for (name, peak) in peaks {
        match (peak, exception(&name, train)) {
            (Some(peak), _) if !peak.is_finite() => faults.push(format!("{name}: not finite")),
            // What cancels leaves rounding behind.
            (Some(peak), Some(_)) if peak > ROUNDING * greatest => {
                faults.push(format!("{name}: {peak:e} of {greatest:e}, though it is listed as an exception"));
            }
            (_, Some(_)) => {}
            (None, None) => faults.push(format!("{name}: no gradient")),
            (Some(peak), None) if peak < 1e-7 => faults.push(format!("{name}: zero ({peak:e})")),
            (Some(_), None) => {}
        }
    }
    assert!(faults.is_empty(), "{} of {count} variables at fault:\n{}", faults.len(), faults.join("\n"));
    assert!(count > 60, "only {count} trainable variables");
}

/// The bits of every gradient of a training step.
fn gradient_bits(config: &ClapConfig, checkpointed: bool) -> Vec<(String, Vec<u32>)> {
    let (vars, vb) = clap_nn::init::seeded_vars(5, &Device::Cpu, DType::F32);
    let model = ClapModel::new(config, vb).unwrap();
    larger_weights(&vars);
    let checkpoints = Checkpoints::default();
    let mut mode = Mode::train(ChaCha8Rng::seed_from_u64(11));
    if checkpointed {
        mode = mode.checkpointed(&checkpoints);
    }
    let mel = fused_mel(3, FRAMES - 5, config.audio_config.num_mel_bins());
    let mel = mel.narrow(1, 0, config.audio_config.views()).unwrap();
    let audio = model.audio_embeds_t(&mel, &[true, false, true], &mut mode).unwrap();
    let (ids, mask) = token_ids(3, 12, config.text_config.vocab_size, 3, Some(&[12, 5, 9]));
    let tokens = |values| Tensor::from_vec(values, (3, 12), &Device::Cpu).unwrap();
    let text = model.text_embeds_t(&tokens(ids), &tokens(mask), &mut mode).unwrap();
    let loss = contrastive(&audio, &text, &model.logit_scale_a().exp().unwrap()).unwrap();
    let grads = checkpoints.backward(&loss).unwrap();
    let bits = |var: &Tensor| {
        let values = grads.get(var).map(|grad| grad.flatten_all().unwrap().to_vec1::<f32>().unwrap());
        values.into_iter().flatten().map(f32::to_bits).collect()
    };
    let mut all: Vec<(String, Vec<u32>)> = vars.trainable().map(|(name, var)| (name, bits(&var))).collect();
    // What the batch norms have seen.
    let statistics = vars.iter().filter(|(name, _)| name.contains("running_"));
    all.extend(statistics.map(|(name, var)| {
        let values = var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        (name, values.into_iter().map(f32::to_bits).collect())
    }));
    all
}

/// Blocks that make their activations again drop the same elements and learn the same.
#[test]
fn checkpointed_blocks_have_the_gradients_of_plain_ones() {
    let towers = [
        (htsat(None), TextModelType::Roberta),
        (htsat(Some(FusionType::Aff2d)), TextModelType::Clip),
        (pann(None), TextModelType::Bert),
        (pann(Some(FusionType::Aff1d)), TextModelType::Bart),
    ];
    for (audio, text) in towers {
        let config = config(audio, text);
        let (plain, checkpointed) = (gradient_bits(&config, false), gradient_bits(&config, true));
        assert!(plain.len() > 60);
        for (plain, checkpointed) in plain.iter().zip(&checkpointed) {
            assert!(plain == checkpointed, "{}", plain.0);
        }
    }
}

/// A start of 0.02 leaves gradients of deep branches near rounding; unit-variance weights make a zero mean zero.
fn larger_weights(vars: &Vars) {
    for (name, var) in vars.trainable().filter(|(_, var)| var.rank() >= 2) {
        let (n, dims) = (var.elem_count(), var.dims().to_vec());
        let fan_in = dims[1..].iter().product::<usize>() as f64;
        let values = Tensor::from_vec(unit_fill(&name, n, 0), dims, &Device::Cpu).unwrap();
        var.set(&(values * (3.0 / fan_in).sqrt()).unwrap()).unwrap();
    }
}

macro_rules! combinations {
    ($($name:ident: $audio:expr, $text:expr;)*) => {$(
        mod $name {
            use super::*;

            #[test]
            fn training() {
                every_variable_learns($audio, $text, true);
            }

            #[test]
            fn evaluation() {
                every_variable_learns($audio, $text, false);
            }
        }
    )*};
}

combinations! {
    unfused: htsat(None), TextModelType::Roberta;
    aff_2d: htsat(Some(FusionType::Aff2d)), TextModelType::Roberta;
    iaff_2d: htsat(Some(FusionType::Iaff2d)), TextModelType::Roberta;
    daf_2d: htsat(Some(FusionType::Daf2d)), TextModelType::Roberta;
    channel_map: htsat(Some(FusionType::ChannelMap)), TextModelType::Roberta;
    aff_1d: htsat(Some(FusionType::Aff1d)), TextModelType::Roberta;
    iaff_1d: htsat(Some(FusionType::Iaff1d)), TextModelType::Roberta;
    daf_1d: htsat(Some(FusionType::Daf1d)), TextModelType::Roberta;
    pann: pann(None), TextModelType::Roberta;
    pann_aff_2d: pann(Some(FusionType::Aff2d)), TextModelType::Roberta;
    pann_iaff_2d: pann(Some(FusionType::Iaff2d)), TextModelType::Roberta;
    pann_daf_2d: pann(Some(FusionType::Daf2d)), TextModelType::Roberta;
    pann_channel_map: pann(Some(FusionType::ChannelMap)), TextModelType::Roberta;
    pann_aff_1d: pann(Some(FusionType::Aff1d)), TextModelType::Roberta;
    pann_iaff_1d: pann(Some(FusionType::Iaff1d)), TextModelType::Bert;
    pann_daf_1d: pann(Some(FusionType::Daf1d)), TextModelType::Clip;
    bert: htsat(None), TextModelType::Bert;
    clip: htsat(None), TextModelType::Clip;
    bart: htsat(None), TextModelType::Bart;
}

/// The contrastive loss does not see the tagging head; the losses of taggers do.
#[test]
fn a_tagging_loss_trains_the_head_and_the_tower() {
    let AudioConfig::HtsAt(audio) = htsat(None) else { panic!("an HTS-AT") };
    let audio = HtsAtConfig { enable_tagging: true, num_classes: 7, ..audio };
    let (vars, vb) = clap_nn::init::seeded_vars(5, &Device::Cpu, DType::F32);
    let model = ClapModel::new(&config(audio.into(), TextModelType::Roberta), vb).unwrap();
    larger_weights(&vars);
    let mel = fused_mel(3, FRAMES - 5, 16).narrow(1, 0, 1).unwrap();
    let tags = |mode: &mut Mode| model.audio_model().tag(&mel, &[], mode).unwrap();
    let tower = "audio_model.audio_encoder.";

    for mut mode in [Mode::train(ChaCha8Rng::seed_from_u64(3)), Mode::eval()] {
        let outputs = tags(&mut mode);
        let grads = [
            (outputs.clipwise_output.unwrap().log().unwrap(), true),
            (outputs.framewise_output.unwrap().log().unwrap(), true),
            // Of all channels, the layer norm has settled the sum of squares.
            (outputs.fine_grained_embedding.narrow(2, 0, 5).unwrap().sqr().unwrap(), false),
        ];
        for (loss, by_the_head) in grads {
            let grads = loss.mean_all().unwrap().neg().unwrap().backward().unwrap();
            let peak = |name: &str| {
                let grad = grads.get(&vars.get(&format!("{tower}{name}")).unwrap());
                grad.map(|grad| grad.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap())
            };
            for name in ["tscam_conv.weight", "tscam_conv.bias"] {
                assert_eq!(peak(name).is_some_and(|peak| peak > 1e-4 && peak.is_finite()), by_the_head, "{name}");
            }
            let first = peak("patch_embed.proj.weight").unwrap();
            assert!(first > 1e-6 && first.is_finite(), "patch_embed.proj.weight: {first:e}");
        }
    }
}

/// Trains one pass of a fused model whose batch has no longer clip.
fn pass_without_longer_clips(seed: u64) -> (Vars, Tensor) {
    let config = config(htsat(Some(FusionType::Aff2d)), TextModelType::Roberta);
    let (vars, vb) = clap_nn::init::seeded_vars(5, &Device::Cpu, DType::F32);
    let model = ClapModel::new(&config, vb).unwrap();
    let mel = fused_mel(3, FRAMES, config.audio_config.num_mel_bins());
    let mut mode = Mode::train(ChaCha8Rng::seed_from_u64(seed));
    let audio = model.audio_embeds_t(&mel, &[false; 3], &mut mode).unwrap();
    (vars, audio)
}

#[test]
fn a_fused_batch_of_short_clips_trains_the_fusion_all_the_same() {
    let (vars, audio) = pass_without_longer_clips(1);
    let grads = audio.sqr().unwrap().sum_all().unwrap().backward().unwrap();
    let conv = vars.get("audio_model.audio_encoder.patch_embed.mel_conv2d.weight").unwrap();
    assert!(grads.get(&conv).is_some());
    let same = pass_without_longer_clips(1).1;
    assert_eq!(audio.to_vec2::<f32>().unwrap(), same.to_vec2::<f32>().unwrap(), "the same seed picks the same clip");
}

#[test]
fn training_moves_the_running_statistics_that_are_saved() {
    let (vars, _) = pass_without_longer_clips(2);
    for name in ["batch_norm.running_mean", "patch_embed.fusion_model.global_att.2.running_var"] {
        let var = vars.get(&format!("audio_model.audio_encoder.{name}")).unwrap();
        let start = if name.ends_with("mean") { 0.0 } else { 1.0 };
        let moved = var.to_vec1::<f32>().unwrap().iter().any(|v| (v - start).abs() > 1e-6);
        assert!(moved, "{name}");
    }
}
