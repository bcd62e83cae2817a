//! `cargo xtask embed`: one JSON line per sound file and text.

use std::io::Write;

use serde::Serialize;

use crate::args;
use crate::exit::{Exit, failure};
use crate::model::load;

/// One line of output.
#[derive(Serialize)]
struct Line<'a> {
    kind: &'static str,
    id: &'a str,
    embedding: &'a [f32],
}

/// Files whose embeddings are printed together, so that output begins before the last file is read.
const GROUP: usize = 64;

pub(crate) fn run(args: args::Embed) -> anyhow::Result<Exit> {
    if args.files.is_empty() && args.text.is_empty() {
        return Err(failure(Exit::Usage, "nothing to embed: give sound files, --text \"…\", or both"));
    }
    let model = load(&args.model)?.model;
    let mut out = std::io::stdout().lock();
    let mut failed = 0;
    for files in args.files.chunks(GROUP) {
        for (file, embedding) in files.iter().zip(model.embed_audio_each(files)) {
            match embedding {
                Ok(embedding) => line(&mut out, "audio", &file.to_string_lossy(), &embedding)?,
                Err(error) if args.strict => return Err(error.into()),
                Err(error) => {
                    failed += 1;
                    eprintln!("skipped: {error}");
                }
            }
        }
    }
    for (text, embedding) in args.text.iter().zip(model.embed_text(&args.text)?) {
        line(&mut out, "text", text, &embedding)?;
    }
    match failed {
        0 => Ok(Exit::Done),
        n => Err(failure(Exit::Data, format!("{n} of {} sound files could not be embedded", args.files.len()))),
    }
}

fn line(out: &mut impl Write, kind: &'static str, id: &str, embedding: &[f32]) -> anyhow::Result<()> {
    serde_json::to_writer(&mut *out, &Line { kind, id, embedding })?;
    writeln!(out)?;
    Ok(())
}
