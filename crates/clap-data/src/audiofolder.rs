//! Hugging Face's audiofolder: sound files and one `metadata.csv` or `metadata.jsonl` that names them.
//!
//! `file_name` is a path inside the folder. Captions come from the first of the columns `captions`, `caption`, `text`
//! that is there, labels from the first of `labels`, `label`, `tags`, `tag`; one of the two kinds is needed. A cell holds
//! one caption or label, or a JSON list of them; the cells of `labels` and `tags` may also be separated by `;`. An
//! optional `split` column divides the rows. Rows of the same file are captions of one clip. All other columns become
//! the sample's `meta`.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::sample::dedupe;
use crate::skipped::Report;
use crate::split_choice::takes;
use crate::webdataset::{check_relative, strings};
use crate::{AudioSource, Error, Result, Sample, caption};

const FILE_NAME: &str = "file_name";
const SPLIT: &str = "split";
const CAPTIONS: [&str; 3] = ["captions", "caption", "text"];
const LABELS: [&str; 4] = ["labels", "label", "tags", "tag"];

/// One clip and the split it belongs to.
pub(crate) struct Clip {
    pub(crate) split: Option<String>,
    pub(crate) sample: Sample,
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

/// All clips a metadata file names, in its order; where one split is wanted, faults of rows of another are not reported.
pub(crate) fn read_folder(metadata: &Path, wanted: Option<&str>, report: &mut Report) -> Result<Vec<Clip>> {
    let is_csv = metadata.extension().is_some_and(|extension| extension == "csv");
    let table = if is_csv { read_csv(metadata, report)? } else { read_jsonl(metadata, report)? };
    let columns = table.columns(metadata)?;
    let root = metadata.parent().unwrap_or(Path::new(""));
    let mut inside = Inside::new(root)?;
    let mut clips: Vec<Clip> = Vec::new();
    let mut by_file: HashMap<String, usize> = HashMap::new();
    let mut elsewhere = Report::new(false);
    for (line, row) in table.rows {
        let what = || format!("{}:{line}", metadata.display());
        let split = row.get(SPLIT).and_then(Value::as_str).map(str::trim).filter(|split| !split.is_empty());
        let is_wanted = split.is_none_or(|split| takes(wanted, split));
        let report = if is_wanted { &mut *report } else { &mut elsewhere };
        let clip = match columns.clip(row, root) {
            Ok(clip) => clip,
            Err(reason) => {
                report.skip(what(), reason)?;
                continue;
            }
        };
        if let Some(&first) = by_file.get(&clip.sample.id) {
            if let Err(reason) = merge(&mut clips[first], clip) {
                report.skip(what(), reason)?;
            }
            continue;
        }
        if let Err(reason) = inside.check(&clip.sample.id) {
            report.skip(what(), format!("{}: {reason}", clip.sample.id))?;
            continue;
        }
        by_file.insert(clip.sample.id.clone(), clips.len());
        clips.push(clip);
    }
    for clip in &mut clips {
        if clip.sample.captions.is_empty() {
            clip.sample.captions.push(caption::sound_of(&clip.sample.labels));
        }
    }
    Ok(clips)
}

/// Rows by line number, and every column name in order.
#[derive(Default)]
struct Table {
    names: Vec<String>,
    rows: Vec<(u64, Map<String, Value>)>,
}

/// Which column plays which part.
struct Columns {
    captions: Option<&'static str>,
    labels: Option<&'static str>,
}

impl Table {
    fn columns(&self, metadata: &Path) -> Result<Columns> {
        let has = |name: &str| self.names.iter().any(|found| found == name);
        let first = |choice: &[&'static str]| choice.iter().copied().find(|name| has(name));
        let missing = |wanted| Error::MissingColumn { path: metadata.to_owned(), wanted, found: self.names.clone() };
        if !has(FILE_NAME) {
            return Err(missing("`file_name`"));
        }
        let columns = Columns { captions: first(&CAPTIONS), labels: first(&LABELS) };
        if columns.captions.is_none() && columns.labels.is_none() {
            return Err(missing("`text`, `caption`, `captions`, `label`, `labels`, `tag` or `tags` (one of them)"));
        }
        Ok(columns)
    }
}

impl Columns {
    fn clip(&self, mut row: Map<String, Value>, root: &Path) -> std::result::Result<Clip, String> {
        let file_name = match row.get(FILE_NAME) {
            Some(Value::String(name)) if !name.trim().is_empty() => name.clone(),
            _ => return Err("no file_name in this row".to_owned()),
        };
        let mut take = |column: Option<&'static str>| match column {
            Some(name) => texts(name, row.shift_remove(name)),
            None => Ok(Vec::new()),
        };
        let (mut captions, mut labels) = (take(self.captions)?, take(self.labels)?);
        dedupe(&mut captions);
        dedupe(&mut labels);
        if captions.is_empty() && labels.is_empty() {
            return Err(format!("{file_name}: neither a caption nor a label in this row"));
        }
        let split = match row.shift_remove(SPLIT) {
            None | Some(Value::Null) => None,
            Some(Value::String(split)) => Some(split.trim().to_owned()).filter(|split| !split.is_empty()),
            Some(other) => return Err(format!("{file_name}: the split `{other}` is no text")),
        };
        Ok(Clip {
            split,
            sample: Sample {
                audio: AudioSource::File(root.join(&file_name)),
                id: file_name,
                captions,
                labels,
                meta: Value::Object(row),
            },
        })
    }
}

/// The texts of a cell: a JSON list, several separated by `;` in the plural label columns, else the cell as it is.
fn texts(column: &str, cell: Option<Value>) -> std::result::Result<Vec<String>, String> {
    let Some(Value::String(text)) = &cell else {
        return strings(column, cell.as_ref());
    };
    let text = text.trim();
    if text.starts_with('[')
        && let Ok(list @ Value::Array(_)) = serde_json::from_str(text)
    {
        return strings(column, Some(&list));
    }
    let parts: Vec<&str> = if matches!(column, "labels" | "tags") { text.split(';').collect() } else { vec![text] };
    Ok(parts.into_iter().map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect())
}

/// Adds a row's words to the clip that an earlier row of the same file made.
fn merge(first: &mut Clip, again: Clip) -> std::result::Result<(), String> {
    let id = &first.sample.id;
    if first.split != again.split {
        return Err(format!("{id}: an earlier row puts it into another split; that one is kept"));
    }
    let mut added = false;
    let Sample { captions, labels, .. } = again.sample;
    for (texts, mine) in [(captions, &mut first.sample.captions), (labels, &mut first.sample.labels)] {
        let before = mine.len();
        mine.extend(texts);
        dedupe(mine);
        added |= mine.len() > before;
    }
    if added { Ok(()) } else { Err(format!("{id}: an earlier row says the same")) }
}

/// Keeps every file inside the folder, symbolic links included.
struct Inside {
    root: PathBuf,
    /// The given root, for joining: messages should show the path the user typed.
    shown: PathBuf,
    /// Whether a folder's real place is inside; most rows share a few folders.
    folders: HashMap<PathBuf, bool>,
}

impl Inside {
    fn new(root: &Path) -> Result<Self> {
        let shown = if root.as_os_str().is_empty() { Path::new(".") } else { root };
        Ok(Self {
            root: fs::canonicalize(shown).map_err(|cause| Error::io(shown, cause))?,
            shown: shown.to_owned(),
            folders: HashMap::new(),
        })
    }

    fn check(&mut self, file_name: &str) -> std::result::Result<(), String> {
        const OUTSIDE: &str = "a link leads out of the data set's folder";
        check_relative(Path::new(file_name))?;
        let path = self.shown.join(file_name);
        let metadata = fs::symlink_metadata(&path).map_err(|error| error.to_string())?;
        if metadata.is_symlink() {
            let real = fs::canonicalize(&path).map_err(|error| error.to_string())?;
            if !real.starts_with(&self.root) {
                return Err(OUTSIDE.to_owned());
            }
            return if real.is_file() { Ok(()) } else { Err("not a file".to_owned()) };
        }
        if !metadata.is_file() {
            return Err("not a file".to_owned());
        }
        let folder = path.parent().unwrap_or(&self.shown);
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

fn read_csv(path: &Path, report: &mut Report) -> Result<Table> {
    let file = File::open(path).map_err(|cause| Error::io(path, cause))?;
    // Flexible, so that a ragged row costs itself only.
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(BufReader::new(file));
    let unreadable = |error: csv::Error| Error::io(path, std::io::Error::other(error));
    let names: Vec<String> = reader.headers().map_err(unreadable)?.iter().map(|name| name.trim().to_owned()).collect();
    let mut rows = Vec::new();
    let mut record = csv::ByteRecord::new();
    while reader.read_byte_record(&mut record).map_err(unreadable)? {
        let line = record.position().map_or(0, csv::Position::line);
        let what = || format!("{}:{line}", path.display());
        if record.len() != names.len() {
            let reason = format!("{} cells, the header has {}; quote cells with commas", record.len(), names.len());
            report.skip(what(), reason)?;
            continue;
        }
        let cells: std::result::Result<Vec<&str>, _> = record.iter().map(std::str::from_utf8).collect();
        match cells {
            Ok(cells) => {
                let cells = cells.into_iter().map(|cell| Value::String(cell.to_owned()));
                rows.push((line, names.iter().cloned().zip(cells).collect()));
            }
            Err(_) => report.skip(what(), "not UTF-8")?,
        }
    }
    Ok(Table { names, rows })
}

fn read_jsonl(path: &Path, report: &mut Report) -> Result<Table> {
    let file = File::open(path).map_err(|cause| Error::io(path, cause))?;
    let mut table = Table::default();
    for (number, line) in (1..).zip(BufReader::new(file).split(b'\n')) {
        let line = line.map_err(|cause| Error::io(path, cause))?;
        if line.trim_ascii().is_empty() {
            continue;
        }
        match serde_json::from_slice::<Map<String, Value>>(&line) {
            Ok(row) => {
                for name in row.keys() {
                    if !table.names.contains(name) {
                        table.names.push(name.clone());
                    }
                }
                table.rows.push((number, row));
            }
            Err(error) => report.skip(format!("{}:{number}", path.display()), error)?,
        }
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_tree::Tree;

    fn read(tree: &Tree, metadata: &str) -> (Vec<Clip>, Vec<String>) {
        let mut report = Report::new(false);
        let clips = read_folder(&tree.path(metadata), None, &mut report).unwrap();
        (clips, report.skipped.iter().map(ToString::to_string).collect())
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
    fn missing_columns_are_named() {
        let tree = Tree::new();
        for (table, wanted) in
            [("file,text\na,b\n", "`file_name`"), ("file_name,words\na,b\n", "`label`"), ("", "`file_name`")]
        {
            tree.write("metadata.csv", table);
            let error =
                read_folder(&tree.path("metadata.csv"), None, &mut Report::new(false)).err().unwrap().to_string();
            assert!(error.contains(wanted) && error.contains("metadata.csv"), "{error}");
        }
    }

    #[test]
    fn strict_stops_at_the_first_bad_row() {
        let tree = Tree::new();
        tree.write("metadata.csv", "file_name,text\nabsent.wav,x\n");
        let error = read_folder(&tree.path("metadata.csv"), None, &mut Report::new(true)).err().unwrap();
        assert!(matches!(error, Error::Strict { .. }), "{error}");
        assert!(error.to_string().contains("metadata.csv:2"), "{error}");
    }
}
