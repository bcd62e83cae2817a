//! Dividing a data set into splits: what belongs together stays together, labels are spread as evenly as that allows.
//!
//! Clips of one speaker, recording or instrument on both sides of a split let a model do well by recognising those instead
//! of the sound. So groups are dealt out whole, the largest first, each to the split where it does least harm: the sum over
//! splits and labels of (clips - wanted)² / wanted, and the same for all clips, grows least. It is the greedy stratification
//! of scikit-learn's `StratifiedGroupKFold`, with χ² as its measure so that rare labels count as much as frequent ones.

use std::collections::{BTreeSet, HashMap};

use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use crate::{Error, Result, Sample};

/// What has to stay on one side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupBy {
    /// Nothing: every clip is dealt out by itself.
    Clip,
    /// All clips of a label, and of every label that shares a clip with it: no label is in two splits.
    Label,
    /// Clips with the same value of a column (a key of [`Sample::meta`]): speaker, recording, fold.
    Column(String),
}

/// A split to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct Fraction {
    /// Its name, which becomes a folder's.
    pub name: String,
    /// Its share of the clips.
    pub share: f64,
}

/// Which clip goes where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// The splits in the order of the fractions: name, and indices of the samples in their order.
    pub splits: Vec<(String, Vec<usize>)>,
    /// Groups dealt out.
    pub groups: usize,
    /// Clips without a value of the column; each is a group of its own.
    pub ungrouped: usize,
}

/// Deals out samples; the same samples, fractions and seed give the same splits.
///
/// # Errors
/// [`Error::Fractions`] for shares that are no shares of one whole or names that are no folder's, [`Error::GroupColumn`] if no
/// clip has the column.
pub fn partition(samples: &[Sample], by: &GroupBy, fractions: &[Fraction], seed: u64) -> Result<Partition> {
    check(fractions)?;
    let (mut groups, ungrouped) = groups(samples, by)?;
    // In a random order among those of one size.
    groups.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    groups.sort_by_key(|group| std::cmp::Reverse(group.len()));

    // With labels kept whole there is nothing to spread.
    let labels = if *by == GroupBy::Label { Labels::none(samples) } else { Labels::of(samples) };
    let mut splits: Vec<Split> = fractions.iter().map(|fraction| Split::new(fraction.share, &labels)).collect();
    let count = groups.len();
    for group in groups {
        let counts = labels.counts(&group);
        let harm = |split: &Split| split.harm(&counts, group.len(), &labels);
        let best = (0..splits.len()).min_by(|a, b| harm(&splits[*a]).total_cmp(&harm(&splits[*b])));
        splits[best.expect("there is a split: checked above")].take(group, &counts);
    }
    let named = fractions.iter().zip(splits).map(|(fraction, split)| {
        let mut clips = split.clips;
        clips.sort_unstable();
        (fraction.name.clone(), clips)
    });
    Ok(Partition { splits: named.collect(), groups: count, ungrouped })
}

fn check(fractions: &[Fraction]) -> Result<()> {
    let fail = |reason: String| Err(Error::Fractions { reason });
    let mut names = BTreeSet::new();
    for Fraction { name, share } in fractions {
        if !is_folder_name(name) {
            return fail(format!("`{name}` cannot be the name of a folder"));
        }
        if !names.insert(name.to_lowercase()) {
            return fail(format!("`{name}` is there twice"));
        }
        if !(*share > 0.0 && *share <= 1.0) {
            return fail(format!("{name}={share} is no share between 0 and 1"));
        }
    }
    if fractions.is_empty() {
        return fail("there are none".to_owned());
    }
    let sum: f64 = fractions.iter().map(|fraction| fraction.share).sum();
    if (sum - 1.0).abs() > 1e-6 { fail(format!("they add up to {sum}, not to 1")) } else { Ok(()) }
}

/// Whether a split's name can become a folder of that name inside another.
pub(crate) fn is_folder_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', ':', '\0']) && name.trim() == name
}

/// The samples that stay together, by index, and how many have no group.
fn groups(samples: &[Sample], by: &GroupBy) -> Result<(Vec<Vec<usize>>, usize)> {
    let keys: Vec<Option<String>> = match by {
        GroupBy::Clip => vec![None; samples.len()],
        GroupBy::Label => label_groups(samples),
        GroupBy::Column(column) => samples.iter().map(|sample| value(&sample.meta, column)).collect(),
    };
    let ungrouped = keys.iter().filter(|key| key.is_none()).count();
    if let GroupBy::Column(column) = by
        && ungrouped == samples.len()
    {
        let keys = samples.iter().filter_map(|sample| sample.meta.as_object()).flat_map(|meta| meta.keys());
        let found: BTreeSet<&String> = keys.collect();
        return Err(Error::GroupColumn { column: column.clone(), found: found.into_iter().cloned().collect() });
    }
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut by_key: HashMap<String, usize> = HashMap::new();
    for (index, key) in keys.into_iter().enumerate() {
        let group = key.map(|key| *by_key.entry(key).or_insert(groups.len()));
        match group {
            Some(group) if group < groups.len() => groups[group].push(index),
            _ => groups.push(vec![index]),
        }
    }
    Ok((groups, if *by == GroupBy::Clip { 0 } else { ungrouped }))
}

/// A column's value as text; none where it is absent or blank.
fn value(meta: &Value, column: &str) -> Option<String> {
    match meta.get(column)? {
        Value::Null => None,
        Value::String(text) => Some(text.trim().to_owned()).filter(|text| !text.is_empty()),
        other => Some(other.to_string()),
    }
}

/// For each sample a label that stands for all that have to be on its side.
fn label_groups(samples: &[Sample]) -> Vec<Option<String>> {
    let mut above: HashMap<&str, &str> = HashMap::new();
    fn top<'a>(above: &HashMap<&'a str, &'a str>, mut label: &'a str) -> &'a str {
        while let Some(next) = above.get(label) {
            label = next;
        }
        label
    }
    for sample in samples {
        for pair in sample.labels.windows(2) {
            let (a, b) = (top(&above, &pair[0]), top(&above, &pair[1]));
            if a != b {
                above.insert(a, b);
            }
        }
    }
    samples.iter().map(|sample| Some(top(&above, sample.labels.first()?).to_owned())).collect()
}

/// The labels of samples as numbers.
struct Labels {
    of: Vec<Vec<usize>>,
    /// Clips of each label.
    totals: Vec<usize>,
    clips: usize,
}

impl Labels {
    fn of(samples: &[Sample]) -> Self {
        let mut numbers: HashMap<&str, usize> = HashMap::new();
        let mut totals = Vec::new();
        let mut all = Vec::with_capacity(samples.len());
        for sample in samples {
            let mut mine = Vec::with_capacity(sample.labels.len());
            for label in &sample.labels {
                let next = numbers.len();
                let number = *numbers.entry(label).or_insert(next);
                if number == totals.len() {
                    totals.push(0);
                }
                totals[number] += 1;
                mine.push(number);
            }
            all.push(mine);
        }
        Self { of: all, totals, clips: samples.len() }
    }

    fn none(samples: &[Sample]) -> Self {
        Self { of: vec![Vec::new(); samples.len()], totals: Vec::new(), clips: samples.len() }
    }

    /// Clips of each label in a group.
    fn counts(&self, group: &[usize]) -> HashMap<usize, usize> {
        let mut counts = HashMap::new();
        for label in group.iter().flat_map(|clip| &self.of[*clip]) {
            *counts.entry(*label).or_default() += 1;
        }
        counts
    }
}

/// A split while it fills.
struct Split {
    share: f64,
    clips: Vec<usize>,
    /// Clips of each label.
    held: Vec<usize>,
}

impl Split {
    fn new(share: f64, labels: &Labels) -> Self {
        Self { share, clips: Vec::new(), held: vec![0; labels.totals.len()] }
    }

    /// By how much (held - wanted)² / wanted grows, over all labels and for clips as such, if a group came here.
    fn harm(&self, counts: &HashMap<usize, usize>, clips: usize, labels: &Labels) -> f64 {
        let growth = |held: usize, more: usize, total: usize| {
            let (held, more, wanted) = (held as f64, more as f64, self.share * total as f64);
            // ((held + more - wanted)² - (held - wanted)²) / wanted
            more * (2.0 * (held - wanted) + more) / wanted
        };
        // In the order of the labels: floating-point sums depend on it.
        let mut counts: Vec<(usize, usize)> = counts.iter().map(|(label, count)| (*label, *count)).collect();
        counts.sort_unstable();
        let of_labels: f64 =
            counts.into_iter().map(|(label, count)| growth(self.held[label], count, labels.totals[label])).sum();
        of_labels + growth(self.clips.len(), clips, labels.clips)
    }

    fn take(&mut self, group: Vec<usize>, counts: &HashMap<usize, usize>) {
        self.clips.extend(group);
        for (label, count) in counts {
            self.held[*label] += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::AudioSource;

    fn sample(id: usize, labels: &[&str], meta: Value) -> Sample {
        Sample {
            id: id.to_string(),
            audio: AudioSource::File(format!("{id}.wav").into()),
            captions: vec!["x".to_owned()],
            labels: labels.iter().map(|label| (*label).to_owned()).collect(),
            meta,
        }
    }

    fn thirds() -> Vec<Fraction> {
        let fraction = |(name, share): (&str, f64)| Fraction { name: name.to_owned(), share };
        [("train", 0.8), ("valid", 0.1), ("test", 0.1)].map(fraction).to_vec()
    }

    fn sizes(partition: &Partition) -> Vec<usize> {
        partition.splits.iter().map(|(_, clips)| clips.len()).collect()
    }

    #[test]
    fn labels_are_spread_evenly_where_nothing_hinders() {
        // 100 clips of one label, 50 of another, 20 of a third.
        let labels = [vec!["a"; 100], vec!["b"; 50], vec!["c"; 20]].concat();
        let samples: Vec<Sample> = (0..).zip(labels).map(|(n, label)| sample(n, &[label], Value::Null)).collect();
        let found = partition(&samples, &GroupBy::Clip, &thirds(), 7).unwrap();
        assert_eq!(sizes(&found), [136, 17, 17]);
        for (_, clips) in &found.splits[1..] {
            let of = |label: &str| clips.iter().filter(|clip| samples[**clip].labels[0] == label).count();
            assert_eq!((of("a"), of("b"), of("c")), (10, 5, 2));
        }
        let mut all: Vec<usize> = found.splits.iter().flat_map(|(_, clips)| clips.clone()).collect();
        all.sort_unstable();
        assert!(all.iter().enumerate().all(|(place, clip)| place == *clip) && all.len() == 170);
        assert_eq!(found, partition(&samples, &GroupBy::Clip, &thirds(), 7).unwrap());
        assert_ne!(found, partition(&samples, &GroupBy::Clip, &thirds(), 8).unwrap());
    }

    #[test]
    fn groups_stay_whole() {
        // 40 speakers of 1 to 9 clips, each of two labels.
        let mut samples = Vec::new();
        for speaker in 0..40 {
            for clip in 0..1 + speaker * 7 % 9 {
                let meta = json!({ "speaker": format!("s{speaker}"), "fold": speaker % 5 });
                samples.push(sample(samples.len(), &[["calm", "loud"][clip % 2]], meta));
            }
        }
        for seed in 0..5 {
            let by = GroupBy::Column("speaker".to_owned());
            let found = partition(&samples, &by, &thirds(), seed).unwrap();
            assert_eq!((found.groups, found.ungrouped), (40, 0));
            let mut seen: HashMap<&str, &str> = HashMap::new();
            for (name, clips) in &found.splits {
                for clip in clips {
                    let speaker = samples[*clip].meta["speaker"].as_str().unwrap();
                    assert_eq!(seen.entry(speaker).or_insert(name), name, "{speaker} is in two splits");
                }
            }
            let total = samples.len() as f64;
            for (size, share) in sizes(&found).into_iter().zip([0.8, 0.1, 0.1]) {
                assert!((size as f64 - share * total).abs() <= 3.0, "{:?} of {total}", sizes(&found));
            }
        }
        // A number is a value as well.
        assert_eq!(partition(&samples, &GroupBy::Column("fold".to_owned()), &thirds(), 0).unwrap().groups, 5);
    }

    #[test]
    fn a_label_can_be_kept_out_of_training() {
        let labels: [&[&str]; 6] = [&["a"], &["a", "b"], &["c"], &["c"], &["b", "d"], &[]];
        let samples: Vec<Sample> = (0..).zip(labels).map(|(n, labels)| sample(n, labels, Value::Null)).collect();
        let halves = ["x", "y"].map(|name| Fraction { name: name.to_owned(), share: 0.5 });
        let found = partition(&samples, &GroupBy::Label, &halves, 0).unwrap();
        // a, b and d share clips; the clip without a label is alone.
        assert_eq!((found.groups, found.ungrouped), (3, 1));
        let sides: Vec<&Vec<usize>> = found.splits.iter().map(|(_, clips)| clips).collect();
        assert!(sides.contains(&&vec![0, 1, 4]) && sides.contains(&&vec![2, 3, 5]), "{sides:?}");
    }

    #[test]
    fn clips_without_a_group_are_dealt_out_alone() {
        let meta = [json!({ "speaker": "x" }), json!({ "speaker": " " }), json!({ "speaker": null }), Value::Null];
        let samples: Vec<Sample> = (0..).zip(meta).map(|(n, meta)| sample(n, &[], meta)).collect();
        let found = partition(&samples, &GroupBy::Column("speaker".to_owned()), &thirds(), 0).unwrap();
        assert_eq!((found.groups, found.ungrouped), (4, 3));
        let error = partition(&samples, &GroupBy::Column("singer".to_owned()), &thirds(), 0).unwrap_err().to_string();
        assert!(error.contains("singer") && error.contains("speaker"), "{error}");
    }

    #[test]
    fn shares_that_make_no_whole_are_refused() {
        let check = |fractions: &[(&str, f64)], word: &str| {
            let of = |(name, share): &(&str, f64)| Fraction { name: (*name).to_owned(), share: *share };
            let fractions: Vec<Fraction> = fractions.iter().map(of).collect();
            let error =
                partition(&[sample(0, &[], Value::Null)], &GroupBy::Clip, &fractions, 0).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        };
        check(&[("train", 0.8), ("test", 0.1)], "0.9");
        check(&[], "there are none");
        check(&[("train", 1.5), ("test", -0.5)], "train=1.5");
        check(&[("train", 0.5), ("Train", 0.5)], "twice");
        check(&[("../train", 1.0)], "../train");
        check(&[("", 1.0)], "folder");
        check(&[("train", f64::NAN)], "NaN");
    }
}
