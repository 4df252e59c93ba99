//! The letters: DejaVu Sans, cut down to what charts need (`bench/fonts`, with its licence).
use tiny_skia::{Path, PathBuilder, Transform};
use ttf_parser::{Face, OutlineBuilder};

const BYTES: &[u8] = include_bytes!("../../fonts/DejaVuSans-subset.ttf");

/// The font.
pub struct Font {
    face: Face<'static>,
}

impl Font {
    /// Opens it; none if it were no font.
    pub fn open() -> Option<Font> {
        Face::parse(BYTES, 0).ok().map(|face| Font { face })
    }

    fn scale(&self, size: f32) -> f32 {
        size / f32::from(self.face.units_per_em())
    }

    fn advance(&self, letter: char) -> f32 {
        let glyph = self.face.glyph_index(letter).unwrap_or_default();
        f32::from(self.face.glyph_hor_advance(glyph).unwrap_or(1_024))
    }

    /// How wide a text is.
    pub fn width(&self, text: &str, size: f32) -> f32 {
        text.chars().map(|c| self.advance(c)).sum::<f32>() * self.scale(size)
    }

    /// A text's outlines; its first letter stands at the origin, on the base line.
    pub fn outline(&self, text: &str, size: f32) -> Option<Path> {
        let mut pen = Pen { path: PathBuilder::new(), x: 0.0 };
        for letter in text.chars() {
            if let Some(glyph) = self.face.glyph_index(letter) {
                self.face.outline_glyph(glyph, &mut pen);
            }
            pen.x += self.advance(letter);
        }
        let scale = self.scale(size);
        // Letters are drawn upwards, pictures downwards.
        pen.path.finish()?.transform(Transform::from_scale(scale, -scale))
    }
}

struct Pen {
    path: PathBuilder,
    x: f32,
}

impl OutlineBuilder for Pen {
    fn move_to(&mut self, x: f32, y: f32) {
        self.path.move_to(self.x + x, y);
    }
    fn line_to(&mut self, x: f32, y: f32) {
        self.path.line_to(self.x + x, y);
    }
    fn quad_to(&mut self, x1: f32, y1: f32, x: f32, y: f32) {
        self.path.quad_to(self.x + x1, y1, self.x + x, y);
    }
    fn curve_to(&mut self, x1: f32, y1: f32, x2: f32, y2: f32, x: f32, y: f32) {
        self.path.cubic_to(self.x + x1, y1, self.x + x2, y2, self.x + x, y);
    }
    fn close(&mut self) {
        self.path.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_letter_that_charts_use_is_there() {
        let font = Font::open().unwrap();
        for letter in (' '..='~').chain(['\u{b5}', '\u{d7}', '\u{2013}']) {
            assert!(font.face.glyph_index(letter).is_some(), "{letter:?}");
        }
        assert!(font.width("MiB/s", 12.0) > 20.0 && font.width("MiB/s", 12.0) < 50.0);
        assert!(font.outline("x", 12.0).is_some());
    }
}
