//! Numbers of a table, the table as it grows, and the part of a document between two marks that it goes into.

use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;

/// Seconds or milliseconds of the rounds.
#[derive(Clone, Debug, Default)]
pub(super) struct Times(pub(super) Vec<f64>);

impl Times {
    pub(super) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        match (sorted.len(), sorted.len() / 2) {
            (0, _) => f64::NAN,
            (n, half) if n % 2 == 1 => sorted[half],
            (_, half) => f64::midpoint(sorted[half - 1], sorted[half]),
        }
    }

    /// `median (least–greatest)` in units of `unit` seconds.
    pub(super) fn cell(&self, unit: f64) -> String {
        let least = self.0.iter().copied().fold(f64::INFINITY, f64::min);
        let greatest = self.0.iter().copied().fold(0.0, f64::max);
        let [median, least, greatest] = [self.median(), least, greatest].map(|seconds| three_digits(seconds / unit));
        format!("{median} ({least}–{greatest})")
    }
}

/// A number with three digits, or all those before its point.
pub(super) fn three_digits(x: f64) -> String {
    let before = if x > 0.0 { x.log10().floor() as i32 } else { 0 };
    format!("{x:.*}", usize::try_from(2 - before).unwrap_or(0))
}

/// A report in Markdown: printed line by line, and written into a document at its end.
pub(super) struct Report<'a> {
    document: Option<Document<'a>>,
    text: String,
}

impl<'a> Report<'a> {
    /// A report that goes between the marks `name` of `document`, where there is one. The document is read now, so that a wrong path costs
    /// nothing.
    pub(super) fn new(document: Option<&'a Path>, name: &str) -> anyhow::Result<Self> {
        let document = document.map(|path| Document::open(path, name)).transpose()?;
        Ok(Self { document, text: String::new() })
    }

    pub(super) fn line(&mut self, line: &str) -> anyhow::Result<()> {
        self.text.push_str(line);
        self.text.push('\n');
        let mut out = std::io::stdout().lock();
        writeln!(out, "{line}")?;
        Ok(out.flush()?)
    }

    /// Header and rule of a table.
    pub(super) fn header(&mut self, names: &[&str]) -> anyhow::Result<()> {
        self.line(&format!("| {} |\n|{}", names.join(" | "), "---|".repeat(names.len())))
    }

    pub(super) fn row(&mut self, cells: &[String]) -> anyhow::Result<()> {
        self.line(&format!("| {} |", cells.join(" | ")))
    }

    /// Writes the document.
    pub(super) fn finish(self) -> anyhow::Result<()> {
        self.document.map_or(Ok(()), |document| document.write(&self.text))
    }
}

/// A document with a part that a command writes, between `<!-- NAME: begin -->` and `<!-- NAME: end -->`.
struct Document<'a> {
    path: &'a Path,
    before: String,
    after: String,
}

impl<'a> Document<'a> {
    fn open(path: &'a Path, name: &str) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
        let (begin, end) = (format!("<!-- {name}: begin -->"), format!("<!-- {name}: end -->"));
        let parts = text.split_once(&begin).and_then(|(before, rest)| Some((before, rest.split_once(&end)?.1)));
        let (before, after) = parts.with_context(|| format!("{} has no {begin} and {end}", path.display()))?;
        Ok(Self { path, before: before.to_owned() + &begin, after: end + after })
    }

    /// Puts `text` between the marks.
    fn write(&self, text: &str) -> anyhow::Result<()> {
        let whole = format!("{}\n\n{}\n\n{}", self.before, text.trim(), self.after);
        std::fs::write(self.path, whole).with_context(|| format!("{} cannot be written", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        for (x, text) in [(0.138_7, "0.139"), (1.0, "1.00"), (12.34, "12.3"), (1234.5, "1234"), (0.0, "0.00")] {
            assert_eq!(three_digits(x), text);
        }
    }

    #[test]
    fn a_cell_has_the_median_and_the_ends() {
        assert_eq!(Times(vec![0.3, 0.1, 0.2]).cell(1e-3), "200 (100–300)");
        assert_eq!(Times(vec![0.4, 0.1, 0.2, 0.3]).median(), 0.25);
    }

    #[test]
    fn a_document_changes_between_its_marks_alone() {
        let path = std::env::temp_dir().join(format!("xtask-bench-{}.md", std::process::id()));
        std::fs::write(&path, "a\n<!-- x: begin -->\nold\n<!-- x: end -->\nb\n").unwrap();
        Document::open(&path, "x").unwrap().write("new\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a\n<!-- x: begin -->\n\nnew\n\n<!-- x: end -->\nb\n");
        assert!(Document::open(&path, "y").is_err());
        std::fs::remove_file(&path).unwrap();
    }
}
