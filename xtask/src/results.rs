//! What `eval --out DIR` leaves behind: a record of each task, and the embeddings that they were measured on.
//!
//! ```text
//! DIR/esc50-all-zeroshot_classification.json    one line, in the shape of CLIP_benchmark's results
//! DIR/esc50-all-zeroshot_retrieval.json
//! DIR/esc50-all.safetensors                     clap_eval::Embedded: whatever else is to be known of them can be measured again
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap_eval::{Embedded, Record};

use crate::exit::{Exit, failure};

/// One evaluation of one model on one split.
pub(crate) struct Results {
    pub(crate) records: Vec<Record>,
    pub(crate) embedded: Embedded,
}

impl Results {
    pub(crate) fn save(&self, folder: &Path) -> anyhow::Result<()> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        self.records.iter().try_for_each(|record| save_record(folder, record))?;
        let stem = stem(&self.embedded.dataset, &self.embedded.split);
        Ok(self.embedded.save(&folder.join(format!("{stem}.safetensors")))?)
    }
}

/// Writes one record into a folder of results.
pub(crate) fn save_record(folder: &Path, record: &Record) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let path = folder.join(format!("{}-{}.json", stem(&record.dataset, &record.split), record.task.name()));
    let before = fs::read_to_string(&path).ok().and_then(|text| Record::from_json_line(text.trim()).ok());
    if let Some(other) = before.filter(|other| other.model != record.model) {
        let text = format!("{} is of {}; give each model a folder of its own", path.display(), other.model);
        return Err(failure(Exit::Usage, text));
    }
    fs::write(&path, record.to_json_line() + "\n").with_context(|| format!("cannot write {}", path.display()))
}

/// The records in a folder, by file name, each with the file of its embeddings where that is there.
pub(crate) fn records(folder: &Path) -> anyhow::Result<Vec<(Record, Option<PathBuf>)>> {
    let entries = fs::read_dir(folder).map_err(|e| failure(Exit::Data, format!("{}: {e}", folder.display())))?;
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    let read = |path: &PathBuf| {
        let text = fs::read_to_string(path).map_err(|e| failure(Exit::Data, format!("{}: {e}", path.display())))?;
        let record = Record::from_json_line(text.trim());
        let record = record.map_err(|e| failure(Exit::Data, format!("{}: {e}", path.display())))?;
        let embedded = folder.join(format!("{}.safetensors", stem(&record.dataset, &record.split)));
        Ok((record, embedded.is_file().then_some(embedded)))
    };
    paths.iter().map(read).collect()
}

/// `dataset-split`, with nothing in it that a file name may not have.
fn stem(dataset: &str, split: &str) -> String {
    let plain = |c: char| if c.is_alphanumeric() || "._-!".contains(c) { c } else { '_' };
    format!("{dataset}-{split}").chars().map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_a_data_set_leads_nowhere_else() {
        assert_eq!(stem("esc50", "!fold1"), "esc50-!fold1");
        assert_eq!(stem("../../etc/x", "a b"), ".._.._etc_x-a_b");
    }
}
