//! Clips of any length to windows of one length.
//!
//! Source: `get_audio_features` in `laion_clap/training/data.py` (LAION-AI/CLAP 1fd4c37) and `_get_input_mel`,
//! `_random_mel_fusion` in `transformers/models/clap/feature_extraction_clap.py` (4.57.6), which agree but for the
//! `longer` flag. Both choose at random from longer clips; the deterministic choices are this crate's.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use rand::{Rng, RngCore};

use crate::config::Padding;
use crate::error::{Error, Result};
use crate::log_mel::Mel;

/// What to take from a clip that is longer than the window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LongAudio {
    /// Windows all along the clip, the last one aligned to its end.
    Windows {
        /// Seconds from window to window; the window's own length if `None`.
        hop_s: Option<f64>,
    },
    /// The first window.
    Head,
    /// The middle window.
    Center,
    /// The fused models' four views: the whole clip shrunk to one window, and a window from each third of it. With a
    /// generator the three are drawn as LAION draws them, without one they are the middle of each third.
    Fusion,
    /// A window at a uniform place. Needs a generator.
    Random,
}

impl fmt::Display for LongAudio {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Windows { .. } => "windows",
            Self::Head => "head",
            Self::Center => "center",
            Self::Fusion => "fusion",
            Self::Random => "random",
        })
    }
}

impl FromStr for LongAudio {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "windows" => Self::Windows { hop_s: None },
            "head" => Self::Head,
            "center" => Self::Center,
            "fusion" => Self::Fusion,
            "random" => Self::Random,
            _ => {
                return Err(Error::Policy {
                    policy: text.to_owned(),
                    reason: "not known; windows, head, center, fusion and random are".to_owned(),
                });
            }
        })
    }
}

/// The first `len` samples of a clip, filled up by `padding` if there are fewer.
pub fn fill(samples: &[f32], len: usize, padding: Padding) -> Vec<f32> {
    let mut filled = Vec::new();
    fill_into(samples, len, padding, &mut filled);
    filled
}

/// [`fill`] into a buffer, whose content is replaced.
pub(crate) fn fill_into(samples: &[f32], len: usize, padding: Padding, filled: &mut Vec<f32>) {
    filled.clear();
    filled.reserve_exact(len);
    // How often the clip fits; at least once, cut if it is longer than `len`.
    let whole = len.checked_div(samples.len()).unwrap_or(0).max(1);
    let repetitions = match padding {
        Padding::Pad => 1,
        Padding::RepeatPad => whole,
        Padding::Repeat => whole + 1,
    };
    for _ in 0..repetitions {
        filled.extend_from_slice(&samples[..samples.len().min(len - filled.len())]);
    }
    filled.resize(len, 0.0);
}

/// The starts of windows of `window` samples, every `hop` samples, the last one aligned to the end of the clip.
pub fn window_starts(len: usize, window: usize, hop: usize) -> Vec<usize> {
    let Some(last) = len.checked_sub(window) else { return vec![0] };
    let mut starts: Vec<usize> = (0..last).step_by(hop.max(1)).collect();
    starts.push(last);
    starts
}

/// The frames at which fusion's three windows may start: `numpy.array_split` of all starts, an empty part being frame 0.
pub fn fusion_parts(total_frames: usize, window_frames: usize) -> [Range<usize>; 3] {
    let starts = (total_frames + 1).saturating_sub(window_frames);
    let (share, rest) = (starts / 3, starts % 3);
    let mut next = 0;
    [0, 1, 2].map(|part| {
        let start = next;
        next += share + usize::from(part < rest);
        if start == next { 0..1 } else { start..next }
    })
}

/// The element in the middle of each part (the later one of two).
pub fn middle_starts(parts: &[Range<usize>; 3]) -> [usize; 3] {
    parts.clone().map(|part| part.start + part.len() / 2)
}

/// One element of each part, uniformly and in the reference's order: front, middle, back.
pub fn draw_starts(parts: &[Range<usize>; 3], rng: &mut dyn RngCore) -> [usize; 3] {
    parts.clone().map(|part| rng.random_range(part))
}

/// The four views of a fused model, (4, window_frames, bins): the whole spectrogram shrunk, then the windows at `starts`.
///
/// # Panics
/// If a window reaches beyond the spectrogram; the starts of [`fusion_parts`] do not.
pub fn fusion_views(mel: &Mel, window_frames: usize, starts: [usize; 3]) -> Vec<f32> {
    let mut views = Vec::with_capacity(4 * window_frames * mel.bins);
    shrink(mel, window_frames, &mut views);
    for start in starts {
        views.extend_from_slice(&mel.data[start * mel.bins..(start + window_frames) * mel.bins]);
    }
    views
}

/// Appends `mel` resized to `frames` frames: bilinear without antialiasing, pixel centres aligned, as
/// `torch.nn.functional.interpolate(mode="bilinear", align_corners=False)` does, in the same single precision.
fn shrink(mel: &Mel, frames: usize, out: &mut Vec<f32>) {
    let scale = mel.frames as f32 / frames as f32;
    for frame in 0..frames {
        let source = scale.mul_add(frame as f32 + 0.5, -0.5).max(0.0);
        let first = (source as usize).min(mel.frames - 1);
        let second = (first + 1).min(mel.frames - 1);
        let share = source - first as f32;
        let row = |index: usize| &mel.data[index * mel.bins..(index + 1) * mel.bins];
        out.extend(row(first).iter().zip(row(second)).map(|(&a, &b)| (1.0 - share) * a + share * b));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn filling_follows_the_reference() {
        let clip = [1.0, 2.0, 3.0];
        assert_eq!(fill(&clip, 8, Padding::RepeatPad), [1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 0.0, 0.0]);
        assert_eq!(fill(&clip, 8, Padding::Repeat), [1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 1.0, 2.0]);
        assert_eq!(fill(&clip, 8, Padding::Pad), [1.0, 2.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        for padding in [Padding::RepeatPad, Padding::Repeat, Padding::Pad] {
            assert_eq!(fill(&clip, 3, padding), clip);
            assert_eq!(fill(&clip, 2, padding), clip[..2]);
            assert_eq!(fill(&[], 2, padding), [0.0; 2]);
        }
        assert_eq!(fill(&clip, 6, Padding::Repeat), fill(&clip, 6, Padding::RepeatPad));
    }

    #[test]
    fn windows_end_with_the_clip() {
        assert_eq!(window_starts(7, 10, 10), [0]);
        assert_eq!(window_starts(10, 10, 10), [0]);
        assert_eq!(window_starts(11, 10, 10), [0, 1]);
        assert_eq!(window_starts(30, 10, 10), [0, 10, 20]);
        assert_eq!(window_starts(34, 10, 10), [0, 10, 20, 24]);
        assert_eq!(window_starts(20, 10, 5), [0, 5, 10]);
        assert_eq!(window_starts(12, 10, 0), [0, 1, 2]);
    }

    fn check_parts(total: usize, window: usize, parts: [Range<usize>; 3], middles: [usize; 3]) {
        assert_eq!(fusion_parts(total, window), parts);
        assert_eq!(middle_starts(&parts), middles);
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        for _ in 0..50 {
            let starts = draw_starts(&parts, &mut rng);
            assert!(starts.iter().zip(&parts).all(|(start, part)| part.contains(start)));
        }
    }

    #[test]
    fn thirds_are_those_of_array_split() {
        check_parts(1002, 1001, [0..1, 1..2, 0..1], [0, 1, 0]);
        check_parts(1003, 1001, [0..1, 1..2, 2..3], [0, 1, 2]);
        check_parts(1004, 1001, [0..2, 2..3, 3..4], [1, 2, 3]);
        check_parts(2000, 1001, [0..334, 334..667, 667..1000], [167, 500, 833]);
        check_parts(1001, 1001, [0..1, 0..1, 0..1], [0, 0, 0]);
    }

    #[test]
    fn shrinking_interpolates_between_pixel_centres() {
        let mel = Mel { data: (0..6).map(|v| v as f32).collect(), frames: 6, bins: 1 };
        let mut out = Vec::new();
        shrink(&mel, 3, &mut out);
        assert_eq!(out, [0.5, 2.5, 4.5]);
        out.clear();
        shrink(&mel, 6, &mut out);
        assert_eq!(out, mel.data);
        out.clear();
        // 4 of 6: sources 0.25, 1.75, 3.25, 4.75
        shrink(&mel, 4, &mut out);
        assert_eq!(out, [0.25, 1.75, 3.25, 4.75]);
    }

    #[test]
    fn policies_have_names() {
        for name in ["windows", "head", "center", "fusion", "random"] {
            assert_eq!(name.parse::<LongAudio>().unwrap().to_string(), name);
        }
        assert!("middle".parse::<LongAudio>().unwrap_err().to_string().contains("middle"));
    }
}
