//! Key names of text towers as `transformers` saves them by themselves: `BertModel`, `RobertaModel`, `BartModel`,
//! `CLIPTextModel`, with or without the head of a task.
//!
//! Source: transformers 4.57.6 `modeling_utils.py` (`base_model_prefix`, and the old names of a layer norm's weights).

/// What a text model's first table is called, below its root.
const TABLES: [&str; 4] =
    ["embeddings.word_embeddings.weight", "encoder.embed_tokens.weight", "embeddings.token_embedding.weight", SHARED];

/// BART's table, which its encoder and decoder share: a file may hold it under this name alone.
const SHARED: &str = "shared.weight";
const ENCODERS: &str = "encoder.embed_tokens.weight";

/// Names of a layer norm's weights in files of 2018 and 2019, and today's.
const OLD_NAMES: [(&str, &str); 2] = [(".gamma", ".weight"), (".beta", ".bias")];

/// Where a model has its text tower.
const TEXT_MODEL: &str = "text_model.";

/// Where the tower lies in a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Root {
    /// What stands before each of its keys: `roberta.`, `bert.`, `model.`, `text_model.` or nothing.
    prefix: String,
    /// The token table is there under the name that BART's encoder and decoder share, and under no other.
    shares: bool,
}

impl Root {
    /// The root of the tower that `keys` hold, or `None` where they hold none.
    pub(super) fn of(keys: &[&str]) -> Option<Self> {
        let (table, prefix) = TABLES.iter().find_map(|table| {
            let prefix = keys.iter().find_map(|key| key.strip_suffix(table))?;
            (prefix.is_empty() || prefix.ends_with('.')).then_some((*table, prefix))
        })?;
        Some(Self { prefix: prefix.to_owned(), shares: table == SHARED })
    }

    /// Hugging Face's CLAP name of a key. One that lies elsewhere, as the head of a task does, comes back as it is.
    pub(super) fn hf_key(&self, key: &str) -> String {
        let Some(rest) = key.strip_prefix(&self.prefix) else { return key.to_owned() };
        let rest = if self.shares && rest == SHARED { ENCODERS } else { rest };
        let old = OLD_NAMES.iter().find_map(|(old, new)| Some(format!("{}{new}", rest.strip_suffix(old)?)));
        format!("{TEXT_MODEL}{}", old.as_deref().unwrap_or(rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_what_stands_before_the_table() {
        let hf = |table: &str, key: &str| Root::of(&[table]).unwrap().hf_key(key);
        let pooler = "text_model.pooler.dense.bias";
        assert_eq!(hf("embeddings.word_embeddings.weight", "pooler.dense.bias"), pooler);
        assert_eq!(hf("bert.embeddings.word_embeddings.weight", "bert.pooler.dense.bias"), pooler);
        assert_eq!(hf("roberta.embeddings.word_embeddings.weight", "lm_head.bias"), "lm_head.bias");
        let clip = "text_model.embeddings.token_embedding.weight";
        assert_eq!(hf(clip, clip), clip);
        assert_eq!(Root::of(&["no.such.table.weight"]), None);
    }

    #[test]
    fn old_names_of_layer_norms_are_todays() {
        let root = Root::of(&["bert.embeddings.word_embeddings.weight"]).unwrap();
        assert_eq!(root.hf_key("bert.embeddings.LayerNorm.gamma"), "text_model.embeddings.LayerNorm.weight");
        assert_eq!(root.hf_key("bert.embeddings.LayerNorm.beta"), "text_model.embeddings.LayerNorm.bias");
    }

    #[test]
    fn a_shared_table_is_the_encoders_where_that_has_none() {
        let encoders = "text_model.encoder.embed_tokens.weight";
        assert_eq!(Root::of(&["model.shared.weight"]).unwrap().hf_key("model.shared.weight"), encoders);
        let root = Root::of(&["shared.weight", "encoder.embed_tokens.weight"]).unwrap();
        assert_eq!(root.hf_key("shared.weight"), "text_model.shared.weight");
    }
}
