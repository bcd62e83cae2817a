//! One shard from front to back: members become pairs as they pass by, and nothing is sought, kept or written.
//!
//! The members of a clip have to stand side by side, as every writer of shards puts them and as Python's `webdataset` wants
//! them; no more than one clip is held.

use std::cell::{Cell, RefCell};
use std::io::{self, Read};

use tar::{Archive, Entry};

use crate::members::{Bounded, Group, MAX_HEADERS, Member, stored_size};
use crate::webdataset::{cut, damage};
use crate::{AudioSource, Sample, Skipped, TextAugment};

/// The most bytes of a streamed sound, which waits in the shuffle buffer: over five minutes of 16-bit stereo at 48 kHz.
const MAX_SOUND: u64 = 64 << 20;

/// What comes by.
#[derive(Debug)]
pub(crate) enum Passing {
    /// A pair; nothing in it where it is unusable, which has been reported.
    Pair(Option<Box<Sample>>),
    /// Something that is left out.
    Skipped(Skipped),
}

/// Hands `take` whatever comes by in `shard`, until the shard ends or `take` has had enough, which it says by `false`.
/// Whether the shard came to its end undamaged.
pub(crate) fn read(shard: &str, bytes: impl Read, augment: TextAugment, take: &mut dyn FnMut(Passing) -> bool) -> bool {
    let source = Source {
        bytes: RefCell::new(bytes),
        position: Cell::new(0),
        has_ended: Cell::new(false),
        failure: RefCell::new(None),
    };
    let source = Bounded::new(source);
    let mut pairs = Pairs { shard, augment, open: None, is_damaged: false, take };
    pairs.read(&source) && pairs.close() && !pairs.is_damaged
}

/// A reader that knows how far it got and whether it failed.
struct Source<R> {
    bytes: RefCell<R>,
    position: Cell<u64>,
    has_ended: Cell<bool>,
    failure: RefCell<Option<String>>,
}

impl<R: Read> Read for &Bounded<Source<R>> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.grant(buffer.len())?;
        let source = &self.inner;
        loop {
            match source.bytes.borrow_mut().read(&mut buffer[..count]) {
                Ok(count) => {
                    self.spend(count);
                    source.has_ended.set(count == 0 && !buffer.is_empty());
                    source.position.set(source.position.get() + count as u64);
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    *source.failure.borrow_mut() = Some(error.to_string());
                    return Err(error);
                }
            }
        }
    }
}

/// A member's place.
#[derive(Default)]
struct Place {
    name: String,
    start: u64,
    size: u64,
}

impl Place {
    fn end(&self) -> u64 {
        self.start.saturating_add(self.size)
    }
}

/// The pair that is being put together.
struct Pairs<'a> {
    shard: &'a str,
    augment: TextAugment,
    open: Option<Group>,
    is_damaged: bool,
    take: &'a mut dyn FnMut(Passing) -> bool,
}

impl Pairs<'_> {
    /// Goes through the members; whether more is wanted.
    fn read<R: Read>(&mut self, source: &Bounded<Source<R>>) -> bool {
        let mut archive = Archive::new(source);
        // Shards that were joined end to end (`cat *.tar |`) are one stream.
        archive.set_ignore_zeros(true);
        let mut entries = match archive.entries() {
            Ok(entries) => entries,
            Err(error) => return self.end(source, &Place::default(), &error),
        };
        let mut last = Place::default();
        loop {
            // What is left of the last member is read over on the way to the next header.
            let rest = last.end().saturating_sub(source.inner.position.get());
            source.allow(rest.saturating_add(MAX_HEADERS));
            let Some(entry) = entries.next() else {
                return true;
            };
            let mut entry = match entry {
                Ok(entry) => entry,
                Err(error) => return self.end(source, &last, &error),
            };
            last = Place {
                name: String::from_utf8_lossy(&entry.path_bytes()).into_owned(),
                start: entry.raw_file_position(),
                size: stored_size(&entry),
            };
            source.allow(MAX_SOUND);
            if !self.add(&mut entry, source, &last) {
                return false;
            }
        }
    }

    /// Says why the shard is read no further.
    fn end<R>(&mut self, source: &Bounded<Source<R>>, last: &Place, error: &io::Error) -> bool {
        self.is_damaged = true;
        let position = source.inner.position.get();
        let failure = source.inner.failure.borrow_mut().take();
        if let Some(failure) = failure {
            let reason = format!("stopped after byte {position} ({failure}); what came before is kept");
            self.skip(self.shard.to_owned(), reason)
        } else if position < last.end() {
            self.skip(format!("{}/{}", self.shard, last.name), cut(last.size, position.saturating_sub(last.start)))
        } else {
            self.skip(self.shard.to_owned(), damage(last.end(), error))
        }
    }

    /// Puts a member to its clip; whether more is wanted.
    fn add<R: Read>(
        &mut self,
        entry: &mut Entry<'_, &Bounded<Source<R>>>,
        source: &Bounded<Source<R>>,
        place: &Place,
    ) -> bool {
        let Some(member) = Member::of(entry) else {
            return true;
        };
        if self.open.as_ref().is_some_and(|open| open.key() != member.key) && !self.close() {
            return false;
        }
        let (shard, augment) = (self.shard, self.augment);
        let group = self.open.get_or_insert_with(|| Group::new(&member.key));
        let fault = group.add(member, entry, augment, |entry, name| {
            let size = entry.size();
            if size > MAX_SOUND {
                return Err(format!("a sound of {size} bytes; a stream takes {MAX_SOUND}, a shard on disk more"));
            }
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).map_err(|error| error.to_string())?;
            Ok(AudioSource::Memory { name: format!("{shard}/{name}"), bytes: bytes.into() })
        });
        let Source { position, has_ended, failure, .. } = &source.inner;
        if has_ended.get() && position.get() < place.end() || failure.borrow().is_some() {
            // The shard ends here, which is reported where the next header is looked for; this clip is lost.
            self.open = None;
            return (self.take)(Passing::Pair(None));
        }
        match fault {
            Some(fault) => self.skip(format!("{}/{}", self.shard, fault.name), fault.reason),
            None => true,
        }
    }

    /// Hands on the pair at hand, if there is one; whether more is wanted.
    fn close(&mut self) -> bool {
        let Some(group) = self.open.take() else {
            return true;
        };
        let what = format!("{}/{}", self.shard, group.key());
        match group.sample(true) {
            Ok(sample) => (self.take)(Passing::Pair(sample.map(Box::new))),
            Err(reason) => {
                let reason = format!("{reason}; in a stream the members of a clip stand side by side");
                self.skip(what, reason) && (self.take)(Passing::Pair(None))
            }
        }
    }

    fn skip(&mut self, what: String, reason: String) -> bool {
        (self.take)(Passing::Skipped(Skipped { what, reason }))
    }
}

#[cfg(test)]
mod tests;
