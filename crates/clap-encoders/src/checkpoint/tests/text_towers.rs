//! Every text tower in a folder, with its tokenizer, and under LAION's names.

use std::fs;

use candle_core::DType;

use super::{CPU, checkpoint, laion, tiny, tiny_with};
use crate::{ClapModel, ClapTokenizer, TextModelType, load_folder};

/// Of the slow tokenizer's files in a folder.
fn tokenizer(files: &[(&str, String)]) -> ClapTokenizer {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    ClapTokenizer::from_folder(folder.path()).unwrap()
}

/// Twelve words and pieces.
fn bert() -> ClapTokenizer {
    tokenizer(&[("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\ndog\nbark\n##s\nrain\n,\n##y\n".to_owned())])
}

/// Letters, letters that end a word, and two merges.
fn clip() -> ClapTokenizer {
    let letters = ('a'..='z').map(String::from);
    let endings = ('a'..='z').map(|letter| format!("{letter}</w>"));
    let others = ["do", "dog</w>", "<|startoftext|>", "<|endoftext|>"].map(String::from);
    let tokens: serde_json::Map<String, serde_json::Value> =
        letters.chain(endings).chain(others).enumerate().map(|(id, token)| (token, id.into())).collect();
    let vocab = serde_json::Value::Object(tokens).to_string();
    tokenizer(&[("vocab.json", vocab), ("merges.txt", "#version: 0.2\nd o\ndo g</w>\n".to_owned())])
}

fn text(model: &ClapModel, tokenizer: &ClapTokenizer) -> Vec<Vec<f32>> {
    let (ids, mask) = tokenizer.encode(&["a dog", "rain a dog"], 20).unwrap();
    model.get_text_features(&ids, &mask).unwrap().to_vec2().unwrap()
}

fn round_trip(model_type: TextModelType, tokenizer: ClapTokenizer) {
    let tiny = tiny_with(None, model_type, tokenizer);
    let expected = text(&tiny.build(&checkpoint(&tiny.tensors)).unwrap(), &tiny.tokenizer);
    let folder = tempfile::tempdir().unwrap();
    tiny.save(folder.path()).unwrap();
    let loaded = load_folder(folder.path()).unwrap();
    assert_eq!(loaded.config, tiny.config);
    assert_eq!(text(&loaded.model(DType::F32, &CPU).unwrap(), &loaded.tokenizer), expected, "{model_type:?}");

    let laion = laion::to_laion(&tiny.tensors).unwrap();
    let found = checkpoint(&laion);
    let mut detected = found.detect_text_config().unwrap();
    assert_eq!((detected.model_type, detected.num_hidden_layers), (model_type, 1));
    // What shapes do not tell.
    let text_config = &tiny.config.text_config;
    detected.num_attention_heads = text_config.num_attention_heads;
    assert_eq!(
        (detected.vocab_size, detected.hidden_size, detected.intermediate_size, detected.max_position_embeddings),
        (
            text_config.vocab_size,
            text_config.hidden_size,
            text_config.intermediate_size,
            text_config.max_position_embeddings
        )
    );
    assert_eq!(text(&tiny.build(&found).unwrap(), &tiny.tokenizer), expected, "{model_type:?}");
    let again = laion::to_hf(&laion).unwrap();
    assert_eq!(again.len(), tiny.tensors.len());
    assert!(tiny.tensors.keys().all(|key| again.contains_key(key)), "{model_type:?}");
}

#[test]
fn every_text_tower_goes_through_both_layouts() {
    let bpe = || tiny(None).tokenizer;
    round_trip(TextModelType::Roberta, bpe());
    round_trip(TextModelType::Bart, bpe());
    round_trip(TextModelType::Clip, clip());
}

/// LAION's files tell BERT from RoBERTa by its second segment.
#[test]
fn bert_goes_through_both_layouts() {
    let mut tiny = tiny_with(None, TextModelType::Bert, bert());
    tiny.config.text_config.type_vocab_size = 2;
    let (vars, vb) = clap_nn::init::seeded_vars(9, &CPU, DType::F32);
    ClapModel::new(&tiny.config, vb).unwrap();
    tiny.tensors = vars.to_tensors();
    let folder = tempfile::tempdir().unwrap();
    tiny.save(folder.path()).unwrap();
    let loaded = load_folder(folder.path()).unwrap();
    let expected = text(&loaded.model(DType::F32, &CPU).unwrap(), &loaded.tokenizer);
    let laion = checkpoint(&laion::to_laion(&tiny.tensors).unwrap());
    assert_eq!(laion.detect_text_config().unwrap().model_type, TextModelType::Bert);
    assert_eq!(text(&tiny.build(&laion).unwrap(), &tiny.tokenizer), expected);
}

#[test]
fn word_pieces_are_lower_case_and_framed() {
    let ids = |text: &str| bert().encode_ids(&[text], 77).unwrap().concat();
    assert_eq!(ids("A dog barks, rainy"), [2, 5, 6, 7, 8, 10, 9, 11, 3]);
    assert_eq!(ids("cat"), [2, 1, 3]);
    assert_eq!(bert().pad_id(), 0);
}

#[test]
fn clips_words_end_in_their_own_letters() {
    // d o g</w> -> do g</w> -> dog</w>; `<` is unknown, and so the last token.
    assert_eq!(clip().encode_ids(&["A  &amp;lt;DOG"], 77).unwrap().concat(), [54, 26, 55, 53, 55]);
}
