//! Sentences made of labels, as LAION's preprocessing scripts make them for data that has tags only.
//!
//! Source: LAION-AI/audio-dataset `data_preprocess/preprocess_{audioset,FSD50K,UrbanSound8K,Epidemic}.py`, which differ in
//! details, and section 2.3 of the paper (arXiv 2211.06687), which prints a fifth form.

use std::str::FromStr;

use crate::caption::{self, Template, join, readable, sound_of};
use crate::{Error, Result, Sample};

/// How labels become sentences. Read from a name (`audioset`, `fsd50k`, `us8k`, `epidemic`, `paper`) or from a template.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum TagSentence {
    /// "The sound of a"; "The sounds of a, b and c". What readers make of clips without captions.
    #[default]
    AudioSet,
    /// "The sounds of a", for one label as well; "The sounds of a, b and c".
    Fsd50k,
    /// "The sound of a."; several labels, which that data set does not have, as "The sound of a, b and c."
    UrbanSound8k,
    /// "the sounds of a, b, and c."; one label, which the script makes "the sounds of , and a." of, as "the sounds of a."
    Epidemic,
    /// "The sound of a, b, and c", as the paper has it.
    Paper,
    /// A template with `{labels}`: one sentence, all labels in it as "a, b and c".
    All(Template),
    /// A template with `{label}`: one sentence for each label.
    Each(Template),
}

impl TagSentence {
    /// Names that stand for a form.
    pub const NAMES: [&'static str; 5] = ["audioset", "fsd50k", "us8k", "epidemic", "paper"];

    /// The sentences of some labels, which are put in as they are; none for no label.
    pub fn fill(&self, labels: &[impl AsRef<str>]) -> Vec<String> {
        if labels.is_empty() {
            return Vec::new();
        }
        vec![match self {
            Self::AudioSet => sound_of(labels),
            Self::Fsd50k => format!("The sounds of {}", join(labels)),
            Self::UrbanSound8k => format!("The sound of {}.", join(labels)),
            Self::Epidemic => format!("the sounds of {}.", join_with_comma(labels)),
            Self::Paper => format!("The sound of {}", join_with_comma(labels)),
            Self::All(template) => template.fill(&join(labels)),
            Self::Each(template) => return labels.iter().map(|label| template.fill(label.as_ref())).collect(),
        }]
    }

    /// Says the captions anew that were made of labels: those of clips whose only caption is [`caption::sound_of`] their labels.
    /// Underscores of labels become spaces. The default form, which is theirs already, leaves all as it is. Returns how many clips
    /// were changed.
    pub fn retell(&self, samples: &mut [Sample]) -> usize {
        if *self == Self::default() {
            return 0;
        }
        let mut told = 0;
        for sample in samples {
            if !sample.labels.is_empty() && sample.captions == [sound_of(&sample.labels)] {
                let labels: Vec<String> = sample.labels.iter().map(|label| readable(label)).collect();
                sample.captions = self.fill(&labels);
                told += 1;
            }
        }
        told
    }
}

impl FromStr for TagSentence {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "audioset" => Self::AudioSet,
            "fsd50k" => Self::Fsd50k,
            "us8k" => Self::UrbanSound8k,
            "epidemic" => Self::Epidemic,
            "paper" => Self::Paper,
            _ if text.contains(caption::LABELS) => Self::All(caption::template_of(text, caption::LABELS)?),
            _ if text.contains(caption::LABEL) => Self::Each(caption::template(text)?),
            _ => {
                let reason = format!(
                    "neither a template with {} or {} nor one of {}",
                    caption::LABELS,
                    caption::LABEL,
                    Self::NAMES.join(", ")
                );
                return Err(Error::Template { template: text.to_owned(), reason });
            }
        })
    }
}

/// "a", "a, and b", "a, b, and c".
fn join_with_comma(labels: &[impl AsRef<str>]) -> String {
    let mut text = String::new();
    for (at, label) in labels.iter().enumerate() {
        text += match at {
            0 => "",
            _ if at + 1 == labels.len() => ", and ",
            _ => ", ",
        };
        text += label.as_ref();
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::AudioSource;

    #[track_caller]
    fn check(form: &str, labels: &[&str], expected: &[&str]) {
        assert_eq!(form.parse::<TagSentence>().unwrap().fill(labels), expected, "{form}");
    }

    #[test]
    fn every_script_has_its_sentence() {
        check("audioset", &["Dog"], &["The sound of Dog"]);
        check("audioset", &["Dog", "Rain", "Wind"], &["The sounds of Dog, Rain and Wind"]);
        check("fsd50k", &["Dog"], &["The sounds of Dog"]);
        check("fsd50k", &["Dog", "Rain"], &["The sounds of Dog and Rain"]);
        check("us8k", &["dog bark"], &["The sound of dog bark."]);
        check("epidemic", &["wood", "fire", "crackle"], &["the sounds of wood, fire, and crackle."]);
        check("epidemic", &["wood"], &["the sounds of wood."]);
        check("paper", &["a", "b", "c"], &["The sound of a, b, and c"]);
        check("paper", &["a"], &["The sound of a"]);
        for form in TagSentence::NAMES {
            check(form, &[], &[]);
        }
    }

    #[test]
    fn templates_take_all_labels_or_each() {
        check("I hear {labels}!", &["a", "b", "c"], &["I hear a, b and c!"]);
        check("I hear {label}!", &["a", "b"], &["I hear a!", "I hear b!"]);
        check("{labels} {{x}}", &["{label}"], &["{label} {x}"]);
    }

    #[test]
    fn what_is_no_form_is_refused() {
        for text in ["fsd", "", "{labels} and {label}", "{labels} {name}", "{labels"] {
            let error = text.parse::<TagSentence>().unwrap_err().to_string();
            assert!(error.contains(&format!("`{text}`")), "{error}");
        }
    }

    #[test]
    fn only_sentences_made_of_labels_are_said_anew() {
        let sample = |captions: &[&str], labels: &[&str]| Sample {
            id: String::new(),
            audio: AudioSource::File("a.wav".into()),
            captions: captions.iter().map(ToString::to_string).collect(),
            labels: labels.iter().map(ToString::to_string).collect(),
            meta: Value::Null,
        };
        let mut samples = [
            sample(&["The sounds of big_dog and rain"], &["big_dog", "rain"]),
            sample(&["a dog in the rain"], &["big_dog", "rain"]),
            sample(&["The sound of rain", "it rains"], &["rain"]),
            sample(&["a dog"], &[]),
        ];
        let before = samples.clone();
        assert_eq!(TagSentence::default().retell(&mut samples), 0);
        assert_eq!(samples, before);
        assert_eq!(TagSentence::Paper.retell(&mut samples), 1);
        assert_eq!(samples[0].captions, ["The sound of big dog, and rain"]);
        assert_eq!(samples[1].captions, ["a dog in the rain"]);
        assert_eq!(samples[2].captions, ["The sound of rain", "it rains"]);
    }
}
