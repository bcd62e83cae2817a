//! Writing `torch.save` archives: a ZIP of stored entries, a pickle of protocol 2 (torch's default) and one entry of raw values
//! per tensor.
//!
//! Source: torch 2 `serialization.py` (`_save`), `_utils.py` (`_rebuild_tensor_v2`); `pickletools` for the opcodes. No object but
//! dictionaries, text, numbers and tensors is written, so that `torch.load(…, weights_only=True)` takes the file.

use std::collections::BTreeMap;
use std::io::{self, Seek, Write};

use candle_core::{CpuStorage, DType, Result, Storage, Tensor, bail};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// Folder inside the archive; torch takes any.
const ROOT: &str = "archive";
/// Boundary of the values of a tensor in the file, torch's, so that they can be mapped into memory.
const ALIGNMENT: u16 = 64;

/// Writes `torch.save({"name": name, "epoch": 0, "state_dict": OrderedDict(tensors)})`, as LAION's program saves its checkpoints.
///
/// # Errors
/// Where a tensor has a type that torch's storages have not, or the archive cannot be written.
pub(super) fn save(out: impl Write + Seek, name: &str, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
    let mut zip = ZipWriter::new(out);
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .large_file(true)
        .with_alignment(ALIGNMENT);
    let mut entry = |path: &str, write: &mut dyn FnMut(&mut dyn Write) -> Result<()>| -> Result<()> {
        zip.start_file(format!("{ROOT}/{path}"), options).map_err(candle_core::Error::wrap)?;
        write(&mut zip)
    };
    entry("data.pkl", &mut |out| Ok(out.write_all(&pickle(name, tensors)?)?))?;
    entry("byteorder", &mut |out| Ok(out.write_all(b"little")?))?;
    for (i, tensor) in tensors.values().enumerate() {
        entry(&format!("data/{i}"), &mut |out| values(out, tensor))?;
    }
    entry("version", &mut |out| Ok(out.write_all(b"3\n")?))?;
    zip.finish().map_err(candle_core::Error::wrap)?.flush()?;
    Ok(())
}

fn pickle(name: &str, tensors: &BTreeMap<String, Tensor>) -> Result<Vec<u8>> {
    let mut out = Pickle(vec![0x80, 2]); // PROTO 2
    out.op(b"}("); // EMPTY_DICT MARK
    out.text("name").text(name);
    out.text("epoch").int(0);
    out.text("state_dict");
    out.empty_ordered_dict().op(b"("); // MARK
    for (i, (key, tensor)) in tensors.iter().enumerate() {
        out.text(key).tensor(tensor, i)?;
    }
    out.op(b"uu."); // SETITEMS SETITEMS STOP
    Ok(out.0)
}

/// A pickle in the making.
struct Pickle(Vec<u8>);

impl Pickle {
    fn op(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// BINUNICODE.
    fn text(&mut self, text: &str) -> &mut Self {
        self.op(b"X").op(&(text.len() as u32).to_le_bytes()).op(text.as_bytes())
    }

    /// BININT, or LONG1 where that is too narrow.
    fn int(&mut self, value: usize) -> &mut Self {
        match i32::try_from(value) {
            Ok(value) => self.op(b"J").op(&value.to_le_bytes()),
            Err(_) => self.op(&[0x8a, 8]).op(&(value as i64).to_le_bytes()),
        }
    }

    /// GLOBAL.
    fn global(&mut self, module: &str, name: &str) -> &mut Self {
        self.op(format!("c{module}\n{name}\n").as_bytes())
    }

    /// GLOBAL EMPTY_TUPLE REDUCE.
    fn empty_ordered_dict(&mut self) -> &mut Self {
        self.global("collections", "OrderedDict").op(b")R")
    }

    /// MARK … TUPLE.
    fn tuple(&mut self, values: &[usize]) -> &mut Self {
        self.op(b"(");
        for &value in values {
            self.int(value);
        }
        self.op(b"t")
    }

    /// `_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, backward_hooks)` of a storage of its own.
    fn tensor(&mut self, tensor: &Tensor, storage: usize) -> Result<&mut Self> {
        self.global("torch._utils", "_rebuild_tensor_v2").op(b"((");
        self.text("storage").global("torch", storage_name(tensor.dtype())?);
        self.text(&storage.to_string()).text("cpu").int(tensor.elem_count()).op(b"tQ"); // TUPLE BINPERSID
        self.int(0).tuple(tensor.dims()).tuple(&strides(tensor.dims()));
        Ok(self.op(&[0x89]).empty_ordered_dict().op(b"tR")) // NEWFALSE … TUPLE REDUCE
    }
}

/// Of a row-major tensor.
fn strides(dims: &[usize]) -> Vec<usize> {
    (0..dims.len()).map(|axis| dims[axis + 1..].iter().product()).collect()
}

/// torch's class of storages that hold `dtype`.
fn storage_name(dtype: DType) -> Result<&'static str> {
    Ok(match dtype {
        DType::F64 => "DoubleStorage",
        DType::F32 => "FloatStorage",
        DType::F16 => "HalfStorage",
        DType::BF16 => "BFloat16Storage",
        DType::I64 => "LongStorage",
        DType::I32 => "IntStorage",
        DType::I16 => "ShortStorage",
        DType::U8 => "ByteStorage",
        other => bail!("a tensor of type {} cannot be written to a torch file", other.as_str()),
    })
}

/// The values of a tensor, row-major, little-endian.
fn values(out: &mut dyn Write, tensor: &Tensor) -> Result<()> {
    let tensor = tensor.to_device(&candle_core::Device::Cpu)?.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { bail!("a tensor did not come to the CPU") };
    let range = layout.start_offset()..layout.start_offset() + tensor.elem_count();
    macro_rules! write {
        ($values:expr) => {
            // A buffer's worth at a time: the bytes of a whole tensor need not stand beside it.
            $values[range].chunks(1 << 16).try_for_each(|chunk| {
                out.write_all(&chunk.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())
            })
        };
    }
    let written: io::Result<()> = match storage {
        CpuStorage::F64(values) => write!(values),
        CpuStorage::F32(values) => write!(values),
        CpuStorage::F16(values) => write!(values),
        CpuStorage::BF16(values) => write!(values),
        CpuStorage::I64(values) => write!(values),
        CpuStorage::I32(values) => write!(values),
        CpuStorage::I16(values) => write!(values),
        CpuStorage::U8(values) => write!(values),
        _ => bail!("a tensor of type {} cannot be written to a torch file", tensor.dtype().as_str()),
    };
    Ok(written?)
}
