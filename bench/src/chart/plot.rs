//! A chart: series of medians with their spread over sizes, both axes logarithmic.
//!
//! From the top: title, a line of explanation, legend (as many rows as it needs), plot, sizes, the
//! axis's name. Widths of texts are asked of the font before anything is placed, so that nothing
//! overlaps.
use super::font::Font;
use super::scene::{Anchor, Color, Scene, Shape};

const WIDTH: f32 = 860.0;
const PLOT_HEIGHT: f32 = 380.0;
const RIGHT: f32 = 28.0;
const INK: Color = (34, 34, 34);
const GRAY: Color = (110, 110, 110);
const GRID: Color = (225, 225, 225);
const GRID_FINE: Color = (242, 242, 242);
/// Told apart by people who see colours in any way (Okabe and Ito), and by their marks.
const COLORS: [Color; 6] =
    [(0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (120, 94, 0)];

/// What the upright axis counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// MiB/s.
    MibPerSecond,
    /// Milliseconds.
    Milliseconds,
}

/// One size of a series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Bytes.
    pub size: u64,
    #[allow(missing_docs)]
    pub median: f64,
    /// First and third quartile.
    pub low: f64,
    #[allow(missing_docs)]
    pub high: f64,
}

/// A line with marks.
#[derive(Clone, Debug)]
pub struct Series {
    /// For the legend.
    pub name: String,
    /// In order of size.
    pub points: Vec<Point>,
    /// Drawn with gaps.
    pub dashed: bool,
}

/// See the head of the file.
#[derive(Clone, Debug)]
pub struct Chart {
    #[allow(missing_docs)]
    pub title: String,
    /// A line of explanation.
    pub subtitle: String,
    /// The upright axis's name, without unit.
    pub quantity: String,
    #[allow(missing_docs)]
    pub unit: Unit,
    #[allow(missing_docs)]
    pub series: Vec<Series>,
}

/// A size in words.
pub fn size_name(bytes: u64) -> String {
    match bytes {
        b if b >= 1 << 20 && b % (1 << 20) == 0 => format!("{} MiB", b >> 20),
        b if b >= 1 << 10 && b % (1 << 10) == 0 => format!("{} KiB", b >> 10),
        b => format!("{b} B"),
    }
}

/// A number as short as it can be said.
fn number(x: f64) -> String {
    let digits = (-x.log10().floor()).clamp(0.0, 9.0) as usize;
    let text = format!("{x:.digits$}");
    match x >= 10_000.0 {
        true => {
            let whole = x.round() as u64;
            format!("{},{:03}", whole / 1_000, whole % 1_000)
        }
        false => text,
    }
}

/// Where values lie.
struct Axes {
    left: f32,
    top: f32,
    right: f32,
    bottom: f32,
    x: (f64, f64),
    y: (f64, f64),
}

impl Axes {
    fn at_x(&self, size: u64) -> f32 {
        let share = ((size as f64).log2() - self.x.0) / (self.x.1 - self.x.0);
        self.left + share as f32 * (self.right - self.left)
    }
    fn at_y(&self, value: f64) -> f32 {
        let share = (value.max(1e-12).log10() - self.y.0) / (self.y.1 - self.y.0);
        let y = self.bottom - share as f32 * (self.bottom - self.top);
        y.clamp(self.top, self.bottom)
    }
}

impl Chart {
    /// Draws it.
    pub fn draw(&self) -> Scene {
        let width = |text: &str, size: f32| {
            Font::open().map_or(text.len() as f32 * size * 0.6, |f| f.width(text, size))
        };
        let (low, high) = self.range();
        let ticks = ticks(low, high);
        let labels = ticks.iter().filter(|t| t.1).map(|t| width(&number(t.0), 12.0));
        let left = 46.0 + labels.fold(0.0, f32::max);
        let mut scene = Scene { width: WIDTH, title: self.title.clone(), ..Scene::default() };
        text(&mut scene, (left, 30.0), &self.title, 17.0, Anchor::Left, INK);
        text(&mut scene, (left, 51.0), &self.subtitle, 11.5, Anchor::Left, GRAY);
        let top = self.legend(&mut scene, left, 76.0, &width) + 22.0;
        let sizes = self.sizes();
        let (first, last) = (
            sizes.first().map_or(0.0, |s| (*s as f64).log2()),
            sizes.last().map_or(1.0, |s| (*s as f64).log2()),
        );
        let axes = Axes {
            left,
            top,
            right: WIDTH - RIGHT,
            bottom: top + PLOT_HEIGHT,
            // Half a step of room on both sides, so that marks do not lie on the frame.
            x: (first - 0.5, last.max(first + 1.0) + 0.5),
            y: (low.log10(), high.log10()),
        };
        self.grid(&mut scene, &axes, &ticks, &sizes, &width);
        for (i, series) in self.series.iter().enumerate() {
            draw_series(&mut scene, &axes, series, i);
        }
        scene.height = axes.bottom + 62.0;
        scene
    }

    fn sizes(&self) -> Vec<u64> {
        let mut all: Vec<u64> =
            self.series.iter().flat_map(|s| s.points.iter().map(|p| p.size)).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// From a little below the least to a little above the greatest.
    fn range(&self) -> (f64, f64) {
        let all = || self.series.iter().flat_map(|s| &s.points);
        let low = all().map(|p| p.low.min(p.median)).filter(|v| *v > 0.0).fold(f64::MAX, f64::min);
        let high = all().map(|p| p.high.max(p.median)).fold(f64::MIN, f64::max);
        if low > high {
            return (1.0, 10.0);
        }
        let (low, high) = (low / 1.25, high * 1.25);
        // Less than a decade would leave the axis almost without numbers.
        if high / low < 10.0 { (low / 2.0, high * 2.0) } else { (low, high) }
    }

    /// The legend; where its last row lies.
    fn legend(
        &self,
        scene: &mut Scene,
        left: f32,
        top: f32,
        width: &dyn Fn(&str, f32) -> f32,
    ) -> f32 {
        let (mut x, mut y) = (left, top);
        for (i, series) in self.series.iter().enumerate() {
            let wide = 34.0 + 8.0 + width(&series.name, 12.5) + 26.0;
            if x + wide > WIDTH - RIGHT && x > left {
                (x, y) = (left, y + 20.0);
            }
            let color = COLORS[i % COLORS.len()];
            line(scene, vec![(x, y - 4.0), (x + 34.0, y - 4.0)], 2.2, color, dash(series.dashed));
            mark(scene, (x + 17.0, y - 4.0), i);
            text(scene, (x + 42.0, y), &series.name, 12.5, Anchor::Left, INK);
            x += wide;
        }
        y
    }

    fn grid(
        &self,
        scene: &mut Scene,
        axes: &Axes,
        ticks: &[(f64, bool)],
        sizes: &[u64],
        width: &dyn Fn(&str, f32) -> f32,
    ) {
        for &(value, labelled) in ticks {
            let y = axes.at_y(value);
            let color = if labelled { GRID } else { GRID_FINE };
            line(scene, vec![(axes.left, y), (axes.right, y)], 1.0, color, None);
            if labelled {
                let at = (axes.left - 8.0, y + 4.2);
                text(scene, at, &number(value), 12.0, Anchor::Right, INK);
            }
        }
        // All names, or every second one where they would touch.
        let half = |size: u64| width(&size_name(size), 11.0) / 2.0;
        let all_fit = sizes.windows(2).all(|w| match w {
            [a, b] => axes.at_x(*a) + half(*a) + 3.0 <= axes.at_x(*b) - half(*b),
            _ => true,
        });
        for (i, &size) in sizes.iter().enumerate() {
            let x = axes.at_x(size);
            line(scene, vec![(x, axes.top), (x, axes.bottom)], 1.0, GRID_FINE, None);
            line(scene, vec![(x, axes.bottom), (x, axes.bottom + 5.0)], 1.0, INK, None);
            if all_fit || i % 2 == 0 {
                let at = (x, axes.bottom + 20.0);
                text(scene, at, &size_name(size), 11.0, Anchor::Middle, INK);
            }
        }
        let frame =
            vec![(axes.left, axes.top), (axes.left, axes.bottom), (axes.right, axes.bottom)];
        line(scene, frame, 1.2, INK, None);
        let unit = match self.unit {
            Unit::MibPerSecond => "MiB/s",
            Unit::Milliseconds => "ms",
        };
        let middle = ((axes.left + axes.right) / 2.0, axes.bottom + 46.0);
        text(scene, middle, "file size (log scale)", 13.0, Anchor::Middle, INK);
        scene.shapes.push(Shape::Text {
            at: (22.0, (axes.top + axes.bottom) / 2.0),
            text: format!("{} ({unit}, log scale)", self.quantity),
            size: 13.0,
            anchor: Anchor::Middle,
            upright: true,
            color: INK,
        });
    }
}

/// Values of 1, 2, ..., 9 times powers of ten in a range, and whether they get a label: as many as
/// there is room for.
fn ticks(low: f64, high: f64) -> Vec<(f64, bool)> {
    let decades = (high / low).log10();
    let labelled: &[u32] = match decades {
        d if d > 3.2 => &[1],
        d if d > 1.2 => &[1, 2, 5],
        _ => &[1, 2, 3, 4, 5, 7],
    };
    let mut out = Vec::new();
    for power in low.log10().floor() as i32..=high.log10().ceil() as i32 {
        for step in 1..=9u32 {
            let value = f64::from(step) * 10f64.powi(power);
            if value >= low && value <= high {
                out.push((value, labelled.contains(&step)));
            }
        }
    }
    out
}

fn draw_series(scene: &mut Scene, axes: &Axes, series: &Series, i: usize) {
    let color = COLORS[i % COLORS.len()];
    // Series side by side, so that their spreads can be told apart.
    let aside = (i as f32 - 1.5) * 2.5;
    for p in &series.points {
        let (x, low, high) = (axes.at_x(p.size) + aside, axes.at_y(p.low), axes.at_y(p.high));
        line(scene, vec![(x, low), (x, high)], 1.3, color, None);
        for y in [low, high] {
            line(scene, vec![(x - 3.0, y), (x + 3.0, y)], 1.3, color, None);
        }
    }
    let at = |p: &Point| (axes.at_x(p.size) + aside, axes.at_y(p.median));
    line(scene, series.points.iter().map(at).collect(), 2.2, color, dash(series.dashed));
    for p in &series.points {
        mark(scene, at(p), i);
    }
}

fn dash(dashed: bool) -> Option<(f32, f32)> {
    dashed.then_some((7.0, 4.0))
}

fn line(
    scene: &mut Scene,
    points: Vec<(f32, f32)>,
    width: f32,
    color: Color,
    dash: Option<(f32, f32)>,
) {
    scene.shapes.push(Shape::Line { points, width, color, dash });
}

fn text(scene: &mut Scene, at: (f32, f32), text: &str, size: f32, anchor: Anchor, color: Color) {
    let text = text.to_owned();
    scene.shapes.push(Shape::Text { at, text, size, anchor, upright: false, color });
}

/// A series' mark: disc, square, triangle, diamond.
fn mark(scene: &mut Scene, (x, y): (f32, f32), i: usize) {
    let color = COLORS[i % COLORS.len()];
    let area = |points: &[(f32, f32)]| Shape::Area {
        points: points.iter().map(|(dx, dy)| (x + dx, y + dy)).collect(),
        color,
    };
    scene.shapes.push(match i % 4 {
        0 => Shape::Disc { center: (x, y), radius: 4.2, color },
        1 => area(&[(-3.8, -3.8), (3.8, -3.8), (3.8, 3.8), (-3.8, 3.8)]),
        2 => area(&[(0.0, -5.0), (4.8, 3.8), (-4.8, 3.8)]),
        _ => area(&[(0.0, -5.2), (5.2, 0.0), (0.0, 5.2), (-5.2, 0.0)]),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart() -> Chart {
        let series = |name: &str, factor: f64| Series {
            name: name.into(),
            dashed: false,
            points: (12..=26)
                .map(|p| {
                    let median = factor * f64::from(p);
                    Point { size: 1 << p, median, low: median * 0.9, high: median * 1.3 }
                })
                .collect(),
        };
        Chart {
            title: "A title".into(),
            subtitle: "explained".into(),
            quantity: "bandwidth".into(),
            unit: Unit::MibPerSecond,
            series: vec![series("PVFS2 write", 1.0), series("local read", 300.0)],
        }
    }

    #[test]
    fn texts_do_not_overlap() {
        let font = Font::open().unwrap();
        let scene = chart().draw();
        let mut boxes: Vec<(f32, f32, f32, f32, String)> = Vec::new();
        for shape in &scene.shapes {
            let Shape::Text { at, text, size, anchor, upright: false, .. } = shape else {
                continue;
            };
            let w = font.width(text, *size);
            let x = match anchor {
                Anchor::Left => at.0,
                Anchor::Middle => at.0 - w / 2.0,
                Anchor::Right => at.0 - w,
            };
            let new = (x, at.1 - size * 0.8, x + w, at.1 + size * 0.2, text.clone());
            assert!(new.0 >= 0.0 && new.2 <= scene.width && new.3 <= scene.height, "{text}");
            for old in &boxes {
                let apart = new.0 >= old.2 || new.2 <= old.0 || new.1 >= old.3 || new.3 <= old.1;
                assert!(apart, "'{}' over '{}'", new.4, old.4);
            }
            boxes.push(new);
        }
        assert!(boxes.len() > 15, "sizes, values, legend, titles: {}", boxes.len());
    }

    #[test]
    fn values_lie_in_the_plot_and_numbers_are_short() {
        let (low, high) = chart().range();
        assert!(low < 10.8 && high > 10_000.0);
        assert!(ticks(low, high).iter().filter(|t| t.1).count() >= 3);
        assert!(ticks(1.0, 12.0).iter().filter(|t| t.1).count() >= 6);
        for (x, text) in
            [(0.001, "0.001"), (0.5, "0.5"), (5.0, "5"), (2_000.0, "2000"), (20_000.0, "20,000")]
        {
            assert_eq!(number(x), text);
        }
        assert_eq!(size_name(4_096), "4 KiB");
        assert_eq!(size_name(64 << 20), "64 MiB");
    }
}
