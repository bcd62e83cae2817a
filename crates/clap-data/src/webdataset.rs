//! WebDataset shards on disk, as LAION-CLAP reads them: tar files of `<key>.flac` + `<key>.json`, with a `sizes.json`
//! beside.
//!
//! A shard is read once, header by header; sounds are passed over by seeking and only their place is kept, descriptions
//! are parsed at once. [`crate::members`] says which members make a sample. Where there are too many shards for that, or no
//! disk to seek on, [`crate::Stream`] reads them from front to back.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use tar::{Archive, Entry};

use crate::members::{Bounded, Group, MAX_DESCRIPTION, MAX_HEADERS, Member, stored_size};
use crate::shard_sizes::ShardSizes;
use crate::skipped::Report;
use crate::{AudioSource, Result, Sample, TextAugment};

/// All samples of the shards in order. A broken shard is reported and what came before the damage is kept.
///
/// `whole_folder` is given where the shards are all those of a folder: its inventory may not name others. Without
/// `needs_words` a sound may do without a description.
pub(crate) fn read_shards(
    shards: &[PathBuf],
    whole_folder: Option<&Path>,
    (augment, needs_words): (TextAugment, bool),
    report: &mut Report,
) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    let mut sizes = ShardSizes::default();
    for shard in shards {
        let found = Shard::read(shard, augment, report)?;
        // A damaged shard has been reported, and nobody knows what it held.
        if found.is_whole {
            sizes.check(shard, found.groups.len(), report)?;
        }
        samples.extend(found.finish(needs_words, report)?);
    }
    if let Some(folder) = whole_folder {
        sizes.check_absent(folder, shards, report)?;
    }
    Ok(samples)
}

impl Read for &Bounded<File> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.grant(buffer.len())?;
        let count = (&self.inner).read(&mut buffer[..count])?;
        self.spend(count);
        Ok(count)
    }
}

impl Seek for &Bounded<File> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        (&self.inner).seek(to)
    }
}

/// The samples of a shard while it is read: members meet here by key, wherever in the shard they are.
struct Shard<'a> {
    path: &'a Path,
    augment: TextAugment,
    groups: Vec<Group>,
    by_key: HashMap<String, usize>,
    /// Whether it was read to its end.
    is_whole: bool,
}

impl<'a> Shard<'a> {
    /// Goes through the members.
    fn read(path: &'a Path, augment: TextAugment, report: &mut Report) -> Result<Self> {
        let mut shard = Self { path, augment, groups: Vec::new(), by_key: HashMap::new(), is_whole: false };
        let opened = File::open(path).and_then(|file| Ok((file.metadata()?, file)));
        let (metadata, file) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                report.skip(path.display().to_string(), error)?;
                return Ok(shard);
            }
        };
        let file = Bounded::new(file);
        let mut archive = Archive::new(&file);
        // Shards that were joined end to end (`cat`) are one shard.
        archive.set_ignore_zeros(true);
        let mut entries = match archive.entries_with_seek() {
            Ok(entries) => entries,
            Err(error) => {
                report.skip(path.display().to_string(), error)?;
                return Ok(shard);
            }
        };
        let mut end = 0;
        loop {
            file.allow(MAX_HEADERS);
            let Some(entry) = entries.next() else {
                break;
            };
            let mut entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    report.skip(path.display().to_string(), damage(end, &error))?;
                    return Ok(shard);
                }
            };
            // Seeking past the end of a file is no error, so a promise beyond it has to be noticed here.
            let size = stored_size(&entry);
            end = entry.raw_file_position().saturating_add(size);
            if end > metadata.len() {
                let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
                let there = metadata.len().saturating_sub(entry.raw_file_position());
                report.skip(format!("{}/{name}", path.display()), cut(size, there))?;
                return Ok(shard);
            }
            file.allow(MAX_DESCRIPTION);
            shard.add(&mut entry, report)?;
        }
        shard.is_whole = true;
        Ok(shard)
    }

    fn add(&mut self, entry: &mut Entry<'_, &Bounded<File>>, report: &mut Report) -> Result<()> {
        let Some(member) = Member::of(entry) else {
            return Ok(());
        };
        let group = *self.by_key.entry(member.key.clone()).or_insert_with(|| {
            self.groups.push(Group::new(&member.key));
            self.groups.len() - 1
        });
        let path = self.path;
        let fault = self.groups[group].add(member, entry, self.augment, |entry, name| {
            Ok(AudioSource::Member {
                shard: path.to_owned(),
                name: name.to_owned(),
                offset: entry.raw_file_position(),
                size: entry.size(),
            })
        });
        match fault {
            Some(fault) => report.skip(format!("{}/{}", path.display(), fault.name), fault.reason),
            None => Ok(()),
        }
    }

    /// The samples its members make.
    fn finish(self, needs_words: bool, report: &mut Report) -> Result<Vec<Sample>> {
        let mut samples = Vec::with_capacity(self.groups.len());
        for group in self.groups {
            let what = format!("{}/{}", self.path.display(), group.key());
            match group.sample(needs_words) {
                Ok(Some(sample)) => samples.push(sample),
                Ok(None) => {}
                Err(reason) => report.skip(what, reason)?,
            }
        }
        Ok(samples)
    }
}

/// Why a shard is read no further than its byte `end`.
pub(crate) fn damage(end: u64, error: &io::Error) -> String {
    if end == 0 {
        format!("not a tar file ({error}); compressed shards have to be unpacked first")
    } else {
        format!("damaged after byte {end} ({error}); what came before is kept")
    }
}

/// Why a shard ends with a member of `size` bytes, of which so many are there.
pub(crate) fn cut(size: u64, there: u64) -> String {
    format!("its header promises {size} bytes, the shard ends after {there}; what came before is kept")
}

#[cfg(test)]
mod tests;
