//! Which column of a table plays which part.

use serde_json::{Map, Value};

use crate::members::strings;
use crate::table::{Row, Table};
use crate::{Error, Result};

/// Names of the column that says where a sound is: Hugging Face's audiofolder, open_clip's tables, manifests of speech
/// recognisers, and what people write.
pub(crate) const AUDIO: [&str; 10] = [
    "file_name",
    "filepath",
    "file_path",
    "filename",
    "path",
    "audio",
    "audio_path",
    "audio_file",
    "audio_filepath",
    "wav",
];

/// Names of the column of captions; each may also be several, numbered (`caption_1`, `caption_2`, … as Clotho has them).
pub(crate) const CAPTIONS: [&str; 3] = ["captions", "caption", "text"];

/// Says something about every sound, but is open_clip's column of captions: taken where there is nothing else.
pub(crate) const TITLE: &str = "title";

const LABELS: [&str; 4] = ["labels", "label", "tags", "tag"];

/// The columns of a table as its user names them. What is `None` is found by its usual names:
///
/// | field | the first of these that the table has |
/// |---|---|
/// | `audio` | `file_name`, `filepath`, `file_path`, `filename`, `path`, `audio`, `audio_path`, `audio_file`, `audio_filepath`, `wav` |
/// | `caption` | `captions`, `caption`, `text`; `title` where there is no column of labels either |
/// | `label` | `labels`, `label`, `tags`, `tag` |
/// | `separator` | a tab for `.tsv`, else the first of comma, tab and semicolon that is in the header |
///
/// Where a table has no column of a caption's name but numbered ones (`caption_1` to `caption_5`), they are all captions. Shards
/// have no columns: nothing of this is used for them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Columns {
    /// The column that says where a sound is, or holds it.
    pub audio: Option<String>,
    /// The column of captions.
    pub caption: Option<String>,
    /// The column of labels.
    pub label: Option<String>,
    /// The character between two cells.
    pub separator: Option<u8>,
}

impl Columns {
    /// Whether everything is left to the usual names.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The separator that a person typed: one ASCII character, `\t` or `tab`.
    ///
    /// # Errors
    /// [`Error::Separator`] for anything else.
    pub fn parse_separator(text: &str) -> Result<u8> {
        match text.as_bytes() {
            b"\\t" | b"tab" => Ok(b'\t'),
            [one] if one.is_ascii() && !matches!(one, b'"' | b'\n' | b'\r') => Ok(*one),
            _ => Err(Error::Separator { separator: text.to_owned() }),
        }
    }

    /// Finds the columns of a table. Without words of its own a table is of use only where they come from elsewhere.
    pub(crate) fn find(&self, table: &Table, needs_words: bool) -> Result<Roles> {
        let missing =
            |wanted: String| Error::MissingColumn { path: table.path.clone(), wanted, found: table.names.clone() };
        let named = |key: &str| match table.has(key) {
            true => Ok(key.to_owned()),
            false => Err(missing(format!("`{key}`"))),
        };
        let first = |choice: &[&str]| choice.iter().find(|name| table.has(name)).map(|name| (*name).to_owned());
        let audio = match (&self.audio, &table.sounds) {
            (Some(key), _) => named(key)?,
            (None, Some(sounds)) => sounds.clone(),
            (None, None) => first(&AUDIO).ok_or_else(|| {
                missing(format!("that says where the sounds are (one of `{}`, or one you name)", AUDIO.join("`, `")))
            })?,
        };
        let label = match &self.label {
            Some(key) => Some(named(key)?),
            None => first(&LABELS),
        };
        let mut captions = match &self.caption {
            Some(key) => caption_columns(&table.names, &[key]),
            None => caption_columns(&table.names, &CAPTIONS),
        };
        if let (Some(key), true) = (&self.caption, captions.is_empty()) {
            return Err(missing(format!("`{key}`")));
        }
        if captions.is_empty() && label.is_none() {
            captions.extend(first(&[TITLE]));
            if captions.is_empty() && needs_words {
                let choice = [&CAPTIONS[..], &[TITLE], &LABELS].concat().join("`, `");
                return Err(missing(format!("of captions or labels (one of `{choice}`, or one you name)")));
            }
        }
        for name in captions.iter().chain(&label).chain([&audio]) {
            table.check_single(name)?;
        }
        Ok(Roles { audio, captions, label })
    }
}

/// The first of the names that is a column, or the numbered columns of the first that has such.
pub(crate) fn caption_columns(columns: &[String], names: &[&str]) -> Vec<String> {
    if let Some(name) = names.iter().find(|name| columns.iter().any(|column| column == *name)) {
        return vec![(*name).to_owned()];
    }
    for name in names {
        let number = |column: &String| -> Option<u32> {
            let rest = column.strip_prefix(name)?;
            rest.strip_prefix(['_', '-', ' ']).unwrap_or(rest).parse().ok()
        };
        let mut numbered: Vec<(u32, &String)> =
            columns.iter().filter_map(|column| Some((number(column)?, column))).collect();
        numbered.sort();
        if !numbered.is_empty() {
            return numbered.into_iter().map(|(_, column)| column.clone()).collect();
        }
    }
    Vec::new()
}

/// The columns of a table that are read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Roles {
    pub(crate) audio: String,
    pub(crate) captions: Vec<String>,
    pub(crate) label: Option<String>,
}

/// What the columns of a row say. The row keeps its other cells.
pub(crate) struct Said {
    /// Where the sound is, or what it was called before it was put into the table.
    pub(crate) audio: Option<String>,
    pub(crate) captions: Vec<String>,
    pub(crate) labels: Vec<String>,
}

impl Roles {
    pub(crate) fn read(&self, row: &mut Row) -> std::result::Result<Said, String> {
        let audio = match row.cells.get(&self.audio) {
            Some(Value::String(name)) if !name.trim().is_empty() => Some(name.clone()),
            // `datasets` writes a path and nothing else of a sound as an object, too.
            Some(Value::Object(fields)) => fields.get("path").and_then(Value::as_str).map(str::to_owned),
            _ => None,
        };
        let mut captions = Vec::new();
        for column in &self.captions {
            captions.extend(texts(column, row.cells.shift_remove(column))?);
        }
        let labels = match &self.label {
            Some(column) => label_texts(column, row.cells.shift_remove(column))?,
            None => Vec::new(),
        };
        Ok(Said { audio, captions, labels })
    }
}

/// The texts of a cell: a JSON list, or the cell as it is.
pub(crate) fn texts(column: &str, cell: Option<Value>) -> std::result::Result<Vec<String>, String> {
    if let Some(Value::String(text)) = &cell
        && text.trim_start().starts_with('[')
        && let Ok(list @ Value::Array(_)) = serde_json::from_str(text)
    {
        return strings(column, Some(&list));
    }
    strings(column, cell.as_ref())
}

/// The labels of a cell: as its texts, a number as it is written, several separated by `;` in the plural columns.
fn label_texts(column: &str, cell: Option<Value>) -> std::result::Result<Vec<String>, String> {
    let number = |value: Value| if value.is_number() { Value::String(value.to_string()) } else { value };
    let cell = cell.map(|cell| match cell {
        Value::Array(list) => Value::Array(list.into_iter().map(number).collect()),
        other => number(other),
    });
    match &cell {
        Some(Value::String(text)) if matches!(column, "labels" | "tags") && !text.trim_start().starts_with('[') => {
            let parts = text.split(';').map(str::trim).filter(|part| !part.is_empty());
            Ok(parts.map(str::to_owned).collect())
        }
        _ => texts(column, cell),
    }
}

/// The text of a cell that holds one, without the space around it; nothing for an empty one.
pub(crate) fn single(cells: &mut Map<String, Value>, column: &str) -> std::result::Result<Option<String>, String> {
    match cells.shift_remove(column) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty())),
        Some(other) => Err(format!("the {column} `{other}` is no text")),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::table::Format;

    fn table(names: &[&str]) -> Table {
        let mut table = Table::new(Path::new("clips.csv"), Format::Separated);
        table.names = names.iter().map(|name| (*name).to_owned()).collect();
        table
    }

    fn find(columns: &Columns, names: &[&str]) -> Result<Roles> {
        columns.find(&table(names), true)
    }

    fn check(names: &[&str], audio: &str, captions: &[&str], label: Option<&str>) {
        let roles = find(&Columns::default(), names).unwrap();
        assert_eq!((roles.audio.as_str(), roles.label.as_deref()), (audio, label), "{names:?}");
        assert_eq!(roles.captions, captions, "{names:?}");
    }

    #[test]
    fn usual_names_are_found() {
        check(&["file_name", "text"], "file_name", &["text"], None);
        check(&["title", "filepath"], "filepath", &["title"], None);
        check(&["title", "path", "label"], "path", &[], Some("label"));
        check(&["wav", "tags", "caption", "text"], "wav", &["caption"], Some("tags"));
        check(
            &["file_name", "caption_10", "caption_2", "caption_1", "caption_x"],
            "file_name",
            &["caption_1", "caption_2", "caption_10"],
            None,
        );
        check(&["url", "caption1", "caption2", "path"], "path", &["caption1", "caption2"], None);
    }

    #[test]
    fn named_columns_come_first() {
        let columns = Columns {
            audio: Some("clip".to_owned()),
            caption: Some("words".to_owned()),
            label: Some("kind".to_owned()),
            separator: None,
        };
        let names = ["file_name", "clip", "text", "words_2", "words_1", "label", "kind"];
        let roles = find(&columns, &names).unwrap();
        assert_eq!((roles.audio.as_str(), roles.label.as_deref()), ("clip", Some("kind")));
        assert_eq!(roles.captions, ["words_1", "words_2"]);
    }

    #[test]
    fn missing_columns_are_named_beside_those_there_are() {
        let named = |audio: Option<&str>, caption: Option<&str>, label: Option<&str>| Columns {
            audio: audio.map(str::to_owned),
            caption: caption.map(str::to_owned),
            label: label.map(str::to_owned),
            separator: None,
        };
        let usual = named(None, None, None);
        for (columns, names, word) in [
            (&usual, &["file", "text"][..], "`file_name`"),
            (&usual, &["file_name", "words"], "`label`"),
            (&usual, &[], "`file_name`"),
            (&named(Some("clip"), None, None), &["file_name", "text"], "`clip`"),
            (&named(None, Some("caption"), None), &["file_name", "text"], "`caption`"),
            (&named(None, None, Some("class")), &["file_name", "text"], "`class`"),
        ] {
            let error = find(columns, names).unwrap_err().to_string();
            assert!(error.contains("clips.csv") && error.contains(word), "{error}");
            assert!(names.iter().all(|name| error.contains(name)), "{error}");
        }
        assert_eq!(usual.find(&table(&["file_name"]), false).unwrap().captions, [] as [&str; 0]);
        assert!(find(&usual, &["path", "text", "text"]).is_err());
    }

    #[test]
    fn cells_hold_one_text_or_several() {
        let said = |column: &str, cell: &str| texts(column, Some(serde_json::from_str(cell).unwrap())).unwrap();
        assert_eq!(said("text", r#"" a; b ""#), ["a; b"]);
        assert_eq!(said("text", r#""[\"a\", \"b\", \" \"]""#), ["a", "b"]);
        assert_eq!(said("text", r#""[sic] a dog""#), ["[sic] a dog"]);
        assert_eq!(said("text", r#"["a", null, "b"]"#), ["a", "b"]);
        let labels = |column: &str, cell: &str| label_texts(column, Some(serde_json::from_str(cell).unwrap())).unwrap();
        assert_eq!(labels("labels", r#""dog; rain;""#), ["dog", "rain"]);
        assert_eq!(labels("label", r#""dog; rain""#), ["dog; rain"]);
        assert_eq!(labels("label", "3"), ["3"]);
        assert_eq!(labels("labels", r#"[3, "dog; rain"]"#), ["3", "dog; rain"]);
        assert!(texts("text", Some(Value::from(5))).unwrap_err().contains("`text`"));
    }

    #[test]
    fn separators_are_typed() {
        for (text, separator) in [("\\t", b'\t'), ("tab", b'\t'), ("\t", b'\t'), (",", b','), ("|", b'|')] {
            assert_eq!(Columns::parse_separator(text).unwrap(), separator);
        }
        for text in ["", ",,", "é", "\"", "\n"] {
            let error = Columns::parse_separator(text).unwrap_err().to_string();
            assert!(error.contains("one ASCII character"), "{error}");
        }
    }
}
