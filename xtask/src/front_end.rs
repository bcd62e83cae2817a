//! The front end that `--config`, `--preset` and `--long-audio` mean, without a model.

use std::path::Path;

use clap_audio::{
    FeatureConfig, FeatureExtractor, Features, LongAudio, Padding, Placement, Preset, Truncation, Waveform,
};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::args;
use crate::exit::{Exit, failure};

/// How a sound is heard.
pub(crate) struct FrontEnd {
    pub(crate) extractor: FeatureExtractor,
    pub(crate) policy: LongAudio,
    /// What the user calls it.
    pub(crate) name: String,
    seed: u64,
}

impl FrontEnd {
    /// Reads the arguments. A name stands for the fused model's front end where fusion is asked for; a file speaks for
    /// itself.
    pub(crate) fn new(args: &args::FrontEnd) -> anyhow::Result<Self> {
        let asked: Option<LongAudio> = args.long_audio.map(Into::into);
        let fusion = asked == Some(LongAudio::Fusion);
        let truncation = if fusion { Truncation::Fusion } else { Truncation::RandTrunc };
        let (config, reference) = match &args.config {
            None => (FeatureConfig::published(truncation), Preset::Hf),
            Some(config) => read(config, truncation)?,
        };
        let name = args.config.as_deref().map_or_else(|| "published".to_owned(), short_name);
        let preset = args.preset.map_or(reference, Into::into);
        let extractor =
            FeatureExtractor::new(config, preset).map_err(|error| failure(Exit::Model, format!("{name}: {error}")))?;
        if fusion && extractor.views() == 1 {
            let text = format!(
                "{name} is of an unfused model: fusion needs truncation \"fusion\" there; use windows, head, center or random"
            );
            return Err(failure(Exit::Usage, text));
        }
        let policy = asked.unwrap_or_else(|| extractor.default_policy());
        Ok(Self { extractor, policy, name, seed: args.seed })
    }

    /// Where a model would listen in a sound of `samples` samples at the front end's rate.
    pub(crate) fn place(&self, samples: usize) -> clap_audio::Result<Vec<Placement>> {
        self.seeded(|rng| self.extractor.place(samples, self.policy, rng))
    }

    /// What a model would hear at those places.
    pub(crate) fn extract(&self, wave: &Waveform) -> clap_audio::Result<Vec<Features>> {
        self.seeded(|rng| self.extractor.extract(wave, self.policy, rng))
    }

    /// Calls with a fresh generator where the policy is random by name; no other draws.
    fn seeded<T>(&self, call: impl FnOnce(Option<&mut dyn RngCore>) -> T) -> T {
        match self.policy {
            LongAudio::Random => call(Some(&mut ChaCha8Rng::seed_from_u64(self.seed))),
            _ => call(None),
        }
    }

    fn config(&self) -> &FeatureConfig {
        self.extractor.config()
    }

    /// Seconds that `samples` samples last.
    pub(crate) fn seconds(&self, samples: usize) -> f64 {
        samples as f64 / f64::from(self.config().sampling_rate)
    }

    /// How a sound of `samples` samples is made a window long; `None` if it need not be.
    pub(crate) fn filling(&self, samples: usize) -> Option<Filling> {
        let window = self.config().max_samples();
        if samples >= window {
            return None;
        }
        let padding = self.config().padding;
        let whole = window.checked_div(samples).unwrap_or(0);
        let times = match padding {
            Padding::Pad => 1.0,
            Padding::RepeatPad => whole as f64,
            Padding::Repeat => window as f64 / samples.max(1) as f64,
        };
        let sound = if padding == Padding::Repeat { window } else { times as usize * samples };
        Some(Filling { times, silence_s: self.seconds(window - sound) })
    }
}

/// What makes a short sound as long as the window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Filling {
    /// How often it is heard; the last time in part where this is no whole number.
    pub(crate) times: f64,
    /// Silence after that.
    pub(crate) silence_s: f64,
}

impl std::fmt::Display for Filling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.times {
            1.0 => write!(f, "the sound once")?,
            times if times.fract() == 0.0 => write!(f, "the sound {times} times")?,
            times => write!(f, "the sound {times:.2} times")?,
        }
        if self.silence_s > 0.0 { write!(f, ", then {:.3} s of silence", self.silence_s) } else { Ok(()) }
    }
}

/// The last part of a path: results and pictures are shown to people who do not have the rest. A name has no other part.
fn short_name(config: &str) -> String {
    Path::new(config).file_name().map_or_else(|| config.to_owned(), |name| name.to_string_lossy().into_owned())
}

/// A front end by LAION's name, or from a file; and the reference it comes from.
fn read(config: &str, truncation: Truncation) -> anyhow::Result<(FeatureConfig, Preset)> {
    let path = Path::new(config);
    let path = if path.is_dir() { path.join("preprocessor_config.json") } else { path.to_owned() };
    // A name is not taken for a file, lest a folder of that name in the current one changed its meaning.
    let unknown = match FeatureConfig::named(config, truncation) {
        Ok(named) => return Ok((named, Preset::Laion)),
        Err(unknown) => unknown,
    };
    if !path.exists() {
        return Err(failure(Exit::Usage, format!("--config {config}: no such file, and {unknown}")));
    }
    let model = |error: String| failure(Exit::Model, format!("{}: {error}", path.display()));
    let text = std::fs::read_to_string(&path).map_err(|error| model(error.to_string()))?;
    let config = serde_json::from_str(&text).map_err(|error| model(error.to_string()))?;
    Ok((config, Preset::Hf))
}
