//! The edit list of an M4A or MP4 file, which says how much of the encoder's delay and padding is no sound.
//!
//! symphonia 0.6.1 does not read it (`IsoMp4Reader::try_new`: "Support edits"). ISO/IEC 14496-12, 8.6.6: the box `elst` of
//! a track's `edts` maps parts of the media to the presentation. Encoders write one entry: skip `media_time` samples, play
//! `segment_duration`. More than one entry, or one at another speed, is an editor's work, and is not applied.

use std::io::{ErrorKind, Read, Result, Seek, SeekFrom};

use super::Window;
use super::boxes::Boxes;

/// The one edit of a track.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Edit {
    /// Where the sound begins in the media.
    media_time: u64,
    /// Ticks of the media's clock, and of the movie's, per second.
    media_scale: u32,
    movie_scale: u32,
    /// In ticks of the movie's clock; 0 for a movie in fragments, whose length nobody knew.
    duration: u64,
}

impl Edit {
    /// The samples of the track that are its sound. `stated`: all of them.
    pub(super) fn window(self, rate: u32, stated: Option<u64>) -> Window {
        let samples = |ticks: u64, scale: u32| (u128::from(ticks) * u128::from(rate) / u128::from(scale.max(1))) as u64;
        let start = samples(self.media_time, self.media_scale);
        let by_edit = start.saturating_add(samples(self.duration, self.movie_scale));
        // A tick of the movie's clock is often a millisecond: the sample table knows better if it says about the same.
        let tick = samples(1, self.movie_scale) + 1;
        let end = match stated {
            _ if self.duration == 0 => stated,
            Some(stated) if stated.abs_diff(by_edit) <= tick => Some(stated),
            _ => Some(by_edit),
        };
        if end.is_some_and(|end| end <= start) {
            return Window::default();
        }
        Window { start, end }
    }
}

/// The edit of the track `id`, if the file is an MP4 and has one. The source is left at its beginning.
pub(super) fn read(source: &mut (impl Read + Seek), id: u32) -> Result<Option<Edit>> {
    let len = source.seek(SeekFrom::End(0))?;
    let edit = match movie(&mut Boxes::new(source), len, id) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
        edit => edit,
    };
    source.seek(SeekFrom::Start(0))?;
    edit
}

fn movie<R: Read + Seek>(boxes: &mut Boxes<'_, R>, len: u64, id: u32) -> Result<Option<Edit>> {
    let Some(moov) = boxes.find(0, len, b"moov")? else { return Ok(None) };
    let Some(mvhd) = boxes.find(moov.0, moov.1, b"mvhd")? else { return Ok(None) };
    let movie_scale = boxes.number_after(mvhd.0, 12, 20, 4)? as u32;
    let mut at = moov.0;
    while let Some(trak) = boxes.find(at, moov.1, b"trak")? {
        at = trak.1;
        let Some(tkhd) = boxes.find(trak.0, trak.1, b"tkhd")? else { continue };
        if boxes.number_after(tkhd.0, 12, 20, 4)? != u64::from(id) {
            continue;
        }
        let (Some(edts), Some(mdia)) = (boxes.find(trak.0, trak.1, b"edts")?, boxes.find(trak.0, trak.1, b"mdia")?)
        else {
            return Ok(None);
        };
        let (Some(elst), Some(mdhd)) = (boxes.find(edts.0, edts.1, b"elst")?, boxes.find(mdia.0, mdia.1, b"mdhd")?)
        else {
            return Ok(None);
        };
        let media_scale = boxes.number_after(mdhd.0, 12, 20, 4)? as u32;
        let (duration, media_time, rate) = match boxes.number(elst.0, 1)? {
            0 => (boxes.number(elst.0 + 8, 4)?, boxes.number(elst.0 + 12, 4)?, boxes.number(elst.0 + 16, 4)?),
            _ => (boxes.number(elst.0 + 8, 8)?, boxes.number(elst.0 + 16, 8)?, boxes.number(elst.0 + 24, 4)?),
        };
        let entries = boxes.number(elst.0 + 4, 4)?;
        // A time of -1 is a pause before the sound, and no encoder's. The speed is a fixed-point number of 16.16 bits.
        let plain = entries == 1 && media_time < 1 << 31 && rate == 1 << 16;
        return Ok(plain.then_some(Edit { media_time, media_scale, movie_scale, duration }));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn boxed(kind: &[u8; 4], content: &[u8]) -> Vec<u8> {
        [&(8 + content.len() as u32).to_be_bytes()[..], kind, content].concat()
    }

    fn numbers(numbers: &[u32]) -> Vec<u8> {
        numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
    }

    /// A movie of a clock of 1000 with one track, number 1, of a clock of 48,000.
    fn mp4(elst: &[u32]) -> Vec<u8> {
        let edts = boxed(b"edts", &boxed(b"elst", &numbers(elst)));
        let tkhd = boxed(b"tkhd", &numbers(&[0, 0, 0, 1, 0]));
        let mdia = boxed(b"mdia", &boxed(b"mdhd", &numbers(&[0, 0, 0, 48_000, 0])));
        let trak = boxed(b"trak", &[tkhd, edts, mdia].concat());
        let moov = boxed(b"moov", &[boxed(b"mvhd", &numbers(&[0, 0, 0, 1000, 0])), trak].concat());
        [boxed(b"ftyp", b"M4A "), boxed(b"free", &[0; 5]), moov].concat()
    }

    fn edit(bytes: Vec<u8>, id: u32) -> Option<Edit> {
        read(&mut Cursor::new(bytes), id).unwrap()
    }

    #[test]
    fn one_edit_is_found_in_its_track_alone() {
        let bytes = mp4(&[0, 1, 750, 1024, 1 << 16]);
        let found = edit(bytes.clone(), 1);
        assert_eq!(found, Some(Edit { media_time: 1024, media_scale: 48_000, movie_scale: 1000, duration: 750 }));
        assert_eq!(edit(bytes.clone(), 2), None);
        for len in 0..bytes.len() {
            edit(bytes[..len].to_vec(), 1);
        }
    }

    #[test]
    fn edits_of_an_editor_are_not_applied() {
        for elst in [[0, 2, 750, 1024, 1 << 16], [0, 1, 750, u32::MAX, 1 << 16], [0, 1, 750, 1024, 1 << 15]] {
            assert_eq!(edit(mp4(&elst), 1), None, "{elst:?}");
        }
    }

    #[test]
    fn the_window_follows_the_sample_table_within_a_tick() {
        let edit = |media_time, duration| Edit { media_time, media_scale: 48_000, movie_scale: 1000, duration };
        let check = |edit: Edit, stated, start, end| {
            assert_eq!(edit.window(48_000, stated), Window { start, end }, "{edit:?} {stated:?}");
        };
        check(edit(1024, 750), Some(37_024), 1024, Some(37_024));
        check(edit(1024, 750), Some(37_030), 1024, Some(37_030));
        check(edit(1024, 750), Some(37_888), 1024, Some(37_024));
        check(edit(1024, 0), Some(37_888), 1024, Some(37_888));
        check(edit(1024, 0), None, 1024, None);
        // All of it left out: that is no sound, so the edit is not believed.
        check(edit(50_000, 0), Some(37_888), 0, None);
    }

    #[test]
    fn absurd_boxes_end_the_search() {
        assert_eq!(edit(numbers(&[0, 0]).repeat(10), 1), None);
        assert_eq!(edit([&numbers(&[1])[..], b"moov", &[0xff; 8]].concat(), 1), None);
    }
}
