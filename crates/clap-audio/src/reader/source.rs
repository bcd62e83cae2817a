//! What a sound file is read from, and the container that is found in it.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::LazyLock;

use symphonia::core::errors::Error as SymphoniaError;
use symphonia::core::formats::probe::{Hint, Probe};
use symphonia::core::formats::{FormatOptions, FormatReader};
use symphonia::core::io::{MediaSource, MediaSourceStream};
use symphonia::core::meta::MetadataOptions;

use super::au::AuReader;
use super::track::Track;
use super::{Window, boxes, corrupt, damage, edit_list};
use crate::error::{Error, Result};

/// symphonia's containers and ours.
static PROBE: LazyLock<Probe> = LazyLock::new(|| {
    let mut probe = Probe::default();
    symphonia::default::register_enabled_formats(&mut probe);
    probe.register_format::<AuReader<'_>>();
    probe
});

/// A reader and its length.
pub(super) struct Source<R> {
    pub(super) reader: R,
    pub(super) len: u64,
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.reader.read(buffer)
    }
}

impl<R: Seek> Seek for Source<R> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.reader.seek(to)
    }
}

impl<R: Read + Seek + Send + Sync> MediaSource for Source<R> {
    fn is_seekable(&self) -> bool {
        true
    }

    fn byte_len(&self) -> Option<u64> {
        Some(self.len)
    }
}

/// The edit list's part of an MP4's track, after a look at its tables. Of a pipe, which cannot be read twice, neither is
/// looked at.
pub(super) fn read_window<'a>(
    name: &str,
    format: Box<dyn FormatReader + 'a>,
    track: &Track,
) -> Result<(Box<dyn FormatReader + 'a>, Window)> {
    let broken = |error: std::io::Error| corrupt(name, &error.to_string());
    let mut stream = format.into_inner();
    if let Some(what) = boxes::absurd_table(&mut stream).map_err(broken)? {
        return Err(Error::AbsurdHeader { name: name.to_owned(), what, allowed: boxes::ALLOWED.to_owned() });
    }
    let edit = edit_list::read(&mut stream, track.id).map_err(broken)?;
    let window = edit.map_or_else(Window::default, |edit| edit.window(track.rate, track.stated));
    Ok((probe(name, stream)?, window))
}

/// Finds the container by its content.
pub(super) fn probe<'a>(name: &str, stream: MediaSourceStream<'a>) -> Result<Box<dyn FormatReader + 'a>> {
    let mut hint = Hint::new();
    if let Some(extension) = Path::new(name).extension().and_then(|extension| extension.to_str()) {
        hint.with_extension(extension);
    }
    PROBE.probe(&hint, stream, FormatOptions::default(), MetadataOptions::default()).map_err(|error| match error {
        SymphoniaError::Unsupported(reason) if reason.contains("no suitable format reader") => {
            Error::NotAudio { name: name.to_owned() }
        }
        error => damage(name, &error),
    })
}
