//! Pickles written by hand: what torch 2.11 on Python 3 does not write, but older ones and other programs do.

use super::super::machine::parse;
use super::super::tensors;
use super::super::value::Value;
use super::{CPU, archive, bits};

/// `("storage", torch.FloatStorage, "0", "cpu", 6)` as a persistent id, after MARK MARK `_rebuild_tensor_v2`'s name.
const STORAGE: &[u8] = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x06tQ";

/// `torch._utils.NAME(storage, offset, (2,), (1,))`.
pub(super) fn tensor(name: &str, storage: &[u8], offset: u8) -> Vec<u8> {
    [format!("ctorch._utils\n{name}\n(").as_bytes(), storage, b"K", &[offset], b"K\x02\x85K\x01\x85tR"].concat()
}

/// The names and the values of the first storage's tensors in an archive with this pickle, whose values are the numbers 0 to 5.
#[track_caller]
fn names(pickle: &[u8]) -> Vec<(String, Vec<f32>)> {
    let values: Vec<u8> = (0..6).flat_map(|value| (value as f32).to_le_bytes()).collect();
    let bytes = archive(pickle, &[("data/0", &values)]);
    let tensors = tensors(&bytes).unwrap();
    let load =
        |tensor: &super::super::tensor::StoredTensor| tensor.load(&bytes, &CPU).unwrap().unwrap().to_vec1().unwrap();
    tensors.iter().map(|(name, tensor)| (name.clone(), load(tensor))).collect()
}

#[test]
fn an_ordered_dict_of_python_2_is_made_from_a_list_of_pairs() {
    // Text is SHORT_BINSTRING or BINSTRING there, and a number of more than 32 bits INT.
    let storage = b"(U\x07storagectorch\nFloatStorage\nU\x010T\x03\0\0\0cpuK\x06NtQ";
    let tensor = tensor("_rebuild_tensor", storage, 3);
    let pickle = [b"\x80\x02ccollections\nOrderedDict\n(]((U\x06weight", &tensor[..], b"leI3000000000\n0tR."].concat();
    assert_eq!(names(&pickle), [("weight".to_owned(), vec![3.0, 4.0])]);
}

#[test]
fn a_view_of_a_storage_is_a_part_of_it() {
    // The view of 3 values from value 1 on: ("key", 1, 3).
    let storage =
        b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x06X\x01\0\0\0vK\x01K\x03\x87tQ";
    let pickle = [b"\x80\x02}X\x01\0\0\0w", &tensor("_rebuild_tensor", storage, 1)[..], b"s."].concat();
    assert_eq!(names(&pickle), [("w".to_owned(), vec![2.0, 3.0])]);
}

#[test]
fn a_subclass_of_dict_is_a_mapping() {
    let tensor = tensor("_rebuild_tensor_v2", STORAGE, 0);
    // AttributeDict.__new__(AttributeDict), then an item, then attributes.
    let pickle = [
        b"\x80\x02clightning\nAttributeDict\n)\x81X\x0a\0\0\0state_dict}X\x01\0\0\0w",
        &tensor[..],
        b"ssX\x01\0\0\0aNsN}b0.",
    ]
    .concat();
    // `b0` leaves nothing: the last POP took the root away.
    assert!(tensors(&archive(&pickle, &[])).is_err());
    let pickle = [&pickle[..pickle.len() - 5], b"}b."].concat();
    assert_eq!(names(&pickle), [("w".to_owned(), vec![0.0, 1.0])]);
}

#[test]
fn the_mapping_with_most_tensors_is_the_state_dict_but_for_averages_and_optimizers() {
    let tensor = tensor("_rebuild_tensor_v2", STORAGE, 0);
    let dict = |items: &[(&str, Vec<u8>)]| {
        let items = items
            .iter()
            .flat_map(|(key, value)| [b"X", &(key.len() as u32).to_le_bytes()[..], key.as_bytes(), value].concat());
        [b"}(".to_vec(), items.collect(), b"u".to_vec()].concat()
    };
    let some = |prefix: &str, count: usize| {
        let names: Vec<String> = (0..count).map(|i| format!("{prefix}{i}")).collect();
        dict(&names.iter().map(|name| (name.as_str(), tensor.clone())).collect::<Vec<_>>())
    };
    #[track_caller]
    fn check(root: &[u8], first: &str) {
        let pickle = [b"\x80\x04", root, b"."].concat();
        assert_eq!(names(&pickle)[0].0, first);
    }
    check(&dict(&[("a", some("a", 1)), ("b", some("b", 2)), ("optimizer", some("c", 3))]), "b0");
    check(&dict(&[("a", some("a", 2)), ("b", some("b", 2)), ("model_ema", some("c", 3))]), "a0");
    check(&dict(&[("ema", some("a", 2)), ("optimizer_states", some("b", 3))]), "a0");
    check(&dict(&[("mean", tensor.clone()), ("deep", dict(&[("model", some("b", 2))]))]), "b0");
    check(&dict(&[("t", tensor.clone()), ("a", some("a", 1))]), "t");
}

#[test]
fn numbers_of_every_width_are_numbers() {
    fn read<T>(bytes: &[u8], value: impl Fn(&Value<'_>) -> T) -> T {
        let pickle = [b"\x80\x02", bytes, b"."].concat();
        let (pickle, end) = parse(&pickle, 0).unwrap();
        assert_eq!(end, bytes.len() + 3);
        value(pickle.get(pickle.root))
    }
    let int = |bytes: &[u8]| {
        read(bytes, |value| match value {
            Value::Int(value) => *value,
            other => panic!("{other:?}"),
        })
    };
    assert_eq!(int(b"K\xff"), 255);
    assert_eq!(int(b"M\xff\xff"), 65535);
    assert_eq!(int(b"J\xff\xff\xff\xff"), -1);
    assert_eq!(int(b"\x8a\x00"), 0);
    assert_eq!(int(b"\x8a\x02\x00\xff"), -256);
    assert_eq!(int(b"\x8a\x02\xff\x00"), 255);
    assert_eq!(int(b"\x8b\x01\0\0\0\x80"), -128);
    assert_eq!(int(b"I-12\n"), -12);
    assert_eq!(int(b"L12L\n"), 12);
    assert!(read(b"I01\n", |value| matches!(value, Value::Bool(true))));
    assert!(read(b"\x8a\x09\0\0\0\0\0\0\0\0\x01", |value| matches!(value, Value::Long([.., 1]))));
    assert!(read(b"G\0\0\0\0\0\0\0\0", |value| matches!(value, Value::Opaque)));
}

#[test]
fn frames_memo_and_stack_do_what_picklers_mean() {
    let shown = |bytes: &[u8]| {
        let pickle = [b"\x80\x05", bytes, b"."].concat();
        let (pickle, _) = parse(&pickle, 0).unwrap();
        let items = pickle.sequence(pickle.root).unwrap_or_default();
        items.iter().map(|&id| pickle.text(id).map_or_else(|| pickle.describe(id), str::to_owned)).collect::<Vec<_>>()
    };
    // FRAME; MEMOIZE counts up; BINGET finds; DUP, POP, POP_MARK.
    assert_eq!(shown(b"\x95\x09\0\0\0\0\0\0\0\x8c\x01a\x94\x8c\x01b\x94h\0\x87"), ["a", "b", "a"]);
    assert_eq!(shown(b"(\x8c\x01a20K\x01\x85(K\x02K\x031t"), ["a", "a list of 1"]);
    // Bytes, a bytearray and sets are values like others: BINBYTES8, BYTEARRAY8, EMPTY_SET ADDITEMS, FROZENSET.
    let sets = b"(\x8e\x01\0\0\0\0\0\0\0x\x96\x01\0\0\0\0\0\0\0y\x8f(K\x01K\x02\x90(K\x01\x91t";
    assert_eq!(shown(sets), ["a value"; 4]);
    // STACK_GLOBAL, NEWOBJ_EX, LONG_BINPUT, LONG_BINGET.
    let object = b"\x8c\x01m\x8c\x01n\x93)}\x92r\0\0\x01\0j\0\0\x01\0\x86";
    assert_eq!(shown(object), ["an object of m.n"; 2]);
}

#[test]
fn values_of_a_legacy_file_need_no_alignment() {
    let path = super::folder().join("plain.legacy-p2.pt");
    let bytes = std::fs::read(path).unwrap();
    let tensors = tensors(&bytes).unwrap();
    let weight = &tensors["weight"];
    let expected = bits(&weight.load(&bytes, &CPU).unwrap().unwrap());
    for shift in 1..8 {
        let shifted = [&vec![0; shift][..], &bytes].concat();
        assert_eq!(bits(&weight.load(&shifted[shift..], &CPU).unwrap().unwrap()), expected);
    }
}
