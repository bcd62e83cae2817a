//! Key names of LAION's CLIP text transformer, which lie partly at the root of its checkpoints, and `CLIPTextModel`'s.
//!
//! Source: laion-clap 1.1.7 `model.py` (`Transformer`, `token_embedding`, `positional_embedding`, `ln_final`); transformers
//! `CLIPTextModel`. LAION keeps query, key and value as one `in_proj` (`nn.MultiheadAttention`), in that order.

use super::laion::HfKeys;

/// Whole keys and beginnings of keys, LAION's and Hugging Face's.
const ROOTS: [(&str, &str); 3] = [
    ("token_embedding.weight", "text_model.embeddings.token_embedding.weight"),
    ("positional_embedding", "text_model.embeddings.position_embedding.weight"),
    ("ln_final.", "text_model.final_layer_norm."),
];

/// Beginnings of the keys of a layer, before its number.
const LAYERS: (&str, &str) = ("text_branch.resblocks.", "text_model.encoder.layers.");

/// Parts of a layer.
const PARTS: [(&str, &str); 5] = [
    ("attn.out_proj.", "self_attn.out_proj."),
    ("ln_1.", "layer_norm1."),
    ("ln_2.", "layer_norm2."),
    ("mlp.c_fc.", "mlp.fc1."),
    ("mlp.c_proj.", "mlp.fc2."),
];

/// The joined projection and the three.
const JOINED: &str = "attn.in_proj_";
const THIRDS: [&str; 3] = ["self_attn.q_proj.", "self_attn.k_proj.", "self_attn.v_proj."];

/// Hugging Face's name(s) of a LAION key, or `None` where it is no key of this tower.
pub(super) fn hf_keys(key: &str) -> Option<HfKeys> {
    if let Some(found) = ROOTS.iter().find_map(|(from, to)| Some(format!("{to}{}", key.strip_prefix(from)?))) {
        return Some(HfKeys::One(found));
    }
    let (layer, part) = key.strip_prefix(LAYERS.0)?.split_once('.')?;
    let name = |part: &str, leaf: &str| format!("{}{layer}.{part}{leaf}", LAYERS.1);
    if let Some(leaf) = part.strip_prefix(JOINED) {
        return Some(HfKeys::Thirds(THIRDS.map(|third| name(third, leaf))));
    }
    PARTS.iter().find_map(|(from, to)| Some(HfKeys::One(name(to, part.strip_prefix(from)?))))
}

/// LAION's name of a Hugging Face key and which third of that tensor it is, or `None` where it is no key of this tower.
pub(super) fn laion_key(key: &str) -> Option<(String, Option<usize>)> {
    if let Some(found) = ROOTS.iter().find_map(|(to, from)| Some(format!("{to}{}", key.strip_prefix(from)?))) {
        return Some((found, None));
    }
    let (layer, part) = key.strip_prefix(LAYERS.1)?.split_once('.')?;
    let name = |part: &str, leaf: &str| format!("{}{layer}.{part}{leaf}", LAYERS.0);
    let third = THIRDS.iter().enumerate().find_map(|(i, third)| Some((i, part.strip_prefix(third)?)));
    match third {
        Some((i, leaf)) => Some((name(JOINED, leaf), Some(i))),
        None => PARTS.iter().find_map(|(to, from)| Some((name(to, part.strip_prefix(from)?), None))),
    }
}

/// True where one of `keys`, Hugging Face's, is of this tower: BART's layers share some of their names.
pub(super) fn is_clip<'a>(keys: impl IntoIterator<Item = &'a str>) -> bool {
    keys.into_iter().any(|key| key.starts_with(LAYERS.1) && key.contains(".layer_norm1."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn pair(laion: &str, hf: &str) {
        assert_eq!(hf_keys(laion), Some(HfKeys::One(hf.to_owned())));
        assert_eq!(laion_key(hf), Some((laion.to_owned(), None)));
    }

    #[test]
    fn names_map_both_ways() {
        pair("token_embedding.weight", "text_model.embeddings.token_embedding.weight");
        pair("positional_embedding", "text_model.embeddings.position_embedding.weight");
        pair("ln_final.bias", "text_model.final_layer_norm.bias");
        pair("text_branch.resblocks.11.ln_1.weight", "text_model.encoder.layers.11.layer_norm1.weight");
        pair("text_branch.resblocks.0.mlp.c_proj.bias", "text_model.encoder.layers.0.mlp.fc2.bias");
        pair("text_branch.resblocks.0.attn.out_proj.bias", "text_model.encoder.layers.0.self_attn.out_proj.bias");
    }

    #[test]
    fn joined_projections_are_split_and_joined() {
        let name = |third: &str| format!("text_model.encoder.layers.3.self_attn.{third}_proj.weight");
        let joined = "text_branch.resblocks.3.attn.in_proj_weight";
        assert_eq!(hf_keys(joined), Some(HfKeys::Thirds(["q", "k", "v"].map(name))));
        assert_eq!(laion_key(&name("v")), Some((joined.to_owned(), Some(2))));
    }

    #[test]
    fn other_keys_are_left_alone() {
        for key in ["logit_scale_a", "text_branch.encoder.layers.0.fc1.weight", "text_branch.pooler.dense.bias"] {
            assert_eq!(hf_keys(key), None, "{key}");
        }
        assert!(is_clip(["logit_scale_a", "text_model.encoder.layers.0.layer_norm1.bias"]));
        assert!(!is_clip(["text_model.encoder.layers.0.self_attn_layer_norm.bias"]));
    }
}
