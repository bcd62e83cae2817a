//! `cargo xtask dataset inspect`: what a data set is made of, as a table, a page or JSON.

use std::io::Write;
use std::num::NonZeroUsize;

use clap_data::{DataSet, InspectOptions, OpenOptions};
use clap_encoders::ClapTokenizer;

use super::summary_table::table;
use super::{check_new, open, page};
use crate::args;
use crate::counter::Counter;
use crate::exit::{Exit, failure};
use crate::mel::write_whole;

/// Longer than any caption: tokens are counted, not cut.
const MOST_TOKENS: usize = 1 << 20;

/// Faults told on the terminal; the page and the JSON object have all.
const TOLD: usize = 10;

pub(crate) fn run(args: &args::Inspect, threads: NonZeroUsize) -> anyhow::Result<Exit> {
    check_new(args.html.as_deref(), args.overwrite)?;
    let tokenizer = args.tokenizer.as_deref().map(ClapTokenizer::from_pretrained).transpose()?;
    // A caption that cannot be encoded has no tokens; no tokenizer refuses plain text.
    let tokens = tokenizer.map(|tokenizer| {
        move |text: &str| tokenizer.encode_ids(&[text], MOST_TOKENS).map_or(0, |rows| rows.iter().map(Vec::len).sum())
    });
    let columns = args.table.open_options();
    let splits = match &args.split {
        Some(split) => vec![split.clone()],
        None => clap_data::splits(&args.source, &columns)?,
    };
    let named: Vec<Option<String>> =
        if splits.is_empty() { vec![None] } else { splits.into_iter().map(Some).collect() };
    let opened = named.into_iter().map(|split| open(&args.source, &OpenOptions { split, ..columns.clone() }));
    let data = opened.collect::<anyhow::Result<Vec<DataSet>>>()?;

    let mut clips = Counter::new(data.iter().map(|split| split.samples.len()).sum(), "clips", "heard");
    let options = InspectOptions {
        headers_only: args.fast,
        threads,
        tokens: tokens.as_ref().map(|tokens| tokens as &dyn Fn(&str) -> usize),
    };
    let found = clap_data::inspect(&data, &options, &mut |done| clips.set(done, ""));
    clips.finish();

    if let Some(path) = &args.html {
        let page = page::page(&found, &data, args.pictures, args.seed)?;
        write_whole(path, page.as_bytes())?;
        eprintln!("page  {}", path.display());
    }
    let mut out = std::io::stdout();
    if args.json {
        writeln!(out, "{}", serde_json::to_string(&found)?)?;
    } else {
        writeln!(out, "{}", table(&found))?;
        for fault in found.faults.iter().take(TOLD) {
            eprintln!("{}: {}/{}: {}", page::kind(fault.kind), fault.split, fault.id, fault.reason);
        }
        if found.faults.len() > TOLD {
            eprintln!("{} more sounds have something; --html and --json name them", found.faults.len() - TOLD);
        }
    }
    let unusable = found.left_out.len() + found.all.broken + found.all.not_finite;
    if args.strict && unusable > 0 {
        return Err(failure(Exit::Data, format!("--strict: {unusable} clips are broken or were left out")));
    }
    Ok(Exit::Done)
}
