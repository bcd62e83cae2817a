//! Filling one tower of a model from a file that holds such a tower, alone or within a model.

use std::collections::BTreeMap;
use std::fmt;

use clap_nn::{Vars, is_foreign_buffer};

use super::Checkpoint;
use crate::error::{Error, KeyReport, Result};

/// One of the two towers, without its projection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tower {
    /// What hears.
    Audio,
    /// What reads.
    Text,
}

impl Tower {
    /// What stands before its keys.
    fn prefix(self) -> &'static str {
        match self {
            Self::Audio => "audio_model.audio_encoder.",
            Self::Text => "text_model.",
        }
    }

    /// Whether the variable of that name, under Hugging Face's, is the tower's.
    #[must_use]
    pub fn has(self, name: &str) -> bool {
        name.starts_with(self.prefix())
    }

    /// Parts that a file may lack as a whole: those that join the views of a fused model, which a tower trained on AudioSet has not,
    /// its tagging heads, and the pooler, which masked language models are saved without.
    fn optional(self) -> &'static [&'static str] {
        match self {
            Self::Audio => &[
                "patch_embed.mel_conv2d",
                "patch_embed.fusion_model",
                "mel_conv1d",
                "mel_conv2d",
                "fusion_model",
                "tscam_conv",
                "head",
                "fc_audioset",
            ],
            Self::Text => &["pooler"],
        }
    }

    /// The optional part that a key belongs to.
    fn part(self, key: &str) -> Option<&'static str> {
        let rest = key.strip_prefix(self.prefix())?;
        self.optional().iter().copied().find(|part| rest.strip_prefix(part).is_some_and(|rest| rest.starts_with('.')))
    }
}

impl fmt::Display for Tower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Audio => "audio tower",
            Self::Text => "text tower",
        })
    }
}

/// What a tower was given of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TowerReport {
    /// Which tower.
    pub tower: Tower,
    /// The file.
    pub origin: String,
    /// Variables that have the file's values now.
    pub taken: usize,
    /// Variables that the file has nothing for: they keep the values of a new model.
    pub fresh: Vec<String>,
    /// Weights of the file that the tower has no use for, under Hugging Face's names.
    pub left_out: Vec<String>,
}

impl fmt::Display for TowerReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} tensors from {}", self.tower, self.taken, self.origin)?;
        for (what, keys) in [("not in it, so new", &self.fresh), ("left out", &self.left_out)] {
            let mut parts: BTreeMap<&str, usize> = BTreeMap::new();
            for key in keys {
                let rest = key.strip_prefix(self.tower.prefix()).unwrap_or(key);
                let first = rest.split('.').next().unwrap_or(rest);
                *parts.entry(self.tower.part(key).unwrap_or(first)).or_default() += 1;
            }
            let parts: Vec<String> = parts.into_iter().map(|(part, count)| format!("{part} ({count})")).collect();
            if !parts.is_empty() {
                write!(f, "; {what}: {}", parts.join(", "))?;
            }
        }
        Ok(())
    }
}

impl Checkpoint {
    /// Sets the variables of one tower to the weights of this file. Every one must be there in its shape, but for the parts that a file
    /// may lack as a whole: what joins the views of a fused model, tagging heads, a text tower's pooler. Those stay as they are.
    ///
    /// # Errors
    /// [`Error::Keys`] with every disagreement, and nothing is changed; or where a weight cannot be read.
    pub fn fill_tower(&self, vars: &Vars, tower: Tower) -> Result<TowerReport> {
        let present = |part: &str| {
            let start = format!("{}{part}.", tower.prefix());
            self.keys().any(|(key, _)| key.starts_with(&start))
        };
        let mut keys = KeyReport::default();
        let mut fresh = Vec::new();
        let mut fill = Vec::new();
        for (name, var) in vars.iter().filter(|(name, _)| name.starts_with(tower.prefix())) {
            match self.shape(&name) {
                Some(found) if found == var.dims() => fill.push((name, var)),
                Some(found) => keys.mismatched.push((name, var.dims().to_vec(), found.to_vec())),
                None if tower.part(&name).is_some_and(|part| !present(part)) => fresh.push(name),
                None => keys.missing.push(name),
            }
        }
        if !keys.is_clean() {
            return Err(Error::Keys { origin: self.origin().to_owned(), report: Box::new(keys) });
        }
        for (name, var) in &fill {
            if let Some(tensor) = self.tensor(name, var.dtype(), var.device())? {
                var.set(&tensor)?;
            }
        }
        let taken = |key: &str| key.starts_with(tower.prefix()) && vars.get(key).is_some();
        let left_out = self.keys().map(|(key, _)| key).filter(|key| !taken(key) && !is_foreign_buffer(key));
        let left_out = left_out.map(str::to_owned).collect();
        Ok(TowerReport { tower, origin: self.origin().to_owned(), taken: fill.len(), fresh, left_out })
    }
}
