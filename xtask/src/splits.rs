//! The splits of a data set, one after the other, for tasks that write each of them as a folder of shards.

use std::path::Path;

use anyhow::Context as _;
use clap_data::OpenOptions;

/// The names of the splits, or the one `wanted`; `None` stands for all of a data set that is not split.
pub(crate) fn each_split(
    source: &Path,
    table: &OpenOptions,
    wanted: Option<&str>,
) -> anyhow::Result<Vec<Option<String>>> {
    if let Some(wanted) = wanted {
        return Ok(vec![Some(wanted.to_owned())]);
    }
    let splits = clap_data::splits(source, table)?;
    Ok(if splits.is_empty() { vec![None] } else { splits.into_iter().map(Some).collect() })
}

/// The splits of a task that are opened one by one: one that has no usable clip is no reason to stop, if others have.
#[derive(Debug, Default)]
pub(crate) struct EmptySplits(Vec<clap_data::Error>);

impl EmptySplits {
    /// What was opened; nothing where the split is empty, which is remembered. Any other error, and with `strict` this one,
    /// is passed on.
    pub(crate) fn pass<T>(&mut self, opened: anyhow::Result<T>, strict: bool) -> anyhow::Result<Option<T>> {
        let error = match opened {
            Ok(opened) => return Ok(Some(opened)),
            Err(error) => error.downcast::<clap_data::Error>()?,
        };
        match error {
            clap_data::Error::Empty { .. } if !strict => self.0.push(error),
            error => return Err(error.into()),
        }
        Ok(None)
    }

    /// Says which splits were empty; the last of them is the error unless there was `any` other.
    pub(crate) fn finish(mut self, any: bool) -> anyhow::Result<()> {
        if !any && let Some(last) = self.0.pop() {
            return Err(last.into());
        }
        for error in self.0 {
            eprintln!("skipped split {error}");
        }
        Ok(())
    }
}

/// Writes the candidates of a classification, which are part of the data: what one split lacks another may have.
pub(crate) fn write_classes(out: &Path, classes: &[String]) -> anyhow::Result<()> {
    if classes.is_empty() {
        return Ok(());
    }
    let path = out.join("classes.json");
    std::fs::write(&path, serde_json::to_string_pretty(classes)? + "\n")
        .with_context(|| format!("cannot write {}", path.display()))
}
