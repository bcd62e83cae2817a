//! The clips that two data sets share: the same samples, and the same sound re-encoded, at another level or rate, or in part.
//!
//! The paper takes the clips of its evaluation sets out of its training data (arXiv 2211.06687, section 4.1), and so should
//! everyone whose sets come from the same archives. The smaller set is kept in memory as fingerprints, the larger one is heard
//! clip by clip; the list that comes of it is what [`crate::OpenOptions::exclude`] takes.

mod fingerprint;
mod index;
mod pcm_hash;

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::num::NonZeroUsize;
use std::path::Path;

use serde::{Serialize, Serializer};

use self::fingerprint::{FRAMES_PER_SECOND, Fingerprint};
use self::index::{Hit, Index};
use crate::ordered::ordered;
use crate::whole_file::write_whole;
use crate::{Error, Result, Sample, Skipped};

pub(crate) use self::pcm_hash::{PcmHash, RATE};

/// Partners that are named for one clip of the first set, the best ones.
const MOST_PARTNERS: usize = 10;

/// How to compare two data sets.
#[derive(Debug, Clone)]
pub struct OverlapOptions {
    /// Look for the same samples only.
    pub exact_only: bool,
    /// Threads that decode and compare.
    pub threads: NonZeroUsize,
}

/// A clip and another that is the same.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Match {
    /// The clip of the first set, to be left out.
    pub id: String,
    /// The clip of the second.
    pub matched: String,
    /// In what they agree.
    #[serde(rename = "reason", serialize_with = "as_text")]
    pub kind: MatchKind,
    /// How well: 1 for the same samples, and for others `1 - 2 e`, where `e` is the share of the fingerprints' bits that
    /// differ; strangers have about 0.
    pub score: f64,
    /// Seconds into the second clip at which the first begins; negative where it begins earlier.
    pub offset: f64,
}

/// In what two clips agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MatchKind {
    /// Every sample at 48 kHz, mono, 16 bits.
    SameSamples,
    /// What is heard.
    SameSound,
}

/// What two data sets share.
#[derive(Debug, Clone, Default)]
pub struct OverlapReport {
    /// In the order of the first set, the best match of a clip first.
    pub matches: Vec<Match>,
    /// Clips that could not be decoded, of either set.
    pub skipped: Vec<Skipped>,
}

impl fmt::Display for MatchKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SameSamples => "same samples",
            Self::SameSound => "same sound",
        })
    }
}

fn as_text<S: Serializer>(kind: &MatchKind, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_str(kind)
}

/// Finds the clips of `a` that `b` has too. `progress` is told how many clips of both have been heard.
pub fn overlap(a: &[Sample], b: &[Sample], options: &OverlapOptions, progress: &mut dyn FnMut(usize)) -> OverlapReport {
    // The order of the pairs is that of `a`, whichever is kept in memory.
    let swapped = a.len() < b.len();
    let (kept, passed) = if swapped { (a, b) } else { (b, a) };
    let mut skipped = Vec::new();
    let known = hear_all(kept, options, &mut skipped, progress);
    let search = Search::new(&known);
    let mut partners = Partners::default();
    let look_up = |sample: &Sample| hear(sample, options.exact_only).map(|heard| search.find(&heard, known.len()));
    let taken = ordered(passed, options.threads, look_up, |index, found| {
        match found {
            Ok(found) => found.into_iter().for_each(|(clip, found)| match swapped {
                true => partners.add(clip, index, found.turned()),
                false => partners.add(index, clip, found),
            }),
            Err(clip) => skipped.push(clip),
        }
        progress(kept.len() + index + 1);
        Ok::<(), Infallible>(())
    });
    let Ok(()) = taken;
    OverlapReport { matches: partners.matches(a, b), skipped }
}

/// Finds the clips of `samples` of which an earlier one is the same. `progress` is told how many clips have been heard.
pub fn overlap_within(samples: &[Sample], options: &OverlapOptions, progress: &mut dyn FnMut(usize)) -> OverlapReport {
    let mut skipped = Vec::new();
    let known = hear_all(samples, options, &mut skipped, progress);
    let search = Search::new(&known);
    let places: Vec<usize> = (0..known.len()).collect();
    let mut partners = Partners::default();
    let look_up = |place: &usize| known[*place].as_ref().map(|heard| search.find(heard, *place)).unwrap_or_default();
    let taken = ordered(&places, options.threads, look_up, |index, found| {
        found.into_iter().for_each(|(clip, found)| partners.add(index, clip, found));
        Ok::<(), Infallible>(())
    });
    let Ok(()) = taken;
    OverlapReport { matches: partners.matches(samples, samples), skipped }
}

/// Writes the list of the clips to leave out: `id`, `reason`, `matched`, `score`, `offset` in seconds, a row for each match.
///
/// # Errors
/// [`Error::Io`].
pub fn write_exclusion_list(path: &Path, matches: &[Match]) -> Result<()> {
    let fail = |error: csv::Error| Error::io(path, std::io::Error::other(error));
    let mut table = csv::Writer::from_writer(Vec::new());
    table.write_record(["id", "reason", "matched", "score", "offset"]).map_err(fail)?;
    for Match { id, matched, kind, score, offset } in matches {
        let (kind, score, offset) = (kind.to_string(), format!("{score:.3}"), format!("{offset:.2}"));
        table.write_record([id, &kind, matched, &score, &offset]).map_err(fail)?;
    }
    let text = table.into_inner().map_err(|error| fail(error.into_error().into()))?;
    write_whole(path, |file| std::io::Write::write_all(file, &text).map_err(|cause| Error::io(path, cause)))?;
    Ok(())
}

/// A sound as it is compared.
struct Heard {
    hash: PcmHash,
    /// None where only samples are compared.
    fingerprint: Option<Fingerprint>,
}

/// How a clip agrees with another.
#[derive(Debug, Clone, Copy)]
struct Found {
    kind: MatchKind,
    score: f64,
    offset: f64,
}

impl Found {
    /// The same, seen from the other clip.
    fn turned(self) -> Self {
        // Without the negative zero.
        Self { offset: 0.0 - self.offset, ..self }
    }
}

fn hear(sample: &Sample, exact_only: bool) -> std::result::Result<Heard, Skipped> {
    let heard = || {
        let wave = sample.audio.load(RATE)?;
        let hash = PcmHash::of(&wave);
        let fingerprint = if exact_only { None } else { Some(Fingerprint::of(wave)?) };
        Ok(Heard { hash, fingerprint })
    };
    heard().map_err(|error: clap_audio::Error| {
        let (what, reason) = (sample.audio.name(), error.to_string());
        // A sound's own errors name it already.
        let reason = reason.strip_prefix(&format!("{what}: ")).map(str::to_owned).unwrap_or(reason);
        Skipped { what, reason }
    })
}

fn hear_all(
    samples: &[Sample],
    options: &OverlapOptions,
    skipped: &mut Vec<Skipped>,
    progress: &mut dyn FnMut(usize),
) -> Vec<Option<Heard>> {
    let mut known = Vec::with_capacity(samples.len());
    let taken = ordered(
        samples,
        options.threads,
        |sample| hear(sample, options.exact_only),
        |index, heard| {
            known.push(heard.map_err(|clip| skipped.push(clip)).ok());
            progress(index + 1);
            Ok::<(), Infallible>(())
        },
    );
    let Ok(()) = taken;
    known
}

/// Known clips, by their samples and by their fingerprints.
struct Search<'a> {
    by_hash: HashMap<PcmHash, Vec<usize>>,
    index: Index<'a>,
}

impl<'a> Search<'a> {
    fn new(known: &'a [Option<Heard>]) -> Self {
        let mut by_hash: HashMap<PcmHash, Vec<usize>> = HashMap::new();
        for (clip, heard) in known.iter().enumerate() {
            if let Some(heard) = heard {
                by_hash.entry(heard.hash).or_default().push(clip);
            }
        }
        let fingerprints = known.iter().map(|heard| heard.as_ref()?.fingerprint.as_ref());
        Self { by_hash, index: Index::new(fingerprints.collect()) }
    }

    /// The clips before `end` that are the same, the best first.
    fn find(&self, heard: &Heard, end: usize) -> Vec<(usize, Found)> {
        let same = self.by_hash.get(&heard.hash).map(Vec::as_slice).unwrap_or_default();
        let exact = Found { kind: MatchKind::SameSamples, score: 1.0, offset: 0.0 };
        let mut found: Vec<(usize, Found)> =
            same.iter().filter(|clip| **clip < end).map(|clip| (*clip, exact)).collect();
        if let Some(fingerprint) = &heard.fingerprint {
            let near = self.index.find(fingerprint, end).into_iter().filter(|hit| !same.contains(&hit.clip));
            found.extend(near.map(|Hit { clip, offset, agreement }| {
                let score = 1.0 - 2.0 * agreement.error_rate();
                (clip, Found { kind: MatchKind::SameSound, score, offset: offset as f64 / FRAMES_PER_SECOND })
            }));
        }
        found
    }
}

/// The best partners of each clip of the first set, whichever of the two passes by: no clip may drop out of the list because
/// another has many partners.
#[derive(Default)]
struct Partners(HashMap<usize, Vec<(usize, Found)>>);

impl Partners {
    fn add(&mut self, first: usize, second: usize, found: Found) {
        let partners = self.0.entry(first).or_default();
        partners.push((second, found));
        // Now and then, for a thousand takes of one drum would be half a million pairs.
        if partners.len() >= 4 * MOST_PARTNERS {
            keep_best(partners);
        }
    }

    fn matches(self, a: &[Sample], b: &[Sample]) -> Vec<Match> {
        let mut clips: Vec<_> = self.0.into_iter().collect();
        clips.sort_unstable_by_key(|(first, _)| *first);
        let mut matches = Vec::new();
        for (first, mut partners) in clips {
            keep_best(&mut partners);
            matches.extend(partners.into_iter().map(|(second, found)| Match {
                id: a[first].id.clone(),
                matched: b[second].id.clone(),
                kind: found.kind,
                score: found.score,
                offset: found.offset,
            }));
        }
        matches
    }
}

fn keep_best(partners: &mut Vec<(usize, Found)>) {
    partners.sort_by(|(b, found), (d, other)| {
        found.kind.cmp(&other.kind).then(other.score.total_cmp(&found.score)).then(b.cmp(d))
    });
    partners.truncate(MOST_PARTNERS);
}

#[cfg(test)]
mod tests;
