//! `cargo xtask tokenizer`: a byte-level BPE tokenizer of the captions of a data set.

use std::collections::BTreeSet;
use std::io::Write;

use clap_data::OpenOptions;
use clap_data::caption::{readable, template};
use clap_encoders::ClapTokenizer;

use crate::args;
use crate::exit::Exit;

pub(crate) fn run(args: args::Tokenizer) -> anyhow::Result<Exit> {
    let prompt = template(&args.template)?;
    // Every sample counts its captions, so that frequent words merge first; a label counts once per sample as well.
    let mut texts = Vec::new();
    let mut words = BTreeSet::new();
    for path in &args.data {
        let data = clap_data::open(path, &OpenOptions { split: args.split.clone(), ..args.table.open_options() })?;
        for skipped in &data.skipped {
            eprintln!("skipped {skipped}");
        }
        for sample in &data.samples {
            texts.extend(sample.captions.iter().cloned());
            texts.extend(sample.labels.iter().map(|label| prompt.fill(&readable(label))));
        }
    }
    words.extend(texts.iter().flat_map(|text| text.split_whitespace().map(str::to_owned)));
    let tokenizer = ClapTokenizer::train_bpe(&texts, args.vocab_size)?;
    tokenizer.save(&args.out)?;
    writeln!(
        std::io::stdout(),
        "{}: {} tokens from {} texts of {} distinct words",
        args.out.display(),
        tokenizer.vocab_size(),
        texts.len(),
        words.len()
    )?;
    Ok(Exit::Done)
}
