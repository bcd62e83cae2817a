//! Good files come out as they went in; bad ones are errors that name the file, and never a panic.

use std::io::Cursor;

use super::*;

fn wav(spec: hound::WavSpec, write: impl Fn(&mut hound::WavWriter<&mut Cursor<Vec<u8>>>)) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    let mut writer = hound::WavWriter::new(&mut bytes, spec).unwrap();
    write(&mut writer);
    writer.finalize().unwrap();
    bytes.into_inner()
}

fn spec(channels: u16, sample_rate: u32, bits_per_sample: u16, sample_format: hound::SampleFormat) -> hound::WavSpec {
    hound::WavSpec { channels, sample_rate, bits_per_sample, sample_format }
}

fn wav_f32(channels: u16, samples: &[f32]) -> Vec<u8> {
    wav(spec(channels, 48_000, 32, hound::SampleFormat::Float), |writer| {
        for &sample in samples {
            writer.write_sample(sample).unwrap();
        }
    })
}

fn wav_i16(samples: &[i16]) -> Vec<u8> {
    wav(spec(1, 44_100, 16, hound::SampleFormat::Int), |writer| {
        for &sample in samples {
            writer.write_sample(sample).unwrap();
        }
    })
}

fn ramp(len: usize) -> Vec<i16> {
    (0..len).map(|n| (n as i32 * 37 % 20_000 - 10_000) as i16).collect()
}

fn error(bytes: &[u8]) -> Error {
    decode_bytes("clip.wav", bytes, Channels::Mean).unwrap_err()
}

#[test]
fn integer_depths_scale_to_one() {
    for bits in [8, 16, 24, 32] {
        let full = 1i64 << (bits - 1);
        let bytes = wav(spec(1, 32_000, bits, hound::SampleFormat::Int), |writer| {
            for value in [0, full / 2, -full, -full / 4] {
                writer.write_sample(value as i32).unwrap();
            }
        });
        let wave = decode_bytes("x", &bytes, Channels::Mean).unwrap();
        assert_eq!(wave, Waveform { samples: vec![0.0, 0.5, -1.0, -0.25], sample_rate: 32_000 }, "{bits} bits");
    }
}

#[test]
fn channels_are_averaged_or_the_first_is_taken() {
    let check = |channels: u16, samples: &[f32], mean: &[f32], first: &[f32]| {
        let bytes = wav_f32(channels, samples);
        assert_eq!(decode_bytes("x", &bytes, Channels::Mean).unwrap().samples, mean);
        assert_eq!(decode_bytes("x", &bytes, Channels::First).unwrap().samples, first);
    };
    check(1, &[0.5, 2.0], &[0.5, 2.0], &[0.5, 2.0]);
    check(2, &[0.5, 0.25, -1.0, 1.0], &[0.375, 0.0], &[0.5, -1.0]);
    check(4, &[1.0, 0.0, 0.0, 0.0, 0.5, 0.5, 0.5, 0.5], &[0.25, 0.5], &[1.0, 0.5]);
}

#[test]
fn many_channels_and_packets_keep_their_order() {
    let samples: Vec<f32> = (0..5000 * 6).map(|n| (n / 6) as f32 / 5000.0).collect();
    let wave = decode_bytes("x", &wav_f32(6, &samples), Channels::Mean).unwrap();
    assert_eq!(wave.samples.len(), 5000);
    assert!(wave.samples.iter().enumerate().all(|(n, &v)| (v - n as f32 / 5000.0).abs() < 1e-6));
}

#[test]
fn big_endian_aiff_is_read() {
    let samples = [0i16, 16_384, -32_768, 1];
    let mut bytes = b"FORM\0\0\0\0AIFFCOMM\0\0\0\x12\0\x01\0\0\0\x04\0\x10".to_vec();
    // 44,100 as an 80-bit float
    bytes.extend([0x40, 0x0e, 0xac, 0x44, 0, 0, 0, 0, 0, 0]);
    bytes.extend(b"SSND");
    bytes.extend((8 + 2 * samples.len() as u32).to_be_bytes());
    bytes.extend([0; 8]);
    bytes.extend(samples.iter().flat_map(|sample| sample.to_be_bytes()));
    let form = (bytes.len() as u32 - 8).to_be_bytes();
    bytes[4..8].copy_from_slice(&form);
    let wave = decode_bytes("x.aiff", &bytes, Channels::Mean).unwrap();
    assert_eq!(wave, Waveform { samples: vec![0.0, 0.5, -1.0, 1.0 / 32768.0], sample_rate: 44_100 });
}

/// `polynomial` without its leading bit, most significant bit first: FLAC's CRC-8 (8 bits) and CRC-16, Ogg's CRC-32.
fn crc(bytes: &[u8], bits: u32, polynomial: u64) -> u64 {
    let mut crc = 0;
    for &byte in bytes {
        crc ^= u64::from(byte) << (bits - 8);
        for _ in 0..8 {
            let carry = (crc >> (bits - 1)) & 1;
            crc = ((crc << 1) ^ (carry * polynomial)) & ((1 << bits) - 1);
        }
    }
    crc
}

/// A FLAC file of 16-bit mono at 48 kHz, in verbatim frames of 192 samples.
fn flac(samples: &[i16]) -> Vec<u8> {
    const BLOCK: usize = 192;
    assert!(samples.len().is_multiple_of(BLOCK) && samples.len() < 128 * BLOCK);
    let mut bytes = b"fLaC\x80\0\0\x22\0\xc0\0\xc0\0\0\0\0\0\0".to_vec();
    // 20 bits of rate, 3 of channels - 1, 5 of depth - 1, 36 of length, then an MD5 sum that is not given
    let fields = (48_000u64 << 44) | (15 << 36) | samples.len() as u64;
    bytes.extend(fields.to_be_bytes());
    bytes.extend([0; 16]);
    for (number, block) in samples.chunks(BLOCK).enumerate() {
        // sync, 192 samples, 48 kHz, mono, 16 bits, frame number
        let mut frame = vec![0xff, 0xf8, 0x1a, 0x08, number as u8];
        frame.push(crc(&frame, 8, 0x07) as u8);
        frame.push(0x02);
        frame.extend(block.iter().flat_map(|sample| sample.to_be_bytes()));
        frame.extend((crc(&frame, 16, 0x8005) as u16).to_be_bytes());
        bytes.extend(frame);
    }
    bytes
}

#[test]
fn flac_is_read_and_its_length_is_checked() {
    let samples = ramp(192 * 40);
    let bytes = flac(&samples);
    let wave = decode_bytes("x.flac", &bytes, Channels::Mean).unwrap();
    let expected: Vec<f32> = samples.iter().map(|&sample| f32::from(sample) / 32_768.0).collect();
    assert_eq!(wave, Waveform { samples: expected, sample_rate: 48_000 });
    for keep in [50, 500, bytes.len() / 2, bytes.len() - 1] {
        let error = error(&bytes[..keep]).to_string();
        assert!(error.starts_with("clip.wav: "), "{error}");
    }
    let mut damaged = bytes.clone();
    for at in (60..damaged.len()).step_by(700) {
        damaged[at] ^= 0x55;
    }
    error(&damaged);
}

#[test]
fn mp3_is_read() {
    // MPEG 1 layer III, 128 kbit/s, 44.1 kHz, mono; a frame without data is silence.
    let mut frame = b"\xff\xfb\x90\xc4".to_vec();
    frame.resize(417, 0);
    let wave = decode_bytes("x.mp3", &frame.repeat(20), Channels::Mean).unwrap();
    assert_eq!(wave, Waveform { samples: vec![0.0; 20 * 1152], sample_rate: 44_100 });
}

/// Two Ogg Vorbis files, the first pair of members of a shard of the embedded corpus.
fn vorbis() -> [Vec<u8>; 2] {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets/sounds-mini/valid/0.tar");
    let shard = std::fs::read(path).unwrap();
    let mut members = Vec::new();
    let mut at = 0;
    while members.len() < 2 {
        let size = usize::from_str_radix(std::str::from_utf8(&shard[at + 124..at + 135]).unwrap(), 8).unwrap();
        let bytes = &shard[at + 512..at + 512 + size];
        if bytes.starts_with(b"OggS") {
            members.push(bytes.to_vec());
        }
        at += 512 + size.next_multiple_of(512);
    }
    members.try_into().unwrap()
}

#[test]
fn chained_ogg_streams_are_one_sound() {
    let [first, second] = vorbis();
    let read = |bytes: &[u8]| decode_bytes("x.ogg", bytes, Channels::Mean).unwrap();
    let (one, two) = (read(&first), read(&second));
    let chain = read(&[&first[..], &second].concat());
    assert_eq!(chain.sample_rate, one.sample_rate);
    assert!(chain.samples == [one.samples, two.samples].concat(), "{} samples", chain.samples.len());
}

#[test]
fn a_chain_does_not_change_its_rate() {
    let [first, mut second] = vorbis();
    // The identification header is alone on the first page, of 58 bytes: the rate at 40, the page's checksum at 22.
    second[40..44].copy_from_slice(&22_050u32.to_le_bytes());
    second[22..26].fill(0);
    let checksum = crc(&second[..58], 32, 0x04c1_1db7) as u32;
    second[22..26].copy_from_slice(&checksum.to_le_bytes());
    assert_eq!(decode_bytes("x.ogg", &second, Channels::Mean).unwrap().sample_rate, 22_050);
    let message = error(&[first, second].concat()).to_string();
    assert!(message.contains("changes from 44100 to 22050 Hz"), "{message}");
}

#[test]
fn a_vorbis_stream_cut_short_ends_where_its_bytes_end() {
    let [whole, _] = vorbis();
    let len = |bytes: &[u8]| decode_bytes("x.ogg", bytes, Channels::Mean).unwrap().samples.len();
    // Inside its last page.
    let cut = len(&whole[..whole.len() - 1000]);
    assert!(cut > 0 && cut < len(&whole), "{cut}");
}

#[test]
fn a_sound_of_bad_packets_alone_is_damaged_not_empty() {
    // Two frames of a subframe of a reserved type: 6 bytes of header, the subframe's type, 192 samples, a checksum.
    let mut bytes = flac(&ramp(192 * 2));
    for frame in bytes[42..].chunks_exact_mut(6 + 1 + 2 * 192 + 2) {
        frame[6] = 0x04;
        let (content, checksum) = frame.split_at_mut(391);
        checksum.copy_from_slice(&(crc(content, 16, 0x8005) as u16).to_be_bytes());
    }
    let message = error(&bytes).to_string();
    assert!(message.contains("2 of 2 packets cannot be decoded"), "{message}");
}

#[test]
fn a_clip_beyond_the_limit_is_refused() {
    let bytes = wav_i16(&ramp(20_000));
    let read = |limit| read_all(AudioReader::from_bytes("clip.wav", &bytes).unwrap(), limit);
    assert_eq!(read(20_000).unwrap().samples.len(), 20_000);
    match read(19_999).unwrap_err() {
        Error::TooLong { name, frames: 20_000, limit: 19_999 } => assert_eq!(name, "clip.wav"),
        other => panic!("{other}"),
    }
}

#[test]
fn the_content_counts_not_the_extension() {
    let wave = decode_bytes("a.mp3", &wav_i16(&ramp(100)), Channels::Mean).unwrap();
    assert_eq!(wave.samples.len(), 100);
}

#[test]
fn one_sample_is_a_sound_and_none_is_not() {
    assert_eq!(decode_bytes("x", &wav_i16(&[16_384]), Channels::Mean).unwrap().samples, [0.5]);
    assert!(matches!(error(&wav_i16(&[])), Error::NoSamples { .. }));
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let check = |path: &Path, text: &str| {
        let message = decode(path, Channels::Mean).unwrap_err().to_string();
        assert!(message.starts_with(&path.display().to_string()) && message.contains(text), "{message}");
    };
    check(&folder.path().join("missing.wav"), "cannot be read");
    check(folder.path(), "folder");
    let path = folder.path().join("empty.wav");
    std::fs::write(&path, b"").unwrap();
    check(&path, "empty (0 bytes)");
    std::fs::write(&path, "RIFFs are nice, but this is a text.\n".repeat(50)).unwrap();
    check(&path, "not a sound file");
    std::fs::write(&path, wav_i16(&ramp(30))).unwrap();
    assert_eq!(decode(&path, Channels::Mean).unwrap().samples.len(), 30);
}

#[test]
fn text_is_no_sound() {
    for text in ["x", "hello", "ID3 tags are not needed", "OggS", "fLaC", "RIFF", "RIFF\x10\0\0\0WAVE"] {
        let message = error(text.as_bytes()).to_string();
        assert!(message.starts_with("clip.wav: "), "{message}");
    }
}

#[test]
fn samples_that_are_no_numbers_are_counted_and_refused() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30] {
        let mut samples = vec![0.1; 3000];
        samples[2001] = bad;
        let error = error(&wav_f32(1, &samples));
        assert!(matches!(error, Error::NotFinite { index: 2001, .. }), "{error}");
    }
}

#[test]
fn a_file_cut_short_is_an_error_with_both_lengths() {
    let bytes = wav_i16(&ramp(20_000));
    for keep in [46, 60, 1000, bytes.len() - 1] {
        let error = error(&bytes[..keep]);
        let decoded = (keep as u64 - 44) / 2;
        match error {
            Error::Truncated { declared: 20_000, decoded: found, .. } => assert!(found <= decoded, "{found} {decoded}"),
            other => panic!("{keep} bytes: {other}"),
        }
    }
    for keep in 1..46 {
        error(&bytes[..keep]);
    }
}

/// A WAV header of 44 bytes with the given fields, and a little data.
fn header(channels: u16, rate: u32, bits: u16, data_len: u32, riff_len: u32) -> Vec<u8> {
    let align = channels.wrapping_mul(bits / 8);
    let mut bytes = b"RIFF".to_vec();
    bytes.extend(riff_len.to_le_bytes());
    bytes.extend(b"WAVEfmt \x10\0\0\0\x01\0");
    bytes.extend(channels.to_le_bytes());
    bytes.extend(rate.to_le_bytes());
    bytes.extend(rate.wrapping_mul(u32::from(align)).to_le_bytes());
    bytes.extend(align.to_le_bytes());
    bytes.extend(bits.to_le_bytes());
    bytes.extend(b"data");
    bytes.extend(data_len.to_le_bytes());
    bytes.extend([0; 1000]);
    bytes
}

#[test]
fn headers_of_no_recording_are_refused() {
    let rate_of_zero = error(&header(1, 0, 16, 1000, 1036)).to_string();
    assert!(rate_of_zero.contains("a sample rate of 0 Hz"), "{rate_of_zero}");
    let fast = error(&header(1, u32::MAX, 16, 1000, 1036)).to_string();
    assert!(fast.contains("4294967295 Hz"), "{fast}");
    for channels in [0, 65, 1000, 65_535] {
        for bits in [8, 16, 32] {
            let message = error(&header(channels, 48_000, bits, 1000, 1036)).to_string();
            assert!(message.starts_with("clip.wav: "), "{channels} channels: {message}");
        }
    }
    for bits in [0, 1, 7, 64, 65_535] {
        error(&header(1, 48_000, bits, 1000, 1036));
    }
}

#[test]
fn four_gigabytes_claimed_in_a_kilobyte_are_a_truncated_file() {
    let big = u32::MAX - 45;
    assert!(matches!(error(&header(1, 48_000, 16, big, big + 36)), Error::Truncated { decoded: 0..=500, .. }));
    // The same length in a smaller RIFF chunk contradicts itself.
    error(&header(1, 48_000, 16, big, 1036));
}

#[test]
fn a_stream_of_unstated_length_is_read_to_its_end() {
    // What ffmpeg writes to a pipe: both lengths 2^32 - 1.
    let wave = decode_bytes("x", &header(1, 48_000, 16, u32::MAX, u32::MAX), Channels::Mean);
    assert!(wave.is_ok_and(|wave| wave.samples.len() >= 492));
}

/// An `.au` header: where the samples begin, their bytes, encoding, rate, channels.
fn au(words: [u32; 5], samples: &[u8]) -> Vec<u8> {
    let words = words.iter().flat_map(|word| word.to_be_bytes());
    b".snd".iter().copied().chain(words).chain(samples.iter().copied()).collect()
}

#[test]
fn au_headers_may_lie() {
    let decode = |words, samples: &[u8]| decode_bytes("x.au", &au(words, samples), Channels::Mean);
    let samples = [0x40, 0, 0xc0, 0, 0, 0];
    assert_eq!(decode([24, 6, 3, 8000, 1], &samples).unwrap().samples, [0.5, -0.5, 0.0]);
    // Samples end where the header says; with a length that is not known, where the file does.
    assert_eq!(decode([24, 4, 3, 8000, 1], &samples).unwrap().samples, [0.5, -0.5]);
    assert_eq!(decode([24, u32::MAX, 3, 8000, 1], &samples).unwrap().samples, [0.5, -0.5, 0.0]);
    // A note before them.
    assert_eq!(decode([26, 4, 3, 8000, 1], &samples).unwrap().samples, [-0.5, 0.0]);
    for (words, part) in [
        ([24, 60, 3, 8000, 1], "promises 30 samples per channel, 3 are there"),
        ([24, 6, 3, 0, 1], "sample rate of 0 Hz"),
        ([24, 6, 3, 8000, 70], "70 channels"),
        ([24, 6, 3, 8000, 0], "channels"),
        ([24, 6, 3, 8000, u32::MAX], "channels"),
        ([8, 6, 3, 8000, 1], "header"),
        ([u32::MAX, 6, 3, 8000, 1], "header"),
        ([24, 6, 23, 8000, 1], "encoding"),
        ([24, 1, 3, 8000, 1], "no samples"),
    ] {
        let error = decode(words, &samples).unwrap_err().to_string();
        assert!(error.starts_with("x.au: ") && error.contains(part), "{words:?}: {error}");
    }
}

#[test]
fn noise_behind_every_magic_number_is_an_error_or_a_sound_but_no_panic() {
    let mut state = 11u64;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    let magics: [&[u8]; 10] = [
        b".snd\0\0\0\x18\xff\xff\xff\xff\0\0\0\x03\0\0\x1f\x40\0\0\0\x01",
        b"RIFF\xff\xff\xff\xffWAVEfmt \x12\0\0\0",
        b"FORM\0\0\xff\xffAIFFCOMM\0\0\0\x12",
        b"fLaC\0\0\0\x22",
        b"OggS\0\x02\0\0\0\0\0\0\0\0",
        b"\xff\xfb\x90\x64",
        b"\xff\xf1\x50\x80",
        b"\0\0\0\x20ftypM4A \0\0\0\0",
        b"ID3\x04\0\0\0\0\x02\0",
        b"\0\0\0\x10moov\0\0\xff\xfftrak",
    ];
    for magic in magics {
        for len in [0, 10, 100, 5000] {
            let mut bytes = magic.to_vec();
            bytes.extend((0..len).map(|_| random()));
            if let Err(error) = decode_bytes("noise.bin", &bytes, Channels::Mean) {
                assert!(error.to_string().starts_with("noise.bin: "), "{error}");
            }
        }
    }
}

#[test]
fn any_damaged_byte_of_a_wav_is_an_error_or_a_sound_but_no_panic() {
    let good = wav_i16(&ramp(64));
    for at in 0..44 {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut bytes = good.clone();
            bytes[at] = value;
            if let Err(error) = decode_bytes("clip.wav", &bytes, Channels::Mean) {
                assert!(error.to_string().starts_with("clip.wav: "), "{error}");
            }
        }
    }
}
