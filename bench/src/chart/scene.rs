//! What a picture is made of, in its own units from the left upper corner; and its SVG.
use std::fmt::Write;

/// Red, green, blue.
pub type Color = (u8, u8, u8);

/// Where a text's anchor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    #[allow(missing_docs)]
    Left,
    #[allow(missing_docs)]
    Middle,
    #[allow(missing_docs)]
    Right,
}

/// A part of a picture; later ones lie above earlier ones.
#[derive(Clone, Debug)]
pub enum Shape {
    /// Points joined by lines.
    Line {
        #[allow(missing_docs)]
        points: Vec<(f32, f32)>,
        #[allow(missing_docs)]
        width: f32,
        #[allow(missing_docs)]
        color: Color,
        /// Lengths of dash and gap; none: through.
        dash: Option<(f32, f32)>,
    },
    /// A filled polygon.
    Area {
        #[allow(missing_docs)]
        points: Vec<(f32, f32)>,
        #[allow(missing_docs)]
        color: Color,
    },
    /// A filled circle.
    Disc {
        #[allow(missing_docs)]
        center: (f32, f32),
        #[allow(missing_docs)]
        radius: f32,
        #[allow(missing_docs)]
        color: Color,
    },
    /// A text on its base line.
    Text {
        #[allow(missing_docs)]
        at: (f32, f32),
        #[allow(missing_docs)]
        text: String,
        #[allow(missing_docs)]
        size: f32,
        #[allow(missing_docs)]
        anchor: Anchor,
        /// Turned a quarter to the left.
        upright: bool,
        #[allow(missing_docs)]
        color: Color,
    },
}

/// A picture.
#[derive(Clone, Debug, Default)]
pub struct Scene {
    #[allow(missing_docs)]
    pub width: f32,
    #[allow(missing_docs)]
    pub height: f32,
    /// From the lowest to the topmost.
    pub shapes: Vec<Shape>,
    /// What it shows, for readers who do not see it.
    pub title: String,
}

fn hex((r, g, b): Color) -> String {
    format!("#{r:02x}{g:02x}{b:02x}")
}

/// A text as XML takes it.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn list(points: &[(f32, f32)]) -> String {
    points.iter().map(|(x, y)| format!("{x:.2},{y:.2}")).collect::<Vec<_>>().join(" ")
}

impl Scene {
    /// The picture as SVG.
    pub fn svg(&self) -> String {
        let (w, h) = (self.width, self.height);
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {w} {h}\" width=\"{w}\" \
             height=\"{h}\" role=\"img\" font-family=\"DejaVu Sans, Verdana, sans-serif\">\n\
             <title>{}</title>\n<rect width=\"{w}\" height=\"{h}\" fill=\"#ffffff\"/>\n",
            escape(&self.title)
        );
        for shape in &self.shapes {
            let _ = match shape {
                Shape::Line { points, width, color, dash } => {
                    let dash = dash
                        .map(|(d, g)| format!(" stroke-dasharray=\"{d} {g}\""))
                        .unwrap_or_default();
                    writeln!(
                        out,
                        "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"{width}\" \
                         stroke-linejoin=\"round\"{dash}/>",
                        list(points),
                        hex(*color)
                    )
                }
                Shape::Area { points, color } => {
                    writeln!(out, "<polygon points=\"{}\" fill=\"{}\"/>", list(points), hex(*color))
                }
                Shape::Disc { center, radius, color } => writeln!(
                    out,
                    "<circle cx=\"{:.2}\" cy=\"{:.2}\" r=\"{radius}\" fill=\"{}\"/>",
                    center.0,
                    center.1,
                    hex(*color)
                ),
                Shape::Text { at, text, size, anchor, upright, color } => {
                    let anchor = match anchor {
                        Anchor::Left => "start",
                        Anchor::Middle => "middle",
                        Anchor::Right => "end",
                    };
                    let turn = match upright {
                        true => format!(" transform=\"rotate(-90 {:.2} {:.2})\"", at.0, at.1),
                        false => String::new(),
                    };
                    writeln!(
                        out,
                        "<text x=\"{:.2}\" y=\"{:.2}\" font-size=\"{size}\" text-anchor=\"{anchor}\" \
                         fill=\"{}\"{turn}>{}</text>",
                        at.0,
                        at.1,
                        hex(*color),
                        escape(text)
                    )
                }
            };
        }
        out.push_str("</svg>\n");
        out
    }
}
