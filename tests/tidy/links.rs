//! Links of the documents: a relative one leads to a file of the repository, and its anchor to a heading.

use super::assert_tidy;
use super::tree::{TextFile, Tree};

/// Targets of `[text](target)` and `![text](target)` with their lines, outside of code.
fn targets(markdown: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut fenced = false;
    for (i, line) in markdown.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced || line.starts_with("    ") {
            continue;
        }
        // Odd pieces between backticks are code.
        let prose: Vec<&str> = line.split('`').step_by(2).collect();
        let prose = prose.join("`");
        for (at, _) in prose.match_indices("](") {
            let rest = &prose[at + 2..];
            if let Some(end) = rest.find([')', ' ']) {
                found.push((i + 1, rest[..end].trim_matches(['<', '>']).to_owned()));
            }
        }
    }
    found
}

/// Anchors that GitHub gives the headings of a document.
fn anchors(markdown: &str) -> Vec<String> {
    let mut fenced = false;
    let mut found: Vec<String> = Vec::new();
    for line in markdown.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        let title = line.trim_start_matches('#');
        if fenced || title.len() == line.len() || !title.starts_with(' ') {
            continue;
        }
        let kept = title.trim().to_lowercase();
        let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        found.push(kept.map(|c| if c == ' ' { '-' } else { c }).collect());
    }
    found
}

/// `docs/a.md` and `../README.md` give `README.md`; `None` where it leaves the repository.
fn resolve(document: &str, link: &str) -> Option<String> {
    let mut parts: Vec<&str> = document.split('/').collect();
    parts.pop();
    for part in link.split('/').filter(|p| !p.is_empty() && *p != ".") {
        if part == ".." {
            parts.pop()?;
        } else {
            parts.push(part);
        }
    }
    Some(parts.join("/"))
}

/// Broken links of `document`; `exists` and `text` answer for paths from the root.
fn complaints(
    document: &TextFile,
    exists: impl Fn(&str) -> bool,
    text: impl Fn(&str) -> Option<String>,
) -> Vec<String> {
    let broken = |link: &str| -> Option<&str> {
        if link.contains("://") || link.starts_with("mailto:") {
            return None;
        }
        let (path, anchor) = link.split_once('#').map_or((link, None), |(path, anchor)| (path, Some(anchor)));
        let target = if path.is_empty() { Some(document.path.clone()) } else { resolve(&document.path, path) };
        let Some(target) = target.filter(|t| t.is_empty() || exists(t)) else {
            return Some("leads nowhere: correct the path (it starts at the document's folder) or add the file");
        };
        let anchor = anchor.filter(|_| target.ends_with(".md"))?;
        let known = text(&target).is_some_and(|t| anchors(&t).iter().any(|a| a == anchor));
        (!known).then_some("names a heading that is not there: correct the anchor")
    };
    let links = targets(&document.text);
    let say = |(line, link): &(usize, String)| Some(format!("{}:{line}: {link} {}", document.path, broken(link)?));
    links.iter().filter_map(say).collect()
}

#[test]
fn links_of_the_documents_resolve() {
    let tree = Tree::read();
    let text = |path: &str| tree.texts().find(|f| f.path == path).map(|f| f.text.clone());
    let documents = tree.texts().filter(|f| f.path.ends_with(".md"));
    assert_tidy(documents.flat_map(|d| complaints(d, |path| tree.has(path), text)).collect());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(markdown: &str) -> usize {
        let document = TextFile::new("docs/a.md", markdown);
        let files = [("docs/a.md", markdown), ("docs/b.md", "# One two: `x`\n"), ("README.md", ""), ("docs/p.svg", "")];
        let text = |path: &str| files.iter().find(|(p, _)| *p == path).map(|(_, t)| (*t).to_owned());
        complaints(&document, |path| path == "docs" || text(path).is_some(), text).len()
    }

    #[test]
    fn good_links_pass() {
        for link in ["b.md", "./b.md", "../README.md", "b.md#one-two-x", "p.svg", "https://a.org/b", "../docs", "#here"]
        {
            assert_eq!(broken(&format!("# Here\nsee [it]({link})")), 0, "{link}");
        }
        assert_eq!(broken("`[code](nowhere)`\n```\n[code](nowhere)\n```\n    [code](nowhere)"), 0);
    }

    #[test]
    fn broken_links_fail() {
        for link in ["c.md", "../b.md", "b.md#three", "#gone", "../../README.md", "q.svg"] {
            assert_eq!(broken(&format!("# Here\nsee ![it]({link})")), 1, "{link}");
        }
        assert_eq!(broken("[a](x.md) and [b](y.md \"title\")"), 2);
    }
}
