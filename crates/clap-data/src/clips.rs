//! The clips that tables name: Hugging Face's audiofolder, and tables of any other columns.
//!
//! A row says where its sound is, or holds it, and what is said about it; which columns do so is [`Columns`]' business. A
//! cell of words holds one text or a JSON list of them. Rows of the same file are captions of one clip; a sound inside a
//! table is a clip of its own. An optional `split` column divides the rows. All other columns become the sample's `meta`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::columns::{Roles, single};
use crate::sample::dedupe;
use crate::skipped::Report;
use crate::sound_place::{Reach, SoundPlace};
use crate::split_choice::takes;
use crate::table::{Row, Table};
use crate::{AudioSource, Columns, Error, Result, Sample, caption};

const SPLIT: &str = "split";

/// One clip and the split it belongs to. Until captions from elsewhere have come, it may be without any.
pub(crate) struct Clip {
    pub(crate) split: Option<String>,
    pub(crate) sample: Sample,
}

/// How the rows of tables are read.
#[derive(Clone, Copy)]
pub(crate) struct Reading<'a> {
    pub(crate) columns: &'a Columns,
    pub(crate) reach: Reach,
    /// Faults of the rows of other splits are not reported.
    pub(crate) wanted: Option<&'a str>,
    /// Whether a row that says nothing about its sound is a fault.
    pub(crate) needs_words: bool,
}

/// What tables hold.
#[derive(Default)]
pub(crate) struct Clips {
    pub(crate) clips: Vec<Clip>,
    /// The classes of the column of labels, where the table has them in an order of its own.
    pub(crate) classes: Vec<String>,
    by_file: HashMap<PathBuf, usize>,
}

/// The metadata file of a folder, if it has one.
pub(crate) fn metadata_file(folder: &Path) -> Result<Option<PathBuf>> {
    let found: Vec<PathBuf> =
        ["metadata.csv", "metadata.jsonl"].iter().map(|name| folder.join(name)).filter(|path| path.is_file()).collect();
    match <[PathBuf; 1]>::try_from(found) {
        Ok([path]) => Ok(Some(path)),
        Err(found) if found.is_empty() => Ok(None),
        Err(_) => Err(Error::TwoMetadataFiles { path: folder.to_owned() }),
    }
}

/// All clips that tables name, in their order.
pub(crate) fn read_clips(tables: &[PathBuf], reading: Reading<'_>, report: &mut Report) -> Result<Clips> {
    let mut found = Clips::default();
    for path in tables {
        found.add(Table::read(path, reading.columns, report)?, reading, report)?;
    }
    for clip in &mut found.clips {
        let sample = &mut clip.sample;
        if sample.captions.is_empty() && !sample.labels.is_empty() {
            sample.captions.push(caption::sound_of(&sample.labels));
        }
    }
    Ok(found)
}

impl Clips {
    fn add(&mut self, mut table: Table, reading: Reading<'_>, report: &mut Report) -> Result<()> {
        let roles = reading.columns.find(&table, reading.needs_words)?;
        for (column, names) in &table.classes {
            if roles.label.as_ref() == Some(column) {
                self.classes.extend(names.iter().cloned());
            }
        }
        dedupe(&mut self.classes);
        let mut place = SoundPlace::new(table.path.parent().unwrap_or(Path::new("")), reading.reach)?;
        let mut elsewhere = Report::new(false);
        for row in std::mem::take(&mut table.rows) {
            let wanted = |split: &str| split.is_empty() || takes(reading.wanted, split);
            let is_wanted = wanted(row.cells.get(SPLIT).and_then(Value::as_str).unwrap_or_default().trim());
            let report = if is_wanted { &mut *report } else { &mut elsewhere };
            let number = row.number;
            if let Err(reason) = self.add_row(row, &table, &roles, &mut place, reading.needs_words) {
                report.skip(table.place(number), reason)?;
            }
        }
        Ok(())
    }

    fn add_row(
        &mut self,
        mut row: Row,
        table: &Table,
        roles: &Roles,
        place: &mut SoundPlace,
        needs_words: bool,
    ) -> std::result::Result<(), String> {
        let mut said = roles.read(&mut row)?;
        let name = match (said.audio.take(), &row.sound) {
            (Some(name), _) => name,
            (None, Some(_)) => {
                let file = table.path.file_stem().unwrap_or_default().to_string_lossy();
                format!("{file}-{}", row.number)
            }
            (None, None) => return Err(format!("no {} in this row", roles.audio)),
        };
        dedupe(&mut said.captions);
        dedupe(&mut said.labels);
        if needs_words && said.captions.is_empty() && said.labels.is_empty() {
            return Err(format!("{name}: neither a caption nor a label in this row"));
        }
        let split = single(&mut row.cells, SPLIT).map_err(|reason| format!("{name}: {reason}"))?;
        let audio = match row.sound {
            Some(sound) => sound,
            None => AudioSource::File(place.find(&name).map_err(|reason| format!("{name}: {reason}"))?),
        };
        if let AudioSource::File(file) = &audio {
            if let Some(&first) = self.by_file.get(file) {
                return self.clips[first].merge(split, said.captions, said.labels);
            }
            self.by_file.insert(file.clone(), self.clips.len());
        }
        let (captions, labels, meta) = (said.captions, said.labels, Value::Object(row.cells));
        self.clips.push(Clip { split, sample: Sample { id: name, audio, captions, labels, meta } });
        Ok(())
    }
}

impl Clip {
    /// Adds the words of another row of the same file.
    fn merge(
        &mut self,
        split: Option<String>,
        captions: Vec<String>,
        labels: Vec<String>,
    ) -> std::result::Result<(), String> {
        let id = &self.sample.id;
        if self.split != split {
            return Err(format!("{id}: an earlier row puts it into another split; that one is kept"));
        }
        let mut added = false;
        for (texts, mine) in [(captions, &mut self.sample.captions), (labels, &mut self.sample.labels)] {
            let before = mine.len();
            mine.extend(texts);
            dedupe(mine);
            added |= mine.len() > before;
        }
        if added { Ok(()) } else { Err(format!("{id}: an earlier row says the same")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_tree::Tree;

    fn try_read(tree: &Tree, table: &str, reach: Reach, report: &mut Report) -> Result<Vec<Clip>> {
        let reading = Reading { columns: &Columns::default(), reach, wanted: None, needs_words: true };
        Ok(read_clips(&[tree.path(table)], reading, report)?.clips)
    }

    fn read_with(tree: &Tree, table: &str, reach: Reach) -> (Vec<Clip>, Vec<String>) {
        let mut report = Report::new(false);
        let clips = try_read(tree, table, reach, &mut report).unwrap();
        (clips, report.skipped.iter().map(ToString::to_string).collect())
    }

    fn read(tree: &Tree, metadata: &str) -> (Vec<Clip>, Vec<String>) {
        read_with(tree, metadata, Reach::Folder)
    }

    #[test]
    fn csv_with_every_column() {
        let tree = Tree::new();
        tree.wav("a/one.wav", 10).wav("two.wav", 20);
        tree.write(
            "metadata.csv",
            "file_name,text,label,split,licence\na/one.wav,\"a dog, barking\",dog,train,CC0\ntwo.wav,rain,rain,valid,MIT\n",
        );
        let (clips, skipped) = read(&tree, "metadata.csv");
        assert_eq!(skipped, [] as [&str; 0]);
        assert_eq!(clips.len(), 2);
        let Clip { split, sample } = &clips[0];
        assert_eq!(split.as_deref(), Some("train"));
        assert_eq!(sample.id, "a/one.wav");
        assert_eq!(sample.captions, ["a dog, barking"]);
        assert_eq!(sample.labels, ["dog"]);
        assert_eq!(sample.meta, serde_json::json!({"file_name": "a/one.wav", "licence": "CC0"}));
        assert_eq!(sample.audio, AudioSource::File(tree.path("a/one.wav")));
    }

    #[test]
    fn lists_and_repeated_rows() {
        let tree = Tree::new();
        tree.wav("a.wav", 10).wav("b.wav", 10);
        tree.write(
            "metadata.csv",
            "file_name,captions,tags\na.wav,\"[\"\"x\"\", \"\"y\"\", \"\"x\"\"]\",dog; rain; dog\na.wav,z,dog\na.wav,z,dog\nb.wav,,wind\n",
        );
        let (clips, skipped) = read(&tree, "metadata.csv");
        assert_eq!(clips[0].sample.captions, ["x", "y", "z"]);
        assert_eq!(clips[0].sample.labels, ["dog", "rain"]);
        assert_eq!(clips[1].sample.captions, ["The sound of wind"]);
        assert_eq!(skipped.len(), 1);
        assert!(skipped[0].contains("metadata.csv:4") && skipped[0].contains("says the same"), "{skipped:?}");
    }

    #[test]
    fn jsonl_keeps_good_lines() {
        let tree = Tree::new();
        tree.wav("a.wav", 10);
        tree.write(
            "metadata.jsonl",
            "{\"file_name\": \"a.wav\", \"text\": [\"x\", \"y\"], \"year\": 3}\n\nnot json\n{\"text\": \"z\"}\n{\"file_name\": \"a.wav\", \"text\": 5}\n",
        );
        let (clips, skipped) = read(&tree, "metadata.jsonl");
        assert_eq!(clips.len(), 1);
        assert_eq!(clips[0].sample.captions, ["x", "y"]);
        assert_eq!(clips[0].sample.meta["year"], 3);
        assert_eq!(skipped.len(), 3, "{skipped:?}");
        assert!(skipped[1].contains("no file_name") && skipped[2].contains("`text`"), "{skipped:?}");
    }

    #[test]
    fn bad_rows_cost_themselves_only() {
        let tree = Tree::new();
        tree.wav("good.wav", 10).wav("../outside.wav", 10);
        let mut table =
            b"file_name,text\ngood.wav,fine\ngood.wav\nabsent.wav,x\n../outside.wav,x\n/etc/passwd,x\n".to_vec();
        table.extend(b"b.wav,\xff\n,x\ngood.wav,\n");
        tree.write("metadata.csv", table);
        let (clips, skipped) = read(&tree, "metadata.csv");
        assert_eq!(clips.len(), 1);
        let reasons = [
            "1 cells, the header has 2",
            "not UTF-8",
            "absent.wav",
            "../outside.wav: its name leads out",
            "/etc/passwd: its name leads out",
            "no file_name",
            "neither a caption nor a label",
        ];
        assert_eq!(skipped.len(), reasons.len(), "{skipped:?}");
        for reason in reasons {
            assert!(skipped.iter().any(|skipped| skipped.contains(reason)), "{reason} not in {skipped:?}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_out_of_the_folder_are_refused() {
        let tree = Tree::new();
        tree.wav("in.wav", 10).wav("../out/far.wav", 10);
        std::os::unix::fs::symlink(tree.path("../out"), tree.path("folder")).unwrap();
        std::os::unix::fs::symlink(tree.path("../out/far.wav"), tree.path("file.wav")).unwrap();
        std::os::unix::fs::symlink(tree.path("in.wav"), tree.path("near.wav")).unwrap();
        tree.write("metadata.csv", "file_name,text\nfolder/far.wav,x\nfile.wav,x\nnear.wav,x\n");
        let (clips, skipped) = read(&tree, "metadata.csv");
        assert_eq!(clips.len(), 1);
        assert_eq!(clips[0].sample.id, "near.wav");
        assert_eq!(skipped.len(), 2);
        assert!(skipped.iter().all(|skipped| skipped.contains("leads out")), "{skipped:?}");
    }

    #[test]
    fn strict_stops_at_the_first_bad_row() {
        let tree = Tree::new();
        tree.write("metadata.csv", "file_name,text\nabsent.wav,x\n");
        let error = try_read(&tree, "metadata.csv", Reach::Folder, &mut Report::new(true)).err().unwrap();
        assert!(matches!(error, Error::Strict { .. }), "{error}");
        assert!(error.to_string().contains("metadata.csv:2"), "{error}");
    }

    #[test]
    fn a_table_of_the_user_leads_anywhere() {
        let tree = Tree::new();
        tree.wav("near.wav", 10).wav("../out/far.wav", 10);
        let far = tree.path("../out/far.wav").display().to_string();
        let table = format!("filepath\ttitle\n{far}\tfar\n./near.wav\tnear\n../out/far.wav\tagain\nnear.wav\ttwice\n");
        tree.write("clips.csv", &table).write("metadata.csv", &table);
        let (clips, skipped) = read_with(&tree, "clips.csv", Reach::Anywhere);
        assert_eq!(skipped, [] as [&str; 0]);
        let ids: Vec<&str> = clips.iter().map(|clip| clip.sample.id.as_str()).collect();
        assert_eq!(ids, [&far, "./near.wav"], "one file by two names is one clip");
        assert_eq!(clips[0].sample.captions, ["far", "again"]);
        assert_eq!(clips[1].sample.captions, ["near", "twice"]);
        assert!(clips.iter().all(|clip| clip.sample.audio.load(8000).is_ok()));
        assert_eq!(read(&tree, "metadata.csv").1.len(), 2, "a folder keeps to itself");
    }

    #[test]
    fn several_columns_of_captions() {
        let tree = Tree::new();
        tree.wav("a.wav", 10).wav("b.wav", 10);
        let header = "file_name,caption_1,caption_2,caption_3\n";
        tree.write("clips.csv", format!("{header}a.wav,one,two,one\nb.wav,, ,three\na.wav,,four,\nb.wav,,,\n"));
        let (clips, skipped) = read_with(&tree, "clips.csv", Reach::Anywhere);
        assert_eq!(clips[0].sample.captions, ["one", "two", "four"]);
        assert_eq!(clips[1].sample.captions, ["three"]);
        assert_eq!(skipped.len(), 1);
        assert!(skipped[0].contains("clips.csv:5: b.wav: neither a caption nor a label"), "{skipped:?}");
    }

    #[test]
    fn sounds_as_objects() {
        let tree = Tree::new();
        tree.wav("a.wav", 10);
        tree.write("clips.jsonl", r#"{"audio": {"path": "a.wav", "bytes": null}, "text": "x", "label": 3}"#);
        let (clips, _) = read_with(&tree, "clips.jsonl", Reach::Anywhere);
        assert_eq!((clips[0].sample.id.as_str(), &clips[0].sample.labels[..]), ("a.wav", &["3".to_owned()][..]));
    }

    #[test]
    fn words_may_come_later() {
        let tree = Tree::new();
        tree.wav("a.wav", 10);
        tree.write("clips.csv", "file_name,text\na.wav,\n");
        let reading =
            Reading { columns: &Columns::default(), reach: Reach::Anywhere, wanted: None, needs_words: false };
        let mut report = Report::new(true);
        let found = read_clips(&[tree.path("clips.csv")], reading, &mut report).unwrap();
        assert_eq!(found.clips[0].sample.captions, [] as [&str; 0]);
    }
}
