//! One tensor of a file: what the call that would rebuild it says, and its values.
//!
//! Source: torch 2.11 `_utils.py` (`_rebuild_tensor_v2` and its kin), `_tensor.py` (`_reduce_ex_internal`, `_rebuild_from_type_v2`).

use std::ops::Range;

use candle_core::{DType, Device, Result as CandleResult, Tensor};

use super::Reading;
use super::element::{Becomes, Element};
use super::value::{Id, Pickle, Value, shown};

/// Where a file keeps the values of its tensors.
pub(super) trait Storages {
    /// The place in the file of the storage `key`, and of all its bytes.
    ///
    /// # Errors
    /// Where it is not there.
    fn locate(&mut self, key: &str) -> Reading<Range<usize>>;
}

/// A storage as the pickle names it: the persistent id `("storage", class, key, device, number of values[, view])`.
#[derive(Debug, PartialEq)]
pub(super) struct StorageName<'a> {
    pub(super) key: &'a str,
    pub(super) element: Element,
    /// Values.
    length: usize,
    /// Values before it in the storage of that key, of which it is a part. Torch before 0.4 wrote such.
    start: usize,
}

impl<'a> StorageName<'a> {
    /// # Errors
    /// Where the value is no persistent id of a storage.
    pub(super) fn read(pickle: &Pickle<'a>, id: Id) -> Reading<Self> {
        let parts = match pickle.get(id) {
            Value::Persistent(parts) => pickle.sequence(*parts),
            _ => None,
        };
        let no_storage = || "has values in something that is no storage of torch's".to_owned();
        let &[kind, class, key, _, length, ref view @ ..] = parts.ok_or_else(no_storage)? else {
            return Err(no_storage());
        };
        if pickle.text(kind) != Some("storage") {
            return Err(no_storage());
        }
        let (_, class) = pickle.global(class).ok_or_else(no_storage)?;
        let element = Element::of_storage(class)
            .ok_or_else(|| format!("has values in a {}, a class that is not known here", shown(class.as_bytes())))?;
        let (key, mut length) = pickle.text(key).zip(pickle.count(length)).ok_or_else(no_storage)?;
        let mut start = 0;
        if let Some(view) = view.first().and_then(|view| pickle.sequence(*view)) {
            let &[_, of, size] = view else { return Err(no_storage()) };
            (start, length) = pickle.count(of).zip(pickle.count(size)).ok_or_else(no_storage)?;
        }
        Ok(Self { key, element, length, start })
    }
}

/// A tensor of a file.
#[derive(Debug)]
pub(super) struct StoredTensor {
    dims: Vec<usize>,
    values: Values,
}

#[derive(Debug)]
enum Values {
    /// In the file; every place that the sizes and strides reach is.
    At {
        element: Element,
        /// Bytes of the file, from the first value on.
        range: Range<usize>,
        /// In values, an axis each.
        strides: Vec<usize>,
    },
    /// Why they have no tensor here.
    Unreadable(String),
}

impl StoredTensor {
    /// Whether a value is a call that rebuilds a tensor.
    pub(super) fn is_one(pickle: &Pickle<'_>, id: Id) -> bool {
        Rebuild::read(pickle, id).is_some()
    }

    /// What the pickle says about a tensor, or `None` where the value is none.
    ///
    /// # Errors
    /// Where the file does not hold what the pickle says. A type that is not read here is no error yet.
    pub(super) fn read(pickle: &Pickle<'_>, id: Id, storages: &mut impl Storages) -> Reading<Option<Self>> {
        let Some(rebuild) = Rebuild::read(pickle, id) else { return Ok(None) };
        let unreadable = |dims, why: String| Ok(Some(Self { dims, values: Values::Unreadable(why) }));
        let (&[storage, start, size, stride], more) = match rebuild {
            Rebuild::Strided { args, more } => (args, more),
            Rebuild::Other { kind, size } => {
                return unreadable(pickle.counts(size)?, format!("is a {kind} tensor, which is not read here"));
            }
        };
        let (dims, strides) = (pickle.counts(size)?, pickle.counts(stride)?);
        if dims.len() != strides.len() {
            return Err(format!("has the {} strides of another shape than {dims:?}", strides.len()));
        }
        let name = StorageName::read(pickle, storage)?;
        let element = match more.dtype {
            None => name.element,
            Some(dtype) => {
                let dtype = pickle.global(dtype).map_or("", |(_, name)| name);
                match Element::of_name(dtype) {
                    Some(element) => element,
                    None => {
                        return unreadable(
                            dims,
                            format!("holds {}, a type that is not read here", shown(dtype.as_bytes())),
                        );
                    }
                }
            }
        };
        let marked = more.marks.and_then(|marks| pickle.mapping(marks));
        if marked.is_some_and(|marks| pickle.pairs(marks).any(|(_, on)| matches!(pickle.get(on), Value::Bool(true)))) {
            return unreadable(
                dims,
                "is kept negated or conjugated, which is not read here; clone it and save again".to_owned(),
            );
        }

        let whole = storages.locate(name.key)?;
        let bytes = |values: usize| values.checked_mul(name.element.size);
        let begin = bytes(name.start).and_then(|start| whole.start.checked_add(start));
        let end = begin.zip(bytes(name.length)).and_then(|(begin, length)| begin.checked_add(length));
        let part = begin.zip(end).filter(|(_, end)| *end <= whole.end).map(|(begin, end)| begin..end);
        let part = part.ok_or_else(|| {
            format!(
                "should have {} values of {} bytes in storage {}, which has {} bytes; is the download complete?",
                name.length,
                name.element.size,
                shown(name.key.as_bytes()),
                whole.len()
            )
        })?;
        let start = pickle.count(start).ok_or("begins at no place of its storage")?;
        let range = span(start, &dims, &strides)
            .and_then(|span| Some(span.start.checked_mul(element.size)?..span.end.checked_mul(element.size)?))
            .and_then(|span| Some(part.start.checked_add(span.start)?..part.start.checked_add(span.end)?))
            .filter(|range| range.end <= part.end || range.is_empty());
        let Some(range) = range else {
            return Err(format!("has the shape {dims:?}, which is more than the {} bytes of its storage", part.len()));
        };
        Ok(Some(Self { dims, values: Values::At { element, range, strides } }))
    }

    pub(super) fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// Bytes that it takes in memory.
    pub(super) fn size(&self) -> Option<usize> {
        let size = match &self.values {
            Values::At { element: Element { becomes: Becomes::Same(dtype), .. }, .. } => dtype.size_in_bytes(),
            Values::At { .. } => DType::I64.size_in_bytes(),
            Values::Unreadable(_) => 0,
        };
        count(&self.dims).and_then(|count| count.checked_mul(size))
    }

    /// The bytes of the file that its values are read from.
    pub(super) fn place(&self) -> Range<usize> {
        match &self.values {
            Values::At { range, .. } => range.clone(),
            Values::Unreadable(_) => 0..0,
        }
    }

    /// The tensor, from the bytes of the file.
    ///
    /// # Errors
    /// Where its values have no tensor here.
    pub(super) fn load(&self, file: &[u8], device: &Device) -> Reading<CandleResult<Tensor>> {
        let (element, range, strides) = match &self.values {
            Values::At { element, range, strides } => (element, range, strides),
            Values::Unreadable(why) => return Err(why.clone()),
        };
        let bytes = if count(&self.dims) == Some(0) { &[] } else { &file[range.clone()] };
        let gathered;
        let bytes = if is_row_major(&self.dims, strides) {
            bytes
        } else {
            gathered = gather(bytes, element.size, &self.dims, strides);
            &gathered
        };
        Ok(match element.becomes {
            Becomes::Same(dtype) => Tensor::from_raw_buffer(bytes, dtype, &self.dims, device),
            Becomes::I64 => {
                let wide: Vec<i64> = bytes.iter().map(|&byte| i64::from(byte as i8)).collect();
                Tensor::from_vec(wide, self.dims.as_slice(), device)
            }
            Becomes::Nothing => {
                return Err(format!("holds {}, a type that is not read here; convert it and save again", element.name));
            }
        })
    }
}

/// A call that rebuilds a tensor.
enum Rebuild<'p> {
    /// Storage, offset in it, sizes, strides.
    Strided { args: &'p [Id; 4], more: More },
    /// A tensor without values in one storage.
    Other { kind: &'static str, size: Id },
}

/// What else a call may say.
#[derive(Default)]
struct More {
    /// A type other than the storage's.
    dtype: Option<Id>,
    /// Whether the values are kept negated or conjugated.
    marks: Option<Id>,
}

impl<'p> Rebuild<'p> {
    fn read(pickle: &'p Pickle<'_>, id: Id) -> Option<Self> {
        /// A parameter of a subclass of tensors is two calls around one.
        const DEEPEST: usize = 4;
        let (mut module, mut name, mut args) = pickle.call(id)?;
        for _ in 0..DEEPEST {
            if !module.starts_with("torch") {
                return None;
            }
            let strided = |more| Some(Self::Strided { args: args.first_chunk()?, more });
            let at = |place: usize| args.get(place).copied();
            match name {
                "_rebuild_tensor" => return strided(More::default()),
                "_rebuild_tensor_v2" => return strided(More { dtype: None, marks: at(6) }),
                "_rebuild_tensor_v3" => return strided(More { dtype: Some(at(6)?), marks: at(7) }),
                "_rebuild_qtensor" => return Some(Self::Other { kind: "quantized", size: at(2)? }),
                "_rebuild_meta_tensor_no_storage" => return Some(Self::Other { kind: "meta", size: at(1)? }),
                "_rebuild_sparse_tensor" => {
                    return Some(Self::Other { kind: "sparse", size: *pickle.sequence(at(1)?)?.get(2)? });
                }
                "_rebuild_parameter" | "_rebuild_parameter_with_state" => {
                    (module, name, args) = pickle.call(at(0)?)?;
                }
                // Function, type, arguments of the function, attributes.
                "_rebuild_from_type_v2" => {
                    (module, name) = pickle.global(at(0)?)?;
                    args = pickle.sequence(at(2)?)?;
                }
                _ => return None,
            }
        }
        None
    }
}

fn count(dims: &[usize]) -> Option<usize> {
    dims.iter().try_fold(1usize, |count, &dim| count.checked_mul(dim))
}

/// The values of its storage that a tensor reaches, from its first on.
fn span(start: usize, dims: &[usize], strides: &[usize]) -> Option<Range<usize>> {
    if dims.contains(&0) {
        return Some(0..0);
    }
    let last = dims
        .iter()
        .zip(strides)
        .try_fold(start, |last, (dim, stride)| last.checked_add((dim - 1).checked_mul(*stride)?));
    Some(start..last?.checked_add(1)?)
}

/// Whether the values lie one after the other in the order of the axes. The stride of an axis of length 1 says nothing.
fn is_row_major(dims: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1;
    dims.contains(&0)
        || dims.iter().zip(strides).rev().filter(|(dim, _)| **dim != 1).all(|(dim, stride)| {
            let fits = *stride == expected;
            expected *= dim;
            fits
        })
}

/// The values of a tensor in the order of its axes, none of which is 0 long.
fn gather(bytes: &[u8], size: usize, dims: &[usize], strides: &[usize]) -> Vec<u8> {
    let (Some((&inner, outer)), Some((&step, outer_strides))) = (dims.split_last(), strides.split_last()) else {
        return bytes.to_vec();
    };
    let mut out = Vec::with_capacity(dims.iter().product::<usize>() * size);
    let mut index = vec![0; outer.len()];
    let mut at = 0;
    loop {
        for i in 0..inner {
            let from = (at + i * step) * size;
            out.extend_from_slice(&bytes[from..from + size]);
        }
        // The next index, the last axis fastest, as a counter carries over.
        let mut axis = outer.len();
        loop {
            let Some(next) = axis.checked_sub(1) else { return out };
            axis = next;
            index[axis] += 1;
            at += outer_strides[axis];
            if index[axis] < outer[axis] {
                break;
            }
            at -= outer_strides[axis] * outer[axis];
            index[axis] = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(dims: &[usize], strides: &[usize], expected: &[u8]) {
        let bytes: Vec<u8> = (0..24).collect();
        let reach = span(0, dims, strides).unwrap();
        assert_eq!(gather(&bytes[reach], 1, dims, strides), expected, "{dims:?} {strides:?}");
        let in_order = expected.iter().enumerate().all(|(i, &value)| i == usize::from(value));
        assert_eq!(is_row_major(dims, strides), in_order, "{dims:?} {strides:?}");
    }

    #[test]
    fn values_come_in_the_order_of_the_axes() {
        check(&[2, 3], &[3, 1], &[0, 1, 2, 3, 4, 5]);
        check(&[3, 2], &[1, 3], &[0, 3, 1, 4, 2, 5]);
        check(&[2, 2, 2], &[0, 1, 0], &[0, 0, 1, 1, 0, 0, 1, 1]);
        check(&[2, 1, 3], &[3, 17, 1], &[0, 1, 2, 3, 4, 5]);
        check(&[4], &[5], &[0, 5, 10, 15]);
        check(&[], &[], &[0]);
        check(&[1, 1], &[9, 9], &[0]);
        check(&[2, 2, 3], &[12, 6, 2], &[0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22]);
    }

    #[test]
    fn a_span_that_cannot_be_counted_is_none() {
        assert_eq!(span(5, &[3, 2], &[1, 3]), Some(5..11));
        assert_eq!(span(usize::MAX, &[1], &[1]), None);
        assert_eq!(span(0, &[usize::MAX], &[2]), None);
        assert_eq!(span(7, &[0, usize::MAX], &[2, 2]), Some(0..0));
    }
}
