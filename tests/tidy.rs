//! The house rules, each a test: the crate arrows, who may know what, and the shape of every file.
//!
//! A rule is a function from text to complaints; a complaint says where and what to do. Beside each rule stands a test that
//! it can fail.

mod arrows;
mod code;
mod links;
mod rust;
mod tree;
mod words;

use tree::Tree;

/// Fails with every complaint on its own line.
#[track_caller]
fn assert_tidy(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n  {}\n", complaints.join("\n  "));
}

/// The rules see the files they are meant for: an empty tree would satisfy all of them.
#[test]
fn the_tree_is_read() {
    let tree = Tree::read();
    for path in ["Cargo.toml", "crates/clap-audio/src/lib.rs", "xtask/src/main.rs", "tests/main.rs", "tests/tidy.rs"] {
        assert!(tree.texts().any(|f| f.path == path), "{path} is not among the files that tidy reads");
    }
    assert!(tree.texts().all(|f| !f.path.starts_with("target/") && !f.path.starts_with(".git/")));
}
