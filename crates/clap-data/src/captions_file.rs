//! Captions from a table of their own, by the ids of clips.
//!
//! LAION releases the captions that a language model made of keywords so: tables with the columns `url`, `caption1`,
//! `caption2`, …, `caption_t5` and an id such as `epidemic_id` (laion-audio-630k, README.md of LAION-AI/audio-dataset, "CSV
//! Format"). `caption_t5`, where there is one, is what such a table is opened for; else its captions are found by the names that
//! they have in other tables.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use crate::columns::{AUDIO, CAPTIONS, TITLE, caption_columns, texts};
use crate::members::AUDIO_EXTENSIONS;
use crate::sample::dedupe;
use crate::skipped::Report;
use crate::table::Table;
use crate::{Columns, Error, OpenOptions, Result, Sample};

/// Names of the column of ids, beside those of sound files.
const IDS: [&str; 7] = ["id", "key", "clip_id", "audio_id", "ytid", "youtube_id", "sound_id"];

/// Names of the captions that a language model made of keywords.
const MADE_OF_KEYWORDS: [&str; 2] = ["caption_t5", "text_augment_t5"];

/// Gives clips the captions that come from elsewhere, and takes out those that are still without any.
///
/// A table that names none of the clips is an error, unless it `names_others`, clips of another split.
pub(crate) fn add_captions(
    samples: &mut Vec<Sample>,
    options: &OpenOptions,
    names_others: impl Fn(&Path) -> bool,
    report: &mut Report,
) -> Result<()> {
    let files = [(&options.captions, Own::Replaced), (&options.more_captions, Own::Kept)];
    for (file, own) in files.into_iter().filter_map(|(file, own)| Some((file.as_ref()?, own))) {
        if samples.is_empty() {
            return Ok(());
        }
        match apply(file, own, samples, report) {
            Ok(found) => {
                if let Some(remark) = found.remark() {
                    tracing::warn!("{}: {remark}", file.display());
                }
            }
            Err(Error::NoCaptionMatches { .. }) if names_others(file) => {
                tracing::warn!("{}: its captions are for other splits, none for this one", file.display());
            }
            Err(error) => return Err(error),
        }
    }
    let wordless: Vec<String> = samples.iter().filter(|s| s.captions.is_empty()).map(|s| s.id.clone()).collect();
    for id in wordless {
        report.skip(id, "neither a caption nor a label, nor captions from a file")?;
    }
    samples.retain(|sample| !sample.captions.is_empty());
    Ok(())
}

/// What becomes of the captions that a clip has already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Own {
    /// The table's take their place. A clip that the table does not name keeps its own.
    Replaced,
    /// The table's come after them.
    Kept,
}

/// How a table of captions and a data set went together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Match {
    /// Clips that were given captions.
    clips: usize,
    /// Ids that are no clip's, or the file stem of several.
    unmatched: usize,
    /// Rows without a caption.
    empty: usize,
    /// The first id that is no clip's.
    first: String,
}

/// Gives clips the captions of a table. An id is a clip's own, or has the file stem of one: `sounds/12.mp3`, `12` and a URL that
/// ends in `/12.wav` are all meant for the clip `a/12.flac`, if no other clip has that stem.
///
/// What is left out of the table is reported; ids of no clip are only counted: a table serves all splits of a data set, and one
/// of them is opened.
fn apply(path: &Path, own: Own, samples: &mut [Sample], report: &mut Report) -> Result<Match> {
    let captions = read(path, report)?;
    let mut stems: HashMap<&str, Option<&str>> = HashMap::new();
    for sample in samples.iter() {
        let id = sample.id.as_str();
        stems.entry(stem(id)).and_modify(|clip| *clip = None).or_insert(Some(id));
    }
    let ids: HashMap<&str, usize> = samples.iter().enumerate().map(|(at, sample)| (sample.id.as_str(), at)).collect();
    let mut found = Match { empty: captions.empty, ..Match::default() };
    let mut given: Vec<Vec<String>> = vec![Vec::new(); samples.len()];
    for (id, texts) in captions.by_id {
        let clip = ids.get(id.as_str()).or_else(|| ids.get(stems.get(stem(&id)).copied().flatten()?));
        match clip {
            Some(&clip) => given[clip].extend(texts),
            None => {
                if found.unmatched == 0 {
                    found.first = id;
                }
                found.unmatched += 1;
            }
        }
    }
    for (sample, texts) in samples.iter_mut().zip(given).filter(|(_, texts)| !texts.is_empty()) {
        if own == Own::Replaced {
            sample.captions.clear();
        }
        sample.captions.extend(texts);
        dedupe(&mut sample.captions);
        found.clips += 1;
    }
    if found.clips == 0 {
        return Err(Error::NoCaptionMatches {
            path: path.to_owned(),
            id: found.first,
            clip: samples.first().map(|sample| sample.id.clone()).unwrap_or_default(),
        });
    }
    Ok(found)
}

impl Match {
    /// What the user should know, if anything.
    fn remark(&self) -> Option<String> {
        let mut parts = Vec::new();
        if self.unmatched > 0 {
            parts.push(format!("{} ids are no clip's, the first is {}", self.unmatched, self.first));
        }
        if self.empty > 0 {
            parts.push(format!("{} rows have no caption", self.empty));
        }
        (!parts.is_empty()).then(|| format!("captions for {} clips; {}", self.clips, parts.join("; ")))
    }
}

/// A table of captions.
#[derive(Default)]
struct Captions {
    /// In the order of the table.
    by_id: Vec<(String, Vec<String>)>,
    empty: usize,
}

fn read(path: &Path, report: &mut Report) -> Result<Captions> {
    let mut table = Table::read(path, &Columns::default(), report)?;
    let (id, columns) = roles(&table)?;
    let mut captions = Captions::default();
    let mut places: HashMap<String, usize> = HashMap::new();
    for mut row in std::mem::take(&mut table.rows) {
        let key = match row.cells.shift_remove(&id) {
            Some(serde_json::Value::String(key)) if !key.trim().is_empty() => key.trim().to_owned(),
            Some(key @ serde_json::Value::Number(_)) => key.to_string(),
            _ => {
                report.skip(table.place(row.number), format!("no {id} in this row"))?;
                continue;
            }
        };
        let mut said = Vec::new();
        let mut fault = None;
        for column in &columns {
            match texts(column, row.cells.shift_remove(column)) {
                Ok(texts) => said.extend(texts),
                Err(reason) => fault = Some(reason),
            }
        }
        if let Some(reason) = fault {
            report.skip(table.place(row.number), reason)?;
        } else if said.is_empty() {
            captions.empty += 1;
        } else if let Some(&place) = places.get(&key) {
            captions.by_id[place].1.extend(said);
        } else {
            places.insert(key.clone(), captions.by_id.len());
            captions.by_id.push((key, said));
        }
    }
    Ok(captions)
}

/// The column of ids and those of captions.
fn roles(table: &Table) -> Result<(String, Vec<String>)> {
    let missing =
        |wanted: String| Error::MissingColumn { path: table.path.clone(), wanted, found: table.names.clone() };
    let made = MADE_OF_KEYWORDS.iter().find(|name| table.has(name)).map(|name| vec![(*name).to_owned()]);
    let mut captions = made.unwrap_or_else(|| caption_columns(&table.names, &[&CAPTIONS[..], &[TITLE]].concat()));
    let known = |name: &&String| IDS.contains(&name.as_str()) || AUDIO.contains(&name.as_str());
    // A file's name first: ids are made of those, and a table may number its rows in `id`.
    let usual = AUDIO.iter().chain(&IDS).find(|name| table.has(name)).map(|name| (*name).to_owned());
    let id = usual
        .or_else(|| table.names.iter().find(|name| name.ends_with("_id")).cloned())
        .or_else(|| table.names.iter().find(|name| *name == "url").cloned())
        .or_else(|| match table.names.as_slice() {
            // Two columns need no names.
            [first, second] if captions.is_empty() || captions == [second.clone()] => Some(first.clone()),
            _ => None,
        })
        .ok_or_else(|| {
            let choice = IDS.iter().chain(&AUDIO).copied().collect::<BTreeSet<_>>();
            missing(format!(
                "of ids (`…_id`, `url` or one of `{}`)",
                choice.into_iter().collect::<Vec<_>>().join("`, `")
            ))
        })?;
    if captions.is_empty() {
        captions.extend(match table.names.as_slice() {
            [first, second] if *first == id && !known(&second) => Some(second.clone()),
            _ => None,
        });
    }
    if captions.is_empty() {
        let choice = [&MADE_OF_KEYWORDS[..], &CAPTIONS, &[TITLE]].concat().join("`, `");
        return Err(missing(format!("of captions (one of `{choice}`)")));
    }
    for name in captions.iter().chain([&id]) {
        table.check_single(name)?;
    }
    Ok((id, captions))
}

/// The last part of a path without the extension of a sound.
fn stem(id: &str) -> &str {
    let name = id.rsplit(['/', '\\']).next().unwrap_or(id);
    match name.rsplit_once('.') {
        Some((stem, extension)) if AUDIO_EXTENSIONS.contains(&extension.to_ascii_lowercase().as_str()) => stem,
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AudioSource;
    use crate::test_tree::Tree;

    fn sample(id: &str) -> Sample {
        Sample {
            id: id.to_owned(),
            audio: AudioSource::File(id.into()),
            captions: vec![format!("own of {id}")],
            labels: Vec::new(),
            meta: serde_json::Value::Null,
        }
    }

    fn try_apply(name: &str, text: &str, ids: &[&str], own: Own) -> Result<(Match, Vec<Vec<String>>)> {
        let tree = Tree::new();
        tree.write(name, text);
        let mut samples: Vec<Sample> = ids.iter().map(|id| sample(id)).collect();
        let found = apply(&tree.path(name), own, &mut samples, &mut Report::new(true))?;
        Ok((found, samples.into_iter().map(|sample| sample.captions).collect()))
    }

    fn check(text: &str, ids: &[&str], own: Own, expected: &[&[&str]]) -> Match {
        let (found, captions) = try_apply("captions.csv", text, ids, own).unwrap();
        assert_eq!(captions, expected, "{text}");
        found
    }

    #[test]
    fn captions_replace_or_join_a_clips_own() {
        let text = "id,caption\na,new\nb/c.wav,other\na,second\n";
        let ids = ["a", "b/c.wav", "d"];
        check(text, &ids, Own::Replaced, &[&["new", "second"], &["other"], &["own of d"]]);
        check(text, &ids, Own::Kept, &[&["own of a", "new", "second"], &["own of b/c.wav", "other"], &["own of d"]]);
    }

    #[test]
    fn the_tables_of_laion() {
        let text = "url,caption1,caption2,caption_t5,epidemic_id\nhttps://a/b/7.mp3,one,two,made,ES7\nx,one,two,,ES8\ny,one,two,gone,ES9\n";
        let found = check(text, &["ES7.flac", "ES8.flac"], Own::Replaced, &[&["made"], &["own of ES8.flac"]]);
        assert_eq!((found.clips, found.unmatched, found.empty), (1, 1, 1));
        let remark = found.remark().unwrap();
        assert!(remark.contains("1 ids are no clip's, the first is ES9") && remark.contains("1 rows"), "{remark}");
        let text = "url,caption1,caption2\nhttps://a/b/7.mp3,one,two\n";
        assert_eq!(check(text, &["c/7.wav"], Own::Replaced, &[&["one", "two"]]).remark(), None);
    }

    #[test]
    fn ids_match_whole_or_by_their_stem() {
        let ids = ["a/1.wav", "b/1.flac", "2.5", "c/3.wav"];
        let found = check(
            "key,text\na/1.wav,x\n1,ambiguous\n2.5,y\n3.mp3,z\n",
            &ids,
            Own::Replaced,
            &[&["x"], &["own of b/1.flac"], &["y"], &["z"]],
        );
        assert_eq!((found.unmatched, found.first.as_str()), (1, "1"));
    }

    #[test]
    fn names_of_files_come_before_numbers() {
        check("id,file_name,caption\n1,b.wav,x\n2,1.wav,y\n", &["a/b.wav"], Own::Replaced, &[&["x"]]);
    }

    #[test]
    fn two_columns_need_no_names() {
        check("clip,words\n1,x\n", &["1.wav"], Own::Replaced, &[&["x"]]);
        check("clip;caption\n1;x\n", &["1.wav"], Own::Replaced, &[&["x"]]);
        let (_, captions) =
            try_apply("captions.jsonl", r#"{"id": 1, "text": ["x", "y"]}"#, &["1.wav"], Own::Replaced).unwrap();
        assert_eq!(captions, [["x", "y"]]);
    }

    #[test]
    fn what_does_not_go_together_is_named() {
        for (text, words) in [
            ("id,caption\nx,new\n", &["captions.csv", "`x`", "`a.wav`"][..]),
            ("id,a,b\nx,1,2\n", &["of captions", "`caption_t5`", "id, a, b"]),
            ("a,b,caption\nx,1,2\n", &["of ids", "a, b, caption"]),
            ("id,caption\n,new\n", &["captions.csv:2", "no id"]),
            ("id,caption\nx\n", &["captions.csv:2", "1 cells"]),
            ("id,caption,caption\nx,1,2\n", &["`caption` 2 times"]),
        ] {
            let error = try_apply("captions.csv", text, &["a.wav"], Own::Replaced).unwrap_err().to_string();
            assert!(words.iter().all(|word| error.contains(word)), "{error}");
        }
    }
}
