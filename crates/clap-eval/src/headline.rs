//! The metrics that people look at first, in one order and under one name everywhere: terminal, report, page.

/// One of the first metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headline {
    /// What it measures, for people.
    pub label: &'static str,
    /// Its name in [`crate::Outcome::metrics`].
    pub name: &'static str,
    /// The name of what guessing gives there, where that is known.
    pub chance: Option<&'static str>,
}

const fn headline(label: &'static str, name: &'static str, chance: &'static str) -> Headline {
    Headline { label, name, chance: Some(chance) }
}

const fn plain(label: &'static str, name: &'static str) -> Headline {
    Headline { label, name, chance: None }
}

/// Zero-shot classification, then retrieval in both directions.
pub const HEADLINES: [Headline; 15] = [
    headline("zero-shot top-1", "zeroshot_acc1", "zeroshot_chance_acc1"),
    headline("zero-shot top-5", "zeroshot_acc5", "zeroshot_chance_acc5"),
    // A guess is right for each class equally often.
    headline("zero-shot macro recall", "zeroshot_mean_per_class_recall", "zeroshot_chance_acc1"),
    headline("zero-shot mAP, several labels", "zeroshot_map", "zeroshot_chance_map"),
    plain("zero-shot ROC area, several labels", "zeroshot_mauc"),
    headline("audio→text R@1", "audio_to_text_R@1", "audio_to_text_chance_R@1"),
    headline("audio→text R@5", "audio_to_text_R@5", "audio_to_text_chance_R@5"),
    headline("audio→text R@10", "audio_to_text_R@10", "audio_to_text_chance_R@10"),
    plain("audio→text mAP@10", "audio_to_text_mAP@10"),
    plain("audio→text median rank", "audio_to_text_median_rank"),
    headline("text→audio R@1", "text_to_audio_R@1", "chance_R@1"),
    headline("text→audio R@5", "text_to_audio_R@5", "chance_R@5"),
    headline("text→audio R@10", "text_to_audio_R@10", "chance_R@10"),
    plain("text→audio mAP@10", "text_to_audio_mAP@10"),
    plain("text→audio median rank", "text_to_audio_median_rank"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_headline_and_its_chance_is_a_metric() {
        let known = crate::metric_names();
        for Headline { name, chance, .. } in HEADLINES {
            for name in [Some(name), chance].into_iter().flatten() {
                assert!(known.iter().any(|known| known == name), "{name}");
            }
        }
    }
}
