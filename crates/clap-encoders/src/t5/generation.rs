//! How texts are written: the fields of `generation_config.json` that this crate follows.
//!
//! Source: transformers 4.57.6 `generation/configuration_utils.py` and `generation/utils.py`.

use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// The longest text that can be asked for, in tokens.
const LONGEST: usize = 4096;
/// The most beams.
const MOST_BEAMS: usize = 256;
/// Tokens of a text where nothing says how many, the one that starts it not counted.
const DEFAULT_LENGTH: usize = 20;

/// When a beam search ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EarlyStopping {
    /// `false`: when the best running beam, at its present length, is worse than the worst finished text.
    #[default]
    Heuristic,
    /// `true`: as soon as there are as many finished texts as beams.
    Enough,
    /// `"never"`: when no running beam could still become better than the worst finished text.
    Exact,
}

/// How one text follows from one prompt, by the names and with the meaning of `transformers.GenerationConfig`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Generation {
    /// Longest text in tokens, the one that starts it included.
    pub max_length: usize,
    /// No end before so many tokens, the one that starts the text included.
    pub min_length: usize,
    /// Texts that are followed at a time; 1 takes the likeliest token each time (greedy).
    pub num_beams: usize,
    /// Exponent of the length that a finished text's log-probability is divided by: above 0 favours long texts.
    pub length_penalty: f64,
    /// When a beam search ends.
    pub early_stopping: EarlyStopping,
    /// No sequence of so many tokens occurs twice in a text; 0 allows all.
    pub no_repeat_ngram_size: usize,
    /// Factor by which tokens that a text holds already become less likely; 1 leaves them as they are.
    pub repetition_penalty: f32,
    /// The first token after the one that starts the text.
    pub forced_bos_token_id: Option<u32>,
    /// The last tokens that a text of `max_length` may have.
    pub forced_eos_token_id: Vec<u32>,
    /// Tokens that end a text.
    pub eos_token_id: Vec<u32>,
    /// Fills prompts up to the longest of a batch.
    pub pad_token_id: u32,
    /// Starts every text.
    pub decoder_start_token_id: u32,
}

/// How the next token is drawn instead of the likeliest being taken (`do_sample`).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Sampling {
    /// Divides the logits: below 1 sharpens.
    pub temperature: f32,
    /// Draws among so many of the likeliest tokens; 0 among all.
    pub top_k: usize,
    /// Draws among the fewest likeliest tokens that have this probability together.
    pub top_p: f32,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 1.0, top_k: 50, top_p: 1.0 }
    }
}

impl Default for Generation {
    /// Greedy, up to 20 tokens, with the special tokens of T5.
    fn default() -> Self {
        Self {
            max_length: DEFAULT_LENGTH + 1,
            min_length: 0,
            num_beams: 1,
            length_penalty: 1.0,
            early_stopping: EarlyStopping::Heuristic,
            no_repeat_ngram_size: 0,
            repetition_penalty: 1.0,
            forced_bos_token_id: None,
            forced_eos_token_id: Vec::new(),
            eos_token_id: vec![1],
            pad_token_id: 0,
            decoder_start_token_id: 0,
        }
    }
}

/// Fields that would change the texts in ways that are not followed here, and the values that leave them alone.
const UNFOLLOWED: [(&str, &[&str]); 19] = [
    ("bad_words_ids", &[]),
    ("begin_suppress_tokens", &[]),
    ("constraints", &[]),
    ("diversity_penalty", &["0.0", "0"]),
    ("encoder_no_repeat_ngram_size", &["0"]),
    ("encoder_repetition_penalty", &["1.0", "1"]),
    ("epsilon_cutoff", &["0.0", "0"]),
    ("eta_cutoff", &["0.0", "0"]),
    ("exponential_decay_length_penalty", &[]),
    ("force_words_ids", &[]),
    ("guidance_scale", &["1.0", "1"]),
    ("min_p", &[]),
    ("num_beam_groups", &["1"]),
    ("penalty_alpha", &[]),
    ("renormalize_logits", &["false"]),
    ("sequence_bias", &[]),
    ("suppress_tokens", &[]),
    ("typical_p", &["1.0", "1"]),
    ("watermarking_config", &[]),
];

impl Generation {
    /// The options that `keytotext` runs its models with: four beams, a length penalty of 1.5, no three tokens twice, the end as
    /// soon as four texts are finished. Its 1,024 tokens are 128 here, several times the longest caption.
    #[must_use]
    pub fn with_keytotext_search(self) -> Self {
        Self {
            max_length: 128,
            num_beams: 4,
            length_penalty: 1.5,
            no_repeat_ngram_size: 3,
            early_stopping: EarlyStopping::Enough,
            ..self
        }
    }

    /// Refuses values that are not possible, whatever the model.
    ///
    /// # Errors
    /// Naming the option and what it may be.
    pub fn validate(&self) -> Result<()> {
        self.check(None).map_err(|(key, reason)| Error::input(key, reason))
    }

    /// What a model's folder says: `generation_config.json`, or where there is none `config.json`, as older folders have it; and
    /// how tokens are drawn, where `do_sample` says that they are.
    ///
    /// # Errors
    /// Where the file cannot be read, a value is not possible, or it asks for something that is not followed here.
    pub fn load(folder: &Path) -> Result<(Self, Option<Sampling>)> {
        let own = folder.join("generation_config.json");
        let path = if own.is_file() { own } else { folder.join("config.json") };
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
        let fields: Map<String, Value> = serde_json::from_str(&text).map_err(Error::json(&path))?;
        Self::read(&fields).map_err(|reason| Error::Json { path, reason })
    }

    fn read(fields: &Map<String, Value>) -> std::result::Result<(Self, Option<Sampling>), String> {
        for (key, idle) in UNFOLLOWED {
            match fields.get(key) {
                None | Some(Value::Null) => {}
                Some(value) if idle.contains(&value.to_string().as_str()) => {}
                Some(value) => return Err(format!("`{key}` is {value}, which is not supported; remove the key")),
            }
        }
        let default = Self::default();
        let start = whole(fields, "decoder_start_token_id")?;
        let pad = whole(fields, "pad_token_id")?.map_or(Ok(default.pad_token_id), token)?;
        // transformers counts a bare 20 without the token that starts the text, any other number with it.
        let max_length = match (whole(fields, "max_new_tokens")?, whole(fields, "max_length")?) {
            (Some(new), _) => new.saturating_add(1),
            (None, None | Some(DEFAULT_LENGTH)) => DEFAULT_LENGTH + 1,
            (None, Some(length)) => length,
        };
        let min_length = match whole(fields, "min_new_tokens")? {
            Some(new) => new.saturating_add(1),
            None => whole(fields, "min_length")?.unwrap_or(0),
        };
        let generation = Self {
            max_length,
            min_length,
            num_beams: whole(fields, "num_beams")?.unwrap_or(default.num_beams),
            length_penalty: number(fields, "length_penalty")?.unwrap_or(default.length_penalty),
            early_stopping: early_stopping(fields.get("early_stopping"))?,
            no_repeat_ngram_size: whole(fields, "no_repeat_ngram_size")?.unwrap_or(0),
            repetition_penalty: number(fields, "repetition_penalty")?.unwrap_or(1.0) as f32,
            forced_bos_token_id: whole(fields, "forced_bos_token_id")?.map(token).transpose()?,
            forced_eos_token_id: tokens(fields, "forced_eos_token_id")?.unwrap_or_default(),
            eos_token_id: tokens(fields, "eos_token_id")?.unwrap_or(default.eos_token_id),
            pad_token_id: pad,
            decoder_start_token_id: start.map_or(Ok(pad), token)?,
        };
        let does_sample = fields.get("do_sample").is_some_and(|value| *value == Value::Bool(true));
        let sampling = Sampling {
            temperature: number(fields, "temperature")?.unwrap_or(1.0) as f32,
            top_k: whole(fields, "top_k")?.unwrap_or(50),
            top_p: number(fields, "top_p")?.unwrap_or(1.0) as f32,
        };
        generation.check(None).map_err(|(key, reason)| format!("`{key}` {reason}"))?;
        sampling.check().map_err(|(key, reason)| format!("`{key}` {reason}"))?;
        Ok((generation, does_sample.then_some(sampling)))
    }

    /// Refuses what cannot be followed; with a vocabulary, tokens outside of it as well.
    pub(super) fn check(&self, vocab_size: Option<usize>) -> std::result::Result<(), (&'static str, String)> {
        let within = |key, value: usize, limit: usize| match (1..=limit).contains(&value) {
            true => Ok(()),
            false => Err((key, format!("is {value}; it lies between 1 and {limit}"))),
        };
        within("num_beams", self.num_beams, MOST_BEAMS)?;
        if !(2..=LONGEST).contains(&self.max_length) {
            return Err(("max_length", format!("is {}; it lies between 2 and {LONGEST}", self.max_length)));
        }
        if self.min_length > self.max_length {
            return Err(("min_length", format!("is {}, beyond max_length {}", self.min_length, self.max_length)));
        }
        if !self.length_penalty.is_finite() {
            return Err(("length_penalty", format!("is {}; give a finite number", self.length_penalty)));
        }
        if !(self.repetition_penalty.is_finite() && self.repetition_penalty > 0.0) {
            return Err(("repetition_penalty", format!("is {}; give a number above 0", self.repetition_penalty)));
        }
        if let Some(size) = vocab_size {
            let special = [self.pad_token_id, self.decoder_start_token_id].into_iter().chain(self.forced_bos_token_id);
            let mut special = special.chain(self.eos_token_id.iter().chain(&self.forced_eos_token_id).copied());
            if let Some(id) = special.find(|&id| id as usize >= size) {
                return Err((
                    "eos_token_id",
                    format!("or another special token is {id}, but the model knows {size} tokens"),
                ));
            }
            // Twice as many candidates as beams, and as many again for each further token that ends a text.
            if self.num_beams > 1 && size < 2 * self.num_beams {
                return Err(("num_beams", format!("is {}, too many for {size} tokens", self.num_beams)));
            }
        }
        Ok(())
    }
}

impl Sampling {
    /// As [`Generation::validate`].
    ///
    /// # Errors
    /// As there.
    pub fn validate(&self) -> Result<()> {
        self.check().map_err(|(key, reason)| Error::input(key, reason))
    }

    fn check(&self) -> std::result::Result<(), (&'static str, String)> {
        if !(self.temperature.is_finite() && self.temperature > 0.0) {
            return Err(("temperature", format!("is {}; give a number above 0", self.temperature)));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(("top_p", format!("is {}; a probability above 0 and at most 1", self.top_p)));
        }
        Ok(())
    }
}

type Read<T> = std::result::Result<Option<T>, String>;

fn token(id: usize) -> std::result::Result<u32, String> {
    u32::try_from(id).map_err(|_| format!("{id} is no token"))
}

fn whole(fields: &Map<String, Value>, key: &str) -> Read<usize> {
    match fields.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64().and_then(|number| usize::try_from(number).ok()) {
            Some(number) => Ok(Some(number)),
            None => Err(format!("`{key}` is {value}; a whole number is needed")),
        },
    }
}

fn number(fields: &Map<String, Value>, key: &str) -> Read<f64> {
    match fields.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.as_f64().map(Some).ok_or_else(|| format!("`{key}` is {value}; a number is needed")),
    }
}

fn tokens(fields: &Map<String, Value>, key: &str) -> Read<Vec<u32>> {
    let read = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    let ids = match fields.get(key) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(list)) => list.iter().map(read).collect(),
        Some(value) => read(value).map(|id| vec![id]),
    };
    ids.map(Some).ok_or_else(|| format!("`{key}` is {}; a token's number or a list of them is needed", fields[key]))
}

fn early_stopping(value: Option<&Value>) -> std::result::Result<EarlyStopping, String> {
    match value {
        None | Some(Value::Null | Value::Bool(false)) => Ok(EarlyStopping::Heuristic),
        Some(Value::Bool(true)) => Ok(EarlyStopping::Enough),
        Some(Value::String(word)) if word == "never" => Ok(EarlyStopping::Exact),
        Some(value) => Err(format!("`early_stopping` is {value}; true, false or \"never\" is needed")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> std::result::Result<(Generation, Option<Sampling>), String> {
        Generation::read(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn an_empty_file_is_transformers_default() {
        assert_eq!(read("{}").unwrap(), (Generation::default(), None));
        // Its own T5s write no more than this.
        let t5 = r#"{"_from_model_config": true, "decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}"#;
        assert_eq!(read(t5).unwrap().0, Generation::default());
    }

    #[test]
    fn lengths_are_counted_as_transformers_counts_them() {
        for (json, expected) in [
            (r#"{"max_length": 20}"#, 21),
            (r#"{"max_length": 30}"#, 30),
            (r#"{"max_length": 30, "max_new_tokens": 5}"#, 6),
        ] {
            assert_eq!(read(json).unwrap().0.max_length, expected, "{json}");
        }
        assert_eq!(read(r#"{"min_new_tokens": 3}"#).unwrap().0.min_length, 4);
    }

    #[test]
    fn every_followed_field_is_read() {
        let (generation, sampling) = read(
            r#"{"num_beams": 4, "length_penalty": 2, "early_stopping": "never", "no_repeat_ngram_size": 3,
                "repetition_penalty": 1.5, "forced_bos_token_id": 7, "forced_eos_token_id": [1, 2], "eos_token_id": [1, 5],
                "pad_token_id": 3, "do_sample": true, "temperature": 0.7, "top_k": 0, "top_p": 0.9}"#,
        )
        .unwrap();
        assert_eq!((generation.num_beams, generation.length_penalty), (4, 2.0));
        assert_eq!(generation.early_stopping, EarlyStopping::Exact);
        assert_eq!((generation.no_repeat_ngram_size, generation.repetition_penalty), (3, 1.5));
        assert_eq!((generation.forced_bos_token_id, &generation.forced_eos_token_id[..]), (Some(7), &[1, 2][..]));
        assert_eq!((&generation.eos_token_id[..], generation.decoder_start_token_id), (&[1, 5][..], 3));
        assert_eq!(sampling, Some(Sampling { temperature: 0.7, top_k: 0, top_p: 0.9 }));
    }

    #[test]
    fn what_is_not_followed_or_not_possible_names_its_key() {
        for (json, word) in [
            (r#"{"num_beam_groups": 2}"#, "num_beam_groups"),
            (r#"{"bad_words_ids": [[3]]}"#, "bad_words_ids"),
            (r#"{"num_beams": 0}"#, "num_beams"),
            (r#"{"num_beams": 1.5}"#, "num_beams"),
            (r#"{"max_length": 1}"#, "max_length"),
            (r#"{"max_length": 1000000000000}"#, "max_length"),
            (r#"{"min_length": 50}"#, "min_length"),
            (r#"{"repetition_penalty": 0}"#, "repetition_penalty"),
            (r#"{"early_stopping": "soon"}"#, "early_stopping"),
            (r#"{"eos_token_id": "</s>"}"#, "eos_token_id"),
            (r#"{"temperature": 0}"#, "temperature"),
            (r#"{"top_p": 0}"#, "top_p"),
        ] {
            let reason = read(json).unwrap_err();
            assert!(reason.contains(word), "{json}: {reason}");
        }
        read(r#"{"num_beam_groups": 1, "guidance_scale": null, "typical_p": 1.0, "renormalize_logits": false}"#)
            .unwrap();
    }

    #[test]
    fn special_tokens_and_beams_have_to_fit_the_vocabulary() {
        let generation = Generation { num_beams: 4, ..Generation::default() };
        assert!(generation.check(Some(8)).is_ok());
        assert_eq!(generation.check(Some(7)).unwrap_err().0, "num_beams");
        let generation = Generation { eos_token_id: vec![9], ..Generation::default() };
        assert!(generation.check(Some(9)).unwrap_err().1.contains("9"));
    }
}
