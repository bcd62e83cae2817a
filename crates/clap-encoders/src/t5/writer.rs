//! A caption model: a T5 with its tokenizer, and the loop that writes a batch of texts token by token.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use rand::Rng;
use tokenizers::Tokenizer;

use super::beams::Search;
use super::config::T5Config;
use super::constraints::{constrain, sharpen, softmax};
use super::generation::{Generation, Sampling};
use super::network::{Network, Writing, log_softmax};
use crate::error::{Error, Result};
use crate::location::locate_caption_model;
use crate::weights::open_weights;

/// Prompts are cut here, keeping their last token: T5 was trained on no longer ones.
const LONGEST_PROMPT: usize = 512;

/// A T5 that writes a text for a prompt.
#[derive(Debug)]
pub struct CaptionModel {
    network: Network,
    tokenizer: Tokenizer,
    device: Device,
    generation: Generation,
    sampling: Option<Sampling>,
}

impl CaptionModel {
    /// A model by the path of its folder (`config.json`, `tokenizer.json`, `model.safetensors`, its shards or `pytorch_model.bin`,
    /// and `generation_config.json` where there is one) or by its id on the hub, whence it is fetched if need be.
    ///
    /// # Errors
    /// Where a file is missing or broken, or the files are no T5; the message says which and what to do.
    pub fn from_pretrained(id_or_path: &Path, revision: Option<&str>, device: &Device) -> Result<Self> {
        Self::open(&locate_caption_model(id_or_path, revision)?, device)
    }

    fn open(folder: &Path, device: &Device) -> Result<Self> {
        let at = |name: &str| Some(folder.join(name)).filter(|path| path.is_file());
        let fail = |reason: String| Error::CaptionModel { id: folder.display().to_string(), reason };
        let config = at("config.json").ok_or_else(|| fail("there is no config.json".to_owned()))?;
        let config = T5Config::load(&config)?;
        let tokenizer = tokenizer(folder, at("tokenizer.json"))?;
        let (generation, sampling) = Generation::load(folder)?;
        let weights = open_weights(folder).map_err(|error| match error {
            Error::MissingFile { file, .. } => fail(format!("there is no {file}")),
            other => other,
        })?;
        let network = weights.build(DType::F32, device, |vb| Ok(Network::new(&config, vb)?))?;
        Ok(Self { network, tokenizer, device: device.clone(), generation, sampling })
    }

    /// How the model's folder says that texts are written.
    #[must_use]
    pub fn generation(&self) -> &Generation {
        &self.generation
    }

    /// How the model's folder says that tokens are drawn, where it says that they are.
    #[must_use]
    pub fn sampling(&self) -> Option<Sampling> {
        self.sampling
    }

    /// Token ids of prompts, as the tokenizer frames them, at most 512 each.
    ///
    /// # Errors
    /// Where the tokenizer fails.
    pub fn encode<S: AsRef<str>>(&self, prompts: &[S]) -> Result<Vec<Vec<u32>>> {
        let prompts: Vec<&str> = prompts.iter().map(AsRef::as_ref).collect();
        let encodings = self.tokenizer.encode_batch(prompts, true).map_err(Error::tokenizer("of the caption model"))?;
        let cut = |encoding: &tokenizers::Encoding| {
            let mut ids = encoding.get_ids().to_vec();
            if let Some(&last) = ids.last().filter(|_| ids.len() > LONGEST_PROMPT) {
                ids.truncate(LONGEST_PROMPT);
                ids[LONGEST_PROMPT - 1] = last;
            }
            ids
        };
        Ok(encodings.iter().map(cut).collect())
    }

    /// One text for each prompt by beam search, or greedily with one beam. The same prompts in the same order give the same texts.
    ///
    /// # Errors
    /// Where an option is not possible, or the model gives numbers that are none.
    pub fn write<S: AsRef<str>>(&self, prompts: &[S], options: &Generation) -> Result<Vec<String>> {
        self.decode(&self.write_ids(&self.encode(prompts)?, options)?)
    }

    /// One text for each prompt, its tokens drawn by a generator of its own: `rngs` has one for each prompt. Beams are not used.
    ///
    /// # Errors
    /// As [`CaptionModel::write`].
    pub fn draw<S: AsRef<str>>(
        &self,
        prompts: &[S],
        options: &Generation,
        sampling: &Sampling,
        rngs: &mut [impl Rng],
    ) -> Result<Vec<String>> {
        self.decode(&self.draw_ids(&self.encode(prompts)?, options, sampling, rngs)?)
    }

    /// As [`CaptionModel::write`], on token ids: each text without the token that starts it, with the one that ends it.
    ///
    /// # Errors
    /// As [`CaptionModel::write`], and where a prompt is empty or has a token that the model does not know.
    pub fn write_ids(&self, prompts: &[Vec<u32>], options: &Generation) -> Result<Vec<Vec<u32>>> {
        if options.num_beams == 1 {
            return self.one_by_one(prompts, options, |_, scores| greatest(scores));
        }
        let Some(mut writing) = self.start(prompts, options, options.num_beams)? else { return Ok(Vec::new()) };
        let beams = options.num_beams;
        let mut searches: Vec<Search> = prompts.iter().map(|_| Search::new(options)).collect();
        // The prompts that are not done, in the order of the rows.
        let mut open: Vec<usize> = (0..prompts.len()).collect();
        while !open.is_empty() {
            let texts: Vec<Vec<u32>> =
                open.iter().flat_map(|&prompt| searches[prompt].running().map(<[u32]>::to_vec)).collect();
            let mut log_probs = log_softmax(&self.network.write(&last(&texts), &mut writing)?)?;
            for (scores, text) in log_probs.iter_mut().zip(&texts) {
                check_numbers(scores)?;
                constrain(scores, text, options);
            }
            let (mut prompts, mut rows, mut next) = (Vec::new(), Vec::new(), Vec::new());
            for (place, (&prompt, scores)) in open.iter().zip(log_probs.chunks(beams)).enumerate() {
                if let Some(parents) = searches[prompt].advance(scores, options) {
                    prompts.push(number(place));
                    rows.extend(parents.into_iter().map(|beam| number(place * beams + beam)));
                    next.push(prompt);
                }
            }
            if !next.is_empty() {
                writing.select(&prompts, &rows)?;
            }
            open = next;
        }
        Ok(searches.into_iter().map(Search::best).collect())
    }

    /// As [`CaptionModel::draw`], on token ids.
    ///
    /// # Errors
    /// As [`CaptionModel::write_ids`].
    pub fn draw_ids(
        &self,
        prompts: &[Vec<u32>],
        options: &Generation,
        sampling: &Sampling,
        rngs: &mut [impl Rng],
    ) -> Result<Vec<Vec<u32>>> {
        sampling.validate()?;
        if rngs.len() != prompts.len() {
            let reason = format!("{} generators for {} prompts; each prompt has its own", rngs.len(), prompts.len());
            return Err(Error::input("rngs", reason));
        }
        self.one_by_one(prompts, options, |prompt, scores| {
            sharpen(scores, sampling);
            drawn(scores, rngs[prompt].random())
        })
    }

    /// Writes one text for each prompt, `choose` saying how each goes on.
    fn one_by_one(
        &self,
        prompts: &[Vec<u32>],
        options: &Generation,
        mut choose: impl FnMut(usize, &mut [f32]) -> u32,
    ) -> Result<Vec<Vec<u32>>> {
        let Some(mut writing) = self.start(prompts, options, 1)? else { return Ok(Vec::new()) };
        let mut texts = vec![vec![options.decoder_start_token_id]; prompts.len()];
        let mut open: Vec<usize> = (0..prompts.len()).collect();
        loop {
            let tokens: Vec<u32> = open.iter().filter_map(|&prompt| texts[prompt].last().copied()).collect();
            let mut logits = self.network.write(&tokens, &mut writing)?.to_vec2::<f32>()?;
            let (mut places, mut next) = (Vec::new(), Vec::new());
            for (place, (&prompt, scores)) in open.iter().zip(&mut logits).enumerate() {
                check_numbers(scores)?;
                let text = &mut texts[prompt];
                constrain(scores, text, options);
                let token = choose(prompt, scores);
                text.push(token);
                if !options.eos_token_id.contains(&token) && text.len() < options.max_length {
                    places.push(number(place));
                    next.push(prompt);
                }
            }
            if next.is_empty() {
                return Ok(texts.into_iter().map(|text| text[1..].to_vec()).collect());
            }
            if next.len() < open.len() {
                writing.select(&places, &places)?;
            }
            open = next;
        }
    }

    /// Reads the prompts, padded to the longest; `None` where there are none.
    fn start(&self, prompts: &[Vec<u32>], options: &Generation, beams: usize) -> Result<Option<Writing>> {
        let size = self.network.vocab_size();
        options.check(Some(size)).map_err(|(key, reason)| Error::input(key, reason))?;
        let Some(width) = prompts.iter().map(Vec::len).max() else { return Ok(None) };
        let (mut ids, mut mask) = (Vec::new(), Vec::new());
        for prompt in prompts {
            if prompt.is_empty() {
                return Err(Error::input("prompt", "it has no token"));
            }
            if let Some(id) = prompt.iter().find(|&&id| id as usize >= size) {
                let reason =
                    format!("the tokenizer gives {id}, but the model knows {size} tokens: they do not go together");
                return Err(Error::input("prompt", reason));
            }
            ids.extend_from_slice(prompt);
            mask.resize(ids.len(), 1u32);
            ids.resize(mask.len() + width - prompt.len(), options.pad_token_id);
            mask.resize(ids.len(), 0);
        }
        let shape = (prompts.len(), width);
        let (ids, mask) = (Tensor::from_vec(ids, shape, &self.device)?, Tensor::from_vec(mask, shape, &self.device)?);
        Ok(Some(self.network.read(&ids, &mask, beams)?))
    }

    /// Texts of token ids, without special tokens.
    fn decode(&self, texts: &[Vec<u32>]) -> Result<Vec<String>> {
        let decode = |ids: &Vec<u32>| self.tokenizer.decode(ids, true).map(|text| text.trim().to_owned());
        texts.iter().map(decode).collect::<tokenizers::Result<_>>().map_err(Error::tokenizer("of the caption model"))
    }
}

/// The tokenizer of a folder, or how to make one of what is there.
fn tokenizer(folder: &Path, file: Option<PathBuf>) -> Result<Tokenizer> {
    let Some(file) = file else {
        let reason = match folder.join("spiece.model").is_file() {
            true => format!(
                "there is spiece.model and no tokenizer.json; make the latter with Python: from transformers import \
                 T5TokenizerFast; T5TokenizerFast.from_pretrained(\"{0}\").save_pretrained(\"{0}\")",
                folder.display()
            ),
            false => "there is no tokenizer.json".to_owned(),
        };
        return Err(Error::CaptionModel { id: folder.display().to_string(), reason });
    };
    let bytes = std::fs::read(&file).map_err(Error::io(&file))?;
    let mut tokenizer = Tokenizer::from_bytes(bytes).map_err(Error::tokenizer(file.display()))?;
    // Length and padding are decided here, whatever the file says.
    tokenizer.with_padding(None);
    tokenizer.with_truncation(None).map_err(Error::tokenizer(file.display()))?;
    Ok(tokenizer)
}

fn check_numbers(scores: &[f32]) -> Result<()> {
    match scores.iter().any(|score| score.is_nan()) {
        true => Err(Error::input(
            "caption model",
            "its numbers are not finite; are the weights damaged, or of another type?",
        )),
        false => Ok(()),
    }
}

/// Rows of a batch are counted in `u32`, candle's type of an index.
fn number(row: usize) -> u32 {
    u32::try_from(row).expect("a batch has fewer rows than u32 has numbers, for each holds a vocabulary of scores")
}

fn last(texts: &[Vec<u32>]) -> Vec<u32> {
    texts.iter().filter_map(|text| text.last().copied()).collect()
}

/// The likeliest token, the first of equals.
fn greatest(scores: &[f32]) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (token, &score) in (0u32..).zip(scores) {
        if score > best.1 {
            best = (token, score);
        }
    }
    best.0
}

/// The token at `place`, between 0 and 1, of the tokens laid end to end, each as long as its probability.
fn drawn(scores: &[f32], place: f64) -> u32 {
    let mut reached = 0.0;
    let mut last = 0;
    for (token, probability) in (0u32..).zip(softmax(scores)) {
        if probability > 0.0 {
            reached += probability;
            last = token;
            if place < reached {
                break;
            }
        }
    }
    last
}
