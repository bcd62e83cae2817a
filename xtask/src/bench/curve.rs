//! A training run beside the same run in `laion_clap`'s own modules: loss by loss, the final metrics with their intervals, the seconds.
//!
//! [`clap_train::Trainer`] trains the recipe of the embedded corpus, without augmentation; after each step of its own
//! `tests/reference/train_curve.py` takes the same one, from the same weights on the same batch. Neither computes in the other's turn: our
//! batches are prepared between the steps. Both final models are measured by [`clap_eval`]. Last, as a control, ours once more from weights
//! changed in their last bit: how far two runs part that differ in rounding alone.

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, anyhow, bail};
use candle_core::{DType, Tensor, Var};
use clap_encoders::AudioConfig;
use clap_encoders::checkpoint::{Checkpoint, save_laion};
use clap_eval::{Difference, HEADLINES, Headline, Interval, Outcome};
use clap_train::collate::Batch;
use clap_train::config::AugmentConfig;
use clap_train::plot::{Chart, Series, Stroke};
use clap_train::{Event, Metrics, Observer, RunFolder, Setup, Step, TrainConfig, Trainer};

use super::child::{PAUSE, Timer};
use super::machine::place;
use super::report::{Report, Times};
use crate::args;
use crate::eval::BOOTSTRAP_SEED as SEED;

const SCRIPT: &str = "train_curve.py";
const RECIPE: &str = "datasets/sounds-mini/recipe.toml";

/// Steps in which the losses have to agree to [`GOAL`], relatively. Later the runs part: what rounding makes of one step, the next one
/// magnifies.
const HEAD: usize = 50;
const GOAL: f64 = 1e-3;

/// One step on both sides.
struct Turn {
    ours: Step,
    their_loss: f64,
    their_seconds: f64,
    /// Our loss where the initial weights differed in their last bit.
    control_loss: f64,
}

impl Turn {
    /// Distance of the losses by the size of theirs.
    fn difference(&self) -> f64 {
        relative(self.ours.loss, self.their_loss)
    }

    /// Distance of ours from ours.
    fn control(&self) -> f64 {
        relative(self.control_loss, self.ours.loss)
    }

    /// Without what our step waited for its batch, which theirs is given.
    fn our_seconds(&self) -> f64 {
        self.ours.seconds - self.ours.data_wait
    }
}

fn relative(loss: f64, to: f64) -> f64 {
    (loss - to).abs() / to.abs()
}

/// Trains both, prints what came out and, where asked, writes it into a document and the picture beside it.
pub(super) fn run(args: &args::Bench, folder: &Path, python: &Path, threads: usize) -> anyhow::Result<()> {
    let mut report = Report::new(args.write.as_deref(), "curve")?;
    let mut config = recipe(args.config.as_deref())?;
    let setup = Setup::open(config.clone())?;
    check_still(&setup)?;
    config.schedule.epochs = (args.steps.get() as u64).div_ceil(setup.steps_per_epoch);
    let trainer = Trainer::new(config.clone(), &folder.join("ours"))?;
    export(trainer.setup(), folder, args.steps.get())?;
    place(&mut report, args, (SCRIPT, threads))?;

    let mut script = Timer::script(python, SCRIPT, threads)?;
    let total = trainer.setup().schedule.total;
    script.ask(&format!("open {} {total}", folder.display()))?;
    let mut turns = Turns { script, steps: args.steps.get(), taken: Vec::new(), failed: None };
    trainer.run(&mut turns)?;
    let Turns { mut script, mut taken, failed, .. } = turns;
    if let Some(error) = failed {
        return Err(error);
    }
    let trained = script.ask("save")?;
    drop(script);
    control(config, &folder.join("control"), &mut taken)?;

    write_steps(&folder.join("steps.csv"), &taken)?;
    let svg = chart(&taken).to_svg();
    std::fs::write(folder.join("training-curve.svg"), &svg)?;
    if let Some(document) = &args.write {
        std::fs::write(document.with_file_name("pictures").join("training-curve.svg"), &svg)?;
    }
    report.line(&format!(
        "{} steps of {} clips, the cosine over {total}; {trained} numbers trained there, {} here.\n",
        taken.len(),
        setup.config.data.batch_size,
        setup.vars.trainable_elements(),
    ))?;
    losses(&mut report, &taken)?;
    let ours = measured(&setup, &RunFolder::latest(&folder.join("ours")).join("model.safetensors"))?;
    let theirs = measured(&setup, &folder.join("theirs.safetensors"))?;
    metrics(&mut report, &ours, &theirs)?;
    seconds(&mut report, &taken)?;
    report.finish()
}

/// A recipe without a clock; the embedded corpus's without anything random but the order of the clips and the choice of their texts.
fn recipe(path: Option<&Path>) -> anyhow::Result<TrainConfig> {
    let mut config = TrainConfig::load(path.unwrap_or(&crate::workspace().join(RECIPE)))?;
    if path.is_none() {
        config.augment = AugmentConfig { random_crop: false, gain_db: None };
    }
    if let Some(AudioConfig::HtsAt(audio)) = &mut config.model.audio {
        audio.spec_augment = None;
    }
    config.device = "cpu".to_owned();
    config.schedule.max_minutes = None;
    config.eval.every = 0;
    // Batches are made between the steps, not beside them.
    config.data.workers = 0;
    Ok(config)
}

/// Refuses towers that draw: what they draw here, they would not draw there.
fn check_still(setup: &Setup) -> anyhow::Result<()> {
    let text = &setup.clap_config.text_config;
    let drop_path = match &setup.clap_config.audio_config {
        AudioConfig::HtsAt(audio) => audio.drop_path_rate,
        AudioConfig::Pann(_) => bail!("--config: PANNs have dropout that laion_clap cannot turn off; take an HTS-AT"),
    };
    for (name, rate) in [
        ("hidden_dropout_prob of the text tower", text.hidden_dropout_prob),
        ("attention_probs_dropout_prob of the text tower", text.attention_probs_dropout_prob),
        ("drop_path_rate of the audio tower", drop_path),
    ] {
        if rate > 0.0 {
            bail!("--config: {name} is {rate}; the two sides would draw differently, set it to 0");
        }
    }
    Ok(())
}

/// Writes what `train_curve.py` reads: `start/`, `start.pt` and the batches as the trainer's loader gives them.
fn export(setup: &Setup, folder: &Path, steps: usize) -> anyhow::Result<()> {
    let Setup { config, clap_config, extractor, tokenizer, .. } = setup;
    let weights = setup.vars.to_tensors();
    clap_encoders::save_folder(&folder.join("start"), clap_config, extractor.config(), &weights, tokenizer)?;
    save_laion(&folder.join("start.pt"), clap_config, extractor.config(), &weights)?;
    let batches = folder.join("batches");
    std::fs::create_dir_all(&batches)?;
    let mut step = 0;
    for epoch in 0..config.schedule.epochs {
        let loader = setup.loader(epoch, 0)?;
        for loaded in loader.take(steps - step) {
            if let Some(bad) = loaded.failed.first() {
                bail!("{bad}; every clip has to be readable here");
            }
            let batch = Batch::new(loaded.items, extractor, tokenizer, setup.max_tokens, &setup.device)?;
            let tensors = HashMap::from([
                ("input_features", batch.input_features),
                ("input_ids", batch.input_ids.to_dtype(DType::I64)?),
                ("attention_mask", batch.attention_mask.to_dtype(DType::I64)?),
            ]);
            candle_core::safetensors::save(&tensors, batches.join(format!("{step:03}.safetensors")))?;
            step += 1;
        }
    }
    Ok(())
}

/// After each step of ours, theirs.
struct Turns {
    script: Timer,
    steps: usize,
    taken: Vec<Turn>,
    failed: Option<anyhow::Error>,
}

impl Turns {
    fn take(&mut self, ours: Step) -> anyhow::Result<()> {
        std::thread::sleep(PAUSE);
        let answer = self.script.ask(&format!("step {}", self.taken.len()))?;
        let numbers: Vec<f64> = answer.split(' ').map(str::parse).collect::<Result<_, _>>()?;
        let &[their_loss, their_rate, their_seconds] = numbers.as_slice() else {
            bail!("a step was answered by `{answer}`, not by loss, learning rate and seconds");
        };
        // Of a cosine that ends in zero, the last digits are those of its argument.
        if (ours.lr - their_rate).abs() > 1e-12 {
            bail!("step {}: the learning rate is {} here and {their_rate} there", ours.step, ours.lr);
        }
        self.taken.push(Turn { ours, their_loss, their_seconds, control_loss: f64::NAN });
        std::thread::sleep(PAUSE);
        Ok(())
    }
}

impl Observer for Turns {
    fn event(&mut self, event: &Event) {
        if let (Event::Step(step), None) = (event, &self.failed) {
            self.failed = self.take(*step).err();
        }
    }

    fn stop_requested(&mut self) -> bool {
        self.failed.is_some() || self.taken.len() >= self.steps
    }
}

/// The same run of ours from weights whose last bits are flipped.
fn control(config: TrainConfig, run: &Path, turns: &mut [Turn]) -> anyhow::Result<()> {
    let trainer = Trainer::new(config, run)?;
    for (_, weight) in trainer.setup().vars.iter() {
        let values: Vec<f32> = weight.flatten_all()?.to_vec1()?;
        let flipped = values.into_iter().map(|value| f32::from_bits(value.to_bits() ^ 1)).collect();
        weight.set(&Tensor::from_vec(flipped, weight.dims(), weight.device())?)?;
    }
    let mut control = Control { turns, taken: 0 };
    trainer.run(&mut control)?;
    Ok(())
}

struct Control<'a> {
    turns: &'a mut [Turn],
    taken: usize,
}

impl Observer for Control<'_> {
    fn event(&mut self, event: &Event) {
        if let Event::Step(step) = event
            && let Some(turn) = self.turns.get_mut(self.taken)
        {
            turn.control_loss = step.loss;
            self.taken += 1;
        }
    }

    fn stop_requested(&mut self) -> bool {
        self.taken >= self.turns.len()
    }
}

fn write_steps(path: &Path, turns: &[Turn]) -> anyhow::Result<()> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    writeln!(file, "step,lr,our_loss,their_loss,control_loss,our_seconds,their_seconds")?;
    for turn in turns {
        let Turn { ours, their_loss, their_seconds, control_loss } = turn;
        let (step, lr, loss, seconds) = (ours.step, ours.lr, ours.loss, turn.our_seconds());
        writeln!(file, "{step},{lr},{loss},{their_loss},{control_loss},{seconds},{their_seconds}")?;
    }
    Ok(file.flush()?)
}

fn chart(turns: &[Turn]) -> Chart {
    let points = |loss: fn(&Turn) -> f64| turns.iter().map(|turn| (turn.ours.step as f64, loss(turn))).collect();
    // Dashed, so that the other line shows where they are one.
    let theirs = Series { stroke: Stroke::Level, ..Series::new("laion_clap", points(|turn| turn.their_loss)) };
    Chart {
        title: "Contrastive loss of the same run on both sides".to_owned(),
        x_label: "step".to_owned(),
        from_zero: false,
        series: vec![Series::new("here", points(|turn| turn.ours.loss)), theirs],
    }
}

fn losses(report: &mut Report<'_>, turns: &[Turn]) -> anyhow::Result<()> {
    report.header(&[
        "loss",
        "ours, last",
        "theirs, last",
        "greatest relative difference",
        "at step",
        "goal",
        "of the control from ours",
    ])?;
    let mut counts = vec![HEAD.min(turns.len()), turns.len()];
    counts.dedup();
    for count in counts {
        let worst = turns[..count].iter().max_by(|a, b| a.difference().total_cmp(&b.difference()));
        let (worst, last) = worst.zip(turns[..count].last()).context("no step was taken")?;
        let met = if worst.difference() <= GOAL { "yes" } else { "**missed**" };
        let goal = if count <= HEAD { format!("≤ {GOAL:e}: {met}") } else { String::new() };
        report.row(&[
            format!("steps 1 to {count}"),
            format!("{:.6}", last.ours.loss),
            format!("{:.6}", last.their_loss),
            format!("{:.1e}", worst.difference()),
            worst.ours.step.to_string(),
            goal,
            format!("{:.1e}", turns[..count].iter().map(Turn::control).fold(0.0, f64::max)),
        ])?;
    }
    report.line("")
}

/// A final model on the validation clips.
fn measured(setup: &Setup, file: &Path) -> anyhow::Result<Outcome> {
    let checkpoint = Checkpoint::open(file)?;
    let weight = |(name, _): (String, Var)| -> anyhow::Result<(String, Tensor)> {
        let tensor = checkpoint.stored(&name, &setup.device)?;
        let tensor = tensor.ok_or_else(|| anyhow!("{} has no {name}", file.display()))?;
        Ok((name, tensor))
    };
    setup.vars.load(&setup.vars.iter().map(weight).collect::<anyhow::Result<_>>()?)?;
    let validation = setup.validation.as_ref().context("the recipe has validation clips")?;
    Ok(validation.run(&setup.model, &setup.tokenizer, &setup.device, &mut |_, _| {})?)
}

fn metrics(report: &mut Report<'_>, ours: &Outcome, theirs: &Outcome) -> anyhow::Result<()> {
    report.header(&["final model", "ours [95 %]", "theirs [95 %]", "difference [95 %]", "0 inside"])?;
    let sides = [ours, theirs].map(|outcome| (outcome.metrics(), outcome.intervals(SEED)));
    let differences = ours.compare(theirs, SEED)?;
    for Headline { label, name, .. } in HEADLINES {
        let Some(Difference { difference, interval: Interval { low, high }, .. }) = differences.get(name) else {
            continue;
        };
        let inside = if *low <= 0.0 && *high >= 0.0 { "yes" } else { "**no**" };
        let side = |(metrics, intervals): &(Metrics, BTreeMap<String, Interval>)| match intervals.get(name) {
            Some(Interval { low, high }) => format!("{:.3} [{low:.3}, {high:.3}]", metrics[name]),
            None => format!("{:.3}", metrics[name]),
        };
        let [ours, theirs] = sides.each_ref().map(side);
        let difference = format!("{difference:.3} [{low:.3}, {high:.3}]");
        report.row(&[label.to_owned(), ours, theirs, difference, inside.to_owned()])?;
    }
    report.line("")
}

fn seconds(report: &mut Report<'_>, turns: &[Turn]) -> anyhow::Result<()> {
    let ours = Times(turns.iter().map(Turn::our_seconds).collect());
    let theirs = Times(turns.iter().map(|turn| turn.their_seconds).collect());
    report.header(&["a step, s, median (least–greatest)", "ours", "theirs", "ratio"])?;
    let ratio = theirs.median() / ours.median();
    report.row(&[format!("n = {}", turns.len()), ours.cell(1.0), theirs.cell(1.0), format!("{ratio:.2}")])
}
