//! A `torch.save` archive in miniature: a stored ZIP with a protocol-2 pickle, as torch 1.6 and later write it.

use candle_core::{DType, Tensor};

/// The bytes of `torch.save({"epoch": 3, "lr": numpy.float64(...), "state_dict": OrderedDict(tensors)})`, or of the bare
/// `OrderedDict` where `training` is false.
pub(super) fn torch_archive(tensors: &[(&str, Tensor)], training: bool) -> Vec<u8> {
    archive(tensors, training, None)
}

/// The bytes of an archive of a bare `OrderedDict` that gives each tensor the shape `dims`, whatever it holds.
pub(super) fn torch_archive_claiming(tensors: &[(&str, Tensor)], dims: &[usize]) -> Vec<u8> {
    archive(tensors, false, Some(dims))
}

fn archive(tensors: &[(&str, Tensor)], training: bool, claim: Option<&[usize]>) -> Vec<u8> {
    let mut pickle = vec![0x80, 2];
    if training {
        pickle.push(b'}');
        pickle.push(b'(');
        text(&mut pickle, "epoch");
        pickle.extend([b'K', 3]);
        text(&mut pickle, "lr");
        // numpy.core.multiarray.scalar(dtype('f8'), '…'): reduced objects that are neither tensors nor dictionaries.
        global(&mut pickle, "numpy.core.multiarray", "scalar");
        global(&mut pickle, "numpy", "dtype");
        text(&mut pickle, "f8");
        pickle.extend([0x85, b'R']);
        text(&mut pickle, "bytes");
        pickle.extend([0x86, b'R']);
        text(&mut pickle, "state_dict");
    }
    global(&mut pickle, "collections", "OrderedDict");
    pickle.extend([b')', b'R', b'(']);
    for (i, (name, tensor)) in tensors.iter().enumerate() {
        text(&mut pickle, name);
        rebuild(&mut pickle, tensor, i, claim);
    }
    pickle.push(b'u');
    if training {
        pickle.push(b'u');
    }
    pickle.push(b'.');

    let mut entries = vec![("archive/data.pkl".to_owned(), pickle)];
    for (i, (_, tensor)) in tensors.iter().enumerate() {
        let bytes = match tensor.dtype() {
            DType::I64 => flat::<i64>(tensor).iter().flat_map(|v| v.to_le_bytes()).collect(),
            _ => flat::<f32>(tensor).iter().flat_map(|v| v.to_le_bytes()).collect(),
        };
        entries.push((format!("archive/data/{i}"), bytes));
    }
    zip(&entries)
}

fn flat<T: candle_core::WithDType>(tensor: &Tensor) -> Vec<T> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// BINUNICODE.
fn text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.as_bytes());
}

/// GLOBAL.
fn global(out: &mut Vec<u8>, module: &str, name: &str) {
    out.extend(format!("c{module}\n{name}\n").bytes());
}

/// BININT.
fn int(out: &mut Vec<u8>, value: usize) {
    out.push(b'J');
    out.extend((value as i32).to_le_bytes());
}

fn tuple(out: &mut Vec<u8>, values: &[usize]) {
    out.push(b'(');
    values.iter().for_each(|&v| int(out, v));
    out.push(b't');
}

/// `torch._utils._rebuild_tensor_v2(storage, 0, size, stride, False, OrderedDict())`.
fn rebuild(out: &mut Vec<u8>, tensor: &Tensor, storage: usize, claim: Option<&[usize]>) {
    global(out, "torch._utils", "_rebuild_tensor_v2");
    out.push(b'(');
    out.push(b'(');
    text(out, "storage");
    global(out, "torch", if tensor.dtype() == DType::I64 { "LongStorage" } else { "FloatStorage" });
    text(out, &storage.to_string());
    text(out, "cpu");
    int(out, tensor.elem_count());
    out.extend(*b"tQ");
    int(out, 0);
    match claim {
        None => {
            tuple(out, tensor.dims());
            tuple(out, tensor.stride());
        }
        Some(dims) => {
            tuple(out, dims);
            tuple(out, &vec![1; dims.len()]);
        }
    }
    out.push(0x89);
    global(out, "collections", "OrderedDict");
    out.extend(*b")RtR");
}

/// Entries stored without compression.
pub(in crate::checkpoint) fn zip(entries: &[(String, Vec<u8>)]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in entries {
        let offset = out.len() as u32;
        let mut header = Vec::new();
        for field in [20u16, 0, 0, 0, 0] {
            header.extend(field.to_le_bytes()); // version, flags, method, time, date
        }
        for field in [crc32(data), data.len() as u32, data.len() as u32] {
            header.extend(field.to_le_bytes());
        }
        header.extend((name.len() as u16).to_le_bytes());
        header.extend(0u16.to_le_bytes());
        out.extend(*b"PK\x03\x04");
        out.extend(&header);
        out.extend(name.bytes());
        out.extend(data);
        directory.extend(*b"PK\x01\x02");
        directory.extend(20u16.to_le_bytes());
        directory.extend(&header);
        directory.extend([0u8; 10]); // comment, disk, attributes
        directory.extend(offset.to_le_bytes());
        directory.extend(name.bytes());
    }
    let (start, count) = (out.len() as u32, entries.len() as u16);
    out.extend(&directory);
    out.extend(*b"PK\x05\x06\0\0\0\0");
    out.extend(count.to_le_bytes());
    out.extend(count.to_le_bytes());
    out.extend((directory.len() as u32).to_le_bytes());
    out.extend(start.to_le_bytes());
    out.extend(0u16.to_le_bytes());
    out
}

fn crc32(data: &[u8]) -> u32 {
    !data.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |c, _| if c & 1 == 1 { (c >> 1) ^ 0xedb8_8320 } else { c >> 1 })
    })
}
