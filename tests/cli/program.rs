//! The real program, and small data to run it on.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// What one call of the program gave.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// Fails unless the exit code is `code` and the message on standard error holds every one of `words`.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32, words: &[&str]) -> &Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        for word in words {
            assert!(self.stderr.contains(word), "no {word:?} in {self:#?}");
        }
        assert!(!self.stderr.contains("panicked"), "{self:#?}");
        self
    }

    /// Fails unless the exit code is 0.
    #[track_caller]
    pub(crate) fn succeeds(&self) -> &Self {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self
    }

    /// Standard output, each line as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Vec<serde_json::Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// Runs `cargo xtask` with these arguments. Nothing is fetched.
pub(crate) fn xtask<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> Ran {
    xtask_reading(args, Stdio::null())
}

/// As [`xtask`], with something on standard input.
pub(crate) fn xtask_reading<S: AsRef<std::ffi::OsStr>>(args: &[S], input: impl Into<Stdio>) -> Ran {
    let mut program = Command::new(program());
    program.args(args).env("HF_HUB_OFFLINE", "1").env("CLAP_EMBEDDINGS", embeddings().path()).stdin(input);
    let out = program.output().unwrap();
    Ran {
        code: out.status.code(),
        stdout: String::from_utf8(out.stdout).unwrap(),
        stderr: String::from_utf8(out.stderr).unwrap(),
    }
}

/// Where evaluations of these tests keep their embeddings.
fn embeddings() -> &'static tempfile::TempDir {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    FOLDER.get_or_init(|| tempfile::tempdir().unwrap())
}

/// The program, built once in the profile that these tests were built in.
pub(crate) fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let test = std::env::current_exe().unwrap(); // target/<profile>/deps/workspace-<hash>
        let folder = test.parent().and_then(Path::parent).unwrap();
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--package", "xtask"]).current_dir(env!("CARGO_MANIFEST_DIR"));
        // What cargo told this test of its package would make build scripts run again, and everything behind them be compiled anew.
        for (name, _) in std::env::vars_os() {
            if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|start| name.to_string_lossy().starts_with(start)) {
                build.env_remove(name);
            }
        }
        if folder.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.status().unwrap().success(), "xtask does not build");
        folder.join(format!("xtask{}", std::env::consts::EXE_SUFFIX))
    })
}

/// A sine of `hz` for `seconds` at 16 kHz, written as 16-bit WAV.
pub(crate) fn tone(path: &Path, hz: f32, seconds: f32) {
    tones_in_turn(path, &[(hz, seconds)]);
}

/// Sines one after another, each of so many Hz and seconds.
pub(crate) fn tones_in_turn(path: &Path, tones: &[(f32, f32)]) {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 16_000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::create(path, spec).unwrap();
    for &(hz, seconds) in tones {
        for i in 0..(seconds * 16_000.0) as usize {
            let sample = (i as f32 * hz * std::f32::consts::TAU / 16_000.0).sin();
            writer.write_sample((sample * 8_000.0) as i16).unwrap();
        }
    }
    writer.finalize().unwrap();
}

/// Names and pitches of the four sounds of [`tones`].
const PITCHES: [(&str, f32); 4] = [("drone", 150.0), ("hum", 500.0), ("beep", 1600.0), ("whistle", 5000.0)];

/// An audiofolder of four sounds at slightly different pitches and lengths: `train` of each, and `valid` of each.
pub(crate) fn tones(folder: &Path, train: usize, valid: usize) {
    let mut rows = String::from("file_name,text,label,split\n");
    for (label, hz) in PITCHES {
        for i in 0..train + valid {
            let file = format!("{label}_{i}.wav");
            tone(&folder.join(&file), hz * (1.0 + 0.03 * i as f32), 0.4 + 0.05 * (i % 5) as f32);
            let split = if i < train { "train" } else { "valid" };
            rows.push_str(&format!("{file},a {label} in a room,{label},{split}\n"));
        }
    }
    std::fs::write(folder.join("metadata.csv"), rows).unwrap();
}

/// Steps of warm-up of [`recipe`].
pub(crate) const WARMUP: usize = 4;

/// A recipe for the smallest model of the real code, on the audiofolder `data`.
pub(crate) fn recipe(file: &Path, data: &Path, tokenizer: &Path, epochs: usize) {
    let (data, tokenizer) = (data.display(), tokenizer.display());
    let text = format!(
        r#"
seed = 3
[data]
train = "{data}"
train_split = "train"
valid = "{data}"
valid_split = "valid"
tokenizer = "{tokenizer}"
batch_size = 8
templates = ["this is a sound of {{label}}"]
template_probability = 0.5
max_tokens = 24
[model]
projection_dim = 24
[model.audio]
patch_embeds_hidden_size = 16
depths = [1, 1]
num_attention_heads = [2, 4]
hidden_size = 32
initializer_range = 0.06
window_size = 4
spec_size = 64
num_mel_bins = 32
[model.text]
hidden_size = 32
num_hidden_layers = 1
num_attention_heads = 4
intermediate_size = 48
max_position_embeddings = 32
initializer_range = 0.06
hidden_dropout_prob = 0.0
attention_probs_dropout_prob = 0.0
[features]
feature_size = 32
max_length_s = 1
truncation = "rand_trunc"
[optim]
lr = 2e-3
[schedule]
warmup = {WARMUP}
epochs = {epochs}
[eval]
every = {epochs}
"#
    );
    std::fs::write(file, text).unwrap();
}
