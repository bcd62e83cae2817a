//! `cargo xtask mel`: the log-mel spectrogram of a sound file as a picture or as numbers.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use clap_audio::{
    Channels, FeatureConfig, Features, MelScale, Placement, Preset, Scratch, Waveform, int16_round_trip, load,
};
use safetensors::tensor::{Dtype, TensorView};

use crate::args;
use crate::exit::{Exit, failure};
use crate::front_end::FrontEnd;
use crate::info::clock;
use crate::picture::{self, Panel, Picture};

/// More panels than this are no picture.
const MOST_PANELS: usize = 8;

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Png,
    Npy,
    Safetensors,
}

pub(crate) fn run(args: &args::Mel) -> anyhow::Result<Exit> {
    let format = Format::of(&args.out)?;
    let mut front_end = args.front_end.clone();
    if args.views {
        front_end.long_audio = Some(args::LongAudio::Fusion);
    }
    let views = format != Format::Png || front_end.long_audio.is_some();
    let front_end = FrontEnd::new(&front_end)?;
    let wave = load(&args.file, front_end.extractor.config().sampling_rate, Channels::Mean)?;
    let sound = Sound { front_end: &front_end, wave, name: file_name(&args.file) };
    let (bytes, what) = match format {
        Format::Png if views => sound.picture(&sound.view_panels()?),
        Format::Png => sound.picture(&[sound.whole()?]),
        Format::Npy => sound.npy()?,
        Format::Safetensors => sound.safetensors()?,
    };
    write_whole(&args.out, &bytes)?;
    writeln!(std::io::stdout(), "{}: {what}", args.out.display())?;
    Ok(Exit::Done)
}

impl Format {
    fn of(path: &Path) -> anyhow::Result<Self> {
        let extension = path.extension().and_then(|extension| extension.to_str()).map(str::to_ascii_lowercase);
        match extension.as_deref() {
            Some("png") => Ok(Self::Png),
            Some("npy") => Ok(Self::Npy),
            Some("safetensors") => Ok(Self::Safetensors),
            _ => {
                let text = format!("--out {}: the name must end in .png, .npy or .safetensors", path.display());
                Err(failure(Exit::Usage, text))
            }
        }
    }
}

/// A file as the front end hears it.
struct Sound<'a> {
    front_end: &'a FrontEnd,
    /// At the front end's rate.
    wave: Waveform,
    name: String,
}

impl Sound<'_> {
    fn config(&self) -> &FeatureConfig {
        self.front_end.extractor.config()
    }

    /// Seconds from frame to frame.
    fn frame_s(&self) -> f64 {
        self.front_end.seconds(self.config().hop_length)
    }

    /// Refuses what would take more memory than a configuration may ask for.
    fn check_memory(&self, values: u64) -> anyhow::Result<()> {
        let limit = FeatureConfig::MAX_VALUES;
        if values <= limit {
            return Ok(());
        }
        let text = format!(
            "{}: the spectrogram has {values} values, {limit} is the limit; cut the sound into parts",
            self.name
        );
        Err(failure(Exit::Data, text))
    }

    /// The whole sound, neither cut nor padded.
    fn whole(&self) -> anyhow::Result<Panel> {
        let log_mel = self.front_end.extractor.log_mel();
        self.check_memory(log_mel.frames(self.wave.samples.len()) as u64 * self.config().feature_size as u64)?;
        let mut samples = std::borrow::Cow::Borrowed(&self.wave.samples[..]);
        if self.front_end.extractor.preset() == Preset::Laion {
            int16_round_trip(samples.to_mut());
        }
        let mel = log_mel.compute(&samples, &mut Scratch::default());
        Ok(Panel { title: String::new(), values: mel.data, first_s: 0.0, frame_s: self.frame_s() })
    }

    /// What a model is given, and where in the sound it was taken.
    fn features(&self) -> anyhow::Result<(Vec<Placement>, Vec<Features>)> {
        let placements = self.front_end.place(self.wave.samples.len())?;
        let config = self.config();
        let window = config.frames() as u64 * config.feature_size as u64 * config.views() as u64;
        self.check_memory(window.saturating_mul(placements.len() as u64))?;
        Ok((placements, self.front_end.extract(&self.wave)?))
    }

    /// A panel for each view that differs from the others.
    fn view_panels(&self) -> anyhow::Result<Vec<Panel>> {
        let (placements, features) = self.features()?;
        let mut panels = Vec::new();
        let count = placements.len();
        for (index, (placement, features)) in placements.into_iter().zip(features).enumerate() {
            let view = features.frames * features.bins;
            match placement {
                Placement::Fusion(starts) if features.really_longer => {
                    panels.push(self.global_panel(features.data[..view].to_vec(), features.frames));
                    for ((name, start), values) in
                        ["front", "middle", "back"].iter().zip(starts).zip(features.data.chunks(view).skip(1))
                    {
                        panels.push(self.window_panel(name, start * self.config().hop_length, values.to_vec()));
                    }
                }
                Placement::Fusion(_) => {
                    panels.push(self.window_panel("all four views", 0, features.data[..view].to_vec()))
                }
                Placement::Window(start) | Placement::Crop(start) => {
                    let name = match (features.views, count) {
                        (1, 1) => "window".to_owned(),
                        (1, _) => format!("window {} of {count}", index + 1),
                        (views, 1) => format!("all {views} views"),
                        (views, _) => format!("all {views} views of window {} of {count}", index + 1),
                    };
                    panels.push(self.window_panel(&name, start, features.data[..view].to_vec()));
                }
            }
        }
        if panels.len() > MOST_PANELS {
            let text = format!(
                "--long-audio {} makes {} windows of {}, a picture shows {MOST_PANELS} at most; draw the whole sound (without --long-audio), or write .npy or .safetensors",
                self.front_end.policy,
                panels.len(),
                self.name
            );
            return Err(failure(Exit::Usage, text));
        }
        Ok(panels)
    }

    /// The whole sound shrunk to a window: frame f is taken `(f + 0.5) * total / frames - 0.5` frames into it.
    fn global_panel(&self, values: Vec<f32>, frames: usize) -> Panel {
        let total = self.front_end.extractor.log_mel().frames(self.wave.samples.len());
        let scale = total as f64 / frames as f64;
        let title = format!("global: 0.00 s to {:.2} s, {total} frames shrunk to {frames}", self.wave.seconds());
        Panel { title, values, first_s: (0.5 * scale - 0.5) * self.frame_s(), frame_s: scale * self.frame_s() }
    }

    /// A window that starts at a sample of the sound.
    fn window_panel(&self, name: &str, start: usize, values: Vec<f32>) -> Panel {
        let title = match self.front_end.filling(self.wave.samples.len()) {
            Some(filling) => format!("{name}: {filling}"),
            None => {
                let end = start + self.config().max_samples();
                format!("{name}: {:.2} s to {:.2} s", self.front_end.seconds(start), self.front_end.seconds(end))
            }
        };
        Panel { title, values, first_s: self.front_end.seconds(start), frame_s: self.frame_s() }
    }

    fn picture(&self, panels: &[Panel]) -> (Vec<u8>, String) {
        let mel = self.config().mel();
        let scale = match mel.scale {
            MelScale::Slaney => "Slaney",
            MelScale::Htk => "HTK",
        };
        let subtitle = format!(
            "front end {} ({}): {} Hz, {} {scale} mel bins, frames of {} every {}",
            self.front_end.name,
            self.front_end.extractor.preset(),
            mel.sample_rate,
            mel.n_mels,
            mel.n_fft,
            mel.hop_length
        );
        let title = format!("{}  {}", self.name, clock(self.wave.seconds()));
        let (png, width, height) = picture::png(&Picture { title, subtitle, panels, mel: &mel });
        (png, format!("{width} x {height} pixels"))
    }

    /// `input_features`, f32 (views, frames, bins); the views of one window after those of another.
    fn numbers(&self) -> anyhow::Result<(Vec<usize>, Vec<f32>, Vec<u8>)> {
        let (_, features) = self.features()?;
        let shape =
            vec![features.iter().map(|window| window.views).sum(), self.config().frames(), self.config().feature_size];
        let is_longer = features.iter().map(|window| u8::from(window.is_longer)).collect();
        let values = features.into_iter().flat_map(|window| window.data).collect();
        Ok((shape, values, is_longer))
    }

    fn npy(&self) -> anyhow::Result<(Vec<u8>, String)> {
        use npyz::WriterBuilder as _;
        let (shape, values, _) = self.numbers()?;
        let what = told("", &shape);
        let shape: Vec<u64> = shape.into_iter().map(|length| length as u64).collect();
        let mut file = Vec::with_capacity(4 * values.len() + 128);
        let mut writer = npyz::WriteOptions::new().default_dtype().shape(&shape).writer(&mut file).begin_nd()?;
        writer.extend(values)?;
        writer.finish()?;
        Ok((file, what))
    }

    fn safetensors(&self) -> anyhow::Result<(Vec<u8>, String)> {
        let (shape, values, is_longer) = self.numbers()?;
        let what = told("input_features ", &shape);
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let tensors = [
            ("input_features", TensorView::new(Dtype::F32, shape, &bytes)?),
            ("is_longer", TensorView::new(Dtype::BOOL, vec![is_longer.len()], &is_longer)?),
        ];
        // One key: several would come in another order each time.
        let front_end = serde_json::json!({
            "file": self.name,
            "preset": self.front_end.extractor.preset(),
            "long_audio": self.front_end.policy.to_string(),
            "preprocessor_config": self.config(),
        });
        let metadata = HashMap::from([("front_end".to_owned(), front_end.to_string())]);
        Ok((safetensors::serialize(tensors, Some(metadata))?, what))
    }
}

/// `f32 (views 1, frames 1001, bins 64)`
fn told(name: &str, shape: &[usize]) -> String {
    format!("{name}f32 (views {}, frames {}, bins {})", shape[0], shape[1], shape[2])
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// Writes beside the file and renames, so that no half of it is ever there.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let partial = path.with_file_name(format!(".{}.partial", file_name(path)));
    let written = fs::write(&partial, bytes).and_then(|()| fs::rename(&partial, path));
    written.map_err(|error| {
        let _ = fs::remove_file(&partial);
        failure(Exit::Data, format!("{}: cannot be written: {error}", path.display()))
    })
}
