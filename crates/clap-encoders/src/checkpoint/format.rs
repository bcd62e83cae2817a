//! Whose key names a file carries, told from the keys themselves, and Hugging Face's names for them.

use super::laion::{self, HfKeys, MODULE};
use super::{audio_set, open_clip, t5, text_tower};

/// Whose key names a file carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `transformers.ClapModel`.
    HuggingFace,
    /// `laion_clap`.
    Laion,
    /// `open_clip.CLAP`.
    OpenClip,
    /// An audio tower alone, as the programs that train it on AudioSet save it: HTS-AT's and PANNs'.
    AudioSet,
    /// A text tower alone, as `transformers` saves it.
    Text,
    /// A T5 of `transformers`, which writes captions.
    T5,
}

impl Format {
    /// The program, or the kind of file, for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::HuggingFace => "Hugging Face",
            Self::Laion => "LAION",
            Self::OpenClip => "open_clip",
            Self::AudioSet => "AudioSet",
            Self::Text => "text model",
            Self::T5 => "T5",
        }
    }
}

/// The key names of one file.
#[derive(Debug)]
pub(super) enum Names {
    HuggingFace,
    Laion,
    OpenClip,
    AudioSet,
    Text(text_tower::Root),
    T5(t5::Table),
}

impl Names {
    /// Those that `keys` carry; what is nobody else's is taken for Hugging Face's.
    pub(super) fn of(keys: &[&str]) -> Self {
        let bare: Vec<&str> = keys.iter().map(|key| key.strip_prefix(MODULE).unwrap_or(key)).collect();
        let any = |root: &str| bare.iter().any(|key| key.starts_with(root));
        if laion::is_laion(keys.iter().copied()) {
            Self::Laion
        } else if open_clip::is_open_clip(&bare) {
            Self::OpenClip
        } else if any("audio_model.") || any("audio_projection.") {
            Self::HuggingFace
        } else if audio_set::is_audio_set(&bare) {
            Self::AudioSet
        } else if t5::is_t5(&bare) {
            Self::T5(t5::Table::of(&bare))
        } else {
            text_tower::Root::of(&bare).map_or(Self::HuggingFace, Self::Text)
        }
    }

    pub(super) fn format(&self) -> Format {
        match self {
            Self::HuggingFace => Format::HuggingFace,
            Self::Laion => Format::Laion,
            Self::OpenClip => Format::OpenClip,
            Self::AudioSet => Format::AudioSet,
            Self::Text(_) => Format::Text,
            Self::T5(_) => Format::T5,
        }
    }

    /// Hugging Face's name(s) of a key of the file.
    pub(super) fn hf_keys(&self, key: &str) -> HfKeys {
        let bare = key.strip_prefix(MODULE).unwrap_or(key);
        match self {
            Self::HuggingFace => HfKeys::One(key.to_owned()),
            Self::Laion => laion::hf_keys(key),
            Self::OpenClip => open_clip::hf_keys(bare),
            Self::AudioSet => audio_set::hf_keys(bare),
            Self::Text(root) => HfKeys::One(root.hf_key(bare)),
            Self::T5(table) => HfKeys::One(table.hf_key(bare)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(keys: &[&str], expected: Format) {
        assert_eq!(Names::of(keys).format(), expected, "{keys:?}");
    }

    #[test]
    fn every_program_is_told_by_its_keys() {
        check(&["audio_model.audio_encoder.norm.bias", "text_model.pooler.dense.bias"], Format::HuggingFace);
        check(&["module.audio_branch.bn0.weight", "module.text_branch.pooler.dense.bias"], Format::Laion);
        check(&["audio.encoder.bn0.weight", "text.transformer.pooler.dense.bias", "logit_scale"], Format::OpenClip);
        check(&["sed_model.patch_embed.proj.weight", "sed_model.bn0.weight"], Format::AudioSet);
        check(&["bn0.weight", "conv_block1.conv1.weight", "fc_audioset.bias"], Format::AudioSet);
        check(&["module.bn0.weight", "module.conv_block1.conv1.weight"], Format::AudioSet);
        check(&["roberta.embeddings.word_embeddings.weight", "lm_head.bias"], Format::Text);
        check(&["embeddings.word_embeddings.weight", "pooler.dense.bias"], Format::Text);
        check(&["model.encoder.embed_tokens.weight", "model.shared.weight"], Format::Text);
        check(&["text_model.embeddings.token_embedding.weight", "vision_model.post_layernorm.bias"], Format::Text);
        check(&["shared.weight", "encoder.block.0.layer.0.SelfAttention.q.weight"], Format::T5);
        check(&["a", "b.weight"], Format::HuggingFace);
    }
}
