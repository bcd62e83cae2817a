//! Sounds made here and those of `clap-audio`'s codecs, compared with what became of them.

use std::f32::consts::TAU;
use std::path::PathBuf;

use clap_audio::Waveform;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use super::*;
use crate::test_tree::{Tree, wav_at};
use crate::{AudioSource, OpenOptions, PackOptions, open, pack};

const OPTIONS: OverlapOptions = OverlapOptions { exact_only: false, threads: NonZeroUsize::MIN };

/// Decaying tones and noise at random times: no two seeds sound alike.
fn recording(seed: u64, seconds: f32) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut samples = vec![0.0; (seconds * RATE as f32) as usize];
    for _ in 0..(seconds * 12.0) as usize {
        let (start, hz) = (rng.random_range(0..samples.len()), 150.0 * 40f32.powf(rng.random()));
        let (level, decay) = (rng.random_range(0.02..0.2), rng.random_range(0.02..0.3) * RATE as f32);
        let noise = rng.random::<f32>() * 0.3;
        for (at, sample) in samples[start..].iter_mut().enumerate().take((5.0 * decay) as usize) {
            let tone = (TAU * hz * at as f32 / RATE as f32).sin() + noise * rng.random_range(-1.0..1.0);
            *sample += level * tone * (-(at as f32) / decay).exp();
        }
    }
    samples
}

fn sample(path: PathBuf) -> Sample {
    Sample {
        id: path.file_name().unwrap().to_string_lossy().into_owned(),
        audio: AudioSource::File(path),
        captions: Vec::new(),
        labels: Vec::new(),
        meta: Value::Null,
    }
}

fn written(tree: &Tree, name: &str, sample_rate: u32, samples: &[f32]) -> Sample {
    tree.write(name, wav_at(sample_rate, samples));
    sample(tree.path(name))
}

/// Ten recordings of 4 s.
fn originals(tree: &Tree) -> Vec<Sample> {
    (0..10).map(|seed| written(tree, &format!("{seed}.wav"), RATE, &recording(seed, 4.0))).collect()
}

/// Finds the one partner of a changed recording.
fn check(
    tree: &Tree,
    originals: &[Sample],
    name: &str,
    rate: u32,
    samples: &[f32],
    partner: usize,
    offset: f64,
) -> f64 {
    let changed = written(tree, name, rate, samples);
    let found = overlap(&[changed], originals, &OPTIONS, &mut |_| {}).matches;
    let [only] = &found[..] else { panic!("{name}: {found:?}") };
    assert_eq!((only.matched.as_str(), only.kind), (format!("{partner}.wav").as_str(), MatchKind::SameSound), "{name}");
    assert!((only.offset - offset).abs() < 0.02, "{name}: {only:?}, meant {offset}");
    only.score
}

#[test]
fn a_changed_recording_is_found() {
    let tree = Tree::new();
    let originals = originals(&tree);
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let whole = recording(3, 4.0);
    let softer: Vec<f32> = whole.iter().map(|sample| sample * 0.1).collect();
    assert!(check(&tree, &originals, "softer.wav", RATE, &softer, 3, 0.0) > 0.95);
    let noisy: Vec<f32> = whole.iter().map(|sample| sample + rng.random_range(-0.003..0.003)).collect();
    assert!(check(&tree, &originals, "noisy.wav", RATE, &noisy, 3, 0.0) > 0.5);
    let other_rate = Waveform { samples: whole.clone(), sample_rate: RATE }.resample(22_050).unwrap();
    assert!(check(&tree, &originals, "rate.wav", 22_050, &other_rate.samples, 3, 0.0) > 0.8);
    let part = &whole[RATE as usize..RATE as usize * 5 / 2];
    check(&tree, &originals, "part.wav", RATE, part, 3, 1.0);
    // A shift that is no whole number of frames.
    let later = [vec![0.0; 12_345], whole.clone()].concat();
    check(&tree, &originals, "later.wav", RATE, &later, 3, -12_345.0 / f64::from(RATE));
    let filtered: Vec<f32> = whole.windows(3).map(|three| 0.25 * three[0] + 0.5 * three[1] + 0.25 * three[2]).collect();
    check(&tree, &originals, "filtered.wav", RATE, &filtered, 3, 0.0);
}

#[test]
fn strangers_and_silence_are_not_the_same() {
    let tree = Tree::new();
    let originals = originals(&tree);
    let others: Vec<Sample> =
        (100..140).map(|seed| written(&tree, &format!("{seed}.wav"), RATE, &recording(seed, 3.0))).collect();
    let found = overlap(&others, &originals, &OPTIONS, &mut |_| {});
    assert_eq!((found.matches, found.skipped), (vec![], vec![]));
    let silence = [1000, 5000].map(|length| written(&tree, &format!("s{length}.wav"), RATE, &vec![0.0; length]));
    let found = overlap(&silence, &originals, &OPTIONS, &mut |_| {});
    assert_eq!(found.matches, []);
    assert_eq!(overlap_within(&silence, &OPTIONS, &mut |_| {}).matches, []);
}

#[test]
fn no_clip_drops_out_for_another_one_has_many_partners() {
    let tree = Tree::new();
    let whole = recording(3, 2.0);
    let changed: Vec<Sample> = (0..MOST_PARTNERS + 3)
        .map(|n| {
            let samples: Vec<f32> = whole.iter().map(|sample| sample * (0.9 - 0.05 * n as f32)).collect();
            written(&tree, &format!("{n}.wav"), RATE, &samples)
        })
        .collect();
    let mut others: Vec<Sample> =
        (100..120).map(|seed| written(&tree, &format!("{seed}.wav"), RATE, &recording(seed, 1.0))).collect();
    others.push(written(&tree, "whole.wav", RATE, &whole));
    // The set to be cleaned is the smaller one, then the larger one.
    for others in [&others[..], &others[20..]] {
        let found = overlap(&changed, others, &OPTIONS, &mut |_| {}).matches;
        let ids: Vec<&str> = found.iter().map(|found| found.id.as_str()).collect();
        assert_eq!(ids, changed.iter().map(|sample| sample.id.as_str()).collect::<Vec<_>>());
    }
    let found = overlap(&others[20..], &changed, &OPTIONS, &mut |_| {}).matches;
    assert_eq!(found.len(), MOST_PARTNERS);
}

#[test]
fn the_same_samples_are_known_in_any_file() {
    let tree = Tree::new();
    let originals = originals(&tree);
    tree.write("metadata.csv", "file_name,text\n4.wav,four\n7.wav,seven\n");
    let source = open(&tree.path(""), &OpenOptions::default()).unwrap();
    pack(&source.samples, &tree.path("../shards"), &PackOptions::default(), &mut |_| {}).unwrap();
    let shards = open(&tree.path("../shards"), &OpenOptions::default()).unwrap();
    let exact = OverlapOptions { exact_only: true, ..OPTIONS };
    for options in [exact, OPTIONS] {
        // In both orders, whichever set is the smaller.
        let mut done = Vec::new();
        let found = overlap(&shards.samples, &originals, &options, &mut |n| done.push(n)).matches;
        assert_eq!(done, (1..=12).collect::<Vec<_>>());
        let pairs: Vec<_> = found.iter().map(|m| (m.id.as_str(), m.matched.as_str(), m.kind, m.score)).collect();
        assert_eq!(pairs, [("4", "4.wav", MatchKind::SameSamples, 1.0), ("7", "7.wav", MatchKind::SameSamples, 1.0)]);
        let found = overlap(&originals, &shards.samples, &options, &mut |_| {}).matches;
        let pairs: Vec<_> = found.iter().map(|m| (m.id.as_str(), m.matched.as_str(), m.kind)).collect();
        assert_eq!(pairs, [("4.wav", "4", MatchKind::SameSamples), ("7.wav", "7", MatchKind::SameSamples)]);
    }
}

#[test]
fn offsets_turn_with_the_order_of_the_sets() {
    let tree = Tree::new();
    let originals = originals(&tree);
    let whole = recording(5, 4.0);
    let part = written(&tree, "part.wav", RATE, &whole[RATE as usize..]);
    let one_way = overlap(std::slice::from_ref(&part), &originals, &OPTIONS, &mut |_| {}).matches;
    let other_way = overlap(&originals, &[part], &OPTIONS, &mut |_| {}).matches;
    assert_eq!((one_way.len(), other_way.len()), (1, 1));
    assert_eq!((&one_way[0].id, &one_way[0].matched), (&other_way[0].matched, &other_way[0].id));
    assert_eq!((one_way[0].score, one_way[0].offset), (other_way[0].score, -other_way[0].offset));
    assert!((one_way[0].offset - 1.0).abs() < 0.02);
}

#[test]
fn repeats_within_a_set_name_the_later_clip() {
    let tree = Tree::new();
    let mut clips = originals(&tree);
    clips.push(written(&tree, "again.wav", RATE, &recording(2, 4.0)));
    let louder: Vec<f32> = recording(6, 4.0).iter().map(|sample| sample * 2.0).collect();
    clips.push(written(&tree, "louder.wav", RATE, &louder));
    tree.write("broken.wav", "no sound");
    clips.push(sample(tree.path("broken.wav")));
    let found =
        overlap_within(&clips, &OverlapOptions { threads: NonZeroUsize::new(3).unwrap(), ..OPTIONS }, &mut |_| {});
    let pairs: Vec<_> = found.matches.iter().map(|m| (m.id.as_str(), m.matched.as_str(), m.kind)).collect();
    let meant = [("again.wav", "2.wav", MatchKind::SameSamples), ("louder.wav", "6.wav", MatchKind::SameSound)];
    assert_eq!(pairs, meant);
    assert!(found.skipped[0].what.ends_with("broken.wav"), "{:?}", found.skipped);

    let list = tree.path("list.csv");
    write_exclusion_list(&list, &found.matches).unwrap();
    let text = std::fs::read_to_string(&list).unwrap();
    assert!(text.starts_with("id,reason,matched,score,offset\nagain.wav,same samples,2.wav,1.000,0.00\n"), "{text}");
    assert!(text.contains("louder.wav,same sound,6.wav,"), "{text}");
}
