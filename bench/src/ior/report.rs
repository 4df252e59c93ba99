//! IOR's tables, the percentiles below them, and the summary files.
use super::args::IorArgs;
use super::lead::{Results, Row};
use crate::table;
use serde_json::{Value, json};
use std::fmt::Write;

/// The head of the results table.
pub const RESULTS_HEAD: &str = "\
Results:

access    bw(MiB/s)  IOPS       Latency(s)  block(KiB) xfer(KiB)  open(s)    wr/rd(s)   close(s)   total(s)   iter
------    ---------  ----       ----------  ---------- ---------  --------   --------   --------   --------   ----
";

fn size(bytes: u64) -> String {
    for (unit, name) in [(1u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
        if bytes >= unit {
            let value = bytes as f64 / unit as f64;
            return if bytes.is_multiple_of(unit) {
                format!("{value:.0} {name}")
            } else {
                format!("{value:.2} {name}")
            };
        }
    }
    format!("{bytes} bytes")
}

/// What is about to be measured.
pub fn head(args: &IorArgs) -> String {
    let clients = u64::from(args.clients.clients);
    let hosts = args.clients.hosts.len().max(1);
    let ordering = match (args.file_per_proc, args.random) {
        (_, true) => "random",
        _ => "sequential",
    };
    let access = if args.file_per_proc { "file-per-process" } else { "single-shared-file" };
    let mut out = String::from("pvfs2 bench ior (IOR's terms)\n\nOptions:\n");
    let mut line = |name: &str, value: String| {
        let _ = writeln!(out, "{name:<20}: {value}");
    };
    line("api", args.api.name().into());
    line("test filename", args.file.clone());
    line("access", access.into());
    line("segments", args.segment_count.to_string());
    line("ordering in a file", ordering.into());
    line(
        "ordering inter file",
        match args.reorder_tasks {
            true => format!("constant task offset = {}", args.task_offset),
            false => "no tasks offsets".into(),
        },
    );
    line("nodes", hosts.to_string());
    line("tasks", clients.to_string());
    line("repetitions", args.repetitions.to_string());
    line("xfersize", size(args.transfer_size));
    line("blocksize", size(args.block_size));
    line(
        "aggregate filesize",
        size(args.block_size.saturating_mul(args.segment_count).saturating_mul(clients)),
    );
    let mut more = Vec::new();
    for (is_on, word) in [
        (args.direct, "O_DIRECT"),
        (args.fsync, "fsync before close"),
        (args.fsync_per_write, "fsync per write"),
        (args.check_write || args.check_read, "verified"),
        (args.drop_caches, "page cache dropped before reads"),
    ] {
        if is_on {
            more.push(word.to_owned());
        }
    }
    more.extend(args.deadline.map(|s| format!("stonewall after {s} s")));
    more.extend(args.duration.map(|s| format!("each phase {s} s")));
    if !more.is_empty() {
        line("besides", more.join(", "));
    }
    out.push('\n');
    out
}

/// One line of the results table.
pub fn row(r: &Row) -> String {
    format!(
        "{:<9} {:<10.2} {:<10.2} {:<11.6} {:<10.2} {:<10.2} {:<10.6} {:<10.6} {:<10.6} {:<10.6} {:<4}\n",
        r.access,
        r.bw_mib,
        r.iops,
        r.latency_s,
        r.block_kib,
        r.xfer_kib,
        r.open_s,
        r.access_s,
        r.close_s,
        r.total_s,
        r.iter
    )
}

/// The tables after the results.
pub fn summary(results: &Results) -> String {
    let mut out = String::from("\nSummary of all tests:\n");
    let _ = writeln!(
        out,
        "{:<9} {:>11} {:>11} {:>11} {:>10} {:>11} {:>11} {:>11} {:>10} {:>10} {:>6} {:>4} {:>4} {:>3} {:>7} {:>10} {:>9} {:>10} {:>5}",
        "Operation",
        "Max(MiB)",
        "Min(MiB)",
        "Mean(MiB)",
        "StdDev",
        "Max(OPs)",
        "Min(OPs)",
        "Mean(OPs)",
        "StdDev",
        "Mean(s)",
        "#Tasks",
        "tPN",
        "reps",
        "fPP",
        "segcnt",
        "blksiz",
        "xsize",
        "aggs(MiB)",
        "API"
    );
    for s in &results.summary {
        let reps = results.rows.iter().filter(|r| r.access == s.operation).count();
        let bytes = results.rows.iter().find(|r| r.access == s.operation).map_or(0, |r| r.bytes);
        let _ = writeln!(
            out,
            "{:<9} {:>11.2} {:>11.2} {:>11.2} {:>10.2} {:>11.2} {:>11.2} {:>11.2} {:>10.2} {:>10.5} {:>6} {:>4} {:>4} {:>3} {:>7} {:>10} {:>9} {:>10.1} {:>5}",
            s.operation,
            s.bw_mib.max,
            s.bw_mib.min,
            s.bw_mib.mean,
            s.bw_mib.std_dev,
            s.ops.max,
            s.ops.min,
            s.ops.mean,
            s.ops.std_dev,
            s.mean_s,
            results.clients,
            (results.clients as usize).div_ceil(results.hosts),
            reps,
            u8::from(results.spec.file_per_proc),
            results.spec.segments,
            results.spec.block,
            results.spec.transfer,
            bytes as f64 / 1_048_576.0,
            results.api.name()
        );
    }
    out.push('\n');
    out += &table::percentiles(results.summary.iter().map(|s| (s.operation, s.latency.clone())));
    for s in &results.summary {
        let access = if s.operation == "write" { "Write" } else { "Read:" };
        let _ = writeln!(
            out,
            "Max {access:<6} {:.2} MiB/sec ({:.2} MB/sec)",
            s.bw_mib.max,
            s.bw_mib.max * 1.048_576
        );
    }
    if results.verified {
        let _ = match results.damaged {
            0 => writeln!(out, "every byte that was read back was the one that belongs there"),
            n => writeln!(out, "WRONG BYTES in {n} transfers"),
        };
    }
    out
}

/// The results table.
pub fn rows(results: &Results) -> String {
    let rows: String = results.rows.iter().map(row).collect();
    format!("{RESULTS_HEAD}{rows}")
}

/// A row for each phase of each repetition.
pub fn csv(results: &Results) -> String {
    let mut out = String::from(
        "access,bw(MiB/s),IOPS,Latency(s),block(KiB),xfer(KiB),open(s),wr/rd(s),close(s),total(s),numTasks,iter\n",
    );
    for r in &results.rows {
        let _ = writeln!(
            out,
            "{},{:.4},{:.4},{:.9},{:.2},{:.2},{:.6},{:.6},{:.6},{:.6},{},{}",
            r.access,
            r.bw_mib,
            r.iops,
            r.latency_s,
            r.block_kib,
            r.xfer_kib,
            r.open_s,
            r.access_s,
            r.close_s,
            r.total_s,
            results.clients,
            r.iter
        );
    }
    out
}

/// IOR's JSON, with the percentiles beside.
pub fn json(args: &IorArgs, results: &Results) -> Value {
    json!({
        "Version": format!("pvfs2 bench ior {}", env!("CARGO_PKG_VERSION")),
        "Command line": std::env::args().collect::<Vec<_>>().join(" "),
        "Machine": rustix::system::uname().nodename().to_string_lossy(),
        "tests": [{
            "TestID": 0,
            "Parameters": {
                "api": args.api,
                "testFileName": args.file,
                "repetitions": args.repetitions,
                "numTasks": results.clients,
                "nodes": results.hosts,
                "seed": args.seed,
                "spec": results.spec,
            },
            "Results": results.rows,
        }],
        "summary": results.summary,
        "verified": results.verified,
        "damagedTransfers": results.damaged,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ior::pattern::Spec;

    fn results() -> Results {
        let row = Row {
            access: "write",
            bw_mib: 123.456,
            iops: 10.0,
            latency_s: 0.01,
            block_kib: 1024.0,
            xfer_kib: 256.0,
            open_s: 0.001,
            access_s: 0.5,
            close_s: 0.002,
            total_s: 0.503,
            bytes: 64 << 20,
            iter: 0,
        };
        Results {
            api: crate::api::Api::Posix,
            file: "f".into(),
            clients: 2,
            hosts: 1,
            spec: Spec::default(),
            summary: Vec::new(),
            rows: vec![row],
            damaged: 0,
            damage: None,
            verified: true,
        }
    }

    #[test]
    fn tables_have_iors_columns() {
        let text = rows(&results()) + &summary(&results());
        assert!(text.contains("access    bw(MiB/s)  IOPS"), "{text}");
        assert!(text.contains("write     123.46     10.00"), "{text}");
        assert!(text.contains("every byte"), "{text}");
        let csv = csv(&results());
        assert_eq!(csv.lines().nth(1).unwrap().split(',').count(), 12);
        let json = json(&IorArgs::default(), &results());
        assert_eq!(json["tests"][0]["Results"][0]["bwMiB"], 123.456);
        assert!(head(&IorArgs::default()).contains("xfersize            : 256 KiB"));
    }

    #[test]
    fn sizes() {
        assert_eq!(size(47_008), "45.91 KiB");
        assert_eq!(size(1 << 30), "1 GiB");
        assert_eq!(size(5), "5 bytes");
    }
}
