//! WebDataset shards as LAION-CLAP reads them: tar files of `<key>.flac` + `<key>.json`, with a `sizes.json` beside.
//!
//! A shard is read once, header by header; sounds are passed over by seeking and only their place is kept, descriptions
//! are parsed at once. The fields are those of laion-audio-630k: `text` (a string or a list), `tag` or `tags` (a string
//! or a list), `original_data`, `text_augment_t5`, `text_augment_all`; `<key>.txt` (a caption) and `<key>.cls` (a
//! label) are understood too, as Python's `webdataset` writes them.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use serde_json::{Map, Value};
use tar::{Archive, Entry, EntryType};

use crate::shard_sizes::ShardSizes;
use crate::skipped::Report;
use crate::{AudioSource, Result, Sample, TextAugment, caption};

/// Extensions that make a member a sound; what is inside is found out on decoding.
pub(crate) const AUDIO_EXTENSIONS: [&str; 12] =
    ["flac", "wav", "wave", "ogg", "oga", "opus", "mp3", "m4a", "mp4", "aac", "aif", "aiff"];

/// A description longer than this is no description; bounds what a hostile header can make us read.
const MAX_DESCRIPTION: u64 = 1 << 20;

/// All samples of the shards in order. A broken shard is reported and what came before the damage is kept.
pub(crate) fn read_shards(shards: &[PathBuf], augment: TextAugment, report: &mut Report) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    let mut sizes = ShardSizes::default();
    for shard in shards {
        let found = Shard::read(shard, augment, report)?;
        sizes.check(shard, found.len(), report)?;
        samples.extend(found);
    }
    Ok(samples)
}

/// The samples of a shard while it is read: members meet here by key.
struct Shard<'a> {
    path: &'a Path,
    augment: TextAugment,
    groups: Vec<Group>,
    by_key: HashMap<String, usize>,
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
    /// A member of this key was unusable and has been reported.
    broken: bool,
}

impl<'a> Shard<'a> {
    fn read(path: &'a Path, augment: TextAugment, report: &mut Report) -> Result<Vec<Sample>> {
        let mut shard = Self { path, augment, groups: Vec::new(), by_key: HashMap::new() };
        let opened = File::open(path).and_then(|file| Ok((file.metadata()?, file)));
        let (metadata, file) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                report.skip(path.display().to_string(), error)?;
                return Ok(Vec::new());
            }
        };
        let mut archive = Archive::new(file);
        let entries = match archive.entries_with_seek() {
            Ok(entries) => entries,
            Err(error) => {
                report.skip(path.display().to_string(), error)?;
                return Ok(Vec::new());
            }
        };
        let mut end = 0;
        for entry in entries {
            let mut entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    let reason = if end == 0 {
                        format!("not a tar file ({error}); compressed shards have to be unpacked first")
                    } else {
                        format!("damaged after byte {end} ({error}); what came before is kept")
                    };
                    report.skip(path.display().to_string(), reason)?;
                    break;
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
                break;
            }
            shard.add(&mut entry, report)?;
        }
        shard.finish(report)
    }

    fn add(&mut self, entry: &mut Entry<'_, File>, report: &mut Report) -> Result<()> {
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::Directory | EntryType::XGlobalHeader) {
            return Ok(());
        }
        let name = match String::from_utf8(entry.path_bytes().into_owned()) {
            Ok(name) => name,
            Err(error) => {
                let name = String::from_utf8_lossy(error.as_bytes()).into_owned();
                return self.skip(&name, "its name is not UTF-8", report);
            }
        };
        let Some((key, extension)) = split_name(&name) else {
            return Ok(());
        };
        let extension = extension.to_ascii_lowercase();
        let last = extension.rsplit('.').next().unwrap_or_default();
        let is_audio = AUDIO_EXTENSIONS.contains(&last);
        if !is_audio && !matches!(extension.as_str(), "json" | "txt" | "cls") {
            return Ok(());
        }
        if let Err(reason) = check_relative(Path::new(&name)) {
            return self.skip(&name, reason, report);
        }
        if !matches!(kind, EntryType::Regular | EntryType::Continuous) {
            return self.skip(&name, "a link or special file, not a plain one", report);
        }
        let group = *self.by_key.entry(key.to_owned()).or_insert_with(|| {
            self.groups.push(Group { key: key.to_owned(), ..Group::default() });
            self.groups.len() - 1
        });
        let group = &mut self.groups[group];
        if !group.members.insert(extension.clone()) {
            return self.skip(&name, "a second member of this name; the first is kept", report);
        }
        if is_audio {
            if let Some(first) = &group.audio {
                let reason = format!("a second sound of the same key; {first} is kept");
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
        let Some(audio) = self.audio else {
            return Err(format!("no sound beside it (one of {})", AUDIO_EXTENSIONS.join(", ")));
        };
        if !self.described {
            return Err("no description beside it (.json, .txt or .cls)".to_owned());
        }
        let mut seen = HashSet::new();
        self.labels.retain(|label| seen.insert(label.clone()));
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

fn read_text(entry: &mut Entry<'_, File>) -> std::result::Result<String, String> {
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
mod tests {
    use super::*;
    use crate::test_tree::{Tree, header, tar, wav};

    const JSON: &[u8] = br#"{"text": "a dog", "tag": ["dog"], "original_data": {"licence": "CC0"}}"#;

    fn read(tree: &Tree, shards: &[&str]) -> (Vec<Sample>, Vec<String>) {
        let mut report = Report::new(false);
        let shards: Vec<PathBuf> = shards.iter().map(|name| tree.path(name)).collect();
        let samples = read_shards(&shards, TextAugment::None, &mut report).unwrap();
        (samples, report.skipped.iter().map(ToString::to_string).collect())
    }

    /// Reads one shard and expects these ids and, in order, these words in the report.
    fn check(shard: impl AsRef<[u8]>, ids: &[&str], reasons: &[&str]) {
        let tree = Tree::new();
        tree.write("0.tar", shard);
        let (samples, skipped) = read(&tree, &["0.tar"]);
        let found: Vec<&str> = samples.iter().map(|sample| sample.id.as_str()).collect();
        assert_eq!(found, ids, "{skipped:?}");
        assert_eq!(skipped.len(), reasons.len(), "{skipped:?}");
        for (skipped, reason) in skipped.iter().zip(reasons) {
            assert!(skipped.contains(reason) && skipped.contains("0.tar"), "`{reason}` not in `{skipped}`");
        }
    }

    #[test]
    fn a_shard_as_laion_writes_it() {
        let (first, second) = (wav(10), wav(20));
        let json: &[u8] = br#"{"text": ["rain", "it rains", " "], "tags": "rain", "text_augment_t5": null}"#;
        let tree = Tree::new();
        tree.tar("0.tar", &[("1.flac", &first), ("1.json", JSON), ("d/2.json", json), ("d/2.wav", &second)]);
        let (samples, skipped) = read(&tree, &["0.tar"]);
        assert_eq!(skipped, [] as [&str; 0]);
        assert_eq!(samples[0].id, "1");
        assert_eq!(samples[0].captions, ["a dog"]);
        assert_eq!(samples[0].labels, ["dog"]);
        assert_eq!(samples[0].meta["licence"], "CC0");
        assert_eq!(samples[0].audio.bytes().unwrap(), first);
        assert_eq!(samples[1].id, "d/2");
        assert_eq!(samples[1].captions, ["rain", "it rains"]);
        assert_eq!(samples[1].labels, ["rain"]);
        assert_eq!(samples[1].audio.bytes().unwrap(), second);
        assert_eq!(samples[1].audio.load(8000).unwrap().samples.len(), 20);
    }

    #[test]
    fn txt_and_cls_describe_too() {
        let tree = Tree::new();
        tree.tar("0.tar", &[("1.wav", &wav(9)), ("1.txt", b"a dog\n"), ("1.cls", b"dog"), ("1.png", b"")]);
        let (samples, skipped) = read(&tree, &["0.tar"]);
        assert_eq!(skipped, [] as [&str; 0]);
        assert_eq!(
            (&samples[0].captions[..], &samples[0].labels[..]),
            (&["a dog".to_owned()][..], &["dog".to_owned()][..])
        );
    }

    #[test]
    fn tags_alone_make_the_caption() {
        let tree = Tree::new();
        tree.tar("0.tar", &[("1.wav", &wav(9)), ("1.json", br#"{"text": "", "tag": ["dog", "rain", "dog"]}"#)]);
        let (samples, _) = read(&tree, &["0.tar"]);
        assert_eq!(samples[0].captions, ["The sounds of dog and rain"]);
    }

    #[test]
    fn descriptions_that_are_none() {
        let sound = wav(9);
        for (json, reason) in [
            (&br#"{"title": "x"}"#[..], "neither `text` nor `tag`"),
            (br#"{"text": 5}"#, "`text` has to be a string"),
            (br#"{"text": "x", "tag": [["y"]]}"#, "`tag` has to be a string"),
            (br#"["x"]"#, "invalid type"),
            (b"{", "EOF"),
            (b"{\"text\": \"\xff\"}", "not UTF-8"),
        ] {
            check(tar(&[("1.wav", &sound), ("1.json", json), ("2.wav", &sound), ("2.json", JSON)]), &["2"], &[reason]);
        }
    }

    #[test]
    fn members_without_their_partner() {
        let shard = tar(&[("1.wav", &wav(9)), ("2.json", JSON), ("3.wav", &wav(9)), ("3.json", JSON)]);
        check(shard, &["3"], &["0.tar/1: no description", "0.tar/2: no sound"]);
    }

    #[test]
    fn duplicates_are_reported_and_the_first_kept() {
        let (first, second) = (wav(10), wav(20));
        let shard =
            tar(&[("1.wav", &first), ("1.json", JSON), ("1.wav", &second), ("1.json", b"{}"), ("1.flac", &second)]);
        check(&shard, &["1"], &["1.wav: a second member", "1.json: a second member", "1.flac: a second sound"]);
        let tree = Tree::new();
        tree.write("0.tar", shard);
        assert_eq!(read(&tree, &["0.tar"]).0[0].audio.bytes().unwrap(), first);
    }

    #[test]
    fn names_that_lead_out_or_are_not_text() {
        let mut shard = tar(&[
            ("../../1.wav", &wav(9)),
            ("../../1.json", JSON),
            ("/etc/2.wav", &wav(9)),
            ("3.wav", &wav(9)),
            ("3.json", JSON),
        ]);
        shard.truncate(shard.len() - 1024);
        shard.extend(header(b"\xff\xfe.wav", 0));
        shard.extend([0; 1024]);
        check(shard, &["3"], &["leads out", "leads out", "leads out", "not UTF-8"]);
    }

    #[test]
    fn links_and_hidden_files() {
        let mut link = tar::Header::new_gnu();
        link.as_old_mut().name[..5].copy_from_slice(b"1.wav");
        link.set_entry_type(EntryType::Symlink);
        link.set_link_name("/etc/passwd").unwrap();
        link.set_size(0);
        link.set_cksum();
        let mut shard = link.as_bytes().to_vec();
        shard.extend(tar(&[("._1.wav", b"x"), ("1.json", JSON), ("2.wav", &wav(9)), ("2.json", JSON)]));
        check(shard, &["2"], &["a link or special file", "0.tar/1: no sound"]);
    }

    #[test]
    fn a_cut_shard_keeps_what_came_before() {
        let whole = tar(&[("1.wav", &wav(900)), ("1.json", JSON), ("2.wav", &wav(900)), ("2.json", JSON)]);
        // Inside the second sound: 512 + 2048 + 512 + 512 bytes make the first pair.
        check(&whole[..5000], &["1"], &["0.tar/2.wav: its header promises 1844 bytes, the shard ends after 904"]);
        // Inside the second header.
        check(&whole[..3600], &["1"], &["damaged after byte"]);
    }

    #[test]
    fn a_damaged_header_keeps_what_came_before() {
        let mut shard = tar(&[("1.wav", &wav(900)), ("1.json", JSON), ("2.wav", &wav(900)), ("2.json", JSON)]);
        shard[3584 + 3] ^= 0x55;
        check(shard, &["1"], &["checksum"]);
    }

    #[test]
    fn a_header_may_promise_anything() {
        let ten_gigabytes = 10 << 30;
        let mut shard = tar(&[("1.wav", &wav(9)), ("1.json", JSON)]);
        shard.truncate(shard.len() - 1024);
        let good = shard.clone();
        for name in [&b"2.wav"[..], b"2.json"] {
            shard.clone_from(&good);
            shard.extend(header(name, ten_gigabytes));
            shard.extend([b' '; 4096]);
            check(&shard, &["1"], &["promises 10737418240 bytes, the shard ends after 4096"]);
        }
        shard.clone_from(&good);
        shard.extend(header(b"2.wav", u64::MAX));
        check(&shard, &["1"], &["0.tar"]);
    }

    #[test]
    fn a_description_is_bounded() {
        let long = vec![b' '; (1 << 20) + 1];
        check(tar(&[("1.wav", &wav(9)), ("1.json", &long)]), &[], &["a description of 1048577 bytes"]);
    }

    #[test]
    fn not_a_tar_file() {
        check("this is a text file, long enough for a header. ".repeat(30), &[], &["not a tar file"]);
        let tree = Tree::new();
        assert!(read(&tree, &["absent.tar"]).1[0].contains("absent.tar"));
    }

    #[test]
    fn strict_stops_at_the_first_fault() {
        let tree = Tree::new();
        tree.tar("0.tar", &[("1.wav", &wav(9)), ("2.wav", &wav(9)), ("2.json", JSON)]);
        let error = read_shards(&[tree.path("0.tar")], TextAugment::None, &mut Report::new(true)).unwrap_err();
        assert!(error.to_string().contains("0.tar/1: no description"), "{error}");
    }

    #[test]
    fn a_shrunken_shard_is_an_error_when_read() {
        let tree = Tree::new();
        tree.tar("0.tar", &[("1.json", JSON), ("1.wav", &wav(2000))]);
        let (samples, _) = read(&tree, &["0.tar"]);
        tree.write("0.tar", [0; 1600]);
        let error = samples[0].audio.load(8000).unwrap_err().to_string();
        assert!(error.contains("0.tar/1.wav") && error.contains("shorter"), "{error}");
    }
}
