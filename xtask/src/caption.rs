//! `cargo xtask caption`: captions from keywords by a T5 model, for tags on the command line or for a data set, as shards.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

use clap_data::{AugmentedPack, DataSet, Debias, DebiasCounts, KeywordPrompt, OpenOptions, Sample, TagSentence};
use clap_encoders::t5::{CaptionModel, Generation, Sampling};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};

use crate::args;
use crate::exit::{Exit, failure};
use crate::splits::{EmptySplits, each_split, write_classes};

pub(crate) fn run(args: &args::Caption) -> anyhow::Result<Exit> {
    let prompt = KeywordPrompt::new(&args.prompt, &args.keyword_separator)?;
    let sentence: TagSentence = args.template.parse()?;
    let device = clap_encoders::device(&args.device)?;
    let model = CaptionModel::from_pretrained(Path::new(&args.model), args.revision.revision.as_deref(), &device)?;
    let writer = Writer::new(args, prompt, &model)?;
    match (&args.data, &args.out) {
        (Some(data), Some(out)) => data_set(args, data, out, &sentence, &writer),
        _ => tags(&args.tags, &writer),
    }
}

/// One line for each set of tags.
fn tags(tags: &[String], writer: &Writer<'_>) -> anyhow::Result<Exit> {
    let mut counts = DebiasCounts::new();
    let keywords: Vec<Vec<&str>> = tags.iter().map(|tags| vec![tags.as_str()]).collect();
    let captions = writer.captions(&keywords, 0, &mut counts, |_| {})?;
    for (tags, caption) in tags.iter().zip(captions) {
        let Some(caption) = caption else {
            return Err(failure(Exit::Usage, format!("--tags {tags:?}: there is no keyword in it")));
        };
        writeln!(std::io::stdout(), "{caption}")?;
    }
    report(&counts);
    Ok(Exit::Done)
}

/// Writes each split of the source as a folder of shards with captions.
fn data_set(
    args: &args::Caption,
    source: &Path,
    out: &Path,
    sentence: &TagSentence,
    writer: &Writer<'_>,
) -> anyhow::Result<Exit> {
    let mut counts = DebiasCounts::new();
    let mut classes = None;
    let table = args.table.open_options();
    let mut empty = EmptySplits::default();
    for split in each_split(source, &table, args.split.as_deref())? {
        let open = OpenOptions { split: split.clone(), strict: args.strict, ..table.clone() };
        let opened = clap_data::open(source, &open).map_err(anyhow::Error::from);
        let Some(mut data) = empty.pass(opened, args.strict)? else { continue };
        for skipped in &data.skipped {
            eprintln!("skipped {skipped}");
        }
        sentence.retell(&mut data.samples);
        data.samples.truncate(args.max_clips.map_or(usize::MAX, Into::into));
        let out = split.as_ref().map_or_else(|| out.to_owned(), |split| out.join(split));
        write_split(args, &data, &out, writer, &mut counts)?;
        classes.get_or_insert(data.classes);
    }
    empty.finish(classes.is_some())?;
    write_classes(out, &classes.unwrap_or_default())?;
    report(&counts);
    Ok(Exit::Done)
}

fn write_split(
    args: &args::Caption,
    data: &DataSet,
    out: &Path,
    writer: &Writer<'_>,
    counts: &mut DebiasCounts,
) -> anyhow::Result<()> {
    let pack = AugmentedPack { per_shard: args.per_shard.get(), record: writer.record(args)? };
    let bar = ProgressBar::new(data.samples.len() as u64);
    bar.set_style(
        ProgressStyle::with_template("{bar:24.cyan/dim} {pos}/{len} clips  {eta} left")?.progress_chars("━━─"),
    );
    let mut kept = 0;
    let mut captioned = 0;
    let done = clap_data::pack_augmented(
        &data.samples,
        out,
        &pack,
        |count| {
            kept += count;
            bar.inc(count as u64);
            bar.reset_eta();
        },
        |samples: &[Sample], before| -> anyhow::Result<_> {
            let keywords: Vec<Vec<&str>> =
                samples.iter().map(|sample| sample.labels.iter().map(String::as_str).collect()).collect();
            let captions = writer.captions(&keywords, before, counts, |count| bar.inc(count as u64))?;
            captioned += captions.iter().flatten().count();
            Ok(captions)
        },
    )?;
    bar.finish_and_clear();
    let found = if kept == 0 { String::new() } else { format!(", {kept} clips were there already") };
    writeln!(
        std::io::stdout(),
        "{}: {} clips in {} shards, {:.1} MB; {captioned} captions written{found}",
        out.display(),
        done.samples,
        done.shards.len(),
        done.bytes as f64 / 1e6
    )?;
    Ok(())
}

/// What de-biasing replaced, word by word.
pub(crate) fn report(counts: &DebiasCounts) {
    if !counts.is_empty() {
        let words: Vec<String> = counts.iter().map(|(word, count)| format!("{word} {count}")).collect();
        eprintln!("{} words replaced: {}", counts.values().sum::<usize>(), words.join(", "));
    }
}

/// A model and how it is used.
struct Writer<'a> {
    model: &'a CaptionModel,
    prompt: KeywordPrompt,
    options: Generation,
    sampling: Option<Sampling>,
    seed: u64,
    batch_size: usize,
    debias: Option<Debias>,
}

impl<'a> Writer<'a> {
    fn new(args: &args::Caption, prompt: KeywordPrompt, model: &'a CaptionModel) -> anyhow::Result<Self> {
        let own = model.generation().clone();
        let mut options = if args.own_generation { own } else { own.with_keytotext_search() };
        let set = |value: Option<usize>, option: &mut usize| *option = value.unwrap_or(*option);
        set(args.num_beams, &mut options.num_beams);
        set(args.max_length, &mut options.max_length);
        set(args.no_repeat_ngram_size, &mut options.no_repeat_ngram_size);
        options.length_penalty = args.length_penalty.unwrap_or(options.length_penalty);
        let own = if args.own_generation { model.sampling() } else { None };
        let sampling = match (args.sample, own) {
            (true, own) | (false, own @ Some(_)) => {
                let own = own.unwrap_or_default();
                Some(Sampling {
                    temperature: args.temperature.unwrap_or(own.temperature),
                    top_k: args.top_k.unwrap_or(own.top_k),
                    top_p: args.top_p.unwrap_or(own.top_p),
                })
            }
            (false, None) => None,
        };
        let valid = options.validate().and_then(|()| sampling.map_or(Ok(()), |sampling| sampling.validate()));
        valid.map_err(|error| failure(Exit::Usage, format!("--{error}").replace('_', "-")))?;
        Ok(Self {
            model,
            prompt,
            options,
            sampling,
            seed: args.seed,
            batch_size: args.batch_size.get(),
            debias: args.debias.then(Debias::default),
        })
    }

    /// A caption for each list of keywords that has any, the first being clip number `before`; `done` is told of every batch.
    ///
    /// Equal prompts are written once, but not drawn once. Batches begin anew with each call, so that what a shard holds depends
    /// on its own clips alone.
    fn captions(
        &self,
        keywords: &[Vec<&str>],
        before: usize,
        counts: &mut DebiasCounts,
        mut done: impl FnMut(usize),
    ) -> anyhow::Result<Vec<Option<String>>> {
        let prompts: Vec<Option<String>> = keywords.iter().map(|keywords| self.prompt.fill(keywords)).collect();
        // Clips by the text that is written for them, in the order of their first.
        let mut texts: Vec<(&str, Vec<usize>)> = Vec::new();
        let mut text_of: HashMap<&str, usize> = HashMap::new();
        for (clip, prompt) in prompts.iter().enumerate() {
            let Some(prompt) = prompt else { continue };
            match text_of.get(prompt.as_str()).filter(|_| self.sampling.is_none()) {
                Some(&text) => texts[text].1.push(clip),
                None => {
                    text_of.insert(prompt, texts.len());
                    texts.push((prompt, vec![clip]));
                }
            }
        }
        let mut captions = vec![None; keywords.len()];
        done(prompts.iter().filter(|prompt| prompt.is_none()).count());
        for batch in texts.chunks(self.batch_size) {
            let prompts: Vec<&str> = batch.iter().map(|(prompt, _)| *prompt).collect();
            let written = match &self.sampling {
                None => self.model.write(&prompts, &self.options)?,
                Some(sampling) => {
                    let rng =
                        |(_, clips): &(&str, Vec<usize>)| clap_data::sample_rng(self.seed, 0, before + clips[0], 0);
                    let mut rngs: Vec<_> = batch.iter().map(rng).collect();
                    self.model.draw(&prompts, &self.options, sampling, &mut rngs)?
                }
            };
            for ((_, clips), text) in batch.iter().zip(written) {
                for &clip in clips {
                    let text = self.debias.as_ref().map_or_else(|| text.clone(), |list| list.text(&text, counts));
                    // A model that ends at once has said nothing.
                    captions[clip] = (!text.is_empty()).then_some(text);
                }
                done(clips.len());
            }
        }
        Ok(captions)
    }

    /// Everything that captions depend on.
    fn record(&self, args: &args::Caption) -> anyhow::Result<Map<String, Value>> {
        let fields = [
            ("model", json!(args.model)),
            ("revision", json!(args.revision.revision)),
            ("prompt", json!(args.prompt)),
            ("separator", json!(args.keyword_separator)),
            ("template", json!(args.template)),
            ("generation", serde_json::to_value(&self.options)?),
            ("sampling", serde_json::to_value(self.sampling)?),
            ("seed", self.sampling.map_or(Value::Null, |_| json!(self.seed))),
            ("batch_size", json!(self.batch_size)),
            ("debias", json!(self.debias.is_some())),
        ];
        Ok(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }
}
