//! The gradient of a step: of batches in pieces, of batches added up, of models some of whose parameters are frozen.

use std::collections::BTreeMap;

use candle_core::{Tensor, Var};
use clap_encoders::ClapModel;
use clap_train::collate::{Batch, Item};
use clap_train::gradient::Gradient;
use clap_train::{RunFolder, Setup, TrainData, Trainer};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::bench::{Bench, Record, losses};

/// Nothing is drawn within the towers.
pub(crate) const STILL: [&str; 4] = [
    "model.audio.drop_path_rate=0.0",
    "model.audio.spec_augment=",
    "model.text.hidden_dropout_prob=0.0",
    "model.text.attention_probs_dropout_prob=0.0",
];

/// Eight training clips as a step takes them, and the setup of the run that would.
fn eight(bench: &Bench, overrides: &[&str]) -> (Setup, Vec<Item>) {
    let setup = Setup::open(bench.config(&[&STILL[..], overrides].concat())).unwrap();
    let TrainData::Indexed(data) = &setup.train else { panic!("a stream") };
    let item = |sample| setup.collate.item(sample, &mut ChaCha8Rng::seed_from_u64(5)).unwrap();
    let items = data.samples.iter().step_by(4).map(item).collect();
    (setup, items)
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Every gradient of one step of eight clips, and the running statistics behind it.
fn gradients(bench: &Bench, overrides: &[&str]) -> BTreeMap<String, Vec<f32>> {
    let (setup, items) = eight(bench, overrides);
    let Gradient { grads, .. } = setup.gradient(items, 0, 0).unwrap();
    let of = |(name, var): (String, Var)| match name.contains(".running_") {
        true => Some((name, flat(&var))),
        false => grads.get(&var).map(|grad| (name, flat(grad))),
    };
    setup.vars.iter().filter_map(of).collect()
}

fn norm(values: &[f32]) -> f64 {
    values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt()
}

/// The same names with values that differ by `tolerance` of their norm at most.
#[track_caller]
fn assert_close(found: &BTreeMap<String, Vec<f32>>, expected: &BTreeMap<String, Vec<f32>>, tolerance: f64) {
    let longest = expected.values().map(|grad| norm(grad)).fold(0.0, f64::max);
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, grad) in found {
        let difference: Vec<f32> = grad.iter().zip(&expected[name]).map(|(a, b)| a - b).collect();
        let allowed = tolerance * norm(&expected[name]) + 1e-3 * tolerance * longest;
        assert!(norm(&difference) <= allowed, "{name}: {} of {}", norm(&difference), norm(grad));
    }
}

#[test]
fn cached_gradients_are_those_of_the_whole_batch() {
    let bench = Bench::new();
    for loss in ["contrastive", "mlp", "sigmoid"] {
        let loss = format!("loss.name={loss}");
        let whole = gradients(&bench, &[&loss]);
        assert!(whole.len() > 40 && whole.keys().any(|name| name.contains(".running_")));
        for size in [7, 3, 1] {
            let cached = gradients(&bench, &[&loss, &format!("optim.micro_batch_size={size}")]);
            assert_close(&cached, &whole, 1e-5);
        }
    }
}

#[test]
fn accumulated_gradients_are_the_mean_of_their_batches() {
    let bench = Bench::new();
    let accumulated = gradients(&bench, &["data.batch_size=4", "optim.accumulate=2"]);
    let (setup, mut items) = eight(&bench, &["data.batch_size=4"]);
    let second = items.split_off(4);
    let mut mean: BTreeMap<String, Vec<f32>> = BTreeMap::new();
    for items in [items, second] {
        let Gradient { grads, .. } = setup.gradient(items, 0, 0).unwrap();
        for (name, var) in setup.vars.iter() {
            let Some(grad) = grads.get(&var) else { continue };
            let sum = mean.entry(name).or_insert_with(|| vec![0.0; var.elem_count()]);
            sum.iter_mut().zip(flat(grad)).for_each(|(sum, grad)| *sum += 0.5 * grad);
        }
    }
    mean.extend(setup.vars.iter().filter(|(name, _)| name.contains(".running_")).map(|(name, var)| (name, flat(&var))));
    assert_close(&accumulated, &mean, 1e-6);
}

#[test]
fn nothing_is_learnt_in_a_frozen_tower_and_the_rest_as_before() {
    let bench = Bench::new();
    for (pattern, start) in [("text", "text_model."), ("audio", "audio_model.")] {
        let frozen = gradients(&bench, &[&format!("optim.freeze=['{pattern}']")]);
        let mut learnt = frozen.keys().filter(|name| !name.contains(".running_"));
        assert!(learnt.clone().count() > 5 && !learnt.any(|name| name.starts_with(start)), "{pattern}");
        // With a frozen audio tower batch norm has other statistics, and with them everything else.
        if pattern == "text" {
            let whole = gradients(&bench, &[]);
            let rest = whole.into_iter().filter(|(name, _)| !name.starts_with(start)).collect();
            assert_close(&frozen, &rest, 1e-6);
        }
    }
}

/// The same numbers, without a graph that would keep everything in memory.
#[test]
fn an_evaluation_keeps_no_graph() {
    let bench = Bench::new();
    let (setup, items) = eight(&bench, &[]);
    let batch = Batch::new(items, &setup.extractor, &setup.tokenizer, setup.max_tokens, &setup.device).unwrap();
    let embed = |model: &ClapModel| {
        let text = model.get_text_features(&batch.input_ids, &batch.attention_mask).unwrap();
        [model.get_audio_features(&batch.input_features, &batch.is_longer).unwrap(), text]
    };
    for (kept, free) in embed(&setup.model).iter().zip(embed(&setup.inference_model().unwrap())) {
        assert!(kept.track_op() && !free.track_op());
        assert_eq!(flat(kept), flat(&free));
    }
}

#[test]
fn frozen_parameters_keep_their_values_to_the_end() {
    let bench = Bench::new();
    let start = Setup::open(bench.config(&STILL)).unwrap().vars.to_tensors();
    for (freeze, late, start_of) in
        [("['audio']", "", "audio_model."), ("['text', '*.bias']", "", "text_model."), ("[]", "1", "text_model.")]
    {
        let name = format!("frozen {start_of} {late}");
        let freeze = format!("optim.freeze={freeze}");
        let after = format!("optim.freeze_text_after={late}");
        let settings = ["schedule.epochs=2", "eval.every=1", "checkpoint.keep_all=true", &freeze, &after];
        bench.train(&name, &[&STILL[..], &settings].concat());
        let load = |epoch| {
            let folder = bench.path(&name).join(format!("checkpoints/epoch_{epoch}"));
            clap_encoders::open_model(&folder).unwrap().checkpoint.stored_tensors(&candle_core::Device::Cpu).unwrap()
        };
        let (first, second) = (load(1), load(2));
        let mut moved = 0;
        for (name, tensor) in &start {
            let same = |a: &Tensor, b: &Tensor| flat(a) == flat(b);
            let is_frozen = name.starts_with(start_of) || freeze.contains("bias") && name.ends_with(".bias");
            match (is_frozen, late) {
                (true, "") => assert!(same(tensor, &second[name]), "{name} moved"),
                (true, _) => {
                    assert!(same(&first[name], &second[name]), "{name} moved after it was frozen");
                    moved += usize::from(!same(tensor, &first[name]));
                }
                (false, _) => moved += usize::from(!same(tensor, &second[name])),
            }
        }
        assert!(moved > 10, "{name}: {moved}");
    }
}

/// A model whose weights begin large enough for it to learn within seconds.
const LIVELY: [&str; 5] = [
    "model.projection_dim=64",
    "model.audio.initializer_range=0.2",
    "model.text.initializer_range=0.2",
    "optim.lr=1e-3",
    "schedule.epochs=50",
];

#[test]
fn every_loss_and_optimiser_learns_tones() {
    let bench = Bench::new();
    for settings in [
        &["loss.name=mlp", "loss.weight_loss_kappa=0.5"][..],
        &["loss.weight_loss_kappa=0.5", "optim.optimizer=adamw", "optim.weight_decay=0.01"],
        &["loss.name=sigmoid", "model.logit_scale_init_value=10"],
        &["optim.optimizer=sgd", "optim.lr=0.01", "schedule.name=wsd", "schedule.decay=0.2"],
        &["data.batch_size=4", "optim.accumulate=2", "schedule.name=constant"],
    ] {
        let (done, record) = bench.train(&settings.concat(), &[&LIVELY[..], settings].concat());
        assert_eq!(done.steps, 200, "{settings:?}");
        let mean = |steps: &[clap_train::Step]| steps.iter().map(|step| step.loss).sum::<f64>() / steps.len() as f64;
        let (first, last) = (mean(&record.steps[..10]), mean(&record.steps[190..]));
        assert!(last < 0.93 * first, "{settings:?}: {first} to {last}");
        assert!(record.warnings.is_empty(), "{settings:?}: {:?}", record.warnings);
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

#[test]
fn adapters_change_their_matrices_alone_and_go_on_bit_for_bit() {
    let bench = Bench::new();
    let start = Setup::open(bench.config(&[])).unwrap().vars.to_tensors();
    let settings = ["lora.rank=1", "lora.alpha=1", "schedule.epochs=3", "eval.every=1"];
    let (_, straight) = bench.train("straight", &settings);
    let run = bench.path("stopped");
    let mut record = Record { stop_after: Some(5), ..Record::default() };
    Trainer::new(bench.config(&settings), &run).unwrap().run(&mut record).unwrap();
    let mut rest = Record::default();
    Trainer::resume(&run).unwrap().run(&mut rest).unwrap();
    assert_eq!([losses(&record), losses(&rest)].concat(), losses(&straight));

    let cpu = &candle_core::Device::Cpu;
    let tensors = |path| candle_core::safetensors::load(path, cpu).unwrap();
    let folder = RunFolder::latest(&run);
    let adapters = tensors(folder.join("adapter/adapter_model.safetensors"));
    let trained = clap_encoders::open_model(&folder).unwrap().checkpoint.stored_tensors(cpu).unwrap();
    let mut adapted = 0;
    for (name, before) in &start {
        let after = &trained[name];
        let adapter = |kind| adapters.get(&format!("base_model.model.{}.{kind}.weight", name.strip_suffix(".weight")?));
        match (adapter("lora_A"), adapter("lora_B")) {
            (Some(a), Some(b)) => {
                adapted += 1;
                assert_eq!(flat(after), flat(&(before + b.matmul(a).unwrap()).unwrap()), "{name}");
                assert_ne!(flat(after), flat(before), "{name}");
            }
            _ if name.contains("_model.") && !name.contains(".running_") => {
                assert_eq!(flat(after), flat(before), "{name} moved");
            }
            _ => {}
        }
    }
    assert_eq!(adapted, 6, "query and value of two blocks and a layer");
    assert!(bench.refused(&["lora.parameters=['*.quary.weight']"]).contains("lora.parameters"));
}
