//! Curves of characters: a line of dots in braille, and a row of blocks.

/// Dots of one character of braille, by row and column: bits of U+2800.
const DOTS: [[u32; 2]; 4] = [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]];
const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// A line through the values, `rows` rows of `columns` characters, and the least and greatest value drawn. Columns of more
/// than one value show their mean.
pub(super) fn braille(values: &[f64], columns: usize, rows: usize) -> (Vec<String>, f64, f64) {
    let means = spread(values, 2 * columns);
    let (low, high) = range(&means);
    let height = 4 * rows;
    let mut dots = vec![vec![0u32; columns]; rows];
    // Row of dots from the top.
    let row = |value: f64| ((1.0 - fraction(value, low, high)) * (height - 1) as f64).round() as usize;
    for (x, value) in means.iter().enumerate() {
        let to = row(*value);
        let from = x.checked_sub(1).map_or(to, |before| row(means[before]));
        // From beside the last dot, so that the line has no gap.
        let (top, bottom) = if from < to { (from + 1, to) } else { (to, from.saturating_sub(1).max(to)) };
        for y in top..=bottom {
            dots[y / 4][x / 2] |= DOTS[y % 4][x % 2];
        }
    }
    let character = |dots: &u32| char::from_u32(0x2800 + dots).expect("braille has all 256 patterns");
    (dots.iter().map(|row| row.iter().map(character).collect()).collect(), low, high)
}

/// The values as a row of `columns` blocks.
pub(super) fn blocks(values: &[f64], columns: usize) -> String {
    let means = spread(values, columns);
    let (low, high) = range(&means);
    let block = |value: &f64| BLOCKS[(fraction(*value, low, high) * (BLOCKS.len() - 1) as f64).round() as usize];
    means.iter().map(block).collect()
}

/// The finite values over so many columns: means where there are more, points between them where there are fewer.
fn spread(values: &[f64], columns: usize) -> Vec<f64> {
    let finite: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    if finite.len() >= columns {
        let part = |column: usize| &finite[column * finite.len() / columns..(column + 1) * finite.len() / columns];
        return (0..columns).map(part).map(|part| part.iter().sum::<f64>() / part.len() as f64).collect();
    }
    let Some(last) = finite.last() else { return vec![] };
    let between = |column: usize| {
        let place = column as f64 * (finite.len() - 1) as f64 / (columns - 1) as f64;
        let (before, share) = (finite[place as usize], place.fract());
        before + share * (finite.get(place as usize + 1).unwrap_or(last) - before)
    };
    (0..columns).map(between).collect()
}

fn range(values: &[f64]) -> (f64, f64) {
    let (low, high) = values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(*v), h.max(*v)));
    if low <= high { (low, high) } else { (0.0, 0.0) }
}

/// Where a value lies between two, from 0 to 1; a curve without any height lies at the bottom.
fn fraction(value: f64, low: f64, high: f64) -> f64 {
    if high > low { (value - low) / (high - low) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_falling_line_falls_without_gaps() {
        let (rows, low, high) = braille(&[3.0, 2.0, 1.0, 0.0], 2, 1);
        assert_eq!((rows, low, high), (vec!["⠑⢄".to_owned()], 0.0, 3.0));
        let (rows, ..) = braille(&[1.0, 0.0], 1, 2);
        assert_eq!(rows, ["⢱", "⢸"]);
        let (rows, ..) = braille(&[0.0, 1.0], 1, 2);
        assert_eq!(rows, ["⢸", "⡸"]);
    }

    #[test]
    fn odd_data_is_drawn() {
        assert_eq!(braille(&[], 3, 1).0, ["⠀⠀⠀"]);
        assert_eq!(braille(&[5.0], 1, 1), (vec!["⣀".to_owned()], 5.0, 5.0));
        assert_eq!(blocks(&[], 5), "");
        assert_eq!(blocks(&[f64::NAN, 2.0, f64::INFINITY, 2.0], 5), "▁▁▁▁▁");
        assert_eq!(blocks(&[1.0], 0), "");
    }

    #[test]
    fn many_values_are_averaged_into_the_columns() {
        let rising: Vec<f64> = (0..8000).map(f64::from).collect();
        assert_eq!(blocks(&rising, 8), "▁▂▃▄▅▆▇█");
        assert_eq!(spread(&[1.0, 3.0, 5.0], 2), [1.0, 4.0]);
        assert_eq!(spread(&[1.0, 3.0], 5), [1.0, 1.5, 2.0, 2.5, 3.0]);
        assert_eq!(braille(&rising, 40, 6).0.len(), 6);
    }
}
