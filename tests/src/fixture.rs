//! One case of the fixture set: `NAME.safetensors` with its entry of `manifest.json`.
//!
//! Tensor names: `w/` weights, `in/` inputs, `out/` outputs in full, `probe/X` a sample of a big output with `shape/X` and
//! `stat/X` (mean, unbiased deviation, greatest magnitude), `out64/` a float64 run, `grad/`, `gradprobe/`, `gradnorm/`,
//! `after1/`, `after3/` (`tests/fixtures/README.md`).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensors;
use serde_json::Value;

use crate::recipe::recipe_weights;

/// Folder of the fixtures: `PARITY_FIXTURES` where it is set, else `tests/fixtures` of this repository.
#[must_use]
pub fn fixture_dir() -> PathBuf {
    std::env::var_os("PARITY_FIXTURES")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures"), PathBuf::from)
}

/// Values and shape of one stored tensor, as the file holds them.
struct Stored {
    dtype: safetensors::Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// A loaded fixture.
pub struct Fixture {
    name: String,
    seed: u64,
    config: Value,
    tensors: BTreeMap<String, Stored>,
}

impl Fixture {
    /// Reads `NAME.safetensors` and the entry `NAME` of `manifest.json` in [`fixture_dir`].
    ///
    /// # Panics
    /// Where either is missing or broken; the message names the file.
    #[must_use]
    pub fn load(name: &str) -> Self {
        Self::load_from(&fixture_dir(), name)
    }

    /// [`Fixture::load`] from another folder.
    ///
    /// # Panics
    /// As [`Fixture::load`].
    #[must_use]
    pub fn load_from(dir: &Path, name: &str) -> Self {
        let read = |path: PathBuf| {
            fs::read(&path).unwrap_or_else(|e| {
                panic!("fixture {name}: cannot read {}: {e}; is PARITY_FIXTURES right?", path.display())
            })
        };
        let manifest: Value = serde_json::from_slice(&read(dir.join("manifest.json")))
            .unwrap_or_else(|e| panic!("fixture {name}: manifest.json in {}: {e}", dir.display()));
        let entry = manifest.get(name).unwrap_or_else(|| panic!("fixture {name}: manifest.json has no such entry"));
        let seed = entry["seed"].as_u64().unwrap_or_else(|| panic!("fixture {name}: manifest.json gives no seed"));
        let bytes = read(dir.join(format!("{name}.safetensors")));
        let file = SafeTensors::deserialize(&bytes).unwrap_or_else(|e| panic!("fixture {name}: {e}"));
        let tensors = file
            .iter()
            .map(|(key, view)| {
                let stored = Stored { dtype: view.dtype(), shape: view.shape().to_vec(), bytes: view.data().to_vec() };
                (key.to_owned(), stored)
            })
            .collect();
        Self { name: name.to_owned(), seed, config: entry["config"].clone(), tensors }
    }

    /// Name of the case.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Seed of the set that this case belongs to.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The case's configuration and the numbers that the reference reported.
    #[must_use]
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// A number of the configuration by JSON pointer, for example `/metrics/audio_to_text_R@1`.
    ///
    /// # Panics
    /// Where there is none.
    #[must_use]
    #[track_caller]
    pub fn number(&self, pointer: &str) -> f64 {
        self.config
            .pointer(pointer)
            .and_then(Value::as_f64)
            .unwrap_or_else(|| panic!("fixture {}: config has no number at {pointer}", self.name))
    }

    /// Every key, in order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// True where `key` is stored.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.tensors.contains_key(key)
    }

    /// Shape of the stored tensor itself (for a probe: its number of points).
    ///
    /// # Panics
    /// Where `key` is missing.
    #[must_use]
    #[track_caller]
    pub fn shape(&self, key: &str) -> Vec<usize> {
        self.stored(key).shape.clone()
    }

    /// Values (row-major) and shape of an `f32` tensor.
    ///
    /// # Panics
    /// Where `key` is missing or of another type. So do the other readers.
    #[must_use]
    #[track_caller]
    pub fn f32(&self, key: &str) -> (Vec<f32>, Vec<usize>) {
        self.read(key, safetensors::Dtype::F32, f32::from_le_bytes)
    }

    /// Values and shape of an `f64` tensor.
    #[must_use]
    #[track_caller]
    pub fn f64(&self, key: &str) -> (Vec<f64>, Vec<usize>) {
        self.read(key, safetensors::Dtype::F64, f64::from_le_bytes)
    }

    /// Values and shape of an `i64` tensor.
    #[must_use]
    #[track_caller]
    pub fn i64(&self, key: &str) -> (Vec<i64>, Vec<usize>) {
        self.read(key, safetensors::Dtype::I64, i64::from_le_bytes)
    }

    /// Values and shape of an `i16` tensor.
    #[must_use]
    #[track_caller]
    pub fn i16(&self, key: &str) -> (Vec<i16>, Vec<usize>) {
        self.read(key, safetensors::Dtype::I16, i16::from_le_bytes)
    }

    /// Values and shape of a `u8` tensor.
    #[must_use]
    #[track_caller]
    pub fn u8(&self, key: &str) -> (Vec<u8>, Vec<usize>) {
        self.read(key, safetensors::Dtype::U8, u8::from_le_bytes)
    }

    /// An `f32` or `f64` tensor as `f64` values, whichever the file holds.
    #[must_use]
    #[track_caller]
    pub fn float(&self, key: &str) -> (Vec<f64>, Vec<usize>) {
        if self.stored(key).dtype == safetensors::Dtype::F64 {
            return self.f64(key);
        }
        let (values, shape) = self.f32(key);
        (values.into_iter().map(f64::from).collect(), shape)
    }

    /// The tensor on `device`, in the type of the file (`f32`, `f64`, `i64`, `u8`).
    ///
    /// # Panics
    /// Where `key` is missing, candle has no such type or the device refuses it.
    #[must_use]
    #[track_caller]
    pub fn tensor(&self, key: &str, device: &Device) -> Tensor {
        let stored = self.stored(key);
        let dtype = DType::try_from(stored.dtype)
            .unwrap_or_else(|e| panic!("fixture {}: {key}: candle reads no {:?}: {e}", self.name, stored.dtype));
        Tensor::from_raw_buffer(&stored.bytes, dtype, &stored.shape, device)
            .unwrap_or_else(|e| panic!("fixture {}: {key}: {e}", self.name))
    }

    /// The weights of the case under LAION's keys: the stored `w/` tensors, or those of the recipe for `config.params`
    /// with the set's seed. Buffers that the constructor computes are not among them.
    ///
    /// # Panics
    /// Where the case has neither (the training cases: give the model's own names and shapes to
    /// [`recipe_weights`](crate::recipe_weights)).
    #[must_use]
    #[track_caller]
    pub fn weights(&self) -> BTreeMap<String, Tensor> {
        let stored: BTreeMap<_, _> = self
            .keys()
            .filter_map(|key| Some((key.strip_prefix("w/")?.to_owned(), self.tensor(key, &Device::Cpu))))
            .collect();
        if !stored.is_empty() {
            return stored;
        }
        let params = self.config.get("params").and_then(Value::as_object).unwrap_or_else(|| {
            panic!(
                "fixture {}: neither w/ tensors nor config.params; use recipe_weights with the model's shapes",
                self.name
            )
        });
        recipe_weights(
            params.iter().map(|(name, dims)| {
                let dims: Option<Vec<usize>> =
                    dims.as_array().and_then(|d| d.iter().map(|n| Some(n.as_u64()? as usize)).collect());
                let dims = dims.unwrap_or_else(|| panic!("fixture {}: config.params.{name} is no shape", self.name));
                (name.as_str(), dims)
            }),
            self.seed,
        )
    }

    #[track_caller]
    fn stored(&self, key: &str) -> &Stored {
        self.tensors.get(key).unwrap_or_else(|| {
            let group = key.split('/').next().unwrap_or(key);
            let near: Vec<_> = self.keys().filter(|k| k.split('/').next() == Some(group)).take(12).collect();
            panic!("fixture {}: no tensor {key}; it has {near:?} …", self.name)
        })
    }

    #[track_caller]
    fn read<const N: usize, T>(
        &self,
        key: &str,
        dtype: safetensors::Dtype,
        from: fn([u8; N]) -> T,
    ) -> (Vec<T>, Vec<usize>) {
        let stored = self.stored(key);
        assert!(stored.dtype == dtype, "fixture {}: {key} is {:?}, not {dtype:?}", self.name, stored.dtype);
        let values = stored.bytes.chunks_exact(N).map(|c| from(c.try_into().expect("chunks of N bytes"))).collect();
        (values, stored.shape.clone())
    }
}
