//! Shards written and read again, in one go and in pieces.

use super::*;
use crate::test_tree::Tree;
use crate::{DataSet, OpenOptions, open};

/// Packs with the files as they are.
fn keep(source: &DataSet, out: &Path, per_shard: usize) -> Result<PackSummary> {
    let options = PackOptions { per_shard, sound: PackedSound::Kept, strict: true, ..PackOptions::default() };
    pack(&source.samples, out, &options, &mut |_| {})
}

fn tree() -> Tree {
    let tree = Tree::new();
    let mut table = "file_name,text,label,licence\n".to_owned();
    for clip in 0..5 {
        tree.wav(&format!("some/folder/clip.{clip}.wav"), 100 + clip);
        table += &format!("some/folder/clip.{clip}.wav,caption {clip},label {},CC0\n", clip % 2);
    }
    tree.wav("other/clip.0.wav", 7).wav("no_extension", 9);
    table += "other/clip.0.wav,same name,label 0,CC0\nno_extension,bare,label 0,CC0\n";
    tree.write("metadata.csv", table);
    tree
}

#[test]
fn packing_keeps_bytes_and_words() {
    let tree = tree();
    let source = open(&tree.path(""), &OpenOptions::default()).unwrap();
    let summary = keep(&source, &tree.path("shards"), 3).unwrap();
    assert_eq!((summary.shards.len(), summary.samples), (3, 7));
    let sizes = fs::read_to_string(tree.path("shards/sizes.json")).unwrap();
    assert_eq!(sizes, "{\"0.tar\":3,\"1.tar\":3,\"2.tar\":1}\n");

    let strict = OpenOptions { strict: true, ..OpenOptions::default() };
    let packed = open(&tree.path("shards"), &strict).unwrap();
    assert_eq!(packed.samples.len(), source.samples.len());
    for (before, after) in source.samples.iter().zip(&packed.samples) {
        assert_eq!(before.audio.bytes().unwrap(), after.audio.bytes().unwrap());
        assert_eq!(before.audio.load(8000).unwrap(), after.audio.load(8000).unwrap());
        assert_eq!((&before.captions, &before.labels), (&after.captions, &after.labels));
        assert_eq!(before.meta, after.meta);
    }
    let ids: Vec<&str> = packed.samples.iter().map(|sample| sample.id.as_str()).collect();
    assert_eq!(ids, ["clip_0", "clip_1", "clip_2", "clip_3", "clip_4", "clip_0_2", "no_extension"]);
    assert_eq!(packed.samples[6].audio.name(), tree.path("shards/2.tar/no_extension.wav").display().to_string());
}

#[test]
fn packing_twice_and_repacking_give_the_same_bytes() {
    let tree = tree();
    let source = open(&tree.path(""), &OpenOptions::default()).unwrap();
    keep(&source, &tree.path("a"), 4).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    keep(&source, &tree.path("b"), 4).unwrap();
    let shards = open(&tree.path("a"), &OpenOptions::default()).unwrap();
    keep(&shards, &tree.path("c"), 4).unwrap();
    for name in ["0.tar", "1.tar", "sizes.json"] {
        let first = fs::read(tree.path("a").join(name)).unwrap();
        assert!(first == fs::read(tree.path("b").join(name)).unwrap(), "{name} differs between two runs");
        assert!(first == fs::read(tree.path("c").join(name)).unwrap(), "{name} differs when packed again");
    }
}

#[test]
fn a_failure_leaves_nothing_that_looks_finished() {
    let tree = tree();
    let source = open(&tree.path(""), &OpenOptions::default()).unwrap();
    fs::remove_file(tree.path("some/folder/clip.3.wav")).unwrap();
    let out = tree.path("shards");
    let error = keep(&source, &out, 2).unwrap_err();
    assert!(error.to_string().contains("clip.3.wav"), "{error}");
    assert_eq!(left(&out), [".pack.json", "0.tar"]);
    // Another job does not go on with it, and nothing goes into finished shards.
    let error = keep(&source, &out, 3).unwrap_err();
    assert!(matches!(error, Error::OtherPack { .. }), "{error}");
    tree.wav("some/folder/clip.3.wav", 103);
    keep(&source, &out, 2).unwrap();
    let error = keep(&source, &out, 2).unwrap_err();
    assert!(matches!(error, Error::OutputExists { .. }), "{error}");
}

/// The names in a folder.
fn left(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = entries.collect();
    names.sort();
    names
}

#[test]
fn sounds_become_flac_of_the_same_samples() {
    let tree = tree();
    let source = open(&tree.path(""), &OpenOptions::default()).unwrap();
    let out = |name: &str, sample_rate| {
        let sound = PackedSound::Flac { sample_rate };
        let options = PackOptions { sound, strict: true, ..PackOptions::default() };
        pack(&source.samples, &tree.path(name), &options, &mut |_| {}).unwrap();
        open(&tree.path(name), &OpenOptions { strict: true, ..OpenOptions::default() }).unwrap()
    };
    for (before, after) in source.samples.iter().zip(&out("own", None).samples) {
        assert!(after.audio.name().ends_with(".flac"));
        assert_eq!(before.audio.load(8000).unwrap(), after.audio.load(8000).unwrap());
    }
    let packed = out("laion", Some(48_000));
    for (before, after) in source.samples.iter().zip(&packed.samples) {
        let mut meant = before.audio.load(48_000).unwrap().samples;
        meant.iter_mut().for_each(|sample| *sample = f32::from(flac::to_pcm16(*sample)) / 32768.0);
        let bytes = after.audio.bytes().unwrap();
        assert_eq!(AudioReader::from_bytes("x", bytes).unwrap().info().sample_rate, 48_000);
        assert_eq!(after.audio.load(48_000).unwrap().samples, meant);
        assert_eq!((&before.captions, &before.labels, &before.meta), (&after.captions, &after.labels, &after.meta));
    }
    // What is in the form already keeps its bytes, so that packing again changes nothing.
    let options = PackOptions { threads: NonZeroUsize::MIN, ..PackOptions::default() };
    pack(&packed.samples, &tree.path("again"), &options, &mut |_| {}).unwrap();
    for name in ["0.tar", "sizes.json"] {
        assert!(fs::read(tree.path("laion").join(name)).unwrap() == fs::read(tree.path("again").join(name)).unwrap());
    }
}

#[test]
fn a_stopped_run_goes_on_and_gives_the_same_bytes() {
    let tree = tree();
    tree.write("some/folder/clip.1.wav", "no sound");
    let source = open(&tree.path(""), &OpenOptions::default()).unwrap();
    let options = |threads| PackOptions { per_shard: 2, threads, ..PackOptions::default() };
    let threads = NonZeroUsize::new(3).unwrap();
    let whole = pack(&source.samples, &tree.path("whole"), &options(threads), &mut |_| {}).unwrap();
    assert_eq!((whole.samples, whole.found), (6, 0));
    assert_eq!(whole.skipped.len(), 1);
    assert!(whole.skipped[0].what.ends_with("clip.1.wav"), "{:?}", whole.skipped);
    let out = tree.path("stopped");
    let stop = |at: usize| {
        let run = std::panic::AssertUnwindSafe(|| {
            pack(&source.samples, &out, &options(NonZeroUsize::MIN), &mut |done| assert!(done < at, "stopped"))
        });
        std::panic::catch_unwind(run).unwrap_err();
    };
    // Stopped within the first shard, the second, and at the end of the third.
    for (at, finished) in [(1, 0), (4, 1), (5, 2)] {
        stop(at);
        let shards = left(&out).into_iter().filter(|name| name.ends_with(".tar")).count();
        assert_eq!(shards, finished, "stopped at {at}");
    }
    // A shard that was cut short since is written again, with those behind it.
    fs::write(out.join("1.tar"), "cut").unwrap();
    let mut told = Vec::new();
    let again = pack(&source.samples, &out, &options(threads), &mut |done| told.push(done)).unwrap();
    assert_eq!((again.samples, again.found, told[0]), (6, 1, 3));
    assert_eq!(again.skipped, whole.skipped);
    assert_eq!(left(&out), ["0.tar", "1.tar", "2.tar", "sizes.json"]);
    for name in left(&out) {
        assert!(fs::read(tree.path("whole").join(&name)).unwrap() == fs::read(out.join(&name)).unwrap(), "{name}");
    }
}

#[test]
fn nothing_but_bad_clips_is_an_error() {
    let tree = Tree::new();
    tree.write("a.wav", "no sound").write("metadata.csv", "file_name,text\na.wav,words\n");
    let source = open(&tree.path(""), &OpenOptions::default()).unwrap();
    let error = pack(&source.samples, &tree.path("out"), &PackOptions::default(), &mut |_| {}).unwrap_err();
    assert!(matches!(error, Error::Empty { skipped: 1, .. }) && error.to_string().contains("a.wav"), "{error}");
    assert_eq!(left(&tree.path("out")), [] as [&str; 0]);
}

#[test]
fn keys_are_short_plain_and_unique() {
    let mut keys = Keys::default();
    assert_eq!(keys.next("../../etc/Größe 1.flac"), "Gr__e_1");
    assert_eq!(keys.next("x/gr__e_1"), "gr__e_1_2");
    assert_eq!(keys.next("..."), "clip");
    let long = keys.next(&"long_name_".repeat(20));
    assert!(long.len() <= MAX_KEY && long.ends_with("long_name_"), "{long}");
}
