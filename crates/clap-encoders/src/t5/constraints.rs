//! What a text may go on with: the scores of the next token, changed by what the text holds already.
//!
//! Source: transformers 4.57.6 `generation/logits_process.py`, in the order of `GenerationMixin._get_logits_processor`. A greedy or
//! sampled text applies them to logits, a beam search to log-probabilities, as there.

use super::generation::{Generation, Sampling};

/// Applies the constraints of `options` to the `scores` of the token after `text`, the one that starts it included.
pub(super) fn constrain(scores: &mut [f32], text: &[u32], options: &Generation) {
    if options.repetition_penalty != 1.0 {
        penalise(scores, text, options.repetition_penalty);
    }
    for token in banned(text, options.no_repeat_ngram_size) {
        scores[token as usize] = f32::NEG_INFINITY;
    }
    if text.len() < options.min_length {
        for &end in &options.eos_token_id {
            scores[end as usize] = f32::NEG_INFINITY;
        }
    }
    if text.len() == 1
        && let Some(first) = options.forced_bos_token_id
    {
        force(scores, &[first]);
    }
    if text.len() + 1 == options.max_length && !options.forced_eos_token_id.is_empty() {
        force(scores, &options.forced_eos_token_id);
    }
}

/// Makes the tokens of a text less likely, each once however often it occurs.
fn penalise(scores: &mut [f32], text: &[u32], penalty: f32) {
    for (at, &token) in text.iter().enumerate() {
        if text[..at].contains(&token) {
            continue;
        }
        let score = &mut scores[token as usize];
        *score = if *score < 0.0 { *score * penalty } else { *score / penalty };
    }
}

/// Tokens that would complete a sequence of `size` which the text has already.
fn banned(text: &[u32], size: usize) -> Vec<u32> {
    if size == 0 || text.len() + 1 < size {
        return Vec::new();
    }
    let end = &text[text.len() + 1 - size..];
    text.windows(size).filter(|window| window[..size - 1] == *end).map(|window| window[size - 1]).collect()
}

/// Nothing but these tokens.
fn force(scores: &mut [f32], tokens: &[u32]) {
    scores.fill(f32::NEG_INFINITY);
    for &token in tokens {
        scores[token as usize] = 0.0;
    }
}

/// Leaves the tokens that `sampling` draws from, at its temperature; the others become impossible.
pub(super) fn sharpen(scores: &mut [f32], sampling: &Sampling) {
    if sampling.temperature != 1.0 {
        scores.iter_mut().for_each(|score| *score /= sampling.temperature);
    }
    if sampling.top_k > 0 && sampling.top_k < scores.len() {
        let mut sorted = scores.to_vec();
        let (_, &mut least, _) = sorted.select_nth_unstable_by(sampling.top_k - 1, |a, b| b.total_cmp(a));
        scores.iter_mut().filter(|score| **score < least).for_each(|score| *score = f32::NEG_INFINITY);
    }
    if sampling.top_p < 1.0 {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
        let probabilities = softmax(scores);
        let mut below = 0.0;
        // From the unlikeliest on, for as long as what is left out has no more than 1 - top_p together; the likeliest stays.
        for &token in &order[..order.len().saturating_sub(1)] {
            below += probabilities[token];
            if below > 1.0 - f64::from(sampling.top_p) {
                break;
            }
            scores[token] = f32::NEG_INFINITY;
        }
    }
}

/// Probabilities of the tokens.
pub(super) fn softmax(scores: &[f32]) -> Vec<f64> {
    let greatest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut values: Vec<f64> = scores.iter().map(|&score| f64::from(score - greatest).exp()).collect();
    let sum: f64 = values.iter().sum();
    values.iter_mut().for_each(|value| *value /= sum);
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEVER: f32 = f32::NEG_INFINITY;

    #[track_caller]
    fn check(scores: [f32; 4], text: &[u32], options: &Generation, expected: [f32; 4]) {
        let mut scores = scores;
        constrain(&mut scores, text, options);
        assert_eq!(scores, expected);
    }

    #[test]
    fn repetition_is_penalised_once_and_by_sign() {
        let options = Generation { repetition_penalty: 2.0, ..Generation::default() };
        check([1.0, -1.0, 1.0, -1.0], &[0, 1, 1, 0], &options, [0.5, -2.0, 1.0, -1.0]);
    }

    #[test]
    fn no_sequence_comes_twice() {
        assert_eq!(banned(&[0, 2, 3, 2], 2), [3]);
        assert_eq!(banned(&[0, 2, 3, 2, 1, 2], 2), [3, 1]);
        assert_eq!(banned(&[0, 2, 3, 1, 2, 3], 3), [1]);
        assert_eq!(banned(&[0, 2], 1), [0, 2]);
        assert_eq!(banned(&[0], 3), [0; 0]);
        assert_eq!(banned(&[0, 0], 3), [0; 0]);
        assert_eq!(banned(&[0, 1, 2], 0), [0; 0]);
    }

    #[test]
    fn ends_are_held_off_and_forced() {
        let options = Generation {
            min_length: 3,
            max_length: 4,
            forced_bos_token_id: Some(2),
            forced_eos_token_id: vec![1, 3],
            ..Generation::default()
        };
        check([1.0; 4], &[0], &options, [NEVER, NEVER, 0.0, NEVER]);
        check([1.0; 4], &[0, 2], &options, [1.0, NEVER, 1.0, 1.0]);
        check([1.0; 4], &[0, 2, 2], &options, [NEVER, 0.0, NEVER, 0.0]);
    }

    /// transformers 4.57.6: `TemperatureLogitsWarper`, `TopKLogitsWarper`, `TopPLogitsWarper` on these scores.
    #[test]
    fn draws_are_narrowed() {
        let scores = [1.0f32, 3.0, 2.0, 0.0];
        let narrowed = |sampling: Sampling| {
            let mut scores = scores;
            sharpen(&mut scores, &sampling);
            scores
        };
        let all = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0 };
        assert_eq!(narrowed(Sampling { temperature: 0.5, ..all }), [2.0, 6.0, 4.0, 0.0]);
        assert_eq!(narrowed(Sampling { top_k: 2, ..all }), [NEVER, 3.0, 2.0, NEVER]);
        // probabilities 0.087, 0.644, 0.237, 0.032
        assert_eq!(narrowed(Sampling { top_p: 0.9, ..all }), [1.0, 3.0, 2.0, NEVER]);
        assert_eq!(narrowed(Sampling { top_p: 0.8, ..all }), [NEVER, 3.0, 2.0, NEVER]);
        assert_eq!(narrowed(Sampling { top_p: 0.001, ..all }), [NEVER, 3.0, NEVER, NEVER]);
    }
}
