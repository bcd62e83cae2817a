//! Bare files of LAION's: what they tell of themselves makes the model that a folder makes.

use std::fs;
use std::path::Path;

use candle_core::{DType, Tensor};
use clap_audio::{FeatureConfig, Preset, Truncation};

use super::{CPU, Tiny, tiny, tiny_of};
use crate::checkpoint::{Format, save_laion};
use crate::{AudioConfig, ClapConfig, FusionType, HtsAtConfig, Opened, load_folder, open, open_model};

/// A model of LAION's front end and image, as small as these let it be; its sizes can be read off its shapes.
pub(super) fn laions(fusion: Option<FusionType>) -> Tiny {
    let Tiny { config, tokenizer, .. } = tiny(fusion);
    let mut config = ClapConfig {
        audio_config: HtsAtConfig {
            patch_embeds_hidden_size: 8,
            hidden_size: 16,
            depths: vec![1, 2],
            num_attention_heads: vec![1, 2],
            enable_fusion: fusion.is_some(),
            fusion_type: fusion,
            drop_path_rate: 0.1,
            ..HtsAtConfig::default()
        }
        .into(),
        ..config
    };
    let text = &mut config.text_config;
    (text.hidden_size, text.num_attention_heads, text.layer_norm_eps, text.context_length) = (64, 1, 1e-5, 77);
    text.max_position_embeddings = 80;
    let truncation = if fusion.is_some() { Truncation::Fusion } else { Truncation::RandTrunc };
    tiny_of(config, FeatureConfig::published(truncation), tokenizer)
}

fn write(tiny: &Tiny, folder: &Path) -> std::path::PathBuf {
    let path = folder.join("630k-best.pt");
    save_laion(&path, &tiny.config, &tiny.features, &tiny.tensors).unwrap();
    path
}

/// The window's length is in no bare file: another model than LAION's has to bring it.
#[test]
fn a_window_that_is_not_laions_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut tiny = laions(None);
    let AudioConfig::HtsAt(audio) = &mut tiny.config.audio_config else { panic!("not an HTS-AT") };
    audio.spec_size = 128;
    let tiny = tiny_of(tiny.config, FeatureConfig { max_length_s: 2.0, ..tiny.features }, tiny.tokenizer);
    let path = write(&tiny, dir.path());
    let message = open(&path).unwrap_err().to_string();
    assert!(message.contains("630k-best.pt") && message.contains("window of 10 s"), "{message}");
    assert!(message.contains("preprocessor_config.json beside it"), "{message}");
    let folder = dir.path().join("hf");
    tiny.save(&folder).unwrap();
    fs::copy(folder.join("preprocessor_config.json"), dir.path().join("preprocessor_config.json")).unwrap();
    let Opened::Model(found) = open(&path).unwrap() else { panic!("no model") };
    assert_eq!(found.features.max_length_s, 2.0);
}

#[test]
fn a_bare_file_is_the_model_of_its_folder() {
    for fusion in [None, Some(FusionType::Aff2d), Some(FusionType::Iaff2d), Some(FusionType::ChannelMap)] {
        let dir = tempfile::tempdir().unwrap();
        let tiny = laions(fusion);
        let path = write(&tiny, dir.path());
        tiny.tokenizer.save(&dir.path().join("tokenizer.json")).unwrap();
        let folder = dir.path().join("hf");
        tiny.save(&folder).unwrap();
        let expected = load_folder(&folder).unwrap().model(DType::F32, &CPU).unwrap();
        // The file itself, and a folder with no more than it and the tokenizer.
        for path in [&path, dir.path()] {
            let found = load_folder(path).unwrap();
            assert_eq!((&found.config, &found.features), (&tiny.config, &tiny.features), "{fusion:?}");
            assert_eq!((found.checkpoint.format(), found.preset()), (Format::Laion, Preset::Laion));
            let model = found.model(DType::F32, &CPU).unwrap();
            assert_eq!(tiny.embed(&model), tiny.embed(&expected), "{fusion:?}");
            let (ids, mask) = tiny.tokenizer.encode(&["a dog barks"], 20).unwrap();
            let text =
                |model: &crate::ClapModel| model.get_text_features(&ids, &mask).unwrap().to_vec2::<f32>().unwrap();
            assert_eq!(text(&model), text(&expected));
        }
    }
}

#[test]
fn a_file_needs_no_tokenizer_until_it_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let tiny = laions(None);
    let path = write(&tiny, dir.path());
    open_model(&path).unwrap().model(DType::F32, &CPU).unwrap();
    let file = elsewhere.path().join("tokenizer.json");
    tiny.tokenizer.save(&file).unwrap();
    for given in [elsewhere.path(), &file] {
        let model = open_model(&path).unwrap().with_tokenizer(Some(given)).unwrap();
        assert_eq!(model.tokenizer.vocab_size(), tiny.tokenizer.vocab_size());
    }
}

#[test]
fn what_lies_beside_a_file_says_more_than_its_shapes() {
    let dir = tempfile::tempdir().unwrap();
    let tiny = laions(None);
    let path = write(&tiny, dir.path());
    let front_end = FeatureConfig { max_length_s: 5.0, ..tiny.features.clone() };
    fs::write(dir.path().join("preprocessor_config.json"), serde_json::to_string(&front_end).unwrap()).unwrap();
    assert_eq!(open_model(&path).unwrap().features, front_end);

    // A configuration of another program's is none of this file's.
    fs::write(dir.path().join("config.json"), r#"{"model_type":"gpt2"}"#).unwrap();
    assert_eq!(open_model(&path).unwrap().config, tiny.config);
    let mut config = tiny.config.clone();
    config.text_config.layer_norm_eps = 1e-12;
    let mut json = serde_json::to_value(&config).unwrap();
    json["model_type"] = "clap".into();
    fs::write(dir.path().join("config.json"), json.to_string()).unwrap();
    assert_eq!(open_model(&path).unwrap().config, config);
}

#[test]
fn a_weight_file_of_a_folder_stands_for_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    let tiny = tiny(None);
    let folder = dir.path().join("model");
    tiny.save(&folder).unwrap();
    let file = open_model(&folder.join("model.safetensors")).unwrap();
    assert_eq!(file.config, tiny.config);
    fs::remove_file(folder.join("config.json")).unwrap();
    let message = open_model(&folder.join("model.safetensors")).unwrap_err().to_string();
    assert!(message.contains("config.json"), "{message}");
}

#[test]
fn what_is_no_model_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let tiny = laions(None);
    let save = |name: &str, tensors: Vec<(String, Tensor)>| {
        let path = dir.path().join(name);
        safetensors::serialize_to_file(tensors, None, &path).unwrap();
        path
    };
    let zeros = |key: &str| (key.to_owned(), Tensor::zeros(2, DType::F32, &CPU).unwrap());
    let message = open(&save("a.safetensors", vec![zeros("weight"), zeros("bias")])).unwrap_err().to_string();
    assert!(message.contains("a.safetensors") && message.contains("bias, weight"), "{message}");

    let laion = super::laion::to_laion(&tiny.tensors).unwrap();
    let without = |root: &str| laion.clone().into_iter().filter(|(key, _)| !key.starts_with(root)).collect();
    for (root, part) in
        [("audio_branch", "audio tower"), ("text_branch", "text tower"), ("audio_projection", "projection")]
    {
        let message = open(&save("b.safetensors", without(root))).unwrap_err().to_string();
        assert!(message.contains(part), "{part} in {message}");
    }

    // A bank of nobody's.
    let mut tensors = laion.clone();
    let bank = Tensor::ones((513, 64), DType::F32, &CPU).unwrap();
    tensors.insert("audio_branch.logmel_extractor.melW".to_owned(), bank);
    let message = open(&save("c.safetensors", tensors.into_iter().collect())).unwrap_err().to_string();
    assert!(message.contains("mel bank") && message.contains("preprocessor_config.json"), "{message}");
}

/// Without masks and banks, LAION's usual image and front end are taken.
#[test]
fn a_file_without_buffers_has_laions_front_end() {
    let dir = tempfile::tempdir().unwrap();
    let tiny = laions(Some(FusionType::Daf2d));
    let path = dir.path().join("a.pt");
    let laion = super::laion::to_laion(&tiny.tensors).unwrap();
    safetensors::serialize_to_file(laion, None, &path).unwrap();
    let Opened::Model(model) = open(&path).unwrap() else { panic!("a model") };
    assert_eq!((&model.config, &model.features), (&tiny.config, &tiny.features));
    let AudioConfig::HtsAt(audio) = &model.config.audio_config else { panic!("an HTS-AT") };
    assert_eq!(audio.spec_size, 256);
}
