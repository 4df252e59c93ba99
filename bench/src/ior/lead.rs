//! IOR's coordinator: repetitions and their phases, over workers that are processes of their own.
use super::args::IorArgs;
use super::pattern::{Kind, Phase, Spec};
use super::report;
use crate::api::Api;
use crate::ceiling::{self, limits};
use crate::fleet::{Fleet, Hosts, Sum};
use crate::host::FsChoice;
use crate::job::{self, Job, Setup};
use crate::progress::Progress;
use crate::table::{Percentiles, Stats};
use anyhow::{Result, bail};
use serde::Serialize;

/// One phase of one repetition, as IOR's results table has it.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// write or read.
    pub access: &'static str,
    /// Bytes over the time from the first open to the last close.
    #[serde(rename = "bwMiB")]
    pub bw_mib: f64,
    /// Transfers over the time of the transfers.
    pub iops: f64,
    /// Mean of a transfer, seconds.
    #[serde(rename = "latency")]
    pub latency_s: f64,
    #[serde(rename = "blockKiB")]
    #[allow(missing_docs)]
    pub block_kib: f64,
    #[serde(rename = "xferKiB")]
    #[allow(missing_docs)]
    pub xfer_kib: f64,
    /// The slowest client's open, transfers (with fsync), close; and all together.
    #[serde(rename = "openTime")]
    pub open_s: f64,
    #[serde(rename = "wrRdTime")]
    #[allow(missing_docs)]
    pub access_s: f64,
    #[serde(rename = "closeTime")]
    #[allow(missing_docs)]
    pub close_s: f64,
    #[serde(rename = "totalTime")]
    #[allow(missing_docs)]
    pub total_s: f64,
    /// Bytes moved.
    pub bytes: u64,
    /// Repetition.
    pub iter: u32,
}

/// All repetitions of one kind of access.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// write or read.
    pub operation: &'static str,
    /// MiB/s over the repetitions.
    pub bw_mib: Stats,
    /// Transfers a second.
    pub ops: Stats,
    /// Mean total time.
    pub mean_s: f64,
    /// Latencies of all transfers.
    pub latency: Percentiles,
}

/// What a run found.
#[derive(Clone, Debug, Serialize)]
pub struct Results {
    #[allow(missing_docs)]
    pub api: Api,
    #[allow(missing_docs)]
    pub file: String,
    #[allow(missing_docs)]
    pub clients: u32,
    #[allow(missing_docs)]
    pub hosts: usize,
    /// What each client did.
    pub spec: Spec,
    /// Row by row.
    pub rows: Vec<Row>,
    /// Access by access.
    pub summary: Vec<Summary>,
    /// Transfers whose bytes were wrong, and the first in words.
    pub damaged: u64,
    #[allow(missing_docs)]
    pub damage: Option<String>,
    /// Whether bytes were compared at all.
    pub verified: bool,
}

/// `pvfs2 bench ior`.
///
/// # Errors
/// Arguments that do not fit, a file system that fails, damage that was found.
pub fn run(args: IorArgs) -> Result<()> {
    let summary_file = args.summary_file()?;
    let hosts = args.clients.agents()?;
    args.spec()?;
    print!("{}", report::head(&args));
    print!("{}", report::RESULTS_HEAD);
    let mut progress = Progress::new(args.clients.quiet);
    let results = measure(&args, &hosts, &mut progress, |row| print!("{}", report::row(row)))?;
    let mut text = report::summary(&results);
    print!("{text}");
    let mut json = report::json(&args, &results);
    if let Some(choice) = &args.ceiling {
        let shares = ceiling::for_ior(choice, &args)?.shares_of_ior(&results);
        let table = limits::table(&shares, "MiB/s");
        print!("{table}");
        text += &table;
        json["shares"] = serde_json::to_value(&shares)?;
    }
    let whole = format!("{}{}{text}", report::head(&args), report::rows(&results));
    summary_file.write(&whole, &json, &report::csv(&results))?;
    match (&results.damage, results.damaged) {
        (Some(damage), n) => bail!("{n} transfers hold wrong bytes; the first: {damage}"),
        (None, _) => Ok(()),
    }
}

/// Measures; `each` is called with every row as it comes.
///
/// # Errors
/// A file system that fails, a client that dies.
pub fn measure(
    args: &IorArgs,
    hosts: &Hosts,
    progress: &mut Progress,
    mut each: impl FnMut(&Row),
) -> Result<Results> {
    let (spec, plan, clients) = (args.spec()?, args.plan(), args.clients.clients);
    let fs: FsChoice = args.clients.choice();
    let setup = |rank| Setup {
        job: Job::Ior(spec.clone()),
        api: args.api,
        fs: fs.clone(),
        path: args.file.clone(),
        rank,
        clients,
    };
    let mut fleet = Fleet::start((0..clients).map(setup).collect(), hosts)?;
    let mut run = Run {
        results: Results {
            api: args.api,
            file: args.file.clone(),
            clients,
            hosts: hosts.agents.len().max(1),
            spec: spec.clone(),
            rows: Vec::new(),
            summary: Vec::new(),
            damaged: 0,
            damage: None,
            verified: plan.check_write || plan.check_read,
        },
        hists: Vec::new(),
    };
    for iter in 0..args.repetitions {
        // The last repetition's stamps are those that a later `-r -R` expects.
        let stamp = if plan.write { args.repetitions - 1 - iter } else { 0 };
        let phase = |kind, written: &[u64]| {
            job::Phase::Ior(Phase { kind, stamp, written: written.to_vec() })
        };
        let mut written = Vec::new();
        let mut go = |fleet: &mut Fleet, kind, written: &[u64]| {
            let label = format!("{} {}/{}", name(kind), iter + 1, args.repetitions);
            let total = spec.bytes_per_client() * u64::from(clients);
            let known = if spec.deadline_s.or(spec.duration_s).is_some() { 0 } else { total };
            fleet.phase(&phase(kind, written), &label, known, progress)
        };
        if plan.write {
            if !args.existing {
                go(&mut fleet, Kind::Remove, &[])?;
            }
            let sum = go(&mut fleet, Kind::Write, &[])?;
            each(run.take("write", &spec, &sum, iter));
            written = sum.ops.iter().map(|n| (*n).min(spec.transfers())).collect();
        }
        if plan.check_write {
            let sum = go(&mut fleet, Kind::Check, &written)?;
            run.damage(&sum);
        }
        if plan.read {
            if args.drop_caches {
                fleet.phase_on_hosts(&job::Phase::DropCaches)?;
            }
            let kind = if plan.check_read { Kind::Check } else { Kind::Read };
            let sum = go(&mut fleet, kind, &written)?;
            run.damage(&sum);
            each(run.take("read", &spec, &sum, iter));
        }
        if !args.keep && plan.write && run.results.damaged == 0 {
            go(&mut fleet, Kind::Remove, &[])?;
        }
    }
    fleet.end();
    Ok(run.finish())
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Write => "write",
        Kind::Read => "read",
        Kind::Check => "read and compare",
        Kind::Remove => "remove",
    }
}

struct Run {
    results: Results,
    hists: Vec<(&'static str, crate::hist::Hist)>,
}

impl Run {
    fn take(&mut self, access: &'static str, spec: &Spec, sum: &Sum, iter: u32) -> &Row {
        let whole = &sum.whole;
        let row = Row {
            access,
            bw_mib: whole.bytes as f64 / 1_048_576.0 / sum.total_s.max(1e-9),
            iops: whole.ops as f64 / whole.access_s.max(1e-9),
            latency_s: whole.hist.mean_us() / 1e6,
            block_kib: spec.block as f64 / 1024.0,
            xfer_kib: spec.transfer as f64 / 1024.0,
            open_s: whole.open_s,
            access_s: whole.access_s,
            close_s: whole.close_s,
            total_s: sum.total_s,
            bytes: whole.bytes,
            iter,
        };
        match self.hists.iter_mut().find(|(name, _)| *name == access) {
            Some((_, hist)) => hist.merge(&whole.hist),
            None => self.hists.push((access, whole.hist.clone())),
        }
        let at = self.results.rows.len();
        self.results.rows.push(row);
        &self.results.rows[at]
    }

    fn damage(&mut self, sum: &Sum) {
        self.results.damaged += sum.whole.damaged;
        if self.results.damage.is_none() {
            self.results.damage.clone_from(&sum.whole.damage);
        }
    }

    fn finish(mut self) -> Results {
        for (operation, hist) in &self.hists {
            let those = || self.results.rows.iter().filter(|r| r.access == *operation);
            let list = |f: fn(&Row) -> f64| those().map(f).collect::<Vec<_>>();
            self.results.summary.push(Summary {
                operation,
                bw_mib: Stats::of(&list(|r| r.bw_mib)),
                ops: Stats::of(&list(|r| r.iops)),
                mean_s: Stats::of(&list(|r| r.total_s)).mean,
                latency: hist.into(),
            });
        }
        self.results
    }
}
