//! `cargo xtask dataset`: looking at data sets and making new ones, by the real program.

use std::fs;
use std::path::Path;

use crate::cli::program::{tone, tones, xtask};
use crate::cli::run::trained;

/// A data set of four kinds of tones, and the path of a file or folder beside it.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new(train: usize, valid: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("data")).unwrap();
        tones(&folder.path().join("data"), train, valid);
        Self { folder }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn data(&self) -> String {
        self.path("data")
    }
}

/// The names in a folder, sorted.
fn names(folder: impl AsRef<Path>) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = entries.collect();
    names.sort();
    names
}

#[test]
fn inspect_counts_and_draws() {
    let place = Place::new(3, 1);
    fs::write(place.path("data/hum_1.wav"), "no sound").unwrap();
    let found = &xtask(&["dataset", "inspect", &place.data(), "--json"]).succeeds().json()[0];
    assert_eq!(found["name"], "data");
    assert_eq!((&found["all"]["clips"], &found["all"]["broken"]), (&16.into(), &1.into()));
    assert_eq!(found["splits"][0]["split"], "train");
    assert_eq!(found["splits"][1]["labels"]["hum"], 1);
    assert_eq!(found["all"]["sample_rates"]["16000"], 15);
    assert_eq!(found["faults"][0]["id"], "hum_1.wav");

    let page = place.path("page.html");
    let ran = xtask(&["dataset", "inspect", &place.data(), "--html", &page, "--pictures", "2"]);
    ran.succeeds();
    for text in ["train", "valid", "all", "16000 Hz", "words a caption", "broken"] {
        assert!(ran.stdout.contains(text), "no {text} in {}", ran.stdout);
    }
    assert!(ran.stderr.contains("broken: train/hum_1.wav"), "{ran:#?}");
    let html = fs::read_to_string(&page).unwrap();
    assert!(html.contains("<svg") && html.contains("hum_1.wav") && html.contains("a hum in a room"));
    assert_eq!(html.matches("data:image/png;base64,").count(), 2);
    // Nothing to fetch.
    assert!(!html.contains("src=\"http") && !html.contains("<script") && !html.contains("<link"));
    let again = ["dataset", "inspect", &place.data(), "--fast", "--html", &page];
    xtask(&again).fails(2, &["page.html", "--overwrite"]);
    xtask(&[&again[..], &["--overwrite", "--pictures", "0"]].concat()).succeeds();
    assert_ne!(fs::read_to_string(&page).unwrap(), html);
    xtask(&["dataset", "inspect", &place.data(), "--strict"]).fails(3, &["1 clips are broken"]);
    xtask(&["dataset", "inspect", &place.path("absent")]).fails(3, &["absent"]);
}

#[test]
fn a_stopped_pack_goes_on() {
    let place = Place::new(5, 2);
    let pack = |out: &str, more: &[&str]| {
        let arguments = ["dataset", "pack", &place.data(), &place.path(out), "--per-shard", "4"];
        xtask(&[&arguments[..], more].concat())
    };
    pack("whole", &[]).succeeds();
    let first = place.path("whole/train/0.tar");
    assert!(String::from_utf8_lossy(&fs::read(&first).unwrap()).contains(".flac"));

    // The third kind of tone cannot be read, so the run stops in its third shard.
    let (sound, hidden) = (place.path("data/beep_2.wav"), place.path("hidden.wav"));
    fs::copy(&sound, &hidden).unwrap();
    fs::write(&sound, "no sound").unwrap();
    pack("stopped", &["--strict"]).fails(3, &["beep_2.wav"]);
    assert_eq!(names(place.path("stopped/train")), [".pack.json", "0.tar", "1.tar", "2.tar"]);
    // Without --strict it is left out and counted; the other folder is not touched.
    let skipped = pack("skipped", &[]);
    assert!(skipped.succeeds().stderr.contains("1 skipped"), "{skipped:#?}");
    assert!(skipped.stdout.contains("19 clips in 5 shards"), "{}", skipped.stdout);

    fs::copy(&hidden, &sound).unwrap();
    pack("stopped", &["--resample", "no"]).fails(3, &["stopped", "other options"]);
    let ran = pack("stopped", &["--strict"]);
    assert!(ran.succeeds().stdout.contains("(3 of them there already)"), "{}", ran.stdout);
    for split in ["train", "valid"] {
        let names = names(place.path(&format!("whole/{split}")));
        assert!(names.contains(&"sizes.json".to_owned()) && !names.contains(&".pack.json".to_owned()), "{names:?}");
        for name in names {
            let file = |job: &str| fs::read(place.path(&format!("{job}/{split}/{name}"))).unwrap();
            assert!(file("whole") == file("stopped"), "{split}/{name} differs");
        }
    }
    pack("stopped", &[]).fails(3, &["holds shards already"]);
    pack("rates", &["--resample", "12"]).fails(2, &["--resample", "1000"]);
}

#[test]
fn nothing_is_written_outside_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    fs::create_dir(&data).unwrap();
    tone(&data.join("a.wav"), 300.0, 0.2);
    fs::write(data.join("metadata.csv"), "file_name,text,split\na.wav,x,../../evil\n").unwrap();
    let out = folder.path().join("deep/out").display().to_string();
    xtask(&["dataset", "pack", &data.display().to_string(), &out]).fails(3, &["../../evil"]);
    assert_eq!(names(folder.path()), ["data"]);
    let arguments = ["dataset", "split", &data.display().to_string(), &out, "--by", "none", "--fractions", "../x=1"];
    xtask(&arguments).fails(2, &["../x", "folder"]);
    assert_eq!(names(folder.path()), ["data"]);
}

#[test]
fn split_keeps_groups_whole_and_says_what_went_where() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    fs::create_dir(path("data")).unwrap();
    let mut rows = "file_name,text,label,speaker\n".to_owned();
    for clip in 0..40 {
        tone(&folder.path().join(format!("data/{clip}.wav")), 200.0 + clip as f32, 0.1);
        rows += &format!("{clip}.wav,clip {clip},{},s{}\n", ["low", "high"][clip % 2], clip / 4);
    }
    fs::write(path("data/metadata.csv"), rows).unwrap();
    let split = |out: &str, more: &[&str]| {
        xtask(&[&["dataset", "split", &path("data"), &path(out), "--by", "speaker"][..], more].concat())
    };
    let counts = &split("out", &["--json", "--seed", "3"]).succeeds().json()[0];
    assert_eq!(counts["clips"], serde_json::json!({"train": 32, "valid": 4, "test": 4}));
    assert_eq!(counts["labels"]["high"], serde_json::json!({"train": 16, "valid": 2, "test": 2}));
    assert_eq!(counts["groups"], 10);
    assert_eq!(names(path("out")), ["classes.json", "test", "train", "valid"]);
    let inspected = &xtask(&["dataset", "inspect", &path("out"), "--json"]).succeeds().json()[0];
    assert_eq!((&inspected["all"]["clips"], &inspected["all"]["broken"]), (&40.into(), &0.into()));
    assert_eq!(inspected["repeats"]["sounds_across_splits"], 0);
    // The same seed gives the same; so do shards.
    let table = split("shards", &["--seed", "3", "--shards", "--keep"]);
    assert!(table.succeeds().stdout.contains("32") && table.stdout.contains("10 groups"), "{}", table.stdout);
    let metadata = fs::read_to_string(path("out/valid/metadata.csv")).unwrap();
    let shard = fs::read(path("shards/valid/0.tar")).unwrap();
    let shard = String::from_utf8_lossy(&shard);
    for row in metadata.lines().skip(1) {
        assert!(shard.contains(row.split(',').next().unwrap()), "{row}");
    }
    split("out", &[]).fails(3, &["not empty"]);
    split("other", &["--by", "none"]).fails(2, &["--by"]);
    xtask(&["dataset", "split", &path("data"), &path("x"), "--by", "singer"]).fails(2, &["singer", "speaker"]);
    xtask(&["dataset", "split", &path("data"), &path("x"), "--by", "none", "--fractions", "a=.5,b=.4"])
        .fails(2, &["0.9"]);
}

#[test]
fn what_two_sets_share_can_be_left_out() {
    let place = Place::new(4, 2);
    // The whistles of the evaluation set, at another level: one file as it is, one not.
    let other = tempfile::tempdir().unwrap();
    tone(&other.path().join("x.wav"), 321.0, 0.4);
    fs::copy(place.path("data/whistle_5.wav"), other.path().join("taken.wav")).unwrap();
    fs::write(other.path().join("metadata.csv"), "file_name,text\nx.wav,a tone\ntaken.wav,a whistle\n").unwrap();
    let (other, list) = (other.path().display().to_string(), place.path("list.csv"));
    let overlap = ["dataset", "overlap", &place.data(), &other, "--exact", "--out", &list];
    let ran = xtask(&overlap);
    assert!(ran.succeeds().stdout.contains("whistle_5.wav"), "{}", ran.stdout);
    assert!(ran.stdout.contains("1 of 24 clips of data match 1 of 2 clips"), "{}", ran.stdout);
    let text = fs::read_to_string(&list).unwrap();
    assert_eq!(text, "id,reason,matched,score,offset\nwhistle_5.wav,same samples,taken.wav,1.000,0.00\n");
    xtask(&overlap).fails(2, &["list.csv", "--overwrite"]);
    let lines = xtask(&["dataset", "overlap", &place.data(), &other, "--exact", "--json"]).succeeds().json();
    assert_eq!((lines.len(), &lines[0]["reason"]), (1, &"same samples".into()));

    let eval = |more: &[&str]| {
        let arguments = ["eval", "--json", "--model", &trained().model(), "--data", &place.data()];
        xtask(&[&arguments[..], more].concat())
    };
    let samples = |ran: &crate::cli::program::Ran| ran.json()[0]["metrics"]["num_samples"].clone();
    assert_eq!(samples(eval(&[]).succeeds()), 8);
    let fewer = eval(&["--exclude", &list]);
    assert_eq!(samples(fewer.succeeds()), 7);
    assert!(fewer.stderr.contains("1 clips excluded; of 1 ids on the list 0 are not in this data"), "{fewer:#?}");
    eval(&["--exclude", &place.path("absent.csv")]).fails(3, &["absent.csv"]);
    let excluded = xtask(&["dataset", "pack", &place.data(), &place.path("out"), "--keep", "--exclude", &list]);
    assert!(excluded.succeeds().stdout.contains("7 clips in 1 shards"), "{}", excluded.stdout);
    // Training opens its clips before anything else, so the list is missed at once.
    let set = format!("data.train={}", place.data());
    xtask(&["train", "--set", &set, "--exclude", &place.path("absent.csv")]).fails(3, &["data.train", "absent.csv"]);
}
