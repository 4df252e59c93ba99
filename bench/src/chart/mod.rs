//! Charts: lines over logarithmic axes, medians with their spread, drawn once and written as SVG and
//! as PNG alike. Needs no font, library or program of the system: the font is part of this program.
//!
//! - [`plot`]: a chart's data and where everything goes
//! - [`scene`]: shapes and texts, and their SVG
//! - [`raster`]: the same shapes as pixels
//! - [`font`]: outlines and widths of letters
pub mod font;
pub mod plot;
pub mod raster;
pub mod scene;

pub use plot::{Chart, Point, Series, Unit};
pub use scene::Scene;
