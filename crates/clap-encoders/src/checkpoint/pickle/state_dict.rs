//! Which of the values of a file are the weights.
//!
//! The rule: of all mappings that the top level is or leads to, key by key and at most [`DEEPEST`] deep, the one with the most
//! tensors; among equals the one nearest to the top, then the first in the file. So it is found under `state_dict` (LAION, Lightning),
//! `model` (PANNs), `module` (DeepSpeed) or no key at all. What lies under a key of an optimizer, a scheduler or a gradient scaler is
//! left out, and averaged weights (`ema`) are taken only where there are no others. What in the mapping is no tensor is left out too.

use std::collections::{BTreeMap, VecDeque};

use super::Reading;
use super::tensor::StoredTensor;
use super::value::{Id, Pickle, shown};

/// Keys from the top level to the state dict.
const DEEPEST: usize = 3;
/// Bytes of a tensor's name: one that a hostile file repeats must not fill the memory.
const LONGEST_NAME: usize = 4096;
/// Words of a key under which no weights lie.
const OTHERS: [&str; 7] = ["optimizer", "optimizers", "optim", "scheduler", "schedulers", "scaler", "callbacks"];
/// Words of a key under which averages of weights lie.
const AVERAGES: [&str; 3] = ["ema", "swa", "averaged"];

/// A mapping that may be the state dict.
struct Candidate {
    mapping: Id,
    tensors: usize,
    average: bool,
}

/// The tensors of the state dict by name.
///
/// # Errors
/// Where there is none, with what there is instead.
pub(super) fn find<'a>(pickle: &Pickle<'a>) -> Reading<BTreeMap<&'a str, Id>> {
    let mut best: Option<Candidate> = None;
    let mut seen = vec![false; pickle.values.len()];
    let mut queue = VecDeque::from([(pickle.root, 0, false)]);
    while let Some((id, depth, average)) = queue.pop_front() {
        let Some(mapping) = pickle.mapping(id) else { continue };
        if std::mem::replace(&mut seen[mapping as usize], true) {
            continue;
        }
        let mut tensors = 0;
        for (key, value) in pickle.pairs(mapping) {
            let Some(key) = name(pickle, key) else { continue };
            if StoredTensor::is_one(pickle, value) {
                tensors += 1;
            } else if depth < DEEPEST && !has_word(key, &OTHERS) {
                queue.push_back((value, depth + 1, average || has_word(key, &AVERAGES)));
            }
        }
        let rank = |candidate: &Candidate| (!candidate.average, candidate.tensors);
        let found = Candidate { mapping, tensors, average };
        if tensors > 0 && best.as_ref().is_none_or(|best| rank(&found) > rank(best)) {
            best = Some(found);
        }
    }
    let Some(best) = best else { return Err(nothing(pickle)) };
    // As in Python, the last value of a key is the one that counts.
    let pairs = pickle.pairs(best.mapping).filter_map(|(key, value)| Some((name(pickle, key)?, value)));
    Ok(pairs.collect())
}

fn name<'a>(pickle: &Pickle<'a>, key: Id) -> Option<&'a str> {
    pickle.text(key).filter(|key| key.len() <= LONGEST_NAME)
}

/// Whether one of `words` is in a key such as `optimizer_states` or `model-ema`.
fn has_word(key: &str, words: &[&str]) -> bool {
    key.split(|c: char| !c.is_ascii_alphanumeric())
        .any(|word| words.iter().any(|other| word.eq_ignore_ascii_case(other)))
}

/// Says what is in a file without weights.
fn nothing(pickle: &Pickle<'_>) -> String {
    const SHOWN: usize = 8;
    let mut found = match pickle.mapping(pickle.root) {
        None => pickle.describe(pickle.root),
        Some(mapping) => {
            let mut pairs = pickle.pairs(mapping);
            let mut items: Vec<String> = pairs
                .by_ref()
                .take(SHOWN)
                .map(|(key, value)| {
                    let key = pickle.text(key).map_or("a key that is no text".to_owned(), |key| shown(key.as_bytes()));
                    format!("{key} ({})", pickle.describe(value))
                })
                .collect();
            let more = pairs.count();
            if more > 0 {
                items.push(format!("{more} more"));
            }
            if items.is_empty() { "an empty mapping".to_owned() } else { items.join(", ") }
        }
    };
    if found.contains("object of __torch__") {
        found.push_str(", a TorchScript archive");
    }
    format!(
        "no mapping of names to tensors is in this file, at its top level or under keys other than an optimizer's. It holds \
         {found}. Save the model's `state_dict()`"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_whole() {
        for key in ["optimizer", "optimizer_states", "Optimizer", "lr_scheduler", "d.optim"] {
            assert!(has_word(key, &OTHERS), "{key}");
        }
        for key in ["model", "state_dict", "optimal", "rescaler", ""] {
            assert!(!has_word(key, &OTHERS), "{key}");
        }
        assert!(has_word("model-ema", &AVERAGES) && !has_word("schema", &AVERAGES));
    }
}
