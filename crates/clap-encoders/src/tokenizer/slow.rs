//! Tokenizers from the files of Hugging Face's slow ones, `vocab.json` with `merges.txt` or `vocab.txt`, and from OpenAI's merges.
//!
//! Source: transformers 4.57.6 `convert_slow_tokenizer.py` (`RobertaConverter`, `CLIPConverter`, `BertConverter`); laion-clap 1.1.7
//! `tokenizer.py` (`SimpleTokenizer`).

use std::io::Read;
use std::path::Path;

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::{BertNormalizer, Lowercase, NFC, Replace, Sequence};
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::processors::bert::BertProcessing;
use tokenizers::processors::roberta::RobertaProcessing;
use tokenizers::{AddedToken, ModelWrapper, NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior, Tokenizer};

/// RoBERTa's special tokens, in the order in which a trained vocabulary numbers them from 0.
pub(super) const ROBERTA: [&str; 5] = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"];

/// CLIP's first and last token of a text.
pub(super) const CLIP: [&str; 2] = ["<|startoftext|>", "<|endoftext|>"];

/// What CLIP writes after the last letter of a word.
const END_OF_WORD: &str = "</w>";

const BERT: [&str; 5] = ["[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]"];

/// What CLIP's words are made of (`CLIPConverter`): its special tokens, English endings, letters, single digits, the rest.
const CLIP_WORDS: &str = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// From `vocab.json` and `merges.txt`: CLIP's where the vocabulary has its tokens, else RoBERTa's and BART's.
pub(super) fn from_merges(vocab: &str, merges: &str) -> tokenizers::Result<Tokenizer> {
    let bpe = BPE::from_file(vocab, merges).build()?;
    if tokenizers::Model::token_to_id(&bpe, CLIP[0]).is_none() {
        return roberta(bpe);
    }
    let builder =
        BPE::from_file(vocab, merges).end_of_word_suffix(END_OF_WORD.to_owned()).unk_token(CLIP[1].to_owned());
    clip(builder.build()?)
}

/// Lines of OpenAI's merges that are in its vocabulary of 49,408, after a line that is a title: the file has more.
const CLIP_MERGES: usize = 49_152 - 256 - 2;

/// From OpenAI's `bpe_simple_vocab_16e6.txt`, compressed or not, which has merges alone. The vocabulary follows from them: the bytes,
/// the bytes that end a word, what each merge makes, and the two special tokens.
pub(super) fn from_simple_vocab(path: &Path) -> tokenizers::Result<Tokenizer> {
    let mut file = std::fs::File::open(path)?;
    let mut text = String::new();
    if path.extension().is_some_and(|ending| ending == "gz") {
        flate2::read::GzDecoder::new(file).read_to_string(&mut text)?;
    } else {
        file.read_to_string(&mut text)?;
    }
    let merges: Option<Vec<(String, String)>> = text
        .lines()
        .skip(1)
        .take(CLIP_MERGES)
        .filter(|line| !line.is_empty())
        .map(|line| line.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned())))
        .collect();
    let merges = merges.ok_or("a line is no pair of tokens")?;
    let letters = || byte_letters().map(String::from);
    let tokens = letters()
        .chain(letters().map(|letter| letter + END_OF_WORD))
        .chain(merges.iter().map(|(a, b)| format!("{a}{b}")))
        .chain(CLIP.map(String::from));
    let vocab: Vocab = tokens.zip(0..).collect();
    let builder = BPE::builder().vocab_and_merges(vocab, merges);
    clip(builder.end_of_word_suffix(END_OF_WORD.to_owned()).unk_token(CLIP[1].to_owned()).build()?)
}

/// The letters that stand for bytes in OpenAI's order: those that can be printed, then 256 and on for the rest.
fn byte_letters() -> impl Iterator<Item = char> {
    let printed = ('!'..='~').chain('\u{a1}'..='\u{ac}').chain('\u{ae}'..='\u{ff}');
    let rest = 256 - printed.clone().count() as u32;
    printed.chain((256..256 + rest).filter_map(char::from_u32))
}

/// From `vocab.txt`, one word piece a line.
pub(super) fn from_word_pieces(vocab: &Path) -> tokenizers::Result<Tokenizer> {
    let path = vocab.to_str().ok_or("the path is not UTF-8; move the folder")?;
    bert(WordPiece::from_file(path).unk_token("[UNK]".to_owned()).build()?)
}

/// A byte-level BPE with RoBERTa's pre-tokenizer, special tokens and post-processor.
pub(super) fn roberta(bpe: BPE) -> tokenizers::Result<Tokenizer> {
    let mut tokenizer = Tokenizer::new(ModelWrapper::BPE(bpe));
    let (first, last) = (frame(&tokenizer, "<s>")?, frame(&tokenizer, "</s>")?);
    let post = RobertaProcessing::new(last, first);
    tokenizer
        .with_pre_tokenizer(Some(ByteLevel::new(false, true, true)))
        .with_decoder(Some(ByteLevel::new(true, true, true)))
        .with_post_processor(Some(post.trim_offsets(true).add_prefix_space(false)));
    add_special(&mut tokenizer, &ROBERTA)?;
    Ok(tokenizer)
}

/// A BPE over lower-case words that each end in `</w>`.
fn clip(bpe: BPE) -> tokenizers::Result<Tokenizer> {
    let mut tokenizer = Tokenizer::new(ModelWrapper::BPE(bpe));
    let (first, last) = (frame(&tokenizer, CLIP[0])?, frame(&tokenizer, CLIP[1])?);
    let spaces = Replace::new(tokenizers::normalizers::replace::ReplacePattern::Regex(r"\s+".to_owned()), " ")?;
    let normalizer = Sequence::new(vec![
        NormalizerWrapper::NFC(NFC),
        NormalizerWrapper::Replace(spaces),
        NormalizerWrapper::Lowercase(Lowercase),
    ]);
    let words = SplitPattern::Regex(CLIP_WORDS.to_owned());
    let words = Split::new(words, SplitDelimiterBehavior::Removed, true)?;
    let pieces = tokenizers::pre_tokenizers::sequence::Sequence::new(vec![
        PreTokenizerWrapper::Split(words),
        PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, true)),
    ]);
    let post = RobertaProcessing::new(last, first);
    tokenizer
        .with_normalizer(Some(normalizer))?
        .with_pre_tokenizer(Some(pieces))
        .with_decoder(Some(ByteLevel::new(true, true, true)))
        .with_post_processor(Some(post.trim_offsets(false).add_prefix_space(false)));
    add_special(&mut tokenizer, &CLIP)?;
    Ok(tokenizer)
}

/// Word pieces of lower-case words without accents, as `bert-base-uncased` reads them.
fn bert(pieces: WordPiece) -> tokenizers::Result<Tokenizer> {
    let mut tokenizer = Tokenizer::new(ModelWrapper::WordPiece(pieces));
    let (first, last) = (frame(&tokenizer, "[CLS]")?, frame(&tokenizer, "[SEP]")?);
    tokenizer
        .with_normalizer(Some(BertNormalizer::default()))?
        .with_pre_tokenizer(Some(BertPreTokenizer))
        .with_decoder(Some(tokenizers::decoders::wordpiece::WordPiece::default()))
        .with_post_processor(Some(BertProcessing::new(last, first)));
    add_special(&mut tokenizer, &BERT)?;
    Ok(tokenizer)
}

/// A token that frames texts, and its id.
fn frame(tokenizer: &Tokenizer, token: &str) -> tokenizers::Result<(String, u32)> {
    let id = tokenizer.token_to_id(token).ok_or_else(|| format!("the vocabulary has no `{token}`"))?;
    Ok((token.to_owned(), id))
}

/// Marks those of `tokens` that the vocabulary has as special.
fn add_special(tokenizer: &mut Tokenizer, tokens: &[&str]) -> tokenizers::Result<()> {
    let known: Vec<_> = tokens.iter().filter(|token| tokenizer.token_to_id(token).is_some()).collect();
    tokenizer.add_special_tokens(known.into_iter().map(|token| special(token)))?;
    Ok(())
}

/// A special token; RoBERTa's `<mask>` takes the space before it.
pub(super) fn special(token: &str) -> AddedToken {
    AddedToken::from(token, true).lstrip(token == "<mask>").normalized(false)
}
