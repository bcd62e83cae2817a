//! Keywords as a keyword-to-caption model wants them.
//!
//! The default is what `keytotext` (gagan3012/keytotext, `keytotext/models.py`, the pipeline `k2t`) makes of a list: its printed form
//! without quotes and brackets, `|` for every comma, ` </s>` behind: `dog| rain </s>`. Its pipelines for `k2t-new` and
//! `mrm8488/t5-base-finetuned-common_gen` put spaces instead of `|`. That the paper used one of these is known, which one is not.

use crate::caption::{Template, readable, template_of};
use crate::{Error, Result};

/// Where the keywords stand in a template.
const KEYWORDS: &str = "{keywords}";

/// A prompt with a place for keywords, and what separates them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeywordPrompt {
    template: Template,
    separator: String,
}

impl Default for KeywordPrompt {
    fn default() -> Self {
        Self::new(Self::TEMPLATE, Self::SEPARATOR).expect("the default template has its place")
    }
}

impl KeywordPrompt {
    /// The prompt of `k2t`.
    pub const TEMPLATE: &'static str = "{keywords} </s>";
    /// What `k2t` has between keywords.
    pub const SEPARATOR: &'static str = "| ";

    /// A prompt of one's own; `{keywords}` in `template` stands for the keywords, which `separator` parts.
    ///
    /// # Errors
    /// [`Error::Template`] without `{keywords}`, or with other braces that are not doubled.
    pub fn new(template: &str, separator: &str) -> Result<Self> {
        if separator.chars().any(char::is_control) {
            let reason = "the separator has a control character".to_owned();
            return Err(Error::Template { template: template.to_owned(), reason });
        }
        Ok(Self { template: template_of(template, KEYWORDS)?, separator: separator.to_owned() })
    }

    /// The prompt for some keywords, or `None` where nothing is left of them.
    ///
    /// A comma parts keywords, as `keytotext` has it (`Male speech, man speaking` is two); quotes, brackets and underscores go.
    /// So do full stops: `keytotext` takes them for the end of a prompt and glues the captions of its pieces together.
    pub fn fill(&self, keywords: &[impl AsRef<str>]) -> Option<String> {
        let plain = |keyword: &str| {
            let text: String = keyword.chars().filter(|letter| !matches!(letter, '\'' | '’' | '[' | ']')).collect();
            readable(&text).replace('.', " ").split_whitespace().collect::<Vec<_>>().join(" ")
        };
        let parts = keywords.iter().flat_map(|keyword| keyword.as_ref().split(',').map(plain));
        let parts: Vec<String> = parts.filter(|part| !part.is_empty()).collect();
        (!parts.is_empty()).then(|| self.template.fill(&parts.join(&self.separator)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_keytotexts() {
        let prompt = KeywordPrompt::default();
        let fill = |keywords: &[&str]| prompt.fill(keywords);
        assert_eq!(fill(&["dog", "rain"]).unwrap(), "dog| rain </s>");
        assert_eq!(fill(&["Male speech, man speaking", "Dog"]).unwrap(), "Male speech| man speaking| Dog </s>");
        assert_eq!(
            fill(&["child's toy", "[x]", "big_dog", "U.S. siren"]).unwrap(),
            "childs toy| x| big dog| U S siren </s>"
        );
        assert_eq!(fill(&[]), None);
        assert_eq!(fill(&[" ", ".", ","]), None);
    }

    #[test]
    fn prompts_of_ones_own() {
        let prompt = KeywordPrompt::new("generate text with keywords: {keywords}", ", ").unwrap();
        assert_eq!(prompt.fill(&["dog", "rain"]).unwrap(), "generate text with keywords: dog, rain");
        for (template, separator) in [("no place", " "), ("{keyword}", " "), ("{keywords", " "), ("{keywords}", "\n")] {
            let error = KeywordPrompt::new(template, separator).unwrap_err().to_string();
            assert!(error.contains(template), "{error}");
        }
    }
}
