//! Two tiny T5s and what `transformers` 4.57.6 writes with them (`tests/files/t5`, made by `tests/reference/make_t5.py`).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value};

use super::network::Network;
use super::*;
use crate::checkpoint::{Checkpoint, Format};
use crate::error::Error;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/files/t5").join(name)
}

fn model(name: &str) -> CaptionModel {
    CaptionModel::from_pretrained(&folder(name), None, &Device::Cpu).unwrap()
}

/// What `generate` was given and returned.
#[derive(serde::Deserialize)]
struct Expected {
    prompts: Vec<String>,
    prompt_ids: Vec<Vec<u32>>,
    cases: BTreeMap<String, Case>,
    /// Of the case `beam_4_keytotext`.
    texts: Vec<String>,
    /// Of the token after 0, 5, 9, 14.
    logits: Vec<Vec<f32>>,
}

#[derive(serde::Deserialize)]
struct Case {
    options: Option<Map<String, Value>>,
    ids: Vec<Vec<u32>>,
}

fn expected(name: &str) -> Expected {
    serde_json::from_str(&fs::read_to_string(folder(name).join("expected.json")).unwrap()).unwrap()
}

/// The options of a case: keyword arguments of `generate`, over which the model's own say nothing.
fn generation(case: &Case, own: &Generation) -> Generation {
    let Some(options) = &case.options else { return own.clone() };
    let whole = |key: &str| options.get(key).map(|value| value.as_u64().unwrap() as usize);
    let number = |key: &str| options.get(key).map(|value| value.as_f64().unwrap());
    let token = |key: &str| whole(key).map(|id| id as u32);
    let ends = options.get("eos_token_id").map(|ids| serde_json::from_value(ids.clone()).unwrap());
    Generation {
        max_length: whole("max_length").unwrap(),
        min_length: whole("min_length").unwrap_or(own.min_length),
        num_beams: whole("num_beams").unwrap_or(1),
        length_penalty: number("length_penalty").unwrap_or(own.length_penalty),
        no_repeat_ngram_size: whole("no_repeat_ngram_size").unwrap_or(own.no_repeat_ngram_size),
        repetition_penalty: number("repetition_penalty").unwrap_or(1.0) as f32,
        early_stopping: match options.get("early_stopping") {
            None => own.early_stopping,
            Some(Value::String(word)) if word == "never" => EarlyStopping::Exact,
            Some(value) if *value == true => EarlyStopping::Enough,
            Some(other) => panic!("{other}"),
        },
        forced_bos_token_id: token("forced_bos_token_id"),
        forced_eos_token_id: token("forced_eos_token_id").into_iter().collect(),
        eos_token_id: ends.unwrap_or_else(|| own.eos_token_id.clone()),
        ..own.clone()
    }
}

#[track_caller]
fn same_ids(name: &str) {
    let (model, expected) = (model(name), expected(name));
    assert_eq!(model.encode(&expected.prompts).unwrap(), expected.prompt_ids);
    assert!(expected.cases.len() >= 14);
    for (case_name, case) in &expected.cases {
        let options = generation(case, model.generation());
        // The whole padded batch, and each prompt by itself.
        let ids = model.write_ids(&expected.prompt_ids, &options).unwrap();
        let with_start = |ids: &[u32]| [&[options.decoder_start_token_id][..], ids].concat();
        for (prompt, (found, expected_ids)) in ids.iter().zip(&case.ids).enumerate() {
            assert_eq!(with_start(found), *expected_ids, "{name} {case_name}, prompt {prompt}");
            let alone = model.write_ids(&expected.prompt_ids[prompt..=prompt], &options).unwrap();
            assert_eq!(&alone[0], found, "{name} {case_name}, prompt {prompt} alone");
        }
    }
    let options = generation(&expected.cases["beam_4_keytotext"], model.generation());
    assert_eq!(
        model.write(&expected.prompts, &options).unwrap(),
        expected.texts.iter().map(|text| text.trim()).collect::<Vec<_>>()
    );
}

/// The logits after a few given tokens, with the cache of keys and values.
#[track_caller]
fn same_logits(name: &str, weights: &str) {
    let config = T5Config::load(&folder(name).join("config.json")).unwrap();
    let weights = Checkpoint::open(&folder(name).join(weights)).unwrap();
    assert_eq!(weights.format(), Format::T5);
    let network = weights.build(candle_core::DType::F32, &Device::Cpu, |vb| Ok(Network::new(&config, vb)?)).unwrap();
    let Expected { prompt_ids, logits, .. } = expected(name);
    let width = prompt_ids.iter().map(Vec::len).max().unwrap();
    let pad = |value: u32, fill: Option<u32>| -> Vec<u32> {
        prompt_ids
            .iter()
            .flat_map(|ids| {
                let row = ids.iter().map(move |&id| fill.unwrap_or(id));
                row.chain(std::iter::repeat_n(value, width - ids.len())).collect::<Vec<_>>()
            })
            .collect()
    };
    let tensor = |values: Vec<u32>| Tensor::from_vec(values, (prompt_ids.len(), width), &Device::Cpu).unwrap();
    let mut writing = network.read(&tensor(pad(0, None)), &tensor(pad(0, Some(1))), 1).unwrap();
    let mut found = Vec::new();
    for token in [0, 5, 9, 14] {
        found = network.write(&vec![token; prompt_ids.len()], &mut writing).unwrap().to_vec2::<f32>().unwrap();
    }
    for (found, expected) in found.concat().iter().zip(logits.concat()) {
        assert!((found - expected).abs() < 2e-4, "{name}: {found} instead of {expected}");
    }
}

#[test]
fn a_t5_of_2019_writes_what_transformers_writes() {
    same_logits("relu", "pytorch_model.bin");
    same_ids("relu");
}

#[test]
fn a_t5_1_1_writes_what_transformers_writes() {
    same_logits("gated", "model.safetensors");
    same_ids("gated");
    assert_eq!((model("gated").generation().num_beams, model("gated").generation().max_length), (4, 18));
}

#[test]
fn draws_follow_their_generators() {
    let (model, expected) = (model("gated"), expected("gated"));
    let options = Generation { max_length: 12, ..Generation::default() };
    let draw = |prompts: &[Vec<u32>], sampling: Sampling, seed: u64| {
        let mut rngs: Vec<_> =
            (0..prompts.len() as u64).map(|prompt| ChaCha8Rng::seed_from_u64(seed + prompt)).collect();
        model.draw_ids(prompts, &options, &sampling, &mut rngs).unwrap()
    };
    let sampling = Sampling::default();
    let drawn = draw(&expected.prompt_ids, sampling, 1);
    assert_eq!(drawn, draw(&expected.prompt_ids, sampling, 1));
    assert_ne!(drawn, draw(&expected.prompt_ids, sampling, 100));
    assert_eq!(drawn[..1], draw(&expected.prompt_ids[..1], sampling, 1), "a prompt's draws are its own");
    let greedy = model.write_ids(&expected.prompt_ids, &options).unwrap();
    assert_eq!(draw(&expected.prompt_ids, Sampling { top_k: 1, ..sampling }, 5), greedy);
    let mut none: [ChaCha8Rng; 0] = [];
    let message = model.draw_ids(&expected.prompt_ids, &options, &sampling, &mut none).unwrap_err().to_string();
    assert!(message.contains("0 generators for 5 prompts"), "{message}");
}

#[test]
fn prompts_and_options_that_are_not_possible() {
    let model = model("relu");
    let options = Generation::default();
    assert!(model.write_ids(&[], &options).unwrap().is_empty());
    assert!(model.write_ids(&[], &Generation { num_beams: 4, ..options.clone() }).unwrap().is_empty());
    for (prompts, options, words) in [
        (vec![vec![]], options.clone(), "no token"),
        (vec![vec![5000]], options.clone(), "5000"),
        (vec![vec![3]], Generation { num_beams: 50, ..options.clone() }, "num_beams"),
        (vec![vec![3]], Generation { eos_token_id: vec![5000], ..options.clone() }, "5000"),
        (vec![vec![3]], Generation { max_length: 0, ..options.clone() }, "max_length"),
    ] {
        let message = model.write_ids(&prompts, &options).unwrap_err().to_string();
        assert!(message.contains(words), "{message}");
    }
    let long = "dog rain ".repeat(2000);
    assert_eq!(model.encode(&[&long]).unwrap()[0].len(), 512);
    assert_eq!(model.encode(&[&long]).unwrap()[0].last(), Some(&1));
}

/// A copy of a folder, changed.
fn changed(name: &str, change: impl Fn(&Path)) -> String {
    let temp = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(folder(name)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, temp.path().join(path.file_name().unwrap())).unwrap();
    }
    change(temp.path());
    CaptionModel::from_pretrained(temp.path(), None, &Device::Cpu).unwrap_err().to_string()
}

#[test]
fn folders_that_are_no_caption_model_say_what_is_missing() {
    let without = |file: &'static str| changed("relu", move |folder| fs::remove_file(folder.join(file)).unwrap());
    assert!(without("config.json").contains("no config.json"));
    assert!(without("tokenizer.json").contains("no tokenizer.json"));
    let message = without("pytorch_model.bin");
    assert!(message.contains("model.safetensors") && message.contains("of a T5 into a folder"), "{message}");

    let message =
        changed("relu", |folder| fs::rename(folder.join("tokenizer.json"), folder.join("spiece.model")).unwrap());
    assert!(message.contains("spiece.model") && message.contains("save_pretrained"), "{message}");

    let write = |file: &'static str, text: &'static str| {
        changed("relu", move |folder| fs::write(folder.join(file), text).unwrap())
    };
    assert!(write("config.json", r#"{"model_type": "bart"}"#).contains("bart"));
    assert!(write("config.json", "{").contains("config.json"));
    assert!(write("generation_config.json", r#"{"num_beam_groups": 3}"#).contains("num_beam_groups"));
    assert!(write("tokenizer.json", "{}").contains("tokenizer.json"));
    let other = r#"{"vocab_size": 63, "d_model": 16, "d_kv": 5, "d_ff": 32, "num_heads": 2, "num_layers": 3,
                    "num_decoder_layers": 2, "relative_attention_num_buckets": 8}"#;
    let message = write("config.json", other);
    assert!(message.contains("DenseReluDense.wi.weight") && message.contains("32"), "{message}");
}

#[test]
fn a_t5_is_no_model_of_sounds() {
    let error = crate::open(&folder("gated").join("model.safetensors")).unwrap_err();
    assert!(matches!(error, Error::Checkpoint { .. }) && error.to_string().contains("this is a T5"), "{error}");
}
