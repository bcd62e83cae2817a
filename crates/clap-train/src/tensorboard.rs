//! The events of a run as TensorBoard reads them.
//!
//! An event file is a row of TFRecords, each an `Event` message. Of both formats only what a run needs is written, by hand:
//! framing after `tensorflow/core/lib/io/record_writer.cc` (TensorFlow 2.21), messages after `tensorboard/compat/proto`
//! (`event.proto`, `summary.proto`, `tensor.proto`, `tensor_shape.proto`; TensorBoard 2.21).
//!
//! Every record is written by one call to the system, so a live TensorBoard sees each step as it ends, and what a killed
//! process leaves is whole but, at worst, for the last record, which readers wait for or pass over.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{Error, Result};
use crate::event::{Eval, Event, Step};

const FOLDER: &str = "tensorboard";
const PREFIX: &str = "events.out.tfevents.";

/// An event file that grows with its run.
#[derive(Debug)]
pub(crate) struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Begins the event file of a new run, with its configuration as text.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub(crate) fn create(run: &Path, config: &str) -> Result<Self> {
        let mut file = Self::begin(run)?;
        // Indented, it is code to the Markdown that the page makes of texts.
        let code: String = config.lines().map(|line| format!("    {line}\n")).collect();
        file.record(event(0).message(SUMMARY, Message::default().message(VALUE, text_value("config", &code))))?;
        Ok(file)
    }

    /// Begins another event file of a run that goes on after `step` steps; a reader of both forgets the later ones of the
    /// first, since they are taken again.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub(crate) fn go_on(run: &Path, step: u64) -> Result<Self> {
        let mut file = Self::begin(run)?;
        // Steps from that of a START on are purged.
        file.record(event(step + 1).message(SESSION_LOG, Message::default().varint(1, START)))?;
        Ok(file)
    }

    fn begin(run: &Path) -> Result<Self> {
        let folder = run.join(FOLDER);
        fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
        let path = folder.join(next_name(&folder)?);
        let file = OpenOptions::new().append(true).create_new(true).open(&path).map_err(|e| Error::io(&path, e))?;
        let mut file = Self { path, file };
        file.record(event(0).bytes(FILE_VERSION, b"brain.Event:2"))?;
        Ok(file)
    }

    /// Adds the numbers of a step or an evaluation; other events have none.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub(crate) fn log(&mut self, logged: &Event) -> Result<()> {
        let (step, scalars) = match logged {
            Event::Step(step) => (step.step, of_step(step)),
            Event::Eval(eval) => (eval.step, of_eval(eval)),
            _ => return Ok(()),
        };
        let values = scalars.into_iter().map(|(tag, value)| scalar_value(&tag, value));
        let summary = values.fold(Message::default(), |summary, value| summary.message(VALUE, value));
        self.record(event(step).message(SUMMARY, summary))
    }

    fn record(&mut self, event: Message) -> Result<()> {
        self.file.write_all(&framed(&event.0)).map_err(|e| Error::io(&self.path, e))
    }
}

/// A name after which every earlier file of the folder sorts, whatever the clock says: readers go by the names.
fn next_name(folder: &Path) -> Result<String> {
    let mut seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    for entry in fs::read_dir(folder).map_err(|e| Error::io(folder, e))? {
        let name = entry.map_err(|e| Error::io(folder, e))?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(PREFIX)).and_then(|rest| rest.parse::<u64>().ok());
        seconds = seconds.max(number.map_or(0, |number| number + 1));
    }
    Ok(format!("{PREFIX}{seconds:010}"))
}

fn of_step(step: &Step) -> Vec<(String, f64)> {
    let memory = step.memory.map(|bytes| ("memory_gb", bytes as f64 / 1e9));
    let scalars = [
        ("loss", step.loss),
        ("logit_scale", step.logit_scale),
        ("lr", step.lr),
        ("grad_norm", step.grad_norm),
        ("epoch", step.epoch as f64),
        ("seconds", step.seconds),
        ("data_wait", step.data_wait),
        ("clips_per_second", step.clips_per_second),
    ];
    scalars.into_iter().chain(memory).map(|(name, value)| (format!("train/{name}"), value)).collect()
}

fn of_eval(eval: &Eval) -> Vec<(String, f64)> {
    let metrics = eval.metrics.iter().map(|(name, value)| (name.as_str(), *value));
    let own = [("selected", eval.selected), ("seconds", eval.seconds)];
    metrics.chain(own).map(|(name, value)| (format!("valid/{name}"), value)).collect()
}

// Fields of Event.
const WALL_TIME: u64 = 1;
const STEP: u64 = 2;
const FILE_VERSION: u64 = 3;
const SUMMARY: u64 = 5;
const SESSION_LOG: u64 = 7;
/// `SessionLog.SessionStatus.START`.
const START: u64 = 1;
/// Field of Summary.
const VALUE: u64 = 1;
// Fields of Summary.Value.
const TAG: u64 = 1;
const SIMPLE_VALUE: u64 = 2;
const TENSOR: u64 = 8;
const METADATA: u64 = 9;

fn event(step: u64) -> Message {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Message::default().double(WALL_TIME, now.as_secs_f64()).varint(STEP, step)
}

fn scalar_value(tag: &str, value: f64) -> Message {
    Message::default().bytes(TAG, tag.as_bytes()).float(SIMPLE_VALUE, value as f32)
}

/// What the text plugin shows: a tensor of one string.
fn text_value(tag: &str, text: &str) -> Message {
    const DT_STRING: u64 = 7;
    const DATA_CLASS_TENSOR: u64 = 2;
    let plugin = Message::default().bytes(1, b"text");
    let metadata = Message::default().message(1, plugin).varint(4, DATA_CLASS_TENSOR);
    let shape = Message::default().message(2, Message::default().varint(1, 1));
    let tensor = Message::default().varint(1, DT_STRING).message(2, shape).bytes(8, text.as_bytes());
    Message::default().bytes(TAG, tag.as_bytes()).message(METADATA, metadata).message(TENSOR, tensor)
}

/// A protocol buffer in the making: each field is its number and wire type, then its value.
#[derive(Debug, Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(mut self, field: u64, value: u64) -> Self {
        self.raw_varint(field << 3);
        self.raw_varint(value);
        self
    }

    fn double(mut self, field: u64, value: f64) -> Self {
        self.raw_varint(field << 3 | 1);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn float(mut self, field: u64, value: f32) -> Self {
        self.raw_varint(field << 3 | 5);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn bytes(mut self, field: u64, value: &[u8]) -> Self {
        self.raw_varint(field << 3 | 2);
        self.raw_varint(value.len() as u64);
        self.0.extend(value);
        self
    }

    fn message(self, field: u64, value: Self) -> Self {
        self.bytes(field, &value.0)
    }

    /// Seven bits a byte, the lowest first; the eighth says that more follow.
    fn raw_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

/// A TFRecord: the length, its checksum, the data, its checksum.
fn framed(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked_crc32c(&length).to_le_bytes(), data, &masked_crc32c(data).to_le_bytes()].concat()
}

/// CRC-32C, turned and shifted so that data that holds its own checksum has no trivial one.
fn masked_crc32c(data: &[u8]) -> u32 {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32 by Castagnoli's polynomial (RFC 3720, B.4), bits reversed.
fn crc32c(data: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut byte = 0;
        while byte < 256 {
            let (mut crc, mut bit) = (byte as u32, 0);
            while bit < 8 {
                crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
                bit += 1;
            }
            table[byte] = crc;
            byte += 1;
        }
        table
    };
    !data.iter().fold(!0, |crc, byte| TABLE[(crc as u8 ^ byte) as usize] ^ crc >> 8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Metrics;

    /// The payloads of a file, their checksums checked by the bit-wise definition.
    fn records(path: &Path) -> Vec<Vec<u8>> {
        let bytes = fs::read(path).unwrap();
        let masked = |data: &[u8]| {
            let step = |crc: u32, _: i32| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
            let crc = !data.iter().fold(!0u32, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step));
            crc.rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
        };
        let (mut rest, mut found) = (&bytes[..], Vec::new());
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            assert_eq!(rest[8..12], masked(&rest[..8]));
            let data = &rest[12..12 + length];
            assert_eq!(rest[12 + length..16 + length], masked(data));
            found.push(data.to_owned());
            rest = &rest[16 + length..];
        }
        found
    }

    /// A field of a message: its number and its value, of whatever wire type, as bytes.
    fn fields(mut message: &[u8]) -> Vec<(u64, Vec<u8>)> {
        fn varint(from: &mut &[u8]) -> u64 {
            let (mut value, mut shift) = (0, 0);
            loop {
                let byte = from[0];
                *from = &from[1..];
                value |= u64::from(byte & 0x7f) << shift;
                shift += 7;
                if byte < 0x80 {
                    return value;
                }
            }
        }
        let mut found = Vec::new();
        while !message.is_empty() {
            let key = varint(&mut message);
            let length = match key & 7 {
                0 => {
                    found.push((key >> 3, varint(&mut message).to_le_bytes().to_vec()));
                    continue;
                }
                1 => 8,
                2 => varint(&mut message) as usize,
                5 => 4,
                wire => panic!("wire type {wire}"),
            };
            found.push((key >> 3, message[..length].to_vec()));
            message = &message[length..];
        }
        found
    }

    fn field(message: &[u8], number: u64) -> Vec<u8> {
        let (_, value) = fields(message).into_iter().find(|(found, _)| *found == number).unwrap();
        value
    }

    /// Tags and values of a record.
    fn scalars(record: &[u8]) -> Vec<(String, f32)> {
        let values = fields(&field(record, SUMMARY)).into_iter().map(|(_, value)| value);
        values
            .map(|value| {
                let number = field(&value, SIMPLE_VALUE).try_into().unwrap();
                (String::from_utf8(field(&value, TAG)).unwrap(), f32::from_le_bytes(number))
            })
            .collect()
    }

    fn step_of(record: &[u8]) -> u64 {
        u64::from_le_bytes(field(record, STEP).try_into().unwrap())
    }

    fn files(run: &Path) -> Vec<PathBuf> {
        let mut files: Vec<_> = fs::read_dir(run.join(FOLDER)).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    /// RFC 3720, B.4, and the check value that catalogues of checksums give.
    #[test]
    fn checksums_are_castagnolis() {
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(&(0..32).collect::<Vec<u8>>()), 0x46dd_794e);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn steps_and_evaluations_are_scalars() {
        let run = tempfile::tempdir().unwrap();
        let mut file = EventFile::create(run.path(), "seed = 0\n[data]\n").unwrap();
        let step = Step { step: 300, loss: 1.5, lr: 1e-4, memory: Some(3_000_000_000), ..Step::default() };
        file.log(&Event::Step(step)).unwrap();
        file.log(&Event::Warning { message: "no number".to_owned() }).unwrap();
        let metrics = Metrics::from([("R@1".to_owned(), 0.25)]);
        file.log(&Event::Eval(Eval { step: 300, metrics, selected: 0.5, ..Eval::default() })).unwrap();

        let records = records(&files(run.path())[0]);
        assert_eq!(records.len(), 4);
        assert_eq!(field(&records[0], FILE_VERSION), b"brain.Event:2");
        let value = field(&field(&records[1], SUMMARY), VALUE);
        assert_eq!(field(&value, TAG), b"config");
        assert_eq!(field(&field(&value, TENSOR), 8), b"    seed = 0\n    [data]\n");
        assert_eq!((step_of(&records[2]), step_of(&records[3])), (300, 300));
        let found = scalars(&records[2]);
        for (tag, value) in [("train/loss", 1.5), ("train/lr", 1e-4), ("train/memory_gb", 3.0)] {
            assert!(found.contains(&(tag.to_owned(), value)), "no {tag} in {found:?}");
        }
        let found = scalars(&records[3]);
        assert_eq!(found[..2], [("valid/R@1".to_owned(), 0.25), ("valid/selected".to_owned(), 0.5)]);
    }

    #[test]
    fn a_run_that_goes_on_takes_later_steps_back() {
        let run = tempfile::tempdir().unwrap();
        drop(EventFile::create(run.path(), "").unwrap());
        for step in [7, 3] {
            let mut file = EventFile::go_on(run.path(), step).unwrap();
            file.log(&Event::Step(Step { step: step + 1, ..Step::default() })).unwrap();
            let files = files(run.path());
            assert_eq!(file.path, *files.last().unwrap(), "the newest file sorts last: {files:?}");
            let records = records(&file.path);
            assert_eq!((step_of(&records[1]), field(&field(&records[1], SESSION_LOG), 1)[0]), (step + 1, 1));
        }
        assert_eq!(files(run.path()).len(), 3);
    }
}
