//! Where a sound that a table names may lie.
//!
//! A folder that somebody else made and that is opened as a whole keeps to itself: no name and no link in its table leads
//! out of it. A table that the user names is the user's own word: it may say `/data/a.wav` or `../clips/a.wav`.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::members::check_relative;
use crate::{Error, Result};

/// How far a table's names may lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Not out of the folder of the table.
    Folder,
    /// To any file.
    Anywhere,
}

/// The folder that a table's names start from.
pub(crate) struct SoundPlace {
    /// As it was given: messages should show the path the user typed.
    shown: PathBuf,
    inside: Option<Inside>,
}

/// Keeps every file inside the folder, symbolic links included.
struct Inside {
    root: PathBuf,
    /// Whether a folder's real place is inside; most rows share a few folders.
    folders: HashMap<PathBuf, bool>,
}

impl SoundPlace {
    pub(crate) fn new(root: &Path, reach: Reach) -> Result<Self> {
        let shown = if root.as_os_str().is_empty() { Path::new(".") } else { root };
        let inside = match reach {
            Reach::Anywhere => None,
            Reach::Folder => Some(Inside {
                root: fs::canonicalize(shown).map_err(|cause| Error::io(shown, cause))?,
                folders: HashMap::new(),
            }),
        };
        Ok(Self { shown: shown.to_owned(), inside })
    }

    /// The file of a name, which is there and where it may be.
    pub(crate) fn find(&mut self, name: &str) -> std::result::Result<PathBuf, String> {
        let path = self.shown.join(name);
        match &mut self.inside {
            Some(inside) => inside.check(name, &path, &self.shown)?,
            None => {
                if !fs::metadata(&path).map_err(|error| error.to_string())?.is_file() {
                    return Err("not a file".to_owned());
                }
            }
        }
        Ok(path)
    }
}

impl Inside {
    fn check(&mut self, name: &str, path: &Path, shown: &Path) -> std::result::Result<(), String> {
        const OUTSIDE: &str = "a link leads out of the data set's folder";
        check_relative(Path::new(name))?;
        let metadata = fs::symlink_metadata(path).map_err(|error| error.to_string())?;
        if metadata.is_symlink() {
            let real = fs::canonicalize(path).map_err(|error| error.to_string())?;
            if !real.starts_with(&self.root) {
                return Err(OUTSIDE.to_owned());
            }
            return if real.is_file() { Ok(()) } else { Err("not a file".to_owned()) };
        }
        if !metadata.is_file() {
            return Err("not a file".to_owned());
        }
        let folder = path.parent().unwrap_or(shown);
        let stays = match self.folders.get(folder) {
            Some(&known) => known,
            None => {
                let real = fs::canonicalize(folder).map_err(|error| error.to_string())?;
                let stays = real.starts_with(&self.root);
                self.folders.insert(folder.to_owned(), stays);
                stays
            }
        };
        if stays { Ok(()) } else { Err(OUTSIDE.to_owned()) }
    }
}
