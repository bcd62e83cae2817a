//! Where ticks stand and what is written beside them: round numbers, no two labels touching.

use clap_audio::MelConfig;

use super::Cells;
use super::canvas::GLYPH;

/// A mark on an axis.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tick {
    /// Pixels from the left or from the bottom.
    pub(super) pixel: f64,
    pub(super) label: String,
}

/// Labels of a vertical axis are at least this far apart, in pixels.
const VERTICAL_GAP: f64 = 1.3 * GLYPH.height as f64;

/// Empty pixels between labels of a horizontal axis.
const HORIZONTAL_GAP: f64 = 4.0 * GLYPH.width as f64;

/// Steps of a time axis from a second on; below, powers of ten times 1, 2 and 5.
const STEPS_S: [f64; 16] =
    [1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0, 14_400.0, 36_000.0];

/// From this length on, labels are clock times.
const CLOCK_S: f64 = 180.0;

/// Ticks of a time axis, and its unit; clock times need none.
pub(super) fn time_ticks(first_s: f64, frame_s: f64, columns: Cells) -> (Vec<Tick>, &'static str) {
    let last_s = first_s + frame_s * (columns.count - 1) as f64;
    let style = TimeStyle::of(last_s, last_s - first_s);
    let width = columns.pixels() as f64;
    let candidates = small_steps().chain(STEPS_S);
    let fits = |step: &f64| {
        let between = columns.pixel(step / frame_s);
        let widest = style.label(last_s, *step).len().max(style.label(first_s, *step).len());
        // Few enough to be read at a glance.
        between >= widest as f64 * f64::from(GLYPH.width) + HORIZONTAL_GAP && between >= width / 12.0
    };
    let step = candidates.clone().find(fits).unwrap_or(STEPS_S[STEPS_S.len() - 1]);
    // From edge to edge of the frames, but not before the sound; a thousandth of a step is left to rounding.
    let (left_s, right_s) = ((first_s - frame_s / 2.0).max(0.0), last_s + frame_s / 2.0);
    let (from, to) = ((left_s / step - 1e-3).ceil() as i64, (right_s / step + 1e-3).floor() as i64);
    let ticks = (from..=to).map(|index| {
        let seconds = index as f64 * step;
        // A frame is drawn around its centre.
        Tick { pixel: columns.pixel((seconds - first_s) / frame_s + 0.5), label: style.label(seconds, step) }
    });
    (ticks.collect(), style.unit())
}

/// 0.1 ms to 0.5 s.
fn small_steps() -> impl Iterator<Item = f64> + Clone {
    (-4..0).flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(power)))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TimeStyle {
    Seconds,
    Minutes,
    Hours,
}

impl TimeStyle {
    fn of(last_s: f64, length_s: f64) -> Self {
        match last_s {
            _ if length_s < CLOCK_S && last_s < 1000.0 => Self::Seconds,
            s if s < 3600.0 => Self::Minutes,
            _ => Self::Hours,
        }
    }

    fn unit(self) -> &'static str {
        match self {
            Self::Seconds => "s",
            Self::Minutes | Self::Hours => "",
        }
    }

    fn label(self, seconds: f64, step: f64) -> String {
        let whole = seconds.round() as i64;
        match self {
            Self::Seconds => {
                let decimals = (-step.log10()).ceil().max(0.0) as usize;
                format!("{seconds:.decimals$}")
            }
            Self::Minutes => format!("{}:{:02}", whole / 60, whole % 60),
            Self::Hours => format!("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60),
        }
    }
}

/// Ticks at round frequencies, each at its place on the mel scale. Bin i reaches from half a step below to half a step above
/// its filter's centre, `low + step * (i + 1)`.
pub(super) fn frequency_ticks(mel: &MelConfig, rows: Cells) -> Vec<Tick> {
    let (low, high) = (mel.scale.mel(mel.f_min), mel.scale.mel(mel.f_max));
    let step = (high - low) / (mel.n_mels + 1) as f64;
    let pixel = |hertz: f64| rows.pixel((mel.scale.mel(hertz) - low) / step - 0.5);
    let height = rows.pixels() as f64;
    // The roundest numbers are placed first, the others where they leave room.
    let mut ticks: Vec<Tick> = Vec::new();
    for digits in [&[1.0][..], &[2.0, 5.0], &[3.0], &[1.5, 4.0, 6.0, 7.0, 8.0]] {
        for power in 0..6 {
            for digit in digits {
                let hertz = digit * 10f64.powi(power);
                let pixel = pixel(hertz);
                let free = ticks.iter().all(|tick| (tick.pixel - pixel).abs() >= VERTICAL_GAP);
                if free && (0.0..=height).contains(&pixel) {
                    ticks.push(Tick { pixel, label: format!("{hertz:.0}") });
                }
            }
        }
    }
    ticks.sort_by(|a, b| a.pixel.total_cmp(&b.pixel));
    ticks
}

/// Ticks of a colour bar of `height` pixels from `low` to `high`, both multiples of ten.
pub(super) fn decibel_ticks(low: f32, high: f32, height: u32) -> Vec<Tick> {
    let per_db = f64::from(height) / f64::from(high - low);
    // Nine labels at most: they are read at a glance, and leave the gap in any bar of 230 pixels or more.
    let fits = |step: &f64| f64::from(high - low) / step <= 8.0 && step * per_db >= VERTICAL_GAP;
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().find(fits).unwrap_or(20.0);
    let (from, to) = ((f64::from(low) / step).ceil() as i64, (f64::from(high) / step).floor() as i64);
    let ticks = (from..=to).map(|index| {
        let value = index as f64 * step;
        Tick { pixel: (value - f64::from(low)) * per_db, label: format!("{value:.0}") }
    });
    ticks.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap_audio::{FeatureConfig, Truncation};

    fn labels(ticks: &[Tick]) -> Vec<&str> {
        ticks.iter().map(|tick| tick.label.as_str()).collect()
    }

    fn check_times(frames: usize, frame_s: f64, expected: &[&str], unit: &str) {
        let columns = Cells::fit(frames, 1000, 1350);
        let (ticks, found) = time_ticks(0.0, frame_s, columns);
        assert_eq!((labels(&ticks).as_slice(), found), (expected, unit));
        for pair in ticks.windows(2) {
            let room = (pair[0].label.len() + pair[1].label.len()) as f64 / 2.0 * f64::from(GLYPH.width);
            assert!(pair[1].pixel - pair[0].pixel > room, "{pair:?}");
        }
        assert!(ticks.iter().all(|tick| (0.0..=columns.pixels() as f64).contains(&tick.pixel)));
    }

    #[test]
    fn times_are_round_and_within_the_axis() {
        check_times(1, 0.01, &["0.000", "0.001", "0.002", "0.003", "0.004", "0.005"], "s");
        check_times(
            11,
            0.01,
            &["0.00", "0.01", "0.02", "0.03", "0.04", "0.05", "0.06", "0.07", "0.08", "0.09", "0.10"],
            "s",
        );
        check_times(401, 0.01, &["0.0", "0.5", "1.0", "1.5", "2.0", "2.5", "3.0", "3.5", "4.0"], "s");
        check_times(1001, 0.01, &["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10"], "s");
        check_times(6001, 0.01, &["0", "10", "20", "30", "40", "50", "60"], "s");
        check_times(
            60_001,
            0.01,
            &["0:00", "1:00", "2:00", "3:00", "4:00", "5:00", "6:00", "7:00", "8:00", "9:00", "10:00"],
            "",
        );
        check_times(
            30_000_000,
            0.001,
            &["0:00:00", "1:00:00", "2:00:00", "3:00:00", "4:00:00", "5:00:00", "6:00:00", "7:00:00", "8:00:00"],
            "",
        );
    }

    #[test]
    fn a_frame_is_drawn_around_its_centre() {
        let (ticks, _) = time_ticks(3.25, 0.01, Cells::fit(1001, 1000, 1350));
        assert_eq!(ticks[0], Tick { pixel: 75.5, label: "4".to_owned() });
    }

    fn check_frequencies(mel: &MelConfig, expected: &[&str]) {
        let rows = Cells::fit(mel.n_mels, 384, 768);
        let ticks = frequency_ticks(mel, rows);
        assert_eq!(labels(&ticks), expected);
        // Each tick lies in the row of the bin whose filter is the highest there.
        for tick in &ticks {
            let hertz: f64 = tick.label.parse().unwrap();
            let bank = clap_audio::MelBank::new(&MelConfig { n_fft: 1 << 16, ..mel.clone() }).unwrap().dense();
            let bin = (hertz * 65_536.0 / f64::from(mel.sample_rate)).round() as usize;
            let weights = &bank[bin * mel.n_mels..][..mel.n_mels];
            // Slaney's norm makes neighbours differ in height: leave half a row of doubt.
            let best = (0..mel.n_mels).max_by(|&a, &b| weights[a].total_cmp(&weights[b])).unwrap();
            let row = tick.pixel / rows.pixel(1.0);
            assert!((row - best as f64 - 0.5).abs() <= 1.0, "{tick:?}: row {row}, bin {best}");
        }
    }

    #[test]
    fn frequencies_stand_where_their_filters_are() {
        let slaney = FeatureConfig::published(Truncation::RandTrunc).mel();
        check_frequencies(&slaney, &["100", "500", "1000", "1500", "2000", "3000", "5000", "7000", "10000"]);
        let htk = FeatureConfig::published(Truncation::Fusion).mel();
        check_frequencies(&htk, &["100", "500", "1000", "1500", "2000", "3000", "5000", "7000", "10000"]);
        let narrow = FeatureConfig::named("PANN-14-fmax-8k-20s", Truncation::Fusion).unwrap().mel();
        check_frequencies(&narrow, &["100", "300", "500", "1000", "1500", "2000", "3000", "4000", "5000", "7000"]);
    }

    #[test]
    fn decibels_are_round() {
        assert_eq!(
            labels(&decibel_ticks(-50.0, 30.0, 384)),
            ["-50", "-40", "-30", "-20", "-10", "0", "10", "20", "30"]
        );
        assert_eq!(labels(&decibel_ticks(-100.0, -90.0, 192)), ["-100", "-98", "-96", "-94", "-92", "-90"]);
    }
}
