//! Opening a data set: what is at a path, which splits it has, which classes.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::benchmark::Benchmark;
use crate::captions_file;
use crate::clips::{self, Clip, Clips, Reading};
use crate::exclusion::exclude;
use crate::sample::dedupe;
use crate::skipped::Report;
use crate::sound_place::Reach;
use crate::split_choice::{named, takes};
use crate::split_name;
use crate::table::Format;
use crate::{
    AudioSource, Columns, DataSet, Error, Result, Sample, Stream, TextAugment, benchmark_at, class_list, expand_braces,
    labels_of, webdataset,
};

/// How to open a data set.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    /// The split wanted, or all but one: `valid`, `fold1`, `!fold1`. All of them when `None`.
    pub split: Option<String>,
    /// Whether one unusable clip, row or shard is an error rather than an entry of [`DataSet::skipped`].
    pub strict: bool,
    /// Which texts of a shard are its captions.
    pub augment: TextAugment,
    /// The columns of a table.
    pub columns: Columns,
    /// A table of ids and captions which take the place of the clips' own; see [`open`].
    pub captions: Option<PathBuf>,
    /// A table of ids and captions which join the clips' own.
    pub more_captions: Option<PathBuf>,
    /// A list of clips to leave out: a CSV table with a column `id`, as [`crate::write_exclusion_list`] makes it, or one id a
    /// line. Ids are those that the same path and split give without it.
    pub exclude: Option<PathBuf>,
}

impl OpenOptions {
    /// Whether a clip without words of its own is to be left out at once: none come from elsewhere.
    fn need_words(&self) -> bool {
        self.captions.is_none() && self.more_captions.is_none()
    }
}

/// What is at a path.
enum Layout {
    /// Shards of one split, the folder they are in, and whether they are all of it.
    Shards { folder: PathBuf, shards: Vec<PathBuf>, is_whole: bool },
    /// Tables, which may have a split column: one, or several Parquet files of one split.
    Tables { files: Vec<PathBuf>, reach: Reach },
    /// A folder of splits, sorted by name, each of one of the first two layouts.
    Splits(Vec<(String, Layout)>),
    /// A benchmark as its authors publish it.
    Benchmark { folder: PathBuf, benchmark: &'static Benchmark },
}

/// Opens the data set at `path`, whatever its layout; sounds are not decoded.
///
/// `path` is one of
/// - a folder of shards: `*.tar`, with or without `sizes.json`;
/// - a folder with one such folder, or one audiofolder, per split;
/// - a single `.tar`, or a brace pattern such as `train/{0..3}.tar`;
/// - an audiofolder: a folder with a `metadata.csv` or `metadata.jsonl`, or that file;
/// - the folder of one of the [`crate::benchmarks`], as its authors publish it;
/// - a table of another name: `.csv`, `.tsv`, `.jsonl`, or any extension with [`Columns::separator`] set. Its sounds may lie
///   anywhere; those of an audiofolder are inside it;
/// - with the feature `parquet`, `.parquet` files as Hugging Face's `datasets` writes them: one, a brace pattern, a folder of
///   them or of a folder `data`, divided into splits by names such as `train-00000-of-00004.parquet`.
///
/// [`OpenOptions::captions`] is a table too: a column of ids (`id`, `key`, `file_name`, …) and one or more of captions. An id is a
/// clip's own or has its file stem. Ids of no clip are counted in a warning, for such a table serves all splits.
///
/// The classes are those of a `classes.json` in the folder or the one above it, else the benchmark's, else the labels of
/// all splits, whether the path names the data set or one of its splits.
///
/// # Errors
/// [`Error`] if there is no data set, not the split wanted, nothing usable in it, or, when strict, anything left out.
pub fn open(path: &Path, options: &OpenOptions) -> Result<DataSet> {
    let layout = layout(path, &options.columns)?;
    let place = Place::of(path, &layout);
    let wanted = options.split.as_deref();
    let mut report = Report::new(options.strict);
    let mut found = layout.read(options, wanted, &place, &mut report)?;
    if let Some(wanted) = wanted
        && found.available.iter().all(|split| split != named(wanted))
    {
        return Err(Error::SplitMissing {
            path: path.to_owned(),
            split: named(wanted).to_owned(),
            available: found.available,
        });
    }
    make_ids_unique(&mut found.samples);
    let names_others = |captions: &Path| names_another_split(path, options, captions);
    captions_file::add_captions(&mut found.samples, options, names_others, &mut report)?;
    if found.samples.is_empty() {
        return Err(Error::Empty {
            path: path.to_owned(),
            skipped: report.skipped.len(),
            first: report.skipped.first().map(ToString::to_string).unwrap_or_default(),
        });
    }
    let excluded = match &options.exclude {
        Some(list) => Some(exclude(list, &mut found.samples)?),
        None => None,
    };
    if let (true, Some(list)) = (found.samples.is_empty(), &options.exclude) {
        return Err(Error::AllExcluded { path: path.to_owned(), list: list.clone() });
    }
    let folders: &[Option<&Path>] = match layout {
        Layout::Splits(_) | Layout::Benchmark { .. } => &[Some(&place.folder)],
        _ => &[Some(&place.folder), place.folder.parent()],
    };
    let benchmark = layout.benchmark();
    let classes = match (class_list::find(folders), benchmark) {
        (Some(file), _) => class_list::read_class_list(&file)?,
        (None, Some(benchmark)) => benchmark.classes.clone(),
        (None, None) if !found.classes.is_empty() => found.classes,
        (None, None) => {
            let mut labels: BTreeSet<String> = labels_of(&found.samples).into_iter().collect();
            labels.extend(layout.other_labels(options, wanted, found.other_labels)?);
            labels.extend(place.sibling_labels(&layout, options));
            labels.into_iter().collect()
        }
    };
    Ok(DataSet {
        name: benchmark.map_or(place.name, |benchmark| benchmark.name.clone()),
        split: wanted.map(str::to_owned).or(place.split).unwrap_or_else(|| "all".to_owned()),
        samples: found.samples,
        skipped: report.skipped,
        excluded,
        classes,
        phrases: benchmark.map(|benchmark| benchmark.phrases.clone()).unwrap_or_default(),
        templates: benchmark.map(|benchmark| benchmark.templates.clone()).unwrap_or_default(),
        multi_label: benchmark.is_some_and(|benchmark| benchmark.multi_label),
    })
}

/// Whether a table of captions that names no clip of the split wanted names one of another.
fn names_another_split(path: &Path, options: &OpenOptions, captions: &Path) -> bool {
    let captions = Some(captions.to_owned());
    let whole = OpenOptions { split: None, strict: false, captions, more_captions: None, ..options.clone() };
    options.split.is_some() && open(path, &whole).is_ok()
}

/// The splits of the data set at `path`, sorted, those of a benchmark in the official order; empty when it is not split. Of the
/// options, only those that say how a table is read mean anything.
///
/// # Errors
/// [`Error`] if there is no data set.
pub fn splits(path: &Path, options: &OpenOptions) -> Result<Vec<String>> {
    layout(path, &options.columns)?.splits(path, options)
}

/// The split of the data set at `path` that a model is evaluated on when nobody says which: the one that papers report on
/// for a benchmark, else the first of `valid`, `val`, `validation`, `test`, `eval` and `evaluation` that there is. `None`
/// stands for the whole. The options are as for [`splits`].
///
/// # Errors
/// [`Error`] if there is no data set.
pub fn evaluation_split(path: &Path, options: &OpenOptions) -> Result<Option<String>> {
    const HELD_OUT: [&str; 6] = ["valid", "val", "validation", "test", "eval", "evaluation"];
    let layout = layout(path, &options.columns)?;
    let reported = layout.benchmark().and_then(|benchmark| benchmark.evaluate.as_deref());
    let splits = layout.splits(path, options)?;
    let mut preferred = reported.into_iter().chain(HELD_OUT);
    Ok(preferred.find(|name| splits.iter().any(|split| split == name)).map(str::to_owned))
}

/// The shards of one split, or of all of them, and the folders of which they are all that is there.
pub(crate) fn shards(path: &Path, split: Option<&str>) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let layout = layout(path, &Columns::default())?;
    let place = Place::of(path, &layout);
    let missing = |available: Vec<String>| match split {
        Some(split) => Err(Error::SplitMissing { path: path.to_owned(), split: split.to_owned(), available }),
        None => Err(Error::NoShards { path: path.to_owned() }),
    };
    match layout {
        Layout::Shards { folder, shards, is_whole } if split.is_none() || split == place.split.as_deref() => {
            Ok((shards, is_whole.then_some(folder).into_iter().collect()))
        }
        Layout::Shards { .. } => missing(place.split.into_iter().collect()),
        Layout::Tables { .. } | Layout::Benchmark { .. } => Err(Error::NoShards { path: path.to_owned() }),
        Layout::Splits(splits) => {
            let available = splits.iter().map(|(name, _)| name.clone()).collect();
            let (mut found, mut folders) = (Vec::new(), Vec::new());
            for (_, layout) in splits.into_iter().filter(|(name, _)| takes(split, name)) {
                match layout {
                    Layout::Shards { folder, shards, is_whole } => {
                        found.extend(shards);
                        folders.extend(is_whole.then_some(folder));
                    }
                    _ => {
                        return Err(Error::NoShards { path: path.to_owned() });
                    }
                }
            }
            if found.is_empty() { missing(available) } else { Ok((found, folders)) }
        }
    }
}

/// Where a data set is and what its folder's name says about it.
struct Place {
    folder: PathBuf,
    name: String,
    split: Option<String>,
}

impl Place {
    fn of(path: &Path, layout: &Layout) -> Self {
        let folder = match layout {
            Layout::Shards { folder, .. } => folder.clone(),
            Layout::Tables { files, .. } => files[0].parent().unwrap_or(Path::new("")).to_owned(),
            Layout::Splits(_) | Layout::Benchmark { .. } => path.to_owned(),
        };
        let folder = if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder };
        // "." and ".." have no name of their own.
        let real = fs::canonicalize(&folder).unwrap_or_else(|_| folder.clone());
        let name_of = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
        let own = name_of(&real).unwrap_or_else(|| "data".to_owned());
        let is_split = !matches!(layout, Layout::Splits(_)) && split_name::is_one(&own);
        match real.parent().and_then(name_of) {
            Some(above) if is_split => return Self { folder: real, name: above, split: Some(own) },
            _ => {}
        }
        match layout {
            // `train.csv` is a split of the data set that its folder is, `clips.csv` one of its own name.
            Layout::Tables { files, reach: Reach::Anywhere } => match split_name::of_file(&files[0]) {
                Some(split) => Self { folder: real, name: own, split: Some(split) },
                None => Self { folder: real, name: split_name::stem_of(&files[0]), split: None },
            },
            _ => Self { folder: real, name: own, split: None },
        }
    }

    /// Where `layout` is one of the splits of the data set above it, or a part of one: the labels of the rest. What cannot
    /// be read there is not this split's fault.
    fn sibling_labels(&self, layout: &Layout, options: &OpenOptions) -> Vec<String> {
        let mut labels = Vec::new();
        for layout in self.siblings(layout) {
            match layout.and_then(|layout| layout.map_or(Ok(Vec::new()), |found| found.labels(options))) {
                Ok(found) => labels.extend(found),
                Err(error) => {
                    tracing::warn!(%error, "a split beside this one cannot be read; its labels are no classes")
                }
            }
        }
        labels
    }

    /// The other splits of the data set that `layout` is one of, as far as there are any.
    fn siblings(&self, layout: &Layout) -> Vec<Result<Option<Layout>>> {
        if let Layout::Tables { files, reach: Reach::Anywhere } = layout {
            if split_name::of_file(&files[0]).is_none() {
                return Vec::new();
            }
            let is_own = |path: &Path| files.iter().any(|file| file.file_name() == path.file_name());
            let is_split = |path: &PathBuf| {
                path.extension() == files[0].extension()
                    && split_name::of_file(path).is_some_and(|split| split_name::is_one(&split))
                    && !is_own(path)
            };
            let beside = entries(&self.folder).unwrap_or_default().into_iter().filter(is_split);
            let table = |file| Layout::Tables { files: vec![file], reach: Reach::Anywhere };
            return beside.map(|file| Ok(Some(table(file)))).collect();
        }
        let (Some(own), Some(above)) = (&self.split, self.folder.parent()) else {
            return Vec::new();
        };
        let is_whole = !matches!(layout, Layout::Shards { is_whole: false, .. });
        if !matches!(folder_layout(above), Ok(None)) {
            return Vec::new();
        }
        let is_read = |name: &str| split_name::is_one(name) && !(is_whole && name == own);
        let is_named = |folder: &Path| folder.file_name().and_then(|name| name.to_str()).is_some_and(is_read);
        let folders = entries(above).unwrap_or_default().into_iter();
        folders.filter(|folder| is_named(folder) && folder.is_dir()).map(|folder| folder_layout(&folder)).collect()
    }
}

/// What reading a layout gave.
#[derive(Default)]
struct Found {
    samples: Vec<Sample>,
    /// The splits there are.
    available: Vec<String>,
    /// Labels of splits that were read on the way and not wanted.
    other_labels: Vec<String>,
    /// The classes, where the data set has an order of its own for them.
    classes: Vec<String>,
}

impl Layout {
    fn benchmark(&self) -> Option<&'static Benchmark> {
        match self {
            Self::Benchmark { benchmark, .. } => Some(benchmark),
            Self::Shards { .. } | Self::Tables { .. } | Self::Splits(_) => None,
        }
    }

    /// The splits of the layout that is at `path`.
    fn splits(self, path: &Path, options: &OpenOptions) -> Result<Vec<String>> {
        let place = Place::of(path, &self);
        match self {
            Self::Splits(splits) => Ok(splits.into_iter().map(|(name, _)| name).collect()),
            Self::Tables { files, reach } => {
                let mut clips = read_tables(&files, reach, options, None, &mut Report::new(false))?.clips;
                Ok(splits_of(&mut clips, &place))
            }
            Self::Shards { .. } => Ok(place.split.into_iter().collect()),
            Self::Benchmark { folder, benchmark } => benchmark.splits_at(&folder),
        }
    }

    fn read(&self, options: &OpenOptions, wanted: Option<&str>, place: &Place, report: &mut Report) -> Result<Found> {
        match self {
            Self::Shards { folder, shards, is_whole } => {
                let available: Vec<String> = place.split.iter().cloned().collect();
                if wanted.is_some() && available.iter().all(|split| !takes(wanted, split)) {
                    return Ok(Found { available, ..Found::default() });
                }
                if !options.columns.is_default() {
                    tracing::warn!("{}: shards have no columns; those named are not looked for", folder.display());
                }
                let whole_folder = is_whole.then_some(folder.as_path());
                let samples =
                    webdataset::read_shards(shards, whole_folder, (options.augment, options.need_words()), report)?;
                Ok(Found { samples, available, ..Found::default() })
            }
            Self::Tables { files, reach } => {
                let Clips { mut clips, classes, .. } = read_tables(files, *reach, options, wanted, report)?;
                let available = splits_of(&mut clips, place);
                let is_wanted =
                    |clip: &Clip| wanted.is_none() || clip.split.as_deref().is_some_and(|split| takes(wanted, split));
                let (chosen, others): (Vec<Clip>, Vec<Clip>) = clips.into_iter().partition(is_wanted);
                Ok(Found {
                    samples: chosen.into_iter().map(|clip| clip.sample).collect(),
                    available,
                    other_labels: labels_of(others.iter().map(|clip| &clip.sample)),
                    classes,
                })
            }
            Self::Splits(splits) => {
                let mut found = Found::default();
                for (name, layout) in splits {
                    found.available.push(name.clone());
                    if takes(wanted, name) {
                        let split = layout.read(options, None, place, report)?;
                        found.samples.extend(split.samples);
                        found.classes.extend(split.classes);
                    }
                }
                dedupe(&mut found.classes);
                Ok(found)
            }
            Self::Benchmark { folder, benchmark } => {
                let read = benchmark.read(folder, wanted, report)?;
                Ok(Found { samples: read.samples, available: read.available, ..Found::default() })
            }
        }
    }

    /// The labels of the splits that were not wanted, reading them if need be; their faults are not this split's.
    fn other_labels(&self, options: &OpenOptions, wanted: Option<&str>, known: Vec<String>) -> Result<Vec<String>> {
        let Self::Splits(splits) = self else {
            return Ok(known);
        };
        let mut labels = known;
        for (_, layout) in splits.iter().filter(|(name, _)| !takes(wanted, name)) {
            labels.extend(layout.labels(options)?);
        }
        Ok(labels)
    }

    /// The labels of one split.
    fn labels(&self, options: &OpenOptions) -> Result<Vec<String>> {
        let mut report = Report::new(false);
        Ok(match self {
            Self::Shards { shards, .. } => {
                labels_of(&webdataset::read_shards(shards, None, (options.augment, options.need_words()), &mut report)?)
            }
            Self::Tables { files, reach } => {
                let found = read_tables(files, *reach, options, None, &mut report)?;
                labels_of(found.clips.iter().map(|clip| &clip.sample))
            }
            // A split has no splits, and is no benchmark.
            Self::Splits(_) | Self::Benchmark { .. } => Vec::new(),
        })
    }
}

/// Reads tables as the options say.
fn read_tables(
    files: &[PathBuf],
    reach: Reach,
    options: &OpenOptions,
    wanted: Option<&str>,
    report: &mut Report,
) -> Result<Clips> {
    let needs_words = options.need_words();
    clips::read_clips(files, Reading { columns: &options.columns, reach, wanted, needs_words }, report)
}

/// The splits of an audiofolder's clips; a folder named like a split is that split.
fn splits_of(clips: &mut [Clip], place: &Place) -> Vec<String> {
    if let Some(split) = &place.split
        && clips.iter().all(|clip| clip.split.is_none())
    {
        for clip in clips.iter_mut() {
            clip.split = Some(split.clone());
        }
    }
    let splits: BTreeSet<&String> = clips.iter().filter_map(|clip| clip.split.as_ref()).collect();
    splits.into_iter().cloned().collect()
}

/// Finds out what is at a path.
fn layout(path: &Path, columns: &Columns) -> Result<Layout> {
    let unrecognised = || Error::Unrecognised { path: path.to_owned() };
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(cause) => {
            // A file may well have braces in its name, so patterns come second.
            return match path.to_str() {
                _ if Stream::is_needed(path) => Err(Error::Stream {
                    what: path.display().to_string(),
                    reason: "can be streamed into training (data.train), and nothing else; fetch the shards".to_owned(),
                }),
                Some(pattern) if pattern.contains('{') => pattern_layout(path, pattern),
                _ => Err(Error::io(path, cause)),
            };
        }
    };
    if metadata.is_file() {
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        return if is_shard(path) {
            Ok(Layout::Shards { folder, shards: vec![path.to_owned()], is_whole: false })
        } else if Format::of(path).is_some() || columns.separator.is_some() {
            let is_metadata = ["metadata.csv", "metadata.jsonl"].iter().any(|name| path.ends_with(name));
            let reach = if is_metadata { Reach::Folder } else { Reach::Anywhere };
            Ok(Layout::Tables { files: vec![path.to_owned()], reach })
        } else {
            Err(unrecognised())
        };
    }
    if let Some(layout) = folder_layout(path)? {
        return Ok(layout);
    }
    if let Some(benchmark) = benchmark_at(path)? {
        return Ok(Layout::Benchmark { folder: path.to_owned(), benchmark });
    }
    for folder in [path.to_owned(), path.join("data")].iter().filter(|folder| folder.is_dir()) {
        let splits = split_name::by_split(parquet_files(folder)?);
        if !splits.is_empty() {
            let tables = |(name, files)| (name, Layout::Tables { files, reach: Reach::Folder });
            return Ok(Layout::Splits(splits.into_iter().map(tables).collect()));
        }
    }
    let mut splits = Vec::new();
    for folder in entries(path)?.into_iter().filter(|entry| entry.is_dir()) {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !name.starts_with('.')
            && let Some(layout) = folder_layout(&folder)?
        {
            splits.push((name, layout));
        }
    }
    if splits.is_empty() { Err(unrecognised()) } else { Ok(Layout::Splits(splits)) }
}

/// A metadata file, shards or Parquet files of one split directly in a folder.
fn folder_layout(folder: &Path) -> Result<Option<Layout>> {
    if let Some(file) = clips::metadata_file(folder)? {
        return Ok(Some(Layout::Tables { files: vec![file], reach: Reach::Folder }));
    }
    let shards: Vec<PathBuf> = entries(folder)?.into_iter().filter(|path| is_shard(path) && path.is_file()).collect();
    if !shards.is_empty() {
        return Ok(Some(Layout::Shards { folder: folder.to_owned(), shards, is_whole: true }));
    }
    let files = parquet_files(folder)?;
    if files.is_empty() || files.iter().any(|file| split_name::of_file(file).is_some()) {
        return Ok(None);
    }
    Ok(Some(Layout::Tables { files, reach: Reach::Folder }))
}

/// The Parquet files directly in a folder.
fn parquet_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let hidden = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(['.', '_']));
    let is_one = |path: &PathBuf| Format::of(path) == Some(Format::Parquet) && !hidden(path) && path.is_file();
    Ok(entries(folder)?.into_iter().filter(is_one).collect())
}

fn pattern_layout(path: &Path, pattern: &str) -> Result<Layout> {
    let shards: Vec<PathBuf> = expand_braces(pattern)?.into_iter().map(PathBuf::from).collect();
    if shards.iter().all(|file| Format::of(file) == Some(Format::Parquet)) {
        return Ok(Layout::Tables { files: shards, reach: Reach::Anywhere });
    }
    if let Some(other) = shards.iter().find(|shard| !is_shard(shard)) {
        return Err(Error::ShardPattern {
            pattern: pattern.to_owned(),
            reason: format!("{} does not end in .tar, nor do all in .parquet", other.display()),
        });
    }
    if !shards.iter().any(|shard| shard.is_file()) {
        return Err(Error::NotFound { path: path.to_owned() });
    }
    let folder = shards[0].parent().unwrap_or(Path::new("")).to_owned();
    Ok(Layout::Shards { folder, shards, is_whole: false })
}

/// The entries of a folder; numbered names in the order of their numbers, so that 2.tar precedes 10.tar.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let fail = |cause| Error::io(folder, cause);
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder).map_err(fail)? {
        entries.push(entry.map_err(fail)?.path());
    }
    entries.sort_by_cached_key(|path| {
        let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<u64>().ok());
        (number.is_none(), number, path.clone())
    });
    Ok(entries)
}

/// Whether a name is that of a shard; temporary and hidden files are not.
fn is_shard(path: &Path) -> bool {
    let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    !hidden && path.extension().is_some_and(|extension| extension == "tar")
}

/// Shards written apart may number their keys alike, and splits may repeat file names; the later ones get the names of
/// their folder and shard in front.
fn make_ids_unique(samples: &mut [Sample]) {
    let mut seen: HashSet<String> = HashSet::with_capacity(samples.len());
    for sample in samples {
        if seen.contains(&sample.id) {
            let place = match &sample.audio {
                AudioSource::File(path) => path.parent().unwrap_or(path).to_owned(),
                AudioSource::Member { shard, .. } => shard.with_extension(""),
                #[cfg(feature = "parquet")]
                AudioSource::Row { file, .. } => file.path().with_extension(""),
                AudioSource::Memory { name, .. } => Path::new(name).parent().unwrap_or(Path::new("")).to_owned(),
            };
            let parts: Vec<_> = place.components().rev().take(2).collect();
            let place: PathBuf = parts.into_iter().rev().collect();
            let id = format!("{}/{}", place.display(), sample.id);
            let numbered = (2..).map(|number| format!("{id}#{number}"));
            sample.id = std::iter::once(id.clone())
                .chain(numbered)
                .find(|id| !seen.contains(id))
                .expect("the numbers do not end");
        }
        seen.insert(sample.id.clone());
    }
}

#[cfg(test)]
mod tests;
