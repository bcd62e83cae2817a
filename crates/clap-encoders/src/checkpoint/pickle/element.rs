//! The types of values that torch's storages hold, and what they become here.
//!
//! Source: torch 2.11 `torch/__init__.py` (the storage classes), `torch/storage.py` (`_new_dtypes`).

use candle_core::DType;

/// The type of a tensor's values in a file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Element {
    /// torch's name of the type.
    pub(super) name: &'static str,
    /// Bytes of one value.
    pub(super) size: usize,
    pub(super) becomes: Becomes,
}

/// What values become.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Becomes {
    /// Values of this type, bit for bit.
    Same(DType),
    /// `i8`, which candle has not, becomes `i64`, torch's own choice of an integer.
    I64,
    /// Nothing: no weight has such values.
    Nothing,
}

use Becomes::{I64, Nothing, Same};

/// Name of the type, of its storage class less `Storage` (none where torch has no such class), size.
const ELEMENTS: [(&str, &str, usize, Becomes); 25] = [
    ("float32", "Float", 4, Same(DType::F32)),
    ("float64", "Double", 8, Same(DType::F64)),
    ("float16", "Half", 2, Same(DType::F16)),
    ("bfloat16", "BFloat16", 2, Same(DType::BF16)),
    ("int64", "Long", 8, Same(DType::I64)),
    ("int32", "Int", 4, Same(DType::I32)),
    ("int16", "Short", 2, Same(DType::I16)),
    ("int8", "Char", 1, I64),
    ("uint8", "Byte", 1, Same(DType::U8)),
    // torch stores 0 and 1.
    ("bool", "Bool", 1, Same(DType::U8)),
    ("uint32", "", 4, Same(DType::U32)),
    // Bytes of any type, which the call that rebuilds a tensor then names.
    ("uint8", "Untyped", 1, Same(DType::U8)),
    ("uint16", "", 2, Nothing),
    ("uint64", "", 8, Nothing),
    ("complex64", "ComplexFloat", 8, Nothing),
    ("complex128", "ComplexDouble", 16, Nothing),
    ("complex32", "ComplexHalf", 4, Nothing),
    ("float8_e4m3fn", "", 1, Nothing),
    ("float8_e5m2", "", 1, Nothing),
    ("float8_e4m3fnuz", "", 1, Nothing),
    ("float8_e5m2fnuz", "", 1, Nothing),
    ("qint8", "QInt8", 1, Nothing),
    ("quint8", "QUInt8", 1, Nothing),
    ("qint32", "QInt32", 4, Nothing),
    ("quint4x2", "QUInt4x2", 1, Nothing),
];

impl Element {
    /// Of the values in a storage of this class, for example `FloatStorage`.
    pub(super) fn of_storage(class: &str) -> Option<Self> {
        let class = class.strip_suffix("Storage")?;
        Self::find(|_, of_class| !class.is_empty() && of_class == class)
    }

    /// Of this name, for example `float32`.
    pub(super) fn of_name(name: &str) -> Option<Self> {
        Self::find(|of_name, _| of_name == name)
    }

    fn find(is: impl Fn(&str, &str) -> bool) -> Option<Self> {
        let found = ELEMENTS.into_iter().find(|(name, class, ..)| is(name, class));
        found.map(|(name, _, size, becomes)| Self { name, size, becomes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_candles_where_candle_has_the_type() {
        for (name, _, size, becomes) in ELEMENTS {
            if let Same(dtype) = becomes {
                assert_eq!(size, dtype.size_in_bytes(), "{name}");
            }
        }
    }

    #[test]
    fn storages_are_told_by_class_and_types_by_name() {
        assert_eq!(Element::of_storage("HalfStorage").unwrap().becomes, Same(DType::F16));
        assert_eq!(Element::of_name("uint32").unwrap().becomes, Same(DType::U32));
        for class in ["Storage", "Half", "", "TypedStorage", "halfStorage"] {
            assert!(Element::of_storage(class).is_none(), "{class}");
        }
    }
}
