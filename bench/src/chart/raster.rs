//! A picture as pixels: the same shapes as in the SVG, letters as outlines.
use super::font::Font;
use super::scene::{Anchor, Color, Scene, Shape};
use anyhow::{Context, Result};
use tiny_skia::{
    FillRule, LineCap, LineJoin, Paint, Path, PathBuilder, Pixmap, Stroke, StrokeDash, Transform,
};

fn paint(color: Color) -> Paint<'static> {
    let mut paint = Paint::default();
    paint.set_color_rgba8(color.0, color.1, color.2, 255);
    paint.anti_alias = true;
    paint
}

fn path(points: &[(f32, f32)], closed: bool) -> Option<Path> {
    let mut path = PathBuilder::new();
    for (i, &(x, y)) in points.iter().enumerate() {
        if i == 0 { path.move_to(x, y) } else { path.line_to(x, y) }
    }
    if closed {
        path.close();
    }
    path.finish()
}

impl Scene {
    /// The picture as PNG, `scale` pixels for each unit.
    ///
    /// # Errors
    /// A picture without size.
    pub fn png(&self, scale: f32) -> Result<Vec<u8>> {
        let size = |units: f32| (units * scale).round() as u32;
        let mut map =
            Pixmap::new(size(self.width), size(self.height)).context("an empty picture")?;
        map.fill(tiny_skia::Color::WHITE);
        let font = Font::open().context("the font inside this program is none")?;
        let whole = Transform::from_scale(scale, scale);
        for shape in &self.shapes {
            self.draw(&mut map, shape, &font, whole);
        }
        map.encode_png().context("cannot encode a PNG")
    }

    fn draw(&self, map: &mut Pixmap, shape: &Shape, font: &Font, whole: Transform) {
        match shape {
            Shape::Line { points, width, color, dash } => {
                let stroke = Stroke {
                    width: *width,
                    line_join: LineJoin::Round,
                    line_cap: LineCap::Butt,
                    dash: dash.and_then(|(d, g)| StrokeDash::new(vec![d, g], 0.0)),
                    ..Stroke::default()
                };
                if let Some(path) = path(points, false) {
                    map.stroke_path(&path, &paint(*color), &stroke, whole, None);
                }
            }
            Shape::Area { points, color } => {
                if let Some(path) = path(points, true) {
                    map.fill_path(&path, &paint(*color), FillRule::Winding, whole, None);
                }
            }
            Shape::Disc { center, radius, color } => {
                if let Some(path) = PathBuilder::from_circle(center.0, center.1, *radius) {
                    map.fill_path(&path, &paint(*color), FillRule::Winding, whole, None);
                }
            }
            Shape::Text { at, text, size, anchor, upright, color } => {
                let width = font.width(text, *size);
                let back = match anchor {
                    Anchor::Left => 0.0,
                    Anchor::Middle => width / 2.0,
                    Anchor::Right => width,
                };
                let turn = if *upright { -90.0 } else { 0.0 };
                let place = whole
                    .pre_translate(at.0, at.1)
                    .pre_concat(Transform::from_rotate(turn))
                    .pre_translate(-back, 0.0);
                if let Some(path) = font.outline(text, *size) {
                    map.fill_path(&path, &paint(*color), FillRule::Winding, place, None);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_are_where_the_shapes_are() {
        let scene = Scene {
            width: 20.0,
            height: 10.0,
            shapes: vec![Shape::Area {
                points: vec![(10.0, 0.0), (20.0, 0.0), (20.0, 10.0), (10.0, 10.0)],
                color: (255, 0, 0),
            }],
            title: "a < b".into(),
        };
        let map = Pixmap::decode_png(&scene.png(2.0).unwrap()).unwrap();
        assert_eq!((map.width(), map.height()), (40, 20));
        let at = |x, y| map.pixel(x, y).map(|p| (p.red(), p.green(), p.blue())).unwrap();
        assert_eq!((at(5, 10), at(30, 10)), ((255, 255, 255), (255, 0, 0)));
        assert!(scene.svg().contains("<title>a &lt; b</title>"));
    }
}
