//! Files that cannot be read say why.

use super::super::tensors;
use super::{archive, folder};

#[track_caller]
fn refuses(bytes: &[u8], reason: &str) {
    match tensors(bytes) {
        Ok(tensors) => panic!("{} tensors, but expected: {reason}", tensors.len()),
        Err(message) => assert!(message.contains(reason), "expected {reason} in: {message}"),
    }
}

fn read(name: &str) -> Vec<u8> {
    std::fs::read(folder().join(name)).unwrap()
}

/// The same bytes with every occurrence of one text replaced by another as long.
fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut bytes = bytes.to_vec();
    let mut found = 0;
    for at in 0..=bytes.len() - from.len() {
        if bytes[at..].starts_with(from) {
            bytes[at..at + to.len()].copy_from_slice(to);
            found += 1;
        }
    }
    assert!(found > 0);
    bytes
}

#[test]
fn a_file_cut_short_says_so() {
    for name in ["plain.zip-p2.pt", "plain.legacy-p2.pt"] {
        let bytes = read(name);
        for length in [40, bytes.len() / 2, bytes.len() - 9] {
            refuses(&bytes[..length], "is the download complete?");
        }
    }
}

#[test]
fn archives_of_other_kinds_are_told_apart() {
    let entries = |method: u8, flags: u8| {
        let mut bytes = archive(b"\x80\x02}.", &[]);
        for at in 0..bytes.len() - 12 {
            // Flags and method of the local header and of the directory's.
            if bytes[at..].starts_with(b"PK\x03\x04") {
                (bytes[at + 6], bytes[at + 8]) = (flags, method);
            } else if bytes[at..].starts_with(b"PK\x01\x02") {
                (bytes[at + 8], bytes[at + 10]) = (flags, method);
            }
        }
        bytes
    };
    refuses(&entries(8, 0), "is compressed");
    refuses(&entries(0, 1), "is encrypted");
    refuses(&entries(0, 0), "an empty mapping");
    refuses(&archive(b"\x80\x02}.", &[("byteorder", b"big")]), "big-endian");
    let torch_script = b"\x80\x02c__torch__.model\nNet\n)\x81}b.";
    refuses(&archive(torch_script, &[]), "__torch__.model.Net, a TorchScript archive");
    refuses(&replaced(&read("plain.zip-p2.pt"), b"data.pkl", b"data.txt"), "without `data.pkl`");
}

#[test]
fn files_without_weights_say_what_is_in_them() {
    refuses(&archive(b"\x80\x02cmodels\nCnn14\n)\x81}b.", &[]), "holds an object of models.Cnn14. Save the model's");
    refuses(
        &archive(b"\x80\x02}(X\x05\0\0\0epochK\x03X\x04\0\0\0name]u.", &[]),
        "epoch (a number), name (a list of 0)",
    );
    refuses(&archive(b"\x80\x02K\x01.", &[]), "It holds a number");
    // A list within itself is no mapping, a mapping within itself no endless search.
    refuses(&archive(b"\x80\x02]q\0h\0a.", &[]), "a list of 1");
    refuses(&archive(b"\x80\x02}q\0X\x01\0\0\0ah\0s.", &[]), "a (a mapping of 1)");
}

#[test]
fn pickles_of_other_programs_are_told_apart() {
    refuses(b"\x80\x04}.", "not one that torch.save wrote");
    refuses(&archive(b"(dp0\n.", &[]), "protocol 2 or later");
    refuses(&archive(b"\x80\x09}.", &[]), "protocol 9");
    refuses(&archive(b"\x80\x05\x97.", &[]), "opcode 0x97");
    let version = replaced(&read("plain.legacy-p2.pt"), b"\x80\x02M\xe9\x03.", b"\x80\x02M\xea\x03.");
    refuses(&version, "version is not 1001");
}

#[test]
fn what_the_pickle_says_must_be_in_the_file() {
    let zip = read("plain.zip-p2.pt");
    refuses(&replaced(&zip, b"/data/0", b"/data/9"), "`weight` has its values in the entry data/0");
    // BININT1 12 before TUPLE MEMOIZE BINPERSID: the number of values of the first storage.
    refuses(
        &replaced(&zip, b"K\x0ct", b"K\x0dt"),
        "`weight` should have 13 values of 4 bytes in storage 0, which has 48 bytes",
    );
    // The sizes (3, 4).
    refuses(&replaced(&zip, b"K\x03K\x04\x86", b"K\x03K\x05\x86"), "`weight` has the shape [3, 5]");
    refuses(&replaced(&zip, b"K\x03K\x04\x86", b"K\x03NK\x04"), "`weight`");
    refuses(&replaced(&zip, b"FloatStorage", b"FlootStorage"), "FlootStorage, a class that is not known here");
    let legacy = read("plain.legacy-p2.pt");
    refuses(&replaced(&legacy, b"FloatStorage", b"FlootStorage"), "is of no class known here");
}
