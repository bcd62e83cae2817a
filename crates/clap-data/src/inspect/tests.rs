//! A small data set with one of every fault, looked at.

use serde_json::Value;

use super::*;
use crate::test_tree::{Tree, float_wav};
use crate::{OpenOptions, open, splits};

fn look(tree: &Tree, headers_only: bool) -> Inspection {
    let names = splits(&tree.path(""), &OpenOptions::default()).unwrap();
    let open = |split: String| open(&tree.path(""), &OpenOptions { split: Some(split), ..OpenOptions::default() });
    let sets: Vec<DataSet> = names.into_iter().map(|split| open(split).unwrap()).collect();
    let tokens = |text: &str| text.len();
    let threads = NonZeroUsize::new(2).unwrap();
    let mut done = 0;
    let found = inspect(&sets, &InspectOptions { headers_only, threads, tokens: Some(&tokens) }, &mut |n| done = n);
    assert_eq!(done, sets.iter().map(|set| set.samples.len()).sum::<usize>());
    found
}

fn tree() -> Tree {
    let tree = Tree::new();
    tree.wav("a.wav", 800).wav("b.wav", 1600).wav("c.wav", 800);
    tree.write("silent.wav", float_wav(&[0.0; 400])).write("cut.wav", float_wav(&[1.0; 100]));
    tree.write("nan.wav", float_wav(&[0.0, f32::NAN])).write("broken.wav", "no sound");
    let rows = [
        "a.wav,a dog barks,dog,train",
        "a.wav,the dog barks twice,dog,train",
        "b.wav,rain,rain,train",
        "silent.wav,rain,rain,train",
        "cut.wav,rain,,train",
        "absent.wav,rain,rain,train",
        "c.wav,a dog barks,dog,valid",
        "nan.wav,wind,wind,valid",
        "broken.wav,wind,wind,valid",
    ];
    tree.write("metadata.csv", format!("file_name,text,label,split\n{}\n", rows.join("\n")));
    tree
}

#[test]
fn everything_is_counted() {
    let found = look(&tree(), false);
    let [train, valid] = &found.splits[..] else { panic!("{:?}", found.splits) };
    assert_eq!((train.split.as_str(), train.clips, train.left_out), ("train", 4, 1));
    assert_eq!((valid.clips, valid.unknown_lengths, found.all.clips), (3, 2, 7));
    assert!((train.seconds - (800.0 + 1600.0 + 400.0 + 100.0) / 8000.0).abs() < 1e-9);
    assert_eq!(train.encodings, BTreeMap::from([("wave pcm_f32le".to_owned(), 2), ("wave pcm_s16le".to_owned(), 2)]));
    assert_eq!(train.sample_rates, BTreeMap::from([(8000, 4)]));
    assert_eq!(train.channels, BTreeMap::from([(1, 4)]));
    assert_eq!((train.captions, train.distinct_captions, train.unlabelled), (5, 3, 1));
    assert_eq!(train.captions_per_clip, BTreeMap::from([(1, 3), (2, 1)]));
    assert_eq!(train.caption_words.as_ref().unwrap().max, 4.0);
    assert_eq!(train.caption_tokens.as_ref().unwrap().max, 19.0);
    assert_eq!(
        found.all.labels,
        BTreeMap::from([("dog".to_owned(), 2), ("rain".to_owned(), 2), ("wind".to_owned(), 2)])
    );
    assert_eq!((train.silent, train.clipped, train.broken, train.not_finite), (1, 1, 0, 0));
    assert_eq!((valid.silent, valid.clipped, valid.broken, valid.not_finite), (0, 0, 1, 1));
    // Digital silence has no level in decibels.
    assert_eq!(train.rms_db.as_ref().unwrap().max, 0.0);
    let faults: Vec<(&str, FaultKind)> = found.faults.iter().map(|fault| (fault.id.as_str(), fault.kind)).collect();
    let meant = [
        ("broken.wav", FaultKind::Broken),
        ("nan.wav", FaultKind::NotFinite),
        ("silent.wav", FaultKind::Silent),
        ("cut.wav", FaultKind::Clipped),
    ];
    assert_eq!(faults, meant);
    assert!(found.left_out[0].contains("absent.wav"), "{:?}", found.left_out);
}

#[test]
fn what_is_there_twice_is_found() {
    let repeats = look(&tree(), false).repeats;
    assert_eq!((repeats.captions, repeats.clips_sharing_captions), (3, 7));
    assert_eq!(repeats.frequent_captions[0], ("rain".to_owned(), 3));
    // a.wav and c.wav are one sound.
    assert_eq!((repeats.sounds, repeats.sounds_across_splits), (1, 1));
    assert_eq!(repeats.listed_sounds, [["train/a.wav", "valid/c.wav"]]);
    assert_eq!(repeats.ids, 0);

    let tree = Tree::new();
    tree.wav("train/a.wav", 10).write("train/metadata.csv", "file_name,text\na.wav,x\n");
    tree.wav("valid/a.wav", 20).write("valid/metadata.csv", "file_name,text\na.wav,y\n");
    let repeats = look(&tree, false).repeats;
    assert_eq!((repeats.ids, repeats.listed_ids, repeats.sounds), (1, vec!["a.wav".to_owned()], 0));
}

#[test]
fn headers_tell_lengths_and_formats() {
    let found = look(&tree(), true);
    assert_eq!((found.all.broken, found.all.not_finite, found.all.silent, found.all.clipped), (1, 0, 0, 0));
    assert_eq!((found.all.unknown_lengths, found.repeats.sounds), (1, 0));
    assert!(found.all.rms_db.is_none());
    assert_eq!(found.splits[0].seconds, look(&tree(), false).splits[0].seconds);
}

#[test]
fn the_numbers_are_plain_json() {
    let value: Value = serde_json::to_value(look(&tree(), false)).unwrap();
    assert_eq!(value["splits"][0]["split"], "train");
    assert_eq!(value["splits"][0]["sample_rates"]["8000"], 4);
    assert_eq!(value["faults"][0]["kind"], "broken");
    assert!(value["all"]["durations"]["histogram"][0]["count"].is_u64());
}
