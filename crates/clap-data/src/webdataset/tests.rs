//! Shards as others write them, hostile ones, and the reports of both.

use std::io::Write;

use tar::EntryType;

use super::*;
use crate::test_tree::{Tree, header, tar, wav};

const JSON: &[u8] = br#"{"text": "a dog", "tag": ["dog"], "original_data": {"licence": "CC0"}}"#;

fn read(tree: &Tree, shards: &[&str]) -> (Vec<Sample>, Vec<String>) {
    let mut report = Report::new(false);
    let shards: Vec<PathBuf> = shards.iter().map(|name| tree.path(name)).collect();
    let samples = read_shards(&shards, None, (TextAugment::None, true), &mut report).unwrap();
    (samples, report.skipped.iter().map(ToString::to_string).collect())
}

/// Reads one shard and expects these ids and, in order, these words in the report.
fn check(shard: impl AsRef<[u8]>, ids: &[&str], reasons: &[&str]) {
    let tree = Tree::new();
    tree.write("0.tar", shard);
    let (samples, skipped) = read(&tree, &["0.tar"]);
    let found: Vec<&str> = samples.iter().map(|sample| sample.id.as_str()).collect();
    assert_eq!(found, ids, "{skipped:?}");
    assert_eq!(skipped.len(), reasons.len(), "{skipped:?}");
    for (skipped, reason) in skipped.iter().zip(reasons) {
        assert!(skipped.contains(reason) && skipped.contains("0.tar"), "`{reason}` not in `{skipped}`");
    }
}

#[test]
fn a_shard_as_laion_writes_it() {
    let (first, second) = (wav(10), wav(20));
    let json: &[u8] = br#"{"text": ["rain", "it rains", " ", "rain"], "tags": "rain", "text_augment_t5": null}"#;
    let tree = Tree::new();
    tree.tar("0.tar", &[("1.flac", &first), ("1.json", JSON), ("d/2.json", json), ("d/2.wav", &second)]);
    let (samples, skipped) = read(&tree, &["0.tar"]);
    assert_eq!(skipped, [] as [&str; 0]);
    assert_eq!(samples[0].id, "1");
    assert_eq!(samples[0].captions, ["a dog"]);
    assert_eq!(samples[0].labels, ["dog"]);
    assert_eq!(samples[0].meta["licence"], "CC0");
    assert_eq!(samples[0].audio.bytes().unwrap(), first);
    assert_eq!(samples[1].id, "d/2");
    assert_eq!(samples[1].captions, ["rain", "it rains"]);
    assert_eq!(samples[1].labels, ["rain"]);
    assert_eq!(samples[1].audio.bytes().unwrap(), second);
    assert_eq!(samples[1].audio.load(8000).unwrap().samples.len(), 20);
}

#[test]
fn txt_and_cls_describe_too() {
    let tree = Tree::new();
    tree.tar("0.tar", &[("1.wav", &wav(9)), ("1.txt", b"a dog\n"), ("1.cls", b"dog"), ("1.png", b"")]);
    let (samples, skipped) = read(&tree, &["0.tar"]);
    assert_eq!(skipped, [] as [&str; 0]);
    assert_eq!(
        (&samples[0].captions[..], &samples[0].labels[..]),
        (&["a dog".to_owned()][..], &["dog".to_owned()][..])
    );
}

#[test]
fn tags_alone_make_the_caption() {
    let tree = Tree::new();
    tree.tar("0.tar", &[("1.wav", &wav(9)), ("1.json", br#"{"text": "", "tag": ["dog", "rain", "dog"]}"#)]);
    let (samples, _) = read(&tree, &["0.tar"]);
    assert_eq!(samples[0].captions, ["The sounds of dog and rain"]);
}

#[test]
fn descriptions_that_are_none() {
    let sound = wav(9);
    for (json, reason) in [
        (&br#"{"title": "x"}"#[..], "neither `text` nor `tag`"),
        (br#"{"text": 5}"#, "`text` has to be a string"),
        (br#"{"text": "x", "tag": [["y"]]}"#, "`tag` has to be a string"),
        (br#"["x"]"#, "invalid type"),
        (b"{", "EOF"),
        (b"{\"text\": \"\xff\"}", "not UTF-8"),
    ] {
        check(tar(&[("1.wav", &sound), ("1.json", json), ("2.wav", &sound), ("2.json", JSON)]), &["2"], &[reason]);
    }
}

#[test]
fn members_without_their_partner() {
    let shard = tar(&[("1.wav", &wav(9)), ("2.json", JSON), ("3.wav", &wav(9)), ("3.json", JSON)]);
    check(shard, &["3"], &["0.tar/1: no description", "0.tar/2: no sound"]);
}

#[test]
fn duplicates_are_reported_and_the_first_kept() {
    let (first, second) = (wav(10), wav(20));
    let shard = tar(&[("1.wav", &first), ("1.json", JSON), ("1.wav", &second), ("1.json", b"{}"), ("1.flac", &second)]);
    check(
        &shard,
        &["1"],
        &["1.wav: a second member", "1.json: a second member", "1.flac: a second sound of the key `1`"],
    );
    let tree = Tree::new();
    tree.write("0.tar", shard);
    assert_eq!(read(&tree, &["0.tar"]).0[0].audio.bytes().unwrap(), first);
}

#[test]
fn names_that_lead_out_or_are_not_text() {
    let mut shard = tar(&[
        ("../../1.wav", &wav(9)),
        ("../../1.json", JSON),
        ("/etc/2.wav", &wav(9)),
        ("3.wav", &wav(9)),
        ("3.json", JSON),
    ]);
    shard.truncate(shard.len() - 1024);
    shard.extend(header(b"\xff\xfe.wav", 0));
    shard.extend([0; 1024]);
    check(shard, &["3"], &["leads out", "leads out", "leads out", "not UTF-8"]);
}

#[test]
fn links_and_hidden_files() {
    let mut link = tar::Header::new_gnu();
    link.as_old_mut().name[..5].copy_from_slice(b"1.wav");
    link.set_entry_type(EntryType::Symlink);
    link.set_link_name("/etc/passwd").unwrap();
    link.set_size(0);
    link.set_cksum();
    let mut shard = link.as_bytes().to_vec();
    shard.extend(tar(&[("._1.wav", b"x"), ("1.json", JSON), ("2.wav", &wav(9)), ("2.json", JSON)]));
    check(shard, &["2"], &["a link or special file"]);
}

#[test]
fn a_cut_shard_keeps_what_came_before() {
    let whole = tar(&[("1.wav", &wav(900)), ("1.json", JSON), ("2.wav", &wav(900)), ("2.json", JSON)]);
    // Inside the second sound: 512 + 2048 + 512 + 512 bytes make the first pair.
    check(&whole[..5000], &["1"], &["0.tar/2.wav: its header promises 1844 bytes, the shard ends after 904"]);
    // Inside the second header.
    check(&whole[..3600], &["1"], &["damaged after byte"]);
}

#[test]
fn a_damaged_header_keeps_what_came_before() {
    let mut shard = tar(&[("1.wav", &wav(900)), ("1.json", JSON), ("2.wav", &wav(900)), ("2.json", JSON)]);
    shard[3584 + 3] ^= 0x55;
    check(shard, &["1"], &["checksum"]);
}

#[test]
fn a_header_may_promise_anything() {
    let ten_gigabytes = 10 << 30;
    let mut shard = tar(&[("1.wav", &wav(9)), ("1.json", JSON)]);
    shard.truncate(shard.len() - 1024);
    let good = shard.clone();
    for name in [&b"2.wav"[..], b"2.json"] {
        shard.clone_from(&good);
        shard.extend(header(name, ten_gigabytes));
        shard.extend([b' '; 4096]);
        check(&shard, &["1"], &["promises 10737418240 bytes, the shard ends after 4096"]);
    }
    shard.clone_from(&good);
    shard.extend(header(b"2.wav", u64::MAX));
    check(&shard, &["1"], &["0.tar"]);
}

#[test]
fn a_description_is_bounded() {
    let long = vec![b' '; (1 << 20) + 1];
    check(tar(&[("1.wav", &wav(9)), ("1.json", &long)]), &[], &["a description of 1048577 bytes"]);
}

#[test]
fn a_sound_is_bounded() {
    let tree = Tree::new();
    let path = tree.path("0.tar");
    let size = (1u64 << 30) + 1;
    tree.write("0.tar", header(b"1.wav", size));
    // The sound is a hole of the file system, not a gigabyte of disk.
    let mut file = File::options().append(true).open(&path).unwrap();
    file.set_len(512 + size.next_multiple_of(512)).unwrap();
    file.write_all(&tar(&[("1.json", JSON), ("2.wav", &wav(9)), ("2.json", JSON)])).unwrap();
    let (samples, skipped) = read(&tree, &["0.tar"]);
    assert_eq!(samples.len(), 1);
    assert_eq!(skipped.len(), 1, "{skipped:?}");
    assert!(skipped[0].contains("0.tar/1.wav: a sound of 1073741825 bytes"), "{skipped:?}");
}

/// A member that the tar reader reads by itself: a long name or PAX records for the next one.
fn extension(kind: u8, content: &[u8]) -> Vec<u8> {
    let mut extension = tar::Header::new_gnu();
    extension.as_old_mut().name[..13].copy_from_slice(b"././@LongLink");
    extension.set_entry_type(EntryType::new(kind));
    extension.set_size(content.len() as u64);
    extension.set_cksum();
    let mut bytes = extension.as_bytes().to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

#[test]
fn long_names_are_read_and_bounded() {
    let key = "long/".repeat(50);
    let good = tar(&[("1.wav", &wav(9)), ("1.json", JSON)]);
    let good = &good[..good.len() - 1024];
    let mut shard = good.to_vec();
    for (name, content) in [(format!("{key}2.wav\0"), &wav(9)[..]), (format!("{key}2.json\0"), JSON)] {
        shard.extend(extension(b'L', name.as_bytes()));
        let member = tar(&[("short", content)]);
        shard.extend(&member[..member.len() - 1024]);
    }
    check([&shard[..], &[0; 1024]].concat(), &["1", &format!("{key}2")], &[]);
    for kind in [b'L', b'K', b'x'] {
        let hostile = extension(kind, &vec![b'a'; 2 << 20]);
        let shard = [good, &hostile, &tar(&[("2.wav", &wav(9)), ("2.json", JSON)])].concat();
        check(shard, &["1"], &["more than 1048576 bytes of headers"]);
    }
}

#[test]
fn a_dot_too_many_is_named() {
    let shard = tar(&[("a.0.wav", &wav(9)), ("a.0.json", JSON), ("a.1.wav", &wav(9)), ("a.1.json", JSON)]);
    check(shard, &[], &["a second sound of the key `a`", "a.0.json is none of this key"]);
    // Other members of a described clip are nobody's fault.
    check(tar(&[("1.wav", &wav(9)), ("1.json", JSON), ("1.words.json", b"{}")]), &["1"], &[]);
}

#[test]
fn one_fault_is_reported_once() {
    let tree = Tree::new();
    tree.tar("0.tar", &[("1.wav", &wav(9)), ("1.json", b"{"), ("2.wav", &wav(9)), ("2.json", JSON)]);
    tree.write("sizes.json", r#"{"0.tar": 2}"#);
    let (samples, skipped) = read(&tree, &["0.tar"]);
    assert_eq!((samples.len(), skipped.len()), (1, 1), "{skipped:?}");
    let whole = tar(&[("1.wav", &wav(900)), ("1.json", JSON), ("2.wav", &wav(900)), ("2.json", JSON)]);
    tree.write("0.tar", &whole[..5000]);
    let (samples, skipped) = read(&tree, &["0.tar"]);
    assert_eq!((samples.len(), skipped.len()), (1, 1), "{skipped:?}");
    // Cut between two members, where tar itself notices nothing.
    tree.write("0.tar", &whole[..3584]);
    let (samples, skipped) = read(&tree, &["0.tar"]);
    assert_eq!((samples.len(), skipped.len()), (1, 1), "{skipped:?}");
    assert!(skipped[0].contains("promises 2 for 0.tar, which holds 1"), "{skipped:?}");
}

#[test]
fn not_a_tar_file() {
    check("this is a text file, long enough for a header. ".repeat(30), &[], &["not a tar file"]);
    let tree = Tree::new();
    assert!(read(&tree, &["absent.tar"]).1[0].contains("absent.tar"));
}

#[test]
fn strict_stops_at_the_first_fault() {
    let tree = Tree::new();
    tree.tar("0.tar", &[("1.wav", &wav(9)), ("2.wav", &wav(9)), ("2.json", JSON)]);
    let error =
        read_shards(&[tree.path("0.tar")], None, (TextAugment::None, true), &mut Report::new(true)).unwrap_err();
    assert!(error.to_string().contains("0.tar/1: no description"), "{error}");
}

#[test]
fn a_shrunken_shard_is_an_error_when_read() {
    let tree = Tree::new();
    tree.tar("0.tar", &[("1.json", JSON), ("1.wav", &wav(2000))]);
    let (samples, _) = read(&tree, &["0.tar"]);
    tree.write("0.tar", [0; 1600]);
    let error = samples[0].audio.load(8000).unwrap_err().to_string();
    assert!(error.contains("0.tar/1.wav") && error.contains("shorter"), "{error}");
}
