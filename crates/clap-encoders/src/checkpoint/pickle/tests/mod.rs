//! Files of torch 2.11 (`tests/files/README.md`, made by `tests/reference/make_torch_files.py`) hold what torch put there.

mod faults;
mod hostile;
mod opcodes;

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};

use super::PickleFile;

const CPU: Device = Device::Cpu;

/// What the reader makes of an archive with this pickle and these further entries.
fn archive(pickle: &[u8], entries: &[(&str, &[u8])]) -> Vec<u8> {
    let entries = entries.iter().map(|(name, data)| (format!("any/{name}"), data.to_vec()));
    let all: Vec<_> = [("any/data.pkl".to_owned(), pickle.to_vec())].into_iter().chain(entries).collect();
    crate::checkpoint::tests::torch_archive::zip(&all)
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/files/torch")
}

fn bits(tensor: &Tensor) -> Vec<u8> {
    let mut bytes = Vec::new();
    tensor.write_bytes(&mut bytes).unwrap();
    bytes
}

/// Every `.pt` of a case against its `.safetensors`; gives their number.
#[track_caller]
fn check(case: &str, unreadable: &[&str]) {
    let expected = candle_core::safetensors::load(folder().join(format!("{case}.safetensors")), &CPU).unwrap();
    let files = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let is_of_case = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.ends_with(".pt") && name.split('.').next() == Some(case)
    };
    let files: Vec<PathBuf> = files.filter(is_of_case).collect();
    assert!(!files.is_empty(), "no file of {case}");
    for path in files {
        let origin = path.display();
        let file = PickleFile::open(&path).unwrap();
        let mut left: Vec<&String> = expected.keys().collect();
        for (name, dims) in file.shapes() {
            if unreadable.contains(&name.as_str()) {
                let message = file.load(&name, &CPU).unwrap_err().to_string();
                assert!(message.contains(&format!("`{name}`")) && message.contains("not read here"), "{message}");
                continue;
            }
            let Some(expected) = expected.get(&name) else { panic!("{origin}: {name} should not be there") };
            let tensor = file.load(&name, &CPU).unwrap().unwrap();
            assert_eq!(dims, expected.dims(), "{origin}: {name}");
            assert_eq!(tensor.dims(), expected.dims(), "{origin}: {name}");
            assert_eq!(tensor.dtype(), expected.dtype(), "{origin}: {name}");
            assert_eq!(bits(&tensor), bits(expected), "{origin}: {name}");
            left.retain(|key| **key != name);
        }
        assert!(left.is_empty(), "{origin}: {left:?} were not found");
        assert!(file.load("of.no.such.name", &CPU).unwrap().is_none());
    }
}

#[test]
fn every_protocol_and_format_gives_the_same_tensors() {
    check("plain", &[]);
}

#[test]
fn a_training_checkpoint_gives_its_state_dict_and_nothing_of_its_optimizer() {
    check("training", &[]);
}

#[test]
fn the_state_dict_of_a_module_is_found_under_any_key() {
    check("panns", &[]);
}

#[test]
fn views_of_a_storage_are_the_values_that_they_view() {
    check("views", &[]);
}

#[test]
fn every_type_is_read_or_named() {
    check("dtypes", &["complex64", "float8_e5m2", "quantized", "sparse", "negated"]);
}
