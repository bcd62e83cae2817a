//! The way to a frame: sample n after a seek is sample n of a decode from the start.
//!
//! The container finds the place where it can: WAV, AIFF, AU, FLAC, M4A, Ogg with one stream. MP3 and ADTS have no index, and an
//! Ogg file may be a chain of streams: there the packets before the place are read and not decoded, from the first one on.
//! The decoder then gets as many packets before the place as it needs to arrive at the same state (`Track::lead_in`); Opus
//! alone comes only within 1e-5 of it.

use std::io::{Seek, SeekFrom};

use symphonia::core::formats::{SeekMode, SeekTo};
use symphonia::core::units::Timestamp;

use super::source::probe;
use super::track::Track;
use super::{AudioReader, Damage, corrupt};
use crate::error::Result;

/// The times of the last Ogg page are wrong if a seek ends on it: its padding is only known after the page before. A page
/// holds at most 255 packets, of at most 5,760 samples (Opus; Vorbis: 4,096).
const LONGEST_PAGE: u64 = 1 << 21;

/// How the reader comes to the wanted sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Approach {
    /// The place is known by counting every sample.
    Counting,
    /// The container has jumped: the place is what the packets' times say.
    Jumped,
    /// From the first packet on, without decoding those that are too early.
    Scanning,
}

impl AudioReader<'_> {
    /// Moves to a place among the decoded samples.
    pub(super) fn go_to(&mut self, target: u64) -> Result<()> {
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
            "wave" | "aiff" | "au" | "flac" | "isomp4" => {}
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
    pub(super) fn rewind(&mut self, approach: Approach) -> Result<()> {
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
}
