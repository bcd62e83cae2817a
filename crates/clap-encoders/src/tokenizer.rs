//! Captions → token ids, between a first and a last token: RoBERTa's and BART's byte-level BPE `<s> … </s>`, BERT's word pieces
//! `[CLS] … [SEP]`, CLIP's BPE `<|startoftext|> … <|endoftext|>`.
//!
//! Source: transformers 4.57.6 (no prefix space); laion-clap 1.1.7 `tokenizer.py` for CLIP. Texts are cut at 77 tokens and keep
//! their last token: [`ClapTokenizer::with_legacy_cut`] says what LAION's CLIP tokenizer does instead.

mod slow;

use std::path::Path;

use candle_core::{Device, Tensor};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{NormalizerWrapper, Tokenizer, TokenizerImpl};

use crate::error::{Error, Result};

/// The bytes that byte-level BPE spells everything with.
const BYTES: usize = 256;

/// A tokenizer of captions.
#[derive(Clone, Debug)]
pub struct ClapTokenizer {
    inner: Tokenizer,
    pad: u32,
    /// LAION reads texts for CLIP's vocabulary as HTML.
    unescapes: bool,
    keeps_last: bool,
}

impl ClapTokenizer {
    /// Tokens of a caption, special tokens included, unless a caller asks for fewer or more (LAION's limit).
    pub const MAX_TOKENS: usize = 77;

    /// Names of OpenAI's merges, from which CLIP's vocabulary follows.
    pub(crate) const SIMPLE_VOCAB: [&str; 2] = ["bpe_simple_vocab_16e6.txt", "bpe_simple_vocab_16e6.txt.gz"];

    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// Where the file cannot be read or is no tokenizer.
    pub fn from_file(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(Error::io(path))?;
        let inner = Tokenizer::from_bytes(bytes).map_err(Error::tokenizer(path.display()))?;
        Self::new(inner, &path.display().to_string())
    }

    /// Reads `tokenizer.json`, else the files of a slow tokenizer: `vocab.json` with `merges.txt` (RoBERTa, BART, CLIP),
    /// `vocab.txt` (BERT, uncased) or `bpe_simple_vocab_16e6.txt[.gz]` (CLIP, as LAION's program has it).
    ///
    /// # Errors
    /// Where none is there or what is there cannot be read.
    pub fn from_folder(folder: &Path) -> Result<Self> {
        let at = |name: &str| Some(folder.join(name)).filter(|path| path.is_file());
        if let Some(file) = at("tokenizer.json") {
            Self::from_file(&file)
        } else if let (Some(vocab), Some(merges)) = (at("vocab.json"), at("merges.txt")) {
            Self::from_vocab(&vocab, &merges)
        } else if let Some(vocab) = at("vocab.txt") {
            let origin = vocab.display().to_string();
            Self::new(slow::from_word_pieces(&vocab).map_err(Error::tokenizer(&origin))?, &origin)
        } else if let Some(merges) = at(Self::SIMPLE_VOCAB[0]).or_else(|| at(Self::SIMPLE_VOCAB[1])) {
            let origin = merges.display().to_string();
            Self::new(slow::from_simple_vocab(&merges).map_err(Error::tokenizer(&origin))?, &origin)
        } else {
            Err(Error::MissingFile {
                folder: folder.to_owned(),
                file: "tokenizer.json (or vocab.json with merges.txt, or vocab.txt)",
            })
        }
    }

    /// Reads the two files of a slow tokenizer of RoBERTa, BART or CLIP.
    ///
    /// # Errors
    /// Where they cannot be read or lack the special tokens.
    pub fn from_vocab(vocab: &Path, merges: &Path) -> Result<Self> {
        let origin = vocab.display().to_string();
        let utf8 = |path: &Path| {
            path.to_str().map(str::to_owned).ok_or_else(|| Error::Tokenizer {
                origin: path.display().to_string(),
                reason: "the path is not UTF-8; move the folder".to_owned(),
            })
        };
        for path in [vocab, merges] {
            std::fs::File::open(path).map_err(Error::io(path))?;
        }
        let inner = slow::from_merges(&utf8(vocab)?, &utf8(merges)?).map_err(Error::tokenizer(&origin))?;
        Self::new(inner, &origin)
    }

    /// Learns a byte-level BPE from captions; the vocabulary has at most `vocab_size` tokens, special tokens and the 256 bytes
    /// included, and less where the captions give no more. The same captions in the same order give the same vocabulary.
    ///
    /// # Errors
    /// Where `vocab_size` does not even hold the special tokens and the bytes.
    pub fn train_bpe<S: AsRef<str> + Sync>(captions: &[S], vocab_size: usize) -> Result<Self> {
        let origin = format!("of {} captions", captions.len());
        if vocab_size < slow::ROBERTA.len() + BYTES {
            return Err(Error::Tokenizer {
                origin,
                reason: format!(
                    "a vocabulary of {vocab_size} is too small: {} special tokens and {BYTES} bytes come first",
                    slow::ROBERTA.len()
                ),
            });
        }
        let train = || -> tokenizers::Result<Tokenizer> {
            let mut trainer = BpeTrainer::builder()
                .vocab_size(vocab_size)
                .min_frequency(2)
                .show_progress(false)
                .special_tokens(slow::ROBERTA.iter().map(|t| slow::special(t)).collect())
                .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
                .build();
            let mut bpe: TokenizerImpl<BPE, NormalizerWrapper, ByteLevel, ByteLevel, ByteLevel> =
                TokenizerImpl::new(BPE::default());
            bpe.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
            bpe.train(&mut trainer, captions.iter().map(AsRef::as_ref).collect::<Vec<&str>>().into_iter())?;
            slow::roberta(bpe.get_model().clone())
        };
        Self::new(train().map_err(Error::tokenizer(&origin))?, &origin)
    }

    /// Length and padding are decided by [`ClapTokenizer::encode`], whatever a file says.
    fn new(mut inner: Tokenizer, origin: &str) -> Result<Self> {
        inner.with_padding(None);
        inner.with_truncation(None).map_err(Error::tokenizer(origin))?;
        let id = |tokens: &[&str]| tokens.iter().find_map(|token| inner.token_to_id(token));
        let is_clip = id(&[slow::CLIP[0], "<start_of_text>"]).is_some();
        // LAION's CLIP texts are followed by zeros, which stand for a word there.
        let pad = id(&["<pad>", "[PAD]"]).or(is_clip.then_some(0)).ok_or_else(|| Error::Tokenizer {
            origin: origin.to_owned(),
            reason: "it has neither `<pad>` nor `[PAD]`; a tokenizer of RoBERTa, BART, BERT or CLIP is needed"
                .to_owned(),
        })?;
        Ok(Self { inner, pad, unescapes: is_clip, keeps_last: true })
    }

    /// The same, but a text that is too long loses its last token, as LAION's CLIP tokenizer cuts it. The CLIP tower finds a
    /// text's end by that token, so all such texts have one embedding: it is there to reproduce old numbers.
    #[must_use]
    pub fn with_legacy_cut(self) -> Self {
        Self { keeps_last: false, ..self }
    }

    /// Token ids and attention mask, each `u32` `(B, T)` on the CPU, `T` being the longest caption of the batch.
    ///
    /// Captions longer than `max_len` tokens are cut and keep their last token.
    ///
    /// # Errors
    /// Where `captions` is empty or `max_len` below 3.
    pub fn encode<S: AsRef<str>>(&self, captions: &[S], max_len: usize) -> Result<(Tensor, Tensor)> {
        if captions.is_empty() {
            return Err(Error::input("captions", "the batch is empty"));
        }
        let rows = self.encode_ids(captions, max_len)?;
        let width = rows.iter().map(Vec::len).max().unwrap_or(0);
        let mut ids = Vec::with_capacity(rows.len() * width);
        let mut mask = Vec::with_capacity(rows.len() * width);
        for row in &rows {
            ids.extend_from_slice(row);
            ids.resize(ids.len() + width - row.len(), self.pad);
            mask.resize(mask.len() + row.len(), 1u32);
            mask.resize(ids.len(), 0);
        }
        let shape = (rows.len(), width);
        Ok((Tensor::from_vec(ids, shape, &Device::Cpu)?, Tensor::from_vec(mask, shape, &Device::Cpu)?))
    }

    /// Token ids of each caption, without padding.
    ///
    /// # Errors
    /// Where `max_len` is below 3.
    pub fn encode_ids<S: AsRef<str>>(&self, captions: &[S], max_len: usize) -> Result<Vec<Vec<u32>>> {
        if max_len < 3 {
            return Err(Error::input(
                "max_len",
                format!("{max_len} tokens leave no room between the first and the last token"),
            ));
        }
        let read = |caption: &S| match self.unescapes {
            true => unescape_twice(caption.as_ref()),
            false => caption.as_ref().to_owned(),
        };
        let captions: Vec<String> = captions.iter().map(read).collect();
        let encodings = self.inner.encode_batch_fast(captions, true).map_err(Error::tokenizer("of this model"))?;
        let cut = |encoding: &tokenizers::Encoding| {
            let mut ids = encoding.get_ids().to_vec();
            if ids.len() > max_len {
                let last = ids[ids.len() - 1];
                ids.truncate(max_len);
                if self.keeps_last {
                    ids[max_len - 1] = last;
                }
            }
            ids
        };
        Ok(encodings.iter().map(cut).collect())
    }

    /// One more than the greatest id: the least `vocab_size` of a model that goes with this tokenizer.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab(true).values().max().map_or(0, |&id| id as usize + 1)
    }

    /// Id of the padding token.
    #[must_use]
    pub fn pad_id(&self) -> u32 {
        self.pad
    }

    /// Id of any token, for example `<s>`.
    #[must_use]
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Writes `tokenizer.json`.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let json = self.inner.to_string(true).map_err(Error::tokenizer(path.display()))?;
        std::fs::write(path, json).map_err(Error::io(path))
    }
}

/// `&amp;lt;` → `<`, as LAION's `basic_clean` does; broken encodings, which it repairs (`ftfy`), are left as they are.
fn unescape_twice(text: &str) -> String {
    let once = html_escape::decode_html_entities(text);
    html_escape::decode_html_entities(&once).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPTIONS: [&str; 4] =
        ["a dog barks twice", "a dog barks at a cat", "rain falls on a tin roof", "Café noise, rain and a dog"];

    fn tokenizer() -> ClapTokenizer {
        ClapTokenizer::train_bpe(&CAPTIONS, 300).unwrap()
    }

    fn rows(tensor: &Tensor) -> Vec<Vec<u32>> {
        tensor.to_vec2().unwrap()
    }

    #[test]
    fn special_tokens_come_first_and_frame_a_caption() {
        let tokenizer = tokenizer();
        let ids: Vec<_> = slow::ROBERTA.iter().map(|t| tokenizer.token_id(t)).collect();
        assert_eq!(ids, [Some(0), Some(1), Some(2), Some(3), Some(4)]);
        let ids = &tokenizer.encode_ids(&["a dog barks"], 77).unwrap()[0];
        assert_eq!((ids[0], *ids.last().unwrap()), (0, 2));
        // " dog" is frequent enough to have become one token.
        assert_eq!(ids.len(), 5, "{ids:?}");
        assert!(tokenizer.vocab_size() <= 300);
    }

    #[test]
    fn training_is_reproducible() {
        let json = |t: &ClapTokenizer| t.inner.to_string(false).unwrap();
        assert_eq!(json(&tokenizer()), json(&tokenizer()));
    }

    #[test]
    fn a_batch_is_padded_to_its_longest_and_cut_at_the_limit() {
        let tokenizer = tokenizer();
        let (ids, mask) = tokenizer.encode(&["a dog", "a dog barks at a dog on a tin roof"], 6).unwrap();
        let (ids, mask) = (rows(&ids), rows(&mask));
        assert_eq!(ids[1].len(), 6);
        assert_eq!((ids[1][0], ids[1][5]), (0, 2));
        assert_eq!(ids[0][3], 2);
        assert_eq!((ids[0][4], &mask[0][..]), (1, &[1, 1, 1, 1, 0, 0][..]));
        assert_eq!(mask[1], [1; 6]);
    }

    #[test]
    fn any_text_can_be_spelled() {
        let tokenizer = tokenizer();
        for text in ["", " ", "日本語 😀", "\u{0}\n\t", "<s></s>"] {
            let ids = &tokenizer.encode_ids(&[text], 77).unwrap()[0];
            assert_eq!((ids[0], *ids.last().unwrap()), (0, 2), "{text:?}");
            assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
        }
    }

    #[test]
    fn what_is_saved_is_what_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let tokenizer = tokenizer();
        tokenizer.save(&folder.path().join("tokenizer.json")).unwrap();
        let again = ClapTokenizer::from_folder(folder.path()).unwrap();
        let text = ["a cat in the rain, <mask>"];
        assert_eq!(tokenizer.encode_ids(&text, 77).unwrap(), again.encode_ids(&text, 77).unwrap());
        assert_eq!(again.pad_id(), 1);
    }

    #[test]
    fn the_slow_tokenizers_two_files_are_the_same_tokenizer() {
        let folder = tempfile::tempdir().unwrap();
        let tokenizer = tokenizer();
        let json: serde_json::Value = serde_json::from_str(&tokenizer.inner.to_string(false).unwrap()).unwrap();
        std::fs::write(folder.path().join("vocab.json"), json["model"]["vocab"].to_string()).unwrap();
        let merges: Vec<String> = json["model"]["merges"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| format!("{} {}", m[0].as_str().unwrap(), m[1].as_str().unwrap()))
            .collect();
        std::fs::write(folder.path().join("merges.txt"), format!("#version: 0.2\n{}\n", merges.join("\n"))).unwrap();
        let again = ClapTokenizer::from_folder(folder.path()).unwrap();
        let texts = ["a dog barks at rain", "Café <mask> x"];
        assert_eq!(tokenizer.encode_ids(&texts, 77).unwrap(), again.encode_ids(&texts, 77).unwrap());
    }

    /// d o g → do g → dog, and the first letter that stands for a byte is `!`.
    #[test]
    fn openais_merges_are_a_vocabulary_compressed_or_not() {
        use std::io::Write as _;
        let merges = "\"bpe_simple_vocab_16e6.txt\"\nd o\ndo g</w>\n";
        let ids = |name: &str, bytes: &[u8]| {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join(name), bytes).unwrap();
            let tokenizer = ClapTokenizer::from_folder(folder.path())?;
            assert_eq!((tokenizer.vocab_size(), tokenizer.pad_id()), (516, 0));
            tokenizer.encode_ids(&["Dog !"], 77)
        };
        let expected = vec![vec![514, 513, 256, 515]];
        assert_eq!(ids("bpe_simple_vocab_16e6.txt", merges.as_bytes()).unwrap(), expected);
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(merges.as_bytes()).unwrap();
        assert_eq!(ids("bpe_simple_vocab_16e6.txt.gz", &packed.finish().unwrap()).unwrap(), expected);
        let message = ids("bpe_simple_vocab_16e6.txt", b"title\nword\n").unwrap_err().to_string();
        assert!(message.contains("bpe_simple_vocab_16e6.txt") && message.contains("no pair"), "{message}");
    }

    #[test]
    fn errors_name_the_file_and_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let message = ClapTokenizer::from_folder(folder.path()).unwrap_err().to_string();
        assert!(message.contains("tokenizer.json"), "{message}");
        let path = folder.path().join("tokenizer.json");
        std::fs::write(&path, "{}").unwrap();
        let message = ClapTokenizer::from_folder(folder.path()).unwrap_err().to_string();
        assert!(message.contains("tokenizer.json"), "{message}");
        assert!(ClapTokenizer::train_bpe(&CAPTIONS, 260).unwrap_err().to_string().contains("260"));
        assert!(tokenizer().encode(&[] as &[&str], 77).is_err());
        assert!(tokenizer().encode(&["x"], 2).is_err());
    }
}
