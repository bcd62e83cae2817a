//! Rust source without what the compiler does not run: comments, the text of strings, test modules.
//!
//! Removed characters become spaces, line ends stay, so that positions keep their meaning.

/// The source without comments.
pub(super) fn without_comments(source: &str) -> String {
    blank(source, false)
}

/// The source without comments, strings (their quotes stay) and the modules and functions under `#[cfg(test)]`.
pub(super) fn without_tests_and_strings(source: &str) -> String {
    let bare: Vec<char> = blank(source, true).chars().collect();
    cut(&bare, &test_spans(&bare))
}

/// The source without comments and what stands under `#[cfg(test)]`; strings stay.
pub(super) fn without_tests(source: &str) -> String {
    let bare: Vec<char> = blank(source, true).chars().collect();
    let code: Vec<char> = blank(source, false).chars().collect();
    cut(&code, &test_spans(&bare))
}

/// Names of the modules that `#[cfg(test)] mod name;` puts into a file of their own.
pub(super) fn test_modules(source: &str) -> Vec<String> {
    let bare: Vec<char> = blank(source, true).chars().collect();
    let name = |&(from, to): &(usize, usize)| {
        let item: String = bare[from..to].iter().collect();
        let declared = item.strip_suffix(';')?.rsplit_once("mod ")?.1.trim();
        Some(declared.to_owned())
    };
    test_spans(&bare).iter().filter_map(name).collect()
}

/// Line number of a byte, from 1.
pub(super) fn line_of(text: &str, byte: usize) -> usize {
    text[..byte].matches('\n').count() + 1
}

/// Lines of `text` in which `pattern` occurs, from 1.
pub(super) fn lines_with(text: &str, pattern: &str) -> Vec<usize> {
    text.match_indices(pattern).map(|(byte, _)| line_of(text, byte)).collect()
}

fn cut(text: &[char], spans: &[(usize, usize)]) -> String {
    let inside = |i: usize| spans.iter().any(|&(from, to)| (from..to).contains(&i));
    text.iter().enumerate().map(|(i, &c)| if c != '\n' && inside(i) { ' ' } else { c }).collect()
}

/// Items under `#[cfg(test)]`, attribute to closing brace (or semicolon), in text without comments and strings.
fn test_spans(text: &[char]) -> Vec<(usize, usize)> {
    let attribute: Vec<char> = "#[cfg(test)]".chars().collect();
    let mut spans = Vec::new();
    let mut i = 0;
    while i + attribute.len() <= text.len() {
        if text[i..i + attribute.len()] != attribute[..] {
            i += 1;
            continue;
        }
        let mut depth = 0;
        let mut end = i + attribute.len();
        while end < text.len() {
            match text[end] {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            end += 1;
            if depth == 0 && matches!(text[end - 1], '}' | ';') {
                break;
            }
        }
        spans.push((i, end));
        i = end;
    }
    spans
}

/// Comments become spaces; so do the insides of string and character literals where `strings` is set.
fn blank(source: &str, strings: bool) -> String {
    let text: Vec<char> = source.chars().collect();
    let at = |i: usize| text.get(i).copied().unwrap_or('\0');
    let mut out = text.clone();
    let mut erase = |from: usize, to: usize| {
        for c in &mut out[from..to] {
            if *c != '\n' {
                *c = ' ';
            }
        }
    };
    let mut i = 0;
    while i < text.len() {
        let start = i;
        match text[i] {
            '/' if at(i + 1) == '/' => {
                while i < text.len() && text[i] != '\n' {
                    i += 1;
                }
                erase(start, i);
            }
            '/' if at(i + 1) == '*' => {
                let mut depth = 0;
                while i < text.len() {
                    match (text[i], at(i + 1)) {
                        ('/', '*') => (depth, i) = (depth + 1, i + 2),
                        ('*', '/') => (depth, i) = (depth - 1, i + 2),
                        _ => i += 1,
                    }
                    if depth == 0 {
                        break;
                    }
                }
                erase(start, i.min(text.len()));
            }
            'r' | 'b' | 'c' if !continues_a_name(&text, i) && raw_string(&text, i).is_some() => {
                let (open, close) = raw_string(&text, i).expect("just seen");
                if strings {
                    erase(open, close);
                }
                i = close + 1; // past the quote; hashes are no trouble
            }
            '"' => {
                i += 1;
                while i < text.len() && text[i] != '"' {
                    i += if text[i] == '\\' { 2 } else { 1 };
                }
                let end = i.min(text.len());
                if strings {
                    erase(start + 1, end);
                }
                i = end + 1;
            }
            // A character, not a lifetime: 'x' or an escape.
            '\'' if at(i + 1) == '\\' => {
                i += 3;
                while i < text.len() && text[i] != '\'' {
                    i += 1;
                }
                erase(start + 1, i.min(text.len()));
                i += 1;
            }
            '\'' if at(i + 2) == '\'' => {
                erase(i + 1, i + 2);
                i += 3;
            }
            _ => i += 1,
        }
    }
    out.into_iter().collect()
}

fn continues_a_name(text: &[char], i: usize) -> bool {
    i > 0 && (text[i - 1].is_alphanumeric() || text[i - 1] == '_')
}

/// First character and end of the inside of a raw string (`r"…"`, `br#"…"#`, …) that starts at `i`.
fn raw_string(text: &[char], i: usize) -> Option<(usize, usize)> {
    let mut j = i;
    if matches!(text[j], 'b' | 'c') {
        j += 1;
    }
    if text.get(j) != Some(&'r') {
        return None;
    }
    let hashes = text[j + 1..].iter().take_while(|&&c| c == '#').count();
    let open = j + 1 + hashes;
    if text.get(open) != Some(&'"') {
        return None;
    }
    let inside = open + 1;
    let closes =
        |k: &usize| text[*k] == '"' && text[*k + 1..].iter().take(hashes).filter(|&&c| c == '#').count() == hashes;
    let close = (inside..text.len()).find(closes).unwrap_or(text.len());
    Some((inside, close))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(source: &str, code: &str, bare: &str) {
        assert_eq!(without_comments(source), code);
        assert_eq!(blank(source, true), bare);
        assert_eq!(code.chars().count(), source.chars().count());
    }

    #[test]
    fn comments_go() {
        check("a // b \"c\"\nd", "a         \nd", "a         \nd");
        check("a /* b /* c */ d */ e", "a                   e", "a                   e");
        check("a / b", "a / b", "a / b");
    }

    #[test]
    fn strings_keep_their_quotes() {
        check("f(\"a // b\")", "f(\"a // b\")", "f(\"      \")");
        check(r#"f("a\"b", c)"#, r#"f("a\"b", c)"#, r#"f("    ", c)"#);
        check("r#\"a \" b\"# c", "r#\"a \" b\"# c", "r#\"     \"# c");
        check("br\"\\\" x", "br\"\\\" x", "br\" \" x");
        check("var\"x\"", "var\"x\"", "var\" \"");
    }

    #[test]
    fn characters_are_no_lifetimes() {
        assert_eq!(blank("f('\"', '{', '\\'', '\\u{1F}') // x", true), "f(' ', ' ', '  ', '      ')     ");
        assert_eq!(blank("fn f<'a>(x: &'a str) {} // y", true), "fn f<'a>(x: &'a str) {}     ");
    }

    #[test]
    fn test_modules_go() {
        let source = "fn a() {}\n#[cfg(test)]\nmod tests {\n  fn b() { \"}\"; }\n}\nfn c() {}\n";
        let rest = without_tests(source);
        assert!(rest.contains("fn a") && rest.contains("fn c") && !rest.contains("fn b"), "{rest}");
        assert_eq!(rest.lines().count(), 6);
        let rest = without_tests("#[cfg(test)]\nmod tests;\nfn c() {}");
        assert!(rest.contains("fn c") && !rest.contains("mod"), "{rest}");
    }

    #[test]
    fn test_modules_in_files_are_found() {
        let source = "#[cfg(test)]\npub(crate) mod odd;\nmod plain;\n#[cfg(test)]\nmod tests { fn a() {} }\n#[cfg(test)]\nuse a::b;";
        assert_eq!(test_modules(source), ["odd"]);
    }

    #[test]
    fn lines_are_counted_from_one() {
        assert_eq!(lines_with("a\nb a\n\na", "a"), [1, 2, 4]);
    }
}
