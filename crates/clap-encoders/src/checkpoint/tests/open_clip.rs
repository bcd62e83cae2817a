//! open_clip's folders: the same weights give the same embeddings, and what cannot be expressed is named.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use candle_core::{DType, Tensor};
use clap_audio::Preset;
use serde_json::json;

use super::bare::laions;
use super::{CPU, Tiny, laion};
use crate::checkpoint::Format;
use crate::{FusionType, load_folder, open_model};

/// The model as open_clip saves it: `audio/convert.py` in short, from LAION's names.
fn tensors(tiny: &Tiny) -> HashMap<String, Tensor> {
    let roots = [
        ("audio_branch.", "audio.encoder."),
        ("audio_projection.", "audio.proj."),
        ("text_branch.", "text.transformer."),
        ("text_projection.", "text.proj."),
    ];
    let rename = |(key, tensor): (String, Tensor)| match &*key {
        "logit_scale_a" => Some(("logit_scale".to_owned(), tensor)),
        "logit_scale_t" => None,
        _ => roots.iter().find_map(|(from, to)| Some((format!("{to}{}", key.strip_prefix(from)?), tensor.clone()))),
    };
    let laion = laion::to_laion(&tiny.tensors).unwrap();
    let mut renamed: HashMap<String, Tensor> = laion.clone().into_iter().filter_map(rename).collect();
    assert_eq!(renamed.len(), laion.len() - 1);
    // Of its front end.
    renamed
        .insert("audio.encoder.logmel_extractor.melW".to_owned(), Tensor::zeros((513, 64), DType::F32, &CPU).unwrap());
    renamed
}

fn config(tiny: &Tiny) -> serde_json::Value {
    json!({
        "model_cfg": {
            "embed_dim": tiny.config.projection_dim,
            "audio_cfg": {
                "audio_length": 1024, "clip_samples": 480_000, "mel_bins": 64, "sample_rate": 48_000, "window_size": 1024,
                "hop_size": 480, "fmin": 50, "fmax": 14_000, "class_num": 527, "model_type": "HTSAT", "model_name": "tiny",
                "enable_fusion": tiny.config.audio_config.fusion().is_some(), "proj_act": "relu",
            },
            "text_cfg": {
                "hf_model_name": "roberta-base", "hf_tokenizer_name": "roberta-base", "hf_pooler_type": "cls_pooler",
                "hf_proj_type": "clap_mlp",
            },
        },
        "preprocess_cfg": {},
    })
}

fn save(tiny: &Tiny, folder: &Path, weights: &str, config: &serde_json::Value) {
    safetensors::serialize_to_file(tensors(tiny), None, &folder.join(weights)).unwrap();
    fs::write(folder.join("open_clip_config.json"), config.to_string()).unwrap();
    tiny.tokenizer.save(&folder.join("tokenizer.json")).unwrap();
}

#[test]
fn a_folder_of_open_clips_is_the_same_model() {
    for (fusion, preset, weights) in [
        (None, Preset::Hf, "open_clip_model.safetensors"),
        (Some(FusionType::Aff2d), Preset::Laion, "open_clip_pytorch_model.bin"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let tiny = laions(fusion);
        save(&tiny, dir.path(), weights, &config(&tiny));
        // Of either file, the one that is best.
        let found = load_folder(dir.path()).unwrap();
        assert_eq!((&found.config, &found.features), (&tiny.config, &tiny.features));
        assert_eq!((found.checkpoint.format(), found.preset()), (Format::OpenClip, preset));
        let model = found.model(DType::F32, &CPU).unwrap();
        let folder = dir.path().join("hf");
        tiny.save(&folder).unwrap();
        let expected = load_folder(&folder).unwrap().model(DType::F32, &CPU).unwrap();
        assert_eq!(tiny.embed(&model), tiny.embed(&expected));
        let (ids, mask) = tiny.tokenizer.encode(&["a dog barks"], 20).unwrap();
        let text = |model: &crate::ClapModel| model.get_text_features(&ids, &mask).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(text(&model), text(&expected));
        let scale = |t: &Tensor| t.to_scalar::<f32>().unwrap();
        assert_eq!(scale(model.logit_scale_a()), scale(expected.logit_scale_a()));
        let stored = found.checkpoint.stored_tensors(&CPU).unwrap();
        assert_eq!(scale(&stored["logit_scale_t"]), scale(&stored["logit_scale_a"]));
    }
}

#[test]
fn what_cannot_be_expressed_is_refused_by_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let tiny = laions(None);
    for (path, value, words) in [
        ("/model_cfg/audio_cfg/proj_act", json!("gelu"), "audio_cfg.proj_act"),
        ("/model_cfg/audio_cfg/model_type", json!("whisper"), "audio_cfg.model_type"),
        ("/model_cfg/audio_cfg/pre_norm", json!(true), "audio_cfg.pre_norm"),
        ("/model_cfg/audio_cfg/enable_fusion", json!(true), "audio_cfg.enable_fusion"),
        ("/model_cfg/text_cfg/hf_pooler_type", json!("mean_pooler"), "text_cfg.hf_pooler_type"),
        ("/model_cfg/text_cfg/hf_proj_type", json!("linear"), "text_cfg.hf_proj_type"),
        ("/model_cfg/text_cfg", json!({"width": 512, "heads": 8, "layers": 12}), "open_clip's own text transformer"),
        ("/model_cfg/embed_dim", json!(768), "embed_dim"),
    ] {
        let mut config = config(&tiny);
        let field = config.pointer_mut(path);
        match field {
            Some(field) => *field = value,
            None => config["model_cfg"]["audio_cfg"]["pre_norm"] = value,
        }
        save(&tiny, dir.path(), "open_clip_model.safetensors", &config);
        let message = open_model(dir.path()).unwrap_err().to_string();
        assert!(message.contains("open_clip_config.json") && message.contains(words), "{words} in {message}");
    }
    fs::remove_file(dir.path().join("open_clip_model.safetensors")).unwrap();
    fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
    let message = open_model(dir.path()).unwrap_err().to_string();
    assert!(message.contains("open_clip_pytorch_model.bin"), "{message}");
}
