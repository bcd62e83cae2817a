//! What is read after a seek is what a decode from the start has there; a reader that failed stays failed.

use super::*;

/// A WAV file of 16-bit mono at 44.1 kHz.
fn wav(len: usize) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 44_100,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::new(&mut bytes, spec).unwrap();
    for n in 0..len {
        writer.write_sample((n as i32 * 37 % 20_000 - 10_000) as i16).unwrap();
    }
    writer.finalize().unwrap();
    bytes.into_inner()
}

/// A source that panics once its header has been read, as a faulty reader might.
struct Faulty(Cursor<Vec<u8>>);

impl std::io::Read for Faulty {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        assert!(self.0.position() < 1000, "a fault of the reader");
        self.0.read(buffer)
    }
}

impl std::io::Seek for Faulty {
    fn seek(&mut self, to: std::io::SeekFrom) -> std::io::Result<u64> {
        self.0.seek(to)
    }
}

#[test]
fn a_panic_of_the_reader_is_an_error_of_the_file() {
    let mut reader = AudioReader::from_reader("clip.wav", Faulty(Cursor::new(wav(200_000)))).unwrap();
    let error = reader.read(&mut [0.0; 1000]).unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    assert!(error.to_string().starts_with("clip.wav: "), "{error}");
}

#[test]
fn a_few_bad_packets_are_accepted_and_more_are_damage() {
    for (packets, bad, damaged) in [
        (0, 0, false),
        (1, 0, false),
        (1, 1, true),
        (2, 1, false),
        (3, 2, true),
        (4, 2, false),
        (100, 3, false),
        (99, 3, true),
        (1000, 12, false),
        (1000, 13, true),
    ] {
        assert_eq!(is_damaged(packets, bad), damaged, "{bad} of {packets}");
    }
}
