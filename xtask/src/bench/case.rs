//! What can be timed, and the line that names it.
//!
//! ```text
//! htsat-tiny mel 8            HTS-AT tiny and its projection, from 8 log-mel spectrograms of 1001 frames
//! htsat-tiny mel 8 bf16       the same with products in bfloat16
//! htsat-tiny mel 8 bf16-weights  the same with all but decibels and batch norms in bfloat16
//! htsat-tiny-fused mel 8      the same of 4 views, every clip longer
//! htsat-base mel 8            HTS-AT base
//! pann-14 wave 8              PANN-14 from 8 waveforms of 10 s at 48 kHz; pann-10, pann-6; `mel` leaves the front end out
//! roberta 77 16               RoBERTa-base and its projection, 16 texts of 9 to 31 tokens (19 on average) padded to 77; bert
//! roberta own 16              the same padded to the longest of them
//! roberta full 16             16 texts of 77 tokens
//! train htsat-tiny roberta 8  a training step from waveforms and texts padded to 77: forward, loss, backward, Adam; with `bf16` as well
//! adam htsat-tiny roberta     a step of Adam on the parameters of these towers, with given gradients; `composed` behind it: from plain operations
//! loader mono-48000 2         a pass over the shards of this name (see loader.rs) with two workers; `stream` before the name: streamed
//! product 2048                a square matrix product
//! multiply-adds               fused multiply-adds on registers, all threads
//! ```

use anyhow::{Context as _, bail};
use clap_encoders::{AudioConfig, TextConfig};

use super::towers::{audio_tower, text_tower};

/// Tokens that LAION pads a text to.
pub(super) const CONTEXT: usize = 77;

/// Something to time.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Case {
    /// An audio tower with its projection, for inference.
    Audio { tower: AudioConfig, input: Input, clips: usize, precision: Precision },
    /// A text tower with its projection, for inference.
    Text { tower: TextConfig, texts: Texts, precision: Precision },
    /// A training step of a model with these towers, on texts padded to [`CONTEXT`].
    Training { audio: AudioConfig, text: TextConfig, pairs: usize, precision: Precision, checkpointed: bool },
    /// An update of the parameters of a model with these towers, gradients given; fused or from plain operations.
    Adam { audio: AudioConfig, text: TextConfig, fused: bool },
    /// A pass over a set of shards: decoding, resampling, log-mel, batches.
    Loader { reading: Reading, set: String, workers: usize },
    /// A square matrix product in `f32`.
    Product { size: usize },
    /// The processor's arithmetic and nothing else.
    MultiplyAdds,
}

/// How shards are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// Clip by clip, wherever they are.
    Indexed,
    /// From front to back.
    Streamed,
}

/// What a tower computes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Precision {
    F32,
    /// Products in bfloat16, all else in `f32`: mixed precision.
    Bf16Products,
    /// Weights and activations in bfloat16.
    Bf16Weights,
}

/// What an audio tower is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// Log-mel spectrograms.
    Mel,
    /// Waveforms; the front end is timed too.
    Wave,
}

/// How many texts there are, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Texts {
    pub(super) count: usize,
    pub(super) length: Length,
}

/// Tokens of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    /// 9 to 31, padded to so many.
    Padded(usize),
    /// 9 to 31, padded to the longest.
    Own,
    /// [`CONTEXT`], all of them.
    Full,
}

impl Texts {
    /// Texts padded to `length`.
    pub(super) fn padded(count: usize, length: usize) -> Self {
        Self { count, length: Length::Padded(length) }
    }

    /// Tokens of each text, the same as `bench_models.py`'s: 9, 14, 19, … between 9 and 31.
    pub(super) fn tokens(self) -> Vec<usize> {
        let spread = (0..self.count).map(|i| 9 + (5 * i) % 23);
        match self.length {
            Length::Padded(length) => spread.map(|tokens| tokens.min(length)).collect(),
            Length::Own => spread.collect(),
            Length::Full => vec![CONTEXT; self.count],
        }
    }

    /// Tokens of each row, padding included.
    pub(super) fn width(self) -> usize {
        match self.length {
            Length::Padded(length) => length,
            Length::Own => self.tokens().into_iter().max().unwrap_or(0),
            Length::Full => CONTEXT,
        }
    }
}

impl Case {
    /// The case of a line.
    pub(super) fn parse(line: &str) -> anyhow::Result<Self> {
        Self::read(line).with_context(|| format!("`{line}` is no case of the bench"))
    }

    fn read(line: &str) -> anyhow::Result<Self> {
        let words: Vec<_> = line.split_whitespace().collect();
        let (words, precision) = match words.split_last() {
            Some((&"bf16", words)) => (words, Precision::Bf16Products),
            Some((&"bf16-weights", words)) => (words, Precision::Bf16Weights),
            _ => (&words[..], Precision::F32),
        };
        Ok(match *words {
            ["train", audio, text, pairs, ref form @ ..] if matches!(form, [] | ["checkpointed"]) => {
                if precision == Precision::Bf16Weights {
                    bail!("weights are trained in f32")
                }
                let (audio, text) = (audio_tower(audio)?, text_tower(text)?);
                Self::Training { audio, text, pairs: number(pairs)?, precision, checkpointed: !form.is_empty() }
            }
            ["adam", audio, text, ref form @ ..] if matches!(form, [] | ["composed"]) => {
                Self::Adam { audio: audio_tower(audio)?, text: text_tower(text)?, fused: form.is_empty() }
            }
            ["loader", ref words @ ..] => Self::loader(words)?,
            ["product", size] => Self::Product { size: number(size)? },
            ["multiply-adds"] => Self::MultiplyAdds,
            [tower, "mel", clips] => {
                Self::Audio { tower: audio_tower(tower)?, input: Input::Mel, clips: number(clips)?, precision }
            }
            [tower, "wave", clips] => {
                Self::Audio { tower: audio_tower(tower)?, input: Input::Wave, clips: number(clips)?, precision }
            }
            [tower, length, texts] => {
                let length = match length {
                    "own" => Length::Own,
                    "full" => Length::Full,
                    length => Length::Padded(number(length)?),
                };
                let texts = Texts { count: number(texts)?, length };
                Self::Text { tower: text_tower(tower)?, texts, precision }
            }
            _ => bail!("see the head of xtask/src/bench/case.rs"),
        })
    }
}

/// A count of one or more.
pub(super) fn number(word: &str) -> anyhow::Result<usize> {
    match word.parse() {
        Ok(0) | Err(_) => bail!("`{word}` should be a number of at least 1"),
        Ok(number) => Ok(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap_encoders::HtsAtConfig;

    #[test]
    fn a_line_names_a_case() {
        let tower: AudioConfig = HtsAtConfig::default().into();
        let audio =
            Case::Audio { tower: tower.clone(), input: Input::Mel, clips: 8, precision: Precision::Bf16Products };
        assert_eq!(Case::parse("htsat-tiny mel 8 bf16").unwrap(), audio);
        let training = Case::parse("train htsat-tiny roberta 8").unwrap();
        assert!(matches!(training, Case::Training { audio, pairs: 8, .. } if audio == tower));
        let Case::Text { texts, .. } = Case::parse("roberta own 16").unwrap() else { panic!("a text case") };
        assert_eq!(texts, Texts { count: 16, length: Length::Own });
    }

    #[test]
    fn what_is_no_case_is_named() {
        for (line, word) in [
            ("htsat-huge mel 8", "htsat-huge"),
            ("roberta 77 none", "`none`"),
            ("roberta 77 0", "`0`"),
            ("train htsat-tiny roberta 8 bf16-weights", "f32"),
            ("", "case.rs"),
        ] {
            let error = format!("{:#}", Case::parse(line).unwrap_err());
            assert!(error.contains(word) && error.contains(&format!("`{line}`")), "{error}");
        }
    }

    #[test]
    fn texts_are_about_twenty_tokens_long() {
        let tokens = Texts::padded(16, 77).tokens();
        assert_eq!((tokens[0], tokens[15], tokens.iter().sum::<usize>()), (9, 15, 307));
        let own = Texts { count: 16, length: Length::Own };
        assert_eq!((own.width(), Texts::padded(16, 77).width()), (31, 77));
        assert_eq!(Texts { count: 2, length: Length::Full }.tokens(), [77, 77]);
    }
}
