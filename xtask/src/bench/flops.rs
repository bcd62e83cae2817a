//! The arithmetic of a case, counted from its configuration.
//!
//! What counts is what `torch.utils.flop_counter` counts: the products of linear layers, attention and convolutions as they are defined, two
//! operations for a multiply-add. Element-wise work and the front end count nothing; padding, and what Winograd's algorithm saves, count as
//! done, so that the figure of a program that leaves work out rises. A training step is taken for three forward passes.

use clap_encoders::{AudioConfig, ClapConfig, FusionType, HtsAtConfig, PannConfig, TextConfig, TextModelType};

use super::case::{CONTEXT, Case, Texts};
use super::peak;
use super::workload::FRAMES;

/// Floating-point operations of one run, where they are known.
pub(super) fn flops(case: &Case) -> Option<f64> {
    let multiply_adds = match case {
        Case::Audio { tower, clips, .. } => clips * audio(tower)?,
        Case::Text { tower, texts, .. } => text(tower, *texts)?,
        Case::Training { audio: tower, text: words, pairs, .. } => {
            3 * (pairs * audio(tower)? + text(words, Texts::padded(*pairs, CONTEXT))?)
        }
        // The memory's pace, not the arithmetic's.
        Case::Adam { .. } | Case::Loader { .. } => return None,
        Case::Product { size } => size.pow(3),
        Case::MultiplyAdds => peak::MULTIPLY_ADDS,
    };
    Some(2.0 * multiply_adds as f64)
}

/// Multiply-adds of one clip through tower and projection.
fn audio(tower: &AudioConfig) -> Option<usize> {
    let multiply_adds = match tower {
        AudioConfig::HtsAt(config) => hts_at(config)?,
        AudioConfig::Pann(config) => pann(config)?,
    };
    Some(multiply_adds + projection(tower.hidden_size()))
}

fn projection(width: usize) -> usize {
    let joint = ClapConfig::default().projection_dim;
    width * joint + joint * joint
}

fn hts_at(config: &HtsAtConfig) -> Option<usize> {
    let (grid, width) = (config.grid(), config.patch_embeds_hidden_size);
    let patch = config.patch_size * config.patch_size * width;
    let mut total = grid * grid * patch;
    total += match config.fusion() {
        None => 0,
        Some(FusionType::Aff2d) => {
            // Three local views in patches thrice as wide, then attention over every position and over their mean.
            let local = 3 * grid * (config.spec_size / (3 * config.patch_size)) * 3 * patch;
            let branch = 2 * width * (width / config.aff_block_r);
            local + (grid * grid + 1) * branch
        }
        Some(_) => return None,
    };
    for (stage, depth) in config.depths.iter().enumerate() {
        let (c, hidden) = (config.stage_width(stage), config.stage_hidden(stage));
        let (tokens, window) = (config.stage_side(stage).pow(2), config.stage_window(stage).pow(2));
        // Query, key, value, output; the two layers of the feed-forward half; scores and their weighted sum.
        total += depth * tokens * (4 * c * c + 2 * c * hidden + 2 * window * c);
        if stage + 1 < config.depths.len() {
            total += tokens / 4 * (4 * c) * (2 * c);
        }
    }
    Some(total)
}

fn pann(config: &PannConfig) -> Option<usize> {
    if config.enable_fusion {
        return None;
    }
    let (mut frames, mut bins, mut channels) = (FRAMES, config.num_mel_bins, 1);
    let mut total = 0;
    for (i, width) in config.block_widths.iter().copied().enumerate() {
        let kernel = config.kernel_size.pow(2);
        let later = (config.convolutions_per_block - 1) * width;
        total += frames * bins * kernel * (channels + later) * width;
        channels = width;
        if i < config.pooled_blocks {
            (frames, bins) = (frames / 2, bins / 2);
        }
    }
    Some(total + channels * config.hidden_size)
}

/// Multiply-adds of all texts through tower, pooler and projection.
fn text(tower: &TextConfig, texts: Texts) -> Option<usize> {
    if !matches!(tower.model_type, TextModelType::Roberta | TextModelType::Bert) {
        return None;
    }
    let (h, width) = (tower.hidden_size, texts.width());
    let token = 4 * h * h + 2 * h * tower.intermediate_size + 2 * width * h;
    Some(texts.count * (width * tower.num_hidden_layers * token + h * h + projection(h)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, multiply_adds: usize) {
        assert_eq!(flops(&Case::parse(line).unwrap()), Some(2.0 * multiply_adds as f64), "{line}");
    }

    /// Of 512 to the joint space, from 768.
    const PROJECTION: usize = 768 * 512 + 512 * 512;

    #[test]
    fn hts_at_by_hand() {
        let stages = 2 * 4096 * (12 * 96 * 96 + 2 * 64 * 96)
            + 2 * 1024 * (12 * 192 * 192 + 2 * 64 * 192)
            + 6 * 256 * (12 * 384 * 384 + 2 * 64 * 384)
            + 2 * 64 * (12 * 768 * 768 + 2 * 64 * 768);
        // Merging takes the same from each stage to the next.
        let clip = 4096 * 16 * 96 + stages + 3 * 1024 * 384 * 192 + PROJECTION;
        assert_eq!(clip, 5_908_332_544);
        check("htsat-tiny mel 1", clip);
        check("htsat-tiny mel 8 bf16", 8 * clip);
        let fusion = 3 * 64 * 21 * 48 * 96 + 4097 * 2 * 96 * 24;
        check("htsat-tiny-fused mel 2", 2 * (clip + fusion));
    }

    #[test]
    fn panns_by_hand() {
        let blocks = 1001 * 64 * 9 * (1 + 64) * 64
            + 500 * 32 * 9 * (64 + 128) * 128
            + 250 * 16 * 9 * (128 + 256) * 256
            + 125 * 8 * 9 * (256 + 512) * 512
            + 62 * 4 * 9 * (512 + 1024) * 1024
            + 31 * 2 * 9 * (1024 + 2048) * 2048;
        let clip = blocks + 2048 * 2048 + 2048 * 512 + 512 * 512;
        assert_eq!(clip, 20_042_158_080);
        check("pann-14 wave 8", 8 * clip);
        let blocks =
            1001 * 64 * 25 * 64 + 500 * 32 * 25 * 64 * 128 + 250 * 16 * 25 * 128 * 256 + 125 * 8 * 25 * 256 * 512;
        check("pann-6 wave 1", blocks + 512 * 512 + 512 * 512 + 512 * 512);
    }

    #[test]
    fn texts_and_training_by_hand() {
        let token = 12 * (12 * 768 * 768 + 2 * 77 * 768);
        let text = 77 * token + 768 * 768 + PROJECTION;
        assert_eq!(16 * text, 106_407_952_384);
        check("roberta 77 16", 16 * text);
        check("roberta full 16", 16 * text);
        let token = 12 * (12 * 768 * 768 + 2 * 31 * 768);
        check("roberta own 16", 16 * (31 * token + 768 * 768 + PROJECTION));
        check("train htsat-tiny roberta 8", 3 * 8 * (5_908_332_544 + text));
        check("product 2048", 8_589_934_592);
    }
}
