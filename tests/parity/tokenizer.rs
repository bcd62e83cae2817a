//! CLIP's tokenizer against laion-clap 1.1.7 `tokenize` (fixture `tokenizer_clip` of `make_fixtures.py`), with the real vocabulary.

use std::path::Path;

use clap_encoders::ClapTokenizer;
use clap_tests::{Fixture, record};
use serde_json::{Map, Value};

/// A slow tokenizer's folder: the ids follow from the merges (the 256 bytes, the same ending a word, the merges, two tokens).
fn clip() -> ClapTokenizer {
    let merges = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("data/clip_merges.txt")).unwrap();
    let bytes = bytes_as_letters();
    let spelled = bytes.iter().cloned().chain(bytes.iter().map(|letter| format!("{letter}</w>")));
    let merged = merges.lines().skip(1).map(|line| line.replacen(' ', "", 1));
    let tokens = spelled.chain(merged).chain(["<|startoftext|>".to_owned(), "<|endoftext|>".to_owned()]);
    let vocab: Map<String, Value> = tokens.enumerate().map(|(id, token)| (token, id.into())).collect();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("vocab.json"), Value::Object(vocab).to_string()).unwrap();
    std::fs::write(folder.path().join("merges.txt"), merges).unwrap();
    ClapTokenizer::from_folder(folder.path()).unwrap()
}

/// The letters that stand for bytes, in the order of CLIP's vocabulary: printable bytes first, each as itself (`bytes_to_unicode`).
fn bytes_as_letters() -> Vec<String> {
    let printable = |byte: &u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let first = (0..256).filter(printable);
    let rest = (0..256u32).filter(|byte| !printable(byte)).enumerate().map(|(n, _)| 256 + n as u32);
    first.chain(rest).map(|letter| char::from_u32(letter).unwrap().to_string()).collect()
}

#[test]
fn clip_texts_as_laion_reads_them() {
    let fixture = Fixture::load("tokenizer_clip");
    let texts: Vec<String> = serde_json::from_value(fixture.config()["texts"].clone()).unwrap();
    let (theirs, shape) = fixture.i64("out/ids");
    let tokenizer = clip().with_legacy_cut();
    assert_eq!(tokenizer.vocab_size(), 49_408);
    assert!(!texts.is_empty() && shape[0] == texts.len());
    for (text, theirs) in texts.iter().zip(theirs.chunks(shape[1])) {
        let mut ours: Vec<i64> =
            tokenizer.encode_ids(&[text], shape[1]).unwrap().concat().into_iter().map(i64::from).collect();
        ours.resize(shape[1], 0);
        assert_eq!(ours, theirs, "{text:?}");
    }
    record("tokenizer_clip", "ids", "equal", theirs.len(), "equal");
}

#[test]
fn a_long_text_keeps_its_last_token_unless_it_is_cut_as_of_old() {
    let (text, tokenizer) = ("rain ".repeat(100), clip());
    let ids = tokenizer.encode_ids(&[&text], 77).unwrap().concat();
    assert_eq!((ids.len(), ids[0], ids[76]), (77, 49_406, 49_407));
    let cut = tokenizer.with_legacy_cut().encode_ids(&[&text], 77).unwrap().concat();
    assert_eq!((cut.len(), &cut[..76]), (77, &ids[..76]));
    assert_ne!(cut[76], 49_407);
}
