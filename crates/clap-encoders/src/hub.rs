//! Model folders from the Hugging Face hub. No other file names `hf_hub`.
//!
//! `HF_HOME` moves the cache, `HF_ENDPOINT` the server, `HF_TOKEN` opens private models, `HF_HUB_OFFLINE` (any value but
//! `0` and the empty one) keeps to the cache.

use std::path::PathBuf;

use hf_hub::api::sync::ApiBuilder;
use hf_hub::{Cache, Repo, RepoType};

use crate::error::{Error, Result};
use crate::weights::shard_names;

/// Revision that is taken when none is given.
pub const DEFAULT_REVISION: &str = "main";

/// One file of a repository: its possible names, best first; a name may stand for two files that go together.
type Alternatives<'a> = &'a [&'a [&'a str]];

const CONFIG: Alternatives<'_> = &[&["config.json"]];
const FEATURES: Alternatives<'_> = &[&["preprocessor_config.json"]];
const WEIGHTS: Alternatives<'_> = &[&["model.safetensors"], &["pytorch_model.bin"], &[INDEX]];

/// What a model folder needs.
const MODEL: [Alternatives<'_>; 4] = [CONFIG, FEATURES, &[&["tokenizer.json"], &["vocab.json", "merges.txt"]], WEIGHTS];

/// What a tokenizer needs, and a text model.
const TOKENIZER: Alternatives<'_> = &[&["tokenizer.json"], &["vocab.json", "merges.txt"], &["vocab.txt"]];
const TEXT: [Alternatives<'_>; 3] = [CONFIG, TOKENIZER, WEIGHTS];

/// What a caption model needs. Where a repository says nothing about generation its `config.json` does.
const CAPTION_MODEL: [Alternatives<'_>; 4] =
    [CONFIG, &[&["generation_config.json"], &["config.json"]], &[&["tokenizer.json"]], WEIGHTS];

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
    of_model(id, fetch(id, revision, &MODEL))
}

/// As [`folder`], of a text model, or of a model with such a tower.
///
/// # Errors
/// As [`folder`].
pub fn text_folder(id: &str) -> Result<PathBuf> {
    let folder = of_model(id, fetch(id, None, &TEXT))?;
    let is_whole =
        std::fs::read_to_string(folder.join("config.json")).is_ok_and(|json| json.contains("\"audio_config\""));
    if is_whole { self::folder(id, None) } else { Ok(folder) }
}

/// As [`folder`], of a T5 that writes captions.
///
/// # Errors
/// As [`folder`].
pub fn caption_model_folder(id: &str, revision: Option<&str>) -> Result<PathBuf> {
    fetch(id, revision, &CAPTION_MODEL).map_err(|reason| Error::CaptionModel { id: id.to_owned(), reason })
}

/// One file of a repository, in the local cache.
///
/// # Errors
/// As [`folder`].
pub fn file(id: &str, file: &str, revision: Option<&str>) -> Result<PathBuf> {
    let alternatives: [&[&str]; 1] = [&[file]];
    Ok(of_model(id, fetch(id, revision, &[&alternatives]))?.join(file))
}

/// The folder of a repository with a tokenizer, or why there is none.
pub(crate) fn tokenizer(id: &str) -> std::result::Result<PathBuf, String> {
    fetch(id, None, &[TOKENIZER])
}

fn of_model(id: &str, found: std::result::Result<PathBuf, String>) -> Result<PathBuf> {
    found.map_err(|reason| Error::Hub { id: id.to_owned(), reason })
}

fn fetch(id: &str, revision: Option<&str>, files: &[Alternatives<'_>]) -> std::result::Result<PathBuf, String> {
    let offline = std::env::var("HF_HUB_OFFLINE").is_ok_and(|v| !matches!(v.as_str(), "" | "0"));
    resolve(&Cache::from_env(), offline, id, revision.unwrap_or(DEFAULT_REVISION), files)
}

fn resolve(
    cache: &Cache,
    offline: bool,
    id: &str,
    revision: &str,
    files: &[Alternatives<'_>],
) -> std::result::Result<PathBuf, String> {
    if !is_id(id) {
        return Err("this is neither a path nor a hub id of the form `owner/name`".to_owned());
    }
    if let Some(folder) = cached(cache, id, revision, files) {
        return Ok(folder);
    }
    if offline {
        return Err(format!(
            "revision {revision} is not complete in {} and HF_HUB_OFFLINE is set",
            cache.path().display()
        ));
    }
    let mut builder = ApiBuilder::from_env().with_progress(false);
    if let Some(token) = std::env::var("HF_TOKEN").ok().filter(|token| !token.is_empty()) {
        builder = builder.with_token(Some(token));
    }
    let api = builder.build().map_err(|e| e.to_string())?;
    let repo = api.repo(Repo::with_revision(id.to_owned(), RepoType::Model, revision.to_owned()));
    for _ in 0..PASSES {
        for alternatives in files {
            download(alternatives, |file| repo.get(file).map_err(|e| e.to_string()))?;
        }
        if let Some(folder) = cached(cache, id, revision, files) {
            return Ok(folder);
        }
    }
    Err(format!(
        "revision {revision} is still not complete in {} after its files were fetched; does the branch move? Try again, or \
         name a commit",
        cache.path().display()
    ))
}

/// The parts of `owner/name/file.pt`: the id of a repository and the name of a weight file in it. `None` for anything else.
#[must_use]
pub fn file_id(text: &str) -> Option<(&str, &str)> {
    let (end, _) = text.match_indices('/').nth(1)?;
    let (id, file) = (&text[..end], &text[end + 1..]);
    let is_plain = file.split('/').all(|part| !part.is_empty() && part != "." && part != "..") && !file.contains('\\');
    (is_id(id) && is_plain && crate::is_weight_file(file.as_ref())).then_some((id, file))
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
fn cached(cache: &Cache, id: &str, revision: &str, files: &[Alternatives<'_>]) -> Option<PathBuf> {
    let repo = Repo::with_revision(id.to_owned(), RepoType::Model, revision.to_owned());
    let root = cache.path().join(repo.folder_name());
    let commit = std::fs::read_to_string(root.join("refs").join(revision)).unwrap_or_else(|_| revision.to_owned());
    let folder = root.join("snapshots").join(commit.trim());
    let has = |file: &str| {
        let path = folder.join(file);
        let shards = || shard_names(&path).is_ok_and(|names| names.iter().all(|name| folder.join(name).is_file()));
        path.is_file() && (file != INDEX || shards())
    };
    let complete = files.iter().all(|alternatives| alternatives.iter().any(|files| files.iter().all(|file| has(file))));
    complete.then_some(folder)
}

/// Fetches the first alternative that exists, or says why there is none: the reason of every one.
fn download(
    alternatives: Alternatives<'_>,
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
    fn a_file_of_a_repository_is_told_from_a_folder() {
        assert_eq!(file_id("lukewys/laion_clap/a.pt"), Some(("lukewys/laion_clap", "a.pt")));
        assert_eq!(file_id("owner/name/sub/a.safetensors"), Some(("owner/name", "sub/a.safetensors")));
        for text in
            ["owner/name", "owner/name.pt", "owner/name/folder", "owner/name/../a.pt", "./name/a.pt", "/a/b/c.pt"]
        {
            assert_eq!(file_id(text), None, "{text}");
        }
    }

    #[test]
    fn one_file_and_a_tokenizer_need_no_more_than_themselves() {
        let home = tempfile::tempdir().unwrap();
        let snapshot = home.path().join("models--owner--name").join("snapshots").join("abc123");
        std::fs::create_dir_all(&snapshot).unwrap();
        let cache = Cache::new(home.path().to_owned());
        std::fs::write(snapshot.join("a.pt"), "").unwrap();
        std::fs::write(snapshot.join("vocab.txt"), "").unwrap();
        let alternatives: [&[&str]; 1] = [&["a.pt"]];
        for files in [&alternatives[..], TOKENIZER] {
            assert_eq!(resolve(&cache, true, "owner/name", "abc123", &[files]), Ok(snapshot.clone()));
        }
        assert!(resolve(&cache, true, "owner/name", "abc123", &MODEL).is_err());
    }

    #[test]
    fn a_caption_model_may_say_nothing_about_generation() {
        let home = tempfile::tempdir().unwrap();
        let snapshot = home.path().join("models--owner--name").join("snapshots").join("abc123");
        std::fs::create_dir_all(&snapshot).unwrap();
        let cache = Cache::new(home.path().to_owned());
        for file in ["config.json", "pytorch_model.bin"] {
            std::fs::write(snapshot.join(file), "").unwrap();
        }
        assert_eq!(cached(&cache, "owner/name", "abc123", &CAPTION_MODEL), None, "tokenizer.json is missing");
        std::fs::write(snapshot.join("tokenizer.json"), "").unwrap();
        assert_eq!(cached(&cache, "owner/name", "abc123", &CAPTION_MODEL), Some(snapshot));
        let message = caption_model_folder("no such/model/here", None).unwrap_err().to_string();
        assert!(message.contains("no such/model/here") && message.contains("of a T5 into a folder"), "{message}");
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
        assert_eq!(cached(&cache, "owner/name", "main", &MODEL), None, "merges.txt is missing");
        std::fs::write(snapshot.join("merges.txt"), "").unwrap();
        assert_eq!(cached(&cache, "owner/name", "main", &MODEL), Some(snapshot.clone()));
        assert_eq!(cached(&cache, "owner/name", "abc123", &MODEL), Some(snapshot));
        assert_eq!(cached(&cache, "owner/name", "v2", &MODEL), None);
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
        assert_eq!(cached(&cache, "owner/name", "abc123", &MODEL), None, "a shard is missing");
        std::fs::write(snapshot.join("model-2.safetensors"), "").unwrap();
        assert_eq!(cached(&cache, "owner/name", "abc123", &MODEL), Some(snapshot));
    }

    /// A repository in a folder; what it was asked for, in order.
    fn fetched(
        repo: &std::path::Path,
        alternatives: Alternatives<'_>,
    ) -> (std::result::Result<(), String>, Vec<String>) {
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
        let (result, asked) = fetched(repo.path(), WEIGHTS);
        result.unwrap();
        assert_eq!(asked[2..], [INDEX, "model-1.safetensors", "model-2.safetensors"]);
        std::fs::write(repo.path().join(INDEX), r#"{"weight_map":{"a":"../../etc/passwd"}}"#).unwrap();
        let (result, asked) = fetched(repo.path(), WEIGHTS);
        assert!(result.unwrap_err().contains("plain file name"));
        assert_eq!(asked.last().unwrap(), INDEX);
    }

    #[test]
    fn every_alternatives_reason_is_told() {
        let repo = tempfile::tempdir().unwrap();
        let reason = fetched(repo.path(), MODEL[2]).0.unwrap_err();
        assert!(reason.contains("404 for tokenizer.json") && reason.contains("404 for vocab.json"), "{reason}");
    }

    #[test]
    fn offline_an_incomplete_cache_says_what_to_put_where() {
        let home = tempfile::tempdir().unwrap();
        let cache = Cache::new(home.path().to_owned());
        let id = "laion/clap-htsat-unfused";
        let message = of_model(id, resolve(&cache, true, id, "main", &MODEL)).unwrap_err().to_string();
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
