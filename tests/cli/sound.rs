//! `info` and `mel`: what a sound file is, and what a model is given of it, in words, pictures and numbers.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap_audio::{Channels, FeatureConfig, FeatureExtractor, LongAudio, Preset, Truncation};

use crate::cli::program::{Ran, tone, xtask};

/// A folder, and a tone of 16 kHz in it.
fn sound(seconds: f32) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tone.wav");
    tone(&path, 1000.0, seconds);
    (folder, path)
}

fn run(command: &str, file: &Path, options: &[&str]) -> Ran {
    xtask(&[&[command, &file.display().to_string()], options].concat())
}

/// `mel` to a file of this name in the folder.
fn mel(folder: &Path, file: &Path, name: &str, options: &[&str]) -> (Ran, PathBuf) {
    let out = folder.join(name);
    let ran = run("mel", file, &[&["--out", &out.display().to_string()], options].concat());
    (ran, out)
}

/// What the library gives for the same file.
fn features(file: &Path, config: FeatureConfig, preset: Preset, policy: LongAudio) -> Vec<f32> {
    let wave = clap_audio::load(file, config.sampling_rate, Channels::Mean).unwrap();
    let extractor = FeatureExtractor::new(config, preset).unwrap();
    extractor.extract(&wave, policy, None).unwrap().into_iter().flat_map(|features| features.data).collect()
}

#[test]
fn info_tells_file_and_padding() {
    let (_folder, path) = sound(2.5);
    let ran = run("info", &path, &[]);
    for words in
        ["tone.wav", "wave", "pcm_s16le", "16000 Hz", "mono", "16 bits", "0:00:02.500", "resampled to 48000 Hz"]
    {
        assert!(ran.succeeds().stdout.contains(words), "no {words:?} in {ran:#?}");
    }
    assert!(ran.stdout.contains("120000 samples") && ran.stdout.contains("the sound 4 times"), "{ran:#?}");
    let line = &run("info", &path, &["--json"]).succeeds().json()[0];
    for (key, value) in [("sample_rate", 16_000), ("channels", 1), ("frames", 40_000), ("bits_per_sample", 16)] {
        assert_eq!(line[key], value, "{line}");
    }
    assert_eq!((line["exact"].as_bool(), line["seconds"].as_f64()), (Some(true), Some(2.5)));
    let heard = &line["heard"];
    assert_eq!((heard["samples"].as_u64(), heard["padding"].as_str()), (Some(120_000), Some("repeatpad")), "{line}");
    assert_eq!((heard["times"].as_f64(), heard["silence_s"].as_f64()), (Some(4.0), Some(0.0)), "{line}");
}

#[test]
fn info_tells_which_windows_are_taken() {
    let (_folder, path) = sound(25.0);
    let views = |options: &[&str]| {
        let line = run("info", &path, &[&["--json"], options].concat()).succeeds().json().remove(0);
        serde_json::from_value::<Vec<[f64; 2]>>(line["heard"]["views_s"].clone()).unwrap()
    };
    assert_eq!(views(&[]), [[0.0, 10.0], [10.0, 20.0], [15.0, 25.0]]);
    assert_eq!(views(&["--long-audio", "center"]), [[7.5, 17.5]]);
    assert_eq!(views(&["--config", "PANN-14-fmax-8k-20s"]), [[0.0, 20.0], [5.0, 25.0]]);
    // 2501 frames: starts 0 to 1500, of which 250, 751 and 1251 are the middles of the thirds.
    let fusion = views(&["--long-audio", "fusion"]);
    assert_eq!(fusion, [[0.0, 25.0], [2.5, 12.5], [7.51, 17.51], [12.51, 22.51]]);
    let random = |seed: &str| views(&["--long-audio", "random", "--seed", seed]);
    assert_eq!(random("1"), random("1"));
    assert_ne!(random("1"), random("2"));
}

#[test]
fn info_reports_bad_files_and_goes_on() {
    let (folder, path) = sound(0.5);
    let poem = folder.path().join("poem.wav");
    std::fs::write(&poem, "The fog comes on little cat feet.").unwrap();
    let missing = folder.path().join("missing.wav");
    let paths = [&poem, &missing, &path].map(|path| path.display().to_string());
    let ran = xtask(&["info", "--json", &paths[0], &paths[1], &paths[2]]);
    ran.fails(3, &["poem.wav: not a sound file", "missing.wav: cannot be read", "2 of 3"]);
    assert_eq!(ran.json().len(), 1);
    // The decoder's own complaint about the same file is not heard.
    assert!(!ran.stderr.contains("ERROR"), "{ran:#?}");
    xtask(&["info"]).fails(2, &["FILE"]);
}

/// Width, height and the distinct colours of a PNG file.
fn picture(path: &Path) -> (u32, u32, BTreeSet<[u8; 3]>) {
    let mut decoder = png::Decoder::new(std::io::BufReader::new(std::fs::File::open(path).unwrap()));
    decoder.set_transformations(png::Transformations::EXPAND);
    let mut reader = decoder.read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    assert_eq!(info.color_type, png::ColorType::Rgb);
    (info.width, info.height, pixels.chunks_exact(3).map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect())
}

#[test]
fn mel_draws_a_picture() {
    let (folder, path) = sound(4.0);
    let (ran, out) = mel(folder.path(), &path, "tone.png", &[]);
    let (width, height, colours) = picture(&out);
    assert!(ran.succeeds().stdout.contains(&format!("{width} x {height} pixels")), "{ran:#?}");
    // Two pixels for each of 401 frames, six for each of 64 bins, and the margins.
    assert!((802..1100).contains(&width) && (384..600).contains(&height), "{width} x {height}");
    assert!(colours.len() > 50 && colours.contains(&[255, 255, 255]), "{} colours", colours.len());
    let before = std::fs::read(&out).unwrap();
    mel(folder.path(), &path, "tone.png", &[]).0.succeeds();
    assert_eq!(std::fs::read(&out).unwrap(), before);
}

#[test]
fn mel_draws_views_of_long_sounds_over_one_another() {
    let (folder, path) = sound(25.0);
    let (ran, whole) = mel(folder.path(), &path, "whole.png", &[]);
    ran.succeeds();
    let (ran, views) = mel(folder.path(), &path, "views.png", &["--views"]);
    ran.succeeds();
    let (whole, views) = (picture(&whole), picture(&views));
    assert!(views.1 > 4 * 192 && views.1 > 2 * whole.1, "{} {}", whole.1, views.1);
    // 2501 frames, two to a column.
    assert!((1251..1600).contains(&whole.0), "{}", whole.0);
    let (ran, again) = mel(folder.path(), &path, "again.PNG", &["--long-audio", "fusion"]);
    ran.succeeds();
    assert_eq!(picture(&again), views);
    mel(folder.path(), &path, "x.png", &["--views", "--long-audio", "head"]).0.fails(2, &["--views", "--long-audio"]);
}

#[test]
fn mel_writes_what_the_extractor_gives() {
    let (folder, path) = sound(12.0);
    let unfused = FeatureConfig::published(Truncation::RandTrunc);
    let expected = features(&path, unfused, Preset::Hf, LongAudio::Windows { hop_s: None });
    let (ran, out) = mel(folder.path(), &path, "tone.npy", &[]);
    assert!(ran.succeeds().stdout.contains("views 2, frames 1001, bins 64"), "{ran:#?}");
    let file = npyz::NpyFile::new(std::io::BufReader::new(std::fs::File::open(out).unwrap())).unwrap();
    assert_eq!(file.shape(), [2, 1001, 64]);
    assert_eq!(file.order(), npyz::Order::C);
    assert_eq!(file.into_vec::<f32>().unwrap(), expected);

    let fused = FeatureConfig::named("HTSAT-tiny-win-1536", Truncation::Fusion).unwrap();
    let expected = features(&path, fused.clone(), Preset::Laion, LongAudio::Fusion);
    let (ran, out) = mel(folder.path(), &path, "tone.safetensors", &["--config", "HTSAT-tiny-win-1536", "--views"]);
    ran.succeeds();
    let bytes = std::fs::read(out).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let tensor = file.tensor("input_features").unwrap();
    assert_eq!((tensor.dtype(), tensor.shape()), (safetensors::Dtype::F32, &[4, 1001, 64][..]));
    let values: Vec<f32> = tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    assert_eq!(values, expected);
    assert_eq!(file.tensor("is_longer").unwrap().data(), [1]);
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let told: serde_json::Value = serde_json::from_str(&header.metadata().as_ref().unwrap()["front_end"]).unwrap();
    assert_eq!((told["preset"].as_str(), told["long_audio"].as_str()), (Some("laion"), Some("fusion")), "{told}");
    assert_eq!(serde_json::from_value::<FeatureConfig>(told["preprocessor_config"].clone()).unwrap(), fused);
}

#[test]
fn mel_takes_the_front_end_of_a_model_folder() {
    let (folder, path) = sound(1.0);
    let config =
        FeatureConfig { feature_size: 32, max_length_s: 0.5, ..FeatureConfig::published(Truncation::RandTrunc) };
    std::fs::write(folder.path().join("preprocessor_config.json"), serde_json::to_string(&config).unwrap()).unwrap();
    let model = folder.path().display().to_string();
    let (ran, out) = mel(folder.path(), &path, "tone.npy", &["--config", &model, "--long-audio", "head"]);
    ran.succeeds();
    let file = npyz::NpyFile::new(std::io::BufReader::new(std::fs::File::open(out).unwrap())).unwrap();
    assert_eq!(file.shape(), [1, 51, 32]);
    assert_eq!(file.into_vec::<f32>().unwrap(), features(&path, config, Preset::Hf, LongAudio::Head));
    let ran = run("info", &path, &["--config", &model, "--long-audio", "fusion"]);
    ran.fails(2, &["unfused", "truncation", "windows"]);
    std::fs::write(folder.path().join("preprocessor_config.json"), r#"{"hop_length": 0}"#).unwrap();
    run("info", &path, &["--config", &model]).fails(4, &["hop_length = 0"]);
}

#[test]
fn mel_refuses_what_it_cannot_write() {
    let (folder, path) = sound(120.0);
    let (ran, out) = mel(folder.path(), &path, "tone.jpg", &[]);
    ran.fails(2, &["tone.jpg", ".png", ".npy", ".safetensors"]);
    assert!(!out.exists());
    mel(folder.path(), &path, "tone.png", &["--config", "HTSAT-tyni"])
        .0
        .fails(2, &["HTSAT-tyni", "HTSAT-tiny-win-1536"]);
    mel(folder.path(), &path, "tone.png", &["--long-audio", "windows"])
        .0
        .fails(2, &["12 windows", "8 at most", ".npy"]);
    mel(folder.path(), &path, "no/such/tone.npy", &[]).0.fails(3, &["tone.npy", "cannot be written"]);
    mel(folder.path(), Path::new("no/such.wav"), "tone.png", &[]).0.fails(3, &["no/such.wav"]);
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["tone.wav"]);
}
