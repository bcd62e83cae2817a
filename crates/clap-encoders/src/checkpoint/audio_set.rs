//! Key names of audio towers that were trained on AudioSet, before there was a CLAP.
//!
//! Source: RetroCirce/HTS-Audio-Transformer `sed_model.py` (`sed_model.` before every key, of HTS-AT and of its PANNs alike);
//! qiuqiangkong/audioset_tagging_cnn `pytorch/models.py` (no prefix). Below it the names are LAION's, whose program was made of both.

use super::laion::{self, AUDIO_BRANCH, HfKeys};

/// Prefix of HTS-AT's training program.
const SED_MODEL: &str = "sed_model.";

/// First convolutions of the towers, and the norm that both have.
const FIRST: [&str; 2] = ["patch_embed.proj.weight", "conv_block1.conv1.weight"];
const NORM: &str = "bn0.weight";

/// True where `keys`, without the prefix of parallel training, are those of an audio tower alone.
pub(super) fn is_audio_set(keys: &[&str]) -> bool {
    let has = |key: &str| keys.contains(&key);
    keys.iter().any(|key| key.starts_with(SED_MODEL)) || (has(NORM) && FIRST.iter().any(|key| has(key)))
}

/// Hugging Face's name(s) of a key.
pub(super) fn hf_keys(key: &str) -> HfKeys {
    let key = key.strip_prefix(SED_MODEL).unwrap_or(key);
    laion::hf_keys(&format!("{AUDIO_BRANCH}{key}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn towers_lie_where_a_model_has_them() {
        let one = |key: &str, hf: &str| {
            assert_eq!(hf_keys(key), HfKeys::One(format!("audio_model.audio_encoder.{hf}")));
        };
        one("sed_model.bn0.running_var", "batch_norm.running_var");
        one("sed_model.layers.0.blocks.1.norm1.weight", "layers.0.blocks.1.layernorm_before.weight");
        one("sed_model.tscam_conv.bias", "tscam_conv.bias");
        one("conv_block6.bn2.weight", "conv_block6.bn2.weight");
        one("fc_audioset.weight", "fc_audioset.weight");
        let HfKeys::Thirds(thirds) = hf_keys("sed_model.layers.0.blocks.0.attn.qkv.bias") else { panic!("one tensor") };
        assert_eq!(thirds[1], "audio_model.audio_encoder.layers.0.blocks.0.attention.self.key.bias");
    }
}
