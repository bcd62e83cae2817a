//! Decoded sounds kept in memory up to a bound, shared by the loader's workers.
//!
//! An epoch visits every clip about once, so the clip used longest ago is the one needed next: least-recently-used
//! replacement would never hit once the data outgrow the bound. Nothing is replaced instead; what fits first stays, and
//! that share of every later epoch is free of decoding. Samples stay f32: a cached clip is exactly the decoded one, so the
//! bound changes the speed of a run and never its result.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use clap_audio::Waveform;

use crate::AudioSource;

/// Decoded clips by source and rate, but none that a stream brought; see the module's comment.
#[derive(Debug)]
pub struct WaveCache {
    limit_bytes: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    waves: HashMap<(AudioSource, u32), Arc<Waveform>>,
    bytes: usize,
}

impl WaveCache {
    /// A cache for at most `limit_bytes` bytes of samples; 0 keeps nothing.
    pub fn new(limit_bytes: usize) -> Self {
        Self { limit_bytes, kept: Mutex::default() }
    }

    /// The clip as mono at `sample_rate` Hz, decoded unless kept from before.
    ///
    /// # Errors
    /// Those of [`AudioSource::load`]; failures are not kept.
    pub fn load(&self, source: &AudioSource, sample_rate: u32) -> clap_audio::Result<Arc<Waveform>> {
        // What a stream brings is gone before it comes again.
        if self.limit_bytes == 0 || matches!(source, AudioSource::Memory { .. }) {
            return Ok(Arc::new(source.load(sample_rate)?));
        }
        let key = (source.clone(), sample_rate);
        if let Some(wave) = self.kept().waves.get(&key) {
            return Ok(Arc::clone(wave));
        }
        // Decoded outside the lock; two workers that ask for one clip at once both decode it, and one result is kept.
        let mut wave = source.load(sample_rate)?;
        wave.samples.shrink_to_fit();
        let bytes = wave.samples.len() * size_of::<f32>();
        let wave = Arc::new(wave);
        let mut kept = self.kept();
        if let Some(bytes) = kept.bytes.checked_add(bytes).filter(|bytes| *bytes <= self.limit_bytes)
            && kept.waves.insert(key, Arc::clone(&wave)).is_none()
        {
            kept.bytes = bytes;
        }
        Ok(wave)
    }

    /// Clips kept.
    pub fn len(&self) -> usize {
        self.kept().waves.len()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of samples kept.
    pub fn bytes(&self) -> usize {
        self.kept().bytes
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // No code that can panic runs between two states of the map.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_tree::Tree;

    #[test]
    fn keeps_what_fits_and_no_more() {
        let tree = Tree::new();
        tree.wav("a.wav", 1000).wav("b.wav", 1000).wav("c.wav", 1000);
        let source = |name: &str| AudioSource::File(tree.path(name));
        let cache = WaveCache::new(2 * 1000 * 4 + 100);
        let first = cache.load(&source("a.wav"), 8000).unwrap();
        assert_eq!(*first, source("a.wav").load(8000).unwrap());
        cache.load(&source("b.wav"), 8000).unwrap();
        cache.load(&source("c.wav"), 8000).unwrap();
        assert_eq!((cache.len(), cache.bytes()), (2, 8000));
        std::fs::remove_file(tree.path("a.wav")).unwrap();
        std::fs::remove_file(tree.path("c.wav")).unwrap();
        assert!(Arc::ptr_eq(&first, &cache.load(&source("a.wav"), 8000).unwrap()));
        assert!(cache.load(&source("c.wav"), 8000).is_err());
        assert!(cache.load(&source("a.wav"), 16000).is_err(), "another rate is another sound");
    }

    #[test]
    fn workers_share_it() {
        let tree = Tree::new();
        for clip in 0..8 {
            tree.wav(&format!("{clip}.wav"), 500 + clip);
        }
        let cache = WaveCache::new(1 << 20);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for clip in 0..8 {
                        let source = AudioSource::File(tree.path(&format!("{clip}.wav")));
                        assert_eq!(cache.load(&source, 8000).unwrap().samples.len(), 500 + clip);
                    }
                });
            }
        });
        assert_eq!((cache.len(), cache.bytes()), (8, (500..508).sum::<usize>() * 4));
    }
}
