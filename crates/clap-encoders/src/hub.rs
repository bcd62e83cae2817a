//! Model folders from the Hugging Face hub. No other file names `hf_hub`.
//!
//! `HF_HOME` moves the cache, `HF_ENDPOINT` the server, `HF_TOKEN` opens private models, `HF_HUB_OFFLINE` (any value but
//! `0` and the empty one) keeps to the cache.

use std::path::PathBuf;

use hf_hub::api::sync::ApiBuilder;
use hf_hub::{Cache, Repo, RepoType};

use crate::error::{Error, Result};
use crate::folder::shard_names;

/// Revision that is taken when none is given.
pub const DEFAULT_REVISION: &str = "main";

/// One file of a model folder: its possible names, best first; a name may stand for two files that go together.
const FILES: [&[&[&str]]; 4] = [
    &[&["config.json"]],
    &[&["preprocessor_config.json"]],
    &[&["tokenizer.json"], &["vocab.json", "merges.txt"]],
    &[&["model.safetensors"], &["pytorch_model.bin"], &[INDEX]],
];

/// Stands for itself and the shards that it names.
const INDEX: &str = "model.safetensors.index.json";

/// Passes over the files of a model: a branch that moves between two of them leaves neither commit complete, and the second
/// pass completes the newer one.
const PASSES: usize = 2;

/// The folder of a model in the local cache, downloading what is missing.
///
/// # Errors
/// Where the model does not exist, or is not in the cache and cannot be fetched; the message says which files to put where.
pub fn folder(id: &str, revision: Option<&str>) -> Result<PathBuf> {
    let offline = std::env::var("HF_HUB_OFFLINE").is_ok_and(|v| !matches!(v.as_str(), "" | "0"));
    resolve(&Cache::from_env(), offline, id, revision.unwrap_or(DEFAULT_REVISION))
}

fn resolve(cache: &Cache, offline: bool, id: &str, revision: &str) -> Result<PathBuf> {
    let fail = |reason: String| Error::Hub { id: id.to_owned(), reason };
    if !is_id(id) {
        return Err(fail("this is neither a folder nor a hub id of the form `owner/name`".to_owned()));
    }
    if let Some(folder) = cached(cache, id, revision) {
        return Ok(folder);
    }
    if offline {
        return Err(fail(format!(
            "revision {revision} is not complete in {} and HF_HUB_OFFLINE is set",
            cache.path().display()
        )));
    }
    let mut builder = ApiBuilder::from_env().with_progress(false);
    if let Some(token) = std::env::var("HF_TOKEN").ok().filter(|token| !token.is_empty()) {
        builder = builder.with_token(Some(token));
    }
    let api = builder.build().map_err(|e| fail(e.to_string()))?;
    let repo = api.repo(Repo::with_revision(id.to_owned(), RepoType::Model, revision.to_owned()));
    for _ in 0..PASSES {
        for alternatives in FILES {
            download(alternatives, |file| repo.get(file).map_err(|e| e.to_string())).map_err(fail)?;
        }
        if let Some(folder) = cached(cache, id, revision) {
            return Ok(folder);
        }
    }
    Err(fail(format!(
        "revision {revision} is still not complete in {} after its files were fetched; does the branch move? Try again, or \
         name a commit",
        cache.path().display()
    )))
}

/// True where `id` has the form of a hub id: `name` or `owner/name` of letters, digits, `-`, `_` and `.`.
#[must_use]
pub fn is_id(id: &str) -> bool {
    let part = |s: &str| {
        !s.is_empty()
            && !s.starts_with(['.', '-'])
            && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    match id.split_once('/') {
        Some((owner, name)) => part(owner) && part(name),
        None => part(id),
    }
}

/// The snapshot of a revision, a branch or a commit, where it is complete.
fn cached(cache: &Cache, id: &str, revision: &str) -> Option<PathBuf> {
    let repo = Repo::with_revision(id.to_owned(), RepoType::Model, revision.to_owned());
    let root = cache.path().join(repo.folder_name());
    let commit = std::fs::read_to_string(root.join("refs").join(revision)).unwrap_or_else(|_| revision.to_owned());
    let folder = root.join("snapshots").join(commit.trim());
    let has = |file: &str| {
        let path = folder.join(file);
        let shards = || shard_names(&path).is_ok_and(|names| names.iter().all(|name| folder.join(name).is_file()));
        path.is_file() && (file != INDEX || shards())
    };
    let complete = FILES.iter().all(|alternatives| alternatives.iter().any(|files| files.iter().all(|file| has(file))));
    complete.then_some(folder)
}

/// Fetches the first alternative that exists, or says why there is none: the reason of every one.
fn download(
    alternatives: &[&[&str]],
    fetch: impl Fn(&str) -> std::result::Result<PathBuf, String>,
) -> std::result::Result<(), String> {
    let mut reasons: Vec<String> = Vec::new();
    for files in alternatives {
        let all = files.iter().try_for_each(|file| {
            let path = fetch(file).map_err(|e| format!("cannot fetch {file}: {e}"))?;
            if *file == INDEX {
                let shards = shard_names(&path).map_err(|e| e.to_string())?;
                shards.iter().try_for_each(|name| {
                    fetch(name).map(drop).map_err(|e| format!("cannot fetch {name}, which {file} names: {e}"))
                })?;
            }
            Ok(())
        });
        match all {
            Ok(()) => return Ok(()),
            Err(reason) => reasons.push(reason),
        }
    }
    Err(reasons.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_told_from_paths() {
        for id in ["laion/clap-htsat-unfused", "gpt2", "a/b.c_d-1"] {
            assert!(is_id(id), "{id}");
        }
        for path in ["./model", "../m", "/models/x", "a/b/c", "", "a/", "runs\\x", "~/m", "a b"] {
            assert!(!is_id(path), "{path}");
        }
    }

    #[test]
    fn a_complete_snapshot_is_found_by_branch_and_by_commit() {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join("models--owner--name");
        let snapshot = root.join("snapshots").join("abc123");
        std::fs::create_dir_all(root.join("refs")).unwrap();
        std::fs::create_dir_all(&snapshot).unwrap();
        std::fs::write(root.join("refs").join("main"), "abc123\n").unwrap();
        let cache = Cache::new(home.path().to_owned());
        for file in ["config.json", "preprocessor_config.json", "vocab.json", "pytorch_model.bin"] {
            std::fs::write(snapshot.join(file), "").unwrap();
        }
        assert_eq!(cached(&cache, "owner/name", "main"), None, "merges.txt is missing");
        std::fs::write(snapshot.join("merges.txt"), "").unwrap();
        assert_eq!(cached(&cache, "owner/name", "main"), Some(snapshot.clone()));
        assert_eq!(cached(&cache, "owner/name", "abc123"), Some(snapshot));
        assert_eq!(cached(&cache, "owner/name", "v2"), None);
    }

    const WEIGHT_MAP: &str = r#"{"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors"}}"#;

    #[test]
    fn a_sharded_snapshot_is_complete_with_its_last_shard() {
        let home = tempfile::tempdir().unwrap();
        let snapshot = home.path().join("models--owner--name").join("snapshots").join("abc123");
        std::fs::create_dir_all(&snapshot).unwrap();
        let cache = Cache::new(home.path().to_owned());
        for file in ["config.json", "preprocessor_config.json", "tokenizer.json", "model-1.safetensors"] {
            std::fs::write(snapshot.join(file), "").unwrap();
        }
        std::fs::write(snapshot.join(INDEX), WEIGHT_MAP).unwrap();
        assert_eq!(cached(&cache, "owner/name", "abc123"), None, "a shard is missing");
        std::fs::write(snapshot.join("model-2.safetensors"), "").unwrap();
        assert_eq!(cached(&cache, "owner/name", "abc123"), Some(snapshot));
    }

    /// A repository in a folder; what it was asked for, in order.
    fn fetched(repo: &std::path::Path, alternatives: &[&[&str]]) -> (std::result::Result<(), String>, Vec<String>) {
        let asked = std::cell::RefCell::new(Vec::new());
        let fetch = |file: &str| {
            asked.borrow_mut().push(file.to_owned());
            let path = repo.join(file);
            if path.is_file() { Ok(path) } else { Err(format!("404 for {file}")) }
        };
        let result = download(alternatives, fetch);
        (result, asked.into_inner())
    }

    #[test]
    fn the_shards_of_an_index_are_fetched_with_it() {
        let repo = tempfile::tempdir().unwrap();
        for (file, text) in [(INDEX, WEIGHT_MAP), ("model-1.safetensors", ""), ("model-2.safetensors", "")] {
            std::fs::write(repo.path().join(file), text).unwrap();
        }
        let (result, asked) = fetched(repo.path(), FILES[3]);
        result.unwrap();
        assert_eq!(asked[2..], [INDEX, "model-1.safetensors", "model-2.safetensors"]);
        std::fs::write(repo.path().join(INDEX), r#"{"weight_map":{"a":"../../etc/passwd"}}"#).unwrap();
        let (result, asked) = fetched(repo.path(), FILES[3]);
        assert!(result.unwrap_err().contains("plain file name"));
        assert_eq!(asked.last().unwrap(), INDEX);
    }

    #[test]
    fn every_alternatives_reason_is_told() {
        let repo = tempfile::tempdir().unwrap();
        let reason = fetched(repo.path(), FILES[2]).0.unwrap_err();
        assert!(reason.contains("404 for tokenizer.json") && reason.contains("404 for vocab.json"), "{reason}");
    }

    #[test]
    fn offline_an_incomplete_cache_says_what_to_put_where() {
        let home = tempfile::tempdir().unwrap();
        let cache = Cache::new(home.path().to_owned());
        let message = resolve(&cache, true, "laion/clap-htsat-unfused", "main").unwrap_err().to_string();
        for part in ["laion/clap-htsat-unfused", "HF_HUB_OFFLINE", "preprocessor_config.json", "give the folder's path"]
        {
            assert!(message.contains(part), "{part} in {message}");
        }
    }

    #[test]
    fn what_is_no_id_is_refused_with_the_layout() {
        let message = folder("no such/folder/here", None).unwrap_err().to_string();
        assert!(message.contains("no such/folder/here") && message.contains("model.safetensors"), "{message}");
    }
}
