//! Each layout on a small tree as its authors publish it.

use std::collections::HashSet;

use super::*;
use crate::test_tree::Tree;
use crate::{DataSet, OpenOptions, evaluation_split, open, splits};

fn read_split(tree: &Tree, split: Option<&str>) -> DataSet {
    open(&tree.path(""), &OpenOptions { split: split.map(str::to_owned), ..OpenOptions::default() }).unwrap()
}

fn ids(data: &DataSet) -> Vec<&str> {
    data.samples.iter().map(|sample| sample.id.as_str()).collect()
}

fn skipped(data: &DataSet) -> Vec<String> {
    data.skipped.iter().map(ToString::to_string).collect()
}

fn file_of(data: &DataSet, at: usize) -> String {
    data.samples[at].audio.name().replace('\\', "/")
}

/// Two clips of folds 1 and 5 each.
fn esc50() -> Tree {
    let tree = Tree::new();
    let mut table = "filename,fold,target,category,esc10,src_file,take\n".to_owned();
    for (name, fold, target, class) in [
        ("1-100032-A-0.wav", 1, 0, "dog"),
        ("1-100038-A-14.wav", 1, 14, "chirping_birds"),
        ("5-9032-A-0.wav", 5, 0, "dog"),
        ("5-210571-A-38.wav", 5, 38, "clock_tick"),
    ] {
        tree.wav(&format!("audio/{name}"), 30);
        table += &format!("{name},{fold},{target},{class},False,100032,A\n");
    }
    tree.write("meta/esc50.csv", table);
    tree
}

#[test]
fn every_recipe_and_list_reads() {
    for files in &FILES {
        let benchmark = super::read(files).unwrap();
        assert!(!benchmark.templates.is_empty(), "{}", benchmark.name);
        for template in &benchmark.templates {
            caption::template(template).unwrap();
        }
        let mut names = HashSet::new();
        assert!(benchmark.splits.iter().all(|split| names.insert(&split.name)), "{}", benchmark.name);
        assert!(benchmark.evaluate.iter().all(|split| names.contains(split)), "{}", benchmark.name);
        let classes: HashSet<&String> = benchmark.classes.iter().collect();
        assert!(benchmark.phrases.keys().all(|class| classes.contains(class)), "{}", benchmark.name);
        let of_splits: usize = benchmark.splits.iter().map(|split| split.clips).sum();
        // The lists of GTZAN leave out what is there twice or broken.
        assert_eq!(of_splits, if benchmark.name == "gtzan" { 930 } else { benchmark.clips }, "{}", benchmark.name);
    }
    let classes: Vec<usize> = benchmarks().iter().map(|benchmark| benchmark.classes.len()).collect();
    assert_eq!(classes, [50, 10, 200, 309, 10, 0, 0, 527]);
}

#[test]
fn the_cards_are_there() {
    for benchmark in benchmarks() {
        let card = Path::new(env!("CARGO_MANIFEST_DIR")).join("datasets").join(&benchmark.name).join("card.md");
        let text = std::fs::read_to_string(&card).unwrap();
        assert!(text.starts_with(&format!("# {}\n", benchmark.title)), "{}", card.display());
        for split in &benchmark.splits {
            let row = format!("| {} | {} |", split.name, thousands(split.clips));
            assert!(text.contains(&row), "{}: no `{row}`", card.display());
        }
        assert!(text.contains(&benchmark.home), "{}: no {}", card.display(), benchmark.home);
    }
}

#[test]
fn esc50_has_five_folds() {
    let tree = esc50();
    assert_eq!(benchmark_at(&tree.path("")).unwrap().unwrap().name, "esc-50");
    assert_eq!(splits(&tree.path(""), &OpenOptions::default()).unwrap(), ["fold1", "fold2", "fold3", "fold4", "fold5"]);
    assert_eq!(evaluation_split(&tree.path(""), &OpenOptions::default()).unwrap(), None, "all of it");
    let data = read_split(&tree, None);
    assert_eq!((data.name.as_str(), data.split.as_str()), ("esc-50", "all"));
    assert_eq!(ids(&data), ["1-100032-A-0.wav", "1-100038-A-14.wav", "5-9032-A-0.wav", "5-210571-A-38.wav"]);
    assert_eq!(data.samples[1].labels, ["chirping_birds"]);
    assert_eq!(data.samples[1].captions, ["The sound of chirping birds"]);
    assert_eq!(data.samples[1].meta["fold"], "1");
    assert_eq!(data.classes.len(), 50);
    assert_eq!((data.classes[0].as_str(), data.classes[49].as_str()), ("dog", "hand_saw"));
    assert_eq!(data.templates, ["This is a sound of {label}."]);
    assert!(!data.multi_label);
    assert_eq!(skipped(&data), ["ESC-50: 4 of 2,000 clips"]);
    assert!(data.samples[0].audio.load(48_000).is_ok());

    let one = read_split(&tree, Some("fold1"));
    assert_eq!(ids(&one), ["1-100032-A-0.wav", "1-100038-A-14.wav"]);
    assert_eq!(skipped(&one), ["ESC-50 fold1: 2 of 400 clips"]);
    let others = read_split(&tree, Some("!fold1"));
    assert_eq!(ids(&others), ["5-9032-A-0.wav", "5-210571-A-38.wav"]);
    assert_eq!(
        (others.split.as_str(), skipped(&others)),
        ("!fold1", vec!["ESC-50 !fold1: 2 of 1,600 clips".to_owned()])
    );
    let error = open(&tree.path(""), &OpenOptions { split: Some("!fold6".into()), ..OpenOptions::default() });
    assert!(error.unwrap_err().to_string().contains("no split `fold6`; there are: fold1, fold2"));
    let strict = open(&tree.path(""), &OpenOptions { strict: true, ..OpenOptions::default() });
    assert!(strict.unwrap_err().to_string().contains("4 of 2,000 clips"));
}

#[test]
fn folds_of_an_open_data_set() {
    let data = read_split(&esc50(), None);
    assert_eq!(data.folds(), ["fold1", "fold5"]);
    let fold = data.fold("fold5").unwrap();
    assert_eq!(ids(&fold.test), ["5-9032-A-0.wav", "5-210571-A-38.wav"]);
    assert_eq!(ids(&fold.train), ["1-100032-A-0.wav", "1-100038-A-14.wav"]);
    assert_eq!(fold.test.templates, data.templates);
}

#[test]
fn sounds_that_are_missing_or_were_converted() {
    let tree = esc50();
    std::fs::remove_file(tree.path("audio/5-9032-A-0.wav")).unwrap();
    std::fs::rename(tree.path("audio/1-100032-A-0.wav"), tree.path("audio/1-100032-A-0.flac")).unwrap();
    // A file of the same name elsewhere is another.
    tree.wav("old/5-9032-A-0.wav", 30);
    let data = read_split(&tree, None);
    assert!(file_of(&data, 0).ends_with("audio/1-100032-A-0.flac"));
    assert_eq!(skipped(&data), ["ESC-50: 3 of 2,000 clips; 1 without a sound file, the first: 5-9032-A-0.wav"]);
}

#[test]
fn bad_rows_are_named() {
    let tree = esc50();
    let mut table = std::fs::read(tree.path("meta/esc50.csv")).unwrap();
    table.extend(b"too,short\n1-1-A-0.wav,1,0,\xff,False,1,A\n../../etc/passwd,1,0,dog,False,1,A\n");
    table.extend(b"1-2-A-0.wav,1,0,a_new_class,False,1,A\n");
    tree.write("meta/esc50.csv", table).wav("audio/1-2-A-0.wav", 9);
    let data = read_split(&tree, None);
    assert_eq!(data.samples.len(), 4);
    let skipped = skipped(&data);
    assert_eq!(skipped.len(), 4, "{skipped:?}");
    for (line, words) in skipped.iter().zip([
        "esc50.csv:6: 2 cells, where 7 belong",
        "esc50.csv:7: not UTF-8",
        "ESC-50: 4 of 2,000 clips; 1 without a sound file, the first: ../../etc/passwd; 1 without a caption or a known label",
        "ESC-50: labels that are none of its classes: 1, the first: a_new_class",
    ]) {
        assert!(line.contains(words), "{line}");
    }
}

#[test]
fn urbansound8k_has_ten_folds_in_folders() {
    let tree = Tree::new();
    tree.wav("audio/fold1/101415-3-0-2.wav", 9).wav("audio/fold10/100648-1-0-0.wav", 9);
    tree.write(
        "metadata/UrbanSound8K.csv",
        "slice_file_name,fsID,start,end,salience,fold,classID,class\n\
         101415-3-0-2.wav,101415,1.0,5.0,1,1,3,dog_bark\n100648-1-0-0.wav,100648,4.8,5.4,2,10,1,car_horn\n",
    );
    assert_eq!(splits(&tree.path(""), &OpenOptions::default()).unwrap().len(), 10);
    let data = read_split(&tree, Some("fold10"));
    assert_eq!((ids(&data), data.samples[0].labels[0].as_str()), (vec!["100648-1-0-0.wav"], "car_horn"));
    assert_eq!(skipped(&data), ["UrbanSound8K fold10: 1 of 837 clips"]);
    assert_eq!(read_split(&tree, None).folds(), ["fold1", "fold10"]);
}

#[test]
fn fsd50k_has_several_labels() {
    let tree = Tree::new();
    tree.wav("FSD50K.dev_audio/64760.wav", 9).wav("FSD50K.dev_audio/345111.wav", 9);
    tree.wav("FSD50K.eval_audio/37199.wav", 9).wav("FSD50K.eval_audio/64760.wav", 9);
    tree.write(
        "FSD50K.ground_truth/dev.csv",
        "fname,labels,mids,split\n64760,\"Electric_guitar,Guitar,Music\",\"/m/02sgy,/m/0342h,/m/04rlf\",train\n\
         345111,\"Dishes_and_pots_and_pans\",\"/m/04brg2\",val\n",
    );
    tree.write(
        "FSD50K.ground_truth/eval.csv",
        "fname,labels,mids\n37199,\"Crash_cymbal,Cymbal\",\"/m/0bm0k,/m/01qbl\"\n",
    );
    assert_eq!(splits(&tree.path(""), &OpenOptions::default()).unwrap(), ["train", "val", "eval"]);
    assert_eq!(evaluation_split(&tree.path(""), &OpenOptions::default()).unwrap().as_deref(), Some("eval"));
    let train = read_split(&tree, Some("train"));
    assert_eq!(train.samples[0].labels, ["Electric_guitar", "Guitar", "Music"]);
    assert_eq!(train.samples[0].captions, ["The sounds of Electric guitar, Guitar and Music"]);
    assert!(train.multi_label && file_of(&train, 0).contains("dev_audio"));
    let val = read_split(&tree, Some("val"));
    assert_eq!(val.samples[0].captions, ["The sound of Dishes, pots, and pans"]);
    assert_eq!(val.phrase("Dishes_and_pots_and_pans"), "Dishes, pots, and pans");
    assert_eq!(val.phrase("Crash_cymbal"), "Crash cymbal");
    assert_eq!(skipped(&val), ["FSD50K val: 1 of 4,170 clips"]);
    assert_eq!(ids(&read_split(&tree, Some("eval"))), ["37199"]);
    assert_eq!(read_split(&tree, Some("!eval")).samples.len(), 2);
    assert_eq!(read_split(&tree, None).skipped.len(), 3, "one line a split");
    assert_eq!((train.classes[16].as_str(), train.classes.len()), ("Boat_and_Water_vehicle", 200));
}

#[test]
fn vggsound_has_no_header() {
    let tree = Tree::new();
    tree.wav("video/---g-f_I2yQ_000001.wav", 9).wav("video/--0PQM4-hqg_30.wav", 9).wav("--56QUhyDQM.wav", 9);
    tree.write(
        "vggsound.csv",
        "---g-f_I2yQ,1,people marching,test\n--0PQM4-hqg,30,waterfall burbling,train\n\
         --56QUhyDQM,185,\"female speech, woman speaking\",train\n--gone,0,hail,train\n",
    );
    assert_eq!(splits(&tree.path(""), &OpenOptions::default()).unwrap(), ["train", "test"]);
    let data = read_split(&tree, Some("train"));
    assert_eq!(ids(&data), ["--0PQM4-hqg_000030", "--56QUhyDQM_000185"]);
    assert_eq!(data.samples[1].labels, ["female speech, woman speaking"]);
    assert_eq!(data.samples[1].meta["start_seconds"], "185");
    let skipped = skipped(&data);
    assert_eq!(skipped.len(), 1);
    assert!(
        skipped[0]
            .starts_with("VGGSound train: 2 of 183,730 clips; 1 without a sound file, the first: --gone_000000 (v")
    );
    assert_eq!(read_split(&tree, Some("test")).samples[0].captions, ["The sound of people marching"]);
}

#[test]
fn audiocaps_has_five_captions_of_a_clip() {
    let tree = Tree::new();
    tree.wav("audio/train/Yr1nicOVtvkQ.wav", 9).wav("audio/rqfQRErjfk8_170.wav", 9).wav("91139.wav", 9);
    tree.write(
        "dataset/train.csv",
        "audiocap_id,youtube_id,start_time,caption\n91139,gone,130,A woman talks\n58146,r1nicOVtvkQ,130,\"A door, closing\"\n",
    );
    let five = (1..=5).map(|number| format!("{number},rqfQRErjfk8,170,Caption {number}\n")).collect::<String>();
    let absent = "6,Absent_clip,20,x\n7,Absent_clip,20,y\n";
    tree.write("dataset/test.csv", format!("audiocap_id,youtube_id,start_time,caption\n{five}{absent}"));
    assert_eq!(splits(&tree.path(""), &OpenOptions::default()).unwrap(), ["train", "test"]);
    let test = read_split(&tree, None);
    assert_eq!(ids(&test), ["gone_130", "r1nicOVtvkQ_130", "rqfQRErjfk8_170"]);
    assert!(file_of(&test, 0).ends_with("91139.wav"), "a file may be named by the number of its caption");
    let test = read_split(&tree, Some("test"));
    assert_eq!(test.samples[0].captions, ["Caption 1", "Caption 2", "Caption 3", "Caption 4", "Caption 5"]);
    assert!(test.samples[0].labels.is_empty() && test.classes.is_empty());
    let skipped = skipped(&test);
    assert!(
        skipped[0].starts_with("AudioCaps test: 1 of 975 clips; 1 without a sound file, the first: Absent_clip_20")
    );
}

#[test]
fn clotho_keeps_its_official_names() {
    let tree = Tree::new();
    let header = "file_name,caption_1,caption_2,caption_3,caption_4,caption_5\n";
    for split in ["development", "validation", "evaluation"] {
        tree.wav(&format!("{split}/A rainy day.wav"), 9);
        tree.write(
            &format!("clotho_captions_{split}.csv"),
            format!("{header}A rainy day.wav,{split} one,\"two, two\",three,four,\nabsent.wav,a,b,c,d,e\n"),
        );
    }
    assert_eq!(splits(&tree.path(""), &OpenOptions::default()).unwrap(), ["development", "validation", "evaluation"]);
    assert_eq!(evaluation_split(&tree.path(""), &OpenOptions::default()).unwrap().as_deref(), Some("evaluation"));
    let data = read_split(&tree, Some("evaluation"));
    assert_eq!(data.samples[0].captions, ["evaluation one", "two, two", "three", "four"]);
    assert!(file_of(&data, 0).contains("/evaluation/"));
    assert_eq!(skipped(&data), ["Clotho evaluation: 1 of 1,045 clips; 1 without a sound file, the first: absent.wav"]);
    assert_eq!(read_split(&tree, None).samples.len(), 3);
}

#[test]
fn audioset_labels_are_names() {
    let tree = Tree::new();
    tree.wav("eval/--4gqARaEJE_0_10000.flac", 9).wav("eval/Y--BfvyPmVMo.wav", 9);
    tree.write(
        "eval_segments.csv",
        "# Segments csv created Sun Mar  5 10:54:25 2017\n\
         # num_ytids=20371, num_segs=20371, num_unique_labels=527, num_positive_labels=51804\n\
         # YTID, start_seconds, end_seconds, positive_labels\n\
         --4gqARaEJE, 0.000, 10.000, \"/m/068hy,/m/07q6cd_,/m/0bt9lr\"\n\
         --BfvyPmVMo, 20.000, 30.000, \"/m/03l9g,/m/nothing\"\n\
         --U7joUcTCo, 0.000, 10.000, \"/m/01b_21\"\n",
    );
    let data = read_split(&tree, Some("eval"));
    assert_eq!(ids(&data), ["--4gqARaEJE_0_10000", "--BfvyPmVMo_20000_30000"]);
    assert_eq!(data.samples[0].labels, ["Domestic animals, pets", "Squeak", "Dog"]);
    assert_eq!(data.samples[0].meta["YTID"], "--4gqARaEJE");
    assert_eq!(data.samples[1].labels, ["Hammer"]);
    assert_eq!((data.classes.len(), data.multi_label), (527, true));
    let skipped = skipped(&data);
    assert_eq!(skipped.len(), 2, "{skipped:?}");
    assert!(skipped[0].contains("2 of 20,371 clips; 1 without a sound file, the first: --U7joUcTCo_0_10000"));
    assert!(skipped[1].contains("labels that are none of its classes: 1, the first: /m/nothing"));
}

#[test]
fn gtzan_is_a_folder_for_each_genre() {
    let tree = Tree::new();
    for name in ["blues/blues.00000", "blues/blues.00001", "rock/rock.00099"] {
        tree.wav(&format!("genres/{name}.wav"), 9);
    }
    assert_eq!(splits(&tree.path(""), &OpenOptions::default()).unwrap(), [] as [&str; 0]);
    let data = read_split(&tree, None);
    assert_eq!((data.name.as_str(), ids(&data)), ("gtzan", vec!["blues.00000", "blues.00001", "rock.00099"]));
    assert_eq!(data.samples[2].labels, ["rock"]);
    assert_eq!(data.templates, ["This is a {label} song."]);
    assert_eq!(skipped(&data), ["GTZAN: 3 of 1,000 clips"]);

    tree.write("test_filtered.txt", "blues/blues.00001.wav\nrock/rock.00099.wav\nrock/rock.00098.wav\n");
    assert_eq!(evaluation_split(&tree.path(""), &OpenOptions::default()).unwrap().as_deref(), Some("test"));
    let test = read_split(&tree, Some("test"));
    assert_eq!(ids(&test), ["blues.00001", "rock.00099"]);
    assert_eq!(skipped(&test), ["GTZAN test: 2 of 290 clips; 1 without a sound file, the first: rock/rock.00098.wav"]);
}

#[test]
fn other_folders_are_no_benchmarks() {
    let tree = Tree::new();
    tree.write("train.csv", "path,caption\na.wav,x\n").write("vggsound.csv", "a,b\n").write("rock/a.txt", "");
    tree.write("meta/esc50.csv", [0u8, 1, 255]);
    assert!(benchmark_at(&tree.path("")).unwrap().is_none());
    let error = open(&tree.path(""), &OpenOptions::default()).unwrap_err().to_string();
    assert!(error.contains("no data set here") && error.contains("dataset list"), "{error}");
    // A metadata file of the user's comes first.
    let tree = esc50();
    tree.wav("mine.wav", 9).write("metadata.csv", "file_name,text\nmine.wav,x\n");
    assert_eq!(ids(&read_split(&tree, None)), ["mine.wav"]);
}

#[test]
fn a_class_list_of_the_users_comes_first() {
    let tree = esc50();
    tree.write("classes.json", r#"["dog", "clock_tick"]"#).write("../classes.json", r#"["x"]"#);
    assert_eq!(read_split(&tree, None).classes, ["dog", "clock_tick"]);
    std::fs::remove_file(tree.path("classes.json")).unwrap();
    assert_eq!(read_split(&tree, None).classes.len(), 50, "the folder above is another's");
}
