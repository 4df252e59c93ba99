//! The article's Figures 7 to 10 out of what was measured.
use super::run::{Measure, Measured};
use crate::chart::{Chart, Point, Series, Unit};
use crate::table::quantile;

/// File names and charts, in order.
pub fn all(measured: &Measured) -> Vec<(String, Chart)> {
    let way = match (measured.api.as_str(), measured.fsync) {
        ("PVFS2", false) => "client library",
        ("PVFS2", true) => "client library, fsync",
        (_, false) => "through the mount",
        (_, true) => "through the mount, fsync",
    };
    let single = format!("1 metadata and 1 I/O server, 1 client, 64 MiB strips, {way}; {SPREAD}");
    let several =
        format!("1 metadata and 2 I/O servers, 64 KiB strips, one shared file, {way}; {SPREAD}");
    let chart = |title: &str, subtitle: &str, quantity: &str, unit, series| Chart {
        title: title.into(),
        subtitle: subtitle.into(),
        quantity: quantity.into(),
        unit,
        series,
    };
    let of_a = |unit| {
        let one = |name: &str, target: &str, access: &str| {
            series(measured, name, unit, target == "local", |m| {
                m.experiment == "a" && m.target == target && m.access == access
            })
        };
        vec![
            one("PVFS2 write", "PVFS2", "write"),
            one("PVFS2 read", "PVFS2", "read"),
            one("local write", "local", "write"),
            one("local read", "local", "read"),
        ]
    };
    let of_b = |access: &str| {
        let one = |clients: u32| {
            let name = format!("{clients} client{}", if clients == 1 { "" } else { "s" });
            series(measured, &name, Unit::Milliseconds, false, |m| {
                m.experiment == "b" && m.clients == clients && m.access == access
            })
        };
        vec![one(1), one(2), one(4)]
    };
    let title = |n: u32, words: &str| format!("Figure {n}. {words}");
    vec![
        (
            "fig7".into(),
            chart(
                &title(7, "Bandwidth, PVFS2 and a local directory"),
                &single,
                "bandwidth",
                Unit::MibPerSecond,
                of_a(Unit::MibPerSecond),
            ),
        ),
        (
            "fig8".into(),
            chart(
                &title(8, "Latency, PVFS2 and a local directory"),
                &single,
                "latency of a whole file",
                Unit::Milliseconds,
                of_a(Unit::Milliseconds),
            ),
        ),
        (
            "fig9".into(),
            chart(
                &title(9, "Latency of reading with several clients"),
                &several,
                "latency of the whole file",
                Unit::Milliseconds,
                of_b("read"),
            ),
        ),
        (
            "fig10".into(),
            chart(
                &title(10, "Latency of writing with several clients"),
                &several,
                "latency of the whole file",
                Unit::Milliseconds,
                of_b("write"),
            ),
        ),
    ]
}

const SPREAD: &str = "medians, bars: quartiles";

fn series(
    measured: &Measured,
    name: &str,
    unit: Unit,
    dashed: bool,
    wanted: impl Fn(&Measure) -> bool,
) -> Series {
    let those = measured.points.iter().filter(|m| wanted(m) && !m.seconds.is_empty());
    Series { name: name.into(), dashed, points: those.map(|m| point(m, unit)).collect() }
}

/// A point in a chart's unit.
pub fn point(m: &Measure, unit: Unit) -> Point {
    let values: Vec<f64> = m
        .seconds
        .iter()
        .map(|s| match unit {
            Unit::Milliseconds => s * 1e3,
            Unit::MibPerSecond => m.size as f64 / 1_048_576.0 / s.max(1e-12),
        })
        .collect();
    Point {
        size: m.size,
        median: quantile(&values, 0.5),
        low: quantile(&values, 0.25),
        high: quantile(&values, 0.75),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_right() {
        let m = Measure {
            experiment: "a".into(),
            target: "PVFS2".into(),
            clients: 1,
            size: 4 << 20,
            access: "read".into(),
            seconds: vec![0.004, 0.002, 0.008],
        };
        assert!((point(&m, Unit::Milliseconds).median - 4.0).abs() < 1e-9);
        let rate = point(&m, Unit::MibPerSecond);
        assert!((rate.median - 1_000.0).abs() < 1e-6 && rate.low < rate.median);
        let all = all(&super::super::run::tests::invented());
        assert_eq!(all.len(), 4);
        for (name, chart) in &all {
            let curves = if name == "fig7" || name == "fig8" { 4 } else { 3 };
            assert_eq!(chart.series.len(), curves);
            assert!(chart.series.iter().all(|s| s.points.len() == 15), "{name}");
        }
    }
}
