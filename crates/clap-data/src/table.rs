//! The rows of a table: CSV, TSV and other separated values, JSON Lines; Parquet by the module of that name.
//!
//! A row that cannot be read costs itself and is reported by its line. Text is UTF-8, with or without a byte order mark,
//! with line ends of either kind. One row is bounded, so that a quote that is never closed does not read the rest of a
//! large file into one cell.

use std::cell::Cell;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::skipped::Report;
use crate::{AudioSource, Columns, Error, Result};

/// The most bytes of one row.
const MAX_ROW: u64 = 16 << 20;

const UTF_8_MARK: &[u8] = b"\xef\xbb\xbf";

/// How a table is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Cells between commas, tabs or another character, a header first.
    Separated,
    /// A JSON object a line.
    JsonLines,
    /// Columns in binary, sounds possibly among them.
    Parquet,
}

impl Format {
    /// By the extension of a file.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "csv" | "tsv" | "tab" => Some(Self::Separated),
            "jsonl" | "ndjson" => Some(Self::JsonLines),
            "parquet" => Some(Self::Parquet),
            _ => None,
        }
    }
}

/// A table in memory, without the sounds that it may hold.
pub(crate) struct Table {
    pub(crate) path: PathBuf,
    format: Format,
    /// Every column in the order of the file, also those of which no cells are read.
    pub(crate) names: Vec<String>,
    pub(crate) rows: Vec<Row>,
    /// The column whose cells are the sounds themselves.
    pub(crate) sounds: Option<String>,
    /// Columns with classes of a fixed order, and their names in it.
    pub(crate) classes: Vec<(String, Vec<String>)>,
}

/// One row.
pub(crate) struct Row {
    /// Its line in a text, its place from 0 in Parquet.
    pub(crate) number: u64,
    /// Its cells by column.
    pub(crate) cells: Map<String, Value>,
    /// The sound inside it.
    pub(crate) sound: Option<AudioSource>,
}

impl Table {
    /// Reads a whole table. A file whose extension says nothing is taken for separated values.
    pub(crate) fn read(path: &Path, columns: &Columns, report: &mut Report) -> Result<Self> {
        match Format::of(path).unwrap_or(Format::Separated) {
            Format::Separated => read_separated(path, columns.separator, report),
            Format::JsonLines => read_json_lines(path, report),
            #[cfg(feature = "parquet")]
            Format::Parquet => crate::parquet_table::read_table(path, columns.audio.as_deref(), report),
            #[cfg(not(feature = "parquet"))]
            Format::Parquet => Err(Error::NeedsFeature { path: path.to_owned(), feature: "parquet" }),
        }
    }

    pub(crate) fn new(path: &Path, format: Format) -> Self {
        Self { path: path.to_owned(), format, names: Vec::new(), rows: Vec::new(), sounds: None, classes: Vec::new() }
    }

    /// Where a row is, as a person would look for it.
    pub(crate) fn place(&self, number: u64) -> String {
        let between = if self.format == Format::Parquet { " row " } else { ":" };
        format!("{}{between}{number}", self.path.display())
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.names.iter().any(|found| found == name)
    }

    /// Refuses a column whose name stands in the header twice: nobody knows which is meant.
    pub(crate) fn check_single(&self, name: &str) -> Result<()> {
        match self.names.iter().filter(|found| *found == name).count() {
            0 | 1 => Ok(()),
            count => Err(Error::Table {
                path: self.path.clone(),
                reason: format!("the header has the column `{name}` {count} times"),
            }),
        }
    }

    fn push(&mut self, number: u64, cells: Map<String, Value>) {
        self.rows.push(Row { number, cells, sound: None });
    }
}

/// A file of which no more is read than was allowed beforehand.
struct Bounded {
    file: File,
    left: Cell<u64>,
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.left.get();
        if left == 0 && !buffer.is_empty() {
            return Err(io::Error::other(format!("a row of more than {MAX_ROW} bytes")));
        }
        let count = usize::try_from(left).map_or(buffer.len(), |left| buffer.len().min(left));
        let count = self.file.read(&mut buffer[..count])?;
        self.left.set(left - count as u64);
        Ok(count)
    }
}

fn read_separated(path: &Path, separator: Option<u8>, report: &mut Report) -> Result<Table> {
    let file = File::open(path).map_err(|cause| Error::io(path, cause))?;
    let mut input = BufReader::new(Bounded { file, left: Cell::new(MAX_ROW) });
    let head = input.fill_buf().map_err(|cause| Error::io(path, cause))?;
    check_encoding(path, head)?;
    let separator = separator.unwrap_or_else(|| likely_separator(path, head));
    // Flexible, so that a ragged row costs itself only.
    let mut reader = csv::ReaderBuilder::new().flexible(true).delimiter(separator).from_reader(input);
    let unreadable = |error: csv::Error| Error::io(path, io::Error::other(error));
    let mut table = Table::new(path, Format::Separated);
    for name in reader.byte_headers().map_err(unreadable)? {
        let name = std::str::from_utf8(name).map_err(|_| Error::Table {
            path: path.to_owned(),
            reason: "line 1, the header, is not UTF-8; save the table as UTF-8".to_owned(),
        })?;
        table.names.push(name.trim().to_owned());
    }
    let mut record = csv::ByteRecord::new();
    loop {
        reader.get_ref().get_ref().left.set(MAX_ROW);
        match reader.read_byte_record(&mut record) {
            Ok(true) => {}
            Ok(false) => break,
            Err(_) if reader.get_ref().get_ref().left.get() == 0 => {
                let reason = format!(
                    "a row of more than {MAX_ROW} bytes, perhaps a quote that is never closed; the rest of the file is not read"
                );
                report.skip(table.place(reader.position().line()), reason)?;
                break;
            }
            Err(error) => return Err(unreadable(error)),
        }
        let line = record.position().map_or(0, csv::Position::line);
        if record.len() != table.names.len() {
            let reason = format!(
                "{} cells, the header has {}; quote cells that hold the separator",
                record.len(),
                table.names.len()
            );
            report.skip(table.place(line), reason)?;
            continue;
        }
        let cells: std::result::Result<Vec<&str>, _> = record.iter().map(std::str::from_utf8).collect();
        match cells {
            Ok(cells) => {
                let cells = table.names.iter().cloned().zip(cells.into_iter().map(Value::from));
                // A column without a name is the row numbers of pandas.
                table.push(line, cells.filter(|(name, _)| !name.is_empty()).collect());
            }
            Err(_) => report.skip(table.place(line), "not UTF-8")?,
        }
    }
    Ok(table)
}

/// Excel's "Unicode text" is UTF-16.
fn check_encoding(path: &Path, head: &[u8]) -> Result<()> {
    if head.starts_with(b"\xff\xfe") || head.starts_with(b"\xfe\xff") {
        let reason = "the text is UTF-16; save the table as UTF-8".to_owned();
        return Err(Error::Table { path: path.to_owned(), reason });
    }
    Ok(())
}

/// The separator of a table whose user did not name one: a tab by the extension, else the first of comma, tab and
/// semicolon that the header has. open_clip's tables are separated by tabs under the extension `.csv`, and spreadsheets
/// write semicolons where the comma belongs to the numbers.
fn likely_separator(path: &Path, head: &[u8]) -> u8 {
    if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("tsv") || extension == "tab") {
        return b'\t';
    }
    let header = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let found = [b',', b'\t', b';'].into_iter().find(|separator| header.contains(separator));
    found.unwrap_or(b',')
}

fn read_json_lines(path: &Path, report: &mut Report) -> Result<Table> {
    let file = File::open(path).map_err(|cause| Error::io(path, cause))?;
    let mut input = BufReader::new(file);
    let mut table = Table::new(path, Format::JsonLines);
    let mut known = HashSet::new();
    let mut line = Vec::new();
    for number in 1.. {
        let is_whole = next_line(&mut input, &mut line).map_err(|cause| Error::io(path, cause))?;
        if line.is_empty() {
            break;
        }
        if number == 1 {
            check_encoding(path, &line)?;
        }
        let text = match number {
            1 => line.strip_prefix(UTF_8_MARK).unwrap_or(&line),
            _ => &line,
        };
        let row = match std::str::from_utf8(text).map(str::trim) {
            _ if !is_whole => Err(format!("a line of more than {MAX_ROW} bytes")),
            Err(_) => Err("not UTF-8".to_owned()),
            Ok("") => continue,
            Ok(text) => serde_json::from_str::<Map<String, Value>>(text).map_err(|error| {
                // A line is a text of its own to the parser.
                format!("not a JSON object: {error}").replace(" at line 1 column ", ", column ")
            }),
        };
        match row {
            Ok(row) => {
                for name in row.keys().filter(|name| !known.contains(*name)).cloned().collect::<Vec<_>>() {
                    table.names.push(name.clone());
                    known.insert(name);
                }
                table.push(number, row);
            }
            Err(reason) => report.skip(table.place(number), reason)?,
        }
    }
    Ok(table)
}

/// The next line with its end, nothing at the end of the file; whether it was no longer than a row may be. What is longer
/// is passed over.
fn next_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    input.by_ref().take(MAX_ROW).read_until(b'\n', line)?;
    if (line.len() as u64) < MAX_ROW || line.ends_with(b"\n") {
        return Ok(true);
    }
    loop {
        let mut rest = Vec::new();
        let passed = input.by_ref().take(MAX_ROW).read_until(b'\n', &mut rest)?;
        if passed == 0 || rest.ends_with(b"\n") {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_tree::Tree;

    fn read(tree: &Tree, name: &str) -> (Table, Vec<String>) {
        let mut report = Report::new(false);
        let table = Table::read(&tree.path(name), &Columns::default(), &mut report).unwrap();
        (table, report.skipped.iter().map(ToString::to_string).collect())
    }

    /// The rows as JSON, and what was left out.
    fn check(name: &str, text: impl AsRef<[u8]>, rows: Value, left_out: &[&str]) {
        let tree = Tree::new();
        tree.write(name, text);
        let (table, skipped) = read(&tree, name);
        let found: Vec<Value> = table.rows.into_iter().map(|row| Value::Object(row.cells)).collect();
        assert_eq!(Value::from(found), rows, "{name}");
        assert_eq!(skipped.len(), left_out.len(), "{skipped:?}");
        for (skipped, words) in skipped.iter().zip(left_out) {
            assert!(skipped.contains(words), "{words} not in {skipped}");
        }
    }

    #[test]
    fn the_separator_is_found() {
        let rows = || serde_json::json!([{"a": "1", "b": "2"}]);
        for (name, text) in
            [("t.csv", "a,b\n1,2\n"), ("t.csv", "a\tb\n1\t2\n"), ("t.csv", "a;b\n1;2"), ("t.TSV", "a\tb\n1\t2\n")]
        {
            check(name, text, rows(), &[]);
        }
        check("t.tsv", "a,b\tc\n1,1\t2\n", serde_json::json!([{"a,b": "1,1", "c": "2"}]), &[]);
    }

    #[test]
    fn marks_line_ends_and_quotes() {
        let rows = || serde_json::json!([{"a": "1\r\n\"one\"", "b": "x, y"}, {"a": "2", "b": ""}]);
        let text = "\u{feff}a,b\r\n\"1\r\n\"\"one\"\"\",\"x, y\"\r\n2,\r\n";
        check("t.csv", text, rows(), &[]);
        check("t.jsonl", "\u{feff}{\"a\": 1}\r\n\r\n{\"b\": 2}", serde_json::json!([{"a": 1}, {"b": 2}]), &[]);
        check("t.csv", ",a\n0,x\n1,y\n", serde_json::json!([{"a": "x"}, {"a": "y"}]), &[]);
    }

    #[test]
    fn a_bad_row_is_named_by_its_line() {
        let mut text = b"a,b\n\"1\n1\",2\n3\n4,5,6\n".to_vec();
        text.extend(b"\xff,7\n8,9\n");
        check(
            "t.csv",
            text,
            serde_json::json!([{"a": "1\n1", "b": "2"}, {"a": "8", "b": "9"}]),
            &["t.csv:4: 1 cells, the header has 2", "t.csv:5: 3 cells", "t.csv:6: not UTF-8"],
        );
        let mut text = b"{\"a\": 1}\n[2]\n{\"a\": \n".to_vec();
        text.extend(b"{\"a\": \"\xe9\"}\n");
        check(
            "t.jsonl",
            text,
            serde_json::json!([{"a": 1}]),
            &["t.jsonl:2: not a JSON object", "t.jsonl:3: not a JSON object", "t.jsonl:4: not UTF-8"],
        );
        let nested = format!("{}\n{{\"a\": 1}}\n", "[".repeat(100_000));
        check("t.jsonl", nested, serde_json::json!([{"a": 1}]), &["t.jsonl:1: not a JSON object"]);
    }

    #[test]
    fn a_row_is_bounded() {
        let long = "x".repeat(MAX_ROW as usize + 100_000); // and what is read ahead
        let text = format!("a,b\n1,2\n\"{long},\n3,4\n");
        check(
            "t.csv",
            text,
            serde_json::json!([{"a": "1", "b": "2"}]),
            &["t.csv:3: a row of more than 16777216 bytes"],
        );
        let text = format!("{{\"a\": 1}}\n{{\"a\": \"{long}\"}}\n{{\"a\": 2}}\n");
        check(
            "t.jsonl",
            text,
            serde_json::json!([{"a": 1}, {"a": 2}]),
            &["t.jsonl:2: a line of more than 16777216 bytes"],
        );
    }

    #[test]
    fn other_encodings_are_named() {
        let tree = Tree::new();
        for (bytes, word) in [(&b"\xff\xfea\0,\0b\0"[..], "UTF-16"), (b"f\xe9,b\n1,2\n", "line 1")] {
            tree.write("t.csv", bytes);
            let read = Table::read(&tree.path("t.csv"), &Columns::default(), &mut Report::new(false));
            let error = read.err().unwrap().to_string();
            assert!(error.contains("t.csv") && error.contains(word), "{error}");
        }
    }

    #[test]
    fn columns_are_listed_in_order_and_once() {
        let tree = Tree::new();
        tree.write("t.jsonl", "{\"b\": 1}\n{\"a\": 1, \"b\": 2}\n");
        assert_eq!(read(&tree, "t.jsonl").0.names, ["b", "a"]);
        tree.write("t.csv", "a,b,a\n");
        let table = read(&tree, "t.csv").0;
        assert!(table.check_single("b").is_ok());
        assert!(table.check_single("a").unwrap_err().to_string().contains("`a` 2 times"));
    }

    #[cfg(not(feature = "parquet"))]
    #[test]
    fn parquet_names_its_feature() {
        let tree = Tree::new();
        tree.write("t.parquet", "PAR1");
        let read = Table::read(&tree.path("t.parquet"), &Columns::default(), &mut Report::new(false));
        let error = read.err().unwrap().to_string();
        assert!(error.contains("t.parquet") && error.contains("--features parquet"), "{error}");
    }
}
