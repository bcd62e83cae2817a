//! Checkpoints in and out, of files made here: what agrees loads bit-exact, what disagrees is named.

mod bare;
mod conversion;
mod open_clip;
mod tagging_head;
mod text_towers;
pub(in crate::checkpoint) mod torch_archive;
mod towers;

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use clap_audio::{FeatureConfig, Truncation};
use torch_archive::{torch_archive, torch_archive_claiming};

use super::{Checkpoint, Format, laion, save_folder, save_folder_with};
use crate::{
    AudioConfig, ClapConfig, ClapModel, ClapTokenizer, Error, FusionType, HtsAtConfig, PannConfig, TextConfig,
    TextModelType, load_folder,
};

const CPU: Device = Device::Cpu;

/// A model of odd sizes, its weights, its front end and its tokenizer.
pub(crate) struct Tiny {
    pub(crate) config: ClapConfig,
    pub(crate) features: FeatureConfig,
    pub(crate) tensors: HashMap<String, Tensor>,
    pub(crate) tokenizer: ClapTokenizer,
}

pub(crate) fn tiny(fusion: Option<FusionType>) -> Tiny {
    let tokenizer =
        ClapTokenizer::train_bpe(&["a dog barks", "a dog sleeps", "rain on a roof", "rain and a dog"], 280).unwrap();
    tiny_with(fusion, TextModelType::Roberta, tokenizer)
}

/// A model whose text tower goes with `tokenizer`.
fn tiny_with(fusion: Option<FusionType>, model_type: TextModelType, tokenizer: ClapTokenizer) -> Tiny {
    let frame = tokenizer.encode_ids(&[""], 3).unwrap().concat();
    let config = ClapConfig {
        projection_dim: 10,
        audio_config: HtsAtConfig {
            window_size: 4,
            num_mel_bins: 16,
            spec_size: 32,
            depths: vec![1, 2],
            num_attention_heads: vec![2, 3],
            patch_embeds_hidden_size: 6,
            hidden_size: 12,
            enable_fusion: fusion.is_some(),
            fusion_type: fusion,
            ..HtsAtConfig::default()
        }
        .into(),
        text_config: TextConfig {
            model_type,
            vocab_size: tokenizer.vocab_size().max(280),
            hidden_size: 12,
            num_hidden_layers: 1,
            num_attention_heads: 3,
            intermediate_size: 14,
            max_position_embeddings: 30,
            context_length: 20,
            pad_token_id: tokenizer.pad_id(),
            bos_token_id: frame[0],
            eos_token_id: frame[1],
            ..TextConfig::default()
        },
        ..ClapConfig::default()
    };
    let truncation = if fusion.is_some() { Truncation::Fusion } else { Truncation::RandTrunc };
    let features = FeatureConfig {
        feature_size: 16,
        sampling_rate: 8000,
        hop_length: 320,
        fft_window_size: 512,
        frequency_min: 50.0,
        frequency_max: 4000.0,
        max_length_s: 2.0,
        truncation,
        ..FeatureConfig::default()
    };
    tiny_of(config, features, tokenizer)
}

/// A model of that configuration, with weights.
fn tiny_of(config: ClapConfig, features: FeatureConfig, tokenizer: ClapTokenizer) -> Tiny {
    // Values of 0.02 would make all embeddings alike.
    let tensors = weights(&config, 20.0);
    Tiny { config, features, tensors, tokenizer }
}

/// As [`tiny`], with a convolutional audio tower.
fn tiny_pann(fusion: Option<FusionType>) -> Tiny {
    let mut tiny = tiny(fusion);
    tiny.config.audio_config = PannConfig {
        num_mel_bins: 16,
        block_widths: vec![8, 10],
        pooled_blocks: 2,
        hidden_size: 14,
        num_classes: 5,
        enable_fusion: fusion.is_some(),
        fusion_type: fusion,
        ..PannConfig::cnn14()
    }
    .into();
    tiny.tensors = weights(&tiny.config, 1.0);
    tiny
}

/// Weights of a new model, its matrices `scale` times as large.
fn weights(config: &ClapConfig, scale: f64) -> HashMap<String, Tensor> {
    let (vars, vb) = clap_nn::init::seeded_vars(9, &CPU, DType::F32);
    ClapModel::new(config, vb).unwrap();
    let scaled = |t: Tensor| if t.rank() >= 2 { (t * scale).unwrap() } else { t.copy().unwrap() };
    vars.to_tensors().into_iter().map(|(name, t)| (name, scaled(t))).collect()
}

impl Tiny {
    pub(crate) fn save(&self, folder: &Path) -> crate::Result<()> {
        save_folder(folder, &self.config, &self.features, &self.tensors, &self.tokenizer)
    }

    /// What the model makes of a fixed input.
    fn embed(&self, model: &ClapModel) -> Vec<Vec<f32>> {
        let audio = &self.config.audio_config;
        let shape = (2, audio.views(), audio.max_frames().unwrap_or(64) - 3, audio.num_mel_bins());
        let n = shape.0 * shape.1 * shape.2 * shape.3;
        let xs: Vec<f32> = (0..n).map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0).collect();
        let xs = Tensor::from_vec(xs, shape, &CPU).unwrap();
        model.get_audio_features(&xs, &[true, false]).unwrap().to_vec2().unwrap()
    }

    fn build(&self, checkpoint: &Checkpoint) -> crate::Result<ClapModel> {
        checkpoint.build(DType::F32, &CPU, |vb| ClapModel::new(&self.config, vb))
    }
}

fn checkpoint(tensors: &HashMap<String, Tensor>) -> Checkpoint {
    Checkpoint::from_tensors(tensors.clone()).unwrap()
}

#[test]
fn what_is_saved_is_what_is_loaded() {
    for fusion in [None, Some(FusionType::Aff2d), Some(FusionType::Iaff2d), Some(FusionType::ChannelMap)] {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("runs").join("model");
        let tiny = tiny(fusion);
        tiny.save(&folder).unwrap();
        let loaded = load_folder(&folder).unwrap();
        assert_eq!((&loaded.config, &loaded.features), (&tiny.config, &tiny.features));
        assert_eq!(loaded.checkpoint.format(), Format::HuggingFace);
        let again = loaded.checkpoint.stored_tensors(&CPU).unwrap();
        for (name, tensor) in &tiny.tensors {
            let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(flat(tensor), flat(&again[name]), "{name}");
        }
        let model = loaded.model(DType::F32, &CPU).unwrap();
        assert_eq!(tiny.embed(&model), tiny.embed(&tiny.build(&checkpoint(&tiny.tensors)).unwrap()));
        let left: Vec<_> = fs::read_dir(dir.path().join("runs")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["model"], "nothing provisional is left");
    }
}

#[test]
fn laions_names_give_the_same_model() {
    let tiny = tiny(Some(FusionType::Aff2d));
    let laion = laion::to_laion(&tiny.tensors).unwrap();
    let parallel: HashMap<String, Tensor> = laion.into_iter().map(|(k, v)| (format!("module.{k}"), v)).collect();
    let checkpoint = checkpoint(&parallel);
    assert_eq!(checkpoint.format(), Format::Laion);
    let model = tiny.build(&checkpoint).unwrap();
    assert_eq!(tiny.embed(&model), tiny.embed(&tiny.build(&self::checkpoint(&tiny.tensors)).unwrap()));
}

#[test]
fn sizes_are_read_off_the_shapes() {
    for fusion in
        [None, Some(FusionType::Aff2d), Some(FusionType::Iaff2d), Some(FusionType::Daf2d), Some(FusionType::ChannelMap)]
    {
        let tiny = tiny(fusion);
        let mut tensors = tiny.tensors.clone();
        // The second block of the first stage would carry a mask; give the first stage's geometry that way.
        let mask = Tensor::zeros((4, 16, 16), DType::F32, &CPU).unwrap();
        tensors.insert("audio_model.audio_encoder.layers.0.blocks.1.attn_mask".to_owned(), mask);
        let checkpoint = checkpoint(&tensors);
        let audio = checkpoint.detect_audio_config().unwrap();
        assert_eq!(audio, tiny.config.audio_config);
        let text = checkpoint.detect_text_config().unwrap();
        assert_eq!((text.vocab_size, text.num_hidden_layers, text.intermediate_size), (280, 1, 14));
        assert_eq!(text.max_position_embeddings, 30);
    }
}

#[test]
fn every_disagreement_is_named_at_once() {
    let tiny = tiny(None);
    let mut tensors = tiny.tensors.clone();
    tensors.remove("text_model.pooler.dense.bias");
    tensors.insert("audio_projection.linear1.weight".to_owned(), Tensor::zeros((7, 12), DType::F32, &CPU).unwrap());
    tensors.insert("surprise".to_owned(), Tensor::zeros(1, DType::F32, &CPU).unwrap());
    // Known not to be in the model:
    tensors.insert("text_model.embeddings.position_ids".to_owned(), Tensor::zeros((1, 30), DType::I64, &CPU).unwrap());
    tensors.insert("audio_transform.sequential.0.bias".to_owned(), Tensor::zeros(10, DType::F32, &CPU).unwrap());
    let error = tiny.build(&checkpoint(&tensors)).unwrap_err();
    let Error::Keys { report, .. } = &error else { panic!("{error}") };
    assert_eq!(report.missing, ["text_model.pooler.dense.bias"]);
    assert_eq!(report.unexpected, ["surprise"]);
    assert_eq!(report.mismatched, [("audio_projection.linear1.weight".to_owned(), vec![10, 12], vec![7, 12])]);
    let message = error.to_string();
    assert!(message.contains("the config asks for [10, 12], the file holds [7, 12]"), "{message}");
}

#[test]
fn what_is_missing_can_be_let_pass_but_no_other_shape() {
    let tiny = tiny(None);
    let mut tensors = tiny.tensors.clone();
    tensors.remove("text_model.pooler.dense.bias");
    tensors.insert("surprise".to_owned(), Tensor::zeros(1, DType::F32, &CPU).unwrap());
    let build = |tensors: &HashMap<String, Tensor>| {
        checkpoint(tensors).build_allowing_missing(DType::F32, &CPU, |vb| ClapModel::new(&tiny.config, vb))
    };
    let (model, report) = build(&tensors).unwrap();
    assert_eq!(
        (&report.missing[..], &report.unexpected[..]),
        (&["text_model.pooler.dense.bias".to_owned()][..], &["surprise".to_owned()][..])
    );
    assert_eq!(
        tiny.embed(&model),
        tiny.embed(&tiny.build(&checkpoint(&tiny.tensors)).unwrap()),
        "the audio side is whole"
    );
    tensors.insert("logit_scale_a".to_owned(), Tensor::zeros(3, DType::F32, &CPU).unwrap());
    assert!(build(&tensors).unwrap_err().to_string().contains("logit_scale_a"));
}

#[test]
fn variables_are_filled_whole_or_not_at_all() {
    let tiny = tiny(None);
    let (vars, vb) = clap_nn::init::seeded_vars(1, &CPU, DType::F32);
    ClapModel::new(&tiny.config, vb).unwrap();
    let before = vars.get("audio_projection.linear1.bias").unwrap().copy().unwrap();
    let mut tensors = tiny.tensors.clone();
    tensors.remove("text_model.pooler.dense.bias");
    let message = checkpoint(&tensors).fill(&vars, |_| false).unwrap_err().to_string();
    assert!(message.contains("text_model.pooler.dense.bias"), "{message}");
    let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let now = |name: &str| values(vars.get(name).unwrap().as_tensor());
    assert_eq!(values(&before), now("audio_projection.linear1.bias"));
    checkpoint(&tiny.tensors).fill(&vars, |_| false).unwrap();
    for (name, tensor) in &tiny.tensors {
        assert_eq!(values(tensor), now(name), "{name}");
    }
}

#[test]
fn fused_weights_are_unexpected_in_an_unfused_model() {
    let (fused, plain) = (tiny(Some(FusionType::Aff2d)), tiny(None));
    let error = plain.build(&checkpoint(&fused.tensors)).unwrap_err();
    let Error::Keys { report, .. } = &error else { panic!("{error}") };
    assert!(report.unexpected.iter().any(|key| key.contains("mel_conv2d")), "{error}");
    let error = fused.build(&checkpoint(&plain.tensors)).unwrap_err();
    let Error::Keys { report, .. } = &error else { panic!("{error}") };
    assert!(report.missing.iter().any(|key| key.contains("mel_conv2d")), "{error}");
}

#[test]
fn a_folder_holds_what_transformers_asks_for() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("model");
    let tiny = tiny(Some(FusionType::Aff2d));
    tiny.save(&folder).unwrap();
    let json = |name: &str| -> serde_json::Value {
        serde_json::from_str(&fs::read_to_string(folder.join(name)).unwrap()).unwrap()
    };
    let config = json("config.json");
    assert_eq!((&config["model_type"], &config["architectures"][0]), (&"clap".into(), &"ClapModel".into()));
    assert_eq!(config["audio_config"]["projection_dim"], 10);
    let features = json("preprocessor_config.json");
    assert_eq!(features["feature_extractor_type"], "ClapFeatureExtractor");
    assert!(features["max_length_s"].is_u64(), "transformers pads by this number of seconds times the rate");
    assert_eq!(json("tokenizer_config.json")["pad_token"], "<pad>");

    let bytes = fs::read(folder.join("model.safetensors")).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(header.metadata().as_ref().unwrap()["format"], "pt");
    let names = header.tensors();
    for buffer in [
        "text_model.embeddings.position_ids",
        "text_model.embeddings.token_type_ids",
        "audio_model.audio_encoder.batch_norm.num_batches_tracked",
        "audio_model.audio_encoder.layers.1.blocks.1.attention.self.relative_position_index",
        "audio_model.audio_encoder.patch_embed.fusion_model.global_att.5.num_batches_tracked",
    ] {
        assert_eq!(names.get(buffer).unwrap().dtype, safetensors::Dtype::I64, "{buffer}");
    }
}

#[test]
fn a_model_is_replaced_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("model");
    let tiny = tiny(None);
    let (config, features, tensors, tokenizer) = (&tiny.config, &tiny.features, &tiny.tensors, &tiny.tokenizer);
    save_folder_with(&folder, config, features, tensors, tokenizer, |draft| {
        fs::write(draft.join("trainer.json"), "1").map_err(Error::io(draft))
    })
    .unwrap();
    let failed = save_folder_with(&folder, config, features, tensors, tokenizer, |draft| {
        fs::write(draft.join("trainer.json"), "2").map_err(Error::io(draft))?;
        Err(Error::input("the disk", "is full"))
    });
    assert!(failed.unwrap_err().to_string().contains("is full"));
    assert_eq!(fs::read_to_string(folder.join("trainer.json")).unwrap(), "1", "the old folder is as it was");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing provisional is left");
    tiny.save(&folder).unwrap();
    assert!(!folder.join("trainer.json").exists(), "the new folder is the new one alone");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_folder_of_other_things_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("thesis.tex"), "").unwrap();
    let message = tiny(None).save(dir.path()).unwrap_err().to_string();
    assert!(message.contains("no model folder"), "{message}");
    assert!(dir.path().join("thesis.tex").exists());
}

#[test]
fn what_only_looks_like_a_model_folder_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("site");
    let tiny = tiny(None);
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("thesis.tex"), "").unwrap();
    for config in ["{}", r#"{"model_type":"bert"}"#, "not JSON"] {
        fs::write(folder.join("config.json"), config).unwrap();
        let message = tiny.save(&folder).unwrap_err().to_string();
        assert!(message.contains("site") && message.contains("no model folder"), "{message}");
        assert!(folder.join("thesis.tex").exists());
    }
    let file = dir.path().join("notes");
    fs::write(&file, "text").unwrap();
    let message = tiny.save(&file).unwrap_err().to_string();
    assert!(message.contains("notes") && message.contains("no model folder"), "{message}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "text");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing provisional is left");
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    tiny.save(&empty).unwrap();
    load_folder(&empty).unwrap();
}

/// A process that ends during a save leaves the older folder, the draft or both under hidden names.
#[test]
fn a_save_that_was_cut_short_does_not_block_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, old) = (dir.path().join("model"), dir.path().join(".model.clap-old"));
    let tiny = tiny(None);
    let fails = || {
        let (config, features, tensors, tokenizer) = (&tiny.config, &tiny.features, &tiny.tensors, &tiny.tokenizer);
        save_folder_with(&folder, config, features, tensors, tokenizer, |_| Err(Error::input("the disk", "is full")))
    };
    tiny.save(&folder).unwrap();
    fs::write(folder.join("first"), "").unwrap();
    // Ended between the two renames: even a save that fails gives the older folder its name back.
    fs::rename(&folder, &old).unwrap();
    fs::create_dir(dir.path().join(".model.clap-new")).unwrap();
    fs::write(dir.path().join(".model.clap-new").join("config.json"), "{").unwrap();
    fails().unwrap_err();
    assert!(folder.join("first").exists());
    load_folder(&folder).unwrap();
    // Ended while the older folder was being removed.
    fs::create_dir(&old).unwrap();
    fs::write(old.join("model.safetensors"), "").unwrap();
    tiny.save(&folder).unwrap();
    assert!(!folder.join("first").exists());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing provisional is left");
}

#[cfg(unix)]
#[test]
fn whoever_may_read_one_file_may_read_all() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("model");
    tiny(None).save(&folder).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
    let expected = mode(&folder.join("config.json"));
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), expected, "{}", path.display());
    }
}

#[test]
fn two_tensors_of_one_weight_are_refused_by_both_names() {
    let mut tensors = laion::to_laion(&tiny(None).tensors).unwrap();
    let name = "audio_projection.0.bias";
    tensors.insert(format!("module.{name}"), tensors[name].clone());
    let message = Checkpoint::from_tensors(tensors).unwrap_err().to_string();
    for part in ["`audio_projection.0.bias`", "`module.audio_projection.0.bias`", "both audio_projection.linear1.bias"]
    {
        assert!(message.contains(part), "{part} in {message}");
    }
}

#[test]
fn integers_are_no_weights() {
    let tiny = tiny(None);
    let mut tensors = tiny.tensors.clone();
    let name = "audio_projection.linear1.bias";
    tensors.insert(name.to_owned(), Tensor::zeros(10, DType::I64, &CPU).unwrap());
    let message = tiny.build(&checkpoint(&tensors)).unwrap_err().to_string();
    assert!(message.contains(name) && message.contains("i64"), "{message}");
    let half = Tensor::zeros(10, DType::F16, &CPU).unwrap();
    tensors.insert(name.to_owned(), half);
    tiny.build(&checkpoint(&tensors)).unwrap();
}

/// Splits a saved model's weights over shards, as `save_pretrained` does, and returns the index.
fn shard(folder: &Path, tensors: &HashMap<String, Tensor>) -> serde_json::Value {
    fs::remove_file(folder.join("model.safetensors")).unwrap();
    let mut map = serde_json::Map::new();
    for part in 0..2 {
        let name = format!("model-{part}.safetensors");
        let share: HashMap<&String, &Tensor> = tensors.iter().filter(|(key, _)| key.len() % 2 == part).collect();
        map.extend(share.keys().map(|key| ((*key).clone(), name.clone().into())));
        safetensors::serialize_to_file(share, None, &folder.join(name)).unwrap();
    }
    serde_json::json!({ "weight_map": map })
}

#[test]
fn shards_lie_beside_their_index_each_weight_in_one() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("model");
    let tiny = tiny(None);
    tiny.save(&folder).unwrap();
    let index = shard(&folder, &tiny.tensors);
    let write = |json: &serde_json::Value| {
        fs::write(folder.join("model.safetensors.index.json"), json.to_string()).unwrap();
    };
    write(&index);
    let model = load_folder(&folder).unwrap().model(DType::F32, &CPU).unwrap();
    assert_eq!(tiny.embed(&model), tiny.embed(&tiny.build(&checkpoint(&tiny.tensors)).unwrap()));

    fs::copy(folder.join("model-0.safetensors"), dir.path().join("elsewhere.safetensors")).unwrap();
    let absolute = dir.path().join("elsewhere.safetensors").display().to_string();
    for name in ["../elsewhere.safetensors", "sub/x.safetensors", "..\\x.safetensors", "..", "", absolute.as_str()] {
        let mut other = index.clone();
        other["weight_map"]["surprise"] = name.into();
        write(&other);
        let message = load_folder(&folder).unwrap_err().to_string();
        assert!(message.contains("index.json") && message.contains("plain file name"), "{message}");
    }
    let mut other = index.clone();
    other["weight_map"]["surprise"] = "model-7.safetensors".into();
    write(&other);
    let message = load_folder(&folder).unwrap_err().to_string();
    assert!(message.contains("model-7.safetensors") && message.contains("not there"), "{message}");

    // The same weight in both shards.
    fs::copy(folder.join("model-0.safetensors"), folder.join("model-1.safetensors")).unwrap();
    write(&index);
    let message = load_folder(&folder).unwrap_err().to_string();
    assert!(message.contains("model-1.safetensors") && message.contains("which of them is meant"), "{message}");
}

/// A model whose stand-ins would fill the memory is given up at once: no weight here is in the file.
#[test]
fn a_configuration_far_beyond_the_file_is_refused_without_its_memory() {
    let mut tiny = tiny(None);
    let text = &mut tiny.config.text_config;
    (text.hidden_size, text.num_attention_heads, text.intermediate_size) = (1 << 16, 1 << 10, 1 << 16);
    let AudioConfig::HtsAt(audio) = &mut tiny.config.audio_config else { unreachable!("tiny is an HTS-AT") };
    (audio.patch_embeds_hidden_size, audio.hidden_size) = (1 << 15, 1 << 16);
    (audio.num_attention_heads, audio.depths) = (vec![1 << 10, 1 << 10], vec![1000, 1000]);
    tiny.config.validate().unwrap();
    let error = tiny.build(&checkpoint(&tiny.tensors)).unwrap_err();
    assert!(matches!(&error, Error::Keys { report, .. } if !report.mismatched.is_empty()), "{error}");
}

/// A file of a few hundred bytes that claims 4 GB, or more elements than can be counted.
#[test]
fn an_archive_cannot_claim_more_than_it_holds() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pytorch_model.bin");
    let small = Tensor::zeros((2, 3), DType::F32, &CPU).unwrap();
    for dims in [vec![1usize << 30], vec![1 << 30, 1 << 30, 1 << 30]] {
        fs::write(&path, torch_archive_claiming(&[("text_model.pooler.dense.bias", small.clone())], &dims)).unwrap();
        let message = Checkpoint::open(&path).unwrap_err().to_string();
        assert!(
            message.contains("text_model.pooler.dense.bias") && message.contains("24 bytes of its storage"),
            "{message}"
        );
    }
}

#[test]
fn a_laion_archive_loads_as_the_same_model() {
    let dir = tempfile::tempdir().unwrap();
    let tiny = tiny(Some(FusionType::Aff2d));
    let laion = laion::to_laion(&tiny.tensors).unwrap();
    let mut tensors: Vec<(String, Tensor)> = laion.into_iter().map(|(k, v)| (format!("module.{k}"), v)).collect();
    tensors.push((
        "module.text_branch.embeddings.position_ids".to_owned(),
        Tensor::arange(0i64, 30, &CPU).unwrap().unsqueeze(0).unwrap(),
    ));
    let tensors: Vec<(&str, Tensor)> = tensors.iter().map(|(k, v)| (k.as_str(), v.contiguous().unwrap())).collect();
    let path = dir.path().join("epoch_1.pt");
    fs::write(&path, torch_archive(&tensors, true)).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    assert_eq!(checkpoint.format(), Format::Laion);
    let model = tiny.build(&checkpoint).unwrap();
    assert_eq!(tiny.embed(&model), tiny.embed(&tiny.build(&self::checkpoint(&tiny.tensors)).unwrap()));
}

#[test]
fn a_hugging_face_archive_loads_as_the_same_model() {
    let dir = tempfile::tempdir().unwrap();
    let tiny = tiny(None);
    let tensors: Vec<(&str, Tensor)> =
        tiny.tensors.iter().map(|(k, v)| (k.as_str(), v.contiguous().unwrap())).collect();
    let path = dir.path().join("pytorch_model.bin");
    fs::write(&path, torch_archive(&tensors, false)).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    assert_eq!(checkpoint.format(), Format::HuggingFace);
    let model = tiny.build(&checkpoint).unwrap();
    assert_eq!(tiny.embed(&model), tiny.embed(&tiny.build(&self::checkpoint(&tiny.tensors)).unwrap()));
}

#[test]
fn broken_files_say_what_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let tiny = tiny(None);
    tiny.save(&dir.path().join("m")).unwrap();
    let whole = fs::read(dir.path().join("m").join("model.safetensors")).unwrap();
    let message = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        let message = Checkpoint::open(&path).unwrap_err().to_string();
        assert!(message.contains("model.safetensors"), "{message}");
        message
    };
    assert!(message(b"").contains("neither"));
    assert!(message(b"version https://git-lfs.github.com/spec/v1\n").contains("Git LFS"));
    assert!(message(&whole[..whole.len() / 2]).contains("download complete"));
    assert!(message(b"PK\x03\x04not really a zip").contains("ZIP archive"));
    assert!(message(&[0x80, 2, b'N', b'.', 0, 0, 0, 0, 0]).contains("not one that torch.save wrote"));
    assert!(message(&[0x80, 2, b'.', 0, 0, 0, 0, 0, 0]).contains("at byte 3 of it"));
    let mut absurd = whole.clone();
    absurd[6] = 0xff;
    assert!(message(&absurd).contains("safetensors"));
    let message = Checkpoint::open(&dir.path().join("absent")).unwrap_err().to_string();
    assert!(message.contains("absent"), "{message}");
}

#[test]
fn folders_whose_files_do_not_belong_together_name_the_key() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("model");
    let tiny = tiny(None);
    #[track_caller]
    fn refuses(folder: &Path, file: &str, edit: impl Fn(&mut serde_json::Value), key: &str) {
        let path = folder.join(file);
        let text = fs::read_to_string(&path).unwrap();
        let mut json = serde_json::from_str(&text).unwrap();
        edit(&mut json);
        fs::write(&path, json.to_string()).unwrap();
        let message = load_folder(folder).unwrap_err().to_string();
        assert!(message.contains(key), "expected {key} in: {message}");
        fs::write(&path, text).unwrap();
    }
    tiny.save(&folder).unwrap();
    refuses(&folder, "preprocessor_config.json", |j| j["feature_size"] = 32.into(), "num_mel_bins");
    refuses(&folder, "preprocessor_config.json", |j| j["max_length_s"] = 3.into(), "max_length_s");
    refuses(&folder, "preprocessor_config.json", |j| j["truncation"] = "fusion".into(), "enable_fusion");
    refuses(&folder, "config.json", |j| j["text_config"]["vocab_size"] = 100.into(), "vocab_size");
    refuses(&folder, "config.json", |j| j["text_config"]["pad_token_id"] = 4.into(), "pad_token_id");
    refuses(&folder, "config.json", |j| j["audio_config"]["window_size"] = 3.into(), "window_size");
    refuses(&folder, "config.json", |j| j["text_config"]["bos_token_id"] = 5.into(), "bos_token_id");
    // Without its post-processor the tokenizer frames nothing.
    refuses(&folder, "tokenizer.json", |j| j["post_processor"] = serde_json::Value::Null, "bos_token_id");
    for file in ["config.json", "preprocessor_config.json", "model.safetensors", "tokenizer.json"] {
        fs::rename(folder.join(file), folder.join("aside")).unwrap();
        let message = load_folder(&folder).unwrap_err().to_string();
        assert!(message.contains(file) && message.contains("holds"), "{message}");
        fs::write(folder.join(file), "{").unwrap();
        let message = load_folder(&folder).unwrap_err().to_string();
        assert!(message.contains(file), "{message}");
        fs::rename(folder.join("aside"), folder.join(file)).unwrap();
    }
    load_folder(&folder).unwrap();
}
