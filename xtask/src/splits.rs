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

/// Writes the candidates of a classification, which are part of the data: what one split lacks another may have.
pub(crate) fn write_classes(out: &Path, classes: &[String]) -> anyhow::Result<()> {
    if classes.is_empty() {
        return Ok(());
    }
    let path = out.join("classes.json");
    std::fs::write(&path, serde_json::to_string_pretty(classes)? + "\n")
        .with_context(|| format!("cannot write {}", path.display()))
}
