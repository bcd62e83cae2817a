//! The ZIP archives of torch 1.6 and later: `NAME/data.pkl`, an entry `NAME/data/KEY` of raw values for each storage, and a few
//! records, of which `NAME/byteorder` matters. All are stored without compression, so that an entry is a part of the file.

use std::io::Cursor;
use std::ops::Range;

use zip::{CompressionMethod, ZipArchive};

use super::value::Pickle;
use super::{Reading, machine, tensor};

/// The pickle of an archive.
const PICKLE: &str = "data.pkl";

/// An open archive.
pub(super) struct Archive<'a> {
    bytes: &'a [u8],
    zip: ZipArchive<Cursor<&'a [u8]>>,
    /// `NAME/`, torch takes any.
    root: String,
}

/// Reads the directory and the pickle.
///
/// # Errors
/// Where it is no archive of torch's, or compressed, encrypted or of a machine with the other order of bytes.
pub(super) fn open(bytes: &[u8]) -> Reading<(Pickle<'_>, Archive<'_>)> {
    let zip = ZipArchive::new(Cursor::new(bytes))
        .map_err(|e| format!("not a readable ZIP archive, as torch.save writes: {e}; is the download complete?"))?;
    let roots = zip.file_names_raw().filter_map(|name| {
        let root = std::str::from_utf8(name).ok()?.strip_suffix(PICKLE)?;
        (root.is_empty() || root.ends_with('/')).then_some(root)
    });
    // Nearest to the top, where something was packed beside it.
    let root = roots.min_by_key(|root| root.matches('/').count()).map(str::to_owned);
    let root = root.ok_or("a ZIP archive without `data.pkl`, so not one of torch.save")?;
    let mut archive = Archive { bytes, zip, root };
    if let Some(order) = archive.entry("byteorder")? {
        // Files from before torch 2.1 do not say; nearly all machines are little-endian.
        if &bytes[order] == b"big" {
            return Err("its values are big-endian; load and save it again on a little-endian machine".to_owned());
        }
    }
    let range = archive.entry(PICKLE)?.ok_or("an archive whose `data.pkl` cannot be found")?;
    let (pickle, _) = machine::parse(&bytes[range], 0)?;
    Ok((pickle, archive))
}

impl Archive<'_> {
    /// The place of an entry in the file, or `None` where there is none of that name.
    fn entry(&mut self, name: &str) -> Reading<Option<Range<usize>>> {
        let name = format!("{}{name}", self.root);
        let Some(index) = self.zip.index_for_name(&name) else { return Ok(None) };
        let shown = super::value::shown(name.as_bytes());
        let entry = self.zip.by_index_raw(index).map_err(|e| format!("the archive's entry `{shown}`: {e}"))?;
        if entry.encrypted() {
            return Err(format!("the archive's entry `{shown}` is encrypted"));
        }
        if entry.compression() != CompressionMethod::Stored {
            return Err(format!(
                "the archive's entry `{shown}` is compressed, which torch.save does not do; load and save it again with torch, \
                 or pack it again without compression (zip -0)"
            ));
        }
        let range = entry.data_start().and_then(|start| {
            Some(usize::try_from(start).ok()?..usize::try_from(start.checked_add(entry.compressed_size())?).ok()?)
        });
        let range = range.filter(|range| range.end <= self.bytes.len());
        range
            .map(Some)
            .ok_or_else(|| format!("the archive's entry `{shown}` ends after the file does; is the download complete?"))
    }
}

impl tensor::Storages for Archive<'_> {
    fn locate(&mut self, key: &str) -> Reading<Range<usize>> {
        let entry = self.entry(&format!("data/{key}")).map_err(|e| format!("cannot be read: {e}"))?;
        entry.ok_or_else(|| {
            format!(
                "has its values in the entry data/{}, which the archive has not",
                super::value::shown(key.as_bytes())
            )
        })
    }
}
