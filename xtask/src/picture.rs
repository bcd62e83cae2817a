//! Log-mel spectrograms as a picture: panels over one another, axes in seconds and Hz, a colour bar in dB.
//!
//! A cell of the spectrogram is a whole number of pixels wide and high, so that nothing is interpolated. Where there are
//! too many, a pixel stands for a whole number of cells and shows the loudest: a click of one frame in an hour stays visible, which the
//! mean would hide.

mod axis;
mod canvas;

use clap_audio::MelConfig;
use embedded_graphics::geometry::{OriginDimensions as _, Point, Size};
use embedded_graphics::primitives::Rectangle;
use embedded_graphics::text::{Alignment, Baseline};

use axis::{Tick, decibel_ticks, frequency_ticks, time_ticks};
use canvas::{Canvas, GLYPH, Ink};

/// One spectrogram.
pub(crate) struct Panel {
    /// Line above it; none if empty.
    pub(crate) title: String,
    /// Values in dB, row-major (frames, bins).
    pub(crate) values: Vec<f32>,
    /// Seconds at which the first frame is centred.
    pub(crate) first_s: f64,
    /// Seconds from frame to frame.
    pub(crate) frame_s: f64,
}

/// What is drawn.
pub(crate) struct Picture<'a> {
    /// First line.
    pub(crate) title: String,
    /// Second line, smaller in meaning.
    pub(crate) subtitle: String,
    /// At least one, all of the same scale.
    pub(crate) panels: &'a [Panel],
    /// What places frequencies.
    pub(crate) mel: &'a MelConfig,
}

/// Colours span at most this much, from the loudest value down; what is below has the darkest one.
const SPAN_DB: f32 = 80.0;

/// A spectrogram is about this wide, by whole pixels per frame, and never wider than [`MOST_COLUMNS`].
const USUAL_WIDTH: usize = 1000;

/// With the margins this makes 1,500 pixels.
const MOST_COLUMNS: usize = 1350;

/// Height of a spectrogram alone in its picture, and of one among others; [`MOST_ROWS`] bounds both.
const USUAL_HEIGHT: usize = 384;
const USUAL_HEIGHT_AMONG_OTHERS: usize = 192;
const MOST_ROWS: usize = 768;

/// Pixels around and between.
const MARGIN: i32 = 16;
const TICK: i32 = 8;
const GAP: i32 = 6;
const LINE: i32 = GLYPH.height as i32;

/// Room for `20000` and a tick to the left of a spectrogram.
const LEFT: i32 = MARGIN + 5 * GLYPH.width as i32 + GAP + TICK;

/// Distance, width and labels of the colour bar; the distance has room for half of a label such as `305.5` and its unit.
const BAR_GAP: i32 = 52;
const BAR_WIDTH: i32 = 24;
const RIGHT: i32 = BAR_GAP + BAR_WIDTH + TICK + GAP + 4 * GLYPH.width as i32 + MARGIN;

/// Draws and encodes as PNG; with the width and the height.
pub(crate) fn png(picture: &Picture<'_>) -> (Vec<u8>, u32, u32) {
    let canvas = draw(picture);
    let size = canvas.size();
    (canvas.png(), size.width, size.height)
}

/// A square of `side` x `side` pixels, of the colour map's shares row by row, as PNG.
pub(crate) fn pixels_png(side: usize, shares: &[f32]) -> Vec<u8> {
    let mut canvas = Canvas::new(Size::new(side as u32, side as u32));
    for (at, share) in shares.iter().enumerate() {
        canvas.dot(Point::new((at % side) as i32, (at / side) as i32), Ink::mapped(*share));
    }
    canvas.png()
}

fn draw(picture: &Picture<'_>) -> Canvas {
    let bins = picture.mel.n_mels;
    let usual_height = if picture.panels.len() > 1 { USUAL_HEIGHT_AMONG_OTHERS } else { USUAL_HEIGHT };
    let rows = Cells::fit(bins, usual_height, MOST_ROWS);
    let columns = |panel: &Panel| Cells::fit(panel.values.len() / bins, USUAL_WIDTH, MOST_COLUMNS);
    let width = picture.panels.iter().map(|panel| columns(panel).pixels()).max().unwrap_or(0) as i32;
    let height = rows.pixels() as i32;

    let top = MARGIN + 2 * LINE + 2 * GAP;
    // Title (or the unit alone), spectrogram, ticks and their labels.
    let head = LINE + GAP;
    let pitch = head + height + TICK + GAP + LINE + MARGIN;
    let count = picture.panels.len() as i32;
    let size = Size::new((LEFT + width + RIGHT) as u32, (top + pitch * count) as u32);
    let mut canvas = Canvas::new(size);

    let colours = Colours::of(picture.panels);
    let room = (size.width as i32 - LEFT - MARGIN) as usize / GLYPH.width as usize;
    let title = shorten(&picture.title, room);
    canvas.text(&title, Point::new(LEFT, MARGIN), Ink::BLACK, Alignment::Left, Baseline::Top);
    let merged = picture.panels.iter().map(|panel| columns(panel).merged).max().unwrap_or(1);
    let merging = if merged > 1 { format!("; a column is the loudest of {merged}") } else { String::new() };
    let second = Point::new(LEFT, MARGIN + LINE + GAP);
    let subtitle = shorten(&format!("{}{merging}", picture.subtitle), room);
    canvas.text(&subtitle, second, Ink::GREY, Alignment::Left, Baseline::Top);

    for (index, panel) in picture.panels.iter().enumerate() {
        let corner = Point::new(LEFT, top + pitch * index as i32 + head);
        let columns = columns(panel);
        let area = Rectangle::new(corner, Size::new(columns.pixels() as u32, height as u32));
        spectrogram(&mut canvas, area, panel, columns, rows, colours);
        frame(&mut canvas, area);
        let title = Point::new(corner.x, corner.y - GAP);
        canvas.text(&panel.title, title, Ink::BLACK, Alignment::Left, Baseline::Bottom);
        let (ticks, unit) = time_ticks(panel.first_s, panel.frame_s, columns);
        below(&mut canvas, area, &ticks, unit);
        beside(&mut canvas, area, &frequency_ticks(picture.mel, rows), "Hz", Side::Left);
    }
    let bar = Rectangle::new(
        Point::new(LEFT + width + BAR_GAP, top + head),
        Size::new(BAR_WIDTH as u32, (pitch * (count - 1) + height) as u32),
    );
    colour_bar(&mut canvas, bar);
    let ticks = decibel_ticks(colours.low, colours.high, bar.size.height);
    beside(&mut canvas, bar, &ticks, "dB", Side::Right);
    canvas
}

/// How the cells of one direction become pixels: each several pixels wide, or several cells in each pixel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cells {
    count: usize,
    /// Pixels per cell, or 1.
    magnified: usize,
    /// Cells per pixel, or 1.
    merged: usize,
}

impl Cells {
    fn fit(count: usize, usual: usize, most: usize) -> Self {
        if count > most {
            return Self { count, magnified: 1, merged: count.div_ceil(most) };
        }
        // To the nearest whole magnification: between 2/3 and 4/3 of the usual.
        let magnified = ((usual as f64 / count.max(1) as f64).round() as usize).max(1);
        Self { count, magnified, merged: 1 }
    }

    fn pixels(self) -> usize {
        self.count.div_ceil(self.merged) * self.magnified
    }

    /// Cells of a pixel.
    fn at(self, pixel: usize) -> std::ops::Range<usize> {
        let first = pixel / self.magnified * self.merged;
        first..(first + self.merged).min(self.count)
    }

    /// The pixel, in fractions, at which a place in cells lies; cell 0 reaches from 0 to 1.
    fn pixel(self, cell: f64) -> f64 {
        cell * self.magnified as f64 / self.merged as f64
    }
}

/// Which decibels are dark and which bright.
#[derive(Clone, Copy)]
struct Colours {
    low: f32,
    high: f32,
}

impl Colours {
    /// From the loudest value of all panels, up to a ten, as far down as there are values, [`SPAN_DB`] at most.
    fn of(panels: &[Panel]) -> Self {
        let values = || panels.iter().flat_map(|panel| panel.values.iter().copied());
        let tens = |value: f32, round: fn(f32) -> f32| round(value / 10.0) * 10.0;
        let low = tens(values().fold(f32::MAX, f32::min), f32::floor);
        // Ten at least, for sounds without any difference.
        let high = tens(values().fold(f32::MIN, f32::max), f32::ceil).max(low + 10.0);
        Self { low: low.max(high - SPAN_DB), high }
    }

    fn ink(self, value: f32) -> Ink {
        Ink::mapped((value - self.low) / (self.high - self.low))
    }
}

fn spectrogram(canvas: &mut Canvas, area: Rectangle, panel: &Panel, columns: Cells, rows: Cells, colours: Colours) {
    let bins = rows.count;
    for x in 0..columns.pixels() {
        for y in 0..rows.pixels() {
            let frames = columns.at(x).flat_map(|frame| rows.at(y).map(move |bin| frame * bins + bin));
            let loudest = frames.map(|index| panel.values[index]).fold(f32::MIN, f32::max);
            // Low frequencies are at the bottom.
            let place = area.top_left + Point::new(x as i32, (rows.pixels() - 1 - y) as i32);
            canvas.dot(place, colours.ink(loudest));
        }
    }
}

/// Two pixels of black around an area.
fn frame(canvas: &mut Canvas, area: Rectangle) {
    canvas.outline(area.offset(2), 2, Ink::BLACK);
}

/// Ticks below a spectrogram, their labels, and the unit behind the axis.
fn below(canvas: &mut Canvas, area: Rectangle, ticks: &[Tick], unit: &str) {
    let bottom = area.top_left.y + area.size.height as i32 + 2;
    let label = bottom + TICK + GAP;
    let mut end = 0;
    for tick in ticks {
        let x = area.top_left.x + tick.pixel.round() as i32;
        canvas.fill(Rectangle::new(Point::new(x - 1, bottom), Size::new(2, TICK as u32)), Ink::BLACK);
        canvas.text(&tick.label, Point::new(x, label), Ink::BLACK, Alignment::Center, Baseline::Top);
        end = x + (tick.label.len() as i32 * GLYPH.width as i32) / 2;
    }
    let right = area.top_left.x + area.size.width as i32;
    canvas.text(unit, Point::new(right.max(end) + GAP, label), Ink::GREY, Alignment::Left, Baseline::Top);
}

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Left,
    Right,
}

/// Ticks beside an area, counted from its bottom, their labels, and the unit above them.
fn beside(canvas: &mut Canvas, area: Rectangle, ticks: &[Tick], unit: &str, side: Side) {
    let (start, label, alignment) = match side {
        Side::Left => (area.top_left.x - 2 - TICK, area.top_left.x - 2 - TICK - GAP, Alignment::Right),
        Side::Right => {
            let edge = area.top_left.x + area.size.width as i32 + 2;
            (edge, edge + TICK + GAP, Alignment::Left)
        }
    };
    let bottom = area.top_left.y + area.size.height as i32;
    for tick in ticks {
        let y = bottom - tick.pixel.round() as i32;
        canvas.fill(Rectangle::new(Point::new(start, y - 1), Size::new(TICK as u32, 2)), Ink::BLACK);
        canvas.text(&tick.label, Point::new(label, y), Ink::BLACK, alignment, Baseline::Middle);
    }
    let above = Point::new(label, area.top_left.y - GAP);
    canvas.text(unit, above, Ink::GREY, alignment, Baseline::Bottom);
}

fn colour_bar(canvas: &mut Canvas, area: Rectangle) {
    let height = area.size.height;
    for y in 0..height {
        let ink = Ink::mapped((height - 1 - y) as f32 / (height - 1).max(1) as f32);
        let row = Rectangle::new(area.top_left + Point::new(0, y as i32), Size::new(area.size.width, 1));
        canvas.fill(row, ink);
    }
    frame(canvas, area);
}

/// At most `room` characters, the end cut off if need be.
fn shorten(text: &str, room: usize) -> String {
    if text.chars().count() <= room {
        return text.to_owned();
    }
    let kept: String = text.chars().take(room.saturating_sub(3)).collect();
    kept + "..."
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap_audio::{FeatureConfig, Truncation};

    /// A picture of `frames` frames, silent but for one bin of one frame, as width and inks.
    fn drawn(frames: usize, loud: (usize, usize), count: usize) -> Canvas {
        let mel = FeatureConfig::published(Truncation::RandTrunc).mel();
        let mut values = vec![-100.0; frames * 64];
        values[loud.0 * 64 + loud.1] = 10.0;
        let panel = || Panel { title: "panel".to_owned(), values: values.clone(), first_s: 0.0, frame_s: 0.01 };
        let panels: Vec<Panel> = (0..count).map(|_| panel()).collect();
        let picture = Picture { title: "title".to_owned(), subtitle: String::new(), panels: &panels, mel: &mel };
        draw(&picture)
    }

    fn check_width(frames: usize, columns: usize) {
        assert_eq!(Cells::fit(frames, USUAL_WIDTH, MOST_COLUMNS).pixels(), columns, "{frames} frames");
        let canvas = drawn(frames, (0, 0), 1);
        assert_eq!(canvas.size().width as i32, LEFT + columns as i32 + RIGHT);
    }

    #[test]
    fn any_number_of_frames_makes_a_picture_of_bounded_width() {
        check_width(1, 1000);
        check_width(11, 1001);
        check_width(401, 802);
        check_width(667, 667);
        check_width(666, 1332);
        check_width(1001, 1001);
        check_width(1350, 1350);
        check_width(1351, 676);
        check_width(1_080_001, 1349);
        const { assert!(LEFT + MOST_COLUMNS as i32 + RIGHT <= 1600) };
    }

    #[test]
    fn cells_and_pixels_cover_each_other() {
        for count in [1, 2, 63, 64, 400, 768, 769, 1000, 5000] {
            let cells = Cells::fit(count, 384, 768);
            let mut covered = vec![0; count];
            (0..cells.pixels()).flat_map(|pixel| cells.at(pixel)).for_each(|cell| covered[cell] += 1);
            assert!(covered.iter().all(|&times| times == cells.magnified), "{count}");
            assert!(cells.pixels() <= 768, "{count}");
        }
    }

    /// A click of one frame in three hours is seen where it is, low frequencies at the bottom.
    #[test]
    fn a_click_stays_visible() {
        for (frames, bin) in [(1001, 0), (1_080_001, 63)] {
            let frame = frames / 2;
            let canvas = drawn(frames, (frame, bin), 1);
            let columns = Cells::fit(frames, USUAL_WIDTH, MOST_COLUMNS);
            let place = Point::new(
                LEFT + columns.pixel(frame as f64) as i32,
                MARGIN + 3 * LINE + 3 * GAP + 384 - 6 * (bin as i32 + 1),
            );
            let brightest = Ink::mapped(1.0);
            for y in 0..6 {
                assert_eq!(canvas.at(place + Point::new(0, y)), brightest, "{frames} frames");
            }
            assert_eq!(canvas.at(place + Point::new(-1, 0)), Ink::mapped(0.0), "{frames} frames");
            assert_eq!(canvas.at(place + Point::new(1, 0)), Ink::mapped(0.0), "{frames} frames");
        }
    }

    #[test]
    fn panels_stand_over_one_another() {
        let (one, four) = (drawn(1001, (0, 0), 1).size(), drawn(1001, (0, 0), 4).size());
        assert_eq!(one.width, four.width);
        assert!(four.height > 4 * USUAL_HEIGHT_AMONG_OTHERS as u32 && four.height > 2 * one.height);
    }

    #[test]
    fn colours_span_eighty_decibels_at_most() {
        let check = |values: &[f32], low: f32, high: f32| {
            let panel = Panel { title: String::new(), values: values.to_vec(), first_s: 0.0, frame_s: 0.01 };
            let colours = Colours::of(&[panel]);
            assert_eq!((colours.low, colours.high), (low, high), "{values:?}");
        };
        check(&[-100.0, 23.4], -50.0, 30.0);
        check(&[-12.0, 23.4], -20.0, 30.0);
        check(&[-100.0], -100.0, -90.0);
        check(&[20.0, 20.0], 20.0, 30.0);
    }

    #[test]
    fn a_long_title_is_cut() {
        assert_eq!(shorten("déjà vu.wav", 11), "déjà vu.wav");
        assert_eq!(shorten("déjà vu.wav", 10), "déjà vu...");
        assert_eq!(shorten("abc", 1), "...");
    }
}
