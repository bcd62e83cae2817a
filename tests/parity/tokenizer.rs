//! CLIP's tokenizer against laion-clap 1.1.7 `tokenize` (fixture `tokenizer_clip` of `make_fixtures.py`), with the real vocabulary.

use std::path::Path;

use clap_encoders::ClapTokenizer;
use clap_tests::{Fixture, record};

/// Of the merges alone, as LAION's program has it.
fn clip() -> ClapTokenizer {
    let merges = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/clip_merges.txt");
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(merges, folder.path().join("bpe_simple_vocab_16e6.txt")).unwrap();
    ClapTokenizer::from_folder(folder.path()).unwrap()
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
