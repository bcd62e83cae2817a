//! Layouts with a folder for each class, and lists of files for splits where somebody made some: GTZAN.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use serde_json::json;

use super::audio_index::AudioIndex;
use super::recipe::ClassFolders;
use super::{Benchmark, BenchmarkSplit, Tally};
use crate::skipped::Report;
use crate::{AudioSource, Error, Result, Sample, caption};

/// The folder that holds the class folders, as it is written in the recipe.
///
/// A folder of a known name needs one of them, the data set's own folder all: a genre's name alone says little.
pub(super) fn root<'a>(benchmark: &Benchmark, layout: &'a ClassFolders, folder: &Path) -> Result<Option<&'a str>> {
    for name in &layout.folders {
        let place = folder.join(name);
        let found = benchmark.classes.iter().filter(|class| place.join(class).is_dir()).count();
        let needed = if name.is_empty() { benchmark.classes.len() } else { 1 };
        if found >= needed {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// The clips of the chosen splits' lists, or all there are.
pub(super) fn read(
    benchmark: &Benchmark,
    layout: &ClassFolders,
    folder: &Path,
    chosen: &[&BenchmarkSplit],
    wanted: Option<&str>,
    report: &mut Report,
) -> Result<Vec<Sample>> {
    let Some(root) = root(benchmark, layout, folder)? else {
        return Ok(Vec::new());
    };
    let index = AudioIndex::scan(folder)?;
    let mut clips: Vec<(String, Sample)> = Vec::new();
    for class in &benchmark.classes {
        let place = if root.is_empty() { class.clone() } else { format!("{root}/{class}") };
        for name in index.names_in(&place) {
            // The class in the path tells apart what has the same name elsewhere.
            let Some(path) = index.find(name, std::slice::from_ref(&place)) else { continue };
            clips.push((
                format!("{class}/{name}"),
                Sample {
                    id: name.to_owned(),
                    audio: AudioSource::File(path),
                    captions: vec![caption::sound_of(&[benchmark.phrase(class)])],
                    labels: vec![class.clone()],
                    meta: json!({}),
                },
            ));
        }
    }
    if wanted.is_none() {
        let tally = Tally { clips: clips.len(), ..Tally::default() };
        tally.report(benchmark, "", benchmark.clips, report)?;
        return Ok(clips.into_iter().map(|(_, sample)| sample).collect());
    }
    let mut by_name: HashMap<String, Sample> = clips.into_iter().collect();
    let mut samples = Vec::new();
    for split in chosen {
        let Some(path) = benchmark.table_of(folder, split)? else { continue };
        let text = fs::read_to_string(&path).map_err(|cause| Error::io(&path, cause))?;
        let mut tally = Tally::default();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            // `blues/blues.00029.wav`, whatever the files have become since.
            let name = line.rsplit_once('.').map_or(line, |(name, _)| name);
            match by_name.remove(name) {
                Some(sample) => {
                    samples.push(sample);
                    tally.clips += 1;
                }
                None => tally.absent(line),
            }
        }
        tally.report(benchmark, &split.name, split.clips, report)?;
    }
    Ok(samples)
}
