//! Results as shares of what this machine can do: which limits apply to a result, which of them is
//! the lowest, and what share of it was reached.
//!
//! A limit applies where the result's bytes or operations must pass it: through a mount, the FUSE file
//! system with nothing behind it, sockets, checksums (client and server), a copy of the data, and with
//! fsync the local disk; natively, all but FUSE. A metadata operation through a mount costs FUSE's
//! crossing and a round trip; they follow each other, so their times add up. Local file systems without
//! fsync are no limit (nobody must pass them); they stand beside for comparison.
use crate::api::Api;
use crate::{ior, mdtest};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::path::Path;

/// One figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// What was measured.
    pub resource: Resource,
    /// write, read, File stat, ...
    pub access: String,
    /// Bytes of a message or a transfer; 0: none.
    pub size: u64,
    /// Threads, connections or clients at once.
    pub streams: u32,
    /// MiB/s or operations a second.
    pub rate: f64,
    /// Which of them.
    pub unit: Unit,
}

/// The unit of a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unit {
    #[serde(rename = "MiB/s")]
    #[allow(missing_docs)]
    MibPerSecond,
    #[serde(rename = "ops/s")]
    #[allow(missing_docs)]
    OpsPerSecond,
}

/// What has limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Resource {
    Fuse,
    Tcp,
    Unix,
    Crc,
    MemoryCopy,
    LocalFs,
    Tmpfs,
}

impl Resource {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Resource::Fuse => "FUSE, nothing behind it",
            Resource::Tcp => "loopback TCP",
            Resource::Unix => "unix sockets",
            Resource::Crc => "CRC-32",
            Resource::MemoryCopy => "memory copy",
            Resource::LocalFs => "local file system",
            Resource::Tmpfs => "tmpfs",
        }
    }
}

/// All figures of a machine.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Ceiling {
    /// For the reader.
    pub machine: String,
    /// One by one.
    pub figures: Vec<Figure>,
}

/// A limit of one result.
#[derive(Clone, Debug, Serialize)]
pub struct Limit {
    /// In words.
    pub resource: String,
    /// In the result's unit.
    pub rate: f64,
    /// The result as a share of it, in percent.
    pub percent: f64,
    /// Whether the result's bytes or operations must pass it.
    pub binding: bool,
}

impl Ceiling {
    /// Reads a file of `pvfs2 bench ceiling`.
    ///
    /// # Errors
    /// A file that cannot be read or is none.
    pub fn read(path: &Path) -> Result<Ceiling> {
        let bytes =
            std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&bytes).with_context(|| {
            format!("{} is no file of `pvfs2 bench ceiling -o FILE`", path.display())
        })
    }

    /// The figure nearest to these terms: equal streams before equal size, by ratios.
    pub fn find(
        &self,
        resource: Resource,
        access: &str,
        size: u64,
        streams: u32,
    ) -> Option<&Figure> {
        let apart = |a: f64, b: f64| (a.max(1.0) / b.max(1.0)).ln().abs();
        let distance = |f: &&Figure| {
            10.0 * apart(f64::from(f.streams), f64::from(streams))
                + apart(f.size as f64, size as f64)
        };
        let those = self.figures.iter().filter(|f| f.resource == resource && f.access == access);
        those.min_by(|a, b| distance(a).total_cmp(&distance(b)))
    }

    fn socket(&self, access: &str, size: u64, streams: u32) -> Option<&Figure> {
        let both = [Resource::Tcp, Resource::Unix];
        let found = both.iter().filter_map(|r| self.find(*r, access, size, streams));
        found.max_by(|a, b| a.rate.total_cmp(&b.rate))
    }

    /// The limits of one access of IOR, lowest first.
    pub fn of_ior(&self, results: &ior::Results, operation: &str, mib: f64) -> Vec<Limit> {
        let (spec, streams, size) = (&results.spec, results.clients, results.spec.transfer);
        let mut limits = Vec::new();
        let mut add = |figure: Option<&Figure>, binding| {
            limits.extend(figure.map(|f| limit(f.resource.name().into(), f.rate, mib, binding)));
        };
        let direct = if spec.direct { "-direct" } else { "" };
        let access = format!("{operation}{direct}");
        if results.api == Api::Posix {
            add(self.find(Resource::Fuse, &access, size, streams), true);
        }
        add(self.socket("bandwidth", size, streams), true);
        add(self.find(Resource::Crc, "hash", size, streams), true);
        add(self.find(Resource::MemoryCopy, "copy", size, streams), true);
        let fsync = operation == "write" && spec.fsync;
        let local = if fsync { "write-fsync" } else { operation };
        add(self.find(Resource::LocalFs, local, size, streams), fsync);
        add(self.find(Resource::Tmpfs, operation, size, streams), false);
        limits.sort_by(|a, b| b.binding.cmp(&a.binding).then(a.rate.total_cmp(&b.rate)));
        limits
    }

    /// The limits of one operation of mdtest, lowest first.
    pub fn of_mdtest(&self, results: &mdtest::Results, operation: &str, rate: f64) -> Vec<Limit> {
        let streams = results.clients;
        let trip = self.socket("round trip", 0, streams);
        let fuse = self.find(Resource::Fuse, operation, 0, streams);
        let mut limits = Vec::new();
        match (results.api, fuse, trip) {
            (Api::Posix, Some(fuse), Some(trip)) => {
                let both = 1.0 / (1.0 / fuse.rate.max(1e-9) + 1.0 / trip.rate.max(1e-9));
                let slower = if fuse.rate < trip.rate { "FUSE" } else { trip.resource.name() };
                let words = format!("FUSE + a round trip ({slower} takes most)");
                limits.push(limit(words, both, rate, true));
            }
            (Api::Pvfs2, _, Some(trip)) => {
                let words = format!("a round trip over {}", trip.resource.name());
                limits.push(limit(words, trip.rate, rate, true));
            }
            _ => {}
        }
        for resource in [Resource::Fuse, Resource::LocalFs, Resource::Tmpfs] {
            let found = self.find(resource, operation, 0, streams);
            limits.extend(found.map(|f| limit(resource.name().into(), f.rate, rate, false)));
        }
        limits
    }
}

fn limit(resource: String, rate: f64, reached: f64, binding: bool) -> Limit {
    Limit { resource, rate, percent: 100.0 * reached / rate.max(1e-9), binding }
}

/// A result with its limits.
#[derive(Clone, Debug, Serialize)]
pub struct Shares {
    /// The access or operation.
    pub operation: String,
    /// What was reached.
    pub rate: f64,
    /// The limits; the first binding one is the lowest.
    pub limits: Vec<Limit>,
}

impl Ceiling {
    /// All accesses of an IOR run; its mean rates.
    pub fn shares_of_ior(&self, results: &ior::Results) -> Vec<Shares> {
        let one = |s: &ior::lead::Summary| Shares {
            operation: s.operation.into(),
            rate: s.bw_mib.mean,
            limits: self.of_ior(results, s.operation, s.bw_mib.mean),
        };
        results.summary.iter().map(one).collect()
    }
    /// All operations of an mdtest run; its mean rates.
    pub fn shares_of_mdtest(&self, results: &mdtest::Results) -> Vec<Shares> {
        let one = |s: &mdtest::lead::Summary| Shares {
            operation: s.operation.into(),
            rate: s.rate.mean,
            limits: self.of_mdtest(results, s.operation, s.rate.mean),
        };
        results.summary.iter().map(one).collect()
    }
}

/// The table of shares.
pub fn table(shares: &[Shares], unit: &str) -> String {
    let mut out = format!(
        "\n{:<20} {:>12} {:>10}  limit ({unit})\n",
        "of this machine",
        format!("mean {unit}"),
        "% of limit"
    );
    for s in shares {
        let Some(first) = s.limits.first().filter(|l| l.binding) else {
            let _ = writeln!(
                out,
                "{:<20} {:>12.1} {:>10}  no figure in these terms",
                s.operation, s.rate, "-"
            );
            continue;
        };
        let _ = writeln!(
            out,
            "{:<20} {:>12.1} {:>9.1}%  {}: {:.1}",
            s.operation, s.rate, first.percent, first.resource, first.rate
        );
        for l in s.limits.iter().skip(1) {
            let beside = if l.binding { "" } else { " (for comparison)" };
            let _ = writeln!(
                out,
                "{:<20} {:>12} {:>9.1}%  {}: {:.1}{beside}",
                "", "", l.percent, l.resource, l.rate
            );
        }
    }
    if shares.iter().any(|s| s.limits.iter().any(|l| l.binding && l.percent > 100.0)) {
        out.push_str("above 100 %: answered from a cache, or measured when the machine did more\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(resource: Resource, access: &str, size: u64, streams: u32, rate: f64) -> Figure {
        let unit = Unit::MibPerSecond;
        Figure { resource, access: access.into(), size, streams, rate, unit }
    }

    fn ceiling() -> Ceiling {
        let figures = vec![
            figure(Resource::Fuse, "write", 1 << 20, 4, 1_000.0),
            figure(Resource::Fuse, "write", 4_096, 4, 100.0),
            figure(Resource::Fuse, "write", 1 << 20, 1, 800.0),
            figure(Resource::Tcp, "bandwidth", 1 << 20, 4, 3_000.0),
            figure(Resource::Unix, "bandwidth", 1 << 20, 4, 4_000.0),
            figure(Resource::LocalFs, "write-fsync", 1 << 20, 4, 900.0),
            figure(Resource::LocalFs, "write", 1 << 20, 4, 500.0),
            figure(Resource::Tcp, "round trip", 0, 1, 20_000.0),
            figure(Resource::Fuse, "File stat", 0, 1, 20_000.0),
        ];
        Ceiling { machine: String::new(), figures }
    }

    fn results(api: Api, fsync: bool) -> ior::Results {
        ior::Results {
            api,
            file: String::new(),
            clients: 4,
            hosts: 1,
            spec: ior::Spec { transfer: 1 << 20, fsync, ..ior::Spec::default() },
            rows: Vec::new(),
            summary: Vec::new(),
            damaged: 0,
            damage: None,
            verified: false,
        }
    }

    #[test]
    fn the_lowest_limit_that_must_be_passed_comes_first() {
        let first = |api, fsync| {
            let limits = ceiling().of_ior(&results(api, fsync), "write", 450.0);
            (limits[0].resource.clone(), limits[0].percent)
        };
        assert_eq!(first(Api::Posix, true), ("local file system".into(), 50.0));
        // Without fsync the disk is passed by nobody, however slow it is.
        assert_eq!(first(Api::Posix, false), ("FUSE, nothing behind it".into(), 45.0));
        assert_eq!(first(Api::Pvfs2, false), ("unix sockets".into(), 11.25));
    }

    #[test]
    fn the_nearest_terms_are_taken() {
        let c = ceiling();
        let rate = |size, streams| c.find(Resource::Fuse, "write", size, streams).unwrap().rate;
        assert_eq!((rate(8_192, 4), rate(4_096, 1), rate(2 << 20, 8)), (100.0, 800.0, 1_000.0));
        assert!(c.find(Resource::Fuse, "read", 1, 1).is_none());
    }

    #[test]
    fn metadata_pays_both_crossings() {
        let results = mdtest::Results {
            api: Api::Posix,
            dir: String::new(),
            clients: 1,
            hosts: 1,
            spec: Default::default(),
            rows: Vec::new(),
            summary: Vec::new(),
        };
        let limits = ceiling().of_mdtest(&results, "File stat", 5_000.0);
        assert_eq!((limits[0].rate.round(), limits[0].percent.round()), (10_000.0, 50.0));
        let shares = Shares { operation: "File stat".into(), rate: 5_000.0, limits };
        let text = table(&[shares], "ops/s");
        assert!(text.contains("50.0%  FUSE + a round trip"), "{text}");
    }
}
