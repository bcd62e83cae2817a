//! How far a metric may be off because the split is a sample, and whether two models differ by more than that: a percentile
//! bootstrap over the clips (Efron 1979).

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::statistic::Statistic;

/// Draws that an interval is made of; its ends are then good to about a thirtieth of its width.
const DRAWS: u64 = 2000;

/// Ends of a 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// 2.5 % of the draws are below.
    pub low: f64,
    /// 2.5 % are above.
    pub high: f64,
}

/// The difference of one metric between two models on the same clips.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// First model's value less the second's.
    pub difference: f64,
    /// Interval of the difference over draws of the same clips for both.
    pub interval: Interval,
    /// Two-sided: twice the smaller share of draws on one side of 0, counting the split itself as one more draw, at most 1.
    pub p: f64,
}

/// 95 % intervals of metrics of the same clips; `None` for a metric that is not defined on every draw. The seed gives the draws, the
/// number of threads does not matter.
///
/// # Errors
/// Statistics of different numbers of clips.
pub fn intervals(statistics: &[&Statistic], seed: u64) -> Result<Vec<Option<Interval>>> {
    let draws = draws(statistics, seed)?;
    let column = |i: usize| draws.iter().map(|row| row[i]).collect::<Option<Vec<f64>>>();
    Ok((0..statistics.len()).map(|i| column(i).and_then(interval)).collect())
}

/// How much better the first model is than the second, whose statistic is of the same clips in the same order. `None` where the metric is
/// not defined on every draw.
///
/// # Errors
/// Statistics of different numbers of clips.
pub fn compare(first: &Statistic, second: &Statistic, seed: u64) -> Result<Option<Difference>> {
    let draws = draws(&[first, second], seed)?;
    let differences: Option<Vec<f64>> = draws.iter().map(|row| Some(row[0]? - row[1]?)).collect();
    let (Some(differences), Some(a), Some(b)) = (differences, first.value(), second.value()) else { return Ok(None) };
    let share =
        |side: fn(&f64) -> bool| (differences.iter().filter(|d| side(d)).count() + 1) as f64 / (DRAWS + 1) as f64;
    let p = (2.0 * share(|d| *d <= 0.0).min(share(|d| *d >= 0.0))).min(1.0);
    Ok(interval(differences).map(|interval| Difference { difference: a - b, interval, p }))
}

fn interval(mut values: Vec<f64>) -> Option<Interval> {
    values.sort_unstable_by(f64::total_cmp);
    let cut = values.len() / 40;
    Some(Interval { low: *values.get(cut)?, high: *values.get(values.len() - 1 - cut)? })
}

/// The statistics' values for each draw of clips.
fn draws(statistics: &[&Statistic], seed: u64) -> Result<Vec<Vec<Option<f64>>>> {
    let units = statistics.first().map_or(0, |statistic| statistic.units());
    if let Some(other) = statistics.iter().find(|statistic| statistic.units() != units) {
        return Err(Error::CountMismatch {
            left: "clips of one metric",
            left_count: other.units(),
            right: "clips of another",
            right_count: units,
        });
    }
    let draw = |number: u64| {
        // A generator of its own for each draw, so that they can be made side by side.
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(number);
        let mut weights = vec![0u32; units];
        for _ in 0..units {
            weights[rng.random_range(0..units)] += 1;
        }
        statistics.iter().map(|statistic| statistic.at(&weights)).collect()
    };
    Ok((0..DRAWS).into_par_iter().map(draw).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(of: usize, right: impl Fn(usize) -> bool) -> Statistic {
        Statistic::mean(of, (0..of).map(|i| (i, f64::from(u8::from(right(i))))))
    }

    #[test]
    fn a_share_has_the_interval_of_the_binomial_distribution() {
        // 40 of 100: the normal approximation is 0.4 ± 1.96 · sqrt(0.4 · 0.6 / 100).
        let statistic = shares(100, |i| i < 40);
        let found = intervals(&[&statistic], 1).unwrap()[0].unwrap();
        assert!((found.low - 0.304).abs() < 0.015 && (found.high - 0.496).abs() < 0.015, "{found:?}");
        assert_eq!(intervals(&[&statistic], 1).unwrap()[0], Some(found));
        assert_ne!(intervals(&[&statistic], 2).unwrap()[0], Some(found));
    }

    #[test]
    fn what_does_not_vary_is_certain() {
        let certain = Interval { low: 1.0, high: 1.0 };
        assert_eq!(intervals(&[&shares(7, |_| true)], 0).unwrap(), [Some(certain)]);
        assert_eq!(intervals(&[&shares(0, |_| true)], 0).unwrap(), [None]);
    }

    /// Captions of one clip are no independent queries: five alike widen the interval of the mean as one would.
    #[test]
    fn clips_are_drawn_with_all_their_captions() {
        let one = shares(60, |i| i % 3 == 0);
        let five = Statistic::mean(60, (0..300).map(|j| (j / 5, f64::from(u8::from(j / 5 % 3 == 0)))));
        assert_eq!(intervals(&[&one], 3).unwrap(), intervals(&[&five], 3).unwrap());
    }

    #[test]
    fn the_same_clips_tell_more_about_a_difference_than_others_would() {
        let (first, second) = (shares(200, |i| i < 110), shares(200, |i| i < 100));
        let found = compare(&first, &second, 0).unwrap().unwrap();
        assert!((found.difference - 0.05).abs() < 1e-12);
        assert!(found.interval.low > 0.0 && found.p < 0.01, "{found:?}");
        let against_itself = compare(&first, &first, 0).unwrap().unwrap();
        assert_eq!((against_itself.difference, against_itself.p), (0.0, 1.0));
        // Ten clips each way: no difference.
        let third = shares(200, |i| (10..110).contains(&i) || i > 189);
        assert!(compare(&first, &third, 0).unwrap().unwrap().p > 0.5);
        assert!(compare(&first, &shares(3, |_| true), 0).is_err());
    }
}
