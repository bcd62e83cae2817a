//! A model folder in Hugging Face's layout, opened and checked, its weights not yet read.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use clap_audio::{FeatureConfig, Preset};
use clap_nn::init::seeded_vars;

use crate::checkpoint::{Checkpoint, EXTRA, Format, INITIAL_SEED};
use crate::config::{ClapConfig, TextModelType};
use crate::error::{Error, KeyReport, Result};
use crate::model::ClapModel;
use crate::tokenizer::ClapTokenizer;

/// What a model folder holds.
#[derive(Debug)]
pub struct ModelFolder {
    /// Where it is.
    pub path: PathBuf,
    /// `config.json`.
    pub config: ClapConfig,
    /// `preprocessor_config.json`.
    pub features: FeatureConfig,
    /// The tokenizer's files.
    pub tokenizer: ClapTokenizer,
    /// The weight file.
    pub checkpoint: Checkpoint,
}

/// The folder of a model that is named by its path, or by its id on the hub (`owner/name`), whence it is fetched if need be.
///
/// # Errors
/// Where it is no folder and cannot be fetched.
pub fn locate(id_or_path: &Path, revision: Option<&str>) -> Result<PathBuf> {
    if id_or_path.is_dir() {
        return Ok(id_or_path.to_owned());
    }
    fetch(&id_or_path.display().to_string(), revision)
}

#[cfg(feature = "hub")]
fn fetch(id: &str, revision: Option<&str>) -> Result<PathBuf> {
    crate::hub::folder(id, revision)
}

#[cfg(not(feature = "hub"))]
fn fetch(id: &str, _: Option<&str>) -> Result<PathBuf> {
    let reason = "this is no folder, and this program was built without the feature `hub`".to_owned();
    Err(Error::Hub { id: id.to_owned(), reason })
}

/// Opens a model folder: `config.json`, `preprocessor_config.json`, the weights (`model.safetensors`, its shards,
/// `pytorch_model.bin`, or a single LAION `.pt`) and the tokenizer (`tokenizer.json`, `vocab.json` with `merges.txt`, or
/// `vocab.txt`).
///
/// # Errors
/// Where a file is missing or broken, or the files do not belong together.
pub fn load_folder(path: &Path) -> Result<ModelFolder> {
    if !path.is_dir() {
        return Err(Error::io(path)(std::io::Error::new(std::io::ErrorKind::NotFound, "this is no folder")));
    }
    let file = |name: &'static str| {
        let file = path.join(name);
        if file.is_file() { Ok(file) } else { Err(Error::MissingFile { folder: path.to_owned(), file: name }) }
    };
    let config = ClapConfig::from_file(&file("config.json")?)?;
    let features_path = file("preprocessor_config.json")?;
    let text = std::fs::read_to_string(&features_path).map_err(Error::io(&features_path))?;
    let features: FeatureConfig = serde_json::from_str(&text).map_err(Error::json(&features_path))?;
    features.validate()?;
    let tokenizer = ClapTokenizer::from_folder(path)?;
    agree(&config, &features, &tokenizer)?;
    let checkpoint = open_weights(path)?;
    Ok(ModelFolder { path: path.to_owned(), config, features, tokenizer, checkpoint })
}

impl ModelFolder {
    /// Reads the weights into a model for inference.
    ///
    /// # Errors
    /// Where keys or shapes of the weights are not those of the configuration; each is named.
    pub fn model(&self, dtype: DType, device: &Device) -> Result<ClapModel> {
        self.checkpoint.build(dtype, device, |vb| ClapModel::new(&self.config, vb))
    }

    /// As [`ModelFolder::model`], where weights may be missing or left over: see [`Checkpoint::build_allowing_missing`].
    ///
    /// # Errors
    /// Where shapes of the weights are not those of the configuration; each is named.
    pub fn model_allowing_missing(&self, dtype: DType, device: &Device) -> Result<(ClapModel, KeyReport)> {
        self.checkpoint.build_allowing_missing(dtype, device, |vb| ClapModel::new(&self.config, vb))
    }

    /// Every tensor of the weight file, as stored, once it is sure that the model can be built of it: what another layout is written from.
    ///
    /// With `allow_missing`, what the file lacks is added as in a new model and what the model has no use for is left out; both are in the
    /// report, which is empty otherwise.
    ///
    /// # Errors
    /// Where keys or shapes of the weights are not those of the configuration; each is named.
    pub fn checked_tensors(&self, allow_missing: bool) -> Result<(HashMap<String, Tensor>, KeyReport)> {
        let mut tensors = self.checkpoint.stored_tensors(&Device::Cpu)?;
        if !allow_missing {
            self.model(DType::F32, &Device::Cpu)?;
            return Ok((tensors, KeyReport::default()));
        }
        let (_, report) = self.model_allowing_missing(DType::F32, &Device::Cpu)?;
        for key in &report.unexpected {
            tensors.remove(key);
        }
        let (vars, vb) = seeded_vars(INITIAL_SEED, &Device::Cpu, DType::F32);
        ClapModel::new(&self.config, vb)?;
        for key in &report.missing {
            if let Some(var) = vars.get(key) {
                tensors.insert(key.clone(), var.as_tensor().clone());
            }
        }
        Ok((tensors, report))
    }

    /// What the weights are stored in, by one that every model has.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn dtype(&self) -> Result<Option<DType>> {
        Ok(self.checkpoint.stored("audio_projection.linear1.bias", &Device::Cpu)?.map(|weight| weight.dtype()))
    }

    /// The front end of the program whose names the weights carry.
    #[must_use]
    pub fn preset(&self) -> Preset {
        match self.checkpoint.format() {
            Format::HuggingFace => Preset::Hf,
            Format::Laion => Preset::Laion,
        }
    }
}

/// Checks that model, front end and tokenizer are made for each other.
///
/// # Errors
/// Naming the key at fault.
pub(crate) fn agree(config: &ClapConfig, features: &FeatureConfig, tokenizer: &ClapTokenizer) -> Result<()> {
    let audio = &config.audio_config;
    if features.feature_size != audio.num_mel_bins() {
        return Err(Error::config(
            "audio_config.num_mel_bins",
            format!(
                "{}, but preprocessor_config.json makes {} (`feature_size`)",
                audio.num_mel_bins(),
                features.feature_size
            ),
        ));
    }
    let frames = features.frames();
    if let Some(most) = audio.max_frames().filter(|&most| frames > most) {
        return Err(Error::config(
            "audio_config.spec_size",
            format!(
                "the image takes {most} frames, but `max_length_s` {} in preprocessor_config.json makes {frames}",
                features.max_length_s
            ),
        ));
    }
    if frames < audio.min_frames() {
        return Err(Error::config(
            "audio_config.pooled_blocks",
            format!(
                "the tower takes {} frames at least, but `max_length_s` {} in preprocessor_config.json makes {frames}",
                audio.min_frames(),
                features.max_length_s
            ),
        ));
    }
    if features.views() != audio.views() {
        return Err(Error::config(
            "audio_config.enable_fusion",
            format!(
                "{} takes {} view(s) of a clip, but `truncation` in preprocessor_config.json makes {}; fused models go with \
                 \"fusion\", others with \"rand_trunc\"",
                audio.fusion().is_some(),
                audio.views(),
                features.views()
            ),
        ));
    }
    let text = &config.text_config;
    if tokenizer.vocab_size() > text.vocab_size {
        return Err(Error::config(
            "text_config.vocab_size",
            format!("{} rows, but the tokenizer has {} tokens", text.vocab_size, tokenizer.vocab_size()),
        ));
    }
    // What follows a text's last token is nothing to CLIP's causal transformer.
    if tokenizer.pad_id() != text.pad_token_id && text.model_type != TextModelType::Clip {
        return Err(Error::config(
            "text_config.pad_token_id",
            format!("{}, but the tokenizer pads with {}", text.pad_token_id, tokenizer.pad_id()),
        ));
    }
    // Towers pool a text's first token or look for its last one: without them a word would stand for the caption.
    let frame = tokenizer.encode_ids(&[""], 3)?.concat();
    let expected = [text.bos_token_id, text.eos_token_id];
    if frame != expected {
        return Err(Error::config(
            "text_config.bos_token_id",
            format!(
                "with `eos_token_id` it frames a caption as {expected:?}, but the tokenizer makes {frame:?} of an empty one; is it \
                 the model's, with its post-processor (`<s> … </s>`, `[CLS] … [SEP]`, `<|startoftext|> … <|endoftext|>`)?"
            ),
        ));
    }
    Ok(())
}

fn open_weights(folder: &Path) -> Result<Checkpoint> {
    for name in ["model.safetensors", "pytorch_model.bin"] {
        let path = folder.join(name);
        if path.is_file() {
            let extra = folder.join(EXTRA);
            return match extra.is_file() && path.extension().is_some_and(|e| e == "safetensors") {
                true => Checkpoint::open_safetensors(&[path, extra]),
                false => Checkpoint::open(&path),
            };
        }
    }
    let index = folder.join("model.safetensors.index.json");
    if index.is_file() {
        let shards: Vec<PathBuf> = shard_names(&index)?.into_iter().map(|name| folder.join(name)).collect();
        if let Some(absent) = shards.iter().find(|path| !path.is_file()) {
            return Err(Error::checkpoint(
                &index,
                format!("it names {}, which is not there; is the download complete?", absent.display()),
            ));
        }
        return Checkpoint::open_safetensors(&shards);
    }
    let entries = std::fs::read_dir(folder).map_err(Error::io(folder))?;
    let mut archives: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "pt"))
        .collect();
    match (archives.pop(), archives.is_empty()) {
        (Some(path), true) => Checkpoint::open(&path),
        _ => Err(Error::MissingFile { folder: folder.to_owned(), file: "model.safetensors (or pytorch_model.bin)" }),
    }
}

/// The files that an index of a sharded model names, each beside the index.
///
/// # Errors
/// Where the index cannot be read, names no file, or one that lies elsewhere.
pub(crate) fn shard_names(index: &Path) -> Result<BTreeSet<String>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let text = std::fs::read_to_string(index).map_err(Error::io(index))?;
    let Index { weight_map } = serde_json::from_str(&text).map_err(Error::json(index))?;
    let names: BTreeSet<String> = weight_map.into_values().collect();
    if names.is_empty() {
        return Err(Error::checkpoint(index, "its `weight_map` names no file"));
    }
    // A backslash separates folders on Windows alone; an index is the same everywhere.
    let is_plain = |name: &str| Path::new(name).file_name() == Some(name.as_ref()) && !name.contains(['/', '\\', ':']);
    match names.iter().find(|name| !is_plain(name)) {
        Some(name) => {
            Err(Error::checkpoint(index, format!("it names `{name}`; a shard is a plain file name beside the index")))
        }
        None => Ok(names),
    }
}
