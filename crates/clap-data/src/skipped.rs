//! What was left out and why: the list a run prints at its end.

use std::fmt;

use crate::{Error, Result};

/// One thing left out of a data set or a batch, or found to disagree with its own inventory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// The clip, row, member or shard, as a path a user can find.
    pub what: String,
    /// Why.
    pub reason: String,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.reason)
    }
}

/// Collects what readers leave out; the first entry is fatal when strict.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) strict: bool,
    pub(crate) skipped: Vec<Skipped>,
}

impl Report {
    pub(crate) fn new(strict: bool) -> Self {
        Self { strict, skipped: Vec::new() }
    }

    pub(crate) fn skip(&mut self, what: impl Into<String>, reason: impl fmt::Display) -> Result<()> {
        let (what, reason) = (what.into(), reason.to_string());
        if self.strict {
            return Err(Error::Strict { what, reason });
        }
        tracing::debug!(%what, %reason, "left out");
        self.skipped.push(Skipped { what, reason });
        Ok(())
    }
}
