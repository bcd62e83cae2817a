//! Where a model's tokenizer is looked for: what the user names, the folder of the weights, the hub.

use std::path::Path;

use crate::config::TextModelType;
use crate::error::{Error, Result};
use crate::tokenizer::ClapTokenizer;

/// The repository on the hub whose tokenizer LAION's program uses with a text tower, and the files of it that will do.
fn repository(model_type: TextModelType) -> (&'static str, &'static str) {
    match model_type {
        TextModelType::Roberta => ("roberta-base", "tokenizer.json (or vocab.json with merges.txt)"),
        TextModelType::Bert => ("bert-base-uncased", "tokenizer.json (or vocab.txt)"),
        TextModelType::Bart => ("facebook/bart-base", "tokenizer.json (or vocab.json with merges.txt)"),
        TextModelType::Clip => (
            "openai/clip-vit-base-patch32",
            "tokenizer.json (or vocab.json with merges.txt, or LAION's bpe_simple_vocab_16e6.txt)",
        ),
    }
}

/// Files that make a tokenizer, each alternative by the one that stands for it.
const FILES: [&str; 3] = ["tokenizer.json", "vocab.json", "vocab.txt"];

/// True where a folder holds a tokenizer.
pub(crate) fn is_in(folder: &Path) -> bool {
    FILES.iter().chain(&ClapTokenizer::SIMPLE_VOCAB).any(|file| folder.join(file).is_file())
}

/// The tokenizer of the model at `path`, a folder or a weight file: the one in the folder, else the text tower's own from the hub.
pub(crate) fn tokenizer_of(path: &Path, model_type: TextModelType) -> Result<ClapTokenizer> {
    find(path, model_type, fetch)
}

fn find(
    path: &Path,
    model_type: TextModelType,
    fetch: impl FnOnce(&str) -> std::result::Result<std::path::PathBuf, String>,
) -> Result<ClapTokenizer> {
    let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new("")) };
    if is_in(folder) {
        return ClapTokenizer::from_folder(folder);
    }
    let (id, files) = repository(model_type);
    let folder = fetch(id).map_err(|reason| Error::Tokenizer {
        origin: format!("of {}", path.display()),
        reason: format!(
            "none is beside the weights, and that of {id} cannot be fetched: {reason}. Put {files} of {id} into {}, or name a \
             folder that holds it",
            if folder.as_os_str().is_empty() { "this folder".to_owned() } else { folder.display().to_string() }
        ),
    })?;
    ClapTokenizer::from_folder(&folder)
}

impl ClapTokenizer {
    /// A tokenizer by the name of a folder that holds it, of a `tokenizer.json`, or of a repository on the hub.
    ///
    /// # Errors
    /// Where there is none, or it cannot be read.
    pub fn from_pretrained(id_or_path: &Path) -> Result<Self> {
        if id_or_path.is_dir() {
            return Self::from_folder(id_or_path);
        }
        if id_or_path.exists() {
            return Self::from_file(id_or_path);
        }
        let id = id_or_path.display().to_string();
        let folder = fetch(&id).map_err(|reason| Error::Tokenizer {
            origin: format!("`{id}`"),
            reason: format!(
                "{reason}. Name a folder with tokenizer.json, vocab.json and merges.txt, or vocab.txt; or a tokenizer.json"
            ),
        })?;
        Self::from_folder(&folder)
    }
}

#[cfg(feature = "hub")]
fn fetch(id: &str) -> std::result::Result<std::path::PathBuf, String> {
    crate::hub::tokenizer(id)
}

#[cfg(not(feature = "hub"))]
fn fetch(_: &str) -> std::result::Result<std::path::PathBuf, String> {
    Err("this program was built without the feature `hub`".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offline_the_error_says_which_files_to_put_where() {
        let folder = tempfile::tempdir().unwrap();
        for (model_type, words) in [
            (TextModelType::Roberta, ["roberta-base", "vocab.json with merges.txt"]),
            (TextModelType::Bert, ["bert-base-uncased", "vocab.txt"]),
            (TextModelType::Bart, ["facebook/bart-base", "tokenizer.json"]),
            (TextModelType::Clip, ["openai/clip-vit-base-patch32", "bpe_simple_vocab_16e6.txt"]),
        ] {
            let file = folder.path().join("630k.pt");
            let message = find(&file, model_type, |_| Err("no network".to_owned())).unwrap_err().to_string();
            for word in words.iter().chain(&["no network", "630k.pt", &*folder.path().display().to_string()]) {
                assert!(message.contains(word), "{word} in {message}");
            }
        }
    }

    #[test]
    fn what_lies_beside_the_weights_is_preferred_to_the_hub() {
        let (beside, hub) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let captions = ["a dog barks", "rain on a roof"];
        for (folder, size) in [(&beside, 261), (&hub, 270)] {
            let tokenizer = ClapTokenizer::train_bpe(&[captions, captions].concat(), size).unwrap();
            tokenizer.save(&folder.path().join("tokenizer.json")).unwrap();
        }
        let fetch = |id: &str| {
            assert_eq!(id, "roberta-base");
            Ok(hub.path().to_owned())
        };
        let size = |path: &Path| find(path, TextModelType::Roberta, fetch).unwrap().vocab_size();
        assert_eq!(size(&beside.path().join("a.pt")), 261);
        let bare = tempfile::tempdir().unwrap();
        assert!(size(&bare.path().join("a.pt")) > 261);
        assert_eq!(ClapTokenizer::from_pretrained(&beside.path().join("tokenizer.json")).unwrap().vocab_size(), 261);
    }
}
