//! Sounds inside a Parquet file, one at a time.
//!
//! Of a file that is open, its footer is in memory and nothing of its sounds. The smallest piece that can be read is a page; how
//! many sounds share one is the writer's choice, and of a file without an index of its pages those before in the row
//! group have to be passed over. So each thread keeps its place in the row group it read last: rows in order cost one pass, rows at
//! random a page or a row group each. What is held is a page per thread, whatever the size of the file.

use std::cell::RefCell;
use std::fmt;
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder, RowSelection,
    RowSelector,
};
use parquet::file::metadata::PageIndexPolicy;

/// Rows that a thread reads past rather than begin anew: the loader's threads take turns at rows in order.
const NEAR: u64 = 16;

/// An open Parquet file, one of whose columns holds encoded sounds.
pub struct ParquetFile {
    path: PathBuf,
    metadata: ArrowReaderMetadata,
    /// Place of the column of bytes among the leaves of the schema.
    leaf: usize,
    /// The first row of each row group, and the number of rows at the end.
    starts: Vec<u64>,
}

/// A place in a row group: `next` is the row that `reader` gives next.
struct Cursor {
    file: Arc<ParquetFile>,
    group: usize,
    next: u64,
    reader: ParquetRecordBatchReader,
}

thread_local! {
    static CURSOR: RefCell<Option<Cursor>> = const { RefCell::new(None) };
}

/// Reads the footer of a file, and the index of its pages where it has one.
pub(crate) fn read_metadata(path: &Path) -> io::Result<ArrowReaderMetadata> {
    // Without the schema of arrow the types are Parquet's own: one kind of text instead of six.
    let options =
        ArrowReaderOptions::new().with_skip_arrow_metadata(true).with_offset_index_policy(PageIndexPolicy::Optional);
    let file = File::open(path)?;
    Ok(guarded(|| ArrowReaderMetadata::load(&file, options))??)
}

/// The next rows of a reader.
pub(crate) fn next_batch(reader: &mut ParquetRecordBatchReader) -> io::Result<Option<RecordBatch>> {
    guarded(|| reader.next())?.transpose().map_err(io::Error::other)
}

/// Runs a reader of the crate `parquet`, which panics over some damaged files (60.1.0: sizes in page headers are subtracted
/// unchecked).
pub(crate) fn guarded<T>(read: impl FnOnce() -> T) -> io::Result<T> {
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "damaged beyond what the reader of Parquet expects");
    catch_unwind(AssertUnwindSafe(read)).map_err(|_| damaged())
}

impl ParquetFile {
    pub(crate) fn new(path: &Path, metadata: ArrowReaderMetadata, leaf: usize) -> Self {
        let mut starts = vec![0_u64];
        for group in metadata.metadata().row_groups() {
            let rows = u64::try_from(group.num_rows()).unwrap_or(0);
            starts.push(starts.last().copied().unwrap_or(0).saturating_add(rows));
        }
        Self { path: path.to_owned(), metadata, leaf, starts }
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The encoded sound of a row, counted from 0.
    ///
    /// # Errors
    /// Those of the file system; `InvalidData` for a damaged file, `NotFound` for a row without a sound.
    pub(crate) fn sound(self: &Arc<Self>, row: u64) -> io::Result<Vec<u8>> {
        let group = self.starts.partition_point(|start| *start <= row).checked_sub(1);
        let Some(group) = group.filter(|group| group + 1 < self.starts.len()) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no such row"));
        };
        let here = |cursor: &Cursor| {
            Arc::ptr_eq(&cursor.file, self)
                && cursor.group == group
                && (cursor.next..=cursor.next + NEAR).contains(&row)
        };
        // Taken out while it is used, so that a place that failed is not kept.
        let kept = CURSOR.with(|cursor| cursor.borrow_mut().take());
        let mut cursor = match kept {
            Some(cursor) if here(&cursor) => cursor,
            _ => self.cursor(group, row)?,
        };
        let sound = cursor.sound(row)?;
        CURSOR.with(|kept| *kept.borrow_mut() = Some(cursor));
        Ok(sound)
    }

    /// A place at `row` of a row group.
    fn cursor(self: &Arc<Self>, group: usize, row: u64) -> io::Result<Cursor> {
        let rows = |from: u64, to: u64| usize::try_from(to - from).map_err(io::Error::other);
        let (start, end) = (self.starts[group], self.starts[group + 1]);
        let selection =
            RowSelection::from(vec![RowSelector::skip(rows(start, row)?), RowSelector::select(rows(row, end)?)]);
        let mask = ProjectionMask::leaves(self.metadata.parquet_schema(), [self.leaf]);
        let file = File::open(&self.path)?;
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, self.metadata.clone())
            .with_row_groups(vec![group])
            .with_projection(mask)
            .with_row_selection(selection)
            .with_batch_size(1);
        let reader = guarded(|| builder.build())??;
        Ok(Cursor { file: Arc::clone(self), group, next: row, reader })
    }
}

impl Cursor {
    /// The sound of a row at or after the next one.
    fn sound(&mut self, row: u64) -> io::Result<Vec<u8>> {
        let ended = || io::Error::new(io::ErrorKind::UnexpectedEof, "the file has fewer rows than it says");
        loop {
            let batch = next_batch(&mut self.reader)?.ok_or_else(ended)?;
            self.next += 1;
            if self.next > row {
                let bytes = first_bytes(&batch).map(<[u8]>::to_vec);
                return bytes.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the row has no sound"));
            }
        }
    }
}

/// The bytes of a batch of one row and one column, alone or as the only field of a structure.
fn first_bytes(batch: &RecordBatch) -> Option<&[u8]> {
    let column = batch.columns().first()?;
    let column = match column.as_struct_opt() {
        Some(fields) if fields.is_valid(0) => fields.columns().first()?,
        Some(_) => return None,
        None => column,
    };
    let bytes = column.as_binary_opt::<i32>()?;
    (!bytes.is_empty() && bytes.is_valid(0)).then(|| bytes.value(0))
}

impl fmt::Debug for ParquetFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ParquetFile").field("path", &self.path).field("leaf", &self.leaf).finish_non_exhaustive()
    }
}

/// Two are equal where they are the same column of the same path.
impl PartialEq for ParquetFile {
    fn eq(&self, other: &Self) -> bool {
        self.leaf == other.leaf && self.path == other.path
    }
}

impl Eq for ParquetFile {}

impl Hash for ParquetFile {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.path.hash(state);
        self.leaf.hash(state);
    }
}
