//! How results are summed up and printed: statistics over repetitions, percentiles of latency,
//! summary files.
use crate::hist::Hist;
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Max, min, mean, standard deviation, median of a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Stats {
    /// The greatest.
    pub max: f64,
    /// The least.
    pub min: f64,
    /// Their mean.
    pub mean: f64,
    /// Population standard deviation, as IOR's.
    pub std_dev: f64,
    /// The middle one, or the mean of the two in the middle.
    pub median: f64,
}

impl Stats {
    /// Of these numbers; all 0 for none.
    pub fn of(numbers: &[f64]) -> Stats {
        if numbers.is_empty() {
            return Stats::default();
        }
        let n = numbers.len() as f64;
        let mean = numbers.iter().sum::<f64>() / n;
        let variance = numbers.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
        Stats {
            max: numbers.iter().copied().fold(f64::MIN, f64::max),
            min: numbers.iter().copied().fold(f64::MAX, f64::min),
            mean,
            std_dev: variance.sqrt(),
            median: quantile(numbers, 0.5),
        }
    }
}

/// The q-th quantile, interpolated; 0 for none.
pub fn quantile(numbers: &[f64], q: f64) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let at = q.clamp(0.0, 1.0) * last as f64;
    let (low, high) = (at.floor() as usize, at.ceil() as usize);
    sorted[low] + (sorted[high] - sorted[low]) * (at - low as f64)
}

/// Latencies in microseconds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Percentiles {
    /// How many.
    pub count: u64,
    #[allow(missing_docs)]
    pub mean_us: f64,
    #[allow(missing_docs)]
    pub min_us: f64,
    #[allow(missing_docs)]
    pub p50_us: f64,
    #[allow(missing_docs)]
    pub p90_us: f64,
    #[allow(missing_docs)]
    pub p95_us: f64,
    #[allow(missing_docs)]
    pub p99_us: f64,
    #[allow(missing_docs)]
    pub p999_us: f64,
    #[allow(missing_docs)]
    pub max_us: f64,
}

impl From<&Hist> for Percentiles {
    fn from(hist: &Hist) -> Percentiles {
        Percentiles {
            count: hist.count(),
            mean_us: hist.mean_us(),
            min_us: hist.min_us(),
            p50_us: hist.percentile_us(50.0),
            p90_us: hist.percentile_us(90.0),
            p95_us: hist.percentile_us(95.0),
            p99_us: hist.percentile_us(99.0),
            p999_us: hist.percentile_us(99.9),
            max_us: hist.max_us(),
        }
    }
}

/// A table of latencies, a row each.
pub fn percentiles<'a>(rows: impl Iterator<Item = (&'a str, Percentiles)>) -> String {
    let mut out = format!(
        "{:<20} {:>9} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10} {:>11}\n",
        "latency (us)", "count", "min", "mean", "50 %", "90 %", "95 %", "99 %", "99.9 %", "max"
    );
    for (name, p) in rows {
        out += &format!(
            "{name:<20} {:>9} {:>10.1} {:>10.1} {:>10.1} {:>10.1} {:>10.1} {:>10.1} {:>10.1} {:>11.1}\n",
            p.count,
            p.min_us,
            p.mean_us,
            p.p50_us,
            p.p90_us,
            p.p95_us,
            p.p99_us,
            p.p999_us,
            p.max_us
        );
    }
    out
}

/// How a summary file is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// The tables as they are printed.
    #[default]
    Default,
    /// JSON.
    Json,
    /// Comma-separated values, a row each repetition.
    Csv,
}

/// Where and how a summary is written: IOR's `-O`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SummaryFile {
    /// Where; none: not at all.
    pub path: Option<PathBuf>,
    /// How.
    pub format: Format,
}

impl SummaryFile {
    /// Reads `-O key=value,...` arguments.
    ///
    /// # Errors
    /// A key or a value that is not known.
    pub fn parse(arguments: &[String]) -> Result<SummaryFile> {
        let mut out = SummaryFile::default();
        for pair in arguments.iter().flat_map(|a| a.split(',')).filter(|p| !p.is_empty()) {
            match pair.split_once('=') {
                Some(("summaryFile", path)) => out.path = Some(path.into()),
                Some(("summaryFormat", format)) => {
                    out.format = match format.to_ascii_lowercase().as_str() {
                        "default" => Format::Default,
                        "json" => Format::Json,
                        "csv" => Format::Csv,
                        other => bail!("summaryFormat={other}: it is default, JSON or CSV"),
                    }
                }
                _ => {
                    bail!("-O {pair}: it takes summaryFile=FILE and summaryFormat=default|JSON|CSV")
                }
            }
        }
        if out.path.is_none() && out.format != Format::Default {
            bail!("-O summaryFormat needs summaryFile=FILE beside it");
        }
        Ok(out)
    }

    /// Writes what belongs there.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&self, text: &str, json: &impl Serialize, csv: &str) -> Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        match self.format {
            Format::Default => write(path, text.as_bytes()),
            Format::Csv => write(path, csv.as_bytes()),
            Format::Json => {
                let mut bytes = serde_json::to_vec_pretty(json)?;
                bytes.push(b'\n');
                write(path, &bytes)
            }
        }
    }
}

/// Writes a file.
///
/// # Errors
/// With its name.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics() {
        let s = Stats::of(&[4.0, 1.0, 3.0, 2.0]);
        assert_eq!((s.max, s.min, s.mean, s.median), (4.0, 1.0, 2.5, 2.5));
        assert!((s.std_dev - 1.118_034).abs() < 1e-6);
        assert_eq!(Stats::of(&[]), Stats::default());
        assert_eq!(quantile(&[1.0, 2.0, 3.0, 4.0, 5.0], 0.25), 2.0);
        assert_eq!(quantile(&[], 0.5), 0.0);
    }

    #[test]
    fn summary_files() {
        let parse = |texts: &[&str]| {
            SummaryFile::parse(&texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>())
        };
        let both = parse(&["summaryFile=/x,summaryFormat=JSON"]).unwrap();
        assert_eq!((both.path, both.format), (Some("/x".into()), Format::Json));
        let apart = parse(&["summaryFormat=csv", "summaryFile=/y"]).unwrap();
        assert_eq!(apart.format, Format::Csv);
        for bad in ["summaryFormat=xml", "summaryFormat=JSON", "other=1", "x"] {
            assert!(parse(&[bad]).is_err(), "{bad}");
        }
    }
}
