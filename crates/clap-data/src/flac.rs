//! Mono sound as 16-bit FLAC, the form of LAION-CLAP's shards, and a proof of each file that nothing was lost.
//!
//! Encoding is `flacenc`'s, on one thread and with fixed settings, so that the same samples give the same bytes. Each stream is
//! decoded again before it is handed out: a sixth of the time of encoding, and no bug of an encoder ends up in a data set.

use std::panic::catch_unwind;

use clap_audio::{Channels, Waveform, decode_bytes};
use flacenc::component::BitRepr as _;
use flacenc::error::Verify as _;

/// Samples of a block; the default of every encoder for the usual rates.
const BLOCK: usize = 4096;

/// One sample as the 16-bit integer that players make of it: `round(x * 32768)`, cut off at full scale. What was decoded of 16
/// bits comes back unchanged. [`clap_audio::to_int16`], LAION's rounding of a model's input, is another and loses a bit.
pub(crate) fn to_pcm16(sample: f32) -> i16 {
    // `as` saturates, and 32767 is full scale upwards.
    (sample * 32768.0).round() as i16
}

/// A mono sound as FLAC of 16 bits, `round(x * 32768)` of every sample; decoded again before it is handed out.
///
/// # Errors
/// What the encoder has against it.
pub fn encode_flac(wave: &Waveform) -> Result<Vec<u8>, String> {
    let samples: Vec<i32> = wave.samples.iter().map(|sample| i32::from(to_pcm16(*sample))).collect();
    // A panic of the encoder costs its clip and not the run.
    let bytes = catch_unwind(|| encode_pcm(&samples, wave.sample_rate))
        .unwrap_or_else(|_| Err("the FLAC encoder gave up on it; please report this".to_owned()))?;
    let decoded = decode_bytes("the FLAC just made", &bytes, Channels::First).map_err(|error| error.to_string())?;
    let same = decoded.sample_rate == wave.sample_rate
        && decoded.samples.len() == samples.len()
        && decoded.samples.iter().zip(&samples).all(|(found, meant)| i32::from(to_pcm16(*found)) == *meant);
    if same { Ok(bytes) } else { Err("the FLAC encoder did not keep its samples; please report this".to_owned()) }
}

fn encode_pcm(samples: &[i32], sample_rate: u32) -> Result<Vec<u8>, String> {
    let fail = |what: &dyn std::fmt::Debug| format!("cannot be encoded as FLAC: {what:?}");
    let mut config = flacenc::config::Encoder::default();
    // Clips are encoded side by side already.
    config.multithread = false;
    config.block_size = BLOCK;
    let config = config.into_verified().map_err(|(_, error)| fail(&error))?;
    let source = flacenc::source::MemSource::from_samples(samples, 1, 16, sample_rate as usize);
    let mut stream = flacenc::encode_with_fixed_block_size(&config, source, BLOCK).map_err(|error| fail(&error))?;
    // The header's least block size does not count the last block (RFC 9639, 8.2); flacenc 0.5.1 does, which makes a stream of
    // blocks of one size claim to have several, and symphonia refuse it.
    stream.stream_info_mut().set_block_sizes(BLOCK, BLOCK).map_err(|error| fail(&error))?;
    let mut sink = flacenc::bitsink::ByteSink::new();
    stream.write(&mut sink).map_err(|error| fail(&error))?;
    Ok(sink.into_inner())
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn check(pcm: &[i16], sample_rate: u32) {
        let samples = pcm.iter().map(|sample| f32::from(*sample) / 32768.0).collect();
        let bytes = encode_flac(&Waveform { samples, sample_rate }).unwrap();
        let back = decode_bytes("x.flac", &bytes, Channels::Mean).unwrap();
        assert_eq!(back.sample_rate, sample_rate);
        let back: Vec<i16> = back.samples.iter().map(|sample| (sample * 32768.0) as i16).collect();
        assert!(back == pcm, "{} samples at {sample_rate} Hz", pcm.len());
    }

    #[test]
    fn sixteen_bits_come_back_whatever_the_length() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        // The last block may be shorter than the 16 samples that others need.
        for length in (1..40).chain([4095, 4096, 4097, 4111, 4112, 8193, 48_000]) {
            for kind in 0..5 {
                let pcm: Vec<i16> = (0..length)
                    .map(|at| match kind {
                        0 => 0,
                        1 => rng.random(),
                        2 => [i16::MAX, i16::MIN][at % 2],
                        3 => ((at as f64 * 0.1).sin() * 20_000.0) as i16,
                        _ => i16::MIN,
                    })
                    .collect();
                check(&pcm, 48_000);
            }
        }
        for rate in [8000, 11_025, 22_050, 44_100, 96_000] {
            check(&[1, -2, 3, -4], rate);
        }
    }

    #[test]
    fn every_integer_is_its_own_rounding() {
        for integer in i16::MIN..=i16::MAX {
            assert_eq!(to_pcm16(f32::from(integer) / 32768.0), integer);
        }
        assert_eq!((to_pcm16(1.0), to_pcm16(7.0), to_pcm16(-7.0)), (i16::MAX, i16::MAX, i16::MIN));
        assert_eq!((to_pcm16(0.4 / 32768.0), to_pcm16(0.6 / 32768.0), to_pcm16(-0.6 / 32768.0)), (0, 1, -1));
    }
}
