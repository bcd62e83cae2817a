//! Runs of several ranks, as threads of this process: the numbers of one process with the whole batch.

use std::path::Path;
use std::sync::Arc;
use std::thread;

use clap_nn::collective::Threads;
use clap_train::distributed::Ranks;
use clap_train::event::Ending;
use clap_train::{Done, RunFolder, Trainer};

use crate::bench::{Bench, Record};
use crate::gradients::STILL;

/// A run of `world` ranks; rank 0's record.
fn train(bench: &Bench, run: &Path, world: usize, overrides: &[&str], stop_after: Option<usize>) -> (Done, Record) {
    let start = |ranks| Trainer::new_on(bench.config(overrides), run, ranks).unwrap();
    on_ranks(world, stop_after, start)
}

fn on_ranks(world: usize, stop_after: Option<usize>, start: impl Fn(Ranks) -> Trainer + Sync) -> (Done, Record) {
    let run = |ranks: Threads| {
        let mut record = Record { stop_after, ..Record::default() };
        let done = start(Ranks::joined(Arc::new(ranks))).run(&mut record).unwrap();
        (done, record)
    };
    thread::scope(|scope| {
        let handles: Vec<_> = Threads::new(world).into_iter().map(|ranks| scope.spawn(|| run(ranks))).collect();
        let mut results: Vec<_> = handles.into_iter().map(|handle| handle.join().unwrap()).collect();
        for (_, record) in results.drain(1..) {
            assert!(record.steps.is_empty() && record.evals.is_empty(), "only rank 0 tells");
        }
        results.remove(0)
    })
}

/// Everything that depends on the clips of a batch alone: draws depend on the rank.
const ALIKE: [&str; 3] = ["data.template_probability=0", "schedule.epochs=3", "eval.every=3"];

#[track_caller]
fn assert_same_curve(parts: &Record, whole: &Record, tolerance: f64) {
    assert_eq!(parts.steps.len(), whole.steps.len());
    for (part, whole) in parts.steps.iter().zip(&whole.steps) {
        assert!(
            (part.loss - whole.loss).abs() < tolerance * whole.loss,
            "step {}: {} {}",
            part.step,
            part.loss,
            whole.loss
        );
        assert_eq!((part.lr, part.clips), (whole.lr, whole.clips));
    }
    let first = (&parts.steps[0], &whole.steps[0]);
    assert!((first.0.grad_norm - first.1.grad_norm).abs() < 1e-5 * first.1.grad_norm, "{first:?}");
    for (name, value) in &whole.evals.last().unwrap().metrics {
        let part = parts.evals.last().unwrap().metrics[name];
        assert!((part - value).abs() < 1e-6, "{name}: {part} {value}");
    }
}

#[test]
fn two_ranks_of_four_clips_are_one_of_eight() {
    let bench = Bench::new();
    for (name, extra) in [
        ("plain", &[][..]),
        ("kappa", &["loss.weight_loss_kappa=0.5", "optim.optimizer=adamw", "optim.weight_decay=0.1"]),
        ("sigmoid", &["loss.name=sigmoid", "model.logit_scale_init_value=10", "lora.rank=2"]),
        ("mlp", &["loss.name=mlp", "loss.mlp_dropout=0"]),
        ("cached", &["optim.micro_batch_size=2", "optim.grad_clip_norm=0.5"]),
        ("frozen", &["optim.freeze=['text']"]),
    ] {
        let settings = [&STILL[..], &ALIKE, extra].concat();
        let one = [&settings[..], &["data.batch_size=8"]].concat();
        let whole = train(&bench, &bench.path(&format!("{name} one")), 1, &one, None).1;
        let two = [&settings[..], &["data.batch_size=4"]].concat();
        let (done, parts) = train(&bench, &bench.path(&format!("{name} two")), 2, &two, None);
        assert_eq!(done.clips_seen, 96, "{name}");
        assert_same_curve(&parts, &whole, 1e-5);
    }
}

/// Batch norm within a tower is that of all ranks: a PANN has one behind each convolution.
#[test]
fn batch_norms_within_a_tower_are_synchronised() {
    let bench = Bench::new();
    let pann = "model.audio={ model_type = 'pann', block_widths = [4, 6], pooled_blocks = 2, hidden_size = 16, num_mel_bins = 16, dropout = 0.0, output_dropout = 0.0 }";
    let still = ["model.text.hidden_dropout_prob=0.0", "model.text.attention_probs_dropout_prob=0.0"];
    let settings = [&still[..], &ALIKE, &[pann]].concat();
    let whole = train(&bench, &bench.path("one"), 1, &[&settings[..], &["data.batch_size=8"]].concat(), None).1;
    let parts = train(&bench, &bench.path("two"), 2, &[&settings[..], &["data.batch_size=4"]].concat(), None).1;
    assert_same_curve(&parts, &whole, 1e-4);
}

#[test]
fn ranks_stop_together_and_go_on_bit_for_bit() {
    let bench = Bench::new();
    let settings = ["data.batch_size=4", "schedule.epochs=2"];
    let straight = train(&bench, &bench.path("straight"), 2, &settings, None).1;
    let run = bench.path("stopped");
    let (done, before) = train(&bench, &run, 2, &settings, Some(3));
    assert_eq!((done.ending, done.steps), (Ending::Requested, 3));
    assert!(RunFolder::best(&run).is_dir());
    let (_, after) = on_ranks(2, None, |ranks| Trainer::resume_on(&run, ranks).unwrap());
    let bits = |record: &Record| record.steps.iter().map(|step| step.loss.to_bits()).collect::<Vec<_>>();
    assert_eq!([bits(&before), bits(&after)].concat(), bits(&straight));
}
