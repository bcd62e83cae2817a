//! Captions made from labels: templates, LAION's two sentences, and the draw of one caption among several.
//!
//! The sentences are those of laion-audio-630k's preprocessing scripts for data that has tags only (the paper, arXiv
//! 2211.06687, section 2.3): "The sound of a" for one label, "The sounds of a, b and c" for several. The zero-shot
//! prompt of the paper's evaluation is "This is a sound of {label}".

use std::collections::BTreeMap;

use rand::Rng;

use crate::{Error, Result};

/// A sentence with places for a label; see [`template`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// The text before, between and after the places.
    pieces: Vec<String>,
}

/// Where one label stands in a template.
pub(crate) const LABEL: &str = "{label}";
/// Where all labels stand.
pub(crate) const LABELS: &str = "{labels}";

/// Reads a template such as `this is a sound of {label}`.
///
/// `{label}` stands for the label and may occur more than once; `{{` and `}}` stand for a brace. A label is put in as it
/// is: braces inside it mean nothing.
///
/// # Errors
/// [`Error::Template`] for any other brace, and for a template without `{label}`.
pub fn template(pattern: &str) -> Result<Template> {
    template_of(pattern, LABEL)
}

/// As [`template`], with another word between the braces of `place`.
pub(crate) fn template_of(pattern: &str, place: &str) -> Result<Template> {
    let fail = |reason: String| Error::Template { template: pattern.to_owned(), reason };
    let mut pieces = vec![String::new()];
    let mut rest = pattern;
    while let Some(at) = rest.find(['{', '}']) {
        let (text, tail) = rest.split_at(at);
        let piece = pieces.last_mut().expect("the list starts with one piece and only grows");
        piece.push_str(text);
        rest = if let Some(tail) = tail.strip_prefix("{{") {
            piece.push('{');
            tail
        } else if let Some(tail) = tail.strip_prefix("}}") {
            piece.push('}');
            tail
        } else if let Some(tail) = tail.strip_prefix(place) {
            pieces.push(String::new());
            tail
        } else {
            return Err(fail(format!("only {place} stands between braces; write {{{{ or }}}} for a brace")));
        };
    }
    pieces.last_mut().expect("the list starts with one piece and only grows").push_str(rest);
    if pieces.len() == 1 {
        return Err(fail(format!("it has no {place}")));
    }
    Ok(Template { pieces })
}

impl Template {
    /// The sentence for one label, or for several that [`join`] put together.
    pub fn fill(&self, label: &str) -> String {
        self.pieces.join(label)
    }
}

/// "a", "a and b", "a, b and c": the list of a sentence, without the comma before "and", as LAION's scripts have it.
pub fn join(labels: &[impl AsRef<str>]) -> String {
    match labels {
        [] => String::new(),
        [only] => only.as_ref().to_owned(),
        [head @ .., last] => {
            let head: Vec<&str> = head.iter().map(AsRef::as_ref).collect();
            format!("{} and {}", head.join(", "), last.as_ref())
        }
    }
}

/// LAION's caption for tags: "The sound of a", "The sounds of a, b and c"; the empty string for no label. Other data sets' forms
/// of it are in [`crate::TagSentence`].
pub fn sound_of(labels: &[impl AsRef<str>]) -> String {
    match labels {
        [] => String::new(),
        [only] => format!("The sound of {}", only.as_ref()),
        several => format!("The sounds of {}", join(several)),
    }
}

/// A class name as words: `Crash_cymbal` becomes `Crash cymbal`, as ESC-50's and FSD50K's prompts need it.
pub fn readable(label: &str) -> String {
    label.replace('_', " ")
}

/// A class as words: the phrase that stands for it, else its name made [`readable`].
pub(crate) fn phrase(phrases: &BTreeMap<String, String>, class: &str) -> String {
    phrases.get(class).cloned().unwrap_or_else(|| readable(class))
}

/// One caption, each equally likely; `None` when there are none. A single caption costs no randomness.
pub fn draw<'a>(captions: &'a [String], rng: &mut impl Rng) -> Option<&'a str> {
    match captions {
        [] => None,
        [only] => Some(only),
        // u32, so that a seed draws the same caption on 32-bit and 64-bit machines.
        several => {
            let count = u32::try_from(several.len()).unwrap_or(u32::MAX);
            Some(&several[rng.random_range(0..count) as usize])
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn check(pattern: &str, label: &str, expected: &str) {
        assert_eq!(template(pattern).unwrap().fill(label), expected);
    }

    #[test]
    fn templates_put_the_label_in_its_places() {
        check("this is a sound of {label}", "rain", "this is a sound of rain");
        check("{label}, just {label}", "rain", "rain, just rain");
        check("{label}", "a {label}", "a {label}");
    }

    #[test]
    fn doubled_braces_are_braces() {
        check("{{{label}}}", "rain", "{rain}");
        check("{{label}} {label}", "rain", "{label} rain");
    }

    #[test]
    fn other_braces_are_refused() {
        for pattern in ["a {name}", "a {label", "a } {label}", "no place", "", "{{label}}"] {
            let error = template(pattern).unwrap_err().to_string();
            assert!(error.contains(pattern), "{error}");
        }
    }

    #[test]
    fn laion_sentences() {
        assert_eq!(sound_of(&["dog"]), "The sound of dog");
        assert_eq!(sound_of(&["dog", "rain"]), "The sounds of dog and rain");
        assert_eq!(sound_of(&["dog", "rain", "wind"]), "The sounds of dog, rain and wind");
        assert_eq!(sound_of(&[] as &[&str]), "");
        assert_eq!(readable("Crash_cymbal"), "Crash cymbal");
    }

    #[test]
    fn every_caption_is_drawn_about_equally_often() {
        let captions: Vec<String> = ["a", "b", "c"].map(str::to_owned).to_vec();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut counts = [0usize; 3];
        for _ in 0..3000 {
            let drawn = draw(&captions, &mut rng).unwrap();
            counts[captions.iter().position(|caption| caption == drawn).unwrap()] += 1;
        }
        assert!(counts.iter().all(|count| (900..1100).contains(count)), "{counts:?}");
        assert_eq!(draw(&[], &mut rng), None);
    }
}
