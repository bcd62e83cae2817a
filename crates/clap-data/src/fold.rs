//! Folds of a data set: parts of which each is tested on in turn, by a model trained on the others.
//!
//! A clip's fold is the column `fold` of its table, which [`Sample::meta`] keeps: that of ESC-50 and UrbanSound8K, or of an
//! audiofolder. [`crate::OpenOptions::split`] takes one fold of these two benchmarks (`fold1`), or all others (`!fold1`);
//! a data set that is open already is divided here, without reading anything again.

use serde_json::Value;

use crate::{DataSet, Sample};

/// A data set divided for one round of cross-validation.
#[derive(Debug, Clone)]
pub struct Fold {
    /// The clips of the other folds, and those without a fold.
    pub train: DataSet,
    /// The clips of the fold.
    pub test: DataSet,
}

impl DataSet {
    /// The folds that clips are in, `fold1`, `fold2`, …, in the order of their numbers; none where the table has no column
    /// `fold`.
    #[must_use]
    pub fn folds(&self) -> Vec<String> {
        let mut folds: Vec<String> = self.samples.iter().filter_map(fold_of).collect();
        folds.sort_by_cached_key(|fold| {
            let number = fold.trim_start_matches(|letter: char| !letter.is_ascii_digit()).parse::<u64>().ok();
            (number.is_none(), number, fold.clone())
        });
        folds.dedup();
        folds
    }

    /// The clips of the fold called `name`, and the others; `None` where no clip is in that fold.
    #[must_use]
    pub fn fold(&self, name: &str) -> Option<Fold> {
        let (test, train): (Vec<Sample>, Vec<Sample>) =
            self.samples.iter().cloned().partition(|sample| fold_of(sample).as_deref() == Some(name));
        if test.is_empty() {
            return None;
        }
        // Clips are moved, not the rest: each side has the classes and prompts of the whole.
        let part = |samples: Vec<Sample>, split: String| DataSet { samples, split, ..self.without_samples() };
        Some(Fold { train: part(train, format!("!{name}")), test: part(test, name.to_owned()) })
    }

    fn without_samples(&self) -> Self {
        Self {
            name: self.name.clone(),
            split: String::new(),
            samples: Vec::new(),
            skipped: self.skipped.clone(),
            excluded: self.excluded,
            classes: self.classes.clone(),
            phrases: self.phrases.clone(),
            templates: self.templates.clone(),
            multi_label: self.multi_label,
        }
    }
}

fn fold_of(sample: &Sample) -> Option<String> {
    match sample.meta.get("fold")? {
        Value::String(fold) if fold.trim().is_empty() => None,
        Value::String(fold) if fold.starts_with("fold") => Some(fold.clone()),
        Value::String(fold) => Some(format!("fold{}", fold.trim())),
        Value::Number(fold) => Some(format!("fold{fold}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use crate::test_tree::Tree;
    use crate::{OpenOptions, open};

    fn ids(data: &crate::DataSet) -> Vec<&str> {
        data.samples.iter().map(|sample| sample.id.as_str()).collect()
    }

    #[test]
    fn a_column_of_an_audiofolder_makes_folds() {
        let tree = Tree::new();
        for name in ["a", "b", "c", "d"] {
            tree.wav(&format!("{name}.wav"), 9);
        }
        tree.write("metadata.csv", "file_name,label,fold\na.wav,dog,10\nb.wav,rain,9\nc.wav,dog,10\nd.wav,dog,\n");
        let data = open(&tree.path(""), &OpenOptions::default()).unwrap();
        assert_eq!(data.folds(), ["fold9", "fold10"]);
        let fold = data.fold("fold10").unwrap();
        assert_eq!((ids(&fold.test), ids(&fold.train)), (vec!["a.wav", "c.wav"], vec!["b.wav", "d.wav"]));
        assert_eq!((fold.test.split.as_str(), fold.train.split.as_str()), ("fold10", "!fold10"));
        assert_eq!(fold.test.classes, ["dog", "rain"], "of the whole");
        assert!(data.fold("fold1").is_none());
    }
}
