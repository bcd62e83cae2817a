//! Whole runs of a tiny model on sounds made here: what is written, what is repeatable, what is refused.
#![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

use std::collections::BTreeMap;
use std::f32::consts::TAU;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{Tensor, Var};
use clap_encoders::ClapTokenizer;
use clap_nn::{Checkpoints, Mode};
use clap_train::collate::Batch;
use clap_train::event::{Ending, Eval, Step};
use clap_train::grad_cache;
use clap_train::loss::contrastive;
use clap_train::{Done, Event, Observer, RunFolder, Setup, TrainConfig, TrainData, Trainer};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

const LABELS: [(&str, f32); 4] =
    [("low hum", 150.0), ("middle tone", 500.0), ("high whistle", 1500.0), ("very high beep", 3300.0)];
const RATE: u32 = 8000;

/// A data set of tones, its tokenizer, and a configuration that trains on it in seconds.
struct Bench {
    temp: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
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

    fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    fn config(&self, overrides: &[&str]) -> TrainConfig {
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
            audio = {{ spec_size = 32, num_mel_bins = 16, window_size = 4, depths = [1, 1], num_attention_heads = [1, 2], patch_embeds_hidden_size = 8, hidden_size = 16 }}
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
            spec_augment = {{ time_drop_width = 8, freq_drop_width = 3 }}
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

    fn train(&self, name: &str, overrides: &[&str]) -> (Done, Record) {
        let mut record = Record::default();
        let done = Trainer::new(self.config(overrides), &self.path(name)).unwrap().run(&mut record).unwrap();
        (done, record)
    }

    /// The message of a configuration that is refused, and that it left no folder.
    fn refused(&self, overrides: &[&str]) -> String {
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
struct Record {
    steps: Vec<Step>,
    evals: Vec<Eval>,
    skipped: Vec<String>,
    warnings: Vec<String>,
    initialised: Vec<String>,
    stop_after: Option<usize>,
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

fn losses(record: &Record) -> Vec<u64> {
    record.steps.iter().map(|step| step.loss.to_bits()).collect()
}

#[test]
fn a_run_learns_and_leaves_a_model_folder() {
    let bench = Bench::new();
    let (done, record) = bench.train(
        "run",
        &[
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

/// No dropout anywhere.
const STILL: [&str; 3] = [
    "model.audio.drop_path_rate=0.0",
    "model.text.hidden_dropout_prob=0.0",
    "model.text.attention_probs_dropout_prob=0.0",
];

/// Every gradient of one batch of eight clips, and the running statistics behind it.
fn gradients(bench: &Bench, micro_batch: Option<usize>) -> BTreeMap<String, Vec<f32>> {
    let setup = Setup::open(bench.config(&STILL)).unwrap();
    let TrainData::Indexed(data) = &setup.train else { panic!("a stream") };
    let rng = || ChaCha8Rng::seed_from_u64(5);
    let items = data.samples.iter().step_by(4).map(|sample| setup.collate.item(sample, &mut rng()).unwrap()).collect();
    let batch = Batch::new(items, &setup.extractor, &setup.tokenizer, setup.max_tokens, &setup.device).unwrap();
    let parameters: Vec<Var> = setup.vars.trainable().map(|(_, var)| var).collect();
    let checkpoints = Checkpoints::of(&parameters);
    let mut mode = Mode::train(rng()).checkpointed(&checkpoints);
    let (audio, text) = match micro_batch {
        Some(size) => grad_cache::embeddings(&setup.model, &batch, size, &mut mode).unwrap(),
        None => (
            setup.model.audio_embeds_t(&batch.input_features, &batch.is_longer, &mut Mode::train(rng())).unwrap(),
            setup.model.text_embeds_t(&batch.input_ids, &batch.attention_mask, &mut Mode::train(rng())).unwrap(),
        ),
    };
    assert_eq!(audio.dims(), [8, 16]);
    let loss = contrastive(&audio, &text, &setup.model.logit_scale_a().exp().unwrap()).unwrap();
    let grads = checkpoints.backward(&loss).unwrap();
    let flat = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let of = |(name, var): (String, Var)| match name.contains(".running_") {
        true => Some((name, flat(&var))),
        false => grads.get(&var).map(|grad| (name, flat(grad))),
    };
    setup.vars.iter().filter_map(of).collect()
}

#[test]
fn cached_gradients_are_those_of_the_whole_batch() {
    let bench = Bench::new();
    let norm = |values: &[f32]| values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
    let whole = gradients(&bench, None);
    let longest = whole.values().map(|grad| norm(grad)).fold(0.0, f64::max);
    assert!(whole.len() > 40 && whole.keys().any(|name| name.contains(".running_")));
    for size in [8, 3, 1] {
        let cached = gradients(&bench, Some(size));
        assert_eq!(cached.keys().collect::<Vec<_>>(), whole.keys().collect::<Vec<_>>());
        for (name, grad) in &cached {
            let difference: Vec<f32> = grad.iter().zip(&whole[name]).map(|(a, b)| a - b).collect();
            let allowed = 1e-5 * norm(&whole[name]) + 1e-8 * longest;
            assert!(norm(&difference) <= allowed, "{name}, {size} at a time: {} of {}", norm(&difference), norm(grad));
        }
    }
}

#[test]
fn a_run_with_cached_gradients_is_the_run_without() {
    let bench = Bench::new();
    let (_, whole) = bench.train("whole", &[&STILL[..], &["schedule.epochs=2"]].concat());
    let overrides = [&STILL[..], &["schedule.epochs=2", "optim.micro_batch_size=3"]].concat();
    let (_, cached) = bench.train("cached", &overrides);
    for (whole, cached) in whole.steps.iter().zip(&cached.steps) {
        assert!((whole.loss - cached.loss).abs() < 1e-4 * whole.loss, "{whole:?} {cached:?}");
    }
    let first = (whole.steps[0].grad_norm - cached.steps[0].grad_norm).abs();
    assert!(first < 1e-5 * whole.steps[0].grad_norm, "{first}");
    // What is drawn is drawn again: a run is repeatable with dropout, too, and with blocks that keep no activations.
    let drawn = ["schedule.epochs=1", "optim.micro_batch_size=3"];
    let (_, one) = bench.train("one", &drawn);
    let (_, two) = bench.train("two", &drawn);
    let (_, blocks) = bench.train("blocks", &[&drawn[..], &["checkpoint_blocks=true"]].concat());
    assert_eq!(losses(&one), losses(&two));
    assert_eq!(losses(&one), losses(&blocks));
    // And micro-batches it was: each draws masks of its own.
    let (_, plain) = bench.train("plain", &["schedule.epochs=1"]);
    assert_ne!(losses(&one), losses(&plain));
    assert!(bench.refused(&["optim.micro_batch_size=0"]).contains("optim.micro_batch_size"));
}

/// The steps that a run's log has.
fn logged(run: &Path) -> Vec<u64> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let events = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    events.filter(|event| event["event"] == "step").map(|event| event["step"].as_u64().unwrap()).collect()
}

#[test]
fn a_stopped_run_goes_on_bit_for_bit() {
    let bench = Bench::new();
    // Four steps an epoch; dropout, random crops, gain, SpecAugment and templates are all drawn.
    let overrides = ["schedule.epochs=4", "eval.every=2"];
    let (whole_done, whole) = bench.train("whole", &overrides);
    let weights = |run: &Path| fs::read(RunFolder::latest(run).join("model.safetensors")).unwrap();
    for stop in [1, 4, 6] {
        let run = bench.path(&format!("stopped_{stop}"));
        let mut first = Record { stop_after: Some(stop), ..Record::default() };
        Trainer::new(bench.config(&overrides), &run).unwrap().run(&mut first).unwrap();
        let mut second = Record::default();
        let done = Trainer::resume(&run).unwrap().run(&mut second).unwrap();
        assert_eq!([losses(&first), losses(&second)].concat(), losses(&whole), "stopped after {stop}");
        assert_eq!((done.steps, done.epochs, done.ending), (16, 4, Ending::Epochs));
        assert_eq!((done.clips_seen, &done.last), (whole_done.clips_seen, &whole_done.last));
        assert!(done.elapsed > second.steps.last().unwrap().seconds && done.best_epoch > 0);
        assert!(weights(&run) == weights(&bench.path("whole")), "other weights after {stop}");
        assert_eq!(logged(&run), (1..=16).collect::<Vec<_>>());
        assert!(run.join("report.md").exists());
        let over = Trainer::resume(&run).unwrap_err().to_string();
        assert!(over.contains("all its epochs are done"), "{over}");
    }
}

#[test]
fn steps_after_the_checkpoint_are_taken_again() {
    let bench = Bench::new();
    let overrides = ["schedule.epochs=3", "eval.every=0"];
    let (_, whole) = bench.train("whole", &overrides);
    let run = bench.path("stopped");
    let mut first = Record { stop_after: Some(7), ..Record::default() };
    Trainer::new(bench.config(&overrides), &run).unwrap().run(&mut first).unwrap();
    // As if the process had been killed in the middle of the seventh step: the checkpoint of the sixth is the latest.
    let checkpoints = run.join("checkpoints");
    fs::remove_dir_all(checkpoints.join("epoch_2")).unwrap();
    fs::remove_file(checkpoints.join("latest")).unwrap();
    let message = Trainer::resume(&run).unwrap_err().to_string();
    assert!(message.contains("no checkpoint"), "{message}");
    let mut sixth = Record { stop_after: Some(6), ..Record::default() };
    let other = bench.path("other");
    Trainer::new(bench.config(&overrides), &other).unwrap().run(&mut sixth).unwrap();
    for name in ["epoch_2", "latest"] {
        fs::rename(other.join("checkpoints").join(name), checkpoints.join(name)).unwrap();
    }
    let mut second = Record::default();
    Trainer::resume(&run).unwrap().run(&mut second).unwrap();
    assert_eq!([losses(&sixth), losses(&second)].concat(), losses(&whole));
    assert_eq!(logged(&run), (1..=12).collect::<Vec<_>>());
}

#[test]
fn what_cannot_be_gone_on_with_is_named() {
    let bench = Bench::new();
    let message = |run: &Path| Trainer::resume(run).unwrap_err().to_string();
    assert!(message(&bench.path("absent")).contains("no config.toml"));
    let run = bench.path("run");
    let mut record = Record { stop_after: Some(2), ..Record::default() };
    Trainer::new(bench.config(&["schedule.epochs=2"]), &run).unwrap().run(&mut record).unwrap();
    // The checkpoint of another model.
    let config = fs::read_to_string(RunFolder::config(&run)).unwrap();
    fs::write(RunFolder::config(&run), config.replace("projection_dim = 16", "projection_dim = 8")).unwrap();
    let text = message(&run);
    assert!(text.contains("config.toml describes") && text.contains("projection"), "{text}");
    fs::write(RunFolder::config(&run), &config).unwrap();
    let state = RunFolder::latest(&run).join(clap_train::state::STATE_FILE);
    let bytes = fs::read(&state).unwrap();
    fs::write(&state, &bytes[..100]).unwrap();
    assert!(message(&run).contains("no readable training state"));
    fs::write(&state, &bytes).unwrap();
    // One process trains it.
    let trainer = Trainer::resume(&run).unwrap();
    assert!(message(&run).contains("another process trains this run"));
    drop(trainer);
    Trainer::resume(&run).unwrap().run(&mut ()).unwrap();
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
