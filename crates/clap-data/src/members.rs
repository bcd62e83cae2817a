//! From the members of a tar file to samples: one reading of names, kinds and descriptions, for shards on disk and for
//! streams of them.
//!
//! The fields are those of laion-audio-630k: `text` (a string or a list), `tag` or `tags` (a string or a list),
//! `original_data`, `text_augment_t5`, `text_augment_all`; `<key>.txt` (a caption) and `<key>.cls` (a label) are
//! understood too, as Python's `webdataset` writes them. As there, a key ends at the first dot of a name.

use std::cell::Cell;
use std::collections::HashSet;
use std::io::{self, Read};
use std::path::{Component, Path};

use serde_json::{Map, Value};
use tar::{Entry, EntryType};

use crate::sample::{check_size, dedupe};
use crate::{AudioSource, Sample, TextAugment, caption};

/// Extensions that make a member a sound; what is inside is found out on decoding.
pub(crate) const AUDIO_EXTENSIONS: [&str; 13] =
    ["flac", "wav", "wave", "ogg", "oga", "opus", "mp3", "m4a", "mp4", "aac", "aif", "aiff", "au"];

/// A description longer than this is no description; bounds what a hostile header can make us read.
pub(crate) const MAX_DESCRIPTION: u64 = 1 << 20;

/// Headers, long names and PAX records in front of one member; the tar reader holds them in memory.
pub(crate) const MAX_HEADERS: u64 = 1 << 20;

/// A tar file of which no more is read than was allowed beforehand: the tar reader takes a header's word for the length
/// of long names and PAX records.
pub(crate) struct Bounded<R> {
    pub(crate) inner: R,
    left: Cell<u64>,
}

impl<R> Bounded<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, left: Cell::new(0) }
    }

    /// Allows reading so many bytes from here on.
    pub(crate) fn allow(&self, bytes: u64) {
        self.left.set(bytes);
    }

    /// How many bytes of `wanted` may be read.
    pub(crate) fn grant(&self, wanted: usize) -> io::Result<usize> {
        let left = self.left.get();
        if left == 0 && wanted > 0 {
            return Err(io::Error::other(format!("more than {MAX_HEADERS} bytes of headers for one member")));
        }
        Ok(usize::try_from(left).map_or(wanted, |left| wanted.min(left)))
    }

    /// Notes how many bytes were read.
    pub(crate) fn spend(&self, bytes: usize) {
        self.left.set(self.left.get().saturating_sub(bytes as u64));
    }
}

/// A member that concerns a clip.
pub(crate) struct Member {
    pub(crate) key: String,
    name: String,
    /// In lower case, from the first dot on.
    extension: String,
    is_sound: bool,
    /// Why it cannot be used, where its header tells.
    fault: Option<String>,
}

/// A member that was left out, and why.
pub(crate) struct Fault {
    pub(crate) name: String,
    pub(crate) reason: String,
}

impl Member {
    /// What a header says; nothing for folders, hidden files and what is neither sound nor description.
    pub(crate) fn of<R: Read>(entry: &Entry<'_, R>) -> Option<Self> {
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::Directory | EntryType::XGlobalHeader) {
            return None;
        }
        let bytes = entry.path_bytes();
        let (name, is_text) = (String::from_utf8_lossy(&bytes).into_owned(), std::str::from_utf8(&bytes).is_ok());
        let (key, extension) = split_name(&name)?;
        let (key, extension) = (key.to_owned(), extension.to_ascii_lowercase());
        let last = extension.rsplit('.').next().unwrap_or_default();
        let is_sound = AUDIO_EXTENSIONS.contains(&last);
        if !is_sound && !matches!(last, "json" | "txt" | "cls") {
            return None;
        }
        let fault = if !is_text {
            Some("its name is not UTF-8".to_owned())
        } else if let Err(reason) = check_relative(Path::new(&name)) {
            Some(reason.to_owned())
        } else if !matches!(kind, EntryType::Regular | EntryType::Continuous) {
            Some("a link or special file, not a plain one".to_owned())
        } else if is_sound && let Err(error) = check_size(entry.size()) {
            Some(error.to_string())
        } else {
            None
        };
        Some(Self { key, name, extension, is_sound, fault })
    }

    /// A description with a dot too many in its name.
    fn is_dotted(&self) -> bool {
        !self.is_sound && self.extension.contains('.')
    }

    fn refused(self, reason: impl Into<String>) -> Option<Fault> {
        Some(Fault { name: self.name, reason: reason.into() })
    }
}

/// The members of one key.
#[derive(Default)]
pub(crate) struct Group {
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

impl Group {
    pub(crate) fn new(key: &str) -> Self {
        Self { key: key.to_owned(), ..Self::default() }
    }

    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// Takes in one more member, whose sound `sound` finds the place of or reads; gives the member back where it is left
    /// out, with the reason.
    pub(crate) fn add<R: Read>(
        &mut self,
        member: Member,
        entry: &mut Entry<'_, R>,
        augment: TextAugment,
        sound: impl FnOnce(&mut Entry<'_, R>, &str) -> Result<AudioSource, String>,
    ) -> Option<Fault> {
        if member.is_dotted() {
            self.dotted.get_or_insert(member.name);
            return None;
        }
        if let Some(reason) = member.fault.clone() {
            self.reported = true;
            return member.refused(reason);
        }
        if !self.members.insert(member.extension.clone()) {
            return member.refused("a second member of this name; the first is kept");
        }
        if member.is_sound {
            if let Some(first) = &self.audio {
                let reason =
                    format!("a second sound of the key `{}` (a key ends at the first dot); {first} is kept", self.key);
                return member.refused(reason);
            }
            match sound(entry, &member.name) {
                Ok(audio) => self.audio = Some(audio),
                Err(reason) => {
                    self.reported = true;
                    return member.refused(reason);
                }
            }
            return None;
        }
        let described = read_text(entry).and_then(|text| self.describe(&member.extension, &text, augment));
        if let Err(reason) = described {
            self.broken = true;
            return member.refused(reason);
        }
        None
    }

    fn describe(&mut self, extension: &str, text: &str, augment: TextAugment) -> Result<(), String> {
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

    /// The finished sample; nothing when its fault has been reported already. Without words it is none, unless they come from
    /// elsewhere (`needs_words` is false).
    pub(crate) fn sample(mut self, needs_words: bool) -> Result<Option<Sample>, String> {
        if self.broken {
            return Ok(None);
        }
        if self.reported && (self.audio.is_none() || !self.described) {
            return Ok(None);
        }
        let Some(audio) = self.audio else {
            return Err(format!("no sound beside it (one of {})", AUDIO_EXTENSIONS.join(", ")));
        };
        if !self.described && needs_words {
            let mut reason = "no description beside it (.json, .txt or .cls)".to_owned();
            if let Some(name) = self.dotted {
                reason +=
                    &format!("; {name} is none of this key, which ends at the first dot: keep dots out of the names");
            }
            return Err(reason);
        }
        dedupe(&mut self.captions);
        dedupe(&mut self.labels);
        if self.captions.is_empty() && !self.labels.is_empty() {
            self.captions.push(caption::sound_of(&self.labels));
        }
        if self.captions.is_empty() && needs_words {
            return Err("its description has neither `text` nor `tag`".to_owned());
        }
        Ok(Some(Sample { id: self.key, audio, captions: self.captions, labels: self.labels, meta: self.meta }))
    }
}

/// Bytes that a member takes in the archive, without padding. A sparse member's own size counts its holes, which are not
/// there.
pub(crate) fn stored_size<R: Read>(entry: &Entry<'_, R>) -> u64 {
    let header = entry.header();
    if header.entry_type().is_gnu_sparse() { header.entry_size().unwrap_or(u64::MAX) } else { entry.size() }
}

/// Key and extension as WebDataset has them: the extension begins at the first dot of the last part of the name.
/// Nothing for names without one and for hidden files (macOS puts `._x` beside every `x`).
fn split_name(name: &str) -> Option<(&str, &str)> {
    let start = name.rfind('/').map_or(0, |slash| slash + 1);
    let dot = start + name[start..].find('.')?;
    (dot > start).then(|| (name[..dot].trim_start_matches("./"), &name[dot + 1..]))
}

/// Refuses a name that would lead out of its folder.
pub(crate) fn check_relative(name: &Path) -> Result<(), &'static str> {
    let stays = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
    if name.components().all(stays) { Ok(()) } else { Err("its name leads out of the data set's folder") }
}

fn read_text<R: Read>(entry: &mut Entry<'_, R>) -> Result<String, String> {
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
pub(crate) fn strings(key: &str, value: Option<&Value>) -> Result<Vec<String>, String> {
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
