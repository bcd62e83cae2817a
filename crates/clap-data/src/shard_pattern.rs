//! Brace patterns for shard names, as the shells and Python's `braceexpand` write them: `train/{000..511}.tar`,
//! `{clotho,esc50}/0.tar`.

use crate::{Error, Result};

/// More shards than any public audio data set has; a longer list is a slip of the keyboard.
const MAX_SHARDS: usize = 1_000_000;

/// All the names a pattern stands for, in order; a name without braces stands for itself.
///
/// `{a..b}` counts up or down; a leading zero on either side pads every number to the wider one. `{x,y}` is a choice.
/// Several groups multiply, the last one running fastest.
///
/// # Errors
/// [`Error::ShardPattern`] for a group that is neither, an unclosed or nested brace, or more than a million names.
pub fn expand_braces(pattern: &str) -> Result<Vec<String>> {
    let fail = |reason: String| Error::ShardPattern { pattern: pattern.to_owned(), reason };
    let mut names = vec![String::new()];
    let mut rest = pattern;
    while let Some(open) = rest.find('{') {
        let (text, tail) = (&rest[..open], &rest[open + 1..]);
        let close = tail.find('}').ok_or_else(|| fail("a `{` without `}`".to_owned()))?;
        let choices = choices(&tail[..close]).map_err(fail)?;
        if names.len().saturating_mul(choices.len()) > MAX_SHARDS {
            return Err(fail(format!("it stands for more than {MAX_SHARDS} names")));
        }
        names =
            names.iter().flat_map(|name| choices.iter().map(move |choice| format!("{name}{text}{choice}"))).collect();
        rest = &tail[close + 1..];
    }
    for name in &mut names {
        name.push_str(rest);
    }
    Ok(names)
}

fn choices(group: &str) -> std::result::Result<Vec<String>, String> {
    if group.contains('{') {
        return Err("a brace inside a brace".to_owned());
    }
    if let Some((first, last)) = group.split_once("..") {
        let number = |text: &str| text.parse::<u32>().map_err(|_| format!("`{text}` in `{{{group}}}` is no number"));
        let (from, to) = (number(first)?, number(last)?);
        if from.abs_diff(to) as usize >= MAX_SHARDS {
            return Err(format!("it stands for more than {MAX_SHARDS} names"));
        }
        let padded = |text: &str| text.len() > 1 && text.starts_with('0');
        let width = if padded(first) || padded(last) { first.len().max(last.len()) } else { 0 };
        let name = |number: u32| format!("{number:0width$}");
        return Ok(if from <= to { (from..=to).map(name).collect() } else { (to..=from).rev().map(name).collect() });
    }
    if group.contains(',') {
        return Ok(group.split(',').map(str::to_owned).collect());
    }
    Err(format!("`{{{group}}}` is neither a range such as {{0..3}} nor a choice such as {{a,b}}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, expected: &[&str]) {
        assert_eq!(expand_braces(pattern).unwrap(), expected);
    }

    #[test]
    fn ranges_choices_and_products() {
        check("0.tar", &["0.tar"]);
        check("{0..2}.tar", &["0.tar", "1.tar", "2.tar"]);
        check("{2..0}", &["2", "1", "0"]);
        check("{08..11}", &["08", "09", "10", "11"]);
        check("{a,b}/{0..1}.tar", &["a/0.tar", "a/1.tar", "b/0.tar", "b/1.tar"]);
    }

    #[test]
    fn slips_are_named() {
        for pattern in ["{0..", "{a..b}", "{a}", "{}", "{{0..1}}", "{0..4000000000}", "{0..9999}{0..9999}"] {
            let error = expand_braces(pattern).unwrap_err().to_string();
            assert!(error.contains(pattern), "{error}");
        }
    }
}
