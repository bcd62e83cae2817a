//! The time that a run may take: its wall clock, and how much of it is left for training.

use std::time::{Duration, Instant};

use crate::state::Position;

/// The wall clock of a run and how much of it training may use.
#[derive(Debug)]
pub(crate) struct Budget {
    started: Instant,
    /// Seconds that the run took before it was stopped.
    before: f64,
    /// End of the run in seconds from its start; infinite without a bound.
    deadline: f64,
    /// Kept back for the last evaluation, checkpoint and report.
    reserve: f64,
    /// When the first step began.
    pub(crate) training_from: f64,
}

impl Budget {
    pub(crate) fn new(started: Instant, max_minutes: Option<f64>) -> Self {
        let deadline = max_minutes.map_or(f64::INFINITY, |minutes| minutes * 60.0);
        Self { started, before: 0.0, deadline, reserve: 1.0, training_from: 0.0 }
    }

    /// The clock of a run that goes on; the time in which it stood still does not count.
    pub(crate) fn resumed(started: Instant, max_minutes: Option<f64>, position: &Position) -> Self {
        Self { before: position.elapsed, training_from: position.training_from, ..Self::new(started, max_minutes) }
    }

    pub(crate) fn elapsed(&self) -> f64 {
        self.before + self.started.elapsed().as_secs_f64()
    }

    pub(crate) fn start_training(&mut self) {
        self.training_from = self.elapsed();
    }

    /// The next evaluation may well be half as slow again as the last.
    pub(crate) fn reserve_for_evaluation(&mut self, last: Duration) {
        self.reserve = 1.0 + 1.5 * last.as_secs_f64();
    }

    /// Seconds left for training.
    pub(crate) fn remaining(&self) -> f64 {
        (self.deadline - self.reserve - self.elapsed()).max(0.0)
    }

    /// Share of the training time that is spent, from 0 to 1; 0 without a bound.
    pub(crate) fn fraction(&self) -> f64 {
        if self.deadline.is_infinite() {
            return 0.0;
        }
        let whole = self.deadline - self.reserve - self.training_from;
        if whole <= 0.0 { 1.0 } else { ((self.elapsed() - self.training_from) / whole).clamp(0.0, 1.0) }
    }

    /// Whether an evaluation now leaves time for the last one.
    pub(crate) fn affords_evaluation(&self) -> bool {
        self.remaining() > self.reserve
    }

    pub(crate) fn is_spent(&self) -> bool {
        self.remaining() <= 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_keeps_time_for_the_last_evaluation() {
        let mut budget = Budget::new(Instant::now(), Some(1.0));
        budget.start_training();
        budget.reserve_for_evaluation(Duration::from_secs(20));
        assert!((budget.remaining() - 29.0).abs() < 0.5 && !budget.is_spent());
        assert!(budget.fraction() < 0.02);
        budget.reserve_for_evaluation(Duration::from_secs(40));
        assert!(budget.is_spent() && budget.fraction() == 1.0);
    }

    #[test]
    fn without_a_bound_time_does_not_count() {
        let budget = Budget::new(Instant::now(), None);
        assert!(!budget.is_spent() && budget.fraction() == 0.0 && budget.remaining().is_infinite());
    }
}
