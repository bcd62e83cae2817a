//! The sound files below a folder, found once and asked for by name.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::members::AUDIO_EXTENSIONS;
use crate::{Error, Result};

/// Folders in folders; published layouts have three at most.
const MAX_DEPTH: usize = 6;

/// Sound files by their names without extension. Tables name files that were since converted to another format, so the
/// extension is not asked for.
///
/// Only files below the folder are found, so no name in a table leads out of it; nor does a link.
#[derive(Debug)]
pub(super) struct AudioIndex {
    root: PathBuf,
    /// Below the root, each with `/` around it: `/audio/fold1/`.
    folders: Vec<String>,
    files: HashMap<String, Place>,
    /// The further files of a name.
    again: HashMap<String, Vec<Place>>,
}

/// Where a file is, in few bytes: collections have millions of files.
#[derive(Debug, Clone, Copy)]
struct Place {
    folder: u32,
    extension: u8,
    is_upper: bool,
}

impl AudioIndex {
    /// Goes through the folder and those in it.
    pub(super) fn scan(root: &Path) -> Result<Self> {
        let mut index =
            Self { root: root.to_owned(), folders: Vec::new(), files: HashMap::new(), again: HashMap::new() };
        let real = fs::canonicalize(root).map_err(|cause| Error::io(root, cause))?;
        Walk { index: &mut index, real_root: real, linked: HashSet::new() }.enter(root, "/", 0)?;
        Ok(index)
    }

    fn add(&mut self, stem: &str, place: Place) {
        if self.files.contains_key(stem) {
            self.again.entry(stem.to_owned()).or_default().push(place);
        } else {
            self.files.insert(stem.to_owned(), place);
        }
    }

    /// The file of this name (its extension, if it is a sound's, is not looked at) below one of the folders so called, or
    /// anywhere when no folder is named.
    pub(super) fn find(&self, name: &str, folders: &[String]) -> Option<PathBuf> {
        let stem = sound_name(name).map_or(name, |(stem, ..)| stem);
        let first = self.files.get(stem)?;
        let again = self.again.get(stem).map_or(&[][..], Vec::as_slice);
        let is_below = |place: &&Place| {
            let folder = &self.folders[place.folder as usize];
            folders.is_empty() || folders.iter().any(|wanted| folder.contains(&format!("/{wanted}/")))
        };
        let place = std::iter::once(first).chain(again).find(is_below)?;
        let extension = AUDIO_EXTENSIONS[usize::from(place.extension)];
        let extension = if place.is_upper { extension.to_uppercase() } else { extension.to_owned() };
        let folder = self.folders[place.folder as usize].trim_matches('/');
        let folder = if folder.is_empty() { self.root.clone() } else { self.root.join(folder) };
        Some(folder.join(format!("{stem}.{extension}")))
    }

    /// Names of the files directly in a folder given from the root, sorted.
    pub(super) fn names_in(&self, folder: &str) -> Vec<&str> {
        let Some(number) = self.folders.iter().position(|name| name.trim_matches('/') == folder) else {
            return Vec::new();
        };
        let is_here = |place: &Place| place.folder as usize == number;
        let again = self.again.iter().filter(|(_, places)| places.iter().any(is_here)).map(|(name, _)| name);
        let first = self.files.iter().filter(|(_, place)| is_here(place)).map(|(name, _)| name);
        let mut names: Vec<&str> = first.chain(again).map(String::as_str).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

/// A way through the folders.
struct Walk<'a> {
    index: &'a mut AudioIndex,
    real_root: PathBuf,
    /// Folders that a link has led to; each is entered once, so that links cannot lead round and round.
    linked: HashSet<PathBuf>,
}

impl Walk<'_> {
    fn enter(&mut self, folder: &Path, name: &str, depth: usize) -> Result<()> {
        let fail = |cause| Error::io(folder, cause);
        let number = u32::try_from(self.index.folders.len()).unwrap_or(u32::MAX);
        self.index.folders.push(name.to_owned());
        let mut entries = fs::read_dir(folder).map_err(fail)?.collect::<std::io::Result<Vec<_>>>().map_err(fail)?;
        // The first of equal names is found, on every machine the same.
        entries.sort_by_cached_key(fs::DirEntry::file_name);
        for entry in entries {
            let (path, file_name) = (entry.path(), entry.file_name());
            let Some(file_name) = file_name.to_str().filter(|name| !name.starts_with('.')) else { continue };
            let mut kind = entry.file_type().map_err(|cause| Error::io(&path, cause))?;
            if kind.is_symlink() {
                // A dangling link, or one that leads out, is no file of this data set.
                let Some(real) = fs::canonicalize(&path).ok().filter(|real| real.starts_with(&self.real_root)) else {
                    continue;
                };
                kind = fs::metadata(&real).map_err(|cause| Error::io(&path, cause))?.file_type();
                if kind.is_dir() && !self.linked.insert(real) {
                    continue;
                }
            }
            if kind.is_dir() && depth < MAX_DEPTH {
                self.enter(&path, &format!("{name}{file_name}/"), depth + 1)?;
            } else if kind.is_file()
                && let Some((stem, extension, is_upper)) = sound_name(file_name)
            {
                self.index.add(stem, Place { folder: number, extension, is_upper });
            }
        }
        Ok(())
    }
}

/// A file name in three parts, if it is that of a sound: the name, the number of the extension, and whether that is in
/// capitals.
fn sound_name(name: &str) -> Option<(&str, u8, bool)> {
    let (stem, extension) = name.rsplit_once('.').filter(|(stem, _)| !stem.is_empty())?;
    let number = |extension: &str| AUDIO_EXTENSIONS.iter().zip(0u8..).find(|(known, _)| **known == extension);
    if let Some((_, number)) = number(extension) {
        return Some((stem, number, false));
    }
    let is_upper = extension.chars().all(|letter| !letter.is_lowercase());
    let (_, number) = number(&extension.to_lowercase()).filter(|_| is_upper)?;
    Some((stem, number, true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_tree::Tree;

    fn found(index: &AudioIndex, name: &str, folders: &[&str]) -> Option<String> {
        let folders: Vec<String> = folders.iter().map(|&folder| folder.to_owned()).collect();
        let path = index.find(name, &folders)?;
        assert!(path.is_file(), "{}", path.display());
        Some(path.strip_prefix(&index.root).unwrap().display().to_string().replace('\\', "/"))
    }

    #[test]
    fn a_file_is_found_by_name_whatever_its_format() {
        let tree = Tree::new();
        tree.write("audio/1-a.5.flac", "").write("audio/B.WAV", "").write("c.txt", "").write("d.wav", "");
        tree.write(".hidden/e.wav", "").write("audio/.f.wav", "");
        let index = AudioIndex::scan(&tree.path("")).unwrap();
        assert_eq!(found(&index, "1-a.5.wav", &["audio"]).as_deref(), Some("audio/1-a.5.flac"));
        assert_eq!(found(&index, "1-a.5", &[]).as_deref(), Some("audio/1-a.5.flac"));
        assert_eq!(found(&index, "B.wav", &[]).as_deref(), Some("audio/B.WAV"));
        assert_eq!(found(&index, "d", &[]).as_deref(), Some("d.wav"));
        for absent in ["c", "c.txt", "e", ".f", "f", "1-a", "../set/d", "b"] {
            assert_eq!(found(&index, absent, &[]), None, "{absent}");
        }
    }

    #[test]
    fn a_folder_tells_equal_names_apart() {
        let tree = Tree::new();
        tree.write("x/dev/a.wav", "").write("x/eval/a.wav", "").write("x/eval/b.wav", "");
        let index = AudioIndex::scan(&tree.path("")).unwrap();
        assert_eq!(found(&index, "a", &["eval"]).as_deref(), Some("x/eval/a.wav"));
        assert_eq!(found(&index, "a", &["dev"]).as_deref(), Some("x/dev/a.wav"));
        assert_eq!(found(&index, "a", &[]).as_deref(), Some("x/dev/a.wav"));
        assert_eq!(found(&index, "b", &["dev"]), None);
        assert_eq!(found(&index, "b", &["dev", "eval"]).as_deref(), Some("x/eval/b.wav"));
        assert_eq!(index.names_in("x/eval"), ["a", "b"]);
        assert_eq!(index.names_in("x/dev"), ["a"]);
        assert_eq!(index.names_in("x"), [] as [&str; 0]);
    }

    #[cfg(unix)]
    #[test]
    fn links_stay_inside() {
        use std::os::unix::fs::symlink;
        let tree = Tree::new();
        tree.write("../out/far.wav", "").write("in/near.wav", "");
        symlink(tree.path("../out"), tree.path("folder")).unwrap();
        symlink(tree.path("../out/far.wav"), tree.path("file.wav")).unwrap();
        symlink(tree.path("in/near.wav"), tree.path("linked.wav")).unwrap();
        symlink(tree.path(""), tree.path("round")).unwrap();
        symlink("nowhere", tree.path("dangling.wav")).unwrap();
        let index = AudioIndex::scan(&tree.path("")).unwrap();
        assert_eq!(found(&index, "linked", &[]).as_deref(), Some("linked.wav"));
        for absent in ["far", "file", "dangling"] {
            assert_eq!(found(&index, absent, &[]), None, "{absent}");
        }
    }
}
