//! WebDataset shards as LAION-CLAP reads them: tar files of `<key>.flac` + `<key>.json`, with a `sizes.json` beside.
//!
//! A shard is read once, header by header; sounds are passed over by seeking and only their place is kept, descriptions
//! are parsed at once. The fields are those of laion-audio-630k: `text` (a string or a list), `tag` or `tags` (a string
//! or a list), `original_data`, `text_augment_t5`, `text_augment_all`; `<key>.txt` (a caption) and `<key>.cls` (a
//! label) are understood too, as Python's `webdataset` writes them. As there, a key ends at the first dot of a name.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use serde_json::{Map, Value};
use tar::{Archive, Entry, EntryType};

use crate::sample::{check_size, dedupe};
use crate::shard_sizes::ShardSizes;
use crate::skipped::Report;
use crate::{AudioSource, Result, Sample, TextAugment, caption};

/// Extensions that make a member a sound; what is inside is found out on decoding.
pub(crate) const AUDIO_EXTENSIONS: [&str; 12] =
    ["flac", "wav", "wave", "ogg", "oga", "opus", "mp3", "m4a", "mp4", "aac", "aif", "aiff"];

/// A description longer than this is no description; bounds what a hostile header can make us read.
const MAX_DESCRIPTION: u64 = 1 << 20;

/// Headers, long names and PAX records in front of one member; the tar reader holds them in memory.
const MAX_HEADERS: u64 = 1 << 20;

/// All samples of the shards in order. A broken shard is reported and what came before the damage is kept.
///
/// `whole_folder` is given where the shards are all those of a folder: its inventory may not name others.
pub(crate) fn read_shards(
    shards: &[PathBuf],
    whole_folder: Option<&Path>,
    augment: TextAugment,
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
        samples.extend(found.finish(report)?);
    }
    if let Some(folder) = whole_folder {
        sizes.check_absent(folder, shards, report)?;
    }
    Ok(samples)
}

/// A shard of which no more is read than was allowed beforehand: the tar reader takes a header's word for the length of
/// long names and PAX records.
struct Bounded {
    file: File,
    left: Cell<u64>,
}

impl Bounded {
    /// Allows reading so many bytes from here on.
    fn allow(&self, bytes: u64) {
        self.left.set(bytes);
    }
}

impl Read for &Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.left.get();
        if left == 0 && !buffer.is_empty() {
            return Err(io::Error::other(format!("more than {MAX_HEADERS} bytes of headers for one member")));
        }
        let count = usize::try_from(left).map_or(buffer.len(), |left| buffer.len().min(left));
        let count = (&self.file).read(&mut buffer[..count])?;
        self.left.set(left - count as u64);
        Ok(count)
    }
}

impl Seek for &Bounded {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        (&self.file).seek(to)
    }
}

/// The samples of a shard while it is read: members meet here by key.
struct Shard<'a> {
    path: &'a Path,
    augment: TextAugment,
    groups: Vec<Group>,
    by_key: HashMap<String, usize>,
    /// Whether it was read to its end.
    is_whole: bool,
}

/// The members of one key.
#[derive(Default)]
struct Group {
    key: String,
    audio: Option<AudioSource>,
    members: HashSet<String>,
    captions: Vec<String>,
    labels: Vec<String>,
    meta: Value,
    described: bool,
    /// A description with a dot too many in its name, which is not read.
    dotted: Option<String>,
    /// A description of this key was unusable and has been reported: the whole clip is out.
    broken: bool,
    /// A member of this key was left out and has been reported; what is missing for it need not be.
    reported: bool,
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
        let file = Bounded { file, left: Cell::new(MAX_HEADERS) };
        let mut archive = Archive::new(&file);
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
                    let reason = if end == 0 {
                        format!("not a tar file ({error}); compressed shards have to be unpacked first")
                    } else {
                        format!("damaged after byte {end} ({error}); what came before is kept")
                    };
                    report.skip(path.display().to_string(), reason)?;
                    return Ok(shard);
                }
            };
            // Seeking past the end of a file is no error, so a promise beyond it has to be noticed here.
            end = entry.raw_file_position().saturating_add(entry.size());
            if end > metadata.len() {
                let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
                report.skip(
                    format!("{}/{name}", path.display()),
                    format!(
                        "its header promises {} bytes, the shard ends after {}; what came before is kept",
                        entry.size(),
                        metadata.len().saturating_sub(entry.raw_file_position()),
                    ),
                )?;
                return Ok(shard);
            }
            file.allow(MAX_DESCRIPTION);
            shard.add(&mut entry, report)?;
        }
        shard.is_whole = true;
        Ok(shard)
    }

    fn add(&mut self, entry: &mut Entry<'_, &Bounded>, report: &mut Report) -> Result<()> {
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::Directory | EntryType::XGlobalHeader) {
            return Ok(());
        }
        let bytes = entry.path_bytes();
        let (name, is_text) = (String::from_utf8_lossy(&bytes).into_owned(), std::str::from_utf8(&bytes).is_ok());
        let Some((key, extension)) = split_name(&name) else {
            return Ok(());
        };
        let extension = extension.to_ascii_lowercase();
        let last = extension.rsplit('.').next().unwrap_or_default();
        let is_audio = AUDIO_EXTENSIONS.contains(&last);
        if !is_audio && !matches!(last, "json" | "txt" | "cls") {
            return Ok(());
        }
        let group = *self.by_key.entry(key.to_owned()).or_insert_with(|| {
            self.groups.push(Group { key: key.to_owned(), ..Group::default() });
            self.groups.len() - 1
        });
        let group = &mut self.groups[group];
        if !is_audio && extension != last {
            group.dotted.get_or_insert(name);
            return Ok(());
        }
        let fault = if !is_text {
            Some("its name is not UTF-8".to_owned())
        } else if let Err(reason) = check_relative(Path::new(&name)) {
            Some(reason.to_owned())
        } else if !matches!(kind, EntryType::Regular | EntryType::Continuous) {
            Some("a link or special file, not a plain one".to_owned())
        } else if is_audio && let Err(error) = check_size(entry.size()) {
            Some(error.to_string())
        } else {
            None
        };
        if let Some(reason) = fault {
            group.reported = true;
            return self.skip(&name, reason, report);
        }
        if !group.members.insert(extension.clone()) {
            return self.skip(&name, "a second member of this name; the first is kept", report);
        }
        if is_audio {
            if let Some(first) = &group.audio {
                let reason =
                    format!("a second sound of the key `{}` (a key ends at the first dot); {first} is kept", group.key);
                return self.skip(&name, reason, report);
            }
            group.audio = Some(AudioSource::Member {
                shard: self.path.to_owned(),
                name,
                offset: entry.raw_file_position(),
                size: entry.size(),
            });
            return Ok(());
        }
        let described = match read_text(entry) {
            Ok(text) => group.describe(&extension, &text, self.augment),
            Err(reason) => Err(reason),
        };
        if let Err(reason) = described {
            group.broken = true;
            self.skip(&name, reason, report)?;
        }
        Ok(())
    }

    fn skip(&self, member: &str, reason: impl std::fmt::Display, report: &mut Report) -> Result<()> {
        report.skip(format!("{}/{member}", self.path.display()), reason)
    }

    /// The samples its members make.
    fn finish(self, report: &mut Report) -> Result<Vec<Sample>> {
        let mut samples = Vec::with_capacity(self.groups.len());
        for group in self.groups {
            let what = format!("{}/{}", self.path.display(), group.key);
            match group.sample() {
                Ok(Some(sample)) => samples.push(sample),
                Ok(None) => {}
                Err(reason) => report.skip(what, reason)?,
            }
        }
        Ok(samples)
    }
}

impl Group {
    fn describe(&mut self, extension: &str, text: &str, augment: TextAugment) -> std::result::Result<(), String> {
        self.described = true;
        match extension {
            "txt" => self.captions.extend(words(text)),
            "cls" => self.labels.extend(words(text)),
            _ => {
                let fields: Map<String, Value> = serde_json::from_str(text).map_err(|error| error.to_string())?;
                let key = augment.key(&fields);
                self.captions.extend(strings(key, fields.get(key))?);
                for key in ["tag", "tags"] {
                    self.labels.extend(strings(key, fields.get(key))?);
                }
                self.meta = fields.get("original_data").cloned().unwrap_or_default();
            }
        }
        Ok(())
    }

    /// The finished sample; nothing when its fault has been reported already.
    fn sample(mut self) -> std::result::Result<Option<Sample>, String> {
        if self.broken {
            return Ok(None);
        }
        if self.reported && (self.audio.is_none() || !self.described) {
            return Ok(None);
        }
        let Some(audio) = self.audio else {
            return Err(format!("no sound beside it (one of {})", AUDIO_EXTENSIONS.join(", ")));
        };
        if !self.described {
            let mut reason = "no description beside it (.json, .txt or .cls)".to_owned();
            if let Some(name) = self.dotted {
                reason +=
                    &format!("; {name} is none of this key, which ends at the first dot: keep dots out of the names");
            }
            return Err(reason);
        }
        dedupe(&mut self.captions);
        dedupe(&mut self.labels);
        if self.captions.is_empty() {
            if self.labels.is_empty() {
                return Err("its description has neither `text` nor `tag`".to_owned());
            }
            self.captions.push(caption::sound_of(&self.labels));
        }
        Ok(Some(Sample { id: self.key, audio, captions: self.captions, labels: self.labels, meta: self.meta }))
    }
}

/// Key and extension as WebDataset has them: the extension begins at the first dot of the last part of the name.
/// Nothing for names without one and for hidden files (macOS puts `._x` beside every `x`).
fn split_name(name: &str) -> Option<(&str, &str)> {
    let start = name.rfind('/').map_or(0, |slash| slash + 1);
    let dot = start + name[start..].find('.')?;
    (dot > start).then(|| (name[..dot].trim_start_matches("./"), &name[dot + 1..]))
}

/// Refuses a name that would lead out of its folder.
pub(crate) fn check_relative(name: &Path) -> std::result::Result<(), &'static str> {
    let stays = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
    if name.components().all(stays) { Ok(()) } else { Err("its name leads out of the data set's folder") }
}

fn read_text(entry: &mut Entry<'_, &Bounded>) -> std::result::Result<String, String> {
    if entry.size() > MAX_DESCRIPTION {
        return Err(format!("a description of {} bytes; {MAX_DESCRIPTION} are the limit", entry.size()));
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    String::from_utf8(bytes).map_err(|_| "not UTF-8".to_owned())
}

fn words(text: &str) -> Option<String> {
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// A JSON field that is a string, a list of strings, null or absent; blank ones count for nothing.
pub(crate) fn strings(key: &str, value: Option<&Value>) -> std::result::Result<Vec<String>, String> {
    let wrong = |value: &Value| {
        let kind = match value {
            Value::Object(_) => "an object",
            Value::Array(_) => "a list inside a list",
            _ => "neither",
        };
        format!("`{key}` has to be a string or a list of strings, and is or holds {kind}")
    };
    match value {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(words(text).into_iter().collect()),
        Some(Value::Array(list)) => {
            let mut texts = Vec::with_capacity(list.len());
            for item in list {
                match item {
                    Value::String(text) => texts.extend(words(text)),
                    Value::Null => {}
                    other => return Err(wrong(other)),
                }
            }
            Ok(texts)
        }
        Some(other) => Err(wrong(other)),
    }
}

#[cfg(test)]
mod tests;
