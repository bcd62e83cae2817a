//! Layouts, splits, classes, and whose fault a fault is.

use super::*;
use crate::test_tree::{Tree, wav};

fn split(name: &str) -> OpenOptions {
    OpenOptions { split: Some(name.to_owned()), ..OpenOptions::default() }
}

fn ids(data: &DataSet) -> Vec<&str> {
    data.samples.iter().map(|sample| sample.id.as_str()).collect()
}

/// A shard of clips by key and label.
fn shard(tree: &Tree, name: &str, clips: &[(&str, &str)]) {
    let mut members = Vec::new();
    for (key, label) in clips {
        members.push((format!("{key}.wav"), wav(20)));
        members.push((format!("{key}.json"), format!(r#"{{"text": "{key}", "tag": ["{label}"]}}"#).into_bytes()));
    }
    let members: Vec<(&str, &[u8])> = members.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    tree.tar(name, &members);
}

fn shards() -> Tree {
    let tree = Tree::new();
    for number in [0, 2, 10] {
        shard(
            &tree,
            &format!("train/{number}.tar"),
            &[(&format!("t{number}"), "dog"), (&format!("u{number}"), "rain")],
        );
    }
    shard(&tree, "valid/0.tar", &[("v", "wind")]);
    tree
}

#[test]
fn a_folder_of_splits() {
    let tree = shards();
    let data = open(&tree.path(""), &split("train")).unwrap();
    assert_eq!((data.name.as_str(), data.split.as_str()), ("set", "train"));
    assert_eq!(ids(&data), ["t0", "u0", "t2", "u2", "t10", "u10"]);
    assert_eq!(data.classes, ["dog", "rain", "wind"], "of all splits");
    assert_eq!(open(&tree.path(""), &OpenOptions::default()).unwrap().samples.len(), 7);
    assert_eq!(splits(&tree.path(""), &OpenOptions::default()).unwrap(), ["train", "valid"]);
    let error = open(&tree.path(""), &split("test")).unwrap_err().to_string();
    assert!(error.contains("no split `test`; there are: train, valid"), "{error}");
}

#[test]
fn one_split_one_shard_one_pattern() {
    let tree = shards();
    for path in ["train", "train/0.tar", "train/{0..9}.tar"] {
        let data = open(&tree.path(path), &OpenOptions::default()).unwrap();
        assert_eq!((data.name.as_str(), data.split.as_str()), ("set", "train"), "{path}");
        assert_eq!(data.classes, ["dog", "rain", "wind"], "{path}: of all splits");
    }
    assert_eq!(ids(&open(&tree.path("train/{2,10}.tar"), &split("train")).unwrap()), ["t2", "u2", "t10", "u10"]);
    let data = open(&tree.path("train/{0..1}.tar"), &OpenOptions::default()).unwrap();
    assert_eq!((data.samples.len(), data.skipped.len()), (2, 1));
    assert!(data.skipped[0].what.ends_with("1.tar"));
    let error = open(&tree.path("train"), &split("valid")).unwrap_err().to_string();
    assert!(error.contains("there are: train"), "{error}");
}

#[test]
fn an_audiofolder_with_a_split_column() {
    let tree = Tree::new();
    tree.wav("a.wav", 9).wav("b.wav", 9);
    tree.write("metadata.csv", "file_name,text,label,split\na.wav,x,dog,train\nb.wav,y,rain,valid\n");
    for path in ["", "metadata.csv"] {
        let data = open(&tree.path(path), &split("valid")).unwrap();
        assert_eq!(ids(&data), ["b.wav"]);
        assert_eq!(data.classes, ["dog", "rain"]);
    }
    assert_eq!(splits(&tree.path(""), &OpenOptions::default()).unwrap(), ["train", "valid"]);
    assert_eq!(open(&tree.path(""), &OpenOptions::default()).unwrap().split, "all");
    assert!(open(&tree.path(""), &split("test")).is_err());
}

#[test]
fn audiofolders_by_split() {
    let tree = Tree::new();
    for (name, label) in [("train", "dog"), ("test", "rain")] {
        tree.wav(&format!("{name}/a.wav"), 9);
        tree.write(&format!("{name}/metadata.jsonl"), format!(r#"{{"file_name": "a.wav", "label": "{label}"}}"#));
    }
    assert_eq!(splits(&tree.path(""), &OpenOptions::default()).unwrap(), ["test", "train"]);
    let data = open(&tree.path(""), &split("train")).unwrap();
    assert_eq!(data.samples[0].captions, ["The sound of dog"]);
    assert_eq!(data.classes, ["dog", "rain"]);
    let all = open(&tree.path(""), &OpenOptions::default()).unwrap();
    assert_eq!(ids(&all), ["a.wav", "set/train/a.wav"]);
    assert_eq!(open(&tree.path("train"), &split("train")).unwrap().samples.len(), 1);
    assert_eq!(splits(&tree.path("train"), &OpenOptions::default()).unwrap(), ["train"]);
}

#[test]
fn an_unsplit_set_has_no_splits() {
    let tree = Tree::new();
    shard(&tree, "0.tar", &[("a", "dog")]);
    assert_eq!(open(&tree.path(""), &OpenOptions::default()).unwrap().split, "all");
    let error = open(&tree.path(""), &split("train")).unwrap_err().to_string();
    assert!(error.contains("leave the split out"), "{error}");
}

#[test]
fn class_lists_come_first() {
    let tree = shards();
    tree.write("classes.json", r#"["wind", "dog", "snow"]"#);
    for path in ["", "train"] {
        assert_eq!(open(&tree.path(path), &split("train")).unwrap().classes, ["wind", "dog", "snow"], "{path}");
    }
    tree.write("train/classes.json", r#"{"dog": 0}"#);
    assert_eq!(open(&tree.path("train"), &split("train")).unwrap().classes, ["dog"]);
}

#[test]
fn keys_of_several_shards_may_be_alike() {
    let tree = Tree::new();
    shard(&tree, "train/0.tar", &[("1", "dog"), ("2", "dog")]);
    shard(&tree, "train/1.tar", &[("1", "rain"), ("3", "dog")]);
    let data = open(&tree.path(""), &OpenOptions::default()).unwrap();
    assert_eq!(ids(&data), ["1", "2", "train/1/1", "3"]);
    assert!(data.skipped.is_empty());
}

#[test]
fn a_broken_shard_among_good_ones() {
    let tree = shards();
    tree.write("train/2.tar", "not a tar file. ".repeat(100));
    let data = open(&tree.path(""), &split("train")).unwrap();
    assert_eq!((data.samples.len(), data.skipped.len()), (4, 1));
    let strict = OpenOptions { strict: true, ..split("train") };
    assert!(open(&tree.path(""), &strict).unwrap_err().to_string().contains("2.tar"));
    let valid = OpenOptions { strict: true, ..split("valid") };
    assert_eq!(open(&tree.path(""), &valid).unwrap().samples.len(), 1, "the fault is another split's");
}

#[test]
fn the_classes_of_a_split_on_its_own_are_those_of_its_data_set() {
    let tree = shards();
    shard(&tree, "train/11.tar", &[("w", "snow")]);
    // Neither a data set beside the splits nor a broken split is this one's business.
    shard(&tree, "other/0.tar", &[("o", "cat")]);
    tree.write("test/metadata.csv", "").write("test/metadata.jsonl", "");
    for path in ["train", "valid", "train/0.tar", "valid/{0..0}.tar"] {
        let data = open(&tree.path(path), &OpenOptions { strict: true, ..OpenOptions::default() }).unwrap();
        assert_eq!(data.classes, ["dog", "rain", "snow", "wind"], "{path}");
    }
    let tree = Tree::new();
    for (name, label) in [("train", "dog"), ("test", "rain")] {
        tree.wav(&format!("{name}/a.wav"), 9);
        tree.write(&format!("{name}/metadata.csv"), format!("file_name,label\na.wav,{label}\n"));
    }
    assert_eq!(open(&tree.path("test"), &OpenOptions::default()).unwrap().classes, ["dog", "rain"]);
}

#[test]
fn a_bad_row_is_its_own_splits_fault() {
    let tree = Tree::new();
    tree.wav("a.wav", 9).wav("b.wav", 9);
    tree.write(
        "metadata.csv",
        "file_name,text,split\na.wav,x,train\nabsent.wav,x,train\na.wav,y,train\na.wav,y,train\nb.wav,y,valid\n",
    );
    let strict = |name: &str| OpenOptions { strict: true, ..split(name) };
    assert_eq!(open(&tree.path(""), &split("train")).unwrap().skipped.len(), 2);
    assert!(open(&tree.path(""), &strict("train")).unwrap_err().to_string().contains("metadata.csv:3"));
    let valid = open(&tree.path(""), &strict("valid")).unwrap();
    assert_eq!((valid.samples.len(), valid.skipped.len()), (1, 0), "the faults are another split's");
    assert!(open(&tree.path(""), &OpenOptions { strict: true, ..OpenOptions::default() }).is_err());
}

#[test]
fn a_shard_of_the_inventory_may_not_be_absent() {
    let tree = Tree::new();
    shard(&tree, "0.tar", &[("a", "dog")]);
    tree.write("sizes.json", r#"{"0.tar": 1, "1.tar": 512}"#);
    let strict = OpenOptions { strict: true, ..OpenOptions::default() };
    assert!(open(&tree.path(""), &strict).unwrap_err().to_string().contains("promises 512 for 1.tar"));
    assert_eq!(open(&tree.path(""), &OpenOptions::default()).unwrap().skipped.len(), 1);
    assert_eq!(open(&tree.path("0.tar"), &strict).unwrap().samples.len(), 1, "the other was not asked for");
}

#[test]
fn what_is_no_data_set() {
    let tree = Tree::new();
    tree.write("notes.txt", "x").write("empty/.hidden/0.tar", "x");
    for (path, word) in [
        ("absent", "no such file"),
        ("absent{0..1}.tar", "no such file"),
        ("absent{0..}.tar", "pattern"),
        ("notes.txt", "no data set here"),
        ("empty", "no data set here"),
    ] {
        let error = open(&tree.path(path), &OpenOptions::default()).unwrap_err().to_string();
        assert!(error.contains(word), "{path}: {error}");
    }
    tree.write("bad.tar", [0; 1024]);
    let error = open(&tree.path("bad.tar"), &OpenOptions::default()).unwrap_err().to_string();
    assert!(error.contains("no usable clip"), "{error}");
    tree.write("two/metadata.csv", "").write("two/metadata.jsonl", "");
    assert!(matches!(open(&tree.path("two"), &OpenOptions::default()), Err(Error::TwoMetadataFiles { .. })));
}

fn table_options(columns: Columns) -> OpenOptions {
    OpenOptions { strict: true, columns, ..OpenOptions::default() }
}

#[test]
fn a_table_of_another_name() {
    let tree = Tree::new();
    tree.wav("a.wav", 9).wav("b.wav", 9);
    tree.write("clips.csv", "filepath\ttitle\na.wav\tx\nb.wav\ty\n");
    let data = open(&tree.path("clips.csv"), &table_options(Columns::default())).unwrap();
    assert_eq!((data.name.as_str(), data.split.as_str()), ("clips", "all"));
    assert_eq!(ids(&data), ["a.wav", "b.wav"]);
    assert!(open(&tree.path(""), &OpenOptions::default()).is_err(), "a folder is opened by its metadata alone");

    tree.write("clips.txt", "path|text\na.wav|x\n");
    assert!(matches!(open(&tree.path("clips.txt"), &OpenOptions::default()), Err(Error::Unrecognised { .. })));
    let bars = Columns { separator: Some(b'|'), ..Columns::default() };
    assert_eq!(open(&tree.path("clips.txt"), &table_options(bars)).unwrap().samples.len(), 1);
}

#[test]
fn tables_named_like_splits() {
    let tree = Tree::new();
    tree.wav("a.wav", 9).wav("b.wav", 9);
    tree.write("train.tsv", "path\tclass\na.wav\tdog\n").write("test.tsv", "path\tclass\nb.wav\train\n");
    // Neither another kind of file nor another table is a split of this one.
    tree.write("valid.csv", "path,class\nb.wav,wind\n").write("more.tsv", "path\tclass\nb.wav\tsnow\n");
    let class = Columns { label: Some("class".to_owned()), ..Columns::default() };
    let data = open(&tree.path("train.tsv"), &table_options(class.clone())).unwrap();
    assert_eq!((data.name.as_str(), data.split.as_str()), ("set", "train"));
    assert_eq!(data.classes, ["dog", "rain"]);
    assert_eq!(splits(&tree.path("train.tsv"), &table_options(class.clone())).unwrap(), ["train"]);
    let valid = OpenOptions { split: Some("valid".to_owned()), ..table_options(class) };
    assert!(open(&tree.path("train.tsv"), &valid).unwrap_err().to_string().contains("there are: train"));
}

#[test]
fn captions_of_another_file() {
    let tree = shards();
    tree.write("captions.csv", "id,caption\nt0,new\nv,other\nnobody,x\n");
    let file = Some(tree.path("captions.csv"));
    let captions = |options: OpenOptions| -> Vec<Vec<String>> {
        let data = open(&tree.path(""), &OpenOptions { strict: true, ..options }).unwrap();
        data.samples.into_iter().take(2).map(|sample| sample.captions).collect()
    };
    assert_eq!(captions(OpenOptions { captions: file.clone(), ..split("train") }), [["new"], ["u0"]]);
    let more = captions(OpenOptions { more_captions: file.clone(), ..split("train") });
    assert_eq!(more, [&["t0", "new"][..], &["u0"]]);
    tree.write("more.csv", "id,caption\nu0,third\n");
    let both = OpenOptions { captions: file, more_captions: Some(tree.path("more.csv")), ..split("train") };
    assert_eq!(captions(both), [&["new"][..], &["u0", "third"]]);

    tree.write("train.csv", "id,caption\nt0,new\n");
    let train = OpenOptions { captions: Some(tree.path("train.csv")), ..split("valid") };
    assert_eq!(captions(train), [["v"]], "captions of another split change nothing here");

    tree.write("none.csv", "id,caption\nnobody,x\n");
    let none = OpenOptions { captions: Some(tree.path("none.csv")), ..split("train") };
    assert!(matches!(open(&tree.path(""), &none), Err(Error::NoCaptionMatches { .. })));
}

#[test]
fn captions_for_a_table_without_words() {
    let tree = Tree::new();
    tree.wav("a.wav", 9).wav("b.wav", 9);
    tree.write("clips.csv", "path\na.wav\nb.wav\n").write("captions.csv", "id,caption\na,x\n");
    let words = OpenOptions { captions: Some(tree.path("captions.csv")), ..OpenOptions::default() };
    let data = open(&tree.path("clips.csv"), &words).unwrap();
    assert_eq!((ids(&data), data.skipped.len()), (vec!["a.wav"], 1));
    assert!(data.skipped[0].to_string().contains("b.wav: neither a caption nor a label"), "{:?}", data.skipped);
    assert!(open(&tree.path("clips.csv"), &OpenOptions { strict: true, ..words }).is_err());
    assert!(open(&tree.path("clips.csv"), &OpenOptions::default()).unwrap_err().to_string().contains("are: path"));
}

#[test]
fn captions_for_shards_without_words() {
    let tree = Tree::new();
    let members: [(&str, &[u8]); 5] = [
        ("a.wav", &wav(9)),
        ("b.wav", &wav(9)),
        ("b.json", br#"{"tag": []}"#),
        ("c.wav", &wav(9)),
        ("c.json", br#"{"text": "own"}"#),
    ];
    tree.tar("0.tar", &members);
    tree.write("captions.csv", "id,caption\na,x\nb,y\n");
    let words = OpenOptions { captions: Some(tree.path("captions.csv")), ..OpenOptions::default() };
    let data = open(&tree.path(""), &words).unwrap();
    let captions: Vec<&str> = data.samples.iter().map(|sample| sample.captions[0].as_str()).collect();
    assert_eq!((ids(&data), captions, data.skipped.len()), (vec!["a", "b", "c"], vec!["x", "y", "own"], 0));
    let data = open(&tree.path(""), &OpenOptions::default()).unwrap();
    assert_eq!((ids(&data), data.skipped.len()), (vec!["c"], 2));
}

#[cfg(not(feature = "parquet"))]
#[test]
fn parquet_without_its_feature() {
    let tree = Tree::new();
    tree.write("data/train-00000-of-00001.parquet", "PAR1").write("one/0000.parquet", "PAR1");
    for path in ["", "one", "data/train-00000-of-00001.parquet", "one/{0000,0001}.parquet"] {
        let error = open(&tree.path(path), &OpenOptions::default()).unwrap_err();
        assert!(matches!(error, Error::NeedsFeature { feature: "parquet", .. }), "{path}: {error}");
    }
}
