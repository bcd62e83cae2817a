//! A data set of tones made here, a configuration that trains a tiny model on it in seconds, and an observer that remembers.

use std::f32::consts::TAU;
use std::fs;
use std::path::{Path, PathBuf};

use clap_encoders::ClapTokenizer;
use clap_train::event::{Eval, Step};
use clap_train::{Done, Event, Observer, TrainConfig, Trainer};

pub(crate) const LABELS: [(&str, f32); 4] =
    [("low hum", 150.0), ("middle tone", 500.0), ("high whistle", 1500.0), ("very high beep", 3300.0)];
pub(crate) const RATE: u32 = 8000;

/// A data set of tones, its tokenizer, and a configuration that trains on it in seconds.
pub(crate) struct Bench {
    pub(crate) temp: tempfile::TempDir,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let bench = Self { temp: tempfile::tempdir().unwrap() };
        let mut rows = String::from("file_name,text,label,split\n");
        let mut captions = Vec::new();
        for (label, hertz) in LABELS {
            for clip in 0..10 {
                let file = format!("{}_{clip}.wav", label.replace(' ', "_"));
                tone(&bench.path(&file), hertz * (1.0 + 0.01 * clip as f32), 2500 + 400 * clip);
                let split = if clip < 8 { "train" } else { "valid" };
                rows.push_str(&format!("{file},a recording of a {label},{label},{split}\n"));
            }
            captions.push(format!("a recording of a {label}"));
            captions.push(format!("this is a sound of {label}"));
        }
        fs::write(bench.path("metadata.csv"), rows).unwrap();
        ClapTokenizer::train_bpe(&captions, 300).unwrap().save(&bench.path("tokenizer.json")).unwrap();
        bench
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    pub(crate) fn config(&self, overrides: &[&str]) -> TrainConfig {
        let root = self.temp.path().display();
        let text = format!(
            r#"
            [data]
            train = "{root}"
            train_split = "train"
            valid = "{root}"
            valid_split = "valid"
            tokenizer = "{root}/tokenizer.json"
            batch_size = 8
            template_probability = 0.5
            [model]
            projection_dim = 16
            audio = {{ spec_size = 32, num_mel_bins = 16, window_size = 4, depths = [1, 1], num_attention_heads = [1, 2], patch_embeds_hidden_size = 8, hidden_size = 16, spec_augment = {{ time_drop_width = 8, freq_drop_width = 3 }} }}
            text = {{ hidden_size = 16, num_hidden_layers = 1, num_attention_heads = 2, intermediate_size = 32, max_position_embeddings = 80 }}
            [features]
            sampling_rate = {RATE}
            feature_size = 16
            fft_window_size = 256
            hop_length = 80
            frequency_max = 4000
            max_length_s = 0.5
            truncation = "rand_trunc"
            [augment]
            gain_db = [-3, 3]
            [optim]
            lr = 5e-3
            [schedule]
            warmup = 4
            epochs = 10
            [eval]
            every = 5
            "#
        );
        let mut config = TrainConfig::parse(&text, "test").unwrap();
        for assignment in overrides {
            config.set(assignment).unwrap();
        }
        config
    }

    pub(crate) fn train(&self, name: &str, overrides: &[&str]) -> (Done, Record) {
        let mut record = Record::default();
        let done = Trainer::new(self.config(overrides), &self.path(name)).unwrap().run(&mut record).unwrap();
        (done, record)
    }

    /// The message of a configuration that is refused, and that it left no folder.
    pub(crate) fn refused(&self, overrides: &[&str]) -> String {
        let run = self.path("refused");
        let message = Trainer::new(self.config(overrides), &run).unwrap_err().to_string();
        assert!(!run.exists(), "a refused run left {}", run.display());
        message
    }
}

fn tone(path: &Path, hertz: f32, samples: usize) {
    let spec =
        hound::WavSpec { channels: 1, sample_rate: RATE, bits_per_sample: 16, sample_format: hound::SampleFormat::Int };
    let mut file = hound::WavWriter::create(path, spec).unwrap();
    for i in 0..samples {
        let value = (TAU * hertz * i as f32 / RATE as f32).sin() + 0.1 * ((i * i) as f32).sin();
        file.write_sample((value * 12_000.0) as i16).unwrap();
    }
    file.finalize().unwrap();
}

/// Keeps what a run tells, and stops it after `stop_after` steps.
#[derive(Default)]
pub(crate) struct Record {
    pub(crate) steps: Vec<Step>,
    pub(crate) evals: Vec<Eval>,
    pub(crate) skipped: Vec<String>,
    pub(crate) warnings: Vec<String>,
    pub(crate) initialised: Vec<String>,
    pub(crate) stop_after: Option<usize>,
}

impl Observer for Record {
    fn event(&mut self, event: &Event) {
        match event {
            Event::Step(step) => self.steps.push(*step),
            Event::Eval(eval) => self.evals.push(eval.clone()),
            Event::Skipped { what, .. } => self.skipped.push(what.clone()),
            Event::Warning { message } => self.warnings.push(message.clone()),
            Event::Initialised { message } => self.initialised.push(message.clone()),
            _ => {}
        }
    }

    fn stop_requested(&mut self) -> bool {
        self.stop_after.is_some_and(|n| self.steps.len() >= n)
    }
}
pub(crate) fn losses(record: &Record) -> Vec<u64> {
    record.steps.iter().map(|step| step.loss.to_bits()).collect()
}
