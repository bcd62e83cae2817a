//! The rows of a Parquet file, as Hugging Face's `datasets` writes them: its columns of words, and where its sounds are.
//!
//! A sound is a structure of `bytes` and `path`, or plain bytes; its bytes are read when they are asked for
//! ([`ParquetFile`]). A column of classes holds numbers, and their names stand in the key `huggingface` of the file. Numbers,
//! texts and lists of them are read; columns of other kinds are passed over.

use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, RecordBatch};
use arrow_schema::{DataType, Field};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ParquetRecordBatchReaderBuilder};
use serde_json::{Map, Value};

use crate::columns::AUDIO;
use crate::parquet_file::{ParquetFile, guarded, next_batch, read_metadata};
use crate::skipped::Report;
use crate::table::{Format, Row, Table};
use crate::{AudioSource, Error, Result};

/// Reads all rows, without their sounds. `audio` is the column that the user named.
pub(crate) fn read_table(path: &Path, audio: Option<&str>, report: &mut Report) -> Result<Table> {
    let unreadable = |error: &dyn std::fmt::Display| Error::Table {
        path: path.to_owned(),
        reason: format!("cannot be read as Parquet: {error}"),
    };
    let metadata = read_metadata(path).map_err(|cause| match cause.kind() {
        std::io::ErrorKind::NotFound => Error::io(path, cause),
        _ => unreadable(&cause),
    })?;
    let mut table = Table::new(path, Format::Parquet);
    let fields = metadata.schema().fields();
    table.names = fields.iter().map(|field| field.name().clone()).collect();
    table.classes = class_names(&metadata);
    let sounds = sound_column(&metadata, audio);
    let file = sounds.as_ref().map(|sounds| Arc::new(ParquetFile::new(path, metadata.clone(), sounds.leaf)));
    table.sounds = sounds.as_ref().map(|sounds| sounds.name.clone());

    let schema = metadata.parquet_schema();
    let mut leaves = Vec::new();
    for leaf in 0..schema.num_columns() {
        let field = &fields[schema.get_column_root_idx(leaf)];
        let column = schema.column(leaf);
        let is_path = sound_field(field) && column.path().parts().get(1).is_some_and(|part| part == "path");
        if is_path || is_readable(field.data_type()) {
            leaves.push(leaf);
        }
    }
    let mask = ProjectionMask::leaves(schema, leaves);
    let opened = std::fs::File::open(path).map_err(|cause| Error::io(path, cause))?;
    let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(opened, metadata.clone()).with_projection(mask);
    let built = guarded(|| builder.build()).and_then(|reader| reader.map_err(std::io::Error::other));
    let mut reader = built.map_err(|error| unreadable(&error))?;
    let mut number = 0;
    loop {
        let batch = match next_batch(&mut reader) {
            Ok(Some(batch)) => batch,
            Ok(None) => break,
            Err(error) => {
                report
                    .skip(table.place(number), format!("damaged from here on ({error}); what came before is kept"))?;
                break;
            }
        };
        for at in 0..batch.num_rows() {
            let sound = file.as_ref().map(|file| AudioSource::Row { file: Arc::clone(file), row: number });
            let cells = cells(&batch, at, &table.classes);
            table.rows.push(Row { number, cells, sound });
            number += 1;
        }
    }
    Ok(table)
}

/// A column whose cells are sounds.
struct Sounds {
    name: String,
    /// Its bytes among the leaves of the schema.
    leaf: usize,
}

/// The column of sounds: the one that is named, else the first of a usual name, else the first there is. None where all its
/// cells are empty: then its paths are those of files.
fn sound_column(metadata: &ArrowReaderMetadata, named: Option<&str>) -> Option<Sounds> {
    let schema = metadata.parquet_schema();
    let fields = metadata.schema().fields();
    let candidates = (0..schema.num_columns()).filter_map(|leaf| {
        let field = &fields[schema.get_column_root_idx(leaf)];
        let column = schema.column(leaf);
        let parts = column.path().parts();
        let is_bytes = match parts {
            [_] => is_bytes(field.data_type()),
            [_, part] => sound_field(field) && part == "bytes",
            _ => false,
        };
        let is_empty = || {
            metadata.metadata().row_groups().iter().all(|group| {
                let nulls = group.column(leaf).statistics().and_then(|statistics| statistics.null_count_opt());
                nulls.is_some_and(|nulls| i64::try_from(nulls) == Ok(group.num_rows()))
            })
        };
        (is_bytes && !is_empty()).then(|| Sounds { name: field.name().clone(), leaf })
    });
    let mut candidates: Vec<Sounds> = candidates.collect();
    let place = match named {
        Some(named) => candidates.iter().position(|sounds| sounds.name == named)?,
        None => {
            // A usual name of another column may mean files, beside an image or the like in bytes.
            let usual = AUDIO.iter().find(|name| fields.iter().any(|field| field.name() == *name));
            match usual {
                Some(usual) => candidates.iter().position(|sounds| sounds.name == *usual)?,
                None => 0,
            }
        }
    };
    (place < candidates.len()).then(|| candidates.swap_remove(place))
}

/// `{bytes, path}`, in any order and company.
fn sound_field(field: &Field) -> bool {
    let DataType::Struct(parts) = field.data_type() else {
        return false;
    };
    parts.iter().any(|part| part.name() == "bytes" && is_bytes(part.data_type()))
}

fn is_bytes(kind: &DataType) -> bool {
    matches!(kind, DataType::Binary | DataType::LargeBinary | DataType::BinaryView)
}

/// The kinds that [`value`] knows.
fn is_readable(kind: &DataType) -> bool {
    match kind {
        DataType::List(item) => is_readable(item.data_type()) && !matches!(item.data_type(), DataType::List(_)),
        DataType::Utf8 | DataType::Boolean | DataType::Null => true,
        kind => kind.is_integer() || matches!(kind, DataType::Float32 | DataType::Float64),
    }
}

/// The columns of classes, from the description of the data set that `datasets` leaves in its files.
fn class_names(metadata: &ArrowReaderMetadata) -> Vec<(String, Vec<String>)> {
    let keys = metadata.metadata().file_metadata().key_value_metadata();
    let text =
        keys.into_iter().flatten().find(|entry| entry.key == "huggingface").and_then(|entry| entry.value.as_ref());
    let Some(Ok(Value::Object(described))) = text.map(|text| serde_json::from_str(text)) else {
        return Vec::new();
    };
    let features = described.get("info").and_then(|info| info.get("features")).and_then(Value::as_object);
    let names_of = |(column, feature): (&String, &Value)| {
        // One class, or a list of them as newer and older versions write it.
        let feature = feature.get("feature").or_else(|| feature.get(0)).unwrap_or(feature);
        let names = feature.get("names")?.as_array()?;
        let names: Option<Vec<String>> = names.iter().map(|name| name.as_str().map(str::to_owned)).collect();
        Some((column.clone(), names?))
    };
    features.into_iter().flatten().filter_map(names_of).collect()
}

/// The cells of a row. Of a sound its path is left, as text.
fn cells(batch: &RecordBatch, at: usize, classes: &[(String, Vec<String>)]) -> Map<String, Value> {
    let schema = batch.schema_ref();
    let mut cells = Map::new();
    for (field, column) in schema.fields().iter().zip(batch.columns()) {
        let column = match column.as_struct_opt() {
            Some(sound) => match sound.column_by_name("path").filter(|_| sound.is_valid(at)) {
                Some(path) => path,
                None => continue,
            },
            None => column,
        };
        let mut cell = value(column, at);
        if let Some((_, names)) = classes.iter().find(|(name, _)| name == field.name()) {
            cell = named(cell, names);
        }
        cells.insert(field.name().clone(), cell);
    }
    cells
}

/// The names of classes in place of their numbers; -1 is "no class".
fn named(cell: Value, names: &[String]) -> Value {
    match cell {
        Value::Number(number) if number.as_i64() == Some(-1) => Value::Null,
        Value::Number(ref number) => {
            let name = number.as_u64().and_then(|number| names.get(usize::try_from(number).ok()?));
            name.map_or(cell, |name| Value::String(name.clone()))
        }
        Value::Array(list) => list.into_iter().map(|item| named(item, names)).collect(),
        other => other,
    }
}

fn value(array: &dyn Array, at: usize) -> Value {
    if array.is_null(at) {
        return Value::Null;
    }
    match array.data_type() {
        DataType::Utf8 => array.as_string::<i32>().value(at).into(),
        DataType::Boolean => array.as_boolean().value(at).into(),
        DataType::Int8 => array.as_primitive::<Int8Type>().value(at).into(),
        DataType::Int16 => array.as_primitive::<Int16Type>().value(at).into(),
        DataType::Int32 => array.as_primitive::<Int32Type>().value(at).into(),
        DataType::Int64 => array.as_primitive::<Int64Type>().value(at).into(),
        DataType::UInt8 => array.as_primitive::<UInt8Type>().value(at).into(),
        DataType::UInt16 => array.as_primitive::<UInt16Type>().value(at).into(),
        DataType::UInt32 => array.as_primitive::<UInt32Type>().value(at).into(),
        DataType::UInt64 => array.as_primitive::<UInt64Type>().value(at).into(),
        DataType::Float32 => array.as_primitive::<Float32Type>().value(at).into(),
        DataType::Float64 => array.as_primitive::<Float64Type>().value(at).into(),
        DataType::List(_) => {
            let items = array.as_list::<i32>().value(at);
            (0..items.len()).map(|at| value(items.as_ref(), at)).collect()
        }
        _ => Value::Null,
    }
}
