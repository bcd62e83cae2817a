//! A weight file mapped into memory, whose pages are given back once a tensor was copied out of them: a model takes the memory of its weights, not
//! that of its file beside it.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use memmap2::Mmap;

use crate::error::{Error, Result};

/// A file, read only.
pub(super) struct Mapping(Mmap);

impl Mapping {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path))?;
        // SAFETY: the mapping is read only. As with every mapped file, another program that shortens it while it is in use
        // ends this one; model files are written once and renamed into place.
        unsafe { Mmap::map(&file) }.map(Self).map_err(Error::io(path))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Says that these bytes are not needed for now. They may be read again, from the file.
    pub(super) fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if !range.is_empty() && range.end <= self.0.len() {
            // SAFETY: the pages of a read-only mapping of a file are the file's: dropping them changes nothing that is read. It is
            // advice, and if the system does not take it, memory is all that is lost.
            let _ =
                unsafe { self.0.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len()) };
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_released_can_be_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let written: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &written).unwrap();
        let mapping = Mapping::open(&path).unwrap();
        for range in [0..100_000, 5000..5001, 99_999..100_000, 0..0, 7..200_000] {
            mapping.release(range);
            assert!(mapping.bytes() == written);
        }
    }
}
