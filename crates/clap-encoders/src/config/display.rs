//! Towers in one line, for people.

use std::fmt;

use super::{AudioConfig, FusionType, HtsAtConfig, PannConfig, TextConfig, TextModelType};

impl fmt::Display for AudioConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HtsAt(config) => config.fmt(f),
            Self::Pann(config) => config.fmt(f),
        }
    }
}

impl fmt::Display for HtsAtConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "HTS-AT{}, width {} to {}, depths {}, heads {}, window {}, {} mel bins{}",
            self.size().map(|size| format!(" {size}")).unwrap_or_default(),
            self.patch_embeds_hidden_size,
            self.hidden_size,
            dashed(&self.depths),
            dashed(&self.num_attention_heads),
            self.window_size,
            self.num_mel_bins,
            fusion(self.fusion()),
        )
    }
}

impl HtsAtConfig {
    /// LAION's name of the size, where it has one.
    fn size(&self) -> Option<&'static str> {
        match (self.patch_embeds_hidden_size, &self.depths[..]) {
            (96, [2, 2, 6, 2]) => Some("tiny"),
            (128, [2, 2, 12, 2]) => Some("base"),
            (256, [2, 2, 12, 2]) => Some("large"),
            _ => None,
        }
    }
}

impl fmt::Display for PannConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let layers = self.block_widths.len() * self.convolutions_per_block;
        write!(
            f,
            "PANN, {layers} convolutions of {k}x{k}, widths {}, {} mel bins{}",
            dashed(&self.block_widths),
            self.num_mel_bins,
            fusion(self.fusion()),
            k = self.kernel_size,
        )
    }
}

impl fmt::Display for TextConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, {} layers, width {}, {} heads, {} tokens, vocabulary of {}",
            match self.model_type {
                TextModelType::Roberta => "RoBERTa",
                TextModelType::Bert => "BERT",
                TextModelType::Clip => "CLIP's transformer",
                TextModelType::Bart => "BART's encoder",
            },
            self.num_hidden_layers,
            self.hidden_size,
            self.num_attention_heads,
            self.max_tokens(),
            self.vocab_size,
        )
    }
}

impl fmt::Display for FusionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Its name in configurations.
        serde::Serialize::serialize(self, f)
    }
}

fn fusion(fusion: Option<FusionType>) -> String {
    fusion.map(|fusion| format!(", fused by {fusion}")).unwrap_or_default()
}

/// `2-2-6-2`.
fn dashed(values: &[usize]) -> String {
    values.iter().map(usize::to_string).collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn towers_are_told_in_a_line() {
        let tiny = HtsAtConfig { enable_fusion: true, ..HtsAtConfig::default() };
        assert_eq!(
            AudioConfig::from(tiny).to_string(),
            "HTS-AT tiny, width 96 to 768, depths 2-2-6-2, heads 4-8-16-32, window 8, 64 mel bins, fused by aff_2d"
        );
        let odd = HtsAtConfig { depths: vec![1, 2], ..HtsAtConfig::default() };
        assert!(odd.to_string().starts_with("HTS-AT, width 96"));
        let pann = PannConfig::cnn6().to_string();
        assert_eq!(pann, "PANN, 4 convolutions of 5x5, widths 64-128-256-512, 64 mel bins");
        let text = TextConfig::default().to_string();
        assert_eq!(text, "RoBERTa, 12 layers, width 768, 12 heads, 512 tokens, vocabulary of 50265");
    }
}
