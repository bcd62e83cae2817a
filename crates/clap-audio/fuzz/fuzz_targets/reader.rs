//! Seeks and reads in any order: eight steps of two bytes, then the file. A step of an even number seeks, one of an odd number
//! reads as many frames.
#![no_main]

use clap_audio::AudioReader;
use libfuzzer_sys::fuzz_target;

mod panics;

fuzz_target!(|input: &[u8]| {
    panics::are_errors();
    let Some((steps, bytes)) = input.split_first_chunk::<16>() else { return };
    let mut reader = match AudioReader::from_bytes("fuzz", bytes) {
        Ok(reader) => reader,
        Err(error) => {
            assert!(error.to_string().starts_with("fuzz: "), "{error}");
            return;
        }
    };
    let mut buffer = vec![0.0; 1 << 16];
    for step in steps.chunks_exact(2) {
        let number = u16::from_le_bytes([step[0], step[1]]);
        let outcome = if number.is_multiple_of(2) {
            // Places far away too.
            let place = if number >= 0xff00 { u64::MAX - u64::from(number) } else { u64::from(number) * 2 };
            reader.seek(place).map(|()| 0)
        } else {
            let before = reader.position();
            reader.read(&mut buffer[..usize::from(number)]).inspect(|&read| {
                assert!(reader.position() >= read as u64 && (read == 0 || reader.position() > before));
            })
        };
        match outcome {
            Ok(read) => assert!(buffer[..read].iter().all(|sample| sample.is_finite())),
            Err(error) => {
                assert!(error.to_string().starts_with("fuzz: "), "{error}");
                return;
            }
        }
    }
});
