//! mdtest's coordinator: repetitions and their steps, over workers that are processes of their own.
use super::args::MdtestArgs;
use super::report;
use super::tree::{Phase, Spec, Step};
use crate::api::Api;
use crate::ceiling::{self, limits};
use crate::fleet::{Fleet, Hosts};
use crate::hist::Hist;
use crate::job::{self, Job, Setup};
use crate::progress::Progress;
use crate::table::{Percentiles, Stats};
use anyhow::Result;
use serde::Serialize;

/// One step of one repetition.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// As mdtest calls it.
    pub operation: &'static str,
    /// Operations a second, from the first client's beginning to the last one's end.
    pub rate: f64,
    /// That time.
    pub seconds: f64,
    /// Operations.
    pub ops: u64,
    /// Repetition.
    pub iter: u32,
}

/// All repetitions of one step.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// As mdtest calls it.
    pub operation: &'static str,
    /// Rates over the repetitions.
    pub rate: Stats,
    /// Latencies of all operations.
    pub latency: Percentiles,
}

/// What a run found.
#[derive(Clone, Debug, Serialize)]
pub struct Results {
    #[allow(missing_docs)]
    pub api: Api,
    #[allow(missing_docs)]
    pub dir: String,
    #[allow(missing_docs)]
    pub clients: u32,
    #[allow(missing_docs)]
    pub hosts: usize,
    /// What each client did.
    pub spec: Spec,
    /// Step by step.
    pub rows: Vec<Row>,
    /// Operation by operation.
    pub summary: Vec<Summary>,
}

/// `pvfs2 bench mdtest`.
///
/// # Errors
/// Arguments that do not fit, a file system that fails.
pub fn run(args: MdtestArgs) -> Result<()> {
    let summary_file = args.summary_file()?;
    let hosts = args.clients.agents()?;
    let head = report::head(&args, &args.spec()?);
    print!("{head}");
    let results = measure(&args, &hosts, &mut Progress::new(args.clients.quiet))?;
    let mut text = report::summary(&results);
    print!("{text}");
    let mut json = report::json(&args, &results);
    if let Some(choice) = &args.ceiling {
        let shares = ceiling::for_mdtest(choice, &args)?.shares_of_mdtest(&results);
        let table = limits::table(&shares, "ops/s");
        print!("{table}");
        text += &table;
        json["shares"] = serde_json::to_value(&shares)?;
    }
    summary_file.write(&format!("{head}{text}"), &json, &report::csv(&results))
}

/// Measures.
///
/// # Errors
/// A file system that fails, a client that dies.
pub fn measure(args: &MdtestArgs, hosts: &Hosts, progress: &mut Progress) -> Result<Results> {
    let (spec, clients, fs) = (args.spec()?, args.clients.clients, args.clients.choice());
    let setup = |rank| Setup {
        job: Job::Mdtest(spec.clone()),
        api: args.api,
        fs: fs.clone(),
        path: args.dir.clone(),
        rank,
        clients,
    };
    let mut fleet = Fleet::start((0..clients).map(setup).collect(), hosts)?;
    let steps = args.steps();
    let mut hists: Vec<(Step, Hist)> = Vec::new();
    let mut results = Results {
        api: args.api,
        dir: args.dir.clone(),
        clients,
        hosts: hosts.agents.len().max(1),
        spec: spec.clone(),
        rows: Vec::new(),
        summary: Vec::new(),
    };
    for iter in 0..args.iterations {
        for &step in &steps {
            let label = format!("{} {}/{}", step.name(), iter + 1, args.iterations);
            let phase = job::Phase::Mdtest(Phase { step, iter });
            let sum = fleet.phase(&phase, &label, 0, progress)?;
            let ops = sum.whole.ops;
            results.rows.push(Row {
                operation: step.name(),
                rate: ops as f64 / sum.total_s.max(1e-9),
                seconds: sum.total_s,
                ops,
                iter,
            });
            match hists.iter_mut().find(|(s, _)| *s == step) {
                Some((_, hist)) => hist.merge(&sum.whole.hist),
                None => hists.push((step, sum.whole.hist)),
            }
        }
    }
    fleet.end();
    for (step, hist) in &hists {
        let those = results.rows.iter().filter(|r| r.operation == step.name());
        let rates: Vec<f64> = those.map(|r| r.rate).collect();
        results.summary.push(Summary {
            operation: step.name(),
            rate: Stats::of(&rates),
            latency: hist.into(),
        });
    }
    Ok(results)
}
