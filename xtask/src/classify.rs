//! `cargo xtask classify`: which of the labels a sound is likeliest to be of, without training for them.

use std::io::Write;
use std::path::Path;

use clap_encoders::Score;
use serde::Serialize;

use crate::args;
use crate::exit::{Exit, failure};
use crate::model::load;
use crate::table;

/// One line of output.
#[derive(Serialize)]
struct Line<'a> {
    file: &'a str,
    labels: Vec<Labelled<'a>>,
}

#[derive(Serialize)]
struct Labelled<'a> {
    label: &'a str,
    score: f32,
}

pub(crate) fn run(args: &args::Classify) -> anyhow::Result<Exit> {
    let labels = labels(args)?;
    if !args.template.contains("{label}") {
        let text = format!("--template \"{}\" has no place for the label; write {{label}} there", args.template);
        return Err(failure(Exit::Usage, text));
    }
    let model = load(&args.model)?.model;
    let mut out = std::io::stdout().lock();
    let mut failed = 0;
    for (file, scores) in args.files.iter().zip(model.classify(&args.files, &labels, &args.template)?) {
        let scores = match scores {
            Ok(scores) => scores,
            Err(error) if args.strict => return Err(error.into()),
            Err(error) => {
                failed += 1;
                eprintln!("skipped: {error}");
                continue;
            }
        };
        let (file, top) = (file.to_string_lossy(), &scores[..scores.len().min(args.top.get())]);
        if args.json {
            let labels = top.iter().map(|Score { label, score }| Labelled { label, score: *score }).collect();
            serde_json::to_writer(&mut out, &Line { file: &file, labels })?;
            writeln!(out)?;
        } else {
            writeln!(out, "{file}\n{}", table::scores(top))?;
        }
    }
    match failed {
        0 => Ok(Exit::Done),
        n => Err(failure(Exit::Data, format!("{n} of {} sound files could not be classified", args.files.len()))),
    }
}

/// The labels of the arguments, those of the file last.
fn labels(args: &args::Classify) -> anyhow::Result<Vec<String>> {
    let mut labels = args.label.clone();
    if let Some(file) = &args.labels {
        let text = std::fs::read_to_string(file)
            .map_err(|error| failure(Exit::Usage, format!("--labels {}: {error}", file.display())))?;
        labels.extend(
            listed(file, &text)
                .map_err(|reason| failure(Exit::Usage, format!("--labels {}: {reason}", file.display())))?,
        );
    }
    match labels.is_empty() {
        true => Err(failure(Exit::Usage, "no labels to choose from: give --label WORD (repeatable) or --labels FILE")),
        false => Ok(labels),
    }
}

/// The labels of a file: a JSON list, LAION's JSON of label and index, or a text with one a line.
fn listed(file: &Path, text: &str) -> Result<Vec<String>, String> {
    use serde_json::Value;
    if file.extension().is_none_or(|ending| ending != "json") {
        return Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect());
    }
    let refused = || "this is neither a list of labels nor an object of label and index".to_owned();
    match serde_json::from_str(text).map_err(|error| error.to_string())? {
        Value::Array(items) => items.iter().map(|item| item.as_str().map(str::to_owned).ok_or_else(refused)).collect(),
        Value::Object(fields) => {
            let indexed = fields.into_iter().map(|(label, index)| Some((index.as_u64()?, label)));
            let mut indexed: Vec<(u64, String)> = indexed.collect::<Option<_>>().ok_or_else(refused)?;
            indexed.sort();
            Ok(indexed.into_iter().map(|(_, label)| label).collect())
        }
        _ => Err(refused()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str) -> Result<Vec<String>, String> {
        listed(Path::new(name), text)
    }

    #[test]
    fn labels_come_in_three_forms() {
        let expected = Ok(vec!["dog".to_owned(), "church bells".to_owned()]);
        assert_eq!(read("a.txt", "dog\n\n church bells \n"), expected);
        assert_eq!(read("a.json", r#"["dog", "church bells"]"#), expected);
        assert_eq!(read("a.json", r#"{"church bells": 1, "dog": 0}"#), expected);
        for text in ["3", "[3]", r#"{"dog": "0"}"#] {
            assert!(read("a.json", text).unwrap_err().contains("list of labels"), "{text}");
        }
        assert!(read("a.json", "[").is_err());
    }
}
