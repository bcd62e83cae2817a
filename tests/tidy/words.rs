//! What must not stand in a file: paths of one machine, and packages from anywhere but crates.io.

use super::assert_tidy;
use super::code::lines_with;
use super::tree::{TextFile, Tree};

/// Starts of paths that exist on one machine only. Split, so that this file passes its own rule.
const MACHINE_PATHS: [&str; 6] = [
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("/Us", "ers/"),
    concat!("../sha", "red/"),
    concat!("C:", "\\Users"),
];

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

fn machine_paths(file: &TextFile) -> Vec<String> {
    let found = MACHINE_PATHS.iter().flat_map(|path| {
        let starts = |&(byte, _): &(usize, &str)| {
            // `https://host/home/x` and `crates/work/x` are no absolute paths.
            !path.starts_with('/') || !file.text[..byte].ends_with(|c: char| c.is_alphanumeric() || "._-}".contains(c))
        };
        file.text
            .match_indices(path)
            .filter(starts)
            .map(move |(byte, _)| (super::code::line_of(&file.text, byte), path))
    });
    found
        .map(|(line, path)| {
            format!("{}:{line}: {path} is a place on one machine: write a path from the repository's root", file.path)
        })
        .collect()
}

/// Sources of `Cargo.lock` and `.cargo/config.toml` that a fresh clone elsewhere may not reach.
fn foreign_sources(file: &TextFile) -> Vec<String> {
    let say = |line: usize| {
        format!(
            "{}:{line}: packages come from crates.io alone: remove the mirror from the file and lock again",
            file.path
        )
    };
    match file.path.as_str() {
        "Cargo.lock" => {
            let lines = file.text.lines().enumerate();
            lines
                .filter(|(_, l)| l.starts_with("source = ") && !l.contains(CRATES_IO))
                .map(|(i, _)| say(i + 1))
                .collect()
        }
        ".cargo/config.toml" => lines_with(&file.text, "[source").into_iter().map(say).collect(),
        _ => vec![],
    }
}

#[test]
fn no_path_of_one_machine() {
    assert_tidy(Tree::read().texts().flat_map(machine_paths).collect());
}

#[test]
fn packages_come_from_crates_io() {
    let tree = Tree::read();
    assert!(tree.has("Cargo.lock"), "commit Cargo.lock");
    assert_tidy(tree.texts().flat_map(foreign_sources).collect());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_path_fails() {
        for path in MACHINE_PATHS {
            let found = machine_paths(&TextFile::new("README.md", &format!("a\nsee {path}x")));
            assert_eq!(found.len(), 1, "{path}");
            assert!(found[0].starts_with("README.md:2: "), "{found:?}");
        }
        let home = MACHINE_PATHS[2];
        assert!(machine_paths(&TextFile::new("README.md", &format!("https://a.org{home}x, site{home}y"))).is_empty());
    }

    #[test]
    fn other_source_fails() {
        let lock = |source: &str| TextFile::new("Cargo.lock", &format!("[[package]]\nsource = \"{source}\"\n"));
        assert!(foreign_sources(&lock(CRATES_IO)).is_empty());
        assert_eq!(foreign_sources(&lock("registry+https://mirror.example/index")).len(), 1);
        assert_eq!(foreign_sources(&lock("git+https://github.com/a/b#c")).len(), 1);
        let config = TextFile::new(".cargo/config.toml", "[alias]\n[source.crates-io]\nreplace-with = \"m\"\n");
        assert_eq!(foreign_sources(&config).len(), 1);
    }
}
