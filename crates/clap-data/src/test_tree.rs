//! Generated data sets for the tests of this crate: a temporary folder that fills by path.

use std::fs;
use std::io::Cursor;
use std::path::PathBuf;

use tempfile::TempDir;

/// A folder `set` inside a temporary one, so that tests may also write beside it (`../x`).
pub(crate) struct Tree {
    folder: TempDir,
}

impl Tree {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("set")).unwrap();
        Self { folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        let set = self.folder.path().join("set");
        if name.is_empty() { set } else { set.join(name) }
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> &Self {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
        self
    }

    /// A tone of `samples` samples, whose height depends on their number.
    pub(crate) fn wav(&self, name: &str, samples: u32) -> &Self {
        self.write(name, wav(samples))
    }

    /// A tar file with the members in order, each name written as it is, however hostile.
    pub(crate) fn tar(&self, name: &str, members: &[(&str, &[u8])]) -> &Self {
        self.write(name, tar(members))
    }
}

pub(crate) fn wav(samples: u32) -> Vec<u8> {
    let spec =
        hound::WavSpec { channels: 1, sample_rate: 8000, bits_per_sample: 16, sample_format: hound::SampleFormat::Int };
    let mut bytes = Cursor::new(Vec::new());
    let mut writer = hound::WavWriter::new(&mut bytes, spec).unwrap();
    for at in 0..samples {
        let phase = f64::from(at) * (0.05 + f64::from(samples % 97) * 0.01);
        #[expect(clippy::cast_possible_truncation, reason = "within the range of i16")]
        writer.write_sample((phase.sin() * 12000.0) as i16).unwrap();
    }
    writer.finalize().unwrap();
    bytes.into_inner()
}

/// Samples as they are, at 8 kHz.
pub(crate) fn float_wav(samples: &[f32]) -> Vec<u8> {
    wav_at(8000, samples)
}

/// Samples as they are.
pub(crate) fn wav_at(sample_rate: u32, samples: &[f32]) -> Vec<u8> {
    let format = hound::SampleFormat::Float;
    let spec = hound::WavSpec { channels: 1, sample_rate, bits_per_sample: 32, sample_format: format };
    let mut bytes = Cursor::new(Vec::new());
    let mut writer = hound::WavWriter::new(&mut bytes, spec).unwrap();
    samples.iter().for_each(|sample| writer.write_sample(*sample).unwrap());
    writer.finalize().unwrap();
    bytes.into_inner()
}

pub(crate) fn tar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, content) in members {
        bytes.extend(header(name.as_bytes(), content.len() as u64));
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.extend([0; 1024]);
    bytes
}

/// A header that no careful writer would make: the name unchecked, the size whatever is asked for.
pub(crate) fn header(name: &[u8], size: u64) -> [u8; 512] {
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(0o644);
    header.set_size(size);
    header.set_cksum();
    *header.as_bytes()
}
