//! What a run writes, what is repeatable, what is refused.

use std::fs;

use clap_train::event::Ending;
use clap_train::{RunFolder, Setup, TrainConfig, TrainData, Trainer};

use crate::bench::{Bench, Record, losses};

#[test]
fn a_run_learns_and_leaves_a_model_folder() {
    let bench = Bench::new();
    let (done, record) = bench.train(
        "run",
        &[
            // One of eight clips more or less is chance; over eight seeds top-1 was 0.5 to 1, on average 0.75.
            "seed=3",
            "schedule.epochs=50",
            "optim.lr=3e-3",
            "eval.every=10",
            "model.text.hidden_dropout_prob=0.0",
            "model.text.attention_probs_dropout_prob=0.0",
        ],
    );
    assert_eq!((done.steps, done.ending, done.skipped), (200, Ending::Epochs, 0));
    assert!(record.warnings.is_empty(), "{:?}", record.warnings);
    assert_eq!(record.evals.iter().map(|e| e.epoch).collect::<Vec<_>>(), [0, 10, 20, 30, 40, 50]);
    // Four tones: the trained model tells them apart, the untrained one does not.
    assert!(done.best["zeroshot_acc1"] >= 0.75, "{:?}", done.best);
    assert_eq!(done.best["zeroshot_chance_acc1"], 0.25);
    let last = record.steps.last().unwrap();
    assert!(last.lr < 1e-4 && last.progress == 1.0 && last.logit_scale > 1.0);

    let run = bench.path("run");
    for link in [RunFolder::best(&run), RunFolder::latest(&run)] {
        let folder = clap_encoders::load_folder(&link).unwrap();
        folder.model(candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();
    }
    let report = fs::read_to_string(run.join("report.md")).unwrap();
    assert!(report.contains("zero-shot top-1") && report.contains("curves/loss.svg"), "{report}");
    // The resolved configuration is one that runs.
    let again = TrainConfig::load(&run.join("config.toml")).unwrap();
    again.validate().unwrap();
    let Some(clap_encoders::AudioConfig::HtsAt(audio)) = again.model.audio else { panic!("no HTS-AT") };
    assert_eq!(audio.depths, [1, 1]);

    // A model folder is a start for another run, at the metrics where this one stopped.
    let best = RunFolder::latest(&run);
    let init = [
        format!("model.init={}", best.display()),
        "model.audio=".to_owned(),
        "model.text=".to_owned(),
        "features=".to_owned(),
        "data.tokenizer=".to_owned(),
        "schedule.epochs=1".to_owned(),
        "optim.lr=1e-5".to_owned(),
    ];
    let (_, tuned) = bench.train("tuned", &init.each_ref().map(String::as_str));
    assert_eq!(tuned.evals[0].metrics, done.last);
    assert!(matches!(&tuned.initialised[..], [one] if one.contains("model.safetensors")), "{:?}", tuned.initialised);
    assert!(record.initialised.is_empty());
}

#[test]
fn towers_start_from_another_models_and_the_rest_anew() {
    let bench = Bench::new();
    bench.train("first", &["schedule.epochs=1"]);
    let first = RunFolder::latest(&bench.path("first"));
    let (audio, text) =
        (format!("model.init_audio={}", first.display()), format!("model.init_text={}", first.display()));
    // Sizes and tokenizer come from there.
    let overrides =
        [&audio, &text, "model.audio=", "model.text=", "data.tokenizer=", "schedule.epochs=1", "optim.lr=1e-9"];
    let setup = Setup::open(bench.config(&overrides)).unwrap();
    let trained = clap_encoders::load_folder(&first).unwrap();
    assert_eq!(setup.clap_config.audio_config, trained.config.audio_config);
    assert_eq!(setup.clap_config.text_config, trained.config.text_config);
    let mut taken = 0;
    for (name, var) in setup.vars.iter() {
        let stored = trained.checkpoint.stored(&name, var.device()).unwrap().unwrap();
        let difference =
            (var.as_tensor() - stored).unwrap().abs().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
        let is_tower = name.contains("_model.");
        taken += usize::from(is_tower);
        assert!(is_tower == (difference == 0.0) || name.starts_with("logit_scale"), "{name} differs by {difference}");
    }
    assert!(taken > 20);

    let (_, record) = bench.train("second", &overrides);
    let [audio_told, text_told] = &record.initialised[..] else { panic!("{:?}", record.initialised) };
    assert!(audio_told.starts_with("audio tower: ") && text_told.starts_with("text tower: "));
    assert!(text_told.contains("model.safetensors; left out: audio_model ("), "{text_told}");
    // What a run was made of is what it is made of again.
    let resolved = TrainConfig::load(&bench.path("second").join("config.toml")).unwrap();
    assert_eq!(Setup::open(resolved).unwrap().clap_config, setup.clap_config);

    for (overrides, parts) in [
        (
            &[&audio, "model.audio.depths=[1, 2]"][..],
            &["model.init_audio", "audio_model.audio_encoder.layers.1.blocks.1.layernorm_before.weight"][..],
        ),
        (&[&text], &["model.text", "model.init_text"]),
        (&["model.init_audio=/no/such.ckpt"], &["model.init_audio", "/no/such.ckpt"]),
        (&["model.init_text=/no/such", "model.text="], &["model.init_text", "/no/such"]),
    ] {
        let message = bench.refused(overrides);
        for part in parts {
            assert!(message.contains(part), "{overrides:?}: {message}");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_run_whatever_the_workers() {
    let bench = Bench::new();
    let (_, one) = bench.train("one", &["schedule.epochs=2", "data.workers=1"]);
    let (_, three) = bench.train("three", &["schedule.epochs=2", "data.workers=3", "data.cache_mb=0"]);
    assert_eq!(losses(&one), losses(&three));
    assert_eq!(one.evals.last().unwrap().metrics, three.evals.last().unwrap().metrics);
    let (_, other) = bench.train("other", &["schedule.epochs=2", "seed=1"]);
    assert_ne!(losses(&one), losses(&other));
}

#[test]
fn a_time_budget_ends_the_run_with_an_evaluation() {
    let bench = Bench::new();
    let (done, record) = bench.train("timed", &["schedule.epochs=1000000", "schedule.max_minutes=0.1"]);
    assert_eq!(done.ending, Ending::Time);
    assert!(done.elapsed < 6.5, "{} s", done.elapsed);
    assert_eq!(record.evals.last().unwrap().step, done.steps);
    let last = record.steps.last().unwrap();
    assert!(last.lr < 0.05 * 5e-3, "the rate is still {}", last.lr);
}

#[test]
fn a_run_stops_on_request_with_a_checkpoint() {
    let bench = Bench::new();
    let mut record = Record { stop_after: Some(3), ..Record::default() };
    let run = bench.path("stopped");
    let done = Trainer::new(bench.config(&[]), &run).unwrap().run(&mut record).unwrap();
    assert_eq!((done.ending, done.steps), (Ending::Requested, 3));
    let state = RunFolder::latest(&run).join(clap_train::state::STATE_FILE);
    let state = clap_train::state::TrainingState::load(&state).unwrap();
    assert_eq!((state.position.step, state.position.epoch, state.position.batch), (3, 0, 3));
    assert!(state.optimizer.contains_key("exp_avg.logit_scale_a"));
}

#[test]
fn bad_clips_are_skipped_once_each_unless_strict() {
    let bench = Bench::new();
    fs::write(bench.path("low_hum_0.wav"), "this is no sound").unwrap();
    fs::write(bench.path("low_hum_9.wav"), "").unwrap();
    let (done, record) = bench.train("tolerant", &["schedule.epochs=2"]);
    assert_eq!((done.skipped, record.skipped.len()), (2, 2), "{:?}", record.skipped);
    let strict = bench.config(&["data.strict=true"]);
    let run = bench.path("strict");
    let message = match Trainer::new(strict, &run) {
        Ok(trainer) => trainer.run(&mut ()).unwrap_err().to_string(),
        Err(error) => error.to_string(),
    };
    assert!(message.contains("low_hum_"), "{message}");
}

#[test]
fn a_run_streams_its_shards() {
    let bench = Bench::new();
    let (shards, split) = (bench.path("shards"), Some("train".to_owned()));
    let options = clap_data::OpenOptions { split, ..clap_data::OpenOptions::default() };
    let data = clap_data::open(&bench.path(""), &options).unwrap();
    let options = clap_data::PackOptions { per_shard: 9, ..clap_data::PackOptions::default() };
    clap_data::pack(&data.samples, &shards, &options, &mut |_| {}).unwrap();
    let train = format!("data.train={}", shards.display());
    let streamed = ["schedule.epochs=2", &train, "data.train_split=", "data.stream=true", "data.readers=2"];
    let (done, one) = bench.train("one", &[&streamed[..], &["data.workers=1"]].concat());
    assert_eq!((done.steps, done.skipped, done.ending), (8, 0, Ending::Epochs));
    let (_, three) = bench.train("three", &[&streamed[..], &["data.workers=3"]].concat());
    assert_eq!(losses(&one), losses(&three));
    let mut first = Record { stop_after: Some(3), ..Record::default() };
    Trainer::new(bench.config(&streamed), &bench.path("stopped")).unwrap().run(&mut first).unwrap();
    let mut second = Record::default();
    Trainer::resume(&bench.path("stopped")).unwrap().run(&mut second).unwrap();
    assert_eq!([losses(&first), losses(&second)].concat(), losses(&one));

    // A lost shard takes its clips and nothing else.
    fs::remove_file(shards.join("2.tar")).unwrap();
    let (done, record) = bench.train("lost", &streamed);
    assert_eq!((done.steps, record.skipped.len()), (8, 1), "{:?}", record.skipped);
    assert!(record.skipped[0].ends_with("2.tar"), "{:?}", record.skipped);
    let strict = bench.config(&[&streamed[..], &["data.strict=true"]].concat());
    let message = Trainer::new(strict, &bench.path("strict")).unwrap().run(&mut ()).unwrap_err().to_string();
    assert!(message.contains("2.tar"), "{message}");

    fs::remove_file(shards.join("sizes.json")).unwrap();
    let message = bench.refused(&streamed);
    assert!(message.contains("data.samples_per_epoch"), "{message}");
    let message = bench.refused(&[&streamed[..], &["data.balance=0.5"]].concat());
    assert!(message.contains("data.balance"), "{message}");
    let message = bench.refused(&["data.train=gs://bucket/{0..3}.tar"]);
    assert!(message.contains("no splits"), "{message}");
}

#[test]
fn impossible_runs_are_refused_before_they_start() {
    let bench = Bench::new();
    for (overrides, parts) in [
        (&["data.train=/no/such/folder"][..], &["data.train", "/no/such/folder"][..]),
        (&["data.valid=/no/such/folder"], &["data.valid", "/no/such/folder"]),
        (&["data.train_split=eval"], &["data.train", "eval"]),
        (&["data.tokenizer=/no/tokenizer.json"], &["data.tokenizer", "/no/tokenizer.json"]),
        (&["data.batch_size=0"], &["data.batch_size"]),
        (&["data.batch_size=33"], &["data.batch_size", "32"]),
        (&["optim.lr=inf"], &["optim.lr"]),
        (&["model.audio.num_attention_heads=[3, 2]"], &["num_attention_heads"]),
        (&["features.max_length_s=1"], &["features.max_length_s", "64"]),
        (&["features.feature_size=32"], &["features.feature_size", "16"]),
        (&["features.truncation=fusion"], &["features.truncation"]),
        (&["device=gpu"], &["gpu"]),
        (
            &["model.init=/no/such/model", "model.audio=", "model.text=", "features=", "data.tokenizer="],
            &["/no/such/model"],
        ),
        (&["data.templates=[\"{name} {label}\"]"], &["data.templates"]),
        (&["eval.select=[\"accuracy\"]"], &["eval.select", "accuracy", "zeroshot_acc1"]),
    ] {
        let message = bench.refused(overrides);
        for part in parts {
            assert!(message.contains(part), "{overrides:?}: {message}");
        }
    }
}

/// `text_augment_selection` and `debias` change what is trained on, and nothing that is measured.
#[test]
fn training_captions_are_chosen_and_de_biased() {
    let bench = Bench::new();
    let setup = |overrides: &[&str]| Setup::open(bench.config(overrides)).unwrap();
    let rows = fs::read_to_string(bench.path("metadata.csv")).unwrap();
    fs::write(bench.path("metadata.csv"), rows.replace("a recording of a", "a woman and her")).unwrap();
    let samples = |setup: &Setup| match &setup.train {
        TrainData::Indexed(data) => data.samples.clone(),
        TrainData::Streamed(_) => panic!("nothing is streamed here"),
    };
    let captions = |setup: &Setup| {
        (
            samples(setup)[0].captions[0].clone(),
            setup.validation.as_ref().unwrap().data().samples[0].captions[0].clone(),
        )
    };
    let (train, valid) = captions(&setup(&["data.debias=true"]));
    assert_eq!((train.as_str(), valid.as_str()), ("a person and their low hum", "a woman and her low hum"));
    let (train, _) = captions(&setup(&[]));
    assert_eq!(train, valid);

    let shards = bench.path("shards");
    let all = samples(&setup(&[]));
    let pack = clap_data::AugmentedPack { per_shard: 64, record: Default::default() };
    let caption =
        |samples: &[clap_data::Sample], _| Ok::<_, clap_data::Error>(vec![Some("generated".to_owned()); samples.len()]);
    clap_data::pack_augmented(&all, &shards, &pack, |_| {}, caption).unwrap();
    let path = format!("data.train={}", shards.display());
    for (selection, expected) in [("none", 1), ("all", 2), ("augment_only", 1)] {
        let choice = format!("data.text_augment_selection={selection}");
        let train = samples(&setup(&["data.train_split=", &path, &choice]));
        assert_eq!(train[0].captions.len(), expected, "{selection}");
        assert_eq!(train[0].captions.contains(&"generated".to_owned()), selection != "none");
    }
    let message = TrainConfig::parse("[data]\ntext_augment_selection = \"both\"", "a.toml").unwrap_err().to_string();
    assert!(message.contains("augment_only"), "{message}");
}

#[test]
fn a_warm_up_longer_than_the_run_is_a_warning() {
    let bench = Bench::new();
    let (_, record) = bench.train("warm", &["schedule.epochs=1", "schedule.warmup=100"]);
    assert!(record.warnings.iter().any(|w| w.contains("schedule.warmup")), "{:?}", record.warnings);
    assert!(record.steps.iter().all(|step| step.lr < 5e-3 * 0.05));
}

#[test]
fn a_run_that_diverges_says_so() {
    let bench = Bench::new();
    let config = bench.config(&["optim.lr=1e30", "schedule.warmup=0"]);
    let message = Trainer::new(config, &bench.path("diverged")).unwrap().run(&mut ()).unwrap_err().to_string();
    assert!(message.contains("step") && message.contains("optim.lr"), "{message}");
}

#[test]
fn several_validation_sets_choose_together() {
    let bench = Bench::new();
    let more = format!("eval.more=[{{ path = '{}', split = 'train' }}]", bench.path("").display());
    let (done, record) = bench.train("several", &[&more, "schedule.epochs=2", "eval.every=1"]);
    let select = ["audio_to_text_mAP@10", "text_to_audio_mAP@10"];
    let prefix = done.last.keys().find_map(|name| name.strip_suffix("/num_samples")).unwrap();
    assert!(prefix.ends_with("-train"), "{prefix}");
    for eval in &record.evals {
        let mean = select.iter().flat_map(|name| [(*name).to_owned(), format!("{prefix}/{name}")]);
        let mean = mean.map(|name| eval.metrics[&name]).sum::<f64>() / 4.0;
        assert!((eval.selected - mean).abs() < 1e-12, "{eval:?}");
    }
    assert!(bench.refused(&["eval.more=[{ path = 'no/such' }]"]).contains("eval.more"));
    assert!(bench.refused(&[&more, "data.valid="]).contains("data.valid"));
    let twice = more.replace("]", &more["eval.more=[".len()..].replace('{', ", {"));
    assert!(bench.refused(&[&twice]).contains("twice"));
}
