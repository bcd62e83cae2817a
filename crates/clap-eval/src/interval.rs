//! How far a metric may be off because the split is a sample: a percentile bootstrap over its queries (Efron 1979).

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Samples that an interval is made of; its ends are then good to about a fiftieth of its width.
const DRAWS: usize = 10_000;

/// Ends of the 95 % interval of the mean of `values`, by drawing as many of them with replacement; the seed gives the draws. `None`
/// without values. Two models on the same queries are compared by the differences of their values: the interval of the mean
/// difference is narrower than either model's.
#[must_use]
pub fn mean_interval(values: &[f64], seed: u64) -> Option<(f64, f64)> {
    let n = values.len();
    if n == 0 {
        return None;
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut means: Vec<f64> =
        (0..DRAWS).map(|_| (0..n).map(|_| values[rng.random_range(0..n)]).sum::<f64>() / n as f64).collect();
    means.sort_unstable_by(f64::total_cmp);
    Some((means[DRAWS / 40], means[DRAWS - 1 - DRAWS / 40]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_has_the_interval_of_the_binomial_distribution() {
        // 40 of 100: the normal approximation is 0.4 ± 1.96 · sqrt(0.4 · 0.6 / 100).
        let values: Vec<f64> = (0..100).map(|i| f64::from(u8::from(i < 40))).collect();
        let (low, high) = mean_interval(&values, 1).unwrap();
        assert!((low - 0.304).abs() < 0.015 && (high - 0.496).abs() < 0.015, "{low} {high}");
        assert_eq!(mean_interval(&values, 1), Some((low, high)));
    }

    #[test]
    fn what_does_not_vary_is_certain() {
        assert_eq!(mean_interval(&[0.5; 7], 0), Some((0.5, 0.5)));
        assert_eq!(mean_interval(&[], 0), None);
    }
}
