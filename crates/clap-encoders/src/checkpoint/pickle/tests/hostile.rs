//! Files that were made to do harm, and files that something happened to: an error or tensors, soon, and never a panic.

use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::super::tensors;
use super::{CPU, archive, folder};

/// Reads everything that a file has.
fn read(bytes: &[u8]) -> Result<usize, String> {
    let tensors = tensors(bytes)?;
    let whole = |tensor: &super::super::tensor::StoredTensor| {
        tensor.load(bytes, &CPU).is_ok_and(|tensor| tensor.is_ok_and(|read| read.elem_count() > 0))
    };
    Ok(tensors.values().filter(|tensor| whole(tensor)).count())
}

/// The bytes with something done to them.
fn mutated(bytes: &[u8], rng: &mut impl Rng) -> Vec<u8> {
    const OPCODES: &[u8] =
        b"}]()0123aselutdRbQcqhrjKMJXNGIL.\x80\x81\x85\x86\x87\x8a\x8b\x8c\x8d\x8e\x90\x91\x92\x93\x94\x95\x96";
    let mut bytes = bytes.to_vec();
    for _ in 0..rng.random_range(1..=4) {
        if bytes.is_empty() {
            return bytes;
        }
        let at = rng.random_range(0..bytes.len());
        match rng.random_range(0..7) {
            0 => bytes[at] ^= 1 << rng.random_range(0..8),
            1 => bytes[at] = rng.random(),
            2 => bytes[at] = OPCODES[rng.random_range(0..OPCODES.len())],
            3 => bytes.insert(at, OPCODES[rng.random_range(0..OPCODES.len())]),
            // Lengths at their most.
            4 => bytes[at..].iter_mut().take(4).for_each(|byte| *byte = 0xff),
            5 => {
                let end = (at + rng.random_range(1..64)).min(bytes.len());
                let part: Vec<u8> = bytes.drain(at..end).collect();
                let to = rng.random_range(0..=bytes.len());
                bytes.splice(to..to, part);
            }
            _ => bytes.truncate(at.max(bytes.len() / 2)),
        }
    }
    bytes
}

#[test]
fn thousands_of_broken_files_are_errors_or_tensors() {
    const ROUNDS: usize = 1000;
    let mut rng = ChaCha8Rng::seed_from_u64(0x1950_a86a_20f9_469c);
    let (mut whole, mut refused) = (0, 0);
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "pt") {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        for round in 0..ROUNDS {
            let bytes = mutated(&bytes, &mut rng);
            let start = Instant::now();
            match read(&bytes) {
                Ok(_) => whole += 1,
                Err(_) => refused += 1,
            }
            let took = start.elapsed();
            assert!(took < Duration::from_secs(5), "round {round} of {} took {took:?}", path.display());
        }
    }
    // Both happen, or the files were not broken where it matters.
    assert!(whole > ROUNDS && refused > ROUNDS, "{whole} read, {refused} refused");
}

#[track_caller]
fn refuses(pickle: &[u8], reason: &str) {
    let start = Instant::now();
    let message = read(&archive(pickle, &[("data/0", &[0; 64])])).unwrap_err();
    assert!(message.contains(reason), "expected {reason} in: {message}");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn depth_is_no_trouble() {
    const DEPTH: usize = 1_000_000;
    // A tuple in a tuple in a tuple; marks; a parameter of a parameter of a parameter.
    refuses(&[b"\x80\x02N", &[0x85; DEPTH][..], b"."].concat(), "a list of 1");
    refuses(&[b"\x80\x02", &[b'('; DEPTH][..], b"."].concat(), "nothing on the stack");
    let parameters: Vec<u8> = b"ctorch._utils\n_rebuild_parameter\n(".repeat(20_000);
    let ends: Vec<u8> = b"tR".repeat(20_000);
    refuses(&[b"\x80\x02}X\x01\0\0\0w", &parameters[..], b"N", &ends, b"s."].concat(), "w (an object");
}

#[test]
fn claims_beyond_the_file_cost_nothing() {
    for claim in [
        &b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff"[..],
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"X\xff\xff\xff\xff",
        b"\x8b\xff\xff\xff\xff",
    ] {
        refuses(&[b"\x80\x04", claim, b"."].concat(), "is the download complete?");
    }
    refuses(b"\x80\x02Nr\xff\xff\xff\xffj\xff\xff\xff\xfe.", "of the memo");
    refuses(b"\x80\x02cno line", "a line without an end");
    refuses(&[b"\x80\x02", &[b'}'; 5_000_000][..], b"."].concat(), "more than 4194304 values");
    refuses(&[b"\x80\x02N", &[0x94; 5_000_000][..], b"."].concat(), "memo of more than");
}

/// The state dict {"w": tensor} with these sizes and strides, BININT each, of a storage of 16 numbers.
fn tensor(sizes: &[i32], strides: &[i32], name: &[u8]) -> Vec<u8> {
    let tuple = |values: &[i32]| {
        let values: Vec<u8> = values.iter().flat_map(|value| [b"J", &value.to_le_bytes()[..]].concat()).collect();
        [b"(", &values[..], b"t"].concat()
    };
    let storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x10tQK\0";
    let head = [b"ctorch._utils\n", name, b"\n("].concat();
    [&head[..], storage, &tuple(sizes), &tuple(strides), b"tR"].concat()
}

#[test]
fn shapes_beyond_the_storage_or_beyond_measure_are_refused() {
    let one = |sizes: &[i32], strides: &[i32]| {
        let tensor = tensor(sizes, strides, b"_rebuild_tensor_v2");
        [b"\x80\x02}X\x01\0\0\0w", &tensor[..], b"s."].concat()
    };
    refuses(&one(&[17], &[1]), "which is more than the 64 bytes of its storage");
    refuses(&one(&[2, 9], &[8, 1]), "which is more than the 64 bytes");
    refuses(&one(&[i32::MAX; 4], &[i32::MAX; 4]), "which is more than the 64 bytes");
    refuses(&one(&[-1], &[1]), "numbers from 0 on");
    refuses(&one(&[4], &[-1]), "numbers from 0 on");
    refuses(&one(&[4, 4], &[4]), "strides of another shape");
    refuses(&one(&[1; 65], &[1; 65]), "up to 64 numbers");
    // One value, two billion times: within the storage, but not within the memory.
    refuses(&one(&[i32::MAX], &[0]), "more than 4 times");
    refuses(&one(&[i32::MAX; 8], &[0; 8]), "more than 4 times");
    assert_eq!(read(&archive(&one(&[100, 16], &[0, 1]), &[("data/0", &[0; 64])])), Ok(1));
}

/// A few bytes repeat a large tensor under many names.
#[test]
fn tensors_that_share_a_storage_cannot_be_more_than_a_few_times_the_file() {
    // 4 MB of one number, 40 times.
    let shared = tensor(&[1 << 20], &[0], b"_rebuild_tensor");
    let items: Vec<u8> =
        (0..40u8).flat_map(|i| [b"X\x02\0\0\0", &[b'a' + i / 20, b'a' + i % 20][..], b"h\0"].concat()).collect();
    let pickle = [b"\x80\x02}", &shared[..], b"q\x000(", &items, b"u."].concat();
    let message = tensors(&archive(&pickle, &[("data/0", &[0; 64])])).unwrap_err();
    assert!(message.contains("more than 4 times"), "{message}");
}

/// Equal parts that are named again and again are looked at once.
#[test]
fn repetition_costs_no_time() {
    // A list of 20,000 pairs, of which 20,000 ordered dicts are made.
    const MANY: usize = 20_000;
    let pairs = [b"](", &b"NN\x86".repeat(MANY)[..], b"e"].concat();
    let dicts = b"X\x01\0\0\0ah\x01h\x00\x85R".repeat(MANY);
    let pickle = [b"\x80\x02", &pairs[..], b"q\0ccollections\nOrderedDict\nq\x0100}(", &dicts, b"u."].concat();
    refuses(&pickle, "a (an object of collections.OrderedDict)");
    // A name of half a megabyte, 100,000 times.
    let name = vec![b'n'; 500_000];
    let text = [b"X", &500_000u32.to_le_bytes()[..], &name, b"q\x000"].concat();
    let tensor = [&tensor(&[2], &[1], b"_rebuild_tensor")[..], b"q\x010"].concat();
    let pickle = [b"\x80\x02", &text[..], &tensor, b"}(", &b"h\0h\x01".repeat(100_000), b"u."].concat();
    refuses(&pickle, "no mapping of names to tensors");
}
