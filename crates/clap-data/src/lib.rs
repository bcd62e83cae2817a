//! Where clips and their words come from, and in which order they are seen.
//!
//! [`open`] finds out how a folder keeps sounds with words (WebDataset shards as LAION-CLAP trains on them, arXiv
//! 2211.06687, an audiofolder with a `metadata.csv`, a table of any columns, Hugging Face's Parquet files, one of the
//! [`benchmarks`] as its authors publish it) and returns one [`DataSet`] of [`Sample`]s whose audio is decoded only when asked
//! for. [`plan`] draws the batches of an epoch as a pure function of (seed, epoch); a [`Loader`] prepares them on worker threads
//! and hands them out in that order, whatever the number of workers. [`pack`] writes any data set as shards, byte for byte the
//! same each time; [`inspect`] looks at what it is made of, [`partition`] divides it into splits and [`overlap`] finds the
//! clips that two sets share.
//!
//! One bad clip, row or shard never ends a run: it is left out and named in a list of [`Skipped`], unless the caller asked
//! to be strict. No name inside a shard or a metadata file leads out of its folder, and archives are never unpacked; a table
//! that the caller names by itself may name any file.
#![cfg_attr(test, expect(clippy::unwrap_used, reason = "a test may stop at the first surprise"))]

mod audiofolder_writer;
mod augmented_shards;
mod benchmark;
pub mod caption;
mod captions_file;
mod class_list;
mod clips;
mod columns;
mod debias;
mod error;
mod exclusion;
mod flac;
mod fold;
mod inspect;
mod keyword_prompt;
mod loader;
mod members;
mod ordered;
mod overlap;
#[cfg(feature = "parquet")]
mod parquet_file;
#[cfg(feature = "parquet")]
mod parquet_table;
mod partition;
mod plan;
mod sample;
mod shard_journal;
mod shard_pattern;
mod shard_sizes;
mod shard_writer;
mod skipped;
mod sound_place;
mod source;
mod split_choice;
mod split_name;
mod stream;
mod table;
mod tag_sentence;
#[cfg(test)]
mod test_tree;
mod text_augment;
mod wave_cache;
mod webdataset;
mod whole_file;

pub use audiofolder_writer::{AudiofolderSummary, split_folder, write_audiofolder};
pub use augmented_shards::{AugmentedPack, pack_augmented};
pub use benchmark::{Benchmark, BenchmarkSplit, Seconds, benchmark_at, benchmarks};
pub use class_list::{labels_of, read_class_list};
pub use columns::Columns;
pub use debias::{Debias, DebiasCounts};
pub use error::{Error, Result};
pub use exclusion::Excluded;
pub use flac::encode_flac;
pub use fold::Fold;
pub use inspect::{Bin, Fault, FaultKind, InspectOptions, Inspection, Level, Repeats, Spread, Summary, inspect};
pub use keyword_prompt::KeywordPrompt;
pub use loader::{LoadedBatch, Loader};
pub use overlap::{Match, MatchKind, OverlapOptions, OverlapReport, overlap, overlap_within, write_exclusion_list};
#[cfg(feature = "parquet")]
pub use parquet_file::ParquetFile;
pub use partition::{Fraction, GroupBy, Partition, partition};
pub use plan::{Balance, LoaderConfig, plan, sample_rng};
pub use sample::{AudioSource, DataSet, Sample};
pub use shard_pattern::expand_braces;
pub use shard_writer::{PackOptions, PackSummary, PackedSound, close_pack, pack, pack_one_of_several};
pub use skipped::Skipped;
pub use source::{OpenOptions, evaluation_split, open, splits};
pub use stream::{Stream, StreamOptions};
pub use tag_sentence::TagSentence;
pub use text_augment::TextAugment;
pub use wave_cache::WaveCache;
