//! Embeddings of clips kept on disk, as they are before they are normalised, so that a second evaluation of a model does no audio work.
//!
//! ```text
//! FOLDER/KEY.embeddings    KEY: hash of the model, its front end and what is taken of long clips
//!   record, record, …      appended as clips are embedded; a torn one at the end is cut off
//! record: SHA-256 of the encoded sound (32) · windows u32 · width u32 · windows·width f32 · first 8 bytes of SHA-256 of all that
//! ```
//!
//! A model is known by what it makes of a fixed noise, so that weights, float type, kernels and whatever else changes a bit of an embedding
//! makes a new file, and nothing has to be declared. Decoding and resampling are not heard there; they are in [`VERSION`].
//! One process at a time writes a file; others only read it.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::Device;
use clap_audio::{FeatureExtractor, Waveform};
use clap_encoders::{ClapModel, features_tensor};
use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};

/// SHA-256 of an encoded sound.
pub(crate) type SoundHash = [u8; 32];

/// To be raised where sounds come to be decoded or resampled otherwise.
const VERSION: u32 = 1;

const HEAD: usize = 32 + 4 + 4;
const CHECK: usize = 8;

/// Window embeddings by the hash of their sound; shared by the loader's threads.
#[derive(Debug)]
pub struct EmbeddingCache {
    path: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// `None` where another process writes.
    file: Option<File>,
    known: HashMap<SoundHash, Arc<WindowEmbeds>>,
}

/// Embeddings of the windows of one clip.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct WindowEmbeds {
    pub(crate) width: usize,
    /// Row by row.
    pub(crate) values: Vec<f32>,
}

impl EmbeddingCache {
    /// The cache of one model in `folder`, which is made if it is not there. `listening` names what else decides what the model hears of
    /// a sound: the policy for long clips and its seed.
    ///
    /// # Errors
    /// Those of the file system, with the path; those of the model.
    pub fn open(
        folder: &Path,
        model: &ClapModel,
        extractor: &FeatureExtractor,
        device: &Device,
        listening: &str,
    ) -> Result<Self> {
        let key = key(model, extractor, device, listening)?;
        Self::at(folder, &key)
    }

    fn at(folder: &Path, key: &str) -> Result<Self> {
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let path = folder.join(format!("{key}.embeddings"));
        let file = OpenOptions::new().read(true).append(true).create(true).open(&path).map_err(Error::io(&path))?;
        let bytes = fs::read(&path).map_err(Error::io(&path))?;
        let (mut known, mut at) = (HashMap::new(), 0);
        while let Some((hash, embeds, length)) = record(&bytes[at..]) {
            known.insert(hash, Arc::new(embeds));
            at += length;
        }
        // Whose lock it is may still be writing what looks torn.
        let file = file.try_lock().is_ok().then_some(file);
        if let Some(file) = file.as_ref().filter(|_| at < bytes.len()) {
            file.set_len(at as u64).map_err(Error::io(&path))?;
        }
        Ok(Self { path, inner: Mutex::new(Inner { file, known }) })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sounds whose embeddings are kept.
    pub fn len(&self) -> usize {
        self.inner().known.len()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn get(&self, hash: &SoundHash) -> Option<Arc<WindowEmbeds>> {
        self.inner().known.get(hash).cloned()
    }

    /// Keeps what is finite: a diverged model's numbers are not worth it.
    pub(crate) fn put(&self, hash: SoundHash, embeds: WindowEmbeds) -> Result<()> {
        if embeds.width == 0 || embeds.values.iter().any(|value| !value.is_finite()) {
            return Ok(());
        }
        let mut bytes = Vec::with_capacity(HEAD + embeds.values.len() * 4 + CHECK);
        bytes.extend(hash);
        bytes.extend(((embeds.values.len() / embeds.width) as u32).to_le_bytes());
        bytes.extend((embeds.width as u32).to_le_bytes());
        bytes.extend(embeds.values.iter().flat_map(|value| value.to_le_bytes()));
        let check = Sha256::digest(&bytes);
        bytes.extend(&check[..CHECK]);
        let mut inner = self.inner();
        if let Some(file) = &mut inner.file {
            file.write_all(&bytes).map_err(Error::io(&self.path))?;
        }
        inner.known.insert(hash, Arc::new(embeds));
        Ok(())
    }
}

/// The hash by which a sound is known.
pub(crate) fn sound_hash(encoded: &[u8]) -> SoundHash {
    Sha256::digest(encoded).into()
}

/// The record at the beginning of `bytes`, and its length; `None` where there is no whole one.
fn record(bytes: &[u8]) -> Option<(SoundHash, WindowEmbeds, usize)> {
    let head = bytes.get(..HEAD)?;
    let number = |at: usize| Some(u32::from_le_bytes(head.get(at..at + 4)?.try_into().ok()?) as usize);
    let (windows, width) = (number(32)?, number(36)?);
    let length = windows.checked_mul(width)?.checked_mul(4)?.checked_add(HEAD)?;
    let check = bytes.get(length..length.checked_add(CHECK)?)?;
    if width == 0 || Sha256::digest(&bytes[..length])[..CHECK] != *check {
        return None;
    }
    let (values, _) = bytes[HEAD..length].as_chunks::<4>();
    let values = values.iter().map(|value| f32::from_le_bytes(*value)).collect();
    Some((head[..32].try_into().ok()?, WindowEmbeds { width, values }, length + CHECK))
}

/// What decides the embedding of a sound, as 32 hexadecimal digits.
fn key(model: &ClapModel, extractor: &FeatureExtractor, device: &Device, listening: &str) -> Result<String> {
    let mut hash = Sha256::new();
    let front_end = serde_json::to_string(extractor.config())?;
    hash.update(format!("{VERSION}\n{front_end}\n{:?}\n{listening}\n", extractor.preset()));
    let config = extractor.config();
    // Longer than the window, so that what a model does with the views of a longer clip is heard as well.
    let seconds = 1.25 * config.max_length_s;
    let features = extractor.extract(&noise(config.sampling_rate, seconds), extractor.default_policy(), None)?;
    let (features, is_longer) = features_tensor(&features, device)?;
    let embeds = model.audio_projected(&features, &is_longer)?;
    for value in embeds.to_dtype(candle_core::DType::F32)?.flatten_all()?.to_vec1::<f32>()? {
        hash.update(value.to_le_bytes());
    }
    Ok(hash.finalize()[..16].iter().map(|byte| format!("{byte:02x}")).collect())
}

/// White noise from a congruential generator.
fn noise(sample_rate: u32, seconds: f64) -> Waveform {
    let mut state = 1u32;
    let mut sample = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    Waveform { samples: (0..(f64::from(sample_rate) * seconds) as usize).map(|_| sample()).collect(), sample_rate }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn embeds(first: f32, windows: usize) -> WindowEmbeds {
        WindowEmbeds { width: 3, values: (0..3 * windows).map(|i| first + i as f32).collect() }
    }

    #[test]
    fn what_was_kept_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let hashes = [b"one".as_slice(), b"two"].map(sound_hash);
        let cache = EmbeddingCache::at(folder.path(), "k").unwrap();
        assert!(cache.is_empty() && cache.get(&hashes[0]).is_none());
        cache.put(hashes[0], embeds(0.5, 1)).unwrap();
        cache.put(hashes[1], embeds(7.0, 4)).unwrap();
        cache.put(sound_hash(b"nan"), embeds(f32::NAN, 1)).unwrap();
        drop(cache);
        let cache = EmbeddingCache::at(folder.path(), "k").unwrap();
        assert_eq!(cache.len(), 2);
        assert_eq!(*cache.get(&hashes[0]).unwrap(), embeds(0.5, 1));
        assert_eq!(*cache.get(&hashes[1]).unwrap(), embeds(7.0, 4));
        assert!(EmbeddingCache::at(folder.path(), "another model").unwrap().is_empty());
    }

    /// A second process at the same time reads, and leaves the file alone.
    #[test]
    fn one_process_writes_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let hashes = [b"one".as_slice(), b"two"].map(sound_hash);
        let first = EmbeddingCache::at(folder.path(), "k").unwrap();
        first.put(hashes[0], embeds(0.5, 1)).unwrap();
        let second = EmbeddingCache::at(folder.path(), "k").unwrap();
        second.put(hashes[1], embeds(1.5, 1)).unwrap();
        assert_eq!((second.len(), first.len()), (2, 1));
        drop((first, second));
        assert_eq!(EmbeddingCache::at(folder.path(), "k").unwrap().len(), 1);
    }

    /// A process that dies while it writes, or a disk that lies, costs the records from there on.
    #[test]
    fn a_torn_end_is_cut_off_and_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        let hashes = [b"one".as_slice(), b"two"].map(sound_hash);
        let cache = EmbeddingCache::at(folder.path(), "k").unwrap();
        cache.put(hashes[0], embeds(0.5, 2)).unwrap();
        let first = fs::metadata(cache.path()).unwrap().len() as usize;
        cache.put(hashes[1], embeds(1.5, 2)).unwrap();
        let path = cache.path().to_owned();
        drop(cache);
        let whole = fs::read(&path).unwrap();
        for cut in [first + 1, first + HEAD, whole.len() - 1] {
            fs::write(&path, &whole[..cut]).unwrap();
            let again = EmbeddingCache::at(folder.path(), "k").unwrap();
            assert_eq!(again.len(), 1, "cut at {cut}");
            again.put(hashes[1], embeds(1.5, 2)).unwrap();
            assert_eq!(fs::read(&path).unwrap(), whole);
        }
        let mut flipped = whole.clone();
        flipped[HEAD + 2] ^= 1;
        fs::write(&path, &flipped).unwrap();
        assert!(EmbeddingCache::at(folder.path(), "k").unwrap().is_empty());
        // A count that promises more than the file has.
        let mut boastful = whole;
        boastful[32..36].copy_from_slice(&u32::MAX.to_le_bytes());
        fs::write(&path, &boastful).unwrap();
        assert!(EmbeddingCache::at(folder.path(), "k").unwrap().is_empty());
    }
}
