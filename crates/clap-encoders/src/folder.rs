//! A whole model's files, opened and checked, its weights not yet read.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use clap_audio::{FeatureConfig, Preset};
use clap_nn::init::seeded_vars;

use crate::checkpoint::{Checkpoint, Format, INITIAL_SEED};
use crate::config::{ClapConfig, TextModelType};
use crate::error::{Error, KeyReport, Result};
use crate::model::ClapModel;
use crate::opened::{Opened, open};
use crate::tokenizer::ClapTokenizer;
use crate::tokenizer_source::tokenizer_of;

/// What the files of a model hold.
///
/// `T` is `()` as long as its tokenizer has not been asked for: a bare weight file has none, and not everything needs one.
#[derive(Debug)]
pub struct ModelFolder<T = ClapTokenizer> {
    /// Where it is: a folder, or a bare weight file.
    pub path: PathBuf,
    /// `config.json`, or what it would say.
    pub config: ClapConfig,
    /// `preprocessor_config.json`, or what it would say.
    pub features: FeatureConfig,
    /// The tokenizer.
    pub tokenizer: T,
    /// The weight file.
    pub checkpoint: Checkpoint,
}

/// Opens a model with its tokenizer, of any kind that [`open`] knows: a Hugging Face folder (`config.json`,
/// `preprocessor_config.json`, `model.safetensors`, its shards or `pytorch_model.bin`, and `tokenizer.json`, `vocab.json` with
/// `merges.txt`, or `vocab.txt`), LAION's `.pt`, or a folder of open_clip's.
///
/// # Errors
/// Where a file is missing or broken, the files do not belong together, or they are no whole model.
pub fn load_folder(path: &Path) -> Result<ModelFolder> {
    open_model(path)?.with_tokenizer(None)
}

/// As [`load_folder`], without the tokenizer.
///
/// # Errors
/// As [`load_folder`].
pub fn open_model(path: &Path) -> Result<ModelFolder<()>> {
    match open(path)? {
        Opened::Model(model) => Ok(model),
        Opened::Audio(tower) => Err(Error::checkpoint(
            &tower.path,
            format!("this is an audio tower alone ({}); a model has a text tower and projections too", tower.config),
        )),
        Opened::Text(tower) => Err(Error::checkpoint(
            &tower.path,
            format!("this is a text tower alone ({}); a model has an audio tower and projections too", tower.config),
        )),
    }
}

impl ModelFolder<()> {
    /// The same with its tokenizer: the one that is `given` (a folder, a `tokenizer.json` or a hub id), else the one beside the
    /// weights, else, for files that come without one, that of the text tower's own repository on the hub.
    ///
    /// # Errors
    /// Where there is none, the message saying which files to put where; or it is not made for this model.
    pub fn with_tokenizer(self, given: Option<&Path>) -> Result<ModelFolder> {
        let tokenizer = match (given, self.checkpoint.format()) {
            (Some(given), _) => ClapTokenizer::from_pretrained(given)?,
            (None, Format::HuggingFace) if self.path.is_dir() => ClapTokenizer::from_folder(&self.path)?,
            (None, _) => tokenizer_of(&self.path, self.config.text_config.model_type)?,
        };
        agree(&self.config, &self.features, &tokenizer)?;
        let Self { path, config, features, checkpoint, .. } = self;
        Ok(ModelFolder { path, config, features, tokenizer, checkpoint })
    }
}

impl<T> ModelFolder<T> {
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

    /// The front end of the program whose names the weights carry. open_clip's is neither: it does not round to 16 bits, as `hf`, and
    /// leaves the local views of a short clip out of a fused model, as `laion`. The latter weighs more, where there is fusion.
    #[must_use]
    pub fn preset(&self) -> Preset {
        match self.checkpoint.format() {
            Format::Laion => Preset::Laion,
            Format::OpenClip if self.config.audio_config.fusion().is_some() => Preset::Laion,
            _ => Preset::Hf,
        }
    }
}

/// Checks that model, front end and tokenizer are made for each other.
///
/// # Errors
/// Naming the key at fault.
pub(crate) fn agree(config: &ClapConfig, features: &FeatureConfig, tokenizer: &ClapTokenizer) -> Result<()> {
    hears(config, features)?;
    reads(config, tokenizer)
}

/// Checks that model and front end are made for each other.
pub(crate) fn hears(config: &ClapConfig, features: &FeatureConfig) -> Result<()> {
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
    Ok(())
}

/// Checks that model and tokenizer are made for each other.
fn reads(config: &ClapConfig, tokenizer: &ClapTokenizer) -> Result<()> {
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
