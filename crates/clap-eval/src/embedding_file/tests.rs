//! Files of every kind give the same metrics; what does not fit is named.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use clap_data::{AudioSource, Sample, caption};
use serde_json::json;
use tempfile::TempDir;

use super::*;

/// Three clips of two classes; the second has two captions.
fn data() -> DataSet {
    let sample = |id: &str, captions: &[&str], label: &str| Sample {
        id: id.to_owned(),
        audio: AudioSource::Memory { name: format!("clips/{id}"), bytes: Arc::from(*b"") },
        captions: captions.iter().map(|&text| text.to_owned()).collect(),
        labels: vec![label.to_owned()],
        meta: serde_json::Value::Null,
    };
    DataSet {
        name: "set".to_owned(),
        split: "test".to_owned(),
        samples: vec![
            sample("a.wav", &["a dog"], "dog"),
            sample("b.wav", &["rain", "it rains"], "rain"),
            sample("c.wav", &["a big dog"], "dog"),
        ],
        classes: vec!["dog".to_owned(), "rain".to_owned()],
        ..DataSet::default()
    }
}

fn templates() -> Vec<Template> {
    vec![caption::template("a {label}").unwrap()]
}

const AUDIO: [[f32; 2]; 3] = [[2.0, 0.0], [0.0, 1.0], [3.0, 1.0]];
const TEXT: [[f32; 2]; 4] = [[1.0, 0.0], [0.0, 5.0], [1.0, 5.0], [2.0, 1.0]];
const CLASSES: [[f32; 2]; 2] = [[1.0, 0.0], [0.0, 1.0]];

fn tensor<const N: usize>(rows: &[[f32; 2]; N]) -> Tensor {
    Tensor::new(rows, &Device::Cpu).unwrap()
}

fn npy_of<const N: usize>(folder: &TempDir, name: &str, rows: &[[f32; 2]; N]) -> PathBuf {
    use npyz::WriterBuilder as _;
    let path = folder.path().join(name);
    let mut bytes = Vec::new();
    let mut writer =
        npyz::WriteOptions::new().default_dtype().shape(&[N as u64, 2]).writer(&mut bytes).begin_nd().unwrap();
    writer.extend(rows.concat()).unwrap();
    writer.finish().unwrap();
    fs::write(&path, bytes).unwrap();
    path
}

fn lines(folder: &TempDir, name: &str, lines: &[serde_json::Value]) -> PathBuf {
    let path = folder.path().join(name);
    let mut file = fs::File::create(&path).unwrap();
    for line in lines {
        writeln!(file, "{line}").unwrap();
    }
    path
}

/// The lines of `xtask embed` for the same rows.
fn named_lines() -> Vec<serde_json::Value> {
    let audio = ["/any/where/a.wav", "b.wav", "clips/c.wav"].into_iter().zip(AUDIO);
    let text = ["a dog", "rain", "it rains", "a big dog"].into_iter().zip(TEXT);
    // The prompt of the class dog is the first clip's caption.
    let prompts = [("a rain", CLASSES[1])];
    let line =
        |kind: &'static str| move |(id, row): (&str, [f32; 2])| json!({"kind": kind, "id": id, "embedding": row});
    audio.map(line("audio")).chain(text.chain(prompts).map(line("text"))).collect()
}

fn measured(file: EmbeddingFile) -> (crate::Outcome, usize) {
    let (embedded, skipped) = file.join(&data(), &templates()).unwrap();
    (embedded.measure().unwrap(), skipped.len())
}

#[test]
fn every_kind_of_file_gives_the_same_metrics() {
    let folder = TempDir::new().unwrap();
    let paths = [
        npy_of(&folder, "audio.npy", &AUDIO),
        npy_of(&folder, "text.npy", &TEXT),
        npy_of(&folder, "classes.npy", &CLASSES),
    ];
    let (expected, skipped) = measured(EmbeddingFile::open(&paths).unwrap());
    assert_eq!(skipped, 0);
    assert_eq!(expected.zero_shot.as_ref().unwrap().predictions, [0, 1, 0]);
    assert_eq!(expected.retrieval.as_ref().unwrap().text_to_audio.recall_at_1, 1.0);

    let plain = folder.path().join("plain.safetensors");
    let tensors = HashMap::from([
        ("audio_embeds", tensor(&AUDIO)),
        ("text_embeds", tensor(&TEXT)),
        ("class_embeds", tensor(&CLASSES)),
    ]);
    candle_core::safetensors::save(&tensors, &plain).unwrap();
    assert_eq!(measured(EmbeddingFile::open(&[&plain]).unwrap()).0, expected);

    let named = lines(&folder, "embeds.jsonl", &named_lines());
    assert_eq!(measured(EmbeddingFile::open(&[named]).unwrap()), (expected.clone(), 0));

    let (embedded, _) = EmbeddingFile::open(&[plain]).unwrap().join(&data(), &[]).unwrap();
    let ours = folder.path().join("ours.safetensors");
    embedded.save(&ours).unwrap();
    let again = Embedded::load(&ours).unwrap();
    assert_eq!(again.measure().unwrap(), expected);
    assert_eq!((again.clips, again.captions, again.classes), (embedded.clips, embedded.captions, embedded.classes));
    assert_eq!((again.dataset.as_str(), again.split.as_str()), ("set", "test"));
}

#[test]
fn windows_are_saved_with_their_counts() {
    let folder = TempDir::new().unwrap();
    let mut skipped = Vec::new();
    let mut embedded = Embedded::new(&data(), &[0, 1, 2], tensor(&AUDIO), &mut skipped);
    embedded.class_embeds = Some(tensor(&CLASSES));
    embedded.windows =
        Some(Windows { embeds: tensor(&[[0.0, 1.0], [0.9, 1.0], [0.0, 1.0], [1.0, 0.0]]), counts: vec![2, 1, 1] });
    let path = folder.path().join("votes.safetensors");
    embedded.save(&path).unwrap();
    let found = Embedded::load(&path).unwrap().measure().unwrap();
    assert_eq!(found.zero_shot.unwrap().predictions, [1, 1, 0]);
}

/// Two clips of one file name in two folders: neither is given the other's embedding.
#[test]
fn a_file_name_serves_where_it_is_the_only_one() {
    let folder = TempDir::new().unwrap();
    let mut data = data();
    for (sample, id) in data.samples.iter_mut().zip(["dog/1.wav", "rain/1.wav", "dog/2.wav"]) {
        sample.id = id.to_owned();
        sample.audio = AudioSource::Memory { name: format!("clips/{id}"), bytes: Arc::from(*b"") };
    }
    let line = |id: &str| json!({"kind": "audio", "id": id, "embedding": [1.0, 2.0]});
    let file = lines(&folder, "some.jsonl", &[line("/x/dog/1.wav"), line("/x/2.wav"), line("rain/1.wav")]);
    let (embedded, skipped) = EmbeddingFile::open(&[file]).unwrap().join(&data, &templates()).unwrap();
    assert_eq!(embedded.clips, ["rain/1.wav", "dog/2.wav"]);
    assert_eq!(skipped[0].what, "dog/1.wav");
}

#[test]
fn a_clip_without_an_embedding_is_named() {
    let folder = TempDir::new().unwrap();
    let mut some = named_lines();
    some.remove(1);
    let file = EmbeddingFile::open(&[lines(&folder, "some.jsonl", &some)]).unwrap();
    let (embedded, skipped) = file.join(&data(), &templates()).unwrap();
    assert_eq!(embedded.clips, ["a.wav", "c.wav"]);
    assert_eq!(skipped[0].what, "b.wav");
    // Without prompts there is retrieval alone; without one caption there is nothing to trust.
    let texts = named_lines().len();
    let file = EmbeddingFile::open(&[lines(&folder, "no_prompt.jsonl", &named_lines()[..texts - 1])]).unwrap();
    let error = file.join(&data(), &templates()).unwrap_err().to_string();
    assert!(error.contains("1 of 2 prompts of classes") && error.contains("a rain"), "{error}");
}

fn refused(paths: &[PathBuf]) -> String {
    match EmbeddingFile::open(paths) {
        Ok(file) => file.join(&data(), &templates()).unwrap_err().to_string(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let folder = TempDir::new().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let two = npy_of(&folder, "two.npy", &CLASSES);
    let audio = npy_of(&folder, "audio.npy", &AUDIO);
    let error = refused(std::slice::from_ref(&two));
    assert!(error.contains("2 audio embeddings for 3 clips"), "{error}");
    let error = refused(&[audio.clone(), two]);
    assert!(error.contains("2 text embeddings for 4 captions"), "{error}");
    let error = refused(&[npy_of(&folder, "nan.npy", &[[0.0, 1.0], [f32::NAN, 0.0], [1.0, 1.0]])]);
    assert!(error.contains("audio embedding 1 is not finite"), "{error}");
    let error = refused(&[npy_of(&folder, "zero.npy", &[[0.0, 1.0], [0.0, 0.0], [1.0, 1.0]])]);
    assert!(error.contains("audio embedding 1 is zero"), "{error}");

    let whole = fs::read(&audio).unwrap();
    for (name, bytes) in [("cut.npy", &whole[..whole.len() - 3]), ("head.npy", &whole[..20]), ("text.npy", b"no array")]
    {
        let error = refused(&[write(name, bytes)]);
        assert!(error.contains(name), "{error}");
    }
    for (name, bytes) in [("x.safetensors", b"\xff\xff\xff\xff\xff\xff\xff\x7f{}".as_slice()), ("y.safetensors", b"")] {
        let error = refused(&[write(name, bytes)]);
        assert!(error.contains(name), "{error}");
    }
    let other = folder.path().join("other.safetensors");
    candle_core::safetensors::save(&HashMap::from([("embeds", tensor(&AUDIO))]), &other).unwrap();
    let error = refused(&[other]);
    assert!(error.contains("no `audio_embeds`") && error.contains("`embeds`"), "{error}");
    let error = refused(&[write(
        "bad.jsonl",
        b"{\"kind\": \"audio\", \"id\": \"a.wav\", \"embedding\": [1.0]}\n{\"kind\": 3}\n",
    )]);
    assert!(error.contains("bad.jsonl") && error.contains("line 2"), "{error}");
    let error =
        refused(&[lines(&folder, "other.jsonl", &[json!({"kind": "audio", "id": "q.wav", "embedding": [1.0, 2.0]})])]);
    assert!(error.contains("none of the 3 clips"), "{error}");
    let error = refused(&[write("a.txt", b"")]);
    assert!(error.contains("a.txt") && error.contains(".npy"), "{error}");
}

#[test]
fn a_split_that_contradicts_itself_is_refused() {
    let folder = TempDir::new().unwrap();
    let whole = || {
        let mut embedded = Embedded::new(&data(), &[0, 1, 2], tensor(&AUDIO), &mut Vec::new());
        embedded.class_embeds = Some(tensor(&CLASSES));
        embedded
    };
    type Spoil = fn(&mut Embedded);
    let spoil: [(&str, Spoil); 4] = [
        ("3 audio embeddings for 2 clips", |e| drop(e.clips.pop())),
        ("clip 1 has label 9", |e| e.labels[1] = vec![9]),
        ("2 lists of labels for 3 clips", |e| drop(e.labels.pop())),
        ("2 class embeddings for 1 classes", |e| drop(e.classes.pop())),
    ];
    for (expected, spoil) in spoil {
        let mut embedded = whole();
        spoil(&mut embedded);
        let path = folder.path().join("spoilt.safetensors");
        embedded.save(&path).unwrap();
        let error = Embedded::load(&path).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("spoilt.safetensors"), "{error}");
    }
}
