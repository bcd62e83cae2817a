//! Key names of LAION's `.pt` checkpoints and their Hugging Face counterparts.
//!
//! Source: laion-clap 1.1.7 `model.py`, `htsat.py`; transformers `convert_clap_original_pytorch_to_hf.py`. The one structural
//! difference: LAION keeps query, key and value of a window attention as one `qkv` tensor, in that order. Checkpoints of
//! data-parallel runs carry the prefix `module.`.

use std::collections::HashMap;

use candle_core::{Result, Tensor};

use super::clip_text;

/// Prefix of data-parallel training.
pub(super) const MODULE: &str = "module.";

/// Where LAION has its audio tower.
pub(super) const AUDIO_BRANCH: &str = "audio_branch.";

/// Beginnings of keys, LAION's and Hugging Face's.
const ROOTS: [(&str, &str); 6] = [
    ("audio_projection.0.", "audio_projection.linear1."),
    ("audio_projection.2.", "audio_projection.linear2."),
    ("text_projection.0.", "text_projection.linear1."),
    ("text_projection.2.", "text_projection.linear2."),
    (AUDIO_BRANCH, AUDIO),
    ("text_branch.", "text_model."),
];

/// Parts of a Swin block, LAION's and Hugging Face's.
const BLOCK: [(&str, &str); 7] = [
    ("norm1.", "layernorm_before."),
    ("norm2.", "layernorm_after."),
    ("attn.proj.", "attention.output.dense."),
    ("attn.relative_position_bias_table", "attention.self.relative_position_bias_table"),
    ("attn.relative_position_index", "attention.self.relative_position_index"),
    ("mlp.fc1.", "intermediate.dense."),
    ("mlp.fc2.", "output.dense."),
];

/// The joined projection of LAION's blocks and the three of Hugging Face's.
const QKV: &str = "attn.qkv.";
const SELF: &str = "attention.self.";
const PARTS: [&str; 3] = ["query.", "key.", "value."];

/// Hugging Face's names for one tensor of another program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HfKeys {
    /// The same tensor under another name.
    One(String),
    /// The thirds of the tensor's first dimension: query, key, value.
    Thirds([String; 3]),
    /// The same tensor under two names.
    Both([String; 2]),
}

/// True where `keys` are those of a LAION checkpoint.
pub fn is_laion<'a>(keys: impl IntoIterator<Item = &'a str>) -> bool {
    keys.into_iter().any(|key| {
        let key = key.strip_prefix(MODULE).unwrap_or(key);
        key.starts_with(AUDIO_BRANCH) || key.starts_with("text_branch.")
    })
}

/// Hugging Face's name(s) of a LAION key. A key that LAION does not use comes back as it is.
#[must_use]
pub fn hf_keys(key: &str) -> HfKeys {
    let key = key.strip_prefix(MODULE).unwrap_or(key);
    if let Some(keys) = clip_text::hf_keys(key) {
        return keys;
    }
    let Some((root, rest)) = ROOTS.iter().find_map(|&(from, to)| Some((to, key.strip_prefix(from)?))) else {
        return HfKeys::One(key.to_owned());
    };
    if root != AUDIO {
        return HfKeys::One(format!("{root}{rest}"));
    }
    if let Some(rest) = rest.strip_prefix("bn0.") {
        return HfKeys::One(format!("{root}batch_norm.{rest}"));
    }
    let Some((block, part)) = split_block(rest) else {
        return HfKeys::One(format!("{root}{rest}"));
    };
    if let Some(leaf) = part.strip_prefix(QKV) {
        return HfKeys::Thirds(PARTS.map(|name| format!("{root}{block}{SELF}{name}{leaf}")));
    }
    let part = rename(part, BLOCK.iter().map(|&(from, to)| (from, to)));
    HfKeys::One(format!("{root}{block}{part}"))
}

/// LAION's name of a Hugging Face key, and which third of that tensor it is if it is one. CLIP's text tower has names of its own.
fn laion_key(key: &str) -> (String, Option<usize>) {
    let Some((root, rest)) = ROOTS.iter().find_map(|&(to, from)| Some((to, key.strip_prefix(from)?))) else {
        return (key.to_owned(), None);
    };
    if root != AUDIO_BRANCH {
        return (format!("{root}{rest}"), None);
    }
    if let Some(rest) = rest.strip_prefix("batch_norm.") {
        return (format!("{root}bn0.{rest}"), None);
    }
    let Some((block, part)) = split_block(rest) else {
        return (format!("{root}{rest}"), None);
    };
    let third = PARTS.iter().enumerate().find_map(|(i, name)| Some((i, part.strip_prefix(SELF)?.strip_prefix(name)?)));
    if let Some((i, leaf)) = third {
        return (format!("{root}{block}{QKV}{leaf}"), Some(i));
    }
    let part = rename(part, BLOCK.iter().map(|&(to, from)| (from, to)));
    (format!("{root}{block}{part}"), None)
}

/// Tensors under LAION's names → the same under Hugging Face's, `qkv` split.
///
/// # Errors
/// Where a `qkv` tensor has no thirds.
pub fn to_hf(tensors: &HashMap<String, Tensor>) -> Result<HashMap<String, Tensor>> {
    let mut out = HashMap::with_capacity(tensors.len());
    for (key, tensor) in tensors {
        match hf_keys(key) {
            HfKeys::One(key) => {
                out.insert(key, tensor.clone());
            }
            HfKeys::Thirds(keys) => {
                for (i, key) in keys.into_iter().enumerate() {
                    out.insert(key, third(tensor, i)?);
                }
            }
            HfKeys::Both(keys) => out.extend(keys.map(|key| (key, tensor.clone()))),
        }
    }
    Ok(out)
}

/// Tensors under Hugging Face's names → the same under LAION's, query, key and value joined. Gradients map like weights.
///
/// # Errors
/// Where one of query, key and value is missing, or they differ in shape.
pub fn to_laion(tensors: &HashMap<String, Tensor>) -> Result<HashMap<String, Tensor>> {
    let mut out = HashMap::with_capacity(tensors.len());
    let mut thirds: HashMap<String, [Option<Tensor>; 3]> = HashMap::new();
    let is_clip = clip_text::is_clip(tensors.keys().map(String::as_str));
    for (key, tensor) in tensors {
        let of_clip = if is_clip { clip_text::laion_key(key) } else { None };
        match of_clip.unwrap_or_else(|| laion_key(key)) {
            (key, None) => {
                out.insert(key, tensor.clone());
            }
            (key, Some(i)) => thirds.entry(key).or_default()[i] = Some(tensor.clone()),
        }
    }
    for (key, parts) in thirds {
        let [Some(q), Some(k), Some(v)] = &parts else {
            candle_core::bail!("{key}: query, key and value must all be there to be joined")
        };
        out.insert(key, Tensor::cat(&[q, k, v], 0)?);
    }
    Ok(out)
}

/// Third `i` of the first dimension.
pub(super) fn third(tensor: &Tensor, i: usize) -> Result<Tensor> {
    let rows = tensor.dim(0)?;
    if rows % 3 != 0 {
        candle_core::bail!("a joined query-key-value tensor of shape {:?} has no thirds", tensor.shape())
    }
    tensor.narrow(0, i * (rows / 3), rows / 3)?.contiguous()
}

const AUDIO: &str = "audio_model.audio_encoder.";

/// `layers.I.blocks.J.part` → (`layers.I.blocks.J.`, `part`).
fn split_block(rest: &str) -> Option<(&str, &str)> {
    let (stage, blocks) = rest.strip_prefix("layers.")?.split_once(".blocks.")?;
    let (block, part) = blocks.split_once('.')?;
    let number = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    (number(stage) && number(block)).then(|| rest.split_at(rest.len() - part.len()))
}

/// `part` with its beginning replaced by the first pair that has it.
fn rename<'a>(part: &str, pairs: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    for (from, to) in pairs {
        if let Some(rest) = part.strip_prefix(from) {
            return format!("{to}{rest}");
        }
    }
    part.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[track_caller]
    fn pair(laion: &str, hf: &str) {
        assert_eq!(hf_keys(laion), HfKeys::One(hf.to_owned()));
        assert_eq!(laion_key(hf), (laion.to_owned(), None));
    }

    #[test]
    fn names_map_both_ways() {
        pair("logit_scale_a", "logit_scale_a");
        pair("audio_branch.bn0.running_mean", "audio_model.audio_encoder.batch_norm.running_mean");
        pair("audio_branch.patch_embed.proj.weight", "audio_model.audio_encoder.patch_embed.proj.weight");
        pair(
            "audio_branch.patch_embed.fusion_model.global_att.4.bias",
            "audio_model.audio_encoder.patch_embed.fusion_model.global_att.4.bias",
        );
        pair("audio_branch.norm.weight", "audio_model.audio_encoder.norm.weight");
        pair("audio_branch.layers.0.downsample.norm.bias", "audio_model.audio_encoder.layers.0.downsample.norm.bias");
        let block = |part: &str| format!("audio_branch.layers.2.blocks.11.{part}");
        let hf = |part: &str| format!("audio_model.audio_encoder.layers.2.blocks.11.{part}");
        pair(&block("norm1.weight"), &hf("layernorm_before.weight"));
        pair(&block("norm2.bias"), &hf("layernorm_after.bias"));
        pair(&block("attn.proj.weight"), &hf("attention.output.dense.weight"));
        pair(&block("attn.relative_position_bias_table"), &hf("attention.self.relative_position_bias_table"));
        pair(&block("mlp.fc1.weight"), &hf("intermediate.dense.weight"));
        pair(&block("mlp.fc2.bias"), &hf("output.dense.bias"));
        pair("audio_projection.2.bias", "audio_projection.linear2.bias");
        pair("text_projection.0.weight", "text_projection.linear1.weight");
        pair(
            "text_branch.encoder.layer.3.attention.self.query.bias",
            "text_model.encoder.layer.3.attention.self.query.bias",
        );
    }

    #[test]
    fn the_prefix_of_parallel_training_is_dropped() {
        assert_eq!(hf_keys("module.text_branch.pooler.dense.bias"), HfKeys::One("text_model.pooler.dense.bias".into()));
        assert!(is_laion(["module.audio_branch.norm.bias"]) && !is_laion(["audio_model.audio_encoder.norm.bias"]));
    }

    #[test]
    fn joined_projections_are_split_and_joined() {
        let keys = hf_keys("audio_branch.layers.1.blocks.0.attn.qkv.bias");
        let name = |n| format!("audio_model.audio_encoder.layers.1.blocks.0.attention.self.{n}.bias");
        assert_eq!(keys, HfKeys::Thirds([name("query"), name("key"), name("value")]));
        assert_eq!(laion_key(&name("key")), ("audio_branch.layers.1.blocks.0.attn.qkv.bias".to_owned(), Some(1)));

        let qkv = Tensor::arange(0f32, 6., &Device::Cpu).unwrap();
        let laion = HashMap::from([("audio_branch.layers.1.blocks.0.attn.qkv.bias".to_owned(), qkv)]);
        let hf = to_hf(&laion).unwrap();
        assert_eq!(hf[&name("key")].to_vec1::<f32>().unwrap(), [2., 3.]);
        let again = to_laion(&hf).unwrap();
        let (key, tensor) = again.iter().next().unwrap();
        assert_eq!((again.len(), key), (1, laion.keys().next().unwrap()));
        assert_eq!(tensor.to_vec1::<f32>().unwrap(), [0., 1., 2., 3., 4., 5.]);
    }

    #[test]
    fn two_thirds_cannot_be_joined() {
        let hf = HashMap::from([(
            "audio_model.audio_encoder.layers.0.blocks.0.attention.self.key.bias".to_owned(),
            Tensor::zeros(2, candle_core::DType::F32, &Device::Cpu).unwrap(),
        )]);
        assert!(to_laion(&hf).unwrap_err().to_string().contains("qkv.bias"));
    }
}
