//! Safetensors files, one tensor at a time.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use candle_core::safetensors::Load as _;
use candle_core::{Device, Tensor, bail};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::mapping::Mapping;
use crate::error::{Error, Result};

/// The shards of a model, opened.
pub(super) struct SafetensorsFiles {
    shards: Vec<Mapping>,
    tensors: BTreeMap<String, StoredTensor>,
}

/// Where a tensor lies.
struct StoredTensor {
    shard: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    place: Range<usize>,
}

impl SafetensorsFiles {
    /// Reads what is in the files, but no tensor's values.
    ///
    /// # Errors
    /// Where one cannot be read, is no safetensors file, or has a tensor that another has too.
    pub(super) fn open(paths: &[PathBuf]) -> Result<Self> {
        let mut files = Self { shards: Vec::new(), tensors: BTreeMap::new() };
        for path in paths {
            files.add(path)?;
        }
        Ok(files)
    }

    fn add(&mut self, path: &Path) -> Result<()> {
        let mapping = Mapping::open(path)?;
        let (header, metadata) = SafeTensors::read_metadata(mapping.bytes()).map_err(|e| {
            Error::checkpoint(path, format!("not a readable safetensors file: {e}; is the download complete?"))
        })?;
        // The header's length, eight bytes, stands before it.
        let data = header + 8;
        for (name, info) in metadata.tensors() {
            let place = data + info.data_offsets.0..data + info.data_offsets.1;
            let tensor = StoredTensor { shard: self.shards.len(), dtype: info.dtype, shape: info.shape.clone(), place };
            if self.tensors.insert(name.clone(), tensor).is_some() {
                let reason = format!("`{name}` is in another file of this model as well; which of them is meant?");
                return Err(Error::checkpoint(path, reason));
            }
        }
        self.shards.push(mapping);
        Ok(())
    }

    /// Every tensor with its shape, in order of the names.
    pub(super) fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        self.tensors.iter().map(|(name, tensor)| (name.clone(), tensor.shape.clone())).collect()
    }

    /// The values of a tensor, or `None` where there is none of that name.
    ///
    /// # Errors
    /// Where they are of a type that candle has no tensor for.
    pub(super) fn load(&self, name: &str, device: &Device) -> candle_core::Result<Option<Tensor>> {
        let Some(StoredTensor { shard, dtype, shape, place }) = self.tensors.get(name) else { return Ok(None) };
        let mapping = &self.shards[*shard];
        let view = TensorView::new(*dtype, shape.clone(), &mapping.bytes()[place.clone()]);
        let Ok(view) = view else { bail!("`{name}`: {} bytes are no {dtype:?} of shape {shape:?}", place.len()) };
        let tensor = view.load(device)?;
        mapping.release(place.clone());
        Ok(Some(tensor))
    }
}
