//! A line chart as SVG: axes, ticks, grid, legend.
//!
//! Text only, no fonts and no dependencies. Colours of text and grid follow the viewer's light or dark scheme
//! (`prefers-color-scheme`, which GitHub and browsers honour inside an `<img>`); line colours read on both.

use std::fmt::Write as _;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 380.0;
const LEFT: f64 = 68.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 62.0;
const BOTTOM: f64 = 48.0;
/// No screen shows more points of a line than this; longer series are averaged.
const MAX_POINTS: usize = 600;
/// Base line of the legend's first line.
const LEGEND_Y: f64 = 47.0;
const LEVEL_COLOUR: &str = "#8b8f94";
const COLOURS: [&str; 6] = ["#3b82d6", "#e0752d", "#2f9e63", "#b0539c", "#c2483f", "#7d7f36"];

/// One line of a [`Chart`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// Points by increasing x; those that are not finite are left out.
    pub points: Vec<(f64, f64)>,
    /// How it is drawn.
    pub stroke: Stroke,
}

/// How a line is drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stroke {
    /// In a colour of its own.
    #[default]
    Line,
    /// Thin and pale, in the colour of the line that follows: what that one smooths.
    Faint,
    /// Dashed and grey: a level to compare with, such as chance.
    Level,
}

impl Series {
    /// A line through `points`.
    #[must_use]
    pub fn new(name: impl Into<String>, points: Vec<(f64, f64)>) -> Self {
        Self { name: name.into(), points, stroke: Stroke::Line }
    }

    /// What the next line smooths.
    #[must_use]
    pub fn faint(name: impl Into<String>, points: Vec<(f64, f64)>) -> Self {
        Self { name: name.into(), points, stroke: Stroke::Faint }
    }

    /// A dashed level from the first to the last x.
    #[must_use]
    pub fn level(name: impl Into<String>, y: f64, x: (f64, f64)) -> Self {
        Self { name: name.into(), points: vec![(x.0, y), (x.1, y)], stroke: Stroke::Level }
    }
}

/// A line chart.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chart {
    /// Heading.
    pub title: String,
    /// What x counts.
    pub x_label: String,
    /// Makes zero part of the y axis.
    pub from_zero: bool,
    /// The lines, drawn in order.
    pub series: Vec<Series>,
}

impl Chart {
    /// The chart as a complete SVG document; without a finite point it says so.
    #[must_use]
    pub fn to_svg(&self) -> String {
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" \
             height=\"{HEIGHT}\" role=\"img\" aria-label=\"{}\">\n{STYLE}",
            escape(&self.title)
        );
        self.draw(&mut svg).expect("writing to a String cannot fail");
        svg.push_str("</svg>\n");
        svg
    }

    fn draw(&self, svg: &mut String) -> std::fmt::Result {
        writeln!(svg, "<text class=\"title\" x=\"{LEFT}\" y=\"24\">{}</text>", escape(&self.title))?;
        let legend = self.legend();
        let top = TOP + legend.last().map_or(0.0, |(_, y)| *y - LEGEND_Y);
        let lines: Vec<Vec<(f64, f64)>> = self.series.iter().map(|s| thin(&s.points)).collect();
        let Some(frame) = Frame::around(&lines, top, self.from_zero) else {
            return writeln!(svg, "<text x=\"{LEFT}\" y=\"{}\">no data</text>", HEIGHT / 2.0);
        };
        self.draw_axes(svg, &frame)?;
        let mut colours = COLOURS.iter().cycle();
        for ((series, points), (x, y)) in self.series.iter().zip(&lines).zip(legend) {
            let (colour, width, look) = match series.stroke {
                Stroke::Line => (colours.next(), 2.0, ""),
                Stroke::Faint => (colours.clone().next(), 1.2, " stroke-opacity=\".55\""),
                Stroke::Level => (Some(&LEVEL_COLOUR), 2.0, " stroke-dasharray=\"5 4\""),
            };
            let look = format!("stroke=\"{}\" stroke-width=\"{width}\"{look}", colour.expect("a cycle does not end"));
            draw_line(svg, points, &frame, &look)?;
            // The title says what a line by itself is.
            if self.series.len() == 1 {
                continue;
            }
            writeln!(
                svg,
                "<line x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" {look}/>\
                 <text x=\"{:.1}\" y=\"{y:.1}\">{}</text>",
                y - 4.0,
                x + 18.0,
                y - 4.0,
                x + 24.0,
                escape(&series.name)
            )?;
        }
        Ok(())
    }

    /// Where each entry of the legend stands; a full line is followed by another.
    fn legend(&self) -> Vec<(f64, f64)> {
        let (mut x, mut y) = (LEFT, LEGEND_Y);
        let place = |series: &Series| {
            // No font metrics here: 8 px a letter is the wide side of the usual sans-serif faces at 13 px.
            let width = 44.0 + 8.0 * series.name.chars().count() as f64;
            if x > LEFT && x + width > WIDTH {
                (x, y) = (LEFT, y + 19.0);
            }
            x += width;
            (x - width, y)
        };
        self.series.iter().map(place).collect()
    }

    fn draw_axes(&self, svg: &mut String, frame: &Frame) -> std::fmt::Result {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for tick in frame.y.ticks() {
            let y = frame.y_of(tick);
            writeln!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\"/>\
                 <text class=\"tick\" text-anchor=\"end\" x=\"{}\" y=\"{:.1}\">{}</text>",
                LEFT - 8.0,
                y + 4.0,
                frame.y.label(tick)
            )?;
        }
        for tick in frame.x.ticks() {
            let x = frame.x_of(tick);
            writeln!(
                svg,
                "<line class=\"axis\" x1=\"{x:.1}\" y1=\"{bottom}\" x2=\"{x:.1}\" y2=\"{}\"/>\
                 <text class=\"tick\" text-anchor=\"middle\" x=\"{x:.1}\" y=\"{}\">{}</text>",
                bottom + 5.0,
                bottom + 19.0,
                frame.x.label(tick)
            )?;
        }
        writeln!(
            svg,
            "<path class=\"axis\" d=\"M{LEFT} {}V{bottom}H{right}\"/>\
             <text text-anchor=\"end\" x=\"{right}\" y=\"{}\">{}</text>",
            frame.top,
            HEIGHT - 10.0,
            escape(&self.x_label)
        )
    }
}

const STYLE: &str = "<style>\
text{font:13px system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;fill:#3c4248}\
.title{font-size:16px;font-weight:600;fill:#1f2328}.tick{font-size:12px}\
.grid{stroke:#8b949e;stroke-opacity:.25}.axis{stroke:#6e7781;fill:none}\
@media(prefers-color-scheme:dark){text{fill:#b8c0c8}.title{fill:#e6edf3}.axis{stroke:#8b949e}}\
</style>\n";

/// The points joined by a line that looks like `look`, attributes of SVG.
fn draw_line(svg: &mut String, points: &[(f64, f64)], frame: &Frame, look: &str) -> std::fmt::Result {
    if let [(x, y)] = points {
        let (x, y) = (frame.x_of(*x), frame.y_of(*y));
        return writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2\" fill=\"none\" {look}/>");
    }
    write!(svg, "<path fill=\"none\" stroke-linejoin=\"round\" {look} d=\"")?;
    for (i, (x, y)) in points.iter().enumerate() {
        write!(svg, "{}{:.1} {:.1}", if i == 0 { 'M' } else { 'L' }, frame.x_of(*x), frame.y_of(*y))?;
    }
    writeln!(svg, "\"/>")
}

/// At most [`MAX_POINTS`] finite points: means of consecutive ones.
fn thin(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let finite: Vec<(f64, f64)> = points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
    if finite.len() <= MAX_POINTS {
        return finite;
    }
    let group = finite.len().div_ceil(MAX_POINTS);
    let mean = |points: &[(f64, f64)]| {
        let n = points.len() as f64;
        (points.iter().map(|p| p.0).sum::<f64>() / n, points.iter().map(|p| p.1).sum::<f64>() / n)
    };
    finite.chunks(group).map(mean).collect()
}

/// The data's range on both axes.
struct Frame {
    top: f64,
    x: Axis,
    y: Axis,
}

impl Frame {
    fn around(lines: &[Vec<(f64, f64)>], top: f64, from_zero: bool) -> Option<Self> {
        let points = || lines.iter().flatten();
        points().next()?;
        let x = Axis::exact(points().map(|p| p.0));
        let zero = from_zero.then_some(0.0);
        Some(Self { top, x, y: Axis::rounded(points().map(|p| p.1).chain(zero)) })
    }

    fn x_of(&self, x: f64) -> f64 {
        LEFT + self.x.fraction(x) * (WIDTH - LEFT - RIGHT)
    }

    fn y_of(&self, y: f64) -> f64 {
        HEIGHT - BOTTOM - self.y.fraction(y) * (HEIGHT - self.top - BOTTOM)
    }
}

/// A range with ticks at multiples of 1, 2 or 5 times a power of ten.
struct Axis {
    low: f64,
    high: f64,
    step: f64,
}

impl Axis {
    /// Ends where the values do.
    fn exact(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        let high = if high > low { high } else { low + 1.0 };
        Self { low, high, step: nice_step((high - low) / 7.0) }
    }

    /// Ends at the ticks around the values.
    fn rounded(values: impl Iterator<Item = f64>) -> Self {
        let exact = Self::exact(values);
        let step = nice_step((exact.high - exact.low) / 5.0);
        Self { low: (exact.low / step).floor() * step, high: (exact.high / step).ceil() * step, step }
    }

    fn fraction(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        let (first, last) = ((self.low / self.step).ceil(), (self.high / self.step + 1e-9).floor());
        let step = self.step;
        (0..=(last - first).max(0.0) as usize).map(move |i| (first + i as f64) * step)
    }

    /// As many decimals as the step has; very small and very large ones by exponent.
    fn label(&self, tick: f64) -> String {
        if tick == 0.0 || tick.abs() < self.step * 1e-6 {
            return "0".to_owned();
        }
        if self.step < 1e-4 || self.step >= 1e6 {
            return format!("{tick:.1e}");
        }
        let decimals = (-self.step.log10()).ceil().max(0.0) as usize;
        format!("{tick:.decimals$}")
    }
}

/// The smallest of 1, 2, 5 · 10ⁿ that is at least `raw`.
fn nice_step(raw: f64) -> f64 {
    let raw = raw.max(1e-12);
    let power = 10f64.powf(raw.log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|s| *s >= raw * (1.0 - 1e-9)).unwrap_or(10.0 * power)
}

fn escape(text: &str) -> String {
    // Control characters are not XML at all.
    text.chars().filter(|c| !c.is_control()).fold(String::with_capacity(text.len()), |mut out, c| {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            _ => out.push(c),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks nesting, attribute quoting and entities of the XML subset that a chart uses.
    fn assert_well_formed(xml: &str) {
        let mut open = Vec::new();
        let mut rest = xml;
        while let Some(at) = rest.find('<') {
            assert_text(&rest[..at]);
            let end = at + rest[at..].find('>').expect("a tag ends");
            let tag = &rest[at + 1..end];
            assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
            assert!(!tag.contains('<'), "{tag}");
            assert_text(tag);
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name), "closing {name}");
            } else if !tag.ends_with('/') {
                open.push(tag.split_whitespace().next().unwrap());
            }
            rest = &rest[end + 1..];
        }
        assert!(open.is_empty() && rest.trim().is_empty(), "{open:?} {rest:?}");
    }

    fn assert_text(text: &str) {
        for (i, _) in text.match_indices('&') {
            assert!(["&amp;", "&lt;", "&gt;", "&quot;"].iter().any(|e| text[i..].starts_with(e)), "{text}");
        }
        assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
    }

    fn chart(series: Vec<Series>) -> String {
        let svg =
            Chart { title: "a < b & \"c\"".to_owned(), x_label: "step".to_owned(), from_zero: false, series }.to_svg();
        assert_well_formed(&svg);
        svg
    }

    #[test]
    fn every_shape_of_data_is_valid_xml() {
        chart(vec![]);
        chart(vec![Series::new("empty", vec![])]);
        assert_eq!(chart(vec![Series::new("one", vec![(3.0, 2.0)])]).matches("<circle").count(), 1);
        chart(vec![Series::new("flat", vec![(0.0, 1.0), (1.0, 1.0)])]);
        chart(vec![Series::new("gaps", vec![(0.0, f64::NAN), (1.0, f64::INFINITY), (2.0, 1.0), (3.0, 4.0)])]);
        let long = (0..5000).map(|i| (f64::from(i), (f64::from(i) / 100.0).sin() * 1e-5)).collect();
        let svg = chart(vec![Series::new("<long>", long), Series::level("chance", 0.0, (0.0, 5000.0))]);
        assert!(svg.contains("&lt;long&gt;") && svg.contains("stroke-dasharray"));
        assert!(svg.len() < 40_000, "{}", svg.len());
    }

    #[test]
    fn ticks_are_round_and_cover_the_values() {
        let axis = Axis::rounded([0.013, 0.287].into_iter());
        assert_eq!((axis.low, axis.step), (0.0, 0.1));
        assert!((axis.high - 0.3).abs() < 1e-12);
        let labels: Vec<String> = axis.ticks().map(|t| axis.label(t)).collect();
        assert_eq!(labels, ["0", "0.1", "0.2", "0.3"]);
        let steps = Axis::exact([0.0, 532.0].into_iter());
        assert_eq!(steps.ticks().map(|t| steps.label(t)).collect::<Vec<_>>(), ["0", "100", "200", "300", "400", "500"]);
    }

    #[test]
    fn a_long_legend_continues_below() {
        let series = (0..5).map(|i| Series::new(format!("a name of some length {i}"), vec![(0.0, 0.0), (1.0, 1.0)]));
        let chart = Chart { series: series.collect(), ..Chart::default() };
        let places = chart.legend();
        assert!(places.iter().all(|(x, _)| x + 44.0 + 8.0 * 23.0 <= WIDTH), "{places:?}");
        assert!(places.windows(2).all(|pair| pair[0] < pair[1] || pair[0].1 < pair[1].1), "{places:?}");
        assert!(places[4].1 > LEGEND_Y);
    }

    #[test]
    fn thinning_keeps_the_mean() {
        let points: Vec<(f64, f64)> = (0..1200).map(|i| (f64::from(i), f64::from(i % 2))).collect();
        let thinned = thin(&points);
        assert!(thinned.len() <= MAX_POINTS && thinned.iter().all(|p| p.1 == 0.5));
    }
}
