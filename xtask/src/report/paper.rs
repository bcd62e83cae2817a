//! The rows of the paper's tables 2 to 4 (arXiv 2211.06687), to set our own beside.
//!
//! The paper's text was not at hand. Values that later papers quote (Audio Flamingo 2, table 7; VAST, table 15; FusionAudio; the papers of the
//! rows' own models) are marked [`Certainty::Quoted`]; the others come from notes on the paper and were checked against nothing.

use clap_eval::Task;

/// How far a value can be trusted to be the paper's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Certainty {
    /// Quoted by another paper.
    Quoted,
    /// From notes, not checked.
    Unchecked,
}

/// A value in per cent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Value {
    pub(super) per_cent: f64,
    pub(super) certainty: Certainty,
}

/// What a column measures: where a record of ours has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    pub(super) title: &'static str,
    pub(super) dataset: &'static str,
    pub(super) task: Task,
    /// As a record calls it.
    pub(super) metric: &'static str,
}

pub(super) struct PaperTable {
    pub(super) title: &'static str,
    pub(super) note: &'static str,
    pub(super) columns: &'static [Column],
    pub(super) rows: &'static [(&'static str, &'static [Option<Value>])],
}

const fn q(per_cent: f64) -> Option<Value> {
    Some(Value { per_cent, certainty: Certainty::Quoted })
}

const fn u(per_cent: f64) -> Option<Value> {
    Some(Value { per_cent, certainty: Certainty::Unchecked })
}

const fn retrieval(title: &'static str, dataset: &'static str, metric: &'static str) -> Column {
    Column { title, dataset, task: Task::Retrieval, metric }
}

const AUDIO_TO_TEXT: [&str; 3] = ["audio_to_text_R@1", "audio_to_text_R@5", "audio_to_text_R@10"];
const TEXT_TO_AUDIO: [&str; 3] = ["text_to_audio_R@1", "text_to_audio_R@5", "text_to_audio_R@10"];

pub(super) const TABLES: [PaperTable; 3] = [
    PaperTable {
        title: "Table 2: towers, by mAP@10",
        note: "Trained on AudioCaps and Clotho. From audio to text the reference's unsorted mAP@10 (docs/metrics.md), as the paper's.",
        columns: &[
            retrieval("AudioCaps A→T", "audiocaps", "audio_to_text_mAP@10_laion"),
            retrieval("AudioCaps T→A", "audiocaps", "text_to_audio_mAP@10"),
            retrieval("Clotho A→T", "clotho", "audio_to_text_mAP@10_laion"),
            retrieval("Clotho T→A", "clotho", "text_to_audio_mAP@10"),
        ],
        rows: &[
            ("PANN + CLIP transformer", &[u(4.7), u(11.7), u(1.9), u(4.4)]),
            ("PANN + BERT", &[u(34.3), u(44.3), u(10.8), u(17.7)]),
            ("PANN + RoBERTa", &[u(37.5), u(45.3), u(11.3), u(18.4)]),
            ("HTSAT + CLIP transformer", &[q(2.4), q(6.0), u(1.1), u(3.2)]),
            ("HTSAT + BERT", &[u(43.7), u(49.2), u(13.8), u(20.8)]),
            ("HTSAT + RoBERTa", &[q(45.7), q(51.3), q(13.8), q(20.4)]),
        ],
    },
    PaperTable {
        title: "Table 3: retrieval",
        note: "Data: AC AudioCaps, CL Clotho, LA LAION-Audio-630K; K2C keyword-to-caption.",
        columns: &[
            retrieval("AudioCaps T→A R@1", "audiocaps", TEXT_TO_AUDIO[0]),
            retrieval("R@5", "audiocaps", TEXT_TO_AUDIO[1]),
            retrieval("R@10", "audiocaps", TEXT_TO_AUDIO[2]),
            retrieval("AudioCaps A→T R@1", "audiocaps", AUDIO_TO_TEXT[0]),
            retrieval("R@5", "audiocaps", AUDIO_TO_TEXT[1]),
            retrieval("R@10", "audiocaps", AUDIO_TO_TEXT[2]),
            retrieval("Clotho T→A R@1", "clotho", TEXT_TO_AUDIO[0]),
            retrieval("R@5", "clotho", TEXT_TO_AUDIO[1]),
            retrieval("R@10", "clotho", TEXT_TO_AUDIO[2]),
            retrieval("Clotho A→T R@1", "clotho", AUDIO_TO_TEXT[0]),
            retrieval("R@5", "clotho", AUDIO_TO_TEXT[1]),
            retrieval("R@10", "clotho", AUDIO_TO_TEXT[2]),
        ],
        rows: &[
            (
                "MMT (AC or CL)",
                &[
                    q(36.1),
                    q(72.0),
                    q(84.5),
                    q(39.6),
                    q(76.8),
                    q(86.7),
                    q(6.7),
                    q(21.6),
                    q(33.2),
                    q(7.0),
                    q(22.7),
                    q(34.6),
                ],
            ),
            (
                "ML-ACT (AC or CL)",
                &[
                    q(33.9),
                    q(69.7),
                    q(82.6),
                    q(39.4),
                    q(72.0),
                    q(83.9),
                    q(14.4),
                    q(36.6),
                    q(49.9),
                    q(16.2),
                    q(37.6),
                    q(50.2),
                ],
            ),
            (
                "CLAP-HTSAT (AC, CL, WavText5K)",
                &[
                    u(34.6),
                    u(70.2),
                    u(82.0),
                    u(41.9),
                    u(73.1),
                    u(84.6),
                    u(16.7),
                    u(41.1),
                    u(54.1),
                    u(20.0),
                    u(44.9),
                    u(58.7),
                ],
            ),
            (
                "HTSAT-RoBERTa (AC, CL)",
                &[
                    q(36.7),
                    u(70.9),
                    u(83.2),
                    u(45.3),
                    u(78.0),
                    u(87.7),
                    q(12.0),
                    u(31.6),
                    u(43.9),
                    u(15.7),
                    u(36.9),
                    u(51.3),
                ],
            ),
            (
                "HTSAT-RoBERTa (AC, CL, LA)",
                &[
                    q(32.7),
                    u(68.0),
                    u(81.2),
                    u(43.9),
                    u(77.7),
                    u(87.6),
                    q(15.6),
                    u(38.6),
                    u(52.3),
                    u(23.7),
                    u(48.9),
                    u(59.9),
                ],
            ),
            (
                "HTSAT-RoBERTa (AC, CL, LA, AudioSet by template)",
                &[
                    u(34.7),
                    u(70.5),
                    u(83.2),
                    u(45.3),
                    u(79.5),
                    u(89.2),
                    u(16.4),
                    u(39.0),
                    u(51.0),
                    u(21.8),
                    u(44.6),
                    u(60.1),
                ],
            ),
            (
                "HTSAT-RoBERTa (AC, CL, LA, AudioSet by K2C)",
                &[
                    q(36.1),
                    q(71.8),
                    q(83.9),
                    q(46.8),
                    q(82.9),
                    q(90.7),
                    q(16.1),
                    q(38.3),
                    q(51.1),
                    q(22.7),
                    q(48.5),
                    q(60.8),
                ],
            ),
            (
                "HTSAT-RoBERTa, fusion (AC, CL, LA, AudioSet by K2C)",
                &[
                    u(35.1),
                    u(71.5),
                    u(83.6),
                    u(45.8),
                    u(80.9),
                    u(91.6),
                    q(18.2),
                    u(42.5),
                    u(54.4),
                    u(25.7),
                    u(51.5),
                    u(63.4),
                ],
            ),
        ],
    },
    PaperTable {
        title: "Table 4: classification",
        note: "Zero-shot accuracy; with training, accuracy on VGGSound and mAP on FSD50K.",
        columns: &[
            Column { title: "ESC-50", dataset: "esc-50", task: Task::Classification, metric: "acc1" },
            Column { title: "US8K", dataset: "urbansound8k", task: Task::Classification, metric: "acc1" },
            Column { title: "VGGSound", dataset: "vggsound", task: Task::Classification, metric: "acc1" },
            Column { title: "VGGSound trained", dataset: "vggsound", task: Task::FineTune, metric: "acc" },
            Column { title: "FSD50K trained", dataset: "fsd50k", task: Task::FineTune, metric: "map" },
        ],
        rows: &[
            ("Wav2CLIP", &[u(41.4), u(40.4), q(10.0), u(46.6), u(43.1)]),
            ("AudioCLIP", &[u(69.4), u(65.3), None, None, None]),
            ("Microsoft CLAP", &[q(82.6), u(73.2), None, None, u(58.6)]),
            ("CLAP", &[q(89.1), u(73.2), u(29.1), q(75.4), q(64.9)]),
            ("CLAP, fusion", &[u(88.0), u(75.8), u(26.3), u(75.3), u(64.4)]),
            ("CLAP, K2C", &[q(91.0), u(77.0), q(46.2), u(75.3), u(59.7)]),
            ("best before", &[u(82.6), u(73.2), u(10.0), u(64.1), u(69.7)]),
        ],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_a_cell_for_each_column_of_a_known_data_set() {
        for table in TABLES {
            for (name, cells) in table.rows {
                assert_eq!(cells.len(), table.columns.len(), "{}: {name}", table.title);
                assert!(cells.iter().flatten().all(|cell| (0.0..=100.0).contains(&cell.per_cent)), "{name}");
            }
            for column in table.columns {
                assert!(clap_data::benchmarks().iter().any(|known| known.name == column.dataset), "{}", column.dataset);
            }
        }
    }
}
