//! The report: one HTML file with the figures inside, tables of medians, and how it was measured; it
//! needs nothing from anywhere and prints a figure with its table on a page.
use super::figures::point;
use super::run::Measured;
use crate::chart::plot::size_name;
use crate::chart::scene::escape;
use crate::chart::{Chart, Unit};
use std::fmt::Write;

const STYLE: &str = "\
body{font:15px/1.5 'DejaVu Sans',Verdana,sans-serif;color:#222;max-width:900px;margin:2em auto;padding:0 1em}
h1{font-size:1.5em}h2{font-size:1.15em;margin:2em 0 .3em}svg{max-width:100%;height:auto;display:block}
table{border-collapse:collapse;font-size:12px;margin:.6em 0 1.5em}
th,td{padding:2px 7px;text-align:right;border-bottom:1px solid #ddd}td{white-space:nowrap}th{border-bottom:2px solid #888}
th:first-child,td:first-child{text-align:left}dl{display:grid;grid-template-columns:max-content 1fr;gap:.2em 1em}
dt{font-weight:bold}dd{margin:0}
@media print{body{max-width:none;margin:0;padding:0;font-size:10.5px;line-height:1.35}section{break-inside:avoid}
section+section{break-before:page}svg{max-width:165mm}table{font-size:9px}td,th{padding:1px 6px}}";

/// The whole page.
pub fn report(measured: &Measured, figures: &[(String, Chart)]) -> String {
    let way = if measured.api == "POSIX" {
        "system calls through the mount"
    } else {
        "the client library"
    };
    let reps = measured.points.iter().map(|m| m.seconds.len()).max().unwrap_or(0);
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         <title>PVFS2: the article's experiments</title>\n<style>{STYLE}</style></head><body>\n\
         <h1>PVFS2: the article's experiments on this machine</h1>\n<dl>\
         <dt>Machine</dt><dd>{}</dd><dt>Date</dt><dd>{}</dd>\
         <dt>Access</dt><dd>{way}{}; servers are processes of their own on the same machine</dd>\
         <dt>Repetitions</dt><dd>{reps} that count for each point, after one that warms up; PVFS2 and \
         the local directory take turns, size by size</dd>\
         <dt>Latency</dt><dd>from the first client's open to the last client's close of one file, \
         written or read in one call by each client</dd>\
         <dt>Bandwidth</dt><dd>the file's size over that time</dd>\
         <dt>Caches</dt><dd>nothing is dropped: as in the article, what is read was written just \
         before, and no size exceeds the page cache</dd></dl>\n",
        escape(&measured.machine),
        escape(&measured.date),
        if measured.fsync { ", fsync before each close" } else { ", no fsync" },
    );
    out += &summary(measured);
    for (name, chart) in figures {
        let _ = write!(
            out,
            "<section id=\"{name}\">\n{}{}</section>\n",
            chart.draw().svg(),
            table(chart)
        );
    }
    out.push_str("</body></html>\n");
    out
}

fn short(x: f64) -> String {
    match x {
        x if x >= 100.0 => format!("{x:.0}"),
        x if x >= 10.0 => format!("{x:.1}"),
        x if x >= 1.0 => format!("{x:.2}"),
        x => format!("{x:.3}"),
    }
}

fn table(chart: &Chart) -> String {
    let unit = match chart.unit {
        Unit::MibPerSecond => "MiB/s",
        Unit::Milliseconds => "ms",
    };
    let mut out = String::from("<table><thead><tr><th>file size</th>");
    for s in &chart.series {
        let _ = write!(out, "<th>{} ({unit})</th><th>quartiles</th>", escape(&s.name));
    }
    out.push_str("</tr></thead><tbody>\n");
    let mut sizes: Vec<u64> =
        chart.series.iter().flat_map(|s| s.points.iter().map(|p| p.size)).collect();
    sizes.sort_unstable();
    sizes.dedup();
    for size in sizes {
        let _ = write!(out, "<tr><td>{}</td>", size_name(size));
        for s in &chart.series {
            let _ = match s.points.iter().find(|p| p.size == size) {
                Some(p) => write!(
                    out,
                    "<td>{}</td><td>{}&ndash;{}</td>",
                    short(p.median),
                    short(p.low),
                    short(p.high)
                ),
                None => write!(out, "<td></td><td></td>"),
            };
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table>\n");
    out
}

/// What the article concluded, with this run's numbers.
fn summary(measured: &Measured) -> String {
    let median = |experiment: &str, target: &str, clients: u32, access: &str, size: u64| {
        measured
            .points
            .iter()
            .find(|m| {
                m.experiment == experiment
                    && m.target == target
                    && m.clients == clients
                    && m.access == access
                    && m.size == size
            })
            .map(|m| point(m, Unit::Milliseconds).median)
    };
    let mut out = String::from(
        "<section id=\"ratios\">\n<h2>Ratios</h2>\n<table><thead><tr><th>file size</th>\
         <th>PVFS2 / local, write</th><th>PVFS2 / local, read</th><th>4 clients / 1, write</th>\
         <th>4 clients / 1, read</th></tr></thead><tbody>\n",
    );
    let mut sizes: Vec<u64> = measured.points.iter().map(|m| m.size).collect();
    sizes.sort_unstable();
    sizes.dedup();
    for size in sizes {
        let _ = write!(out, "<tr><td>{}</td>", size_name(size));
        for (above, below) in [
            (("a", "PVFS2", 1, "write"), ("a", "local", 1, "write")),
            (("a", "PVFS2", 1, "read"), ("a", "local", 1, "read")),
            (("b", "PVFS2", 4, "write"), ("b", "PVFS2", 1, "write")),
            (("b", "PVFS2", 4, "read"), ("b", "PVFS2", 1, "read")),
        ] {
            let of = |(e, t, c, a): (&str, &str, u32, &str)| median(e, t, c, a, size);
            let _ = match (of(above), of(below)) {
                (Some(a), Some(b)) if b > 0.0 => write!(out, "<td>{}</td>", short(a / b)),
                _ => write!(out, "<td></td>"),
            };
        }
        out.push_str("</tr>\n");
    }
    out.push_str(
        "</tbody></table>\n<p>Ratios of median latencies: below 1, the first is faster.</p></section>\n",
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_everything_and_fetches_nothing() {
        let measured = super::super::run::tests::invented();
        let figures = super::super::figures::all(&measured);
        let page = report(&measured, &figures);
        assert_eq!(page.matches("<svg").count(), 4);
        assert_eq!(page.matches("<table>").count(), 5);
        assert!(page.contains("invented &amp; small") && page.contains("64 MiB</td>"));
        for word in ["src=", "href=", "url(", "@import"] {
            assert!(!page.contains(word), "{word}");
        }
    }
}
