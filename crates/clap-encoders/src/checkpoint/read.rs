//! Weight files, read one tensor at a time under Hugging Face's names.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};

use super::format::{Format, Names};
use super::laion::{self, HfKeys};
use super::pickle::PickleFile;
use super::safetensors_file::SafetensorsFiles;
use crate::error::{Error, Result};

/// An open weight file. The file is mapped into memory, and a tensor read when asked for.
pub struct Checkpoint {
    origin: String,
    reader: Reader,
    format: Format,
    /// By Hugging Face's name.
    entries: BTreeMap<String, Entry>,
}

enum Reader {
    Safetensors(SafetensorsFiles),
    Pickle(PickleFile),
    Memory(HashMap<String, Tensor>),
}

/// Where a tensor lies in the file.
#[derive(Debug)]
struct Entry {
    /// Its name there.
    name: String,
    /// A third of it, counted from 0.
    third: Option<usize>,
    /// Shape after that.
    shape: Vec<usize>,
}

/// Entries as they are found, each key once.
struct Entries<'a> {
    origin: &'a str,
    by_key: BTreeMap<String, Entry>,
}

impl Entries<'_> {
    fn insert(&mut self, key: String, entry: Entry) -> Result<()> {
        let name = entry.name.clone();
        match self.by_key.insert(key.clone(), entry) {
            None => Ok(()),
            Some(other) => Err(Error::checkpoint(
                Path::new(self.origin),
                format!("`{}` and `{name}` are both {key}; which of them is meant? Remove one", other.name),
            )),
        }
    }
}

impl std::fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Checkpoint({}, {:?}, {} tensors)", self.origin, self.format, self.entries.len())
    }
}

impl Checkpoint {
    /// Opens a safetensors file or a file of `torch.save`, of either of its formats, told apart by their first bytes; whose keys it has is
    /// recognised, [`Format`].
    ///
    /// # Errors
    /// Where the file cannot be read or is neither.
    pub fn open(path: &Path) -> Result<Self> {
        let mut head = [0u8; 9];
        let mut file = std::fs::File::open(path).map_err(Error::io(path))?;
        let read = file.read(&mut head).map_err(Error::io(path))?;
        match &head[..read] {
            // A ZIP archive, or the pickle that the format before torch 1.6 begins with.
            [b'P', b'K', 3, 4, ..] | [0x80, 2..=5, ..] => Self::open_pickle(path),
            // A safetensors file begins with the length of its JSON header.
            [_, _, _, _, _, _, _, _, b'{'] => Self::open_safetensors(&[path.to_owned()]),
            _ => Err(Error::checkpoint(
                path,
                "this is neither a safetensors file nor one of torch.save; is the download complete, or is it a Git LFS \
                 pointer?",
            )),
        }
    }

    /// Opens the shards of one safetensors model.
    ///
    /// # Errors
    /// Where one cannot be read or there are none.
    pub fn open_safetensors(paths: &[PathBuf]) -> Result<Self> {
        let Some(first) = paths.first() else {
            return Err(Error::input("weights", "no safetensors file was given"));
        };
        let files = SafetensorsFiles::open(paths)?;
        let shapes = files.shapes();
        Self::new(first.display().to_string(), Reader::Safetensors(files), shapes)
    }

    /// Weights that are in memory already, under any program's names.
    ///
    /// # Errors
    /// Where a joined query-key-value tensor has no thirds, or two tensors are the same weight.
    pub fn from_tensors(tensors: HashMap<String, Tensor>) -> Result<Self> {
        let shapes = tensors.iter().map(|(name, tensor)| (name.clone(), tensor.dims().to_vec())).collect();
        Self::new("memory".to_owned(), Reader::Memory(tensors), shapes)
    }

    fn open_pickle(path: &Path) -> Result<Self> {
        let file = PickleFile::open(path)?;
        let shapes = file.shapes();
        Self::new(path.display().to_string(), Reader::Pickle(file), shapes)
    }

    fn new(origin: String, reader: Reader, shapes: Vec<(String, Vec<usize>)>) -> Result<Self> {
        let names = Names::of(&shapes.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>());
        let mut entries = Entries { origin: &origin, by_key: BTreeMap::new() };
        for (name, shape) in shapes {
            match names.hf_keys(&name) {
                HfKeys::One(key) => {
                    entries.insert(key, Entry { name, third: None, shape })?;
                }
                HfKeys::Thirds(keys) => {
                    let mut shape = shape;
                    match shape.first_mut() {
                        Some(rows) if *rows % 3 == 0 => *rows /= 3,
                        _ => return Err(Error::input(name, "a joined query-key-value tensor that has no thirds")),
                    }
                    for (i, key) in keys.into_iter().enumerate() {
                        entries.insert(key, Entry { name: name.clone(), third: Some(i), shape: shape.clone() })?;
                    }
                }
                HfKeys::Both(keys) => {
                    for key in keys {
                        entries.insert(key, Entry { name: name.clone(), third: None, shape: shape.clone() })?;
                    }
                }
            }
        }
        let entries = entries.by_key;
        Ok(Self { origin, reader, format: names.format(), entries })
    }

    /// Whose names the file carries.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// The file, or `memory`.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Every key, under Hugging Face's name, with its shape, in order.
    pub fn keys(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.entries.iter().map(|(key, entry)| (key.as_str(), entry.shape.as_slice()))
    }

    /// Shape of a tensor by Hugging Face's name.
    #[must_use]
    pub fn shape(&self, key: &str) -> Option<&[usize]> {
        self.entries.get(key).map(|entry| entry.shape.as_slice())
    }

    /// A tensor by Hugging Face's name, of the type that it has in the file, or `None` where that has no such key.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn stored(&self, key: &str, device: &Device) -> candle_core::Result<Option<Tensor>> {
        let Some(entry) = self.entries.get(key) else { return Ok(None) };
        let tensor = match &self.reader {
            Reader::Safetensors(files) => match files.load(&entry.name, device)? {
                Some(tensor) => tensor,
                None => return Ok(None),
            },
            Reader::Pickle(file) => match file.load(&entry.name, device)? {
                Some(tensor) => tensor,
                None => return Ok(None),
            },
            Reader::Memory(tensors) => match tensors.get(&entry.name) {
                Some(tensor) => tensor.to_device(device)?,
                None => return Ok(None),
            },
        };
        match entry.third {
            Some(i) => laion::third(&tensor, i).map(Some),
            None => Ok(Some(tensor)),
        }
    }

    /// A tensor by Hugging Face's name, or `None` where the file has no such key.
    ///
    /// # Errors
    /// Where it cannot be read or converted. Integers are not converted to a float type: they are no weights.
    pub fn tensor(&self, key: &str, dtype: DType, device: &Device) -> candle_core::Result<Option<Tensor>> {
        let (Some(entry), Some(tensor)) = (self.entries.get(key), self.stored(key, device)?) else { return Ok(None) };
        if dtype.is_float() && !tensor.dtype().is_float() {
            let found = tensor.dtype().as_str();
            candle_core::bail!(
                "{}: `{}` holds {found}, which is no weight of type {}",
                self.origin,
                entry.name,
                dtype.as_str()
            )
        }
        Ok(Some(tensor.to_dtype(dtype)?))
    }

    /// Every tensor of the file under Hugging Face's name, as stored: weights, buffers and parts that the model has no use for.
    ///
    /// # Errors
    /// Where one cannot be read.
    pub fn stored_tensors(&self, device: &Device) -> Result<HashMap<String, Tensor>> {
        let mut out = HashMap::with_capacity(self.entries.len());
        for key in self.entries.keys() {
            if let Some(tensor) = self.stored(key, device)? {
                out.insert(key.clone(), tensor);
            }
        }
        Ok(out)
    }
}
