//! The fuzz target of the shard readers on stable Rust: its corpus, and mutations of it for a second or so.
//!
//! `fuzz/corpus/shard` holds what the fuzzer begins with and what it once failed on. `SHARD_FUZZ_ROUNDS=1000000` runs longer;
//! `cargo test -p clap-data --test shard_fuzz -- --ignored` writes the seeds anew.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tar::{EntryType, Header};

#[path = "../fuzz/check.rs"]
mod check;

/// The system's allocator, counting.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged; counting touches no memory of the caller's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        MOST.fetch_max(NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps `GlobalAlloc`'s contract, which is that of the system's allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above; what was allocated came from the system's allocator with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Checks `bytes` and how much memory that takes: some copies of the shard, and 32 MiB for headers, descriptions and threads.
fn check(what: &str, bytes: &[u8]) {
    let before = NOW.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    check::check(bytes);
    let most = MOST.load(Ordering::Relaxed).saturating_sub(before);
    assert!(most <= 8 * bytes.len() + (32 << 20), "{what}: {most} bytes of memory for a shard of {}", bytes.len());
}

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/shard")
}

/// A member as its header says, its content padded.
fn member(name: &[u8], kind: EntryType, size: u64, content: &[u8]) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(size);
    header.set_cksum();
    let mut bytes = [&header.as_bytes()[..], content].concat();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn plain(name: &str, content: &[u8]) -> Vec<u8> {
    member(name.as_bytes(), EntryType::Regular, content.len() as u64, content)
}

/// A pair of a sound, which nobody decodes here, and a description.
fn pair(key: &str) -> Vec<u8> {
    let words = br#"{"text": ["a dog", "it barks"], "tag": ["dog"], "original_data": {"licence": "CC0"}}"#;
    [plain(&format!("{key}.flac"), b"fLaC"), plain(&format!("{key}.json"), words)].concat()
}

/// One of each kind of shard that somebody might write, by mistake or on purpose.
fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let end = vec![0; 1024];
    let with = |middle: Vec<u8>| [pair("1"), middle, pair("2"), end.clone()].concat();
    let kinds = [EntryType::Symlink, EntryType::Link, EntryType::Char, EntryType::Block, EntryType::Fifo];
    let odd = kinds.iter().enumerate().flat_map(|(n, kind)| member(format!("{n}.wav").as_bytes(), *kind, 0, b""));
    let mut sparse = Header::from_byte_slice(&member(b"3.wav", EntryType::GNUSparse, 4, b"")).clone();
    let gnu = sparse.as_gnu_mut().unwrap();
    gnu.sparse[0].offset.copy_from_slice(b"77777777770\0");
    gnu.sparse[0].numbytes.copy_from_slice(b"00000000004\0");
    gnu.realsize.copy_from_slice(b"77777777774\0");
    sparse.set_cksum();
    let mut block = [0; 512];
    block[..4].copy_from_slice(b"RIFF");
    let long = format!("{}/3.wav\0", "long".repeat(60));
    let pax = "22 path=a/very/3.flac\n19 size=99999999999\n";
    vec![
        ("pairs", with(vec![])),
        ("txt-cls", with([plain("3.wav", b"RIFF"), plain("3.txt", b"rain"), plain("3.cls", b"rain")].concat())),
        ("traversal", with([plain("../../3.wav", b"RIFF"), plain("/etc/3.json", b"{}")].concat())),
        ("ten-gigabytes", with(member(b"3.wav", EntryType::Regular, 10 << 30, b"RIFF"))),
        ("largest", with(member(b"3.json", EntryType::Regular, u64::MAX, b"{}"))),
        ("sparse", with([sparse.as_bytes(), &block[..]].concat())),
        (
            "gnu-long-name",
            with(
                [
                    member(b"././@LongLink", EntryType::GNULongName, long.len() as u64, long.as_bytes()),
                    plain("x", b"RIFF"),
                ]
                .concat(),
            ),
        ),
        (
            "gnu-long-link",
            with([member(b"././@LongLink", EntryType::GNULongLink, 1 << 40, b"x"), plain("3.wav", b"")].concat()),
        ),
        (
            "pax",
            with(
                [member(b"pax", EntryType::XHeader, pax.len() as u64, pax.as_bytes()), plain("3.wav", b"RIFF")]
                    .concat(),
            ),
        ),
        ("links-devices", with(odd.collect())),
        ("not-utf8", with(member(b"\xff\xfe.wav", EntryType::Regular, 4, b"RIFF"))),
        ("no-text", with([plain("3.wav", b"RIFF"), plain("3.json", b"{\"title\": 1}")].concat())),
        ("nested", with([plain("3.wav", b"RIFF"), plain("3.json", "{\"text\": ".repeat(300).as_bytes())].concat())),
        ("cut", with(vec![])[..2100].to_vec()),
        ("joined", [pair("1"), end.clone(), pair("1"), end.clone()].concat()),
        ("duplicates", with(pair("1"))),
        ("empty", vec![]),
        ("zeros", vec![0; 4096]),
    ]
}

/// Changes a shard a little: bytes, blocks, or a field of a header, whose checksum is set right again so that the reader
/// goes on to what the field means.
fn mutate(bytes: &mut Vec<u8>, others: &[Vec<u8>], rng: &mut ChaCha8Rng) {
    let blocks = bytes.len() / 512;
    match rng.random_range(0..8) {
        0 if !bytes.is_empty() => {
            let at = rng.random_range(0..bytes.len());
            bytes[at] = rng.random();
        }
        1 => bytes.truncate(rng.random_range(0..=bytes.len())),
        2 if blocks > 0 => {
            let (from, to) = (rng.random_range(0..blocks) * 512, rng.random_range(0..blocks) * 512);
            let block = bytes[from..from + 512].to_vec();
            bytes.splice(to..to, block);
        }
        3 if blocks > 0 => {
            let at = rng.random_range(0..blocks) * 512;
            bytes.drain(at..at + 512);
        }
        4 => bytes.extend_from_slice(others.choose(rng).unwrap()),
        _ if blocks > 0 => {
            let at = rng.random_range(0..blocks) * 512;
            let header = &mut bytes[at..at + 512];
            match rng.random_range(0..6) {
                0 => header[124..136].copy_from_slice(b"77777777777\0"),
                1 => header[124..136].copy_from_slice(&[&[0x80][..], &[0xff; 11]].concat()),
                2 => header[156] = *b"0123456789SLKxgNVDM7\0".choose(rng).unwrap(),
                3 => header[rng.random_range(0..100)] = rng.random(),
                4 => header[rng.random_range(345..512)] = *b"01234567 \0/.".choose(rng).unwrap(),
                _ => header[257..265].copy_from_slice([b"ustar\x0000", b"ustar  \0"].choose(rng).unwrap().as_slice()),
            }
            let mut sum = Header::from_byte_slice(header).clone();
            sum.set_cksum();
            header.copy_from_slice(sum.as_bytes());
        }
        _ => bytes.extend_from_slice(&[0; 512]),
    }
}

#[test]
fn no_shard_makes_the_readers_fail() {
    let mut shards = Vec::new();
    for entry in std::fs::read_dir(corpus()).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        check(&path.display().to_string(), &bytes);
        shards.push(bytes);
    }
    assert!(shards.len() >= seeds().len(), "the corpus is there");
    // Too large to keep.
    let deep = ["{\"text\": ".repeat(100_000), "[".repeat(100_000)].map(|json| plain("1.json", json.as_bytes()));
    for json in deep {
        check("nested", &[plain("1.wav", b"RIFF"), json, vec![0; 1024]].concat());
    }
    shards.sort();
    let rounds = std::env::var("SHARD_FUZZ_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(1500);
    for round in 0..rounds {
        let mut rng = ChaCha8Rng::seed_from_u64(round);
        let mut bytes = shards.choose(&mut rng).unwrap().clone();
        for _ in 0..rng.random_range(1..6) {
            mutate(&mut bytes, &shards, &mut rng);
        }
        check(&format!("round {round}"), &bytes);
    }
}

#[test]
#[ignore = "writes the corpus"]
fn write_seeds() {
    std::fs::create_dir_all(corpus()).unwrap();
    for (name, bytes) in seeds() {
        std::fs::write(corpus().join(name), bytes).unwrap();
    }
}
