//! `pvfs2 perf-mon`: the servers' counters and latencies, from their management services.
use crate::args::FsArgs;
use crate::{fsclient, output, target};
use anyhow::{Result, bail};
use pvfs2_proto::ClusterMap;
use pvfs2_server_core::management::{OpCounters, client};
use serde::Serialize;
use std::collections::HashMap;
use std::time::Duration;

/// Arguments of `pvfs2 perf-mon`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  pvfs2 perf-mon                   everything since the servers' starts
  pvfs2 perf-mon --watch           what happens now, every second
  pvfs2 perf-mon --server io1 --json")]
pub struct PerfMonArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub fs: FsArgs,
    /// Show what was counted since the last look, again and again; seconds between looks
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1")]
    pub watch: Option<f64>,
    /// Only this server; repeat for more
    #[arg(long, value_name = "ALIAS")]
    pub server: Vec<String>,
}

#[derive(Serialize, Clone)]
struct Row {
    server: String,
    op: String,
    count: u64,
    errors: u64,
    mean_us: f64,
    p50_us: f64,
    p95_us: f64,
    p99_us: f64,
    max_us: f64,
    bytes_in: u64,
    bytes_out: u64,
}

type Seen = HashMap<(String, String), OpCounters>;

/// Runs it.
///
/// # Errors
/// When no server hands out the configuration or no management service answers.
pub fn run(args: PerfMonArgs) -> Result<()> {
    let target = target::find(&args.fs)?;
    let key = fsclient::key(&args.fs)?;
    let runtime = fsclient::runtime()?;
    let map = runtime.block_on(fsclient::fetch_map(&target, key.as_ref()))?;
    let asked = choose(&map, &args.server)?;
    let mut seen = Seen::new();
    let (rows, mut problems) = runtime.block_on(look(&asked, &mut seen));
    let pause = args.watch.map(|s| Duration::from_secs_f64(s.clamp(0.05, 86_400.0)));
    let Some(pause) = pause else {
        print(&args, &rows)?;
        problems.iter().for_each(|p| eprintln!("pvfs2: {p}"));
        if problems.len() == asked.len() {
            bail!("no management service answers");
        }
        return Ok(());
    };
    loop {
        problems.iter().for_each(|p| eprintln!("pvfs2: {p}"));
        std::thread::sleep(pause);
        let rows;
        (rows, problems) = runtime.block_on(look(&asked, &mut seen));
        print(&args, &rows)?;
    }
}

fn choose(map: &ClusterMap, only: &[String]) -> Result<Vec<(String, String)>> {
    for alias in only {
        if map.by_alias(alias).is_none() {
            let all: Vec<&str> = map.servers.iter().map(|s| s.alias.as_str()).collect();
            bail!("there is no server '{alias}'; there are {}", all.join(", "));
        }
    }
    let asked: Vec<_> = map
        .servers
        .iter()
        .filter(|s| only.is_empty() || only.contains(&s.alias))
        .filter(|s| !s.management.is_empty())
        .map(|s| (s.alias.clone(), s.management.clone()))
        .collect();
    if asked.is_empty() {
        bail!(
            "no server has a management service; add management = \"http://HOST:PORT\" to the cluster file"
        );
    }
    Ok(asked)
}

/// What was counted since the last look, and who did not answer.
async fn look(asked: &[(String, String)], seen: &mut Seen) -> (Vec<Row>, Vec<String>) {
    let (mut rows, mut problems) = (Vec::new(), Vec::new());
    for (alias, address) in asked {
        match client::counters(address).await {
            Ok(answer) => {
                for now in answer.ops {
                    let key = (alias.clone(), now.op.clone());
                    let row = since(alias, &now, seen.get(&key));
                    rows.extend(row.filter(|r| r.count > 0));
                    seen.insert(key, now);
                }
            }
            Err(e) => problems.push(format!("{alias}: {}", e.detail)),
        }
    }
    (rows, problems)
}

/// Counts and means since `before`; quantiles are those of the server's whole life. `None` when the
/// server has restarted in between and counts less than before.
fn since(alias: &str, now: &OpCounters, before: Option<&OpCounters>) -> Option<Row> {
    let zero = OpCounters::default();
    let before = before.filter(|b| b.count <= now.count).unwrap_or(&zero);
    let count = now.count - before.count;
    let sum_ns = now.sum_ns.saturating_sub(before.sum_ns);
    let us = |ns: u64| ns as f64 / 1000.0;
    (count > 0).then(|| Row {
        server: alias.to_owned(),
        op: now.op.clone(),
        count,
        errors: now.errors.saturating_sub(before.errors),
        mean_us: us(sum_ns) / count as f64,
        p50_us: us(now.p50_ns),
        p95_us: us(now.p95_ns),
        p99_us: us(now.p99_ns),
        max_us: us(now.max_ns),
        bytes_in: now.bytes_in.saturating_sub(before.bytes_in),
        bytes_out: now.bytes_out.saturating_sub(before.bytes_out),
    })
}

fn print(args: &PerfMonArgs, rows: &[Row]) -> Result<()> {
    if args.fs.json {
        return output::json(&rows);
    }
    output::line(format!(
        "{:<10} {:<14} {:>9} {:>6} {:>10} {:>10} {:>10} {:>10} {:>11} {:>11}",
        "server", "op", "count", "errors", "mean us", "p50 us", "p99 us", "max us", "in", "out"
    ))?;
    for r in rows {
        output::line(format!(
            "{:<10} {:<14} {:>9} {:>6} {:>10.1} {:>10.1} {:>10.1} {:>10.1} {:>11} {:>11}",
            r.server,
            r.op,
            r.count,
            r.errors,
            r.mean_us,
            r.p50_us,
            r.p99_us,
            r.max_us,
            output::human_bytes(r.bytes_in),
            output::human_bytes(r.bytes_out)
        ))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_survive_a_restart() {
        let c = |count, sum_ns| OpCounters {
            op: "io_read".into(),
            count,
            sum_ns,
            ..Default::default()
        };
        let row = since("io1", &c(10, 5_000), Some(&c(8, 1_000))).unwrap();
        assert_eq!((row.count, row.mean_us), (2, 2.0));
        assert_eq!(since("io1", &c(3, 3_000), Some(&c(8, 1_000))).unwrap().count, 3);
        assert!(since("io1", &c(8, 1_000), Some(&c(8, 1_000))).is_none());
    }
}
