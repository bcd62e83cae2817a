//! From one program's layout to the other's and back: every tensor that was there is there again, bit for bit.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use candle_core::{DType, Tensor};

use super::{CPU, Tiny, tiny, tiny_pann};
use crate::checkpoint::{Checkpoint, EXTRA, Format, save_folder, save_laion};
use crate::{FusionType, load_folder};

/// Types, shapes and bits.
fn bits(tensors: &HashMap<String, Tensor>) -> Vec<(String, DType, Vec<usize>, Vec<u8>)> {
    let mut all: Vec<_> = tensors
        .iter()
        .map(|(name, tensor)| {
            let flat = tensor.flatten_all().unwrap();
            let bytes = match tensor.dtype() {
                DType::I64 => flat.to_vec1::<i64>().unwrap().into_iter().flat_map(i64::to_le_bytes).collect(),
                // What half a float holds, a float holds exactly.
                _ => flat
                    .to_dtype(DType::F32)
                    .unwrap()
                    .to_vec1::<f32>()
                    .unwrap()
                    .into_iter()
                    .flat_map(f32::to_le_bytes)
                    .collect(),
            };
            (name.clone(), tensor.dtype(), tensor.dims().to_vec(), bytes)
        })
        .collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

fn stored(path: &Path) -> HashMap<String, Tensor> {
    Checkpoint::open(path).unwrap().stored_tensors(&CPU).unwrap()
}

fn to_laion(tiny: &Tiny, path: &Path, tensors: &HashMap<String, Tensor>) {
    save_laion(path, &tiny.config, &tiny.features, tensors).unwrap();
}

#[test]
fn laion_and_back_is_bit_exact() {
    let fusions = [None, Some(FusionType::Aff2d), Some(FusionType::Iaff1d), Some(FusionType::ChannelMap)];
    for tiny in fusions.map(tiny).into_iter().chain(fusions.map(tiny_pann)) {
        let dir = tempfile::tempdir().unwrap();
        let (first, folder, second) = (dir.path().join("a.pt"), dir.path().join("hf"), dir.path().join("b.pt"));
        // A file of LAION's own has values of its own in every head and counter.
        let mut tensors = tiny.tensors.clone();
        let head = Tensor::randn(0f32, 1., (10, 10), &CPU).unwrap();
        tensors.insert("audio_transform.sequential.3.weight".to_owned(), head);
        let counter = Tensor::new(1234i64, &CPU).unwrap();
        tensors.insert("audio_model.audio_encoder.batch_norm.num_batches_tracked".to_owned(), counter);
        to_laion(&tiny, &first, &tensors);

        let from_laion = stored(&first);
        assert_eq!(Checkpoint::open(&first).unwrap().format(), Format::Laion);
        save_folder(&folder, &tiny.config, &tiny.features, &from_laion, &tiny.tokenizer).unwrap();
        let hf = load_folder(&folder).unwrap().checkpoint.stored_tensors(&CPU).unwrap();
        to_laion(&tiny, &second, &hf);
        assert!(bits(&from_laion) == bits(&stored(&second)), "{:?}", tiny.config.audio_config);
        load_folder(&folder).unwrap().model(DType::F32, &CPU).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3, "nothing provisional is left");
    }
}

#[test]
fn hugging_face_and_back_is_bit_exact() {
    let dir = tempfile::tempdir().unwrap();
    let tiny = tiny(Some(FusionType::Iaff2d));
    let (first, middle, second) = (dir.path().join("a"), dir.path().join("b.pt"), dir.path().join("c"));
    // Half precision stays half precision.
    let half = tiny.tensors.iter().map(|(name, t)| (name.clone(), t.to_dtype(DType::F16).unwrap())).collect();
    save_folder(&first, &tiny.config, &tiny.features, &half, &tiny.tokenizer).unwrap();
    let before = stored(&first.join("model.safetensors"));
    to_laion(&tiny, &middle, &before);
    save_folder(&second, &tiny.config, &tiny.features, &stored(&middle), &tiny.tokenizer).unwrap();
    assert!(bits(&before) == bits(&stored(&second.join("model.safetensors"))));
}

#[test]
fn transformers_is_not_shown_what_it_has_no_place_for() {
    let dir = tempfile::tempdir().unwrap();
    let (file, folder) = (dir.path().join("a.pt"), dir.path().join("hf"));
    let tiny = tiny(None);
    to_laion(&tiny, &file, &tiny.tensors);
    save_folder(&folder, &tiny.config, &tiny.features, &stored(&file), &tiny.tokenizer).unwrap();
    let (weights, extra) = (stored(&folder.join("model.safetensors")), stored(&folder.join(EXTRA)));
    let of_tower = |key: &str| format!("audio_model.audio_encoder.{key}");
    for key in [
        of_tower("tscam_conv.weight"),
        of_tower("head.bias"),
        of_tower("logmel_extractor.melW"),
        "text_transform.sequential.0.weight".to_owned(),
    ] {
        assert!(!weights.contains_key(&key) && extra.contains_key(&key), "{key}");
    }
    load_folder(&folder).unwrap().model(DType::F32, &CPU).unwrap();
}

#[test]
fn a_file_that_cannot_be_written_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let tiny = tiny(None);
    let path = dir.path().join("absent").join("a.pt");
    let message = save_laion(&path, &tiny.config, &tiny.features, &tiny.tensors).unwrap_err().to_string();
    assert!(message.contains("absent"), "{message}");
    // A third of a joined weight is no weight.
    let mut tensors = tiny.tensors.clone();
    tensors.retain(|name, _| !name.ends_with("layers.0.blocks.0.attention.self.key.weight"));
    let path = dir.path().join("a.pt");
    let message = save_laion(&path, &tiny.config, &tiny.features, &tensors).unwrap_err().to_string();
    assert!(message.contains("query, key and value"), "{message}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
