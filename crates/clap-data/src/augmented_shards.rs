//! Shards with generated captions: what [`crate::pack`] writes, with `text_augment_t5` and `text_augment_all` beside `text`.
//!
//! The fields are those that LAION-CLAP reads (`--text-augment-selection`, [`crate::TextAugment`]): the generated caption or null, and
//! the clip's own captions with it. Generating takes hours, so a stopped run is taken up: shards that are finished stay, and the
//! folder is in the end the same, byte for byte, as that of a run which was never stopped. A file beside the shards says what they
//! were made with, so that two runs are not mixed.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value};

use crate::shard_writer::{Keys, check_empty, description, write_pairs};
use crate::skipped::Report;
use crate::whole_file::write_json;
use crate::{Error, PackSummary, Result, Sample, TextAugment, webdataset};

/// What a folder's shards were made with.
const RECORD: &str = "captions.json";

/// How to write augmented shards.
#[derive(Debug, Clone)]
pub struct AugmentedPack {
    /// Pairs in a shard; the last may have fewer.
    pub per_shard: usize,
    /// Everything that the captions depend on: a stopped run is taken up by one with an equal record alone.
    pub record: Map<String, Value>,
}

/// Writes samples as shards into `out_dir`, which is made if need be and holds nothing, or what an earlier run of the same left.
///
/// `generate` is given the samples of one shard and how many came before it, and returns a caption for each, or `None` for a sample
/// that it has none for. It is not asked about shards that are finished; `kept` is told of their samples instead.
///
/// # Errors
/// [`Error::OutputExists`] for shards without a record, [`Error::Resume`] for those of another run, those of [`crate::pack`], or what
/// `generate` returned. No file is left under its final name unless it is complete.
pub fn pack_augmented<E: From<Error>>(
    samples: &[Sample],
    out_dir: &Path,
    pack: &AugmentedPack,
    mut kept: impl FnMut(usize),
    mut generate: impl FnMut(&[Sample], usize) -> std::result::Result<Vec<Option<String>>, E>,
) -> std::result::Result<PackSummary, E> {
    begin(samples, out_dir, pack)?;
    let mut keys = Keys::default();
    let mut sizes = Map::new();
    let mut summary = PackSummary { samples: samples.len(), ..PackSummary::default() };
    let per_shard = pack.per_shard.max(1);
    for (number, chunk) in samples.chunks(per_shard).enumerate() {
        let name = format!("{number}.tar");
        let path = out_dir.join(&name);
        let keys: Vec<String> = chunk.iter().map(|sample| keys.next(&sample.id)).collect();
        summary.bytes += if path.is_file() {
            check_finished(&path, &keys)?;
            kept(chunk.len());
            fs::metadata(&path).map_err(|cause| Error::io(&path, cause))?.len()
        } else {
            let captions = generate(chunk, number * per_shard)?;
            if captions.len() != chunk.len() {
                let reason = format!("{} captions for {} clips", captions.len(), chunk.len());
                return Err(Error::Pack { what: path.display().to_string(), reason }.into());
            }
            let described = chunk.iter().zip(keys).zip(captions);
            let pairs = described.map(|((sample, key), caption)| (sample, key, augmented(sample, caption)));
            write_pairs(&path, pairs)?
        };
        summary.shards.push(path);
        sizes.insert(name, Value::from(chunk.len()));
    }
    // Last, so that a folder with this file is a finished one.
    write_json(&out_dir.join("sizes.json"), &Value::Object(sizes))?;
    Ok(summary)
}

/// Makes the folder ready, or sure that it is this run's.
fn begin(samples: &[Sample], out_dir: &Path, pack: &AugmentedPack) -> Result<()> {
    fs::create_dir_all(out_dir).map_err(|cause| Error::io(out_dir, cause))?;
    let mut record = pack.record.clone();
    record.insert("clips".to_owned(), samples.len().into());
    record.insert("per_shard".to_owned(), pack.per_shard.into());
    let path = out_dir.join(RECORD);
    if !path.is_file() {
        check_empty(out_dir)?;
        return write_json(&path, &Value::Object(record));
    }
    let text = fs::read_to_string(&path).map_err(|cause| Error::io(&path, cause))?;
    let other = |reason: String| Error::Resume { path: path.clone(), reason };
    let found: Map<String, Value> =
        serde_json::from_str(&text).map_err(|error| other(format!("not the record of a run ({error})")))?;
    let null = Value::Null;
    let keys = record.keys().chain(found.keys());
    match keys.into_iter().find(|key| record.get(*key) != found.get(*key)) {
        None => Ok(()),
        Some(key) => {
            let value = |record: &Map<String, Value>| record.get(key).unwrap_or(&null).to_string();
            let (then, now) = (value(&found), value(&record));
            Err(other(format!("`{key}` was {then} when these shards were begun and is {now} now")))
        }
    }
}

/// A finished shard has to hold the clips that this run would put into it.
fn check_finished(path: &Path, keys: &[String]) -> Result<()> {
    let other = |reason: String| Error::Resume { path: path.to_owned(), reason };
    let shards = [path.to_owned()];
    let found = webdataset::read_shards(&shards, None, (TextAugment::None, true), &mut Report::new(true))
        .map_err(|error| other(format!("a finished shard cannot be read ({error})")))?;
    match found.iter().map(|sample| &sample.id).eq(keys) {
        true => Ok(()),
        false => Err(other("it holds other clips than this run puts there: the data have changed".to_owned())),
    }
}

fn augmented(sample: &Sample, caption: Option<String>) -> Map<String, Value> {
    let mut fields = description(sample);
    let all: Vec<&String> = sample.captions.iter().chain(&caption).collect();
    let all = Value::from(all.into_iter().cloned().collect::<Vec<String>>());
    fields.insert("text_augment_t5".to_owned(), caption.into());
    fields.insert("text_augment_all".to_owned(), all);
    fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_tree::Tree;
    use crate::{OpenOptions, open};

    /// Seven clips, three of them with tags alone and one without a tag.
    fn tree() -> Tree {
        let tree = Tree::new();
        let mut table = "file_name,text,label,licence\n".to_owned();
        for clip in 0..7 {
            tree.wav(&format!("clip.{clip}.wav"), 100 + clip);
            let text = if clip % 2 == 0 { format!("caption {clip}") } else { String::new() };
            let label = if clip == 4 { String::new() } else { format!("label {clip}") };
            table += &format!("clip.{clip}.wav,{text},{label},CC0\n");
        }
        tree.write("metadata.csv", table);
        tree
    }

    fn samples(tree: &Tree) -> Vec<Sample> {
        open(&tree.path(""), &OpenOptions::default()).unwrap().samples
    }

    fn options() -> AugmentedPack {
        let record = [("model".to_owned(), Value::from("k2t"))].into_iter().collect();
        AugmentedPack { per_shard: 3, record }
    }

    /// Packs, and returns what the callbacks saw: clips kept, and where each asked-for shard begins.
    fn pack(
        samples: &[Sample],
        out: &Path,
        options: &AugmentedPack,
        stop_at: usize,
    ) -> (Result<PackSummary>, usize, Vec<usize>) {
        let (mut kept, mut asked) = (0, Vec::new());
        let done = pack_augmented(
            samples,
            out,
            options,
            |count| kept += count,
            |chunk, before| {
                if before >= stop_at {
                    return Err(Error::Pack { what: "power".to_owned(), reason: "cut".to_owned() });
                }
                asked.push(before);
                Ok(chunk.iter().map(|sample| sample.labels.first().map(|label| format!("a {label}"))).collect())
            },
        );
        (done, kept, asked)
    }

    fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
        let mut files: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| {
                let path = entry.unwrap().path();
                (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap())
            })
            .collect();
        files.sort();
        files
    }

    #[test]
    fn captions_are_added_and_all_else_is_kept() {
        let tree = tree();
        let samples = samples(&tree);
        pack(&samples, &tree.path("out"), &options(), usize::MAX).0.unwrap();
        let read = |augment: TextAugment| {
            let options = OpenOptions { augment, strict: true, ..OpenOptions::default() };
            open(&tree.path("out"), &options).unwrap().samples
        };
        let (own, all, only) = (read(TextAugment::None), read(TextAugment::All), read(TextAugment::AugmentOnly));
        for (before, after) in samples.iter().zip(&own) {
            assert_eq!(before.audio.bytes().unwrap(), after.audio.bytes().unwrap());
            assert_eq!((&before.captions, &before.labels, &before.meta), (&after.captions, &after.labels, &after.meta));
        }
        assert_eq!(all[0].captions, ["caption 0", "a label 0"]);
        assert_eq!(all[1].captions, ["The sound of label 1", "a label 1"]);
        assert_eq!(all[4].captions, ["caption 4"]);
        assert_eq!(only[0].captions, ["a label 0"]);
        assert_eq!(only[4].captions, ["caption 4"], "a clip without tags keeps its own");
        let sizes = fs::read_to_string(tree.path("out/sizes.json")).unwrap();
        assert_eq!(sizes, "{\"0.tar\":3,\"1.tar\":3,\"2.tar\":1}\n");
    }

    #[test]
    fn a_stopped_run_is_taken_up_and_ends_alike() {
        let tree = tree();
        let samples = samples(&tree);
        let (whole, _, asked) = pack(&samples, &tree.path("whole"), &options(), usize::MAX);
        assert_eq!(asked, [0, 3, 6]);
        let stopped = tree.path("stopped");
        let (done, _, asked) = pack(&samples, &stopped, &options(), 3);
        assert!(done.unwrap_err().to_string().contains("power"));
        assert_eq!(asked, [0]);
        assert!(!stopped.join("sizes.json").exists());
        fs::write(stopped.join("1.tar.part"), "half a shard").unwrap();
        let (again, kept, asked) = pack(&samples, &stopped, &options(), usize::MAX);
        assert_eq!((kept, &asked[..]), (3, &[3, 6][..]));
        assert_eq!(again.unwrap().bytes, whole.unwrap().bytes);
        assert!(files(&stopped) == files(&tree.path("whole")));
        let (_, kept, asked) = pack(&samples, &stopped, &options(), 0);
        assert_eq!((kept, asked.len()), (7, 0), "a finished run has nothing to do");
    }

    #[test]
    fn runs_are_not_mixed() {
        let tree = tree();
        let samples = samples(&tree);
        let out = tree.path("out");
        pack(&samples, &out, &options(), usize::MAX).0.unwrap();
        let refused = |samples: &[Sample], options: &AugmentedPack, words: &[&str]| {
            let error = pack(samples, &out, options, usize::MAX).0.unwrap_err();
            assert!(matches!(error, Error::Resume { .. }), "{error:?}");
            assert!(words.iter().all(|word| error.to_string().contains(word)), "{error}");
        };
        let mut other = options();
        other.record.insert("model".to_owned(), "t5".into());
        refused(&samples, &other, &["captions.json", "`model`", "\"k2t\"", "\"t5\""]);
        refused(&samples[1..], &options(), &["`clips`", "7", "6"]);
        let mut swapped = samples.clone();
        swapped.swap(3, 4);
        refused(&swapped, &options(), &["1.tar", "other clips"]);
        fs::write(out.join("1.tar"), "no tar").unwrap();
        refused(&samples, &options(), &["1.tar", "cannot be read"]);
        fs::write(out.join("captions.json"), "[]").unwrap();
        refused(&samples, &options(), &["captions.json"]);
        fs::remove_file(out.join("captions.json")).unwrap();
        let error = pack(&samples, &out, &options(), usize::MAX).0.unwrap_err();
        assert!(matches!(error, Error::OutputExists { .. }), "{error}");
    }
}
