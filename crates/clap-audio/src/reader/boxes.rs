//! The boxes of an MP4 file, and a look at their tables before symphonia reads them.
//!
//! symphonia 0.6.1 goes through the table of times, and through the lengths of a fragment's packets, from the start for
//! every packet (`SttsAtom::find_timing_for_sample`, `TrunAtom::sample_timing`), and counts a fragment's packets one by one
//! whether or not a byte belongs to each. So a header could claim hours of work; encoders write a few rows.

use std::io::{ErrorKind, Read, Result, Seek, SeekFrom};

/// Boxes looked at in one file: 7 for a second of sound in fragments of a second, a few dozen without fragments.
const MAX_BOXES: u32 = 1 << 18;

/// Rows of a table that is searched row by row.
const MAX_ROWS: u64 = 1 << 16;

/// What a file claims beyond [`MAX_ROWS`], in words; the source is left at its beginning.
pub(super) fn absurd_table(source: &mut (impl Read + Seek)) -> Result<Option<String>> {
    let len = source.seek(SeekFrom::End(0))?;
    let mut boxes = Boxes::new(source);
    let long = match boxes.long_table(0, len, 0) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => None,
        long => long?.map(|(what, rows)| format!("{rows} {what}")),
    };
    let long = if boxes.left == 0 { Some(format!("{MAX_BOXES} boxes or more")) } else { long };
    source.seek(SeekFrom::Start(0))?;
    Ok(long)
}

/// The most that [`absurd_table`] accepts.
pub(super) const ALLOWED: &str = "at most 65536 are read";

/// Where the content of a box begins and ends.
struct Found {
    kind: [u8; 4],
    begin: u64,
    end: u64,
}

/// Reads boxes at given places, so many and no more.
pub(super) struct Boxes<'a, R> {
    source: &'a mut R,
    left: u32,
}

impl<'a, R: Read + Seek> Boxes<'a, R> {
    pub(super) fn new(source: &'a mut R) -> Self {
        Self { source, left: MAX_BOXES }
    }

    /// Where the content of the next box of a kind begins and ends.
    pub(super) fn find(&mut self, mut at: u64, end: u64, kind: &[u8; 4]) -> Result<Option<(u64, u64)>> {
        while let Some(found) = self.next(at, end)? {
            if found.kind == *kind {
                return Ok(Some((found.begin, found.end)));
            }
            at = found.end;
        }
        Ok(None)
    }

    /// The box at a place, if there is a whole one and its like were not too many.
    fn next(&mut self, at: u64, end: u64) -> Result<Option<Found>> {
        if at.saturating_add(8) > end || self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let size = self.number(at, 4)?;
        let mut kind = [0; 4];
        self.source.read_exact(&mut kind)?;
        let (head, size) = match size {
            0 => (8, end - at),
            1 => (16, self.number(at + 8, 8)?),
            size => (8, size),
        };
        let stop = at.checked_add(size).filter(|&stop| size >= head && stop <= end);
        Ok(stop.map(|end| Found { kind, begin: at + head, end }))
    }

    /// The first table, in the boxes of `at..end` and in theirs, that claims more than [`MAX_ROWS`] rows.
    fn long_table(&mut self, mut at: u64, end: u64, depth: u32) -> Result<Option<(&'static str, u64)>> {
        while let Some(found) = self.next(at, end)? {
            at = found.end;
            let long = match &found.kind {
                b"moov" | b"trak" | b"mdia" | b"minf" | b"stbl" | b"moof" | b"traf" if depth < 8 => {
                    self.long_table(found.begin, found.end, depth + 1)?
                }
                b"stts" | b"trun" if found.end - found.begin >= 8 => {
                    let name = if &found.kind == b"stts" { "times" } else { "packets in a fragment" };
                    let rows = self.number(found.begin + 4, 4)?;
                    (rows > MAX_ROWS).then_some((name, rows))
                }
                _ => None,
            };
            if long.is_some() {
                return Ok(long);
            }
        }
        Ok(None)
    }

    /// A number of a full box, at one place in version 0 and at another in version 1, where times are longer.
    pub(super) fn number_after(&mut self, full_box: u64, version_0: u64, version_1: u64, bytes: usize) -> Result<u64> {
        let at = if self.number(full_box, 1)? == 0 { version_0 } else { version_1 };
        self.number(full_box + at, bytes)
    }

    pub(super) fn number(&mut self, at: u64, bytes: usize) -> Result<u64> {
        self.source.seek(SeekFrom::Start(at))?;
        let mut number = [0; 8];
        self.source.read_exact(&mut number[8 - bytes..])?;
        Ok(u64::from_be_bytes(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn boxed(kind: &[u8; 4], content: &[u8]) -> Vec<u8> {
        [&(8 + content.len() as u32).to_be_bytes()[..], kind, content].concat()
    }

    fn table(kinds: &[&[u8; 4]], rows: u32) -> Vec<u8> {
        let table = [[0; 4], rows.to_be_bytes()].concat();
        kinds.iter().rev().fold(table, |content, kind| boxed(kind, &content))
    }

    fn check(bytes: &[u8], expected: Option<&str>) {
        assert_eq!(absurd_table(&mut Cursor::new(bytes)).unwrap().as_deref(), expected);
    }

    #[test]
    fn tables_that_claim_too_much_are_found() {
        let times = [b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stts"];
        check(&table(&times, 1 << 16), None);
        check(&table(&times, (1 << 16) + 1), Some("65537 times"));
        let fragment = [b"moof", b"traf", b"trun"];
        check(&table(&fragment, 1 << 16), None);
        let later = [table(&fragment, 1), boxed(b"mdat", &[0; 99]), table(&fragment, u32::MAX)].concat();
        check(&later, Some("4294967295 packets in a fragment"));
        for len in 0..later.len() {
            check(&later[..len], None);
        }
    }

    #[test]
    fn boxes_are_counted_and_their_depth_is_bounded() {
        check(&boxed(b"free", &[]).repeat(MAX_BOXES as usize), Some("262144 boxes or more"));
        check(&(0..10_000).fold(Vec::new(), |content, _| boxed(b"moov", &content)), None);
    }
}
