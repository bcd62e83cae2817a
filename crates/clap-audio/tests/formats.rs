//! Every format that is read, against the signal that it was made of: `tests/files/README.md`.
#![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

use std::f64::consts::PI;
use std::path::{Path, PathBuf};

use clap_audio::{AudioReader, Channels, Length, decode, decode_bytes};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/files").join(name)
}

/// Signal to noise in dB of samples against the chirp of `make.sh`, which begins `late` samples after them.
fn snr(samples: &[f32], rate: u32, late: usize) -> f64 {
    let (mut power, mut noise) = (0.0, 1e-30);
    for (n, &sample) in samples.iter().enumerate() {
        let t = (n as f64 - late as f64) / f64::from(rate);
        let truth = if n < late { 0.0 } else { 0.5 * (2.0 * PI * (200.0 * t + 1200.0 * t * t)).sin() };
        power += truth * truth;
        noise += (f64::from(sample) - truth).powi(2);
    }
    10.0 * f64::log10(power / noise)
}

/// What a file should be: container, codec, rate, channels, frames; bits of lossless ones.
type Truth = (&'static str, &'static str, u32, usize, usize, Option<u32>);

/// The chirp comes out of the first channel `late` samples late with at least `least` dB over the noise, and of the mean of
/// all channels at the level that `make.sh` mixes.
fn check(name: &str, (container, codec, rate, channels, frames, bits): Truth, late: usize, least: f64) {
    let info = AudioReader::open(&file(name)).unwrap().info().clone();
    assert_eq!((&*info.container, &*info.codec), (container, codec), "{name}");
    assert_eq!((info.sample_rate, info.channels, info.bits_per_sample), (rate, channels, bits), "{name}");
    let wave = decode(&file(name), Channels::First).unwrap();
    assert_eq!((wave.sample_rate, wave.samples.len()), (rate, frames), "{name}");
    let quality = snr(&wave.samples, rate, late);
    assert!(quality >= least, "{name}: {quality:.1} dB");
    for offset in [late.wrapping_sub(1), late + 1] {
        assert!(snr(&wave.samples, rate, offset) < quality, "{name} fits better {offset} samples late than {late}");
    }
    let level = [0.0, 1.0, 0.75, 0.0, 0.0, 0.0, 0.5][channels];
    let mean = decode(&file(name), Channels::Mean).unwrap();
    let rescaled: Vec<f32> = mean.samples.iter().map(|sample| sample / level).collect();
    let quality = snr(&rescaled, rate, late);
    assert!(quality >= least - 3.0, "{name}, mean: {quality:.1} dB");
}

/// A lossless file states its length exactly.
fn check_exact(name: &str, truth: Truth, least: f64) {
    check(name, truth, 0, least);
    assert_eq!(AudioReader::open(&file(name)).unwrap().info().length, Length::Exact(truth.4 as u64), "{name}");
}

#[test]
fn wav_of_every_depth() {
    // Rounding to b bits leaves 6.02 b + 1.76 - 6.02 dB of a sine at half scale; f32 is what we compute in.
    check_exact("u8.wav", ("wave", "pcm_u8", 8000, 1, 2000, Some(8)), 43.0);
    check_exact("s16le.wav", ("wave", "pcm_s16le", 8000, 1, 2000, Some(16)), 91.0);
    check_exact("s24le.wav", ("wave", "pcm_s24le", 8000, 1, 2000, Some(24)), 133.0);
    check_exact("s32le.wav", ("wave", "pcm_s32le", 8000, 1, 2000, Some(32)), 150.0);
    check_exact("f32le.wav", ("wave", "pcm_f32le", 8000, 1, 2000, Some(32)), 150.0);
    check_exact("f64le.wav", ("wave", "pcm_f64le", 8000, 1, 2000, Some(64)), 150.0);
    check_exact("4_khz.wav", ("wave", "pcm_s16le", 4000, 1, 1000, Some(16)), 91.0);
    check_exact("6_channels.wav", ("wave", "pcm_s16le", 8000, 6, 2000, Some(16)), 91.0);
}

#[test]
fn wav_of_companded_and_differential_codes() {
    check_exact("alaw.wav", ("wave", "pcm_alaw", 8000, 1, 2000, Some(8)), 38.0);
    check_exact("mulaw.wav", ("wave", "pcm_mulaw", 8000, 1, 2000, Some(8)), 37.0);
    check("adpcm_ms.wav", ("wave", "adpcm_ms", 8000, 1, 2000, None), 0, 26.0);
    check("adpcm_ima.wav", ("wave", "adpcm_ima_wav", 8000, 1, 2020, None), 0, 18.0);
}

#[test]
fn aiff_and_aifc() {
    check_exact("s16be.aiff", ("aiff", "pcm_s16be", 8000, 1, 2000, Some(16)), 91.0);
    check_exact("s24be.aiff", ("aiff", "pcm_s24be", 8000, 1, 2000, Some(24)), 133.0);
    check_exact("s32be.aiff", ("aiff", "pcm_s32be", 8000, 1, 2000, Some(32)), 150.0);
    check_exact("s16le.aifc", ("aiff", "pcm_s16le", 8000, 1, 2000, Some(16)), 91.0);
    check_exact("f32be.aifc", ("aiff", "pcm_f32be", 8000, 1, 2000, Some(32)), 150.0);
    check_exact("f64be.aifc", ("aiff", "pcm_f64be", 8000, 1, 2000, Some(64)), 150.0);
    check_exact("alaw.aifc", ("aiff", "pcm_alaw", 8000, 1, 2000, Some(8)), 38.0);
    check_exact("mulaw.aifc", ("aiff", "pcm_mulaw", 8000, 1, 2000, Some(8)), 37.0);
}

#[test]
fn au() {
    check_exact("s16be.au", ("au", "pcm_s16be", 8000, 1, 2000, Some(16)), 91.0);
    check_exact("s24be.au", ("au", "pcm_s24be", 8000, 1, 2000, Some(24)), 133.0);
    check_exact("f32be.au", ("au", "pcm_f32be", 8000, 1, 2000, Some(32)), 150.0);
    check_exact("alaw.au", ("au", "pcm_alaw", 8000, 1, 2000, Some(8)), 38.0);
    check_exact("mulaw.au", ("au", "pcm_mulaw", 8000, 1, 2000, Some(8)), 37.0);
    check_exact("2_channels.au", ("au", "pcm_s16be", 8000, 2, 2000, Some(16)), 91.0);
}

#[test]
fn flac_and_alac() {
    check_exact("s16.flac", ("flac", "flac", 16_000, 2, 8000, Some(16)), 91.0);
    check_exact("s24.flac", ("flac", "flac", 16_000, 1, 4000, Some(24)), 133.0);
    check_exact("192_khz.flac", ("flac", "flac", 192_000, 1, 9600, Some(24)), 133.0);
    check_exact("flac.oga", ("ogg", "flac", 16_000, 2, 8000, Some(16)), 91.0);
    check("alac.m4a", ("isomp4", "alac", 16_000, 2, 8000, Some(16)), 0, 91.0);
}

#[test]
fn mp3_without_the_encoders_delay() {
    check("cbr.mp3", ("mp3", "mp3", 44_100, 2, 33_075, None), 0, 25.0);
    check("vbr.mp3", ("mp3", "mp3", 44_100, 1, 33_075, None), 0, 38.0);
    check("8_khz.mp3", ("mp3", "mp3", 8000, 1, 6000, None), 0, 25.0);
}

#[test]
fn mp3_without_a_tag_keeps_its_delay() {
    // LAME's 576 samples, the decoder's 529.
    check("no_tag.mp3", ("mp3", "mp3", 44_100, 1, 30 * 1152, None), 1105, 18.0);
}

#[test]
fn vorbis() {
    check("vorbis.ogg", ("ogg", "vorbis", 44_100, 2, 33_075, None), 0, 25.0);
    check("long.ogg", ("ogg", "vorbis", 22_050, 1, 88_200, None), 0, 19.0);
}

#[test]
fn aac_without_the_encoders_delay() {
    check("aac.m4a", ("isomp4", "aac", 44_100, 2, 33_075, None), 0, 15.0);
    check("long.m4a", ("isomp4", "aac", 22_050, 1, 88_200, None), 0, 5.0);
}

#[test]
fn aac_without_an_edit_list_keeps_its_delay() {
    check("adts.aac", ("aac", "aac", 44_100, 1, 34 * 1024, None), 1024, 8.0);
    check("fragmented.m4a", ("isomp4", "aac", 44_100, 1, 34 * 1024, None), 1024, 8.0);
    assert_eq!(AudioReader::open(&file("fragmented.m4a")).unwrap().info().length, Length::Unknown);
}

#[cfg(not(feature = "opus"))]
#[test]
fn opus_is_an_error_that_names_it() {
    let message = decode(&file("opus.opus"), Channels::Mean).unwrap_err().to_string();
    assert!(message.contains("opus.opus: unsupported codec Opus") && message.contains("feature"), "{message}");
}

#[cfg(feature = "opus")]
#[test]
fn opus() {
    check("opus.opus", ("ogg", "opus", 48_000, 2, 36_000, None), 0, 18.0);
}

/// `make.sh` has libopus decode its own file.
#[cfg(feature = "opus")]
#[test]
fn opus_as_libopus_decodes_it() {
    for name in ["opus.opus", "speech.opus", "surround.opus"] {
        let ours = decode(&file(name), Channels::First).unwrap();
        let theirs = decode(&file(&name.replace(".opus", "_by_libopus.flac")), Channels::Mean).unwrap();
        assert_eq!((ours.sample_rate, ours.samples.len()), (theirs.sample_rate, theirs.samples.len()), "{name}");
        let differences = ours.samples.iter().zip(&theirs.samples).map(|(a, b)| (a - b).abs());
        let worst = differences.fold(0f32, f32::max);
        // Theirs is rounded to 16 bits, which is half a step; the other half is for arithmetic in another order.
        assert!(worst < 1.0 / 32_768.0, "{name}: {worst}");
    }
}

#[test]
fn the_content_counts_whatever_the_extension() {
    for name in ["s16le.wav", "s16.flac", "cbr.mp3", "vorbis.ogg", "aac.m4a", "adts.aac", "s16be.aiff", "s16be.au"] {
        let bytes = std::fs::read(file(name)).unwrap();
        let truth = decode(&file(name), Channels::Mean).unwrap();
        for wrong in ["x.wav", "x.mp3", "x.flac", "x.m4a", "x.ogg", "x.txt", "x"] {
            assert!(decode_bytes(wrong, &bytes, Channels::Mean).unwrap() == truth, "{name} as {wrong}");
        }
    }
}

/// A WAV header of the extensible kind: mono samples of `bits` in all, of which the upper `valid` are used.
fn extensible(bits: u16, valid: u16, data: &[u8]) -> Vec<u8> {
    let mut bytes = b"RIFF".to_vec();
    bytes.extend((60 + data.len() as u32).to_le_bytes());
    bytes.extend(b"WAVEfmt \x28\0\0\0\xfe\xff\x01\0");
    bytes.extend(8000u32.to_le_bytes());
    bytes.extend((8000 * u32::from(bits / 8)).to_le_bytes());
    bytes.extend((bits / 8).to_le_bytes());
    bytes.extend(bits.to_le_bytes());
    bytes.extend(22u16.to_le_bytes());
    bytes.extend(valid.to_le_bytes());
    bytes.extend(4u32.to_le_bytes());
    bytes.extend(b"\x01\0\0\0\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71data");
    bytes.extend((data.len() as u32).to_le_bytes());
    bytes.extend(data);
    bytes
}

#[test]
fn extensible_wav_of_odd_valid_bits() {
    // The valid bits are the upper ones, so that full scale stays full scale.
    for (bits, valid) in [(8, 8), (16, 16), (16, 12), (24, 24), (24, 20), (32, 32), (32, 24), (32, 17)] {
        let bytes_per_sample = usize::from(bits / 8);
        let unit = 1i64 << (bits - valid);
        let values: Vec<i64> =
            [0.5f64, -1.0, 0.25, 0.0].iter().map(|v| (v * 2f64.powi(i32::from(bits) - 1)) as i64).collect();
        assert!(values.iter().all(|value| value % unit == 0));
        let data: Vec<u8> = values
            .iter()
            .flat_map(|&value| {
                // 8 bits are unsigned.
                let value = if bits == 8 { value + 128 } else { value };
                value.to_le_bytes()[..bytes_per_sample].to_vec()
            })
            .collect();
        let file = extensible(bits, valid, &data);
        let wave = decode_bytes("x.wav", &file, Channels::Mean).unwrap();
        assert_eq!(wave.samples, [0.5, -1.0, 0.25, 0.0], "{valid} of {bits} bits");
        let reader = AudioReader::from_bytes("x.wav", &file).unwrap();
        assert_eq!(reader.info().bits_per_sample, Some(u32::from(valid)), "{valid} of {bits} bits");
    }
}
