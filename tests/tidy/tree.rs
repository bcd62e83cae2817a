//! The files of the repository: all but `.git` and what `.gitignore` names.

use std::fs;
use std::path::{Path, PathBuf};

use super::code::test_modules;

/// A text file.
pub(super) struct TextFile {
    /// Path from the root of the repository, with `/`.
    pub(super) path: String,
    pub(super) text: String,
    /// A module that is compiled for tests alone.
    test_only: bool,
}

impl TextFile {
    pub(super) fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned(), test_only: false }
    }

    pub(super) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Source of a library crate; its tests, examples and benches are not.
    pub(super) fn is_library(&self) -> bool {
        self.path.starts_with("crates/") && self.is_shipped()
    }

    /// Source that ends up in a library or in the runner.
    pub(super) fn is_shipped(&self) -> bool {
        let mut parts = self.path.split('/');
        let package = match parts.next() {
            Some("crates") => parts.next().is_some(),
            Some("xtask") => true,
            _ => false,
        };
        package && self.is_rust() && parts.next() == Some("src") && !self.test_only
    }
}

/// The repository.
pub(super) struct Tree {
    root: PathBuf,
    files: Vec<TextFile>,
}

impl Tree {
    /// Reads every text file of the repository that holds this package.
    pub(super) fn read() -> Self {
        let root =
            Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the repository").to_owned();
        let ignored = ignored_names(&fs::read_to_string(root.join(".gitignore")).unwrap_or_default());
        let mut files = Vec::new();
        collect(&root, &root, &ignored, &mut files);
        files.sort_by(|a, b| a.path.cmp(&b.path));
        mark_test_modules(&mut files);
        Self { root, files }
    }

    pub(super) fn texts(&self) -> impl Iterator<Item = &TextFile> {
        self.files.iter()
    }

    pub(super) fn rust(&self) -> impl Iterator<Item = &TextFile> {
        self.texts().filter(|f| f.is_rust())
    }

    pub(super) fn named(&self, name: &str) -> impl Iterator<Item = &TextFile> {
        self.texts().filter(move |f| f.path.rsplit('/').next() == Some(name))
    }

    /// True where the repository has a file or folder at this path from its root.
    pub(super) fn has(&self, path: &str) -> bool {
        self.root.join(path).exists()
    }
}

/// Names of `.gitignore`: `/name` for the root alone, `name` anywhere. Patterns with `*` or inner slashes are not understood
/// and refused, so that tidy and git never disagree.
fn ignored_names(gitignore: &str) -> Vec<String> {
    let lines = gitignore.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
    lines
        .map(|line| {
            let name = line.strip_suffix('/').unwrap_or(line);
            let plain = !name.contains(['*', '?', '[', '!']) && !name.trim_start_matches('/').contains('/');
            assert!(plain, ".gitignore: tidy understands /name and name only, not {line}");
            name.to_owned()
        })
        .collect()
}

fn collect(root: &Path, folder: &Path, ignored: &[String], files: &mut Vec<TextFile>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    for entry in entries {
        let entry = entry.unwrap();
        let name = entry.file_name().to_string_lossy().into_owned();
        let at_root = folder == root && ignored.contains(&format!("/{name}"));
        if name == ".git" || name == "target" || at_root || ignored.contains(&name) {
            continue;
        }
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            collect(root, &entry.path(), ignored, files);
        } else if kind.is_file() {
            // Sound, tensors and pictures are not text; nor does tidy read what vanishes while it looks.
            let Ok(Ok(text)) = fs::read(entry.path()).map(String::from_utf8) else { continue };
            let path = entry.path();
            let parts = path.strip_prefix(root).expect("under the root").components();
            let path: Vec<_> = parts.map(|c| c.as_os_str().to_string_lossy()).collect();
            files.push(TextFile { path: path.join("/"), text, test_only: false });
        }
    }
}

/// Marks the files of modules declared under `#[cfg(test)]`, and those below them.
fn mark_test_modules(files: &mut [TextFile]) {
    let mut modules = Vec::new();
    for file in files.iter().filter(|f| f.is_rust()) {
        let stem = file.path.strip_suffix(".rs").expect("a Rust file");
        let (folder, name) = stem.rsplit_once('/').unwrap_or(("", stem));
        let home = if matches!(name, "lib" | "main" | "mod") { folder } else { stem };
        modules.extend(test_modules(&file.text).into_iter().map(|module| format!("{home}/{module}")));
    }
    for file in files {
        file.test_only = modules.iter().any(|module| {
            let rest = file.path.strip_prefix(module.as_str());
            rest.is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
        });
    }
}

#[test]
fn test_modules_are_marked() {
    let mut files = [
        TextFile::new("crates/a/src/lib.rs", "//! Doc.\n#[cfg(test)]\nmod twin;\nmod tower;"),
        TextFile::new("crates/a/src/tower.rs", "#[cfg(test)]\nmod tests;"),
        TextFile::new("crates/a/src/tower/tests.rs", ""),
        TextFile::new("crates/a/src/twin.rs", ""),
        TextFile::new("crates/a/src/twin/odd.rs", ""),
        TextFile::new("crates/a/src/tests.rs", ""),
        TextFile::new("crates/b/src/twin.rs", ""),
    ];
    mark_test_modules(&mut files);
    assert_eq!(files.map(|f| f.is_library()), [true, true, false, false, false, true, true]);
}

#[test]
fn library_source_is_told_apart() {
    let is = |path: &str| TextFile::new(path, "").is_library();
    assert!(is("crates/clap-nn/src/linear.rs") && is("crates/clap-nn/src/checkpoint/laion.rs"));
    for path in [
        "crates/clap-nn/examples/a.rs",
        "crates/clap-nn/benches/a.rs",
        "crates/clap-nn/Cargo.toml",
        "xtask/src/main.rs",
        "tests/src/lib.rs",
    ] {
        assert!(!is(path), "{path}");
    }
    assert!(TextFile::new("xtask/src/main.rs", "").is_shipped());
}

#[test]
fn gitignore_is_understood() {
    assert_eq!(ignored_names("# made\n/target\nruns/\n\n"), ["/target", "runs"]);
}

#[test]
#[should_panic(expected = "tidy understands")]
fn patterns_of_gitignore_are_refused() {
    ignored_names("*.log");
}
