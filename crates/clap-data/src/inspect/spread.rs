//! How values are spread: a few order statistics and a histogram with round edges.

use serde::Serialize;

/// A histogram has about this many bins, and never more than twice as many.
const BINS: f64 = 20.0;

/// Values above this quantile share the last bin where they are far away, so that one long recording does not squeeze all
/// others into the first.
const TAIL: f64 = 0.99;

/// Some values in short.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Spread {
    /// The least.
    pub min: f64,
    /// The value that 5 % are below.
    pub p05: f64,
    /// The value in the middle.
    pub median: f64,
    /// The mean.
    pub mean: f64,
    /// The value that 5 % are above.
    pub p95: f64,
    /// The greatest.
    pub max: f64,
    /// How many values lie where; every value is in one bin.
    pub histogram: Vec<Bin>,
}

/// A bar of a histogram: values from `from` up to, but without, `to`. The last bin holds everything above it as well.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Bin {
    /// Its lower edge.
    pub from: f64,
    /// Its upper edge; in the last bin the greatest value, where that is beyond the edge.
    pub to: f64,
    /// Values in it.
    pub count: usize,
}

impl Spread {
    /// Of values that are finite; none for none. Where all are `whole` numbers, so are the edges.
    pub fn of(mut values: Vec<f64>, whole: bool) -> Option<Self> {
        values.retain(|value| value.is_finite());
        values.sort_by(f64::total_cmp);
        let (&min, &max) = (values.first()?, values.last()?);
        let at = |share: f64| values[((values.len() - 1) as f64 * share).round() as usize];
        Some(Self {
            min,
            p05: at(0.05),
            median: at(0.5),
            mean: values.iter().sum::<f64>() / values.len() as f64,
            p95: at(0.95),
            max,
            histogram: histogram(&values, at(TAIL), whole),
        })
    }
}

fn histogram(sorted: &[f64], tail: f64, whole: bool) -> Vec<Bin> {
    let (min, max) = (sorted[0], sorted[sorted.len() - 1]);
    let mut width = round_width((tail - min) / BINS);
    if whole {
        width = width.max(1.0).round();
    }
    let first = (min / width).floor();
    let tail = if (max / width).floor() - first < 2.0 * BINS { max } else { tail };
    // Computed from whole numbers, so that edges print as 0.3 and not as 0.30000000000000004.
    let edge =
        |number: f64| if width < 1.0 { (first + number) / (1.0 / width).round() } else { (first + number) * width };
    let count = ((tail / width).floor() - first) as usize + 1;
    let mut bins: Vec<Bin> =
        (0..count).map(|n| Bin { from: edge(n as f64), to: edge(n as f64 + 1.0), count: 0 }).collect();
    for value in sorted {
        let place = bins.partition_point(|bin| bin.to <= *value).min(count - 1);
        bins[place].count += 1;
    }
    if let Some(last) = bins.last_mut() {
        last.to = last.to.max(max);
    }
    bins
}

/// The least of 1, 2 and 5 times a power of ten that is not below `width`.
fn round_width(width: f64) -> f64 {
    if width <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(width.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| factor * power >= width * (1.0 - 1e-9));
    factor.unwrap_or(10.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_in_one_bin() {
        for values in [
            vec![3.0],
            vec![2.0, 2.0, 2.0],
            (0..1000).map(|n| f64::from(n) * 0.013).collect(),
            (0..100).map(|n| 1.5 + f64::from(n % 7) * 0.1).collect(),
            vec![-70.0, -20.5, -3.0, 0.0],
            (0..500).map(|n| f64::from(n % 10)).chain([36_000.0]).collect(),
        ] {
            let spread = Spread::of(values.clone(), false).unwrap();
            let bins = &spread.histogram;
            assert_eq!(bins.iter().map(|bin| bin.count).sum::<usize>(), values.len(), "{bins:?}");
            assert!(bins.len() <= 2 * BINS as usize + 1, "{}", bins.len());
            assert!(bins.windows(2).all(|pair| pair[0].to == pair[1].from), "{bins:?}");
            assert!(bins[0].from <= spread.min && spread.max <= bins.last().unwrap().to, "{spread:?}");
            for bin in &bins[..bins.len() - 1] {
                let inside = values.iter().filter(|value| (bin.from..bin.to).contains(value)).count();
                assert_eq!(inside, bin.count, "{bin:?}");
            }
        }
        assert_eq!(Spread::of(vec![f64::NAN], false), None);
    }

    #[test]
    fn edges_and_statistics_are_round() {
        let spread = Spread::of((1..=101).map(f64::from).collect(), true).unwrap();
        assert_eq!((spread.min, spread.p05, spread.median, spread.p95, spread.max), (1.0, 6.0, 51.0, 96.0, 101.0));
        assert_eq!(spread.mean, 51.0);
        assert!(spread.histogram.iter().all(|bin| bin.from % 5.0 == 0.0), "{:?}", spread.histogram);
        let spread = Spread::of((0..300).map(|n| f64::from(n) / 100.0).collect(), false).unwrap();
        assert!(spread.histogram.iter().any(|bin| bin.from == 0.6), "{:?}", spread.histogram);
        assert_eq!([0.013, 0.02, 0.3, 7.0, 0.0].map(round_width), [0.02, 0.02, 0.5, 10.0, 1.0]);
        let few = Spread::of(vec![3.0, 4.0, 4.0, 6.0], true).unwrap();
        assert_eq!(few.histogram.iter().map(|bin| bin.count).collect::<Vec<_>>(), [1, 2, 0, 1]);
        let many = Spread::of([[5.0; 500].as_slice(), &[6.0; 500], &[9.0]].concat(), true).unwrap();
        assert_eq!(many.histogram.iter().map(|bin| bin.count).collect::<Vec<_>>(), [500, 500, 0, 0, 1]);
    }
}
