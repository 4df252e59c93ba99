//! mdtest's table, the percentiles below it, and the summary files.
use super::args::MdtestArgs;
use super::lead::Results;
use super::tree::Spec;
use crate::table;
use serde_json::{Value, json};
use std::fmt::Write;

/// What is about to be measured.
pub fn head(args: &MdtestArgs, spec: &Spec) -> String {
    let clients = args.clients.clients;
    let items = spec.items() * u64::from(clients);
    let mut out = format!(
        "pvfs2 bench mdtest (mdtest's terms): {} tasks on {} nodes, {}, {}\n",
        clients,
        args.clients.hosts.len().max(1),
        args.api.name(),
        args.dir
    );
    let what = match (args.files_only, args.dirs_only) {
        (true, _) => "files",
        (_, true) => "directories",
        _ => "files/directories",
    };
    let _ = writeln!(
        out,
        "{clients} tasks, {items} {what} in {} {}{}{}\n",
        spec.dirs(),
        if spec.dirs() == 1 { "directory" } else { "directories" },
        if spec.unique { " of each task" } else { "" },
        match spec.write_bytes {
            0 => String::new(),
            n => format!(", {n} bytes written to each file"),
        }
    );
    out
}

/// mdtest's table and the percentiles.
pub fn summary(results: &Results) -> String {
    let iterations = results.rows.iter().map(|r| r.iter + 1).max().unwrap_or(0);
    let mut out = format!("SUMMARY rate (in ops/sec): (of {iterations} iterations)\n");
    let _ = writeln!(
        out,
        "   {:<22} {:>14} {:>14} {:>14} {:>14}",
        "Operation", "Max", "Min", "Mean", "Std Dev"
    );
    let _ = writeln!(
        out,
        "   {:<22} {:>14} {:>14} {:>14} {:>14}",
        "---------", "---", "---", "----", "-------"
    );
    for s in &results.summary {
        let _ = writeln!(
            out,
            "   {:<22} {:>14.3} {:>14.3} {:>14.3} {:>14.3}",
            s.operation, s.rate.max, s.rate.min, s.rate.mean, s.rate.std_dev
        );
    }
    out.push('\n');
    out += &table::percentiles(results.summary.iter().map(|s| (s.operation, s.latency.clone())));
    out
}

/// A row for each step of each repetition.
pub fn csv(results: &Results) -> String {
    let mut out = String::from("operation,rate(ops/s),seconds,ops,numTasks,iter\n");
    for r in &results.rows {
        let _ = writeln!(
            out,
            "{},{:.3},{:.6},{},{},{}",
            r.operation, r.rate, r.seconds, r.ops, results.clients, r.iter
        );
    }
    out
}

/// Everything.
pub fn json(args: &MdtestArgs, results: &Results) -> Value {
    json!({
        "Version": format!("pvfs2 bench mdtest {}", env!("CARGO_PKG_VERSION")),
        "Command line": std::env::args().collect::<Vec<_>>().join(" "),
        "Machine": rustix::system::uname().nodename().to_string_lossy(),
        "Parameters": {
            "api": args.api,
            "dir": args.dir,
            "iterations": args.iterations,
            "numTasks": results.clients,
            "nodes": results.hosts,
            "spec": results.spec,
        },
        "Results": results.rows,
        "summary": results.summary,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mdtest::lead::{Row, Summary};
    use crate::table::{Percentiles, Stats};

    #[test]
    fn tables_have_mdtests_columns() {
        let row = |iter, rate| Row { operation: "File stat", rate, seconds: 0.1, ops: 10, iter };
        let results = Results {
            api: crate::api::Api::Posix,
            dir: "d".into(),
            clients: 2,
            hosts: 1,
            spec: Spec::default(),
            rows: vec![row(0, 100.0), row(1, 300.0)],
            summary: vec![Summary {
                operation: "File stat",
                rate: Stats::of(&[100.0, 300.0]),
                latency: Percentiles::default(),
            }],
        };
        let text = summary(&results);
        assert!(text.contains("(of 2 iterations)"), "{text}");
        let line = text.lines().find(|l| l.contains("File stat")).unwrap();
        let fields: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(fields, ["File", "stat", "300.000", "100.000", "200.000", "100.000"]);
        assert_eq!(csv(&results).lines().count(), 3);
    }
}
