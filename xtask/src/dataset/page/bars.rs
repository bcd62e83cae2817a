//! Bar charts as SVG: histograms, and bars with names.
//!
//! Text only, no fonts and no script. Colours come from the page's style sheet, which follows the viewer's light or dark scheme;
//! each bar says its numbers when pointed at.

use std::fmt::Write as _;

use clap_data::Bin;
use html_escape::encode_text;

const WIDTH: f64 = 520.0;
const HEIGHT: f64 = 210.0;
const LEFT: f64 = 44.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 42.0;

/// Height of a named bar with its gap.
const ROW: f64 = 20.0;

/// Characters of a name; longer ones are cut.
const NAME: usize = 26;

/// A histogram over values whose unit is `unit`.
pub(super) fn histogram(bins: &[Bin], unit: &str) -> String {
    let mut svg = open(HEIGHT);
    let most = bins.iter().map(|bin| bin.count).max().unwrap_or(0);
    let (width, height) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
    let step = grid_step(most);
    let top = (most.div_ceil(step) * step).max(1);
    let y = |count: usize| TOP + height * (1.0 - count as f64 / top as f64);
    for count in (0..=top).step_by(step) {
        line(&mut svg, "grid", (LEFT, y(count)), (WIDTH - RIGHT, y(count)));
        text(&mut svg, "tick end", (LEFT - 8.0, y(count) + 4.0), &count.to_string());
    }
    let pitch = width / bins.len().max(1) as f64;
    for (place, bin) in bins.iter().enumerate() {
        let x = LEFT + pitch * place as f64;
        let (gap, tall) = ((pitch * 0.12).min(3.0), y(0) - y(bin.count));
        // Writing to a String cannot fail.
        let _ = writeln!(
            svg,
            "<rect class=\"bar\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{tall:.1}\" rx=\"1.5\"><title>{} to {} {unit}: {}</title></rect>",
            x + gap / 2.0,
            y(bin.count),
            pitch - gap,
            number(bin.from),
            number(bin.to),
            bin.count,
        );
    }
    line(&mut svg, "axis", (LEFT, y(0)), (WIDTH - RIGHT, y(0)));
    // About six labels; the edge of a bin is where its bar begins.
    let every = bins.len().div_ceil(6).max(1);
    for (place, bin) in bins.iter().enumerate().step_by(every) {
        text(&mut svg, "tick middle", (LEFT + pitch * place as f64, HEIGHT - BOTTOM + 16.0), &number(bin.from));
    }
    text(&mut svg, "unit end", (WIDTH - RIGHT, HEIGHT - 8.0), unit);
    svg + "</svg>\n"
}

/// Bars beside their names, in the order given.
pub(super) fn named(bars: &[(String, usize)]) -> String {
    const NAMES: f64 = 190.0;
    const NUMBERS: f64 = 50.0;
    let height = ROW * bars.len() as f64 + 4.0;
    let mut svg = open(height);
    let most = bars.iter().map(|(_, count)| *count).max().unwrap_or(0).max(1);
    for (place, (name, count)) in bars.iter().enumerate() {
        let y = ROW * place as f64 + 2.0;
        let long = (WIDTH - NAMES - NUMBERS) * *count as f64 / most as f64;
        text(&mut svg, "name end", (NAMES - 8.0, y + 14.0), &shorten(name));
        let _ = writeln!(
            svg,
            "<rect class=\"bar\" x=\"{NAMES}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"1.5\"><title>{}: {count}</title></rect>",
            y + 2.0,
            long.max(1.0),
            ROW - 5.0,
            encode_text(name),
        );
        text(&mut svg, "tick", (NAMES + long + 7.0, y + 14.0), &count.to_string());
    }
    svg + "</svg>\n"
}

fn open(height: f64) -> String {
    format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n")
}

fn line(svg: &mut String, class: &str, from: (f64, f64), to: (f64, f64)) {
    let _ = writeln!(
        svg,
        "<line class=\"{class}\" x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\"/>",
        from.0, from.1, to.0, to.1
    );
}

fn text(svg: &mut String, class: &str, at: (f64, f64), text: &str) {
    let _ = writeln!(svg, "<text class=\"{class}\" x=\"{:.1}\" y=\"{:.1}\">{}</text>", at.0, at.1, encode_text(text));
}

/// A round step for about four lines of the grid.
fn grid_step(most: usize) -> usize {
    let wanted = most.div_ceil(4).max(1);
    let power = 10usize.pow(wanted.ilog10());
    [1, 2, 5, 10].into_iter().map(|factor| factor * power).find(|step| *step >= wanted).unwrap_or(wanted)
}

/// At most three digits behind the point, and no zeros at the end.
fn number(value: f64) -> String {
    let text = format!("{value:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

fn shorten(name: &str) -> String {
    if name.chars().count() <= NAME {
        return name.to_owned();
    }
    name.chars().take(NAME - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_high_as_their_counts() {
        let bin = |from: f64, count| Bin { from, to: from + 0.5, count };
        let svg = histogram(&[bin(0.0, 10), bin(0.5, 5), bin(1.0, 0)], "s");
        let heights: Vec<f64> = svg
            .lines()
            .filter(|line| line.contains("class=\"bar\""))
            .map(|line| line.split("height=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap())
            .collect();
        assert_eq!(heights.len(), 3);
        assert!((heights[0] - 2.0 * heights[1]).abs() < 0.2 && heights[2] == 0.0, "{heights:?}");
        assert!(svg.contains("0.5 to 1 s: 5"), "{svg}");
        assert!(histogram(&[], "s").ends_with("</svg>\n"));
    }

    #[test]
    fn names_are_text_and_no_markup() {
        let svg = named(&[("<b>&".to_owned(), 3), ("x".repeat(99), 1)]);
        assert!(svg.contains("&lt;b&gt;&amp;") && !svg.contains("<b>"), "{svg}");
        assert!(svg.contains(&format!("{}…</text>", "x".repeat(NAME - 1))), "{svg}");
    }

    #[test]
    fn numbers_and_steps_are_round() {
        assert_eq!([0.3, 2.0, -0.0, 1234.5678].map(number), ["0.3", "2", "0", "1234.568"]);
        assert_eq!([0, 3, 4, 9, 40, 45, 370].map(grid_step), [1, 1, 1, 5, 10, 20, 100]);
    }
}
