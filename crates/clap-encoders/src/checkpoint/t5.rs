//! Key names of T5 as `transformers` saves it: its own, but for copies of the table that encoder, decoder and output layer share.
//!
//! Source: transformers 4.57.6 `modeling_t5.py` (`_tied_weights_keys`, `_keys_to_ignore_on_load_unexpected`). A safetensors file
//! has one of the copies, a `pytorch_model.bin` all of them; some of 2020 have a position bias that no layer uses.

/// What the keys of no other model end with.
const MARK: &str = ".SelfAttention.q.weight";

/// The table and its copies, best first.
const TABLES: [&str; 4] = [SHARED, "encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"];
const SHARED: &str = "shared.weight";

/// Of them, what is no weight of its own; the output layer is one where the table is not tied to it.
const COPIES: [&str; 3] = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"];
const UNUSED_BIAS: &str = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight";

/// True where `keys` are those of a T5.
pub(super) fn is_t5(keys: &[&str]) -> bool {
    keys.iter().any(|key| key.ends_with(MARK))
}

/// True where a key may be in a file without being in the model.
pub(super) fn is_ignorable(key: &str) -> bool {
    COPIES.contains(&key) || key == UNUSED_BIAS
}

/// The name under which a file has the table.
#[derive(Debug)]
pub(super) struct Table(Option<&'static str>);

impl Table {
    /// The best of the names that are among `keys`.
    pub(super) fn of(keys: &[&str]) -> Self {
        Self(TABLES.into_iter().find(|table| keys.contains(table)))
    }

    /// `transformers`' name of a key.
    pub(super) fn hf_key(&self, key: &str) -> String {
        if self.0 == Some(key) { SHARED.to_owned() } else { key.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_found_under_any_of_its_names() {
        for (keys, expected) in [
            (&["encoder.embed_tokens.weight", "shared.weight"][..], "encoder.embed_tokens.weight"),
            (&["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"], "shared.weight"),
        ] {
            assert_eq!(Table::of(keys).hf_key("encoder.embed_tokens.weight"), expected, "{keys:?}");
        }
    }

    #[test]
    fn copies_are_no_weights_of_their_own() {
        assert!(is_ignorable("lm_head.weight") && is_ignorable(UNUSED_BIAS));
        assert!(!is_ignorable("shared.weight"));
        assert!(
            is_t5(&["decoder.block.0.layer.0.SelfAttention.q.weight"])
                && !is_t5(&["encoder.layers.0.self_attn.q.weight"])
        );
    }
}
