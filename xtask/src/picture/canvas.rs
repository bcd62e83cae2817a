//! Pixels of a palette: a few inks and a colour map, which PNG stores in a third of the space of RGB.

use std::convert::Infallible;

use embedded_graphics::Pixel;
use embedded_graphics::draw_target::DrawTarget;
use embedded_graphics::geometry::{OriginDimensions, Point, Size};
use embedded_graphics::mono_font::iso_8859_1::FONT_10X20;
use embedded_graphics::mono_font::{MonoFont, MonoTextStyle};
use embedded_graphics::pixelcolor::PixelColor;
use embedded_graphics::pixelcolor::raw::RawU8;
use embedded_graphics::prelude::{Drawable, Primitive};
use embedded_graphics::primitives::{PrimitiveStyle, PrimitiveStyleBuilder, Rectangle, StrokeAlignment};
use embedded_graphics::text::{Alignment, Baseline, Text, TextStyleBuilder};

/// The one font: western letters; others become question marks.
const FONT: &MonoFont<'_> = &FONT_10X20;

/// The size of a letter.
pub(super) const GLYPH: Size = FONT.character_size;

/// A colour of the palette.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ink(u8);

impl Ink {
    pub(super) const WHITE: Self = Self(0);
    pub(super) const BLACK: Self = Self(1);
    pub(super) const GREY: Self = Self(2);

    /// The first colour of the map; the rest of the palette follows.
    const FIRST: u8 = 3;

    /// The map's colour at `share`, 0 being the darkest and 1 the brightest; beyond both, and NaN, the nearest.
    pub(super) fn mapped(share: f32) -> Self {
        // `as` saturates, and makes NaN 0.
        Self(Self::FIRST + (share.clamp(0.0, 1.0) * f32::from(u8::MAX - Self::FIRST)).round() as u8)
    }

    /// Red, green and blue of all inks.
    fn palette() -> Vec<u8> {
        let mut palette = vec![255, 255, 255, 20, 20, 24, 110, 110, 118];
        let steps = usize::from(u8::MAX - Self::FIRST) + 1;
        for step in 0..steps {
            let colour = colorous::MAGMA.eval_rational(step, steps);
            palette.extend([colour.r, colour.g, colour.b]);
        }
        palette
    }
}

impl PixelColor for Ink {
    type Raw = RawU8;
}

/// A picture in the making.
pub(super) struct Canvas {
    size: Size,
    /// An ink per pixel, row by row.
    pixels: Vec<u8>,
}

impl Canvas {
    /// A white one.
    pub(super) fn new(size: Size) -> Self {
        Self { size, pixels: vec![Ink::WHITE.0; size.width as usize * size.height as usize] }
    }

    pub(super) fn dot(&mut self, place: Point, ink: Ink) {
        let inside = Rectangle::new(Point::zero(), self.size).contains(place);
        if inside {
            self.pixels[place.y as usize * self.size.width as usize + place.x as usize] = ink.0;
        }
    }

    #[cfg(test)]
    pub(super) fn at(&self, place: Point) -> Ink {
        Ink(self.pixels[place.y as usize * self.size.width as usize + place.x as usize])
    }

    pub(super) fn fill(&mut self, area: Rectangle, ink: Ink) {
        let Ok(()) = area.into_styled(PrimitiveStyle::with_fill(ink)).draw(self);
    }

    /// A line of `width` pixels along the inside of an area's edge.
    pub(super) fn outline(&mut self, area: Rectangle, width: u32, ink: Ink) {
        let style = PrimitiveStyleBuilder::new().stroke_color(ink).stroke_width(width);
        let style = style.stroke_alignment(StrokeAlignment::Inside).build();
        let Ok(()) = area.into_styled(style).draw(self);
    }

    pub(super) fn text(&mut self, text: &str, place: Point, ink: Ink, alignment: Alignment, baseline: Baseline) {
        let style = TextStyleBuilder::new().alignment(alignment).baseline(baseline).build();
        let Ok(_) = Text::with_text_style(text, place, MonoTextStyle::new(FONT, ink), style).draw(self);
    }

    /// The picture as a PNG file.
    pub(super) fn png(&self) -> Vec<u8> {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, self.size.width, self.size.height);
        encoder.set_color(png::ColorType::Indexed);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_palette(Ink::palette());
        encoder.set_compression(png::Compression::High);
        // Neighbouring inks are neighbouring numbers only within the map; filters cost more than they save.
        encoder.set_filter(png::Filter::NoFilter);
        let written = encoder.write_header().and_then(|mut writer| writer.write_image_data(&self.pixels));
        written.expect("a vector takes all bytes, and the pixels are as many as the header says");
        file
    }
}

impl OriginDimensions for Canvas {
    fn size(&self) -> Size {
        self.size
    }
}

impl DrawTarget for Canvas {
    type Color = Ink;
    type Error = Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<Ink>>>(&mut self, pixels: I) -> Result<(), Infallible> {
        for Pixel(place, ink) in pixels {
            self.dot(place, ink);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_goes_from_dark_to_bright() {
        let palette = Ink::palette();
        assert_eq!(palette.len(), 3 * 256);
        let light = |ink: Ink| palette[3 * usize::from(ink.0)..][..3].iter().map(|&part| u32::from(part)).sum::<u32>();
        assert!(light(Ink::mapped(0.0)) < 20 && light(Ink::mapped(1.0)) > 600);
        assert!(
            (0..10).all(|step| light(Ink::mapped(step as f32 / 10.0)) < light(Ink::mapped((step + 1) as f32 / 10.0)))
        );
        assert_eq!([f32::NEG_INFINITY, f32::NAN, f32::INFINITY].map(Ink::mapped), [0.0, 0.0, 1.0].map(Ink::mapped));
    }

    #[test]
    fn what_is_drawn_beyond_the_edge_is_left_out() {
        let mut canvas = Canvas::new(Size::new(30, 10));
        canvas.text("Ångström", Point::new(-5, -3), Ink::BLACK, Alignment::Left, Baseline::Top);
        canvas.fill(Rectangle::new(Point::new(25, 5), Size::new(50, 50)), Ink::GREY);
        assert_eq!((canvas.at(Point::new(29, 9)), canvas.at(Point::new(20, 9))), (Ink::GREY, Ink::WHITE));
    }

    #[test]
    fn a_png_has_the_canvas_pixel_by_pixel() {
        let mut canvas = Canvas::new(Size::new(7, 3));
        canvas.dot(Point::new(6, 2), Ink::mapped(1.0));
        let file = canvas.png();
        let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        assert_eq!(reader.info().palette.as_deref().unwrap(), Ink::palette());
        assert_eq!(pixels, canvas.pixels);
        assert_eq!((pixels[0], pixels[20]), (0, 255));
    }
}
