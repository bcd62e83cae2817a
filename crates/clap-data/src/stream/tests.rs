//! Streams of small shards: what comes by, in which order, and what a run that goes on reads again.

use std::collections::{BTreeSet, HashSet};
use std::io::Cursor;
use std::sync::Arc;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::test_tree::{Tree, tar, wav};
use crate::{Loader, Sample, Skipped};

/// A folder of shards that hold so many clips each, numbered throughout, with or without an inventory.
pub(super) fn shards(sizes: &[usize], inventory: bool) -> Tree {
    let tree = Tree::new();
    let mut clip = 0;
    let mut lines = Vec::new();
    for (shard, size) in sizes.iter().enumerate() {
        tree.write(&format!("{shard}.tar"), shard_of(clip..clip + size));
        lines.push(format!("\"{shard}.tar\": {size}"));
        clip += size;
    }
    if inventory {
        tree.write("sizes.json", format!("{{{}}}", lines.join(", ")));
    }
    tree
}

pub(super) fn shard_of(clips: std::ops::Range<usize>) -> Vec<u8> {
    let mut members = Vec::new();
    for clip in clips {
        members.push((format!("{clip}.wav"), wav(20 + u32::try_from(clip).unwrap())));
        members.push((format!("{clip}.json"), format!("{{\"text\": \"clip {clip}\"}}").into_bytes()));
    }
    let members: Vec<(&str, &[u8])> = members.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    tar(&members)
}

fn options() -> StreamOptions {
    StreamOptions { shuffle_buffer: 10, readers: 2, ..StreamOptions::default() }
}

fn config() -> LoaderConfig {
    LoaderConfig { batch_size: 4, seed: 3, shuffle: true, drop_last: true, ..LoaderConfig::default() }
}

pub(super) fn open(tree: &Tree, options: StreamOptions) -> Arc<Stream> {
    Arc::new(Stream::open(&tree.path(""), options).unwrap())
}

/// What a batch is made of: numbers of the clips, and a draw for each.
pub(super) type Batch = (usize, Vec<usize>, Vec<(usize, u64)>);

fn draw(sample: &Sample, rng: &mut ChaCha8Rng) -> std::result::Result<(usize, u64), String> {
    let clip = sample.id.parse().map_err(|_| "no number".to_owned())?;
    assert_eq!(sample.captions, [format!("clip {clip}")]);
    let wave = sample.audio.load(8000).map_err(|error| error.to_string())?;
    assert_eq!(wave.samples.len(), 20 + clip);
    Ok((clip, rng.random()))
}

/// The batches of an epoch, and everything left out.
pub(super) fn epoch(stream: &Arc<Stream>, config: &LoaderConfig) -> (Vec<Batch>, Vec<String>) {
    let mut loader = Loader::stream(stream, config.clone(), draw).unwrap();
    let (mut batches, mut skipped): (Vec<Batch>, Vec<Skipped>) = (Vec::new(), Vec::new());
    for batch in loader.by_ref() {
        batches.push((batch.batch, batch.indices, batch.items));
        skipped.extend(batch.failed);
    }
    skipped.extend(loader.leftover());
    (batches, skipped.iter().map(ToString::to_string).collect())
}

fn clips(batches: &[Batch]) -> Vec<usize> {
    batches.iter().flat_map(|(_, _, items)| items).map(|(clip, _)| *clip).collect()
}

#[test]
fn an_epoch_has_every_clip_once_in_an_order_of_seed_and_epoch() {
    let tree = shards(&[7, 12, 5, 9, 11], true);
    let stream = open(&tree, options());
    assert_eq!((stream.samples(), stream.batches(&config())), (Some(44), Some(11)));
    let (batches, skipped) = epoch(&stream, &config());
    assert_eq!(skipped, [] as [&str; 0]);
    assert!(batches.iter().all(|(_, _, items)| items.len() == 4));
    let order = clips(&batches);
    assert_eq!(order.iter().copied().collect::<BTreeSet<_>>(), (0..44).collect());
    assert_ne!(order, (0..44).collect::<Vec<_>>());
    assert_eq!(epoch(&stream, &config()).0, batches);
    for other in [LoaderConfig { epoch: 1, ..config() }, LoaderConfig { seed: 4, ..config() }] {
        let (again, _) = epoch(&stream, &other);
        assert_ne!(clips(&again), order);
        let draws = |batches: &[Batch]| batches.iter().flat_map(|b| b.2.clone()).collect::<HashSet<_>>();
        assert!(draws(&again).is_disjoint(&draws(&batches)), "clips draw anew");
    }
}

#[test]
fn batches_do_not_depend_on_workers_prefetch_and_inventory() {
    for readers in [1, 3, 9] {
        let options = StreamOptions { readers, ..options() };
        let (tree, bare) = (shards(&[7, 12, 5, 9, 11], true), shards(&[7, 12, 5, 9, 11], false));
        let stream = open(&tree, options.clone());
        let expected = epoch(&stream, &LoaderConfig { workers: 0, ..config() });
        assert_eq!(expected.0.len(), 11);
        for (workers, prefetch) in [(1, 1), (3, 5), (8, usize::MAX)] {
            assert_eq!(epoch(&stream, &LoaderConfig { workers, prefetch, ..config() }), expected);
        }
        let unknown = open(&bare, options);
        assert_eq!(unknown.batches(&config()), None);
        assert_eq!(epoch(&unknown, &config()), expected);
    }
}

#[test]
fn without_shuffling_the_order_is_that_of_the_shards() {
    let tree = shards(&[3, 4, 3], true);
    let stream = open(&tree, options());
    let plain = LoaderConfig { shuffle: false, drop_last: false, ..config() };
    let (batches, _) = epoch(&stream, &plain);
    assert_eq!(clips(&batches), (0..10).collect::<Vec<_>>());
    assert_eq!(batches.iter().map(|batch| batch.2.len()).collect::<Vec<_>>(), [4, 4, 2]);
    assert_eq!(batches[2].1, [8, 9]);
}

#[test]
fn a_run_goes_on_at_the_same_batch() {
    for inventory in [true, false] {
        for readers in [1, 2] {
            let tree = shards(&[6; 12], inventory);
            let stream = open(&tree, StreamOptions { readers, ..options() });
            let (whole, _) = epoch(&stream, &config());
            for first_batch in [1, 5, 11, 17, 18] {
                let (rest, skipped) = epoch(&stream, &LoaderConfig { first_batch, ..config() });
                assert_eq!(rest, whole[first_batch..], "from batch {first_batch}, inventory {inventory}");
                assert_eq!(skipped, [] as [&str; 0]);
            }
        }
    }
}

#[test]
fn shards_behind_are_not_read_again() {
    let tree = shards(&[6; 12], true);
    let stream = open(&tree, options());
    let (whole, _) = epoch(&stream, &config());
    let rest = LoaderConfig { first_batch: 12, ..config() };
    let needed: BTreeSet<usize> = clips(&whole[12..]).iter().map(|clip| clip / 6).collect();
    let behind: Vec<usize> = (0..12).filter(|shard| !needed.contains(shard)).collect();
    assert!(behind.len() >= 4, "{behind:?}");
    for shard in behind {
        std::fs::remove_file(tree.path(&format!("{shard}.tar"))).unwrap();
    }
    assert_eq!(epoch(&stream, &rest), (whole[12..].to_vec(), Vec::new()));
}

#[test]
fn ranks_have_as_many_batches_and_no_clip_in_common() {
    for (sizes, world) in [(&[6, 6, 6, 6, 6, 6][..], 3), (&[6, 6, 6, 6, 6, 6, 6], 2), (&[40, 33], 4)] {
        let tree = shards(sizes, true);
        let stream = open(&tree, options());
        let per_rank = sizes.iter().sum::<usize>() / (4 * world);
        let mut seen = HashSet::new();
        for rank in 0..world {
            let (batches, skipped) = epoch(&stream, &LoaderConfig { rank, world, ..config() });
            assert_eq!((batches.len(), skipped.len()), (per_rank, 0));
            let own: HashSet<usize> = clips(&batches).into_iter().collect();
            assert!(own.is_disjoint(&seen), "rank {rank} of {world}");
            seen.extend(own);
        }
    }
    let unknown = open(&shards(&[6, 6], false), options());
    let error = Loader::stream(&unknown, LoaderConfig { world: 2, ..config() }, draw).err().unwrap().to_string();
    assert!(error.contains("sizes.json"), "{error}");
}

#[test]
fn an_epoch_may_be_shorter_or_longer_than_the_data() {
    let tree = shards(&[9, 4, 5], true);
    for samples in [8, 50] {
        let stream = open(&tree, StreamOptions { samples_per_epoch: Some(samples), ..options() });
        let (batches, skipped) = epoch(&stream, &config());
        assert_eq!((batches.len() as u64, skipped.len()), (samples / 4, 0));
        // 48 places of 18 clips: each comes up twice or three times, and draws anew each time.
        let drawn: HashSet<_> = batches.iter().flat_map(|batch| &batch.2).collect();
        assert_eq!(drawn.len(), 4 * batches.len());
        let order = clips(&batches);
        let times = |clip| order.iter().filter(|other| **other == clip).count();
        let times: BTreeSet<usize> = (0..18).map(times).collect();
        assert!(times.last().unwrap() - times.first().unwrap() <= 1, "{times:?}");
        let (rest, _) = epoch(&stream, &LoaderConfig { first_batch: 1, ..config() });
        assert_eq!(rest, batches[1..]);
    }
    // Nothing to repeat ends too.
    let empty = shards(&[0, 0], true);
    let stream = open(&empty, StreamOptions { samples_per_epoch: Some(8), ..options() });
    let (batches, skipped) = epoch(&stream, &config());
    assert!(batches.is_empty());
    assert!(skipped[0].contains("ended after 0 of the epoch's 2 batches"), "{skipped:?}");
}

#[test]
fn what_can_be_read_once_goes_on_from_epoch_to_epoch() {
    let bytes: Vec<u8> = [shard_of(0..7), shard_of(7..30)].concat();
    let once = |samples| {
        let options = StreamOptions { samples_per_epoch: samples, ..options() };
        Arc::new(Stream::reader("standard input", Cursor::new(bytes.clone()), options))
    };
    let stream = once(Some(12));
    let (first, _) = epoch(&stream, &config());
    let (second, _) = epoch(&stream, &LoaderConfig { epoch: 1, ..config() });
    assert_eq!(clips(&first).into_iter().collect::<BTreeSet<_>>(), (0..12).collect());
    assert_eq!(clips(&second).into_iter().collect::<BTreeSet<_>>(), (12..24).collect());
    let (third, skipped) = epoch(&stream, &LoaderConfig { epoch: 2, ..config() });
    assert_eq!(clips(&third).len(), 4);
    assert!(skipped.last().unwrap().contains("standard input: the stream ended after 1 of the epoch's 3 batches"));
    let (_, skipped) = epoch(&stream, &config());
    assert!(skipped[0].contains("epoch 0 began before"), "{skipped:?}");

    // Begun anew, a run that goes on passes over what it has behind it.
    let rest = LoaderConfig { epoch: 1, first_batch: 2, ..config() };
    assert_eq!(epoch(&once(Some(12)), &rest).0, second[2..]);

    let all = once(None);
    assert_eq!(epoch(&all, &config()).0.len(), 7);
    let error = Loader::stream(&all, LoaderConfig { epoch: 1, ..config() }, draw).err().unwrap().to_string();
    assert!(error.contains("read once"), "{error}");
}

#[test]
fn faults_keep_their_places() {
    let tree = shards(&[6; 4], true);
    let stream = open(&tree, options());
    let (whole, _) = epoch(&stream, &config());
    // One clip unusable, one shard cut in the middle of its third clip, one gone, one with more than promised.
    let mut bytes = std::fs::read(tree.path("0.tar")).unwrap();
    let words = b"{\"text\": \"clip 2\"}";
    let at = bytes.windows(words.len()).position(|window| window == words).unwrap();
    bytes[at] = b'[';
    tree.write("0.tar", &bytes);
    let bytes = std::fs::read(tree.path("1.tar")).unwrap();
    tree.write("1.tar", &bytes[..2 * 2048 + 540]);
    std::fs::remove_file(tree.path("2.tar")).unwrap();
    tree.write("3.tar", shard_of(18..30));
    let (batches, skipped) = epoch(&stream, &config());
    let lost = |clip: &usize| [2, 8, 9, 10, 11].contains(clip) || (12..18).contains(clip);
    for ((_, _, items), (_, _, expected)) in batches.iter().zip(&whole) {
        let expected: Vec<_> = expected.iter().filter(|(clip, _)| !lost(clip)).collect();
        assert_eq!(items.iter().collect::<Vec<_>>(), expected);
    }
    assert_eq!(batches.len(), whole.len());
    for part in ["0.tar/2.json: ", "1.tar/8.wav: its header promises", "2.tar: ", "3.tar: sizes.json promises 6"] {
        assert_eq!(skipped.iter().filter(|skipped| skipped.contains(part)).count(), 1, "{part}: {skipped:?}");
    }
    assert_eq!(skipped.len(), 4, "{skipped:?}");
    // And a run that goes on sees the same.
    let (rest, _) = epoch(&stream, &LoaderConfig { first_batch: 3, ..config() });
    assert_eq!(rest, batches[3..]);
}

#[test]
fn a_promised_shard_that_is_gone_is_reported_and_keeps_its_places() {
    let tree = shards(&[6; 4], true);
    let whole = epoch(&open(&tree, options()), &config()).0;
    std::fs::remove_file(tree.path("3.tar")).unwrap();
    let stream = open(&tree, options());
    assert_eq!((stream.shards(), stream.samples()), (4, Some(24)));
    let (batches, skipped) = epoch(&stream, &config());
    assert_eq!((batches.len(), skipped.len()), (whole.len(), 1), "{skipped:?}");
    assert!(skipped[0].contains("3.tar: "), "{skipped:?}");
    assert_eq!(clips(&batches), clips(&whole).into_iter().filter(|clip| *clip < 18).collect::<Vec<_>>());
    for name in ["../x.tar", "/etc/x.tar", "a/b.tar"] {
        tree.write("sizes.json", format!("{{\"0.tar\": 6, \"{name}\": 6}}"));
        let error = Stream::open(&tree.path(""), options()).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
}

#[test]
fn the_buffer_is_bounded_in_bytes() {
    let tree = shards(&[20], true);
    // Sounds of 84 bytes and more: room for three.
    let stream = open(&tree, StreamOptions { buffer_bytes: 400, readers: 1, ..options() });
    let (batches, skipped) = epoch(&stream, &config());
    assert_eq!((batches.len(), clips(&batches).len() + skipped.len()), (5, 20));
    assert!(skipped.iter().all(|skipped| skipped.contains("no room in the stream's buffer")), "{skipped:?}");
    assert!(clips(&batches).len() >= 3);
}

#[test]
fn what_cannot_be_streamed_is_named() {
    let check = |place: &Path, split: Option<&str>, part: &str| {
        let options = StreamOptions { split: split.map(str::to_owned), ..StreamOptions::default() };
        let error = Stream::open(place, options).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    let tree = Tree::new();
    check(&tree.path("absent"), None, "no such file");
    tree.wav("a/x.wav", 9).write("a/metadata.csv", "file_name,text\nx.wav,a tone\n");
    check(&tree.path("a"), None, "no shards here");
    tree.write("b/train/0.tar", shard_of(0..1)).write("b/test/0.tar", shard_of(1..2));
    check(&tree.path("b"), Some("valid"), "there are: test, train");
    let options = StreamOptions { split: Some("test".to_owned()), ..StreamOptions::default() };
    assert_eq!(Stream::open(&tree.path("b"), options).unwrap().shards(), 1);
    tree.write("c/0.tar", shard_of(0..1)).write("c/sizes.json", "{\"0.tar\": 99999999999}");
    check(&tree.path("c"), None, "99999999999");
    tree.write("c/sizes.json", "what");
    check(&tree.path("c"), None, "sizes.json");
    check(Path::new("-"), Some("train"), "a stream has no splits");
    if cfg!(not(feature = "object-store")) {
        check(Path::new("s3://bucket/{0..3}.tar"), None, "--features object-store");
    }
    let balanced = LoaderConfig { balance: Balance::Labels(1.0), ..config() };
    let stream = open(&shards(&[4], true), StreamOptions::default());
    let error = Loader::stream(&stream, balanced, draw).err().unwrap().to_string();
    assert!(error.contains("balance"), "{error}");
    assert!(Stream::is_needed(Path::new("-")) && Stream::is_needed(Path::new("gs://a/{0..1}.tar")));
    assert!(!Stream::is_needed(Path::new("shards/0.tar")) && !Stream::is_needed(Path::new("://x")));
}

#[test]
fn dropping_stops_the_threads() {
    /// Bytes that never come.
    struct Silent(std::sync::mpsc::Receiver<()>);
    impl Read for Silent {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Ok(self.0.recv().map_or(0, |()| 0))
        }
    }
    let (hold, silence) = std::sync::mpsc::channel();
    let stream = Arc::new(Stream::reader("silence", Silent(silence), options()));
    let loader = Loader::stream(&stream, config(), draw).unwrap();
    drop(loader);
    drop(hold);
    let tree = shards(&[6; 12], true);
    let stream = open(&tree, options());
    let mut loader = Loader::stream(&stream, config(), draw).unwrap();
    loader.next().unwrap();
    drop(loader);
    // The readers end where they try to hand on a clip.
    let begun = std::time::Instant::now();
    while Arc::strong_count(&stream) > 1 && begun.elapsed().as_secs() < 5 {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert_eq!(Arc::strong_count(&stream), 1);
}
