//! The staircase of crates: who may depend on whom, and on which tools.
//!
//! ```text
//! clap-audio ──► clap-data ─────────────────┐
//!     │                                     ▼
//!     └────► clap-nn ──► clap-encoders ──► clap-eval ──► clap-train ──► xtask
//! ```

use toml::{Table, Value};

use super::assert_tidy;
use super::tree::Tree;

/// What each crate may depend on within the workspace; `xtask` and the tests may depend on all.
const ARROWS: [(&str, &[&str]); 6] = [
    ("clap-audio", &[]),
    ("clap-data", &["clap-audio"]),
    ("clap-nn", &[]),
    ("clap-encoders", &["clap-audio", "clap-nn"]),
    ("clap-eval", &["clap-audio", "clap-data", "clap-encoders"]),
    ("clap-train", &["clap-audio", "clap-data", "clap-nn", "clap-encoders", "clap-eval"]),
];

/// Packages that one crate alone may use.
const RESERVED: [(&str, &str, &str); 8] = [
    ("clap", "xtask", "parse arguments in the runner and pass a config struct"),
    ("anyhow", "xtask", "give the crate's own error enum a variant"),
    ("console", "xtask", "return the numbers and let the runner show them"),
    ("indicatif", "xtask", "report progress through a callback"),
    ("comfy-table", "xtask", "return the numbers and let the runner draw the table"),
    ("tracing-subscriber", "xtask", "emit tracing events and let the runner subscribe"),
    ("hf-hub", "clap-encoders", "use clap_encoders::hub"),
    ("tokenizers", "clap-encoders", "use clap_encoders::ClapTokenizer"),
];

/// Packages of every dependency table of a manifest: plain, build, development and per target.
fn dependencies(manifest: &Table) -> Vec<String> {
    let mut found = Vec::new();
    for (name, value) in manifest {
        let Value::Table(table) = value else { continue };
        match name.as_str() {
            "dependencies" | "dev-dependencies" | "build-dependencies" => {
                found.extend(table.iter().map(|(name, value)| {
                    let package = value.get("package").and_then(Value::as_str);
                    package.unwrap_or(name).to_owned()
                }));
            }
            "target" => {
                found.extend(table.values().filter_map(Value::as_table).flat_map(dependencies));
            }
            _ => {}
        }
    }
    found
}

/// Complaints about the manifest at `path`.
fn complaints(path: &str, text: &str) -> Vec<String> {
    let manifest: Table = match text.parse() {
        Ok(manifest) => manifest,
        Err(e) => return vec![format!("{path}: {e}")],
    };
    let Some(name) = manifest.get("package").and_then(|p| p.get("name")).and_then(Value::as_str) else {
        return vec![];
    };
    // A workspace of its own, as a fuzzer's is, is no step of the staircase.
    if manifest.contains_key("workspace") {
        return vec![];
    }
    let mut found = Vec::new();
    let needs = dependencies(&manifest);
    let arrows = ARROWS.iter().find(|(from, _)| *from == name).map(|(_, to)| *to);
    if path.starts_with("crates/") && arrows.is_none() {
        found.push(format!("{path}: {name} is a new crate: give it its step of the staircase in tests/tidy/arrows.rs"));
    }
    for need in &needs {
        let ours = need == "xtask" || need == "clap-tests" || ARROWS.iter().any(|(to, _)| to == need);
        if let Some(allowed) = arrows.filter(|a| ours && !a.contains(&need.as_str())) {
            found.push(format!(
                "{path}: {name} must not depend on {need} (it may on {allowed:?}): move the code up the staircase, or \
                 pass what it needs as a plain value"
            ));
        }
    }
    for (package, owner, instead) in RESERVED {
        let tests = name == "clap-tests";
        if name != owner && !tests && needs.iter().any(|n| n == package) {
            found.push(format!("{path}: only {owner} depends on {package}: {instead}"));
        }
    }
    if manifest.get("lints").and_then(|l| l.get("workspace")).and_then(Value::as_bool) != Some(true) {
        found.push(format!("{path}: add [lints] workspace = true, so that the house's lints hold here"));
    }
    found
}

#[test]
fn crates_depend_downwards_only() {
    let tree = Tree::read();
    let manifests: Vec<_> = tree.named("Cargo.toml").collect();
    assert!(manifests.len() > ARROWS.len(), "{} manifests", manifests.len());
    assert_tidy(manifests.iter().flat_map(|m| complaints(&m.path, &m.text)).collect());
}

/// Every crate of the table is there: a renamed crate must not slip through.
#[test]
fn staircase_names_crates_that_exist() {
    let tree = Tree::read();
    for (name, _) in ARROWS {
        assert!(tree.has(&format!("crates/{name}/Cargo.toml")), "crates/{name} is gone: correct tests/tidy/arrows.rs");
    }
}

#[cfg(test)]
mod tests {
    use super::complaints;

    fn of(name: &str, dependencies: &str) -> Vec<String> {
        let text = format!("[package]\nname = \"{name}\"\n[lints]\nworkspace = true\n{dependencies}");
        complaints(&format!("crates/{name}/Cargo.toml"), &text)
    }

    #[test]
    fn allowed_arrows_pass() {
        assert!(of("clap-data", "[dependencies]\nclap-audio.workspace = true\nserde = \"1\"").is_empty());
        assert!(of("clap-train", "[dependencies]\nclap-eval.workspace = true").is_empty());
    }

    #[test]
    fn other_arrows_fail() {
        for (name, dependencies) in [
            ("clap-nn", "[dependencies]\nclap-audio.workspace = true"),
            ("clap-data", "[dev-dependencies]\nclap-nn.workspace = true"),
            ("clap-data", "[build-dependencies]\nclap-nn.workspace = true"),
            ("clap-eval", "[dependencies]\nclap-train.workspace = true"),
            ("clap-eval", "[target.'cfg(unix)'.dependencies]\nclap-nn.workspace = true"),
            ("clap-audio", "[dependencies]\nsound = { package = \"clap-data\", version = \"1\" }"),
            ("clap-audio", "[dependencies]\nxtask = { path = \"../../xtask\" }"),
        ] {
            assert_eq!(of(name, dependencies).len(), 1, "{name} {dependencies}");
        }
    }

    #[test]
    fn reserved_packages_fail() {
        for package in ["clap", "anyhow", "hf-hub", "indicatif"] {
            let found = of("clap-nn", &format!("[dependencies]\n{package}.workspace = true"));
            assert_eq!(found.len(), 1, "{package}");
            assert!(found[0].contains(&format!("depends on {package}")), "{found:?}");
        }
    }

    #[test]
    fn unknown_crates_and_missing_lints_fail() {
        assert_eq!(of("clap-new", "").len(), 1);
        assert_eq!(complaints("xtask/Cargo.toml", "[package]\nname = \"xtask\"").len(), 1);
        assert!(complaints("Cargo.toml", "[workspace]\nmembers = []").is_empty());
        assert!(complaints("crates/a/fuzz/Cargo.toml", "[package]\nname = \"a-fuzz\"\n[workspace]").is_empty());
    }
}
