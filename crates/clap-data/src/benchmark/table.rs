//! Layouts whose clips are rows of CSV files: ESC-50, UrbanSound8K, FSD50K, VGGSound, AudioCaps, Clotho and AudioSet.
//!
//! A row names a file by a [`Pattern`] of its columns. Rows that name the same clip are captions of one clip.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::audio_index::AudioIndex;
use super::recipe::Table;
use super::{Benchmark, BenchmarkSplit, Tally, unreadable};
use crate::sample::dedupe;
use crate::skipped::Report;
use crate::{AudioSource, Error, Result, Sample, caption};

/// A file name with columns in it: `{youtube_id}_{start:06}`.
///
/// `{column}` is a cell as it is; `{column:s}` its whole seconds, `{column:06}` the same in six digits, `{column:ms}` its
/// milliseconds.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Pattern {
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone)]
enum Piece {
    Text(String),
    Column { name: String, form: Form },
}

#[derive(Debug, Clone, Copy)]
enum Form {
    AsIs,
    Seconds,
    SixDigits,
    Milliseconds,
}

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        let mut pieces = Vec::new();
        let mut rest = text.as_str();
        while let Some((before, after)) = rest.split_once('{') {
            let (inside, tail) = after.split_once('}').ok_or_else(|| format!("`{text}`: a brace is not closed"))?;
            let (name, form) = match inside.split_once(':') {
                None => (inside, Form::AsIs),
                Some((name, "s")) => (name, Form::Seconds),
                Some((name, "06")) => (name, Form::SixDigits),
                Some((name, "ms")) => (name, Form::Milliseconds),
                Some((_, form)) => return Err(format!("`{text}`: no form is called `{form}`")),
            };
            pieces.push(Piece::Text(before.to_owned()));
            pieces.push(Piece::Column { name: name.to_owned(), form });
            rest = tail;
        }
        pieces.push(Piece::Text(rest.to_owned()));
        Ok(Self { pieces })
    }
}

impl Pattern {
    /// The name for a row; `None` where a column is absent, or no number where one is needed.
    fn fill(&self, row: &Row<'_>) -> Option<String> {
        let mut filled = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => filled += text,
                Piece::Column { name, form } => {
                    let cell = row.get(name)?;
                    let number = || cell.parse::<f64>().ok().filter(|number| (0.0..1e9).contains(number));
                    match form {
                        Form::AsIs => filled += cell,
                        Form::Seconds => filled += &format!("{:.0}", number()?.floor()),
                        Form::SixDigits => filled += &format!("{:06.0}", number()?.floor()),
                        Form::Milliseconds => filled += &format!("{:.0}", number()? * 1000.0),
                    }
                }
            }
        }
        Some(filled)
    }

    fn columns(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Text(_) => None,
            Piece::Column { name, .. } => Some(name.as_str()),
        })
    }
}

/// One row by column.
struct Row<'a> {
    columns: &'a HashMap<String, usize>,
    cells: &'a csv::StringRecord,
}

impl<'a> Row<'a> {
    fn get(&self, column: &str) -> Option<&'a str> {
        self.cells.get(*self.columns.get(column)?).map(str::trim)
    }
}

/// Takes out the blank after a comma: AudioSet's tables have one in front of the quotes of a cell, where CSV knows no
/// quotes. No cell of theirs has a comma and a blank of its own.
struct Unspaced<R> {
    inner: R,
    after_comma: bool,
}

impl<R: Read> Read for Unspaced<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            let count = self.inner.read(buffer)?;
            let mut kept = 0;
            for at in 0..count {
                let byte = buffer[at];
                if !(self.after_comma && byte == b' ') {
                    buffer[kept] = byte;
                    kept += 1;
                }
                self.after_comma = byte == b',';
            }
            // Nothing left of something read is not the end.
            if kept > 0 || count == 0 {
                return Ok(kept);
            }
        }
    }
}

/// An open table and its columns.
struct Rows {
    reader: csv::Reader<Box<dyn Read>>,
    columns: HashMap<String, usize>,
    /// Whether the first line named them.
    has_header: bool,
}

impl Table {
    fn open(&self, path: &Path) -> Result<Rows> {
        let file = BufReader::new(File::open(path).map_err(|cause| Error::io(path, cause))?);
        let file: Box<dyn Read> =
            if self.spaced { Box::new(Unspaced { inner: file, after_comma: false }) } else { Box::new(file) };
        let has_header = self.columns.is_empty();
        // Flexible, so that a ragged row costs itself only.
        let mut reader = csv::ReaderBuilder::new()
            .flexible(true)
            .has_headers(has_header)
            .comment(self.comment.and_then(|mark| u8::try_from(mark).ok()))
            .from_reader(file);
        let names = if has_header {
            let header = reader.byte_headers().map_err(|error| unreadable(path, error))?;
            // The first name may have a byte order mark in front.
            header.iter().map(|name| String::from_utf8_lossy(name).trim_matches(['\u{feff}', ' ']).to_owned()).collect()
        } else {
            self.columns.clone()
        };
        Ok(Rows { reader, columns: names.into_iter().zip(0..).collect(), has_header })
    }

    /// Whether there is a table at `path` with the columns a split needs.
    pub(super) fn fits(&self, path: &Path, split: &BenchmarkSplit) -> Result<bool> {
        if !path.is_file() {
            return Ok(false);
        }
        let mut rows = match self.open(path) {
            Ok(rows) => rows,
            Err(Error::Io { cause, .. }) if cause.kind() == ErrorKind::Other => return Ok(false),
            Err(error) => return Err(error),
        };
        if !rows.has_header {
            let mut first = csv::ByteRecord::new();
            return Ok(
                matches!(rows.reader.read_byte_record(&mut first), Ok(true)) && first.len() == self.columns.len()
            );
        }
        let named = self.label.iter().chain(&self.captions).chain(split.rows.keys()).map(String::as_str);
        let folders = split.folders.iter().chain(self.files.first()).flat_map(Pattern::columns);
        let mut needed = named.chain(folders);
        Ok(needed.all(|column| rows.columns.contains_key(column)))
    }

    fn captions_of(&self, row: &Row<'_>) -> Vec<String> {
        let cells = self.captions.iter().filter_map(|column| row.get(column));
        cells.filter(|caption| !caption.is_empty()).map(str::to_owned).collect()
    }

    fn labels_of<'a>(&self, row: &Row<'a>) -> impl Iterator<Item = &'a str> {
        let cell = self.label.as_ref().and_then(|column| row.get(column)).unwrap_or_default();
        // Without a separator the cell is one label, commas and all.
        let parts: Vec<&str> = match self.separator {
            Some(separator) => cell.split(separator).collect(),
            None => vec![cell],
        };
        parts.into_iter().map(str::trim).filter(|label| !label.is_empty())
    }

    /// The columns that are neither captions nor labels.
    fn meta_of(&self, row: &Row<'_>) -> Value {
        let is_words = |name: &String| self.captions.contains(name) || self.label.as_ref() == Some(name);
        let mut named: Vec<(&String, usize)> = row.columns.iter().map(|(name, at)| (name, *at)).collect();
        named.sort_unstable_by_key(|(_, at)| *at);
        let cells = named.into_iter().filter(|(name, _)| !is_words(name));
        let cells = cells.filter_map(|(name, _)| Some((name.clone(), Value::from(row.get(name)?))));
        Value::Object(cells.collect::<Map<_, _>>())
    }
}

/// The clips of the chosen splits, in the order of the tables.
pub(super) fn read(
    benchmark: &Benchmark,
    table: &Table,
    folder: &Path,
    chosen: &[&BenchmarkSplit],
    wanted: Option<&str>,
    report: &mut Report,
) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    if chosen.is_empty() {
        return Ok(samples);
    }
    let index = AudioIndex::scan(folder)?;
    // Folds are parts of one table; read one after another, they would be read as many times.
    let groups: Vec<&[&BenchmarkSplit]> = if benchmark.has_folds() { vec![chosen] } else { chosen.chunks(1).collect() };
    for splits in groups {
        let Some(path) = benchmark.table_of(folder, splits[0])? else { continue };
        let what = match splits {
            [split] => split.name.as_str(),
            _ => wanted.unwrap_or_default(),
        };
        let mut clips = Clips { benchmark, table, index: &index, samples: Vec::new(), by_id: HashMap::new() };
        let tally = clips.read(&path, splits, report)?;
        let official = splits.iter().map(|split| split.clips).sum();
        tally.report(benchmark, what, official, report)?;
        samples.append(&mut clips.samples);
    }
    Ok(samples)
}

/// The clips of one table while it is read.
struct Clips<'a> {
    benchmark: &'a Benchmark,
    table: &'a Table,
    index: &'a AudioIndex,
    samples: Vec<Sample>,
    /// Where a clip is among the samples; `None` for one without a sound, so that it is counted once.
    by_id: HashMap<String, Option<usize>>,
}

impl Clips<'_> {
    fn read(&mut self, path: &Path, splits: &[&BenchmarkSplit], report: &mut Report) -> Result<Tally> {
        let mut tally = Tally::default();
        let mut rows = self.table.open(path)?;
        let width = if rows.has_header { rows.columns.len() } else { self.table.columns.len() };
        let mut record = csv::ByteRecord::new();
        while rows.reader.read_byte_record(&mut record).map_err(|error| unreadable(path, error))? {
            let line = record.position().map_or(0, csv::Position::line);
            let what = || format!("{}:{line}", path.display());
            if record.len() != width {
                report.skip(what(), format!("{} cells, where {width} belong", record.len()))?;
                continue;
            }
            let Ok(cells) = csv::StringRecord::from_byte_record(record.clone()) else {
                report.skip(what(), "not UTF-8")?;
                continue;
            };
            let row = Row { columns: &rows.columns, cells: &cells };
            let belongs =
                |split: &&&BenchmarkSplit| split.rows.iter().all(|(key, value)| row.get(key) == Some(value.as_str()));
            if let Some(split) = splits.iter().find(belongs) {
                self.add(&row, split, &mut tally);
            }
        }
        for sample in &mut self.samples {
            dedupe(&mut sample.captions);
            dedupe(&mut sample.labels);
            if sample.captions.is_empty() {
                let labels: Vec<String> = sample.labels.iter().map(|label| self.benchmark.phrase(label)).collect();
                sample.captions.push(caption::sound_of(&labels));
            }
        }
        tally.clips = self.samples.len();
        Ok(tally)
    }

    fn add(&mut self, row: &Row<'_>, split: &BenchmarkSplit, tally: &mut Tally) {
        let mut names = self.table.files.iter().filter_map(|pattern| pattern.fill(row)).peekable();
        let Some(id) = names.peek().cloned() else {
            return tally.absent("a row that names no file");
        };
        let captions = self.table.captions_of(row);
        let (labels, unknown) = self.benchmark.class_names(self.table.labels_of(row));
        match self.by_id.get(&id) {
            // Captions of one clip may each have a row. Its classes are said once for all.
            Some(&Some(at)) => self.samples[at].captions.extend(captions),
            Some(None) => {}
            None => {
                unknown.iter().for_each(|label| tally.unknown(label));
                let folders: Vec<String> = split.folders.iter().filter_map(|pattern| pattern.fill(row)).collect();
                let found = names.find_map(|name| self.index.find(&name, &folders));
                let has_words = !(captions.is_empty() && labels.is_empty());
                let at = found.filter(|_| has_words).map(|path| {
                    let meta = self.table.meta_of(row);
                    self.samples.push(Sample {
                        id: id.clone(),
                        audio: AudioSource::File(path),
                        captions,
                        labels,
                        meta,
                    });
                    self.samples.len() - 1
                });
                match at {
                    None if has_words => tally.absent(&id),
                    None => tally.mute += 1,
                    Some(_) => {}
                }
                self.by_id.insert(id, at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(pattern: &str, cells: &[(&str, &str)]) -> Option<String> {
        let columns = cells.iter().map(|(name, _)| (*name).to_owned()).zip(0..).collect();
        let record = csv::StringRecord::from(cells.iter().map(|(_, cell)| *cell).collect::<Vec<_>>());
        Pattern::try_from(pattern.to_owned()).unwrap().fill(&Row { columns: &columns, cells: &record })
    }

    #[test]
    fn patterns_name_files() {
        let row = [("id", "-a_b"), ("start", "30.500"), ("name", " x.wav ")];
        for (pattern, name) in [
            ("{id}", "-a_b"),
            ("Y{id}", "Y-a_b"),
            ("{name}", "x.wav"),
            ("{id}_{start}", "-a_b_30.500"),
            ("{id}_{start:s}", "-a_b_30"),
            ("{id}_{start:06}", "-a_b_000030"),
            ("{id}_{start:ms}", "-a_b_30500"),
            ("plain", "plain"),
        ] {
            assert_eq!(fill(pattern, &row).as_deref(), Some(name), "{pattern}");
        }
        for pattern in ["{other}", "{id:s}", "{name:06}"] {
            assert_eq!(fill(pattern, &row), None, "{pattern}");
        }
        for pattern in ["{id", "{id:x}"] {
            assert!(Pattern::try_from(pattern.to_owned()).is_err(), "{pattern}");
        }
    }

    #[test]
    fn blanks_after_commas_go() {
        let text = "a, 1.0, \"/m/1,/m/2\"\nb c,2.0,,  x\n";
        for step in [1, 2, 100] {
            // A reader that gives few bytes at a time.
            let mut unspaced = Unspaced { inner: text.as_bytes(), after_comma: false };
            let mut out = Vec::new();
            let mut buffer = vec![0; step];
            loop {
                let count = unspaced.read(&mut buffer).unwrap();
                if count == 0 {
                    break;
                }
                out.extend_from_slice(&buffer[..count]);
            }
            assert_eq!(String::from_utf8(out).unwrap(), "a,1.0,\"/m/1,/m/2\"\nb c,2.0,, x\n", "{step}");
        }
    }
}
