//! The shape of Rust files: who may print, exit, unwrap and name what, how a file opens and how long it gets.

use super::assert_tidy;
use super::code::{lines_with, without_comments, without_tests, without_tests_and_strings};
use super::tree::{TextFile, Tree};

/// Lines of a file.
const LONGEST: usize = 600;

/// Keys of checkpoints that are not Hugging Face's: LAION-CLAP's towers, HTS-AT's and the front ends' buffers.
const FOREIGN_KEYS: [&str; 5] =
    ["audio_branch", "text_branch", "sed_model", "logmel_extractor", "spectrogram_extractor"];

/// What stops or talks over the program that a library is part of.
const TALK: [&str; 8] =
    ["println!", "print!", "eprintln!", "eprint!", "dbg!", "process::exit", "process::abort", "exit("];

/// File names that say nothing about what is inside.
const VAGUE: [&str; 6] = ["utils", "util", "common", "helpers", "types", "misc"];

/// Lines of `code` with `word` as a whole: `eprintln!` does not contain `println!`.
fn lines_with_word(code: &str, word: &str) -> Vec<usize> {
    let starts = |byte: &usize| !code[..*byte].ends_with(|c: char| c.is_alphanumeric() || c == '_');
    let bytes = code.match_indices(word).map(|(byte, _)| byte).filter(starts);
    bytes.map(|byte| super::code::line_of(code, byte)).collect()
}

fn module_doc(file: &TextFile) -> Option<String> {
    let first = file.text.lines().map(str::trim).find(|l| !l.is_empty());
    (!first.is_some_and(|l| l.starts_with("//!")))
        .then(|| format!("{}:1: open the module with `//!`: what it is, the paper, the pinned source", file.path))
}

fn length(file: &TextFile) -> Option<String> {
    let lines = file.text.lines().count();
    (lines > LONGEST).then(|| {
        format!("{}: {lines} lines; split it by question, each file named by its noun (at most {LONGEST})", file.path)
    })
}

fn vague_name(file: &TextFile) -> Option<String> {
    let stem = file.path.rsplit('/').next()?.strip_suffix(".rs")?;
    if stem == "clap" {
        return Some(format!("{}: the name clap belongs to the argument parser: call the file by its noun", file.path));
    }
    VAGUE.contains(&stem).then(|| format!("{}: name the file by what it answers, not {stem}", file.path))
}

fn talk(file: &TextFile) -> Vec<String> {
    if !file.is_library() {
        return vec![];
    }
    let code = without_tests_and_strings(&file.text);
    let found = TALK.iter().flat_map(|word| lines_with_word(&code, word).into_iter().map(move |line| (line, word)));
    found
        .map(|(line, word)| {
            format!("{}:{line}: {word}: a library prints nothing and never exits; return it, or use tracing", file.path)
        })
        .collect()
}

fn unwrap(file: &TextFile) -> Vec<String> {
    if !file.is_shipped() {
        return vec![];
    }
    let lines = lines_with(&without_tests_and_strings(&file.text), ".unwrap()");
    let say = |line| format!("{}:{line}: unwrap(): return the error, or expect(\"why this cannot fail\")", file.path);
    lines.into_iter().map(say).collect()
}

fn named_clap(file: &TextFile) -> Vec<String> {
    let code = without_tests_and_strings(&file.text);
    let names = ["mod clap;", "mod clap ", "let clap ", "let clap:", "let mut clap ", "let mut clap:"];
    let lines = names.iter().flat_map(|name| lines_with_word(&code, name));
    let say = |line| format!("{}:{line}: the name clap belongs to the argument parser: use another", file.path);
    lines.map(say).collect()
}

fn foreign_keys(file: &TextFile) -> Vec<String> {
    if !file.is_shipped() || file.path.starts_with("crates/clap-encoders/src/checkpoint/") {
        return vec![];
    }
    let code = without_tests(&file.text);
    let found = FOREIGN_KEYS.iter().flat_map(|key| lines_with(&code, key).into_iter().map(move |line| (line, key)));
    found
        .map(|(line, key)| {
            format!(
                "{}:{line}: {key} is a foreign checkpoint key: only crates/clap-encoders/src/checkpoint/ knows those; \
                 map it there to the Hugging Face name",
                file.path
            )
        })
        .collect()
}

/// Files that name the hub client; one may.
fn hub_files<'a>(files: impl Iterator<Item = &'a TextFile>) -> Vec<&'a str> {
    let names_hub = |f: &&TextFile| f.is_shipped() && !lines_with(&without_comments(&f.text), "hf_hub").is_empty();
    files.filter(names_hub).map(|f| f.path.as_str()).collect()
}

#[test]
fn modules_open_with_a_doc_comment() {
    assert_tidy(Tree::read().rust().filter_map(module_doc).collect());
}

#[test]
fn files_are_short_and_named_by_their_noun() {
    assert_tidy(Tree::read().rust().flat_map(|f| length(f).into_iter().chain(vague_name(f))).collect());
}

#[test]
fn libraries_print_nothing_and_never_exit() {
    assert_tidy(Tree::read().rust().flat_map(talk).collect());
}

#[test]
fn nothing_unwraps_outside_tests() {
    assert_tidy(Tree::read().rust().flat_map(unwrap).collect());
}

#[test]
fn nothing_of_ours_is_called_clap() {
    assert_tidy(Tree::read().rust().flat_map(named_clap).collect());
}

#[test]
fn one_folder_knows_foreign_keys() {
    assert_tidy(Tree::read().rust().flat_map(foreign_keys).collect());
}

#[test]
fn one_file_names_the_hub_client() {
    let tree = Tree::read();
    let files = hub_files(tree.rust());
    assert_eq!(files, ["crates/clap-encoders/src/hub.rs"], "only the hub module names hf_hub: call it instead");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn library(text: &str) -> TextFile {
        TextFile::new("crates/clap-nn/src/linear.rs", text)
    }

    #[test]
    fn undocumented_module_fails() {
        assert!(module_doc(&library("//! Doc.\nfn a() {}")).is_none());
        assert!(module_doc(&library("\n//! Doc.")).is_none());
        for text in ["", "use a;\n//! Late.", "/// Of an item.\nfn a() {}", "// Plain."] {
            assert!(module_doc(&library(text)).is_some(), "{text:?}");
        }
    }

    #[test]
    fn long_file_fails() {
        assert!(length(&library(&"x\n".repeat(LONGEST))).is_none());
        assert!(length(&library(&"x\n".repeat(LONGEST + 1))).is_some());
    }

    #[test]
    fn vague_file_fails() {
        assert!(vague_name(&library("")).is_none());
        for path in ["crates/a/src/utils.rs", "xtask/src/helpers.rs", "crates/clap-nn/src/clap.rs"] {
            assert!(vague_name(&TextFile::new(path, "")).is_some(), "{path}");
        }
    }

    #[test]
    fn talking_library_fails() {
        for word in ["println!(\"a\")", "eprint!(\"a\")", "std::process::exit(1)", "exit(2)", "dbg!(x)"] {
            let source = format!("//! Doc.\nfn a() {{ {word}; }}");
            let found = talk(&library(&source));
            assert!(!found.is_empty() && found[0].contains(":2: "), "{word}: {found:?}");
            assert!(talk(&TextFile::new("xtask/src/main.rs", &source)).is_empty());
        }
        for quiet in ["// println!(\"a\")", "let a = \"println!\";", "#[cfg(test)] mod t { fn a() { println!(); } }"] {
            assert!(talk(&library(quiet)).is_empty(), "{quiet}");
        }
        assert_eq!(talk(&library("eprintln!()")).len(), 1);
    }

    #[test]
    fn unwrapping_code_fails() {
        assert_eq!(unwrap(&library("fn a() {\n b.unwrap() }")).len(), 1);
        assert_eq!(unwrap(&TextFile::new("xtask/src/main.rs", "a.unwrap()")).len(), 1);
        for fine in ["b.unwrap_or(1)", "/// b.unwrap()", "#[cfg(test)]\nmod tests { fn a() { b.unwrap(); } }"] {
            assert!(unwrap(&library(fine)).is_empty(), "{fine}");
        }
        assert!(unwrap(&TextFile::new("tests/main.rs", "a.unwrap()")).is_empty());
    }

    #[test]
    fn our_clap_fails() {
        assert_eq!(named_clap(&library("pub mod clap;")).len(), 1);
        assert_eq!(named_clap(&library("let clap = 1;")).len(), 1);
        assert!(named_clap(&library("use clap::Parser; let clapping = 1;")).is_empty());
    }

    #[test]
    fn foreign_key_outside_the_folder_fails() {
        let text = "fn a() { get(\"audio_branch.x\") }";
        assert_eq!(foreign_keys(&library(text)).len(), 1);
        assert!(foreign_keys(&TextFile::new("crates/clap-encoders/src/checkpoint/laion.rs", text)).is_empty());
        assert!(foreign_keys(&library("// audio_branch")).is_empty());
    }

    #[test]
    fn second_hub_file_is_seen() {
        let files = [library("use hf_hub::api;"), TextFile::new("xtask/src/a.rs", "hf_hub::x()"), library("// hf_hub")];
        assert_eq!(hub_files(files.iter()), ["crates/clap-nn/src/linear.rs", "xtask/src/a.rs"]);
    }
}
