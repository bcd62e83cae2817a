//! Which of a clip's texts are its captions when shards carry augmented ones.
//!
//! The rule is `select_text` of LAION-CLAP's `training/data.py`, option `--text-augment-selection`. Where that program would stop
//! (a null `text_augment_all`, no `text_augment_t5` beside one that is there) `text` is taken.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The choice between a shard's own captions (`text`) and those a language model made of its keywords
/// (`text_augment_t5`, and `text_augment_all` = both).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TextAugment {
    /// `text` only.
    #[default]
    None,
    /// `text_augment_all` where a clip has it, else `text`.
    All,
    /// `text_augment_t5` where a clip has `text_augment_all` and the former is not null, else `text`.
    AugmentOnly,
}

impl TextAugment {
    /// The JSON field that holds the captions of a clip described by `fields`.
    pub(crate) fn key(self, fields: &Map<String, Value>) -> &'static str {
        let has = |name: &str| fields.get(name).is_some_and(|value| !value.is_null());
        let (has_all, has_t5) = (has("text_augment_all"), has("text_augment_t5"));
        match self {
            Self::All if has_all => "text_augment_all",
            Self::AugmentOnly if has_all && has_t5 => "text_augment_t5",
            Self::None | Self::All | Self::AugmentOnly => "text",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(selection: TextAugment, fields: &str, expected: &str) {
        assert_eq!(selection.key(&serde_json::from_str(fields).unwrap()), expected, "{fields}");
    }

    #[test]
    fn selection_follows_the_reference() {
        let both = r#"{"text": "a", "text_augment_t5": "b", "text_augment_all": ["a", "b"]}"#;
        let null = r#"{"text": "a", "text_augment_t5": null, "text_augment_all": ["a"]}"#;
        let lone = r#"{"text": "a", "text_augment_t5": "b"}"#;
        let neither = r#"{"text": ["a"]}"#;
        let half = r#"{"text": "a", "text_augment_all": ["a", "b"]}"#;
        let nulls = r#"{"text": "a", "text_augment_t5": null, "text_augment_all": null}"#;
        for fields in [both, null, lone, neither, half, nulls] {
            check(TextAugment::None, fields, "text");
        }
        check(TextAugment::All, both, "text_augment_all");
        check(TextAugment::All, null, "text_augment_all");
        check(TextAugment::All, lone, "text");
        for fields in [neither, nulls] {
            check(TextAugment::All, fields, "text");
        }
        for fields in [neither, half, nulls] {
            check(TextAugment::AugmentOnly, fields, "text");
        }
        check(TextAugment::All, half, "text_augment_all");
        check(TextAugment::AugmentOnly, both, "text_augment_t5");
        check(TextAugment::AugmentOnly, null, "text");
        check(TextAugment::AugmentOnly, lone, "text");
    }
}
