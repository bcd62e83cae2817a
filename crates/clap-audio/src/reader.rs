//! A sound file as a stream of mono samples at its own rate, by symphonia: what it is, where to start, the next samples.
//!
//! Mixing down happens packet by packet, so that memory is bounded by a packet, whatever the length of the file and
//! whatever the header claims. The content decides the format; the extension is a hint only.
//!
//! A lossless file that ends before its header's length is [`Error::Truncated`]. Lossy streams (MP3, AAC, Vorbis) state no
//! exact length: one cut short simply ends where its bytes end.
//!
//! # Seeking
//!
//! Sample n after a seek is sample n of a decode from the start. The container finds the place where it can (WAV, AIFF,
//! FLAC, M4A, Ogg with one stream). MP3 and ADTS have no index, and an Ogg file may be a chain of streams: there the
//! packets before the place are read and not decoded, from the first one if the place lies behind. The decoder then gets
//! as many packets before the place as it needs to arrive at the same state (`Track::lead_in`).
//!
//! # Encoder delay
//!
//! What an encoder puts before and after the sound is cut off where the file says how much: the LAME tag of MP3, the page
//! times of Ogg, the edit list of M4A. librosa, by way of ffmpeg or libsndfile, does the same. An MP3 without that tag
//! and AAC in ADTS keep it (ffmpeg's too).

use std::fs::File;
use std::io::{Cursor, ErrorKind, Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use symphonia::core::errors::Error as SymphoniaError;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::{FormatOptions, FormatReader, SeekMode, SeekTo};
use symphonia::core::io::{MediaSource, MediaSourceStream};
use symphonia::core::meta::MetadataOptions;
use symphonia::core::packet::Packet;
use symphonia::core::units::Timestamp;

use self::track::{Track, check_channels, rate_changes};
use crate::error::{Error, Result};
use crate::info::{AudioInfo, Length};
use crate::waveform::Channels;

mod edit_list;
mod track;

/// The most channels a file may have.
pub const MAX_CHANNELS: usize = 64;

/// The lowest sample rate of a file, in Hz.
pub const MIN_SAMPLE_RATE: u32 = 1_000;

/// The highest sample rate of a file, in Hz.
pub const MAX_SAMPLE_RATE: u32 = 768_000;

/// A sample beyond this would overflow `f32` when a frame of them is squared and summed.
const MAX_SAMPLE: f32 = 1e12;

/// The times of the last Ogg page are wrong if a seek ends on it: its padding is only known after the page before. A page
/// holds at most 255 packets, of at most 5,760 samples (Opus; Vorbis: 4,096).
const LONGEST_PAGE: u64 = 1 << 21;

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

/// How the reader comes to the wanted sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Approach {
    /// The place is known by counting every sample.
    Counting,
    /// The container has jumped: the place is what the packets' times say.
    Jumped,
    /// From the first packet on, without decoding those that are too early.
    Scanning,
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
        let mut format = probe(name, MediaSourceStream::new(source, Default::default()))?;
        let track = Track::open(name, format.as_ref())?;
        let mut window = Window::default();
        if format.format_info().short_name == "isomp4" {
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

    fn go_to(&mut self, target: u64) -> Result<()> {
        if self.origin.is_none() && !self.ended {
            self.wanted = 0;
            self.advance()?;
        }
        let in_block =
            self.approach == Approach::Counting && (self.place..self.place + self.block.len() as u64).contains(&target);
        self.damage = Damage::default();
        self.wanted = target;
        if in_block {
            self.taken = (target - self.place) as usize;
            return Ok(());
        }
        if self.track.declared().is_some_and(|declared| target >= declared) && self.links == 0 {
            self.place = target.min(self.track.stated.unwrap_or(target));
            self.wanted = self.place;
            self.drop_block();
            self.ended = true;
            return Ok(());
        }
        if self.info.container == "flac" {
            // symphonia 0.6.1 checks the frame sought against the number of the last one read, unless it had to search
            // for it (`PacketParser::resync`), and then skips what is earlier: seek in a fresh stream.
            self.rewind(Approach::Scanning)?;
        }
        if self.jump(target) {
            self.approach = Approach::Jumped;
            self.ended = false;
            self.place = 0;
            self.drop_block();
            self.track.reset();
            return Ok(());
        }
        let by_times = self.track.ticks_are_samples;
        self.rewind(if by_times { Approach::Scanning } else { Approach::Counting })
    }

    /// Lets the container find a packet before `target`; false if it cannot, or not so that the times can be trusted.
    fn jump(&mut self, target: u64) -> bool {
        let (Some(format), Some(origin)) = (&mut self.format, self.origin) else { return false };
        if self.links > 0 || !self.track.ticks_are_samples {
            return false;
        }
        let wanted = i64::try_from(target).unwrap_or(i64::MAX).saturating_add(origin);
        let mut time = self.track.lead_in(wanted).max(origin);
        match self.info.container.as_str() {
            "wave" | "aiff" | "flac" | "isomp4" => {}
            // Among several streams symphonia's search may go on for ever (OggReader::do_seek, `continue`).
            "ogg" if format.tracks().len() == 1 => {
                let last = self.track.stated.map(|stated| i64::try_from(stated).unwrap_or(i64::MAX));
                let Some(last) = last.filter(|&last| time < last) else { return false };
                time = time.min(last - LONGEST_PAGE as i64);
                if time <= origin {
                    return false;
                }
            }
            _ => return false,
        }
        let to = SeekTo::Timestamp { ts: Timestamp::new(time), track_id: self.track.id };
        format.seek(SeekMode::Accurate, to).is_ok()
    }

    /// Back to the first packet.
    fn rewind(&mut self, approach: Approach) -> Result<()> {
        let broken = |reason: &str| corrupt(&self.name, &format!("it cannot be read from its start again: {reason}"));
        let format = self.format.take().ok_or_else(|| broken("it is closed"))?;
        let mut stream = format.into_inner();
        stream.seek(SeekFrom::Start(0)).map_err(|error| broken(&error.to_string()))?;
        let format = probe(&self.name, stream)?;
        self.track = Track::open(&self.name, format.as_ref())?;
        self.format = Some(format);
        self.approach = approach;
        self.links = 0;
        self.place = 0;
        self.ended = false;
        self.damage = Damage::default();
        self.drop_block();
        Ok(())
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

/// A reader and its length.
struct Source<R> {
    reader: R,
    len: u64,
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

/// The edit list's part of the track.
fn read_window<'a>(
    name: &str,
    format: Box<dyn FormatReader + 'a>,
    track: &Track,
) -> Result<(Box<dyn FormatReader + 'a>, Window)> {
    let mut stream = format.into_inner();
    let edit = edit_list::read(&mut stream, track.id).map_err(|error| corrupt(name, &error.to_string()))?;
    let window = edit.map_or_else(Window::default, |edit| edit.window(track.rate, track.stated));
    Ok((probe(name, stream)?, window))
}

fn probe<'a>(name: &str, stream: MediaSourceStream<'a>) -> Result<Box<dyn FormatReader + 'a>> {
    let mut hint = Hint::new();
    if let Some(extension) = Path::new(name).extension().and_then(|extension| extension.to_str()) {
        hint.with_extension(extension);
    }
    symphonia::default::get_probe().probe(&hint, stream, FormatOptions::default(), MetadataOptions::default()).map_err(
        |error| match error {
            SymphoniaError::Unsupported(reason) if reason.contains("no suitable format reader") => {
                Error::NotAudio { name: name.to_owned() }
            }
            error => damage(name, &error),
        },
    )
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

/// Refuses NaN, infinity and what would become infinity in the spectrogram.
pub(crate) fn check_finite(name: &str, samples: &[f32]) -> Result<()> {
    // `<=` is false for NaN. Whole blocks first, without an early end, because that vectorises.
    let good = |sample: &f32| sample.abs() <= MAX_SAMPLE;
    let block_is_good = |block: &[f32]| block.iter().fold(true, |all, sample| all & good(sample));
    if samples.chunks(4096).all(block_is_good) {
        return Ok(());
    }
    match samples.iter().position(|sample| !good(sample)) {
        None => Ok(()),
        Some(index) => Err(Error::NotFinite { name: name.to_owned(), index, value: samples[index] }),
    }
}

/// Appends one mono sample per frame.
fn mix_down(interleaved: &[f32], channels: usize, mode: Channels, samples: &mut Vec<f32>) {
    match (channels, mode) {
        (0, _) => {}
        (1, _) => samples.extend_from_slice(interleaved),
        (_, Channels::First) => samples.extend(interleaved.iter().step_by(channels)),
        (2, Channels::Mean) => samples.extend(interleaved.chunks_exact(2).map(|frame| (frame[0] + frame[1]) * 0.5)),
        (_, Channels::Mean) => {
            let share = 1.0 / channels as f32;
            samples.extend(interleaved.chunks_exact(channels).map(|frame| frame.iter().sum::<f32>() * share));
        }
    }
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
