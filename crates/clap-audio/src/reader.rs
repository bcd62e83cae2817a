//! A sound file as a stream of mono samples at its own rate, by symphonia: what it is, where to start, the next samples.
//!
//! Mixing down happens packet by packet, so that memory is bounded by a packet and what the container keeps of its header (an
//! M4A its table of packets, a few bytes each), whatever the length of the file and whatever the header claims. The content
//! decides the format; the extension is a hint only.
//!
//! A lossless file that ends before its header's length is [`Error::Truncated`]. Lossy streams (MP3, AAC, Vorbis) state no
//! exact length: one cut short simply ends where its bytes end.
//!
//! # Encoder delay
//!
//! What an encoder puts before and after the sound is cut off where the file says how much: the LAME tag of MP3, the page
//! times of Ogg, the edit list of M4A. ffmpeg 5.1.9 cuts the same, but leaves M4A its last packet whole. An MP3 without that
//! tag, AAC in ADTS and M4A in fragments without an edit list keep it, with us and with ffmpeg.

use std::fs::File;
use std::io::{Cursor, ErrorKind, Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use symphonia::core::errors::Error as SymphoniaError;
use symphonia::core::formats::FormatReader;
use symphonia::core::io::{MediaSource, MediaSourceStream};
use symphonia::core::packet::Packet;

use self::mono::mix_down;
use self::seek::Approach;
use self::source::{Source, probe, read_window};
use self::track::{Track, check_channels, rate_changes};
use crate::error::{Error, Result};
use crate::info::{AudioInfo, Length};
use crate::waveform::Channels;

mod au;
mod boxes;
mod codebooks;
mod edit_list;
mod mono;
#[cfg(feature = "opus")]
mod opus;
mod seek;
mod source;
mod track;

pub(crate) use self::mono::check_finite;

/// The most channels a file may have.
pub const MAX_CHANNELS: usize = 64;

/// The lowest sample rate of a file, in Hz.
pub const MIN_SAMPLE_RATE: u32 = 1_000;

/// The highest sample rate of a file, in Hz.
pub const MAX_SAMPLE_RATE: u32 = 768_000;

/// So many packets in a row without a sample are no sound: a header can claim billions of packets of no bytes.
const MAX_BARREN_PACKETS: u32 = 1 << 16;

/// What is said of a panic.
const GAVE_UP: &str = "the decoder gave up on it";

/// A sound file that is read piece by piece.
///
/// ```no_run
/// # fn main() -> Result<(), clap_audio::Error> {
/// let mut reader = clap_audio::AudioReader::open("lecture.flac".as_ref())?;
/// let rate = reader.info().sample_rate;
/// reader.seek(600 * u64::from(rate))?;
/// let mut second = vec![0.0; rate as usize];
/// let frames = reader.read(&mut second)?;
/// # Ok(())
/// # }
/// ```
pub struct AudioReader<'a> {
    name: String,
    /// None only after a failed rewind.
    format: Option<Box<dyn FormatReader + 'a>>,
    track: Track,
    info: AudioInfo,
    channels: Channels,
    window: Window,
    /// The samples of the last packet, interleaved and mixed; those before `taken` were handed out.
    interleaved: Vec<f32>,
    planes: usize,
    block: Vec<f32>,
    taken: usize,
    /// Place of `block[0]`, counted from the first sample that a decode from the start yields.
    place: u64,
    /// Samples before this place are not wanted.
    wanted: u64,
    approach: Approach,
    /// The container's time of the first sample, once it is known.
    origin: Option<i64>,
    /// How many of several Ogg streams joined end to end have ended.
    links: u32,
    damage: Damage,
    ended: bool,
    stop: Stop,
}

/// An error that ended the reading.
#[derive(Debug)]
enum Stop {
    No,
    /// Met after samples that were still handed out.
    Due(Error),
    Done,
}

/// Packets met since the last seek.
#[derive(Clone, Copy, Debug, Default)]
struct Damage {
    packets: u64,
    bad: u64,
    last: &'static str,
}

/// The part of the decoded samples that is the sound: an edit list may leave out the encoder's delay and padding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Window {
    start: u64,
    end: Option<u64>,
}

impl std::fmt::Debug for AudioReader<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "AudioReader({}, frame {})", self.name, self.position())
    }
}

impl AudioReader<'static> {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// A variant that names the file and the reason: missing or unreadable, empty, not a sound, an unknown codec, an absurd
    /// header, damaged.
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let unreadable = |source| Error::Unreadable { path: path.to_owned(), source };
        let file = File::open(path).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        if metadata.is_dir() {
            return Err(unreadable(std::io::Error::new(ErrorKind::IsADirectory, "it is a folder")));
        }
        if metadata.is_file() && metadata.len() == 0 {
            return Err(Error::EmptyFile { name });
        }
        Self::from_source(name, Box::new(file))
    }
}

impl<'a> AudioReader<'a> {
    /// Opens a sound file held in memory; `name` stands for the file in errors, and its extension is a hint at the format.
    ///
    /// # Errors
    /// As [`AudioReader::open`].
    pub fn from_bytes(name: &str, bytes: impl AsRef<[u8]> + Send + Sync + 'a) -> Result<Self> {
        if bytes.as_ref().is_empty() {
            return Err(Error::EmptyFile { name: name.to_owned() });
        }
        Self::from_source(name.to_owned(), Box::new(Cursor::new(bytes)))
    }

    /// Opens anything that can be read and sought; `name` as in [`AudioReader::from_bytes`].
    ///
    /// # Errors
    /// As [`AudioReader::open`].
    pub fn from_reader(name: &str, mut reader: impl Read + Seek + Send + Sync + 'a) -> Result<Self> {
        let broken = |error: std::io::Error| corrupt(name, &error.to_string());
        let len = reader.seek(SeekFrom::End(0)).map_err(broken)?;
        reader.seek(SeekFrom::Start(0)).map_err(broken)?;
        if len == 0 {
            return Err(Error::EmptyFile { name: name.to_owned() });
        }
        Self::from_source(name.to_owned(), Box::new(Source { reader, len }))
    }

    fn from_source(name: String, source: Box<dyn MediaSource + 'a>) -> Result<Self> {
        // Nothing of ours outlives the unwinding: the stream is dropped with it.
        catch_unwind(AssertUnwindSafe(|| Self::from_stream(&name, source)))
            .unwrap_or_else(|_| Err(corrupt(&name, GAVE_UP)))
    }

    fn from_stream(name: &str, source: Box<dyn MediaSource + 'a>) -> Result<Self> {
        let can_seek = source.is_seekable();
        let mut format = probe(name, MediaSourceStream::new(source, Default::default()))?;
        let track = Track::open(name, format.as_ref())?;
        let mut window = Window::default();
        if can_seek && format.format_info().short_name == "isomp4" {
            (format, window) = read_window(name, format, &track)?;
        }
        let info = AudioInfo {
            container: format.format_info().short_name.to_owned(),
            codec: track.decoder.codec_info().short_name.to_owned(),
            sample_rate: track.rate,
            channels: track.channels.unwrap_or(0),
            length: match track.stated {
                None => Length::Unknown,
                Some(frames) if track.exact => Length::Exact(frames),
                // A fragmented M4A has its lengths in its fragments.
                Some(0) => Length::Unknown,
                Some(frames) => Length::Estimated(window.clip(frames)),
            },
            bits_per_sample: track.bits_per_sample,
        };
        let mut reader = Self {
            name: name.to_owned(),
            format: Some(format),
            track,
            info,
            channels: Channels::Mean,
            window,
            interleaved: Vec::new(),
            planes: 0,
            block: Vec::new(),
            taken: 0,
            place: 0,
            wanted: window.start,
            approach: Approach::Counting,
            origin: None,
            links: 0,
            damage: Damage::default(),
            ended: false,
            stop: Stop::No,
        };
        if reader.info.channels == 0 {
            reader.advance()?;
            reader.info.channels = reader.planes;
        }
        Ok(reader)
    }

    /// Chooses how several channels become one; [`Channels::Mean`] unless told.
    #[must_use]
    pub fn mixed(mut self, channels: Channels) -> Self {
        self.channels = channels;
        self.block.clear();
        mix_down(&self.interleaved, self.planes, channels, &mut self.block);
        self
    }

    /// What the header says.
    pub fn info(&self) -> &AudioInfo {
        &self.info
    }

    /// The name of the file in errors.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The frame that the next [`AudioReader::read`] begins with, at the file's own rate. After the last frame: the length.
    pub fn position(&self) -> u64 {
        self.window.clip(self.wanted.max(self.place + self.taken as u64))
    }

    /// Fills `out` with the next mono frames; returns how many there were, fewer only at the end of the sound.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Truncated`], [`Error::NotFinite`]. Frames before the damage are returned first. After
    /// an error the reader is of no use.
    pub fn read(&mut self, out: &mut [f32]) -> Result<usize> {
        let mut filled = 0;
        while filled < out.len() {
            let count = match self.next_block() {
                Ok(block) => block.len().min(out.len() - filled),
                Err(error) if filled > 0 => {
                    self.stop = Stop::Due(error);
                    break;
                }
                Err(error) => return Err(error),
            };
            if count == 0 {
                break;
            }
            out[filled..filled + count].copy_from_slice(&self.block[self.taken..self.taken + count]);
            self.take(count);
            filled += count;
        }
        Ok(filled)
    }

    /// Moves to a frame, so that the next read begins there. A frame beyond the end is no error: there is nothing to read.
    ///
    /// # Errors
    /// As [`AudioReader::read`], and if the source cannot be sought.
    pub fn seek(&mut self, frame: u64) -> Result<()> {
        self.guarded(|reader| reader.go_to(reader.window.start.saturating_add(frame)))
    }

    /// The next samples, as many as lie ready; none at the end. To be followed by [`AudioReader::take`].
    pub(crate) fn next_block(&mut self) -> Result<&[f32]> {
        if self.ready() == 0 {
            self.guarded(|reader| reader.advance().map(drop))?;
        }
        let ready = self.ready();
        Ok(&self.block[self.taken..self.taken + ready])
    }

    /// Marks samples of the block as read.
    pub(crate) fn take(&mut self, count: usize) {
        self.taken += count;
    }

    /// How many samples of the block are left within the window.
    fn ready(&self) -> usize {
        let left = self.block.len() - self.taken;
        let here = self.place + self.taken as u64;
        self.window.end.map_or(left, |end| left.min(usize::try_from(end.saturating_sub(here)).unwrap_or(left)))
    }

    /// Runs a step of the decoder. Its panic on hostile input becomes an error, and an error ends the reading.
    fn guarded<T>(&mut self, step: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        match std::mem::replace(&mut self.stop, Stop::Done) {
            Stop::No => {}
            Stop::Due(error) => return Err(error),
            Stop::Done => return Err(corrupt(&self.name, "an error before this one ended the reading")),
        }
        // After a panic `stop` stays at `Done`: nothing half changed is used again.
        let done =
            catch_unwind(AssertUnwindSafe(|| step(self))).unwrap_or_else(|_| Err(corrupt(&self.name, GAVE_UP)))?;
        self.stop = Stop::No;
        Ok(done)
    }

    fn drop_block(&mut self) {
        self.interleaved.clear();
        self.block.clear();
        self.taken = 0;
    }

    /// Decodes on until there are wanted samples; false at the end.
    fn advance(&mut self) -> Result<bool> {
        self.place += self.block.len() as u64;
        self.drop_block();
        let mut barren = 0u32;
        let wanted = i64::try_from(self.wanted).unwrap_or(i64::MAX).saturating_add(self.origin.unwrap_or(0));
        let from = self.track.lead_in(wanted);
        while !self.ended {
            if self.window.end.is_some_and(|end| self.approach == Approach::Counting && self.place >= end) {
                return self.finish();
            }
            let Some(packet) = self.next_packet()? else {
                // Nothing there, or nothing whole: see what there is, and of a lossless file count it.
                match self.approach {
                    Approach::Jumped => self.rewind(Approach::Scanning)?,
                    Approach::Scanning if self.track.exact => self.rewind(Approach::Counting)?,
                    _ => return self.finish(),
                }
                continue;
            };
            barren += 1;
            if barren > MAX_BARREN_PACKETS && self.approach == Approach::Counting {
                return Err(corrupt(&self.name, &format!("{MAX_BARREN_PACKETS} packets in a row hold no samples")));
            }
            if self.approach != Approach::Counting {
                let (start, end) = self.times(&packet);
                self.place = end;
                if start_time(&packet).saturating_add_unsigned(packet.dur.get()) <= from {
                    continue;
                }
                self.decode(&packet, end > self.wanted)?;
                self.place = start;
            } else {
                self.decode(&packet, true)?;
            }
            let len = self.block.len() as u64;
            if len == 0 {
                continue;
            }
            if self.origin.is_none() {
                self.origin = Some(start_time(&packet));
            }
            barren = 0;
            if self.place + len <= self.wanted {
                self.place += len;
                self.drop_block();
                continue;
            }
            if self.place > self.wanted && self.approach == Approach::Jumped {
                self.rewind(Approach::Scanning)?;
                continue;
            }
            self.approach = Approach::Counting;
            self.taken = self.wanted.saturating_sub(self.place) as usize;
            return self.check_finite().map(|()| true);
        }
        Ok(false)
    }

    /// Where a packet's samples begin and end, by its times.
    fn times(&self, packet: &Packet) -> (u64, u64) {
        let start = start_time(packet).saturating_sub(self.origin.unwrap_or(0));
        let start = u64::try_from(start).unwrap_or(0);
        (start, start.saturating_add(packet.dur.get()))
    }

    /// The next packet of the track; none at the end.
    fn next_packet(&mut self) -> Result<Option<Packet>> {
        loop {
            let Some(format) = &mut self.format else { return Ok(None) };
            match format.next_packet() {
                Ok(Some(mut packet)) if packet.track_id == self.track.id => {
                    self.track.correct_times(&mut packet);
                    return Ok(Some(packet));
                }
                Ok(Some(_)) => {}
                Ok(None) => return Ok(None),
                // The header's promise is compared in `finish`.
                Err(SymphoniaError::IoError(error)) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
                Err(SymphoniaError::ResetRequired) => self.next_in_chain()?,
                Err(error) => return Err(damage(&self.name, &error)),
            }
        }
    }

    /// The next of several Ogg streams joined end to end.
    fn next_in_chain(&mut self) -> Result<()> {
        if self.approach != Approach::Counting {
            // The times begin anew: count from the start.
            return self.rewind(Approach::Counting);
        }
        let Some(format) = &self.format else { return Ok(()) };
        let next = Track::open(&self.name, format.as_ref())?;
        if next.rate != self.track.rate {
            return Err(rate_changes(&self.name, self.track.rate, next.rate));
        }
        self.track = Track { exact: false, ..next };
        self.links += 1;
        Ok(())
    }

    /// One packet to the block; a bad one leaves it empty. `counts`: whether that is damage of what is wanted.
    fn decode(&mut self, packet: &Packet, counts: bool) -> Result<()> {
        self.damage.packets += u64::from(counts);
        let rate = self.track.rate;
        let last = match self.track.decode(packet) {
            Ok(buffer) => {
                let spec = buffer.spec();
                if spec.rate() != rate {
                    return Err(rate_changes(&self.name, rate, spec.rate()));
                }
                check_channels(&self.name, spec.channels().count())?;
                buffer.copy_to_vec_interleaved::<f32>(&mut self.interleaved);
                self.planes = buffer.num_planes();
                mix_down(&self.interleaved, self.planes, self.channels, &mut self.block);
                return Ok(());
            }
            Err(SymphoniaError::DecodeError(reason)) => reason,
            Err(SymphoniaError::IoError(error)) if error.kind() == ErrorKind::UnexpectedEof => "a packet ends early",
            Err(error) => return Err(damage(&self.name, &error)),
        };
        self.damage.bad += u64::from(counts);
        self.damage.last = last;
        Ok(())
    }

    /// The end of the stream: is it where it should be, and was it worth keeping?
    fn finish(&mut self) -> Result<bool> {
        self.ended = true;
        self.wanted = self.wanted.min(self.place);
        let Damage { packets, bad, last } = self.damage;
        if is_damaged(packets, bad) {
            return Err(corrupt(&self.name, &format!("{bad} of {packets} packets cannot be decoded ({last})")));
        }
        match self.track.declared() {
            Some(declared) if self.place < declared => {
                Err(Error::Truncated { name: self.name.clone(), declared, decoded: self.place })
            }
            _ => Ok(false),
        }
    }

    fn check_finite(&self) -> Result<()> {
        check_finite(&self.name, &self.block[self.taken..]).map_err(|error| match error {
            Error::NotFinite { name, index, value } => {
                let index = self.position() as usize + index;
                Error::NotFinite { name, index, value }
            }
            error => error,
        })
    }
}

impl Window {
    /// A place among the decoded samples as a place in the sound.
    fn clip(&self, place: u64) -> u64 {
        place.min(self.end.unwrap_or(u64::MAX)).saturating_sub(self.start)
    }
}

/// The container's time of the first sample that a packet yields.
fn start_time(packet: &Packet) -> i64 {
    packet.pts.saturating_add(packet.trim_start).get()
}

/// Whether so many of the packets are bad that the sound is not worth keeping. A stream cut out of a longer one may start
/// and end with an incomplete packet, as players accept; of a short one that must not be the larger part.
fn is_damaged(packets: u64, bad: u64) -> bool {
    bad > 2 + packets / 100 || 2 * bad > packets
}

fn corrupt(name: &str, reason: &str) -> Error {
    Error::Corrupt { name: name.to_owned(), reason: reason.to_owned() }
}

/// An error of the decoder in our terms.
fn damage(name: &str, error: &SymphoniaError) -> Error {
    match error {
        SymphoniaError::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => {
            corrupt(name, "the file ends within its header")
        }
        error => corrupt(name, &error.to_string()),
    }
}

#[cfg(test)]
mod tests;
