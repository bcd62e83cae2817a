//! Files of `torch.save`: the ZIP archive of torch 1.6 and later ([`archive`]) and the format before it ([`legacy`]).
//!
//! Either is a pickle that describes objects, and raw values beside it. The pickle is data: [`machine`] turns its opcodes into
//! [`value`]s, classes and functions are names, and nothing is ever called. [`state_dict`] finds the weights among the values,
//! [`tensor`] what each one's call of `torch._utils._rebuild_tensor_v2` says about type, shape and place. The file is mapped into
//! memory and a tensor's values are touched when that tensor is asked for: an optimizer's state costs nothing.
//!
//! Source: torch 2.11 `serialization.py` (`_save`, `_load`, `_legacy_save`, `_legacy_load`), `_utils.py`, `_tensor.py`; CPython 3
//! `pickletools.py`. Nothing in a file is believed: what it makes this reader allocate is bounded by a small multiple of its size,
//! and no depth of nesting reaches the stack, because values refer to each other by number.

mod archive;
mod element;
mod legacy;
mod machine;
mod state_dict;
mod tensor;
mod value;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor, bail};
use tensor::{Storages, StoredTensor};

use super::mapping::Mapping;
use crate::error::{Error, Result};

/// The reason why a file or a tensor cannot be read, without the file's name.
type Reading<T> = std::result::Result<T, String>;

/// An open file of `torch.save`.
pub(super) struct PickleFile {
    origin: String,
    mapping: Mapping,
    tensors: BTreeMap<String, StoredTensor>,
}

impl PickleFile {
    /// Reads what is in the file, but no tensor's values.
    ///
    /// # Errors
    /// Where it is no file of `torch.save`, has no state dict, or a tensor of that is not all there.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let mapping = Mapping::open(path)?;
        let tensors = tensors(mapping.bytes()).map_err(|reason| Error::checkpoint(path, reason))?;
        Ok(Self { origin: path.display().to_string(), mapping, tensors })
    }

    /// Every tensor of the state dict with its shape, in order of the names.
    pub(super) fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        self.tensors.iter().map(|(name, tensor)| (name.clone(), tensor.dims().to_vec())).collect()
    }

    /// The values of a tensor, or `None` where there is none of that name.
    ///
    /// # Errors
    /// Where they are of a type that this reader has no tensor for.
    pub(super) fn load(&self, name: &str, device: &Device) -> candle_core::Result<Option<Tensor>> {
        let Some(tensor) = self.tensors.get(name) else { return Ok(None) };
        match tensor.load(self.mapping.bytes(), device) {
            Ok(values) => {
                self.mapping.release(tensor.place());
                values.map(Some)
            }
            Err(reason) => bail!("{}: `{name}` {reason}", self.origin),
        }
    }
}

/// The state dict of a file.
fn tensors(bytes: &[u8]) -> Reading<BTreeMap<String, StoredTensor>> {
    if bytes.starts_with(b"PK") {
        let (pickle, mut archive) = archive::open(bytes)?;
        collect(&pickle, &mut archive, bytes.len())
    } else {
        let (pickle, mut storages) = legacy::open(bytes)?;
        collect(&pickle, &mut storages, bytes.len())
    }
}

fn collect(
    pickle: &value::Pickle<'_>,
    storages: &mut impl Storages,
    length: usize,
) -> Reading<BTreeMap<String, StoredTensor>> {
    // Storages may be shared, and a stride of 0 repeats values: tied weights are a few times the file at most, and a small file
    // may expand to something that does no harm.
    const SHARED: usize = 4;
    const SMALL: usize = 64 << 20;
    let mut left = length.saturating_mul(SHARED).saturating_add(SMALL);
    let mut tensors = BTreeMap::new();
    for (name, id) in state_dict::find(pickle)? {
        let Some(tensor) = StoredTensor::read(pickle, id, storages).map_err(|reason| format!("`{name}` {reason}"))?
        else {
            continue;
        };
        left = tensor.size().and_then(|size| left.checked_sub(size)).ok_or_else(|| {
            format!(
                "`{name}` has the shape {:?}: with it the tensors are more than {SHARED} times the {length} bytes of the file",
                tensor.dims()
            )
        })?;
        tensors.insert(name.to_owned(), tensor);
    }
    Ok(tensors)
}
