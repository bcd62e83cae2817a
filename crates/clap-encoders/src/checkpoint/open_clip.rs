//! Key names of `open_clip`'s CLAP models.
//!
//! Source: mlfoundations/open_clip 89fb801 `audio/convert.py`, `clap_model.py`, `audio/tower.py`, `hf_model.py`. The audio
//! tower's names are LAION's below another root. There is one temperature, which serves both directions, and both of ours are it.

use super::laion::{self, AUDIO_BRANCH, HfKeys};

const AUDIO: &str = "audio.encoder.";

/// Beginnings of keys, open_clip's and Hugging Face's. The layers of a projection are 0 and 2, its activation being 1.
const ROOTS: [(&str, &str); 5] = [
    ("audio.proj.0.", "audio_projection.linear1."),
    ("audio.proj.2.", "audio_projection.linear2."),
    ("text.proj.0.", "text_projection.linear1."),
    ("text.proj.2.", "text_projection.linear2."),
    ("text.transformer.", "text_model."),
];

const SCALE: &str = "logit_scale";
const SCALES: [&str; 2] = ["logit_scale_a", "logit_scale_t"];

/// True where `keys`, without the prefix of parallel training, are those of an open_clip CLAP model.
pub(super) fn is_open_clip(keys: &[&str]) -> bool {
    keys.iter().any(|key| key.starts_with(AUDIO))
}

/// Hugging Face's name(s) of a key. A key that open_clip's CLAP does not use comes back as it is.
pub(super) fn hf_keys(key: &str) -> HfKeys {
    if key == SCALE {
        return HfKeys::Both(SCALES.map(str::to_owned));
    }
    if let Some(rest) = key.strip_prefix(AUDIO) {
        return laion::hf_keys(&format!("{AUDIO_BRANCH}{rest}"));
    }
    let renamed = ROOTS.iter().find_map(|(from, to)| Some(format!("{to}{}", key.strip_prefix(from)?)));
    HfKeys::One(renamed.unwrap_or_else(|| key.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_hugging_faces() {
        for (key, hf) in [
            ("audio.encoder.bn0.running_mean", "audio_model.audio_encoder.batch_norm.running_mean"),
            (
                "audio.encoder.layers.2.blocks.5.mlp.fc1.bias",
                "audio_model.audio_encoder.layers.2.blocks.5.intermediate.dense.bias",
            ),
            ("audio.encoder.patch_embed.mel_conv2d.weight", "audio_model.audio_encoder.patch_embed.mel_conv2d.weight"),
            ("audio.encoder.logmel_extractor.melW", "audio_model.audio_encoder.logmel_extractor.melW"),
            ("audio.proj.2.bias", "audio_projection.linear2.bias"),
            ("text.proj.0.weight", "text_projection.linear1.weight"),
            ("text.transformer.embeddings.LayerNorm.weight", "text_model.embeddings.LayerNorm.weight"),
            ("logit_bias", "logit_bias"),
        ] {
            assert_eq!(hf_keys(key), HfKeys::One(hf.to_owned()));
        }
        assert!(matches!(hf_keys("audio.encoder.layers.0.blocks.0.attn.qkv.weight"), HfKeys::Thirds(_)));
        assert_eq!(hf_keys("logit_scale"), HfKeys::Both(["logit_scale_a".to_owned(), "logit_scale_t".to_owned()]));
    }
}
