//! The learning rate of a step: linear warm-up, then half a cosine down to zero.
//!
//! LAION-CLAP 1.1.7, `training/scheduler.py::cosine_lr`, held to the fixture `lr_schedule`:
//!
//! ```text
//! step < W:  base · (step + 1) / W
//! else:      base · ½ · (1 + cos(π · (step − W) / (total − W)))
//! ```
//!
//! A run may also be bounded in time. Then the cosine has to reach zero when the time is up rather than at a step
//! nobody can foresee, so progress is the larger of the two fractions, `max(step / total, elapsed / budget)`. Such a run
//! depends on the clock; without a time budget the rate is a pure function of the step.

use std::f64::consts::PI;

/// Cosine schedule with linear warm-up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Learning rate at the end of the warm-up.
    pub base_lr: f64,
    /// Steps of linear warm-up; 0 starts at `base_lr`.
    pub warmup: u64,
    /// Steps after which the rate is zero.
    pub total: u64,
}

impl Schedule {
    /// The learning rate that step `step` (from 0) is taken with.
    #[must_use]
    pub fn lr(&self, step: u64) -> f64 {
        self.lr_within(step, 0.0)
    }

    /// The learning rate of step `step` when the fraction `time` of the time budget is spent (0 where there is none).
    ///
    /// Time never raises the rate: before the cosine takes over it is the warm-up's.
    #[must_use]
    pub fn lr_within(&self, step: u64, time: f64) -> f64 {
        let warm = if step < self.warmup { (step + 1) as f64 / self.warmup as f64 } else { 1.0 };
        let position = (step as f64).max(time.clamp(0.0, 1.0) * self.total as f64);
        // The order of operations is the reference's, so that the last bits agree too.
        self.base_lr * warm.min(self.cosine(position))
    }

    /// The cosine's factor at a (fractional) step; 1 during the warm-up, 0 past the end.
    fn cosine(&self, position: f64) -> f64 {
        let past_warmup = position - self.warmup as f64;
        if past_warmup <= 0.0 {
            return 1.0;
        }
        let length = self.total as f64 - self.warmup as f64;
        if past_warmup >= length {
            return 0.0;
        }
        0.5 * (1.0 + (PI * past_warmup / length).cos())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEDULE: Schedule = Schedule { base_lr: 1e-3, warmup: 10, total: 110 };

    #[test]
    fn warms_up_then_falls_to_zero() {
        assert_eq!(SCHEDULE.lr(0), 1e-4);
        assert_eq!(SCHEDULE.lr(9), 1e-3);
        assert_eq!(SCHEDULE.lr(10), 1e-3);
        assert!((SCHEDULE.lr(60) - 5e-4).abs() < 1e-18);
        assert_eq!(SCHEDULE.lr(110), 0.0);
        assert_eq!(SCHEDULE.lr(1000), 0.0);
    }

    #[test]
    fn time_takes_over_when_it_runs_faster_than_the_steps() {
        // 60 of 110 steps' worth of time is spent at step 20: the rate is that of step 60.
        assert!((SCHEDULE.lr_within(20, 60.0 / 110.0) - SCHEDULE.lr(60)).abs() < 1e-18);
        assert_eq!(SCHEDULE.lr_within(20, 1.0), 0.0);
        assert_eq!(SCHEDULE.lr_within(20, 7.0), 0.0);
    }

    #[test]
    fn time_that_runs_slower_changes_nothing() {
        for step in 0..110 {
            assert_eq!(SCHEDULE.lr_within(step, step as f64 / 110.0 * 0.9), SCHEDULE.lr(step));
        }
    }

    #[test]
    fn time_never_raises_the_rate_of_the_warm_up() {
        assert_eq!(SCHEDULE.lr_within(3, 0.05), SCHEDULE.lr(3));
        assert_eq!(SCHEDULE.lr_within(3, 1.0), 0.0);
    }

    #[test]
    fn warm_up_longer_than_the_run_stays_linear() {
        let long = Schedule { base_lr: 1.0, warmup: 100, total: 5 };
        assert_eq!(long.lr(4), 0.05);
    }
}
