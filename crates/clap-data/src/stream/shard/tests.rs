//! One shard as it comes by: whole, hostile, cut and interrupted.

use super::*;
use crate::test_tree::{header, tar, wav};

const JSON: &[u8] = br#"{"text": "a dog", "tag": ["dog"], "original_data": {"licence": "CC0"}}"#;

/// Ids of the pairs, nothing for unusable ones, and the reports.
fn pass(bytes: impl Read) -> (Vec<Option<String>>, Vec<String>, bool) {
    let (mut pairs, mut skipped) = (Vec::new(), Vec::new());
    let is_whole = read("0.tar", bytes, TextAugment::None, &mut |passing| {
        match passing {
            Passing::Pair(sample) => pairs.push(sample.map(|sample| sample.id)),
            Passing::Skipped(what) => skipped.push(what.to_string()),
        }
        true
    });
    (pairs, skipped, is_whole)
}

/// Reads a shard and expects these usable ids, so many pairs, and in order these words in the reports.
fn check(shard: impl AsRef<[u8]>, ids: &[&str], pairs: usize, reasons: &[&str]) {
    let (found, skipped, _) = pass(shard.as_ref());
    assert_eq!(found.len(), pairs, "{found:?} {skipped:?}");
    assert_eq!(found.into_iter().flatten().collect::<Vec<_>>(), ids, "{skipped:?}");
    assert_eq!(skipped.len(), reasons.len(), "{skipped:?}");
    for (skipped, reason) in skipped.iter().zip(reasons) {
        assert!(skipped.contains(reason) && skipped.contains("0.tar"), "`{reason}` not in `{skipped}`");
    }
}

#[test]
fn pairs_come_by_with_their_sounds() {
    let shard =
        tar(&[("d/1.wav", &wav(9)), ("d/1.json", JSON), ("2.png", b"x"), ("2.txt", b"rain"), ("2.flac", &wav(8))]);
    let mut samples = Vec::new();
    let is_whole = read("s3://a/0.tar", &shard[..], TextAugment::None, &mut |passing| {
        let Passing::Pair(Some(sample)) = passing else { panic!("{passing:?}") };
        samples.push(*sample);
        true
    });
    assert!(is_whole);
    assert_eq!(samples.iter().map(|sample| sample.id.as_str()).collect::<Vec<_>>(), ["d/1", "2"]);
    assert_eq!(samples[0].meta["licence"], "CC0");
    assert_eq!(samples[0].audio.name(), "s3://a/0.tar/d/1.wav");
    assert_eq!(samples[0].audio.bytes().unwrap(), wav(9));
    assert_eq!(samples[1].captions, ["rain"]);
    assert_eq!(samples[1].audio.load(8000).unwrap().samples.len(), 8);
    let error = Sample {
        audio: AudioSource::Memory { name: "a/b.wav".into(), bytes: (*b"no sound").into() },
        ..samples[0].clone()
    };
    assert!(error.audio.load(8000).unwrap_err().to_string().contains("a/b.wav"));
}

#[test]
fn taking_may_stop() {
    let shard = tar(&[("1.wav", &wav(9)), ("1.json", JSON), ("2.wav", &wav(9)), ("2.json", JSON)]);
    let mut pairs = 0;
    let is_whole = read("0.tar", &shard[..], TextAugment::None, &mut |_| {
        pairs += 1;
        false
    });
    assert_eq!((pairs, is_whole), (1, false));
}

#[test]
fn members_apart_are_no_pair() {
    let shard = tar(&[("1.wav", &wav(9)), ("2.wav", &wav(9)), ("1.json", JSON), ("2.json", JSON)]);
    let side = "side by side";
    check(shard, &[], 4, &[side, side, side, side]);
}

#[test]
fn shards_joined_end_to_end_are_one() {
    let one = tar(&[("1.wav", &wav(9)), ("1.json", JSON)]);
    let two = tar(&[("1.wav", &wav(9)), ("1.json", JSON), ("3.wav", &wav(9)), ("3.json", JSON)]);
    let (ids, skipped, is_whole) = pass(&[one, two].concat()[..]);
    assert_eq!(ids.into_iter().flatten().collect::<Vec<_>>(), ["1", "3"], "the same key on both sides is one clip");
    assert!(skipped.iter().all(|skipped| skipped.contains("a second member")), "{skipped:?}");
    assert!(is_whole);
}

#[test]
fn a_cut_stream_keeps_what_came_before() {
    let whole = tar(&[("1.wav", &wav(900)), ("1.json", JSON), ("2.wav", &wav(900)), ("2.json", JSON)]);
    // 512 + 2048 + 512 + 512 bytes make the first pair: inside the second sound, its header, the second description.
    check(&whole[..5000], &["1"], 2, &["0.tar/2.wav: its header promises 1844 bytes, the shard ends after 904"]);
    check(&whole[..3600], &["1"], 1, &["damaged after byte"]);
    check(
        &whole[..3584 + 2560 + 530],
        &["1"],
        2,
        &["0.tar/2.json: its header promises 70 bytes, the shard ends after 18"],
    );
    // Inside a picture, which is passed over.
    let mut picture = tar(&[("1.wav", &wav(9)), ("1.json", JSON), ("1.png", &[0; 4000])]);
    picture.truncate(512 * 6);
    check(picture, &["1"], 1, &["0.tar/1.png: its header promises 4000 bytes"]);
}

#[test]
fn a_failing_source_is_named_once() {
    struct Failing<'a>(&'a [u8]);
    impl Read for Failing<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            match self.0.read(buffer)? {
                0 => Err(io::Error::other("connection reset")),
                count => Ok(count),
            }
        }
    }
    let whole = tar(&[("1.wav", &wav(900)), ("1.json", JSON), ("2.wav", &wav(900)), ("2.json", JSON)]);
    for end in [3584, 3600, 5000] {
        let (ids, skipped, is_whole) = pass(Failing(&whole[..end]));
        assert_eq!(ids.iter().flatten().count(), 1);
        assert!(!is_whole && skipped.len() == 1, "{skipped:?}");
        assert_eq!(skipped[0], format!("0.tar: stopped after byte {end} (connection reset); what came before is kept"));
    }
}

#[test]
fn a_header_may_promise_anything() {
    let good = tar(&[("1.wav", &wav(9)), ("1.json", JSON)]);
    let good = &good[..good.len() - 1024];
    for (size, name, reason) in [
        (10u64 << 30, &b"2.wav"[..], "a sound of 10737418240 bytes"),
        (100 << 20, b"2.wav", "a sound of 104857600 bytes; a stream takes 67108864"),
        (10 << 30, b"2.json", "a description of 10737418240 bytes"),
    ] {
        let shard = [good, &header(name, size), &[b' '; 4096]].concat();
        check(shard, &["1"], 2, &[reason, "the shard ends after 4096"]);
    }
    check([good, &header(b"2.wav", u64::MAX)].concat(), &["1"], 1, &["0.tar"]);
}

#[test]
fn hostile_members() {
    let mut shard = tar(&[("../1.wav", &wav(9)), ("/2.wav", &wav(9)), ("3.wav", &wav(9)), ("3.json", JSON)]);
    shard.truncate(shard.len() - 1024);
    for (name, kind) in [("4.wav", b'2'), ("5.wav", b'1'), ("6.wav", b'3'), ("7.wav", b'6')] {
        let mut link = tar::Header::from_byte_slice(&header(name.as_bytes(), 0)).clone();
        link.set_entry_type(tar::EntryType::new(kind));
        link.set_cksum();
        shard.extend(link.as_bytes());
    }
    shard.extend(header(b"\xff.wav", 0));
    shard.extend([0; 1024]);
    let odd = "a link or special file";
    check(shard, &["3"], 8, &["leads out", "leads out", odd, odd, odd, odd, "not UTF-8"]);
}

#[test]
fn a_sparse_member_is_passed_over() {
    // Four bytes stored, eight gigabytes of holes.
    let mut sparse = tar::Header::from_byte_slice(&header(b"2.wav", 4)).clone();
    sparse.set_entry_type(tar::EntryType::GNUSparse);
    let gnu = sparse.as_gnu_mut().unwrap();
    let octal = |field: &mut [u8], value: u64| {
        field.copy_from_slice(format!("{value:0width$o}\0", width = field.len() - 1).as_bytes())
    };
    octal(&mut gnu.sparse[0].offset, (1 << 33) - 512);
    octal(&mut gnu.sparse[0].numbytes, 4);
    octal(&mut gnu.realsize, (1 << 33) - 508);
    sparse.set_cksum();
    let good = tar(&[("1.wav", &wav(9)), ("1.json", JSON)]);
    let rest = tar(&[("3.wav", &wav(9)), ("3.json", JSON)]);
    let mut content = [0; 512];
    content[..4].copy_from_slice(b"RIFF");
    let shard = [&good[..good.len() - 1024], sparse.as_bytes(), &content, &rest].concat();
    check(&shard, &["1", "3"], 3, &["0.tar/2.wav: a link or special file"]);
}

#[test]
fn descriptions_are_bounded_in_depth_and_length() {
    let deep = format!("{{\"text\": \"x\", \"original_data\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    check(tar(&[("1.wav", &wav(9)), ("1.json", deep.as_bytes())]), &[], 1, &["recursion limit"]);
    let long = vec![b' '; (1 << 20) + 1];
    check(tar(&[("1.wav", &wav(9)), ("1.json", &long)]), &[], 1, &["a description of 1048577 bytes"]);
    check(tar(&[("1.wav", &wav(9)), ("1.json", b"{}")]), &[], 1, &["neither `text` nor `tag`"]);
}

#[test]
fn headers_are_bounded() {
    let mut long = tar::Header::from_byte_slice(&header(b"././@LongLink", 2 << 20)).clone();
    long.set_entry_type(tar::EntryType::GNULongName);
    long.set_cksum();
    let good = tar(&[("1.wav", &wav(9)), ("1.json", JSON)]);
    let shard = [&good[..good.len() - 1024], long.as_bytes(), &vec![b'a'; 2 << 20]].concat();
    check(shard, &["1"], 1, &["more than 1048576 bytes of headers"]);
    // Zeros without end, as of /dev/zero.
    let (ids, skipped, _) = pass(io::repeat(0));
    assert_eq!((ids.len(), skipped.len()), (0, 1), "{skipped:?}");
    let (ids, skipped, _) = pass(io::repeat(b'x'));
    assert_eq!((ids.len(), skipped.len()), (0, 1), "{skipped:?}");
    assert!(skipped[0].contains("not a tar file"), "{skipped:?}");
}
