//! How far a packing has come: `.pack.json` beside the shards, so that a stopped one can go on where it was.
//!
//! It holds of each finished shard where in the clips it ends, and a fingerprint of the options and of all clips up to there.
//! It is written anew after each shard and removed when the whole job is done.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::whole_file::write_whole;
use crate::{AudioSource, Error, PackOptions, Result, Sample, Skipped};

const FILE_NAME: &str = ".pack.json";

/// A finished shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) pairs: usize,
    pub(crate) bytes: u64,
    /// The clip that the next shard begins with.
    pub(crate) next: usize,
    /// [`Fingerprint::so_far`] of the clips before `next`.
    pub(crate) fingerprint: String,
    /// Clips on the way that could not be had.
    pub(crate) skipped: Vec<Skipped>,
}

/// The finished shards of a job, in order; number `n` is `n.tar`.
pub(crate) struct Journal {
    folder: PathBuf,
    pub(crate) shards: Vec<Written>,
}

impl Journal {
    /// What is finished in `folder` of the job of packing `samples`, and the fingerprint of what was packed so. Shards that the
    /// journal lists and that are of other clips now are removed, unless all are.
    ///
    /// # Errors
    /// [`Error::OutputExists`] if the folder holds finished shards, [`Error::OtherPack`] for those of another job.
    pub(crate) fn open(folder: &Path, samples: &[Sample], options: &PackOptions) -> Result<(Self, Fingerprint)> {
        let mut journal = Self { folder: folder.to_owned(), shards: Vec::new() };
        let mut fingerprint = Fingerprint::new(options);
        let path = folder.join(FILE_NAME);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                for entry in fs::read_dir(folder).map_err(|cause| Error::io(folder, cause))? {
                    let path = entry.map_err(|cause| Error::io(folder, cause))?.path();
                    if path.extension().is_some_and(|extension| extension == "tar") || path.ends_with("sizes.json") {
                        return Err(Error::OutputExists { path: folder.to_owned() });
                    }
                }
                // Before the first shard: shards without a journal belong to somebody else.
                journal.save()?;
                return Ok((journal, fingerprint));
            }
            Err(cause) => return Err(Error::io(&path, cause)),
        };
        let listed: Value = serde_json::from_slice(&text).map_err(|_| Error::OtherPack { path: folder.to_owned() })?;
        let listed = listed["shards"].as_array().map(Vec::as_slice).unwrap_or_default();
        for (number, shard) in listed.iter().enumerate() {
            let length = fs::metadata(journal.shard(number)).map(|file| file.len()).ok();
            let next = journal.next();
            let Some(shard) = Written::read(shard).filter(|shard| length == Some(shard.bytes)) else { break };
            let Some(clips) = samples.get(next..shard.next) else { break };
            let mut longer = fingerprint.clone();
            clips.iter().for_each(|sample| longer.add(sample));
            if longer.so_far() != shard.fingerprint {
                break;
            }
            fingerprint = longer;
            journal.shards.push(shard);
        }
        if journal.shards.is_empty() && !listed.is_empty() {
            return Err(Error::OtherPack { path: folder.to_owned() });
        }
        let (kept, listed) = (journal.shards.len(), listed.len());
        if kept < listed {
            journal.save()?;
            for stale in (kept..listed).map(|number| journal.shard(number)).filter(|stale| stale.exists()) {
                fs::remove_file(&stale).map_err(|cause| Error::io(&stale, cause))?;
            }
        }
        Ok((journal, fingerprint))
    }

    /// Where shard `number` is.
    pub(crate) fn shard(&self, number: usize) -> PathBuf {
        self.folder.join(format!("{number}.tar"))
    }

    /// The clip to go on with.
    pub(crate) fn next(&self) -> usize {
        self.shards.last().map_or(0, |shard| shard.next)
    }

    /// Notes a shard that is there under its name.
    pub(crate) fn add(&mut self, shard: Written) -> Result<()> {
        self.shards.push(shard);
        self.save()
    }

    fn save(&self) -> Result<()> {
        let path = self.folder.join(FILE_NAME);
        let shards: Vec<Value> = self.shards.iter().map(Written::write).collect();
        let text = json!({ "shards": shards }).to_string();
        write_whole(&path, |file| file.write_all(text.as_bytes()).map_err(|cause| Error::io(&path, cause)))?;
        Ok(())
    }
}

/// Declares the shards of a folder finished: nothing is added to them any more.
///
/// # Errors
/// [`Error::Io`] if the journal cannot be removed.
pub fn close_pack(out_dir: &Path) -> Result<()> {
    let path = out_dir.join(FILE_NAME);
    fs::remove_file(&path).map_err(|cause| Error::io(&path, cause))
}

impl Written {
    fn write(&self) -> Value {
        let skipped: Vec<Value> = self.skipped.iter().map(|clip| json!([clip.what, clip.reason])).collect();
        json!({ "pairs": self.pairs, "bytes": self.bytes, "next": self.next, "fingerprint": self.fingerprint, "skipped": skipped })
    }

    fn read(value: &Value) -> Option<Self> {
        let number = |key: &str| value[key].as_u64();
        let clip =
            |clip: &Value| Some(Skipped { what: clip[0].as_str()?.to_owned(), reason: clip[1].as_str()?.to_owned() });
        Some(Self {
            pairs: usize::try_from(number("pairs")?).ok()?,
            bytes: number("bytes")?,
            next: usize::try_from(number("next")?).ok()?,
            fingerprint: value["fingerprint"].as_str()?.to_owned(),
            skipped: value["skipped"].as_array()?.iter().map(clip).collect::<Option<_>>()?,
        })
    }
}

/// What the files depend on: the same for the same options and clips and, as far as names and lengths tell, for no others.
/// The sounds themselves are not read.
#[derive(Clone)]
pub(crate) struct Fingerprint(Sha256);

impl Fingerprint {
    fn new(options: &PackOptions) -> Self {
        // The version of what is written; strictness and threads change nothing in it.
        let version = 1;
        let mut hash = Sha256::new();
        hash.update(json!([version, options.per_shard, format!("{:?}", options.sound)]).to_string());
        Self(hash)
    }

    /// Adds the next clip.
    pub(crate) fn add(&mut self, sample: &Sample) {
        let Sample { id, audio, captions, labels, meta } = sample;
        let place = match audio {
            AudioSource::File(path) => json!([path, fs::metadata(path).map(|file| file.len()).ok()]),
            AudioSource::Member { shard, offset, size, .. } => json!([shard, offset, size]),
            AudioSource::Memory { name, bytes } => json!([name, bytes.len()]),
            #[cfg(feature = "parquet")]
            AudioSource::Row { file, row } => json!([file.path(), row]),
        };
        self.0.update(json!([id, place, captions, labels, meta]).to_string());
    }

    /// In hexadecimal digits.
    pub(crate) fn so_far(&self) -> String {
        self.0.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
