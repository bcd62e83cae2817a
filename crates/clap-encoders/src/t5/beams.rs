//! Beam search for one prompt: the running texts, the finished ones, and when there is nothing left to win.
//!
//! The same as transformers 4.57.6 `GenerationMixin._beam_search`, prompt by prompt: there a batch goes on until its last prompt
//! is done, and what the others do in the meantime cannot change their best text, so here they leave. The arithmetic is in
//! `f32` as there, with its large negative numbers for what must not be chosen.

use super::generation::{EarlyStopping, Generation};

/// Added to the score of what must not be chosen.
const NEVER: f32 = -1e9;

/// A text and its score.
#[derive(Clone, Debug)]
struct Text {
    /// The token that starts it included.
    tokens: Vec<u32>,
    /// The sum of its log-probabilities; for a finished text divided by a power of its length.
    score: f32,
    is_finished: bool,
}

/// A continuation of a running text.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    beam: usize,
    token: u32,
    score: f32,
}

/// The state of one prompt's search.
#[derive(Debug)]
pub(super) struct Search {
    running: Vec<Text>,
    /// Best first; to begin with, places for texts.
    finished: Vec<Text>,
    /// Whether a running text may still become better than a finished one.
    is_open: bool,
}

impl Search {
    pub(super) fn new(options: &Generation) -> Self {
        let start = |score| Text { tokens: vec![options.decoder_start_token_id], score, is_finished: false };
        // Of beams that are all alike only the first counts.
        let running = (0..options.num_beams).map(|beam| start(if beam == 0 { 0.0 } else { NEVER })).collect();
        Self { running, finished: vec![start(NEVER); options.num_beams], is_open: true }
    }

    /// The running texts, beam by beam.
    pub(super) fn running(&self) -> impl Iterator<Item = &[u32]> {
        self.running.iter().map(|text| text.tokens.as_slice())
    }

    /// The best text, without the token that starts it.
    pub(super) fn best(self) -> Vec<u32> {
        let best = self.finished.into_iter().next();
        best.map(|text| text.tokens[1..].to_vec()).unwrap_or_default()
    }

    /// Takes the constrained log-probabilities of each beam's next token. Returns which beam each of the new ones continues, or
    /// `None` when the search is over.
    pub(super) fn advance(&mut self, log_probs: &[Vec<f32>], options: &Generation) -> Option<Vec<usize>> {
        let beams = options.num_beams;
        let length = self.running[0].tokens.len();
        // At least as many candidates that go on as there are beams, however many of them end.
        let kept = beams * (1 + options.eos_token_id.len()).max(2);
        let candidates = self.candidates(log_probs, kept);
        let stops =
            |candidate: &Candidate| options.eos_token_id.contains(&candidate.token) || length + 1 >= options.max_length;
        let text = |candidate: &Candidate, score: f32, is_finished: bool| {
            let mut tokens = self.running[candidate.beam].tokens.clone();
            tokens.push(candidate.token);
            Text { tokens, score, is_finished }
        };

        let mut order: Vec<(f32, &Candidate)> = candidates
            .iter()
            .map(|candidate| (if stops(candidate) { candidate.score + NEVER } else { candidate.score }, candidate))
            .collect();
        order.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        order.truncate(beams);
        let parents = order.iter().map(|(_, candidate)| candidate.beam).collect();
        let running = order.iter().map(|(score, candidate)| text(candidate, *score, false)).collect();

        let is_full =
            options.early_stopping == EarlyStopping::Enough && self.finished.iter().all(|text| text.is_finished);
        let divisor = power(length, options.length_penalty);
        let mut finished = std::mem::take(&mut self.finished);
        for (place, candidate) in candidates.iter().enumerate() {
            // Candidates behind the first are there to go on, not to end.
            let ends = stops(candidate) && place < beams;
            let mut score = candidate.score / divisor;
            for is_barred in [is_full, !self.is_open, !ends] {
                score += if is_barred { NEVER } else { 0.0 };
            }
            finished.push(text(candidate, score, ends));
        }
        finished.sort_by(|a, b| b.score.total_cmp(&a.score));
        finished.truncate(beams);

        let all_stop = candidates.iter().all(stops);
        (self.running, self.finished) = (running, finished);
        self.is_open &= self.could_improve(length + 1, options);
        let is_enough =
            options.early_stopping == EarlyStopping::Enough && self.finished.iter().all(|text| text.is_finished);
        (self.is_open && !is_enough && !all_stop).then_some(parents)
    }

    /// The best continuations of all beams, best first; of equal ones the earlier.
    fn candidates(&self, log_probs: &[Vec<f32>], count: usize) -> Vec<Candidate> {
        let mut best: Vec<Candidate> = Vec::with_capacity(count + 1);
        for (beam, (text, row)) in self.running.iter().zip(log_probs).enumerate() {
            for (token, &log_prob) in (0u32..).zip(row) {
                let score = log_prob + text.score;
                if best.len() == count && best[count - 1].score >= score {
                    continue;
                }
                let place = best.partition_point(|other| other.score >= score);
                best.insert(place, Candidate { beam, token, score });
                best.truncate(count);
            }
        }
        best
    }

    /// Whether the best running text, at the length that the heuristic takes, is better than the worst finished one.
    fn could_improve(&self, length: usize, options: &Generation) -> bool {
        let is_exact = options.early_stopping == EarlyStopping::Exact && options.length_penalty > 0.0;
        let length = if is_exact { options.max_length } else { length };
        let best = self.running[0].score / power(length - 1, options.length_penalty);
        let worst = self.finished.iter().map(|text| text.score).fold(f32::INFINITY, f32::min);
        self.finished.iter().any(|text| best > if text.is_finished { worst } else { NEVER })
    }
}

/// `length ^ penalty`, the length being that without the token which starts a text.
fn power(length: usize, penalty: f64) -> f32 {
    (length as f64).powf(penalty) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Generation {
        Generation { num_beams: 2, max_length: 4, ..Generation::default() }
    }

    fn log_probs(probabilities: &[&[f32]]) -> Vec<Vec<f32>> {
        probabilities.iter().map(|row| row.iter().map(|p| p.ln()).collect()).collect()
    }

    #[test]
    fn beams_begin_with_different_tokens_and_follow_their_parents() {
        let options = options();
        let mut search = Search::new(&options);
        let first = log_probs(&[&[0.1, 0.1, 0.5, 0.3], &[0.1, 0.1, 0.5, 0.3]]);
        assert_eq!(search.advance(&first, &options), Some(vec![0, 0]));
        assert_eq!(search.running().collect::<Vec<_>>(), [[0, 2], [0, 3]]);
        // 0.3 · 0.9 is better than 0.5 · 0.4
        let second = log_probs(&[&[0.2, 0.2, 0.4, 0.2], &[0.025, 0.025, 0.05, 0.9]]);
        assert_eq!(search.advance(&second, &options), Some(vec![1, 0]));
        assert_eq!(search.running().collect::<Vec<_>>(), [[0, 3, 3], [0, 2, 2]]);
        let third = log_probs(&[&[0.25; 4], &[0.25; 4]]);
        assert_eq!(search.advance(&third, &options), None, "the length is reached");
        assert_eq!(search.best()[..2], [3, 3]);
    }

    #[test]
    fn enough_finished_texts_end_the_search() {
        let options = Generation { max_length: 9, early_stopping: EarlyStopping::Enough, ..options() };
        let mut search = Search::new(&options);
        let probabilities = log_probs(&[&[0.05, 0.55, 0.3, 0.1], &[0.05, 0.55, 0.3, 0.1]]);
        let mut steps = 1;
        while search.advance(&probabilities, &options).is_some() {
            steps += 1;
        }
        assert_eq!(steps, 2);
        assert_eq!(search.best(), [1]);
    }
}
