//! `cargo xtask info`: what a sound file is, and what a model would be given of it; models are [`model_info`]'s.

use std::io::Write;
use std::path::Path;

use clap_audio::{AudioReader, LongAudio, Padding, Placement, Preset, resampled_len};
use serde::Serialize;

use crate::args;
use crate::exit::{Exit, failure};
use crate::front_end::{Filling, FrontEnd};
use crate::model_info;

pub(crate) fn run(args: &args::Info) -> anyhow::Result<Exit> {
    let front_end = FrontEnd::new(&args.front_end)?;
    let mut out = std::io::stdout().lock();
    let mut failed = 0;
    for file in &args.files {
        if model_info::is_model(file) {
            let model = model_info::Known::open(file, args.revision.revision.as_deref())?;
            match args.json {
                true => {
                    serde_json::to_writer(&mut out, &model)?;
                    writeln!(out)?;
                }
                false => write!(out, "{model}")?,
            }
            continue;
        }
        match File::open(file).and_then(|sound| Ok((Heard::of(&front_end, &sound)?, sound))) {
            Ok((heard, file)) if args.json => {
                serde_json::to_writer(&mut out, &Line { file, heard })?;
                writeln!(out)?;
            }
            Ok((heard, file)) => write!(out, "{file}{heard}")?,
            Err(error) => {
                failed += 1;
                eprintln!("skipped: {error}");
            }
        }
    }
    match failed {
        0 => Ok(Exit::Done),
        n => Err(failure(Exit::Data, format!("{n} of {} sound files could not be read", args.files.len()))),
    }
}

/// One line of output.
#[derive(Serialize)]
struct Line {
    #[serde(flatten)]
    file: File,
    heard: Heard,
}

/// What the file says of itself.
#[derive(Serialize)]
struct File {
    file: String,
    container: String,
    codec: String,
    sample_rate: u32,
    channels: usize,
    bits_per_sample: Option<u32>,
    /// Samples per channel.
    frames: u64,
    /// False where the header only estimates them.
    exact: bool,
    seconds: f64,
}

impl File {
    fn open(path: &Path) -> clap_audio::Result<Self> {
        use clap_audio::Length;
        let mut reader = AudioReader::open(path)?;
        let (frames, exact) = match reader.info().length {
            Length::Exact(frames) => (frames, true),
            Length::Estimated(frames) => (frames, false),
            Length::Unknown => (count(&mut reader)?, true),
        };
        let info = reader.info();
        if frames == 0 {
            return Err(clap_audio::Error::NoSamples { name: reader.name().to_owned() });
        }
        Ok(Self {
            file: path.display().to_string(),
            container: info.container.clone(),
            codec: info.codec.clone(),
            sample_rate: info.sample_rate,
            channels: info.channels,
            bits_per_sample: info.bits_per_sample,
            frames,
            exact,
            seconds: frames as f64 / f64::from(info.sample_rate),
        })
    }
}

/// The length of a sound whose header states none, by decoding it.
fn count(reader: &mut AudioReader<'_>) -> clap_audio::Result<u64> {
    let mut block = vec![0.0; 1 << 16];
    let mut frames = 0;
    loop {
        match reader.read(&mut block)? {
            0 => return Ok(frames),
            n => frames += n as u64,
        }
    }
}

impl std::fmt::Display for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}", self.file)?;
        let channels = match self.channels {
            1 => "mono".to_owned(),
            2 => "stereo".to_owned(),
            n => format!("{n} channels"),
        };
        let about = if self.exact { "" } else { "about " };
        write!(f, "  file    {} ({}), {} Hz, {channels}", self.container, self.codec, self.sample_rate)?;
        if let Some(bits) = self.bits_per_sample {
            write!(f, ", {bits} bits")?;
        }
        writeln!(f, ", {about}{} ({} frames)", clock(self.seconds), self.frames)
    }
}

/// What a model would be given of it.
#[derive(Serialize)]
struct Heard {
    config: String,
    preset: Preset,
    /// Samples per second after resampling.
    sampling_rate: u32,
    resampled: bool,
    mixed_down: bool,
    /// Samples after resampling.
    samples: usize,
    /// The window in seconds.
    window_s: f64,
    /// How a sound shorter than the window is filled up; null for others.
    padding: Option<Padding>,
    /// How often it is heard then, and how many seconds of silence follow.
    times: Option<f64>,
    silence_s: Option<f64>,
    /// What is taken of a sound longer than the window; null for others.
    long_audio: Option<String>,
    /// Where the views begin and end in the sound, in seconds; the whole of it is a view of fusion.
    views_s: Vec<[f64; 2]>,
    #[serde(skip)]
    filling: Option<Filling>,
    #[serde(skip)]
    policy: LongAudio,
}

impl Heard {
    fn of(front_end: &FrontEnd, file: &File) -> clap_audio::Result<Self> {
        let config = front_end.extractor.config();
        let samples = resampled_len(file.frames as usize, file.sample_rate, config.sampling_rate);
        let (window, frames) = (config.max_samples(), front_end.extractor.log_mel().frames(samples));
        let view = |start: usize| [start, samples.min(start + window)].map(|sample| front_end.seconds(sample));
        let mut views_s = Vec::new();
        for placement in front_end.place(samples)? {
            match placement {
                Placement::Window(start) | Placement::Crop(start) => views_s.push(view(start)),
                // Longer by less than a hop: taken as one window.
                Placement::Fusion(_) if frames == config.frames() => views_s.push(view(0)),
                Placement::Fusion(starts) => {
                    views_s.push([0.0, front_end.seconds(samples)]);
                    views_s.extend(starts.map(|start| view(start * config.hop_length)));
                }
            }
        }
        let filling = front_end.filling(samples);
        Ok(Self {
            config: front_end.name.clone(),
            preset: front_end.extractor.preset(),
            sampling_rate: config.sampling_rate,
            resampled: file.sample_rate != config.sampling_rate,
            mixed_down: file.channels > 1,
            samples,
            window_s: config.max_length_s,
            padding: filling.is_some().then_some(config.padding),
            times: filling.map(|filling| filling.times),
            silence_s: filling.map(|filling| filling.silence_s),
            long_audio: (samples > window).then(|| front_end.policy.to_string()),
            views_s,
            filling,
            policy: front_end.policy,
        })
    }

    fn window(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        /// Starts that are listed before the rest is left out.
        const LISTED: usize = 6;
        write!(f, "{} s: ", self.window_s)?;
        if let Some(filling) = self.filling {
            return write!(f, "{filling}");
        }
        let starts: Vec<String> = self.views_s.iter().map(|view| clock(view[0])).collect();
        match (self.policy, starts.as_slice()) {
            _ if self.long_audio.is_none() => write!(f, "the sound as it is"),
            (LongAudio::Fusion, [_, front, middle, back]) => {
                write!(f, "the whole shrunk to a window, and the windows from {front}, {middle} and {back} on")
            }
            (policy, [one]) => write!(f, "the window from {one} on ({policy})"),
            (_, starts) => {
                write!(f, "{} windows, from {}", starts.len(), starts[..starts.len().min(LISTED)].join(", "))?;
                match starts.len() - starts.len().min(LISTED) {
                    0 => write!(f, " on"),
                    _ => write!(f, ", … {} on", starts[starts.len() - 1]),
                }
            }
        }
    }
}

impl std::fmt::Display for Heard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut steps = Vec::new();
        if self.mixed_down {
            steps.push("mixed to mono".to_owned());
        }
        if self.resampled {
            steps.push(format!("resampled to {} Hz", self.sampling_rate));
        }
        if self.preset == Preset::Laion {
            steps.push("rounded to 16 bits".to_owned());
        }
        if steps.is_empty() {
            steps.push("as it is".to_owned());
        }
        writeln!(
            f,
            "  heard   {}, {} samples (front end {}, {})",
            steps.join(", "),
            self.samples,
            self.config,
            self.preset
        )?;
        write!(f, "  window  ")?;
        self.window(f)?;
        writeln!(f)
    }
}

/// `0:01:02.500` for 62.5 seconds.
pub(crate) fn clock(seconds: f64) -> String {
    let milliseconds = (seconds.max(0.0) * 1000.0).round() as u64;
    let (hours, minutes) = (milliseconds / 3_600_000, milliseconds / 60_000 % 60);
    format!("{hours}:{minutes:02}:{:02}.{:03}", milliseconds / 1000 % 60, milliseconds % 1000)
}

#[cfg(test)]
mod tests {
    use super::clock;

    #[test]
    fn clocks_are_padded_and_rounded() {
        assert_eq!(clock(0.0), "0:00:00.000");
        assert_eq!(clock(62.5), "0:01:02.500");
        assert_eq!(clock(59.9996), "0:01:00.000");
        assert_eq!(clock(36_000.0 + 754.321), "10:12:34.321");
    }
}
