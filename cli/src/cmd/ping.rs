//! `pvfs2 ping`: asks every server whether it is there: role, version, latency.
use crate::args::FsArgs;
use crate::{fsclient, output, target};
use anyhow::{Result, bail};
use pvfs2_bmi::addr::Address;
use pvfs2_bmi::auth::ClusterKey;
use pvfs2_bmi::client::{Pong, ping};
use pvfs2_proto::ServerEntry;
use serde::Serialize;
use std::time::Duration;

/// Arguments of `pvfs2 ping`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  pvfs2 ping
  pvfs2 ping --fs tcp://localhost:3334/pvfs2-fs --json
Ends with an error when a server does not answer.")]
pub struct PingArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub fs: FsArgs,
    /// How long one server may take to answer
    #[arg(long, default_value_t = 3000, value_name = "MS")]
    pub timeout_ms: u64,
}

#[derive(Serialize)]
struct Row {
    alias: String,
    address: String,
    up: bool,
    roles: String,
    version: String,
    uptime_s: u64,
    sessions: u32,
    latency_us: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Runs it.
///
/// # Errors
/// When no server hands out the configuration, or one of them does not answer.
pub fn run(args: PingArgs) -> Result<()> {
    let target = target::find(&args.fs)?;
    let key = fsclient::key(&args.fs)?;
    let runtime = fsclient::runtime()?;
    let limit = Duration::from_millis(args.timeout_ms.max(1));
    let (map, rows) = runtime.block_on(async {
        let map = fsclient::fetch_map(&target, key.as_ref()).await?;
        let mut rows = Vec::new();
        for entry in &map.servers {
            rows.push(ask(entry, key.as_ref(), limit).await);
        }
        anyhow::Ok((map, rows))
    })?;
    let down = rows.iter().filter(|r| !r.up).count();
    if args.fs.json {
        output::json(&rows)?;
    } else {
        output::line(format!("file system {} (id {:#018x})", map.fs_name, map.fs_id))?;
        for r in &rows {
            output::line(show(r))?;
        }
    }
    if down > 0 {
        bail!("{down} of {} servers do not answer; start them with `pvfs2 server`", rows.len());
    }
    Ok(())
}

fn show(r: &Row) -> String {
    match &r.error {
        None => format!(
            "{:<10} up    {:<8} {:>7} us  version {}, up {} s, {} sessions  {}",
            r.alias, r.roles, r.latency_us, r.version, r.uptime_s, r.sessions, r.address
        ),
        Some(e) => format!("{:<10} DOWN  {e}", r.alias),
    }
}

/// Tries the server's addresses in order. The latency is that of one request on a standing
/// connection.
async fn ask(entry: &ServerEntry, key: Option<&ClusterKey>, limit: Duration) -> Row {
    let mut row = Row {
        alias: entry.alias.clone(),
        address: String::new(),
        up: false,
        roles: String::new(),
        version: String::new(),
        uptime_s: 0,
        sessions: 0,
        latency_us: 0,
        error: Some("it has no address that this program understands".into()),
    };
    for address in Address::of_entry(entry) {
        row.address = address.to_string();
        match tokio::time::timeout(limit, ping(&address, key.cloned(), None)).await {
            Ok(Ok(pong)) => {
                fill(&mut row, pong);
                return row;
            }
            Ok(Err(e)) => row.error = Some(e.detail.into_owned()),
            Err(_) => {
                row.error = Some(format!("{address}: no answer within {} ms", limit.as_millis()))
            }
        }
    }
    row
}

fn fill(row: &mut Row, pong: Pong) {
    row.error = (pong.response.alias != row.alias).then(|| {
        format!(
            "{} answers at {} instead; is the cluster file the same everywhere?",
            pong.response.alias, row.address
        )
    });
    row.up = row.error.is_none();
    row.roles = pong.response.roles;
    row.version = pong.response.version;
    row.uptime_s = pong.response.uptime_s;
    row.sessions = pong.response.sessions;
    row.latency_us = pong.latency.as_micros() as u64;
}
