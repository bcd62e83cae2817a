//! Embeddings in files: our own, which say what they are of, and those of other programs, which a data set has to be put beside.
//!
//! | file | rows | whose |
//! |---|---|---|
//! | `.safetensors` with the metadata `clap-eval` | as the metadata says | [`Embedded::save`] |
//! | `.safetensors` with `audio_embeds` and perhaps `text_embeds`, `class_embeds` | clips, captions, classes in the order of the data set | any program |
//! | `.npy`, one to three of them | clips; captions; classes, in that order | any program |
//! | JSON lines `{"kind": "audio"\|"text", "id": …, "embedding": […]}` | by the name of the sound, and by the text | `cargo xtask embed` |
//!
//! Embeddings of other programs are normalised, so that scores are cosines.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use clap_data::caption::Template;
use clap_data::{DataSet, Skipped};
use npyz::{NpyFile, TypeChar};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use crate::embedded::{Embedded, Windows, normalised_means, prompts};
use crate::error::{Error, Result};
use crate::similarity::unit_rows;

/// The key of our description in the metadata of a file.
const OURS: &str = "clap-eval";

/// What a file of embeddings turned out to be.
#[derive(Debug)]
pub enum EmbeddingFile {
    /// A split with everything that it is measured by.
    Split(Box<Embedded>),
    /// Rows in the order of a data set.
    Rows {
        /// Embeddings of the clips `(clips, D)`.
        audio: Tensor,
        /// Of the captions `(captions, D)`, those of the first clip, then those of the second and so on.
        text: Option<Tensor>,
        /// Of the classes `(classes, D)`.
        classes: Option<Tensor>,
    },
    /// Rows that are called by the sound or the text that they are of.
    Named {
        /// By the clip's name in its data set, its path or its file name.
        audio: HashMap<String, Vec<f32>>,
        /// By the text.
        text: HashMap<String, Vec<f32>>,
    },
}

/// What [`Embedded::save`] writes beside the tensors.
#[derive(Serialize, Deserialize)]
struct Description {
    dataset: String,
    split: String,
    clips: Vec<String>,
    captions: Vec<String>,
    caption_of: Vec<usize>,
    classes: Vec<String>,
    labels: Vec<Vec<usize>>,
    multi_label: bool,
    /// Windows of each clip, where there are `window_embeds`.
    #[serde(default)]
    window_counts: Vec<usize>,
}

impl Embedded {
    /// Writes the split into one file, under a temporary name until it is complete.
    ///
    /// # Errors
    /// Those of the file system, with the path.
    pub fn save(&self, path: &Path) -> Result<()> {
        let description = Description {
            dataset: self.dataset.clone(),
            split: self.split.clone(),
            clips: self.clips.clone(),
            captions: self.captions.clone(),
            caption_of: self.caption_of.clone(),
            classes: self.classes.clone(),
            labels: self.labels.clone(),
            multi_label: self.multi_label,
            window_counts: self.windows.as_ref().map(|windows| windows.counts.clone()).unwrap_or_default(),
        };
        let windows = self.windows.as_ref().map(|windows| &windows.embeds);
        let named = [
            ("audio_embeds", Some(&self.audio)),
            ("text_embeds", self.text.as_ref()),
            ("class_embeds", self.class_embeds.as_ref()),
            ("window_embeds", windows),
        ];
        let mut tensors = Vec::new();
        for (name, tensor) in named.into_iter().filter_map(|(name, tensor)| Some((name, tensor?))) {
            let values = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
            tensors.push((
                name,
                tensor.dims().to_vec(),
                values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>(),
            ));
        }
        let views =
            tensors.iter().map(|(name, shape, bytes)| Ok((*name, TensorView::new(Dtype::F32, shape.clone(), bytes)?)));
        let views = views.collect::<std::result::Result<Vec<_>, safetensors::SafeTensorError>>();
        let metadata = HashMap::from([(OURS.to_owned(), serde_json::to_string(&description)?)]);
        let bytes = views.and_then(|views| safetensors::serialize(views, Some(metadata)));
        let bytes = bytes.map_err(|e| Error::embeddings(path, e.to_string()))?;
        let part = path.with_extension("part");
        fs::write(&part, bytes).map_err(Error::io(&part))?;
        fs::rename(&part, path).map_err(Error::io(path))
    }

    /// Reads what [`Embedded::save`] wrote.
    ///
    /// # Errors
    /// Where the file is missing, broken or of another kind.
    pub fn load(path: &Path) -> Result<Self> {
        match EmbeddingFile::open(&[path])? {
            EmbeddingFile::Split(split) => Ok(*split),
            _ => Err(Error::embeddings(
                path,
                "it does not say which clips, captions and classes it is of; give the data set",
            )),
        }
    }
}

impl EmbeddingFile {
    /// Opens one file, or the `.npy` files of clips, captions and classes.
    ///
    /// # Errors
    /// Where a file is missing, broken or nothing that is known.
    pub fn open(paths: &[impl AsRef<Path>]) -> Result<Self> {
        let paths: Vec<&Path> = paths.iter().map(AsRef::as_ref).collect();
        let is = |path: &Path, extension: &str| path.extension().is_some_and(|e| e.eq_ignore_ascii_case(extension));
        match paths.as_slice() {
            [] => Err(Error::Empty { what: "file of embeddings" }),
            all if all.iter().all(|path| is(path, "npy")) && all.len() <= 3 => {
                let mut matrices = all.iter().map(|path| npy(path)).collect::<Result<Vec<_>>>()?.into_iter();
                let audio = matrices.next().ok_or(Error::Empty { what: "file of embeddings" })?;
                Ok(Self::Rows { audio, text: matrices.next(), classes: matrices.next() })
            }
            [path] if is(path, "safetensors") => safetensors_file(path),
            [path] if is(path, "jsonl") || is(path, "json") || is(path, "ndjson") => json_lines(path),
            [path, ..] => Err(Error::embeddings(
                path,
                "embeddings come as one .safetensors or .jsonl file, or as .npy files of clips, captions and classes in that order",
            )),
        }
    }

    /// The embeddings with the captions and labels of `data`, its classes being said by these prompts.
    /// Clips without an embedding, and clips that cannot be classified, come second.
    ///
    /// # Errors
    /// Where rows and data set are not of the same number of clips, captions or classes; where the names are of other clips or texts.
    pub fn join(self, data: &DataSet, templates: &[Template]) -> Result<(Embedded, Vec<Skipped>)> {
        let mut skipped = Vec::new();
        let embedded = match self {
            Self::Split(split) => *split,
            Self::Rows { audio, text, classes } => {
                let every: Vec<usize> = (0..data.samples.len()).collect();
                as_many("audio embeddings", &audio, "clips of the data set", every.len())?;
                let mut embedded = Embedded::new(data, &every, unit_rows("audio", &audio)?, &mut skipped);
                if let Some(text) = text {
                    as_many("text embeddings", &text, "captions of the data set", embedded.captions.len())?;
                    embedded.text = Some(unit_rows("text", &text)?);
                }
                if let Some(classes) = classes {
                    as_many("class embeddings", &classes, "classes of the data set", embedded.classes.len())?;
                    embedded.class_embeds = Some(unit_rows("class", &classes)?);
                }
                embedded
            }
            Self::Named { audio, text } => named(&audio, &text, data, templates, &mut skipped)?,
        };
        Ok((embedded, skipped))
    }
}

fn as_many(left: &'static str, rows: &Tensor, right: &'static str, count: usize) -> Result<()> {
    let left_count = rows.dims().first().copied().unwrap_or_default();
    if left_count == count { Ok(()) } else { Err(Error::CountMismatch { left, left_count, right, right_count: count }) }
}

/// Finds the rows of a data set by the names of its clips and by its texts.
fn named(
    audio: &HashMap<String, Vec<f32>>,
    text: &HashMap<String, Vec<f32>>,
    data: &DataSet,
    templates: &[Template],
    skipped: &mut Vec<Skipped>,
) -> Result<Embedded> {
    // A file may be called by any path that leads to it; its name alone serves where no two are called so, here or there.
    let file_name = |path: &str| path.rsplit(['/', '\\']).next().unwrap_or(path).to_owned();
    let mut by_file_name: HashMap<String, Option<&Vec<f32>>> = HashMap::new();
    for (id, row) in audio {
        by_file_name.entry(file_name(id)).and_modify(|row| *row = None).or_insert(Some(row));
    }
    let mut clips_called: HashMap<String, usize> = HashMap::new();
    for sample in &data.samples {
        *clips_called.entry(file_name(&sample.audio.name())).or_default() += 1;
    }
    let (mut kept, mut rows) = (Vec::new(), Vec::new());
    for (index, sample) in data.samples.iter().enumerate() {
        let source = sample.audio.name();
        let found = audio.get(&sample.id).or_else(|| audio.get(&source));
        let name = file_name(&source);
        let alone = clips_called.get(&name) == Some(&1);
        match found.or_else(|| by_file_name.get(&name).copied().flatten().filter(|_| alone)) {
            Some(row) => {
                kept.push(index);
                rows.push(row);
            }
            None => {
                skipped.push(Skipped { what: sample.id.clone(), reason: "the embeddings have none of it".to_owned() })
            }
        }
    }
    let Some(first) = skipped.first().filter(|_| kept.is_empty()) else {
        return named_texts(Embedded::new(data, &kept, matrix("audio", &rows)?, skipped), text, data, templates);
    };
    Err(Error::Unreadable { clips: skipped.len(), first: first.to_string() })
}

/// Adds the embeddings of captions and prompts, which are there for all or for none.
fn named_texts(
    mut embedded: Embedded,
    text: &HashMap<String, Vec<f32>>,
    data: &DataSet,
    templates: &[Template],
) -> Result<Embedded> {
    let all = |what: &'static str, texts: &[String]| -> Result<Option<Tensor>> {
        let rows: Vec<&Vec<f32>> = texts.iter().filter_map(|words| text.get(words)).collect();
        match texts.iter().find(|words| !text.contains_key(*words)) {
            None => Ok(Some(matrix("text", &rows)?)),
            Some(_) if rows.is_empty() => Ok(None),
            Some(missing) => {
                Err(Error::MissingText { what, found: rows.len(), of: texts.len(), missing: missing.clone() })
            }
        }
    };
    if !embedded.captions.is_empty() {
        embedded.text = all("captions", &embedded.captions)?;
    }
    if embedded.is_labelled() {
        let rows = all("prompts of classes", &prompts(data, templates))?;
        let counts = vec![templates.len(); data.classes.len()];
        embedded.class_embeds = rows.map(|rows| normalised_means(&rows, &counts)).transpose()?;
    }
    Ok(embedded)
}

/// Rows of one width, normalised.
fn matrix(what: &'static str, rows: &[&Vec<f32>]) -> Result<Tensor> {
    let width = rows.first().map_or(0, |row| row.len());
    if let Some(other) = rows.iter().find(|row| row.len() != width) {
        return Err(Error::WidthMismatch { left: what, left_width: width, right: what, right_width: other.len() });
    }
    let values: Vec<f32> = rows.iter().flat_map(|row| row.iter().copied()).collect();
    unit_rows(what, &Tensor::from_vec(values, (rows.len(), width), &Device::Cpu)?)
}

fn safetensors_file(path: &Path) -> Result<EmbeddingFile> {
    let broken = |reason: String| Error::embeddings(path, reason);
    let bytes = fs::read(path).map_err(Error::io(path))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|e| broken(e.to_string()))?;
    let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| broken(e.to_string()))?;
    let tensor = |name: &str| -> Result<Option<Tensor>> {
        let Ok(view) = file.tensor(name) else { return Ok(None) };
        let dtype = match view.dtype() {
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            Dtype::F32 => DType::F32,
            Dtype::F64 => DType::F64,
            other => return Err(broken(format!("{name} is of {other:?}, and embeddings are numbers with a point"))),
        };
        let tensor = Tensor::from_raw_buffer(view.data(), dtype, view.shape(), &Device::Cpu)?;
        Ok(Some(tensor.to_dtype(DType::F32)?))
    };
    let [audio, text, classes, windows] = ["audio_embeds", "text_embeds", "class_embeds", "window_embeds"].map(tensor);
    let Some(audio) = audio? else {
        let names = file.names().into_iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        return Err(broken(format!("it has no `audio_embeds` (clips, width), but {names}")));
    };
    let description = metadata.metadata().as_ref().and_then(|metadata| metadata.get(OURS));
    let Some(description) = description else {
        return Ok(EmbeddingFile::Rows { audio, text: text?, classes: classes? });
    };
    let description: Description =
        serde_json::from_str(description).map_err(|e| broken(format!("its description: {e}")))?;
    let counts = description.window_counts;
    let split = Embedded {
        dataset: description.dataset,
        split: description.split,
        clips: description.clips,
        audio,
        windows: windows?.map(|embeds| Windows { embeds, counts }),
        captions: description.captions,
        caption_of: description.caption_of,
        text: text?,
        classes: description.classes,
        class_embeds: classes?,
        labels: description.labels,
        multi_label: description.multi_label,
    };
    check(&split).map_err(|e| broken(e.to_string()))?;
    Ok(EmbeddingFile::Split(Box::new(split)))
}

/// Whether the parts of a split are as many as they say of each other.
fn check(split: &Embedded) -> Result<()> {
    let clips = split.clips.len();
    as_many("audio embeddings", &split.audio, "clips", clips)?;
    let same = |left, left_count, right, right_count| match left_count == right_count {
        true => Ok(()),
        false => Err(Error::CountMismatch { left, left_count, right, right_count }),
    };
    same("lists of labels", split.labels.len(), "clips", clips)?;
    same("clips named by captions", split.caption_of.len(), "captions", split.captions.len())?;
    if let Some(text) = &split.text {
        as_many("text embeddings", text, "captions", split.captions.len())?;
    }
    if let Some(classes) = &split.class_embeds {
        as_many("class embeddings", classes, "classes", split.classes.len())?;
    }
    if let Some(windows) = &split.windows {
        same("counts of windows", windows.counts.len(), "clips", clips)?;
        let sum = windows.counts.iter().fold(0usize, |sum, count| sum.saturating_add(*count));
        as_many("window embeddings", &windows.embeds, "windows of the clips", sum)?;
    }
    for (clip, labels) in split.labels.iter().enumerate() {
        if let Some(&label) = labels.iter().find(|label| **label >= split.classes.len()) {
            return Err(Error::LabelOutOfRange { clip, label, classes: split.classes.len() });
        }
    }
    Ok(())
}

fn npy(path: &Path) -> Result<Tensor> {
    let broken = |reason: String| Error::embeddings(path, reason);
    let bytes = fs::read(path).map_err(Error::io(path))?;
    let file = NpyFile::new(bytes.as_slice()).map_err(|e| broken(e.to_string()))?;
    let shape: Vec<usize> = file.shape().iter().map(|&length| length as usize).collect();
    let &[rows, width] = shape.as_slice() else {
        return Err(broken(format!("it has the shape {shape:?}; embeddings are (rows, width)")));
    };
    if file.order() == npyz::Order::Fortran {
        return Err(broken("it is in Fortran's order; save numpy.ascontiguousarray of it".to_owned()));
    }
    let kind = match file.dtype() {
        npyz::DType::Plain(kind) => (kind.type_char(), kind.size_field()),
        npyz::DType::Array(..) | npyz::DType::Record(_) => {
            return Err(broken("it holds records; embeddings are numbers".to_owned()));
        }
    };
    let values: std::io::Result<Vec<f32>> = match kind {
        (TypeChar::Float, 4) => file.into_vec(),
        (TypeChar::Float, 8) => file.into_vec::<f64>().map(|values| values.into_iter().map(|v| v as f32).collect()),
        _ => return Err(broken("it is neither float32 nor float64; convert it with astype(numpy.float32)".to_owned())),
    };
    let values = values.map_err(|e| broken(e.to_string()))?;
    Ok(Tensor::from_vec(values, (rows, width), &Device::Cpu)?)
}

/// One line of `cargo xtask embed`.
#[derive(Deserialize)]
struct Line {
    kind: Kind,
    id: String,
    embedding: Vec<f32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Audio,
    Text,
}

fn json_lines(path: &Path) -> Result<EmbeddingFile> {
    let text = fs::read_to_string(path).map_err(Error::io(path))?;
    let (mut audio, mut texts) = (HashMap::new(), HashMap::new());
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let Line { kind, id, embedding } = serde_json::from_str(line).map_err(|e| {
            Error::embeddings(
                path,
                format!("line {}: {e}; a line is {{\"kind\": \"audio\", \"id\": …, \"embedding\": […]}}", number + 1),
            )
        })?;
        match kind {
            Kind::Audio => audio.insert(id, embedding),
            Kind::Text => texts.insert(id, embedding),
        };
    }
    if audio.is_empty() {
        return Err(Error::embeddings(path, "it has no line of the kind \"audio\""));
    }
    Ok(EmbeddingFile::Named { audio, text: texts })
}

#[cfg(test)]
mod tests;
