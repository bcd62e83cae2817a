//! A hash of what is heard, whatever file it is kept in.

use clap_audio::Waveform;
use sha2::{Digest as _, Sha256};

use crate::flac::to_pcm16;

/// The rate at which sounds are compared; that of LAION-CLAP's shards.
pub(crate) const RATE: u32 = 48_000;

/// The first 128 bits of SHA-256 of a sound as 48 kHz mono of 16 bits: alike for a FLAC file and the WAV file it was made of,
/// and for a recording at another rate and the shard that [`crate::pack`] made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PcmHash([u8; 16]);

impl PcmHash {
    /// Hashes a mono sound that is at 48 kHz.
    pub(crate) fn of(wave: &Waveform) -> Self {
        debug_assert_eq!(wave.sample_rate, RATE);
        let mut hash = Sha256::new();
        let mut block = Vec::with_capacity(8192);
        for samples in wave.samples.chunks(4096) {
            block.clear();
            block.extend(samples.iter().flat_map(|sample| to_pcm16(*sample).to_le_bytes()));
            hash.update(&block);
        }
        let mut first = [0; 16];
        first.copy_from_slice(&hash.finalize()[..16]);
        Self(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn less_than_half_a_step_changes_nothing() {
        let wave = |shift: f32| Waveform {
            samples: (0..5000).map(|at| ((at * 37 % 2001) as f32 - 1000.0 + shift) / 32768.0).collect(),
            sample_rate: RATE,
        };
        assert_eq!(PcmHash::of(&wave(0.0)), PcmHash::of(&wave(0.3)));
        assert_ne!(PcmHash::of(&wave(0.0)), PcmHash::of(&wave(1.0)));
        let mut longer = wave(0.0);
        longer.samples.push(0.0);
        assert_ne!(PcmHash::of(&wave(0.0)), PcmHash::of(&longer));
    }
}
