//! De-biasing: words that say a person's sex become words that do not, as the paper does to generated captions (arXiv 2211.06687,
//! section 2.3; LAION-AI/CLAP#84: "woman" and "man" → "person", "her" and "his" → "their").
//!
//! The words are in `debias.csv`, beside this file, one a row: the word, what stands for it, and optionally words (`.` for the end of
//! a clause) before which something else stands for it, possibly nothing. What was decided there, since nobody published it:
//!
//! - "he" and "she" become "the person", not "they", so that the verb stays right: "she sings" → "the person sings".
//! - "her" is "their" before a noun and "them" elsewhere; a preposition, conjunction, article or auxiliary verb, or the end of the
//!   clause is taken for the latter. "his" at the end of a clause is "theirs".
//! - "male" and "female" are left out before voices and persons ("a male voice" → "a voice") and are "person" elsewhere.
//! - Words of kinship ("mother") and titles ("queen") stay: they say more than a sex.
//!
//! Whole words only; a word joined to another by a hyphen or an underscore is another word ("man-made"). Case is kept: "Woman" →
//! "Person", "WOMAN" → "PERSON". An article before a word that changed is made to fit, "a" or "an". "'s" stays behind the word.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use crate::sample::dedupe;
use crate::{Error, Result, Sample};

/// How often each word, in lower case, was replaced.
pub type DebiasCounts = BTreeMap<String, usize>;

/// The list of this repository.
const LIST: &str = include_str!("debias.csv");

/// The entry of `next` that stands for the end of a clause.
const END: &str = ".";

/// What stands for which words.
#[derive(Debug, Clone)]
pub struct Debias {
    words: HashMap<String, Replacement>,
}

#[derive(Debug, Clone, Default)]
struct Replacement {
    usual: String,
    /// Before these words,
    next: HashSet<String>,
    /// this.
    instead: String,
}

impl Default for Debias {
    /// The list of this repository.
    fn default() -> Self {
        Self::parse(LIST.as_bytes()).expect("the list is well formed; a test reads it")
    }
}

impl Debias {
    /// Reads a list of one's own: a CSV file with the columns `word`, `replacement`, and for words that depend on the next one
    /// `next` and `instead`.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be read or is no such list.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|cause| Error::io(path, cause))?;
        Self::parse(&bytes).map_err(|error| Error::io(path, std::io::Error::other(error)))
    }

    fn parse(list: &[u8]) -> std::result::Result<Self, csv::Error> {
        let mut words = HashMap::new();
        for row in csv::Reader::from_reader(list).deserialize() {
            let (word, usual, next, instead): (String, String, String, String) = row?;
            let next = next.split_whitespace().map(str::to_lowercase).collect();
            words.insert(word.to_lowercase(), Replacement { usual, next, instead });
        }
        Ok(Self { words })
    }

    /// The text with its words replaced, each counted.
    pub fn text(&self, text: &str, counts: &mut DebiasCounts) -> String {
        let tokens = tokens(text);
        let mut out = String::with_capacity(text.len());
        let mut copied = 0;
        for (at, token) in tokens.iter().enumerate() {
            let Some(found) = self.look_up(&text[token.start..token.end]) else { continue };
            let Found { word, replacement, possessive } = found;
            let following =
                tokens.get(at + 1).filter(|next| text[token.end..next.start].chars().all(char::is_whitespace));
            let next = following.map_or(END.to_owned(), |next| text[next.start..next.end].to_lowercase());
            let stands = if possessive.is_empty() && replacement.next.contains(&next) {
                &replacement.instead
            } else {
                &replacement.usual
            };
            *counts.entry(word).or_default() += 1;
            out.push_str(&text[copied..token.start]);
            copied = token.end;
            if stands.is_empty() {
                // The next word takes its place, with its case at the beginning of a sentence.
                copied = following.map_or(token.end, |next| next.start);
                fit_article(&mut out, &text[copied..]);
                let is_first = !out.trim_end().ends_with(char::is_alphanumeric);
                let mut letters = text[copied..].chars();
                if is_first
                    && text[token.start..].starts_with(char::is_uppercase)
                    && let Some(first) = letters.next()
                {
                    out.extend(first.to_uppercase());
                    copied = text.len() - letters.as_str().len();
                }
                continue;
            }
            let stands = in_case_of(&text[token.start..token.end - possessive.len()], stands);
            fit_article(&mut out, &stands);
            out.push_str(&stands);
            out.push_str(possessive);
            // "the boys' voices" → "the children's voices"
            let rest = &text[token.end..];
            if let Some(behind) = rest.strip_prefix(['\'', '’'])
                && text[..token.end].ends_with(['s', 'S'])
                && !stands.to_lowercase().ends_with('s')
                && behind.starts_with(' ')
            {
                out.push_str(&rest[..rest.len() - behind.len()]);
                out.push('s');
                copied = text.len() - behind.len();
            }
        }
        out.push_str(&text[copied..]);
        out
    }

    /// Replaces the words of all captions; captions of a clip that become alike are one. Labels stay: they name classes.
    pub fn samples(&self, samples: &mut [Sample]) -> DebiasCounts {
        let mut counts = DebiasCounts::new();
        for sample in samples {
            for caption in &mut sample.captions {
                *caption = self.text(caption, &mut counts);
            }
            dedupe(&mut sample.captions);
        }
        counts
    }

    /// The entry of a word as it stands in a text, whole or without a possessive "'s".
    fn look_up<'a>(&self, token: &'a str) -> Option<Found<'a, '_>> {
        let word = token.to_lowercase().replace('’', "'");
        if let Some(replacement) = self.words.get(&word) {
            return Some(Found { word, replacement, possessive: "" });
        }
        let word = word.strip_suffix("'s")?.to_owned();
        let replacement = self.words.get(&word)?;
        let at = token.rfind(['\'', '’'])?;
        Some(Found { word, replacement, possessive: &token[at..] })
    }
}

struct Found<'t, 'l> {
    word: String,
    replacement: &'l Replacement,
    /// "'s", as it is written.
    possessive: &'t str,
}

/// Where a word lies in a text.
struct Token {
    start: usize,
    end: usize,
}

/// Runs of letters, digits and underscores; a hyphen or an apostrophe between two of them does not end one.
fn tokens(text: &str) -> Vec<Token> {
    let inner = |letter: char| letter.is_alphanumeric() || letter == '_';
    let mut tokens: Vec<Token> = Vec::new();
    let mut open = false;
    let mut letters = text.char_indices().peekable();
    while let Some((at, letter)) = letters.next() {
        let joins = open && matches!(letter, '-' | '\'' | '’') && letters.peek().is_some_and(|&(_, next)| inner(next));
        if !inner(letter) && !joins {
            open = false;
            continue;
        }
        let end = at + letter.len_utf8();
        match tokens.last_mut().filter(|_| open) {
            Some(token) => token.end = end,
            None => tokens.push(Token { start: at, end }),
        }
        open = true;
    }
    tokens
}

/// `replacement` in the case of `original`: all capitals, a capital at the beginning, or as it is.
fn in_case_of(original: &str, replacement: &str) -> String {
    let mut letters = original.chars().filter(|letter| letter.is_alphabetic());
    let is_capital = original.starts_with(char::is_uppercase);
    if is_capital && letters.clone().count() > 1 && letters.all(char::is_uppercase) {
        return replacement.to_uppercase();
    }
    let mut rest = replacement.chars();
    match rest.next() {
        Some(first) if is_capital => first.to_uppercase().chain(rest).collect(),
        _ => replacement.to_owned(),
    }
}

/// Makes an article at the end of `out` fit the word that follows: "a" before a consonant, "an" before a vowel.
fn fit_article(out: &mut String, following: &str) {
    let before = out.trim_end();
    if before.len() == out.len() {
        return;
    }
    let start = before
        .rfind(|letter: char| !letter.is_alphabetic())
        .map_or(0, |at| at + before[at..].chars().next().map_or(0, char::len_utf8));
    let (article, space) = (before[start..].to_owned(), out[before.len()..].to_owned());
    if !matches!(article.to_lowercase().as_str(), "a" | "an") {
        return;
    }
    let is_vowel = following.starts_with(['a', 'e', 'i', 'o', 'u', 'A', 'E', 'I', 'O', 'U']);
    let letter = &article[..1];
    let fitting = match (is_vowel, article.len() > 1 && article.ends_with('N')) {
        (false, _) => letter.to_owned(),
        (true, true) => format!("{letter}N"),
        (true, false) => format!("{letter}n"),
    };
    out.truncate(start);
    out.push_str(&fitting);
    out.push_str(&space);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(Debias::default().text(text, &mut DebiasCounts::new()), expected);
    }

    #[test]
    fn captions_of_the_papers_kind() {
        check("a woman is speaking while a man laughs", "a person is speaking while a person laughs");
        check("A man speaks and women are talking.", "A person speaks and people are talking.");
        check("Two girls giggle as a little boy cries", "Two children giggle as a little child cries");
        check("Man speaking, female singing", "Person speaking, person singing");
        check("A WOMAN SHOUTS", "A PERSON SHOUTS");
        check("the woman's voice and the men's choir", "the person's voice and the people's choir");
        check(
            "a dog barks at a manhole near Mannheim, woman_1, man-made",
            "a dog barks at a manhole near Mannheim, woman_1, man-made",
        );
        check("", "");
    }

    #[test]
    fn pronouns() {
        check("she sings and plays her guitar", "the person sings and plays their guitar");
        check("He is talking to himself.", "The person is talking to themselves.");
        check("a man listens to her", "a person listens to them");
        check("someone calls her and laughs", "someone calls them and laughs");
        check("someone gives her a hug, then her dog barks", "someone gives them a hug, then their dog barks");
        check("the voice is his, the other is hers.", "the voice is theirs, the other is theirs.");
        check("his horse follows him", "their horse follows them");
        check("She's laughing; he’ll stop", "The person is laughing; the person will stop");
    }

    #[test]
    fn a_sex_before_a_noun_goes() {
        check("a male voice speaks", "a voice speaks");
        check("Female speech, woman speaking", "Speech, person speaking");
        check("a male announcer and a female speaks", "an announcer and a person speaks");
        check("An adult male is talking to females", "An adult person is talking to people");
        check("A female adult laughs", "An adult laughs");
        check("male", "person");
        check("It rains. Male voices sing", "It rains. Voices sing");
    }

    #[test]
    fn plural_possessives() {
        check("the boys' voices echo", "the children's voices echo");
        check("they said 'boys'", "they said 'children'");
        check("the girls’ choir", "the children’s choir");
    }

    #[test]
    fn texts_without_such_words_stay_as_they_are() {
        for text in
            ["Ein Herr – „höflich“ – spricht", "  spaces  stay ", "😀 \u{0}\t'", "the human mentions a hermit", "--'-’"]
        {
            check(text, text);
        }
    }

    #[test]
    fn what_is_replaced_is_counted() {
        let mut counts = DebiasCounts::new();
        Debias::default().text("A woman and a WOMAN's man; he", &mut counts);
        let counts: Vec<(&str, usize)> = counts.iter().map(|(word, count)| (word.as_str(), *count)).collect();
        assert_eq!(counts, [("he", 1), ("man", 1), ("woman", 2)]);
    }

    #[test]
    fn nothing_is_left_to_replace() {
        let debias = Debias::default();
        for (word, Replacement { usual, next, instead }) in &debias.words {
            for text in [usual, instead] {
                assert_eq!(debias.text(text, &mut DebiasCounts::new()), *text, "{word}");
            }
            // At the end of a clause something has to be left.
            assert!(!instead.is_empty() || !next.contains(END), "{word}");
            assert!(!usual.is_empty() && *word == word.to_lowercase(), "{word}");
        }
        assert!(debias.words.len() > 50);
    }

    #[test]
    fn captions_that_become_alike_are_one() {
        let mut samples = [Sample {
            id: String::new(),
            audio: crate::AudioSource::File("a.wav".into()),
            captions: ["a man speaks", "a woman speaks", "speech"].map(str::to_owned).to_vec(),
            labels: vec!["man".to_owned()],
            meta: serde_json::Value::Null,
        }];
        let counts = Debias::default().samples(&mut samples);
        assert_eq!(samples[0].captions, ["a person speaks", "speech"]);
        assert_eq!((samples[0].labels[0].as_str(), counts["man"], counts["woman"]), ("man", 1, 1));
    }

    #[test]
    fn a_list_of_ones_own() {
        let tree = crate::test_tree::Tree::new();
        tree.write("words.csv", "word,replacement,next,instead\nDog,animal,house .,\n");
        let debias = Debias::read(&tree.path("words.csv"));
        let text = |text: &str| debias.as_ref().unwrap().text(text, &mut DebiasCounts::new());
        assert_eq!(text("a dog barks"), "an animal barks");
        assert_eq!(text("a dog house"), "a house");
        // A list may leave a word out at the end of a clause.
        assert_eq!(text("bark, dog"), "bark, ");
        tree.write("words.csv", "word\nx\n");
        let error = Debias::read(&tree.path("words.csv")).unwrap_err().to_string();
        assert!(error.contains("words.csv"), "{error}");
    }
}
