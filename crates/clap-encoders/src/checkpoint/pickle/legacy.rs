//! The format before torch 1.6, which the published PANNs and early Hugging Face models have: five pickles one after the other
//! (a magic number, a version, facts about the machine, the objects, the keys of the storages), then for each key the number of
//! values in 8 bytes and the values. They are little-endian on every machine.

use std::collections::HashMap;
use std::ops::Range;

use super::tensor::{StorageName, Storages};
use super::value::{Pickle, Value, shown};
use super::{Reading, machine};

/// 0x1950a86a20f9469cfc6c, little-endian.
const MAGIC: &[u8] = &[0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const VERSION: usize = 1001;

/// Places of the storages by key.
pub(super) struct LegacyStorages<'a>(HashMap<&'a str, Range<usize>>);

/// Reads the pickles and steps over the storages.
///
/// # Errors
/// Where it is no file of torch's or cut short.
pub(super) fn open(bytes: &[u8]) -> Reading<(Pickle<'_>, LegacyStorages<'_>)> {
    let (magic, at) = machine::parse(bytes, 0)?;
    if !matches!(magic.get(magic.root), Value::Long(MAGIC)) {
        return Err("a pickle, but not one that torch.save wrote; save the model's `state_dict()` with that".to_owned());
    }
    let (version, at) = machine::parse(bytes, at)?;
    if version.count(version.root) != Some(VERSION) {
        return Err(format!("a file of torch.save whose version is not {VERSION}, the only one there was"));
    }
    let (_, at) = machine::parse(bytes, at)?;
    let (pickle, at) = machine::parse(bytes, at)?;
    let (keys, mut at) = machine::parse(bytes, at)?;

    // A key may be named many times; the size of its values is that of the first, as in torch.
    let mut sizes = HashMap::new();
    let storages = (0..).zip(&pickle.values).filter(|(_, value)| matches!(value, Value::Persistent(_)));
    for name in storages.filter_map(|(id, _)| StorageName::read(&pickle, id).ok()) {
        sizes.entry(name.key).or_insert(name.element.size);
    }
    let cut = || "the file ends before its values do; is the download complete?".to_owned();
    let mut places = HashMap::new();
    for &key in keys.sequence(keys.root).ok_or("a file of torch.save without the list of its storages")? {
        let key = keys.text(key).ok_or("a file of torch.save whose storages have no keys")?;
        let size = sizes.get(key).ok_or_else(|| {
            format!(
                "storage {} is of no class known here, so that those after it cannot be found",
                shown(key.as_bytes())
            )
        })?;
        let length = bytes[at..].first_chunk().map(|length| u64::from_le_bytes(*length)).ok_or_else(cut)?;
        let start = at + size_of::<u64>();
        let length = usize::try_from(length).ok().and_then(|length| length.checked_mul(*size)).ok_or_else(cut)?;
        at = start.checked_add(length).filter(|end| *end <= bytes.len()).ok_or_else(cut)?;
        places.insert(key, start..at);
    }
    Ok((pickle, LegacyStorages(places)))
}

impl Storages for LegacyStorages<'_> {
    fn locate(&mut self, key: &str) -> Reading<Range<usize>> {
        let place = self.0.get(key).cloned();
        place.ok_or_else(|| format!("has its values in storage {}, which is not there", shown(key.as_bytes())))
    }
}
