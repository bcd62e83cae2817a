//! `cargo xtask dataset overlap`: the clips that two data sets share.

use std::collections::BTreeSet;
use std::io::Write;
use std::num::NonZeroUsize;
use std::path::Path;

use clap_data::{DataSet, Match, MatchKind, OpenOptions, OverlapOptions};
use comfy_table::Table;
use comfy_table::presets::NOTHING;

use super::{check_new, open, tell};
use crate::args;
use crate::counter::Counter;
use crate::exit::{Exit, failure};

/// Matches in the table; the list and the JSON lines have all.
const LISTED: usize = 20;

pub(crate) fn run(args: &args::Overlap, threads: NonZeroUsize) -> anyhow::Result<Exit> {
    check_new(args.out.as_deref(), args.overwrite)?;
    let opened = |path: &Path, split: &Option<String>| {
        open(path, &OpenOptions { split: split.clone(), strict: args.strict, ..OpenOptions::default() })
    };
    let a = opened(&args.a, &args.split_a)?;
    let b = args.b.as_ref().map(|b| opened(b, &args.split_b)).transpose()?;
    let options = OverlapOptions { exact_only: args.exact, threads };
    let total = a.samples.len() + b.as_ref().map_or(0, |b| b.samples.len());
    let mut clips = Counter::new(total, "clips", "heard");
    let mut progress = |done| clips.set(done, "");
    let found = match &b {
        Some(b) => clap_data::overlap(&a.samples, &b.samples, &options, &mut progress),
        None => clap_data::overlap_within(&a.samples, &options, &mut progress),
    };
    clips.finish();
    tell(&found.skipped);
    if args.strict && !found.skipped.is_empty() {
        return Err(failure(Exit::Data, "--strict: bad clips cannot be compared"));
    }
    if let Some(path) = &args.out {
        clap_data::write_exclusion_list(path, &found.matches)?;
    }
    let mut out = std::io::stdout();
    if args.json {
        for found in &found.matches {
            writeln!(out, "{}", serde_json::to_string(found)?)?;
        }
        return Ok(Exit::Done);
    }
    writeln!(out, "{}", table(&a, b.as_ref(), &found.matches))?;
    match &args.out {
        Some(path) => eprintln!("list  {}", path.display()),
        None if !found.matches.is_empty() => eprintln!("--out FILE.csv writes the list that --exclude takes"),
        None => {}
    }
    Ok(Exit::Done)
}

fn table(a: &DataSet, b: Option<&DataSet>, matches: &[Match]) -> String {
    let mut text = String::new();
    let (matched, others): (BTreeSet<&str>, BTreeSet<&str>) =
        matches.iter().map(|found| (found.id.as_str(), found.matched.as_str())).unzip();
    let exact = matches.iter().filter(|found| found.kind == MatchKind::SameSamples).count();
    if !matches.is_empty() {
        let mut table = Table::new();
        table.load_preset(NOTHING);
        let other = if b.is_some() { "clip of B" } else { "the same as" };
        table.set_header(["clip of A", other, "reason", "score", "offset"]);
        for Match { id, matched, kind, score, offset } in matches.iter().take(LISTED) {
            let offset = if *offset == 0.0 { String::new() } else { format!("{offset:+.2} s") };
            table.add_row([id.clone(), matched.clone(), kind.to_string(), format!("{score:.2}"), offset]);
        }
        text = format!("{table}\n");
        if matches.len() > LISTED {
            text += &format!(" and {} more\n", matches.len() - LISTED);
        }
    }
    let (of_a, name) = (a.samples.len(), &a.name);
    let with = match b {
        Some(b) => format!("{} of {} clips of {}", others.len(), b.samples.len(), b.name),
        None => "earlier ones".to_owned(),
    };
    text + &format!(
        " {} of {of_a} clips of {name} match {with}: {exact} with the same samples, {} with the same sound",
        matched.len(),
        matches.len() - exact
    )
}
