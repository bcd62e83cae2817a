//! The front ends of LAION-CLAP's audio model configs, by name.
//!
//! Source: `src/laion_clap/clap_module/model_configs/*.json`, key `audio_cfg` (LAION-AI/CLAP 1fd4c37). All have 48 kHz, 64
//! mel bins from 50 Hz on; what differs is in [`AUDIO_CONFIGS`]. Their key `audio_length` (1024) takes no part in the
//! features, and fusion is no matter of the file but of the training script.

use crate::config::{FeatureConfig, Truncation};
use crate::error::{Error, Result};

/// What LAION's configs differ in.
struct AudioConfig {
    name: &'static str,
    /// Samples per frame.
    window_size: usize,
    /// Samples from frame to frame.
    hop_size: usize,
    /// Upper edge of the last mel filter, in Hz.
    fmax: f64,
    /// The window in samples at 48 kHz. LAION's loader has a literal 480,000 instead, so that it never served the 20 s of
    /// `PANN-14-fmax-8k-20s`; the file's number counts here.
    clip_samples: usize,
}

const fn config(
    name: &'static str,
    window_size: usize,
    hop_size: usize,
    fmax: f64,
    clip_samples: usize,
) -> AudioConfig {
    AudioConfig { name, window_size, hop_size, fmax, clip_samples }
}

const AUDIO_CONFIGS: [AudioConfig; 11] = [
    config("HTSAT-tiny", 1024, 480, 14_000.0, 480_000),
    config("HTSAT-tiny-win-1536", 1536, 480, 14_000.0, 480_000),
    config("HTSAT-base", 1024, 480, 14_000.0, 480_000),
    config("HTSAT-large", 1024, 480, 14_000.0, 480_000),
    config("PANN-6", 1024, 480, 14_000.0, 480_000),
    config("PANN-10", 1024, 480, 14_000.0, 480_000),
    config("PANN-14", 1024, 480, 14_000.0, 480_000),
    config("PANN-14-tiny-transformer", 1024, 480, 14_000.0, 480_000),
    config("PANN-14-win-1536", 1536, 480, 14_000.0, 480_000),
    config("PANN-14-fmax-18k", 1024, 480, 18_000.0, 480_000),
    config("PANN-14-fmax-8k-20s", 1024, 360, 8_000.0, 960_000),
];

impl FeatureConfig {
    /// The front end of one of LAION's model configs, such as `HTSAT-tiny-win-1536`; `truncation` says whether it is that
    /// of a fused model.
    ///
    /// # Errors
    /// [`Error::UnknownConfig`] with all names.
    pub fn named(name: &str, truncation: Truncation) -> Result<Self> {
        let Some(config) = AUDIO_CONFIGS.iter().find(|config| config.name == name) else {
            let known = Self::names().collect::<Vec<_>>().join(", ");
            return Err(Error::UnknownConfig { name: name.to_owned(), known });
        };
        let published = Self::published(truncation);
        Ok(Self {
            fft_window_size: config.window_size,
            hop_length: config.hop_size,
            frequency_max: config.fmax,
            max_length_s: config.clip_samples as f64 / f64::from(published.sampling_rate),
            ..published
        })
    }

    /// The names that [`FeatureConfig::named`] knows.
    pub fn names() -> impl Iterator<Item = &'static str> {
        AUDIO_CONFIGS.iter().map(|config| config.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::{FeatureExtractor, Preset};
    use crate::length::LongAudio;
    use crate::log_mel::tests::{check_against_the_definition, noise};
    use crate::log_mel::{LogMel, Scratch};
    use crate::mel::MelScale;
    use crate::waveform::Waveform;

    const TRUNCATIONS: [Truncation; 2] = [Truncation::RandTrunc, Truncation::Fusion];

    fn named(name: &str, truncation: Truncation) -> FeatureConfig {
        FeatureConfig::named(name, truncation).unwrap()
    }

    /// The numbers of the file, in its order: clip_samples, mel_bins, sample_rate, window_size, hop_size, fmin, fmax.
    fn check_file(name: &str, numbers: [usize; 7]) {
        for truncation in TRUNCATIONS {
            let config = named(name, truncation);
            config.validate().unwrap();
            let found = [
                config.max_samples(),
                config.feature_size,
                config.sampling_rate as usize,
                config.fft_window_size,
                config.hop_length,
                config.frequency_min as usize,
                config.frequency_max as usize,
            ];
            assert_eq!(found, numbers, "{name}");
            assert_eq!(config.truncation, truncation);
        }
    }

    #[test]
    fn the_numbers_are_those_of_the_files() {
        check_file("HTSAT-tiny", [480_000, 64, 48_000, 1024, 480, 50, 14_000]);
        check_file("HTSAT-tiny-win-1536", [480_000, 64, 48_000, 1536, 480, 50, 14_000]);
        check_file("HTSAT-base", [480_000, 64, 48_000, 1024, 480, 50, 14_000]);
        check_file("HTSAT-large", [480_000, 64, 48_000, 1024, 480, 50, 14_000]);
        check_file("PANN-6", [480_000, 64, 48_000, 1024, 480, 50, 14_000]);
        check_file("PANN-10", [480_000, 64, 48_000, 1024, 480, 50, 14_000]);
        check_file("PANN-14", [480_000, 64, 48_000, 1024, 480, 50, 14_000]);
        check_file("PANN-14-tiny-transformer", [480_000, 64, 48_000, 1024, 480, 50, 14_000]);
        check_file("PANN-14-win-1536", [480_000, 64, 48_000, 1536, 480, 50, 14_000]);
        check_file("PANN-14-fmax-18k", [480_000, 64, 48_000, 1024, 480, 50, 18_000]);
        check_file("PANN-14-fmax-8k-20s", [960_000, 64, 48_000, 1024, 360, 50, 8_000]);
        assert_eq!(FeatureConfig::names().count(), 11);
    }

    #[test]
    fn the_usual_front_end_is_the_published_one() {
        for truncation in TRUNCATIONS {
            assert_eq!(named("HTSAT-tiny", truncation), FeatureConfig::published(truncation));
        }
    }

    /// A window and a half of noise, under the policy that every config knows.
    #[test]
    fn every_front_end_gives_windows_of_its_shape() {
        for name in FeatureConfig::names() {
            let config = named(name, Truncation::RandTrunc);
            let frames = if name.ends_with("20s") { 2667 } else { 1001 };
            let wave = Waveform { samples: noise(config.max_samples() * 3 / 2), sample_rate: 48_000 };
            let extractor = FeatureExtractor::new(config, Preset::Laion).unwrap();
            let windows = extractor.extract(&wave, LongAudio::Windows { hop_s: None }, None).unwrap();
            assert_eq!(windows.len(), 2, "{name}");
            for window in windows {
                assert_eq!((window.views, window.frames, window.bins), (1, frames, 64), "{name}");
                assert_eq!(window.data.len(), frames * 64, "{name}");
            }
        }
    }

    #[test]
    fn every_distinct_front_end_equals_the_definition() {
        for name in ["HTSAT-tiny", "HTSAT-tiny-win-1536", "PANN-14-fmax-18k", "PANN-14-fmax-8k-20s"] {
            for truncation in TRUNCATIONS {
                let mel = named(name, truncation).mel();
                let slaney = truncation == Truncation::RandTrunc;
                assert_eq!((mel.scale == MelScale::Slaney, mel.slaney_norm), (slaney, slaney), "{name}");
                check_against_the_definition(&LogMel::new(&mel).unwrap(), 1500);
            }
        }
    }

    /// A sine of 17 kHz is heard with `-fmax-18k` alone.
    #[test]
    fn the_upper_edge_is_where_the_name_says() {
        let cycles = |n: i32| f64::from(n) * 17_000.0 / 48_000.0;
        let sine: Vec<f32> = (0..48_000).map(|n| (cycles(n) * std::f64::consts::TAU).sin() as f32).collect();
        for (name, heard) in [("PANN-14", false), ("PANN-14-fmax-18k", true), ("PANN-14-fmax-8k-20s", false)] {
            let log_mel = LogMel::new(&named(name, Truncation::RandTrunc).mel()).unwrap();
            let mel = log_mel.compute(&sine, &mut Scratch::default());
            let middle = &mel.data[mel.data.len() / 128 * 64..][..64];
            let loudest = middle.iter().copied().fold(f32::MIN, f32::max);
            assert_eq!(loudest > -20.0, heard, "{name}: {loudest} dB");
        }
    }

    #[test]
    fn an_unknown_name_is_told_all_names() {
        let error = FeatureConfig::named("HTSAT-tyni", Truncation::RandTrunc).unwrap_err().to_string();
        for word in ["HTSAT-tyni", "HTSAT-tiny-win-1536", "PANN-14-fmax-8k-20s"] {
            assert!(error.contains(word), "{error}");
        }
    }
}
