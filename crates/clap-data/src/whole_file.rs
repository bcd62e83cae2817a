//! Files that are there whole or not at all.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{Error, Result};

/// A file under construction, under a temporary name beside its own. Dropped before [`Part::finish`], it is removed.
pub(crate) struct Part {
    path: PathBuf,
    part: PathBuf,
    finished: bool,
}

impl Part {
    /// Begins the file that will be `path`; a leftover of an earlier try is overwritten.
    pub(crate) fn create(path: &Path) -> Result<(Self, BufWriter<File>)> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".part");
        let part = path.with_file_name(name);
        let file = BufWriter::new(File::create(&part).map_err(|cause| Error::io(&part, cause))?);
        Ok((Self { path: path.to_owned(), part, finished: false }, file))
    }

    /// Waits until the bytes are on disk and gives the file its name; returns its length.
    pub(crate) fn finish(mut self, file: BufWriter<File>) -> Result<u64> {
        let fail = |cause| Error::io(&self.part, cause);
        let file = file.into_inner().map_err(|error| fail(error.into_error()))?;
        file.sync_all().map_err(fail)?;
        let length = file.metadata().map_err(fail)?.len();
        fs::rename(&self.part, &self.path).map_err(fail)?;
        self.finished = true;
        Ok(length)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.finished {
            // Best effort: the error that led here matters more than the leftover.
            let _ = fs::remove_file(&self.part);
        }
    }
}

/// Writes a file under a temporary name and renames it once it is complete and on disk; returns its length.
pub(crate) fn write_whole(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> Result<()>) -> Result<u64> {
    let (part, mut file) = Part::create(path)?;
    write(&mut file)?;
    part.finish(file)
}

/// Writes a JSON file of one line.
pub(crate) fn write_json(path: &Path, value: &Value) -> Result<()> {
    let text = format!("{value}\n");
    write_whole(path, |file| file.write_all(text.as_bytes()).map_err(|cause| Error::io(path, cause)))?;
    Ok(())
}
