//! Which clips make which batch of an epoch: a pure function of the seed and the epoch.
//!
//! Balanced epochs have the length of plain ones. A label that n clips carry is drawn in proportion to n^(1 − exponent):
//! 0 leaves the data as it is, ½ takes the square root, 1 makes all labels equally frequent. Draws are systematic, not
//! independent: every clip comes up within one of its expected number of times, every label likewise.

use std::collections::{BTreeMap, HashMap, HashSet};

use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::Sample;

/// How often the clips of rare labels are seen.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Balance {
    /// Every clip once an epoch.
    #[default]
    None,
    /// Labels of n clips in proportion to n^(1 − exponent), the exponent between 0 (as [`Balance::None`]) and 1 (all
    /// labels alike); NaN counts as 0. A clip of several labels has the mean of their weights; clips without a label are one
    /// label more.
    Labels(f64),
}

/// What batches are made of and how they are prepared.
#[derive(Debug, Clone, PartialEq)]
pub struct LoaderConfig {
    /// Clips in a batch.
    pub batch_size: usize,
    /// The run's seed.
    pub seed: u64,
    /// The epoch, which with the seed decides the order and every draw.
    pub epoch: u64,
    /// How often the clips of rare labels are seen.
    pub balance: Balance,
    /// Whether a last, smaller batch is left out.
    pub drop_last: bool,
    /// Whether the order is drawn; in the order of the source otherwise.
    pub shuffle: bool,
    /// Threads that prepare batches; with 0 the caller's own does, at the moment a batch is asked for.
    pub workers: usize,
    /// Batches prepared ahead of the one asked for; at least one.
    pub prefetch: usize,
    /// Which of the processes that train together this is, below `world`.
    pub rank: usize,
    /// Processes that train together, each on `batch_size` clips of a step.
    pub world: usize,
    /// The batch of the epoch to begin with, for a run that goes on.
    pub first_batch: usize,
}

impl Default for LoaderConfig {
    /// Batches of 32 in the order of the source, two workers, two batches ahead.
    fn default() -> Self {
        Self {
            batch_size: 32,
            seed: 0,
            epoch: 0,
            balance: Balance::None,
            drop_last: false,
            shuffle: false,
            workers: 2,
            prefetch: 2,
            rank: 0,
            world: 1,
            first_batch: 0,
        }
    }
}

/// The generator of one draw of one clip: the same for a given (seed, epoch, index of the sample, how many times it came
/// up before in the epoch), whoever asks and when.
pub fn sample_rng(seed: u64, epoch: u64, index: usize, copy: u32) -> ChaCha8Rng {
    keyed_rng([seed, epoch, index as u64, u64::from(copy)])
}

pub(crate) fn keyed_rng(key: [u64; 4]) -> ChaCha8Rng {
    let mut bytes = [0u8; 32];
    for (part, value) in bytes.chunks_exact_mut(8).zip(key) {
        part.copy_from_slice(&value.to_le_bytes());
    }
    ChaCha8Rng::from_seed(bytes)
}

/// The batches of an epoch for one rank as indices into `samples`, those before `first_batch` included.
///
/// Every rank has as many batches, no two ranks have a clip in common, and together they have the epoch: each step is a run of
/// the epoch's order, of which every rank has its part. A last step that is not whole is left out with `drop_last`, else
/// shared out evenly; its batches may be empty.
///
/// A clip that a balanced epoch draws more than once is kept from meeting itself in a batch where there is room elsewhere:
/// for a contrastive loss it would be its own counterexample.
pub fn plan(samples: &[Sample], config: &LoaderConfig) -> Vec<Vec<usize>> {
    // No sample has this index, so the order's generator is nobody else's.
    let mut rng = keyed_rng([config.seed, config.epoch, u64::MAX, 0]);
    let world = config.world.max(1);
    let rank = config.rank.min(world - 1);
    let step = config.batch_size.max(1).saturating_mul(world);
    let mut order = match config.balance {
        Balance::None => (0..samples.len()).collect(),
        Balance::Labels(exponent) => {
            let exponent = if exponent.is_nan() { 0.0 } else { exponent.clamp(0.0, 1.0) };
            balanced(samples, exponent, &mut rng)
        }
    };
    if config.shuffle {
        order.shuffle(&mut rng);
        part_copies(&mut order, step);
    }
    let share = |step: &[usize]| step[step.len() * rank / world..step.len() * (rank + 1) / world].to_vec();
    let whole = |clips: &&[usize]| !config.drop_last || clips.len() == step;
    order.chunks(step).filter(whole).map(share).collect()
}

/// As many indices as there are samples, rare labels more often; sorted.
fn balanced(samples: &[Sample], exponent: f64, rng: &mut ChaCha8Rng) -> Vec<usize> {
    let mut groups: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    let mut counts: HashMap<&str, f64> = HashMap::new();
    for (index, sample) in samples.iter().enumerate() {
        let labels = labels(sample);
        groups.entry(labels[0]).or_default().push(index);
        for label in labels {
            *counts.entry(label).or_default() += 1.0;
        }
    }
    let weight = |index: usize| {
        let labels = labels(&samples[index]);
        labels.iter().map(|label| counts[label].powf(-exponent)).sum::<f64>() / labels.len() as f64
    };
    // Clips of one label lie side by side on a line, each as long as its expected count; every whole number, shifted by
    // one draw, takes the clip it falls on.
    let mut line: Vec<Vec<usize>> = groups.into_values().collect();
    line.shuffle(rng);
    for group in &mut line {
        group.shuffle(rng);
    }
    let line: Vec<usize> = line.into_iter().flatten().collect();
    let total: f64 = line.iter().map(|&index| weight(index)).sum();
    let shift: f64 = rng.random();
    let mut order = Vec::with_capacity(samples.len());
    let mut reached = 0.0;
    for &index in &line {
        reached += weight(index);
        let end = reached / total * samples.len() as f64;
        while order.len() < samples.len() && order.len() as f64 + shift < end {
            order.push(index);
        }
    }
    // Rounding of the sum may leave the very last mark beyond the line's end.
    if let Some(&last) = line.last() {
        order.resize(samples.len(), last);
    }
    order.sort_unstable();
    order
}

/// The labels that count for balancing: one nameless label for clips that have none.
fn labels(sample: &Sample) -> Vec<&str> {
    if sample.labels.is_empty() { vec![""] } else { sample.labels.iter().map(String::as_str).collect() }
}

/// Moves the second copy of a clip out of its batch: swaps it with the next clip of another batch that suits both.
fn part_copies(order: &mut [usize], step: usize) {
    let mut batches: Vec<HashSet<usize>> = vec![HashSet::new(); order.len().div_ceil(step)];
    let mut copies = Vec::new();
    for (at, &index) in order.iter().enumerate() {
        if !batches[at / step].insert(index) {
            copies.push(at);
        }
    }
    let at_home: HashSet<usize> = copies.iter().copied().collect();
    for at in copies {
        let (index, home) = (order[at], at / step);
        // A few batches' worth of places is enough unless one clip fills every batch; then there is no cure.
        let elsewhere =
            (1..order.len().min(step.saturating_mul(8))).map(|ahead| (at + ahead) % order.len()).find(|&other| {
                let away = other / step;
                away != home
                    && !at_home.contains(&other)
                    && !batches[away].contains(&index)
                    && !batches[home].contains(&order[other])
            });
        if let Some(other) = elsewhere {
            let away = other / step;
            batches[away].remove(&order[other]);
            batches[away].insert(index);
            batches[home].insert(order[other]);
            order.swap(at, other);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde_json::Value;

    use super::*;
    use crate::AudioSource;

    /// As many clips of each label as asked for.
    fn samples(counts: &[(&[&str], usize)]) -> Vec<Sample> {
        let mut samples = Vec::new();
        for (labels, count) in counts {
            for _ in 0..*count {
                samples.push(Sample {
                    id: samples.len().to_string(),
                    audio: AudioSource::File(PathBuf::new()),
                    captions: vec![String::new()],
                    labels: labels.iter().map(ToString::to_string).collect(),
                    meta: Value::Null,
                });
            }
        }
        samples
    }

    fn config(balance: Balance) -> LoaderConfig {
        LoaderConfig { batch_size: 16, shuffle: true, balance, ..LoaderConfig::default() }
    }

    fn drawn(samples: &[Sample], config: &LoaderConfig) -> Vec<usize> {
        plan(samples, config).concat()
    }

    fn of_label(samples: &[Sample], drawn: &[usize], label: &str) -> usize {
        drawn.iter().filter(|&&index| samples[index].labels.iter().any(|found| found == label)).count()
    }

    #[test]
    fn every_clip_once_in_an_order_of_seed_and_epoch() {
        let samples = samples(&[(&["a"], 100)]);
        let first = config(Balance::None);
        let order = drawn(&samples, &first);
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
        assert_ne!(order, sorted);
        assert_eq!(order, drawn(&samples, &first));
        assert_ne!(order, drawn(&samples, &LoaderConfig { epoch: 1, ..first.clone() }));
        assert_ne!(order, drawn(&samples, &LoaderConfig { seed: 1, ..first }));
    }

    #[test]
    fn in_order_and_last_batch() {
        let samples = samples(&[(&["a"], 40)]);
        let plain = LoaderConfig { batch_size: 16, ..LoaderConfig::default() };
        let batches = plan(&samples, &plain);
        assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [16, 16, 8]);
        assert_eq!(batches.concat(), (0..40).collect::<Vec<_>>());
        assert_eq!(plan(&samples, &LoaderConfig { drop_last: true, ..plain }).len(), 2);
        assert!(plan(&[], &config(Balance::Labels(1.0))).is_empty());
    }

    #[test]
    fn balance_follows_its_exponent() {
        let samples = samples(&[(&["a"], 810), (&["b"], 90), (&["c"], 10), (&[], 90)]);
        let counts = [("a", 810.0), ("b", 90.0), ("c", 10.0), ("", 90.0_f64)];
        for exponent in [0.0, 0.5, 1.0] {
            let drawn = drawn(&samples, &config(Balance::Labels(exponent)));
            assert_eq!(drawn.len(), samples.len());
            let total: f64 = counts.iter().map(|(_, n)| n.powf(1.0 - exponent)).sum();
            for (label, n) in &counts[..3] {
                let found = of_label(&samples, &drawn, label) as f64;
                let expected = 1000.0 * n.powf(1.0 - exponent) / total;
                assert!((found - expected).abs() <= 1.0, "exponent {exponent}: {label} {found}, expected {expected}");
            }
        }
    }

    #[test]
    fn numbers_out_of_bounds_are_brought_into_them() {
        let samples = samples(&[(&["a"], 90), (&["b"], 10)]);
        let draw = |exponent: f64| drawn(&samples, &config(Balance::Labels(exponent)));
        assert_eq!(draw(f64::NAN), draw(0.0));
        assert_eq!(draw(-7.0), draw(0.0));
        assert_eq!(draw(f64::INFINITY), draw(1.0));
        for batch_size in [0, usize::MAX / 4, usize::MAX] {
            let config = LoaderConfig { batch_size, ..config(Balance::Labels(1.0)) };
            assert_eq!(drawn(&samples, &config).len(), 100, "batches of {batch_size}");
        }
    }

    #[test]
    fn clips_of_a_label_come_up_equally_often() {
        let samples = samples(&[(&["a"], 95), (&["b"], 5)]);
        let drawn = drawn(&samples, &config(Balance::Labels(1.0)));
        for index in 95..100 {
            let times = drawn.iter().filter(|&&found| found == index).count();
            assert!((9..=11).contains(&times), "{times}");
        }
        assert!((0..95).all(|index| drawn.iter().filter(|&&found| found == index).count() <= 1));
    }

    #[test]
    fn copies_do_not_meet_where_there_is_room() {
        let samples = samples(&[(&["a"], 200), (&["b"], 30), (&["c"], 26)]);
        for seed in 0..20 {
            let config = LoaderConfig { seed, ..config(Balance::Labels(1.0)) };
            for batch in plan(&samples, &config) {
                let distinct: HashSet<&usize> = batch.iter().collect();
                assert_eq!(distinct.len(), batch.len(), "seed {seed}: {batch:?}");
            }
        }
    }

    #[test]
    fn clips_of_several_labels_have_the_mean_weight() {
        let samples = samples(&[(&["a"], 99), (&["a", "b"], 1)]);
        let drawn = drawn(&samples, &config(Balance::Labels(1.0)));
        // (1/100 + 1)/2 against 99 · 1/100: 100 · 0.505 / 1.495
        let found = of_label(&samples, &drawn, "b");
        assert!((33..=35).contains(&found), "{found}");
    }
}
