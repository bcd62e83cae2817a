//! The learning rate of a step: linear warm-up, then half a cosine to zero, a constant, or a constant with a linear end.
//!
//! The cosine is LAION-CLAP's (1.1.7, `training/scheduler.py::cosine_lr`), held to the fixture `lr_schedule`:
//!
//! ```text
//! step < W:  base · (step + 1) / W
//! else:      base · ½ · (1 + cos(π · (step − W) / (total − W)))
//! ```
//!
//! `wsd` is warm-up, stable, decay (Hu et al., "MiniCPM", arXiv 2404.06395): the rate stays at its height and falls linearly to zero over the
//! last share of the steps, so that a run can be continued from any point before that without having known its length.
//!
//! A run may also be bounded in time. Then the rate has to reach zero when the time is up rather than at a step
//! nobody can foresee, so progress is the larger of the two fractions, `max(step / total, elapsed / budget)`. Such a run
//! depends on the clock; without a time budget the rate is a pure function of the step.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

/// What the rate does after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// Half a cosine to zero.
    #[default]
    Cosine,
    /// Nothing.
    Constant,
    /// Nothing, until it falls linearly to zero over the last share of the steps, [`Schedule::decay`].
    Wsd,
}

/// A schedule with linear warm-up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// What follows the warm-up.
    pub shape: Shape,
    /// Learning rate at the end of the warm-up.
    pub base_lr: f64,
    /// Steps of linear warm-up; 0 starts at `base_lr`.
    pub warmup: u64,
    /// Steps of the run; after them [`Shape::Cosine`] and [`Shape::Wsd`] are at zero.
    pub total: u64,
    /// Share of the steps in which [`Shape::Wsd`] falls to zero.
    pub decay: f64,
}

impl Schedule {
    /// LAION's: a warm-up and half a cosine.
    #[must_use]
    pub fn cosine(base_lr: f64, warmup: u64, total: u64) -> Self {
        Self { shape: Shape::Cosine, base_lr, warmup, total, decay: 0.0 }
    }

    /// The learning rate that step `step` (from 0) is taken with.
    #[must_use]
    pub fn lr(&self, step: u64) -> f64 {
        self.lr_within(step, 0.0)
    }

    /// The learning rate of step `step` when the fraction `time` of the time budget is spent (0 where there is none).
    ///
    /// Time never raises the rate: before the fall takes over it is the warm-up's.
    #[must_use]
    pub fn lr_within(&self, step: u64, time: f64) -> f64 {
        let warm = if step < self.warmup { (step + 1) as f64 / self.warmup as f64 } else { 1.0 };
        let position = (step as f64).max(time.clamp(0.0, 1.0) * self.total as f64);
        let fall = match self.shape {
            Shape::Cosine => self.half_cosine(position),
            Shape::Constant => 1.0,
            Shape::Wsd => self.last_line(position),
        };
        // The order of operations is the reference's, so that the last bits agree too.
        self.base_lr * warm.min(fall)
    }

    /// The cosine's factor at a (fractional) step; 1 during the warm-up, 0 past the end.
    fn half_cosine(&self, position: f64) -> f64 {
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

    /// One until the last share of the steps, then the part of it that is left.
    fn last_line(&self, position: f64) -> f64 {
        let total = self.total as f64;
        ((total - position) / (self.decay * total)).clamp(0.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEDULE: Schedule = Schedule { shape: Shape::Cosine, base_lr: 1e-3, warmup: 10, total: 110, decay: 0.2 };

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
        let long = Schedule::cosine(1.0, 100, 5);
        assert_eq!(long.lr(4), 0.05);
    }

    #[test]
    fn a_constant_stays() {
        let constant = Schedule { shape: Shape::Constant, ..SCHEDULE };
        assert_eq!(constant.lr(4), 5e-4);
        assert!([10, 60, 109, 1000].into_iter().all(|step| constant.lr(step) == 1e-3));
        assert_eq!(constant.lr_within(20, 1.0), 1e-3);
    }

    #[test]
    fn warm_up_stable_decay() {
        let wsd = Schedule { shape: Shape::Wsd, ..SCHEDULE };
        assert_eq!(wsd.lr(4), 5e-4);
        assert!((10..=88).all(|step| wsd.lr(step) == 1e-3));
        assert!((wsd.lr(99) - 5e-4).abs() < 1e-18, "the last fifth of 110 steps are 22: {}", wsd.lr(99));
        assert_eq!(wsd.lr(110), 0.0);
        // Half of the last fifth of the time is left.
        assert!((wsd.lr_within(20, 0.9) - 5e-4).abs() < 1e-15);
    }
}
