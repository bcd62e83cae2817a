//! What a folder or a weight file turns out to be: a whole model, or one tower.

use std::path::{Path, PathBuf};

use clap_audio::{FeatureConfig, Truncation};
use clap_nn::Vars;
use serde_json::Value;

use crate::checkpoint::{
    Checkpoint, DROP_PATH_RATE, Format, OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS, Tower, TowerReport, open_clip_config,
    text_config,
};
use crate::config::{AudioConfig, ClapConfig, TextConfig};
use crate::error::{Error, Result};
use crate::folder::{ModelFolder, hears};
use crate::tokenizer::ClapTokenizer;
use crate::tokenizer_source::{self, tokenizer_of};
use crate::weights::{is_weight_file, open_weights, single};

/// What a path holds.
#[derive(Debug)]
pub enum Opened {
    /// A whole model: a folder of `transformers` or open_clip, or a bare file of LAION's.
    Model(ModelFolder<()>),
    /// An audio tower, as the programs that train it on AudioSet save it.
    Audio(AudioTowerFile),
    /// A text tower: a folder of `transformers` or sentence-transformers.
    Text(TextTowerFile),
}

/// An audio tower and where its weights are.
#[derive(Debug)]
pub struct AudioTowerFile {
    /// The folder or file.
    pub path: PathBuf,
    /// Kind and sizes.
    pub config: AudioConfig,
    /// The front end that it was trained with, where the file tells.
    pub features: Option<FeatureConfig>,
    /// The weight file.
    pub checkpoint: Checkpoint,
}

/// A text tower and where its weights are.
#[derive(Debug)]
pub struct TextTowerFile {
    /// The folder or file.
    pub path: PathBuf,
    /// Kind and sizes.
    pub config: TextConfig,
    /// The weight file.
    pub checkpoint: Checkpoint,
}

impl AudioTowerFile {
    /// Opens an audio tower, by itself or of a model.
    ///
    /// # Errors
    /// Where the path holds none, or what it holds cannot be read.
    pub fn open(path: &Path) -> Result<Self> {
        match open(path)? {
            Opened::Model(ModelFolder { path, config, features, checkpoint, .. }) => {
                Ok(Self { path, config: config.audio_config, features: Some(features), checkpoint })
            }
            Opened::Audio(tower) => Ok(tower),
            Opened::Text(tower) => Err(Error::checkpoint(path, format!("this has no audio tower: {}", tower.config))),
        }
    }

    /// Sets the audio tower of a model's variables to these weights: see [`Checkpoint::fill_tower`].
    ///
    /// # Errors
    /// As [`Checkpoint::fill_tower`].
    pub fn fill(&self, vars: &Vars) -> Result<TowerReport> {
        self.checkpoint.fill_tower(vars, Tower::Audio)
    }
}

impl TextTowerFile {
    /// Opens a text tower, by itself or of a model.
    ///
    /// # Errors
    /// Where the path holds none, or what it holds cannot be read.
    pub fn open(path: &Path) -> Result<Self> {
        match open(path)? {
            Opened::Model(ModelFolder { path, config, checkpoint, .. }) => {
                Ok(Self { path, config: config.text_config, checkpoint })
            }
            Opened::Text(tower) => Ok(tower),
            Opened::Audio(tower) => Err(Error::checkpoint(path, format!("this has no text tower: {}", tower.config))),
        }
    }

    /// Sets the text tower of a model's variables to these weights: see [`Checkpoint::fill_tower`].
    ///
    /// # Errors
    /// As [`Checkpoint::fill_tower`].
    pub fn fill(&self, vars: &Vars) -> Result<TowerReport> {
        self.checkpoint.fill_tower(vars, Tower::Text)
    }

    /// The tokenizer that goes with it: the one that is `given`, else the one beside it, else that of its repository on the hub.
    ///
    /// # Errors
    /// Where there is none; the message says which files to put where.
    pub fn tokenizer(&self, given: Option<&Path>) -> Result<ClapTokenizer> {
        match given {
            Some(given) => ClapTokenizer::from_pretrained(given),
            None => tokenizer_of(&self.path, self.config.model_type),
        }
    }
}

/// Opens what is at `path`, told apart by the files of a folder and the key names of a weight file. Tokenizers are not looked for.
///
/// # Errors
/// Where a file is missing or broken, the files do not belong together, or they are nothing that is known.
pub fn open(path: &Path) -> Result<Opened> {
    if path.is_dir() { open_folder(path) } else { open_file(path) }
}

fn open_folder(folder: &Path) -> Result<Opened> {
    if let Some(transformer) = sentence_transformer(folder)? {
        return text_tower(folder, &transformer, open_weights(&transformer)?);
    }
    let config = folder.join("config.json");
    if config.is_file() {
        return match is_text_model(&config) {
            true => text_tower(folder, folder, open_weights(folder)?),
            false => hugging_face(folder, folder, || open_weights(folder)),
        };
    }
    let config = folder.join(OPEN_CLIP_CONFIG);
    if config.is_file() {
        let weights = match OPEN_CLIP_WEIGHTS.iter().map(|name| folder.join(name)).find(|path| path.is_file()) {
            Some(path) => path,
            None => single(folder, is_weight_file)?.ok_or_else(|| Error::MissingFile {
                folder: folder.to_owned(),
                file: "open_clip_model.safetensors (or open_clip_pytorch_model.bin)",
            })?,
        };
        return open_clip(folder, &config, Checkpoint::open(&weights)?);
    }
    match single(folder, is_weight_file)? {
        Some(file) => open_file(&file),
        None => Err(Error::MissingFile { folder: folder.to_owned(), file: "config.json" }),
    }
}

fn open_file(path: &Path) -> Result<Opened> {
    let checkpoint = Checkpoint::open(path)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let config = folder.join("config.json");
    let missing = |file| Err(Error::MissingFile { folder: folder.to_owned(), file });
    match checkpoint.format() {
        Format::HuggingFace | Format::Laion if is_clap(&config) => hugging_face(path, folder, || Ok(checkpoint)),
        Format::HuggingFace if checkpoint.detect_config().is_some() => missing("config.json"),
        Format::HuggingFace => Err(Error::checkpoint(
            path,
            format!(
                "its keys ({} …) are of no model that is known: CLAP of transformers, LAION or open_clip, or an audio tower of \
                 AudioSet",
                checkpoint.keys().take(3).map(|(key, _)| key).collect::<Vec<_>>().join(", ")
            ),
        )),
        Format::Laion => Ok(Opened::Model(laion(path, folder, checkpoint)?)),
        Format::OpenClip => match folder.join(OPEN_CLIP_CONFIG) {
            config if config.is_file() => open_clip(path, &config, checkpoint),
            _ => missing(OPEN_CLIP_CONFIG),
        },
        Format::AudioSet => {
            let Some(config) = checkpoint.detect_audio_config() else {
                return Err(Error::checkpoint(path, "its audio tower is neither an HTS-AT nor one of PANNs'"));
            };
            let features = checkpoint.detect_features(truncation(&config))?;
            Ok(Opened::Audio(AudioTowerFile { path: path.to_owned(), config, features, checkpoint }))
        }
        Format::Text if config.is_file() => text_tower(path, folder, checkpoint),
        Format::Text => missing("config.json"),
        Format::T5 => Err(Error::checkpoint(
            path,
            "this is a T5: it writes captions (t5::CaptionModel), and is neither a CLAP model nor a tower of one",
        )),
    }
}

/// A folder of `transformers`, or a weight file beside such a folder's configuration.
fn hugging_face(path: &Path, folder: &Path, open: impl FnOnce() -> Result<Checkpoint>) -> Result<Opened> {
    let config = ClapConfig::from_file(&folder.join("config.json"))?;
    let Some(features) = features_in(folder)? else {
        return Err(Error::MissingFile { folder: folder.to_owned(), file: "preprocessor_config.json" });
    };
    hears(&config, &features)?;
    Ok(Opened::Model(ModelFolder { path: path.to_owned(), config, features, tokenizer: (), checkpoint: open()? }))
}

/// A bare file of LAION's.
fn laion(path: &Path, folder: &Path, checkpoint: Checkpoint) -> Result<ModelFolder<()>> {
    let Some(mut config) = checkpoint.detect_config() else {
        let part = match (checkpoint.detect_audio_config(), checkpoint.detect_text_config()) {
            (None, _) => "audio tower that is known (HTS-AT, PANNs)",
            (_, None) => "text tower that is known (RoBERTa, BERT, BART, CLIP)",
            _ => "projection",
        };
        return Err(Error::checkpoint(path, format!("LAION's key names, but no {part}")));
    };
    if let AudioConfig::HtsAt(audio) = &mut config.audio_config {
        audio.drop_path_rate = DROP_PATH_RATE;
    }
    config.validate()?;
    let truncation = truncation(&config.audio_config);
    let features = match features_in(folder)? {
        Some(features) => {
            hears(&config, &features)?;
            features
        }
        None => {
            const REMEDY: &str = "put a preprocessor_config.json beside it that says what the model was trained with";
            let features = match checkpoint.detect_features(truncation)? {
                Some(features) => features,
                None if checkpoint.has_mel_bank() => {
                    let reason = format!("the mel bank in it is of no front end that is known; {REMEDY}");
                    return Err(Error::checkpoint(path, reason));
                }
                None => FeatureConfig::published(truncation),
            };
            // Nothing in the file says how long the window is.
            hears(&config, &features).map_err(|_| {
                let FeatureConfig { feature_size, max_length_s, .. } = features;
                let reason = format!(
                    "LAION's {feature_size} mel bins and window of {max_length_s} s are not this model's; {REMEDY}"
                );
                Error::checkpoint(path, reason)
            })?;
            features
        }
    };
    Ok(ModelFolder { path: path.to_owned(), config, features, tokenizer: (), checkpoint })
}

fn open_clip(path: &Path, config: &Path, checkpoint: Checkpoint) -> Result<Opened> {
    let (config, features) = open_clip_config(config, &checkpoint)?;
    hears(&config, &features)?;
    Ok(Opened::Model(ModelFolder { path: path.to_owned(), config, features, tokenizer: (), checkpoint }))
}

/// `path` is what the tower is called by, and where its tokenizer is; `folder` holds its configuration.
fn text_tower(path: &Path, folder: &Path, checkpoint: Checkpoint) -> Result<Opened> {
    let config = text_config(&folder.join("config.json"))?;
    let path = if tokenizer_source::is_in(folder) && path.is_dir() { folder } else { path };
    Ok(Opened::Text(TextTowerFile { path: path.to_owned(), config, checkpoint }))
}

/// The folder of the transformer in a folder of sentence-transformers, whose `modules.json` names it.
fn sentence_transformer(folder: &Path) -> Result<Option<PathBuf>> {
    let modules = folder.join("modules.json");
    if !modules.is_file() {
        return Ok(None);
    }
    let json = json(&modules)?;
    let is_transformer = |module: &&Value| module["type"].as_str().is_some_and(|kind| kind.ends_with(".Transformer"));
    let module = json.as_array().and_then(|modules| modules.iter().find(is_transformer));
    match module.and_then(|module| module["path"].as_str()) {
        // A plain name, or nothing where the transformer's files lie in the folder itself.
        Some(path) if !path.contains(['/', '\\', ':']) && path != ".." => Ok(Some(folder.join(path))),
        _ => Err(Error::Json { path: modules, reason: "it names no transformer with a folder of its own".to_owned() }),
    }
}

fn features_in(folder: &Path) -> Result<Option<FeatureConfig>> {
    let path = folder.join("preprocessor_config.json");
    if !path.is_file() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
    let features: FeatureConfig = serde_json::from_str(&text).map_err(Error::json(&path))?;
    features.validate()?;
    Ok(Some(features))
}

fn truncation(audio: &AudioConfig) -> Truncation {
    if audio.fusion().is_some() { Truncation::Fusion } else { Truncation::RandTrunc }
}

fn json(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    serde_json::from_str(&text).map_err(Error::json(path))
}

/// True where a `config.json` says that it is CLAP's.
fn is_clap(config: &Path) -> bool {
    config.is_file() && json(config).is_ok_and(|json| json["model_type"] == "clap")
}

/// True where a `config.json` says that it is a text model's.
fn is_text_model(config: &Path) -> bool {
    json(config).is_ok_and(|json| crate::checkpoint::is_text_config(&json))
}
