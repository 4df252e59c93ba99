//! `pvfs2 statfs`: free space as a whole (as `df` shows it) and server by server.
use crate::args::FsArgs;
use crate::fsclient::Fs;
use crate::output::{self, human_bytes};
use crate::target;
use anyhow::{Context, Result, bail};
use pvfs2_bmi::call::{Call, Net};
use pvfs2_client::sys::Statfs;
use pvfs2_proto::op::{IoStatfsRequest, OpRequest, OpResponse, StatfsRequest};
use pvfs2_proto::{ClusterMap, ServerId};
use serde::Serialize;

/// Arguments of `pvfs2 statfs`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  pvfs2 statfs
  pvfs2 statfs --fs tcp://localhost:3334/pvfs2-fs --json
As in PVFS2, the free space of the whole is the smallest free space of an I/O server times their
number: that is what files striped over all of them can still take. Servers that keep their data on
one disk share its space, and are counted so.")]
pub struct StatfsArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub fs: FsArgs,
}

#[derive(Serialize)]
struct Shown {
    file_system: String,
    bytes_total: u64,
    bytes_free: u64,
    handles_used: u64,
    handles_free: u64,
    servers: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    alias: String,
    role: &'static str,
    bytes_total: u64,
    bytes_free: u64,
    objects: u64,
}

/// Runs it.
///
/// # Errors
/// When a server does not answer.
pub fn run(args: StatfsArgs) -> Result<()> {
    let target = target::find(&args.fs)?;
    let fs = Fs::open(&args.fs, &target)?;
    let shown = look(&fs);
    fs.end();
    let shown = shown?;
    if args.fs.json {
        return output::json(&shown);
    }
    output::line(format!(
        "{}: {} free of {}, {} objects",
        shown.file_system,
        human_bytes(shown.bytes_free),
        human_bytes(shown.bytes_total),
        shown.handles_used
    ))?;
    for r in &shown.servers {
        output::line(format!(
            "  {:<10} {:<5} {:>12} free of {:>12}, {} {}",
            r.alias,
            r.role,
            human_bytes(r.bytes_free),
            human_bytes(r.bytes_total),
            r.objects,
            if r.role == "io" { "datafiles" } else { "objects" }
        ))?;
    }
    Ok(())
}

fn look(fs: &Fs) -> Result<Shown> {
    let whole = fs.run(Statfs::new())?;
    let map = fs.map().clone();
    Ok(Shown {
        file_system: map.fs_name.clone(),
        bytes_total: whole.bytes_total,
        bytes_free: whole.bytes_free,
        handles_used: whole.handles_used,
        handles_free: whole.handles_free,
        servers: rows(fs, &map)?,
    })
}

/// Asks every server for its share, all at once.
fn rows(fs: &Fs, map: &ClusterMap) -> Result<Vec<Row>> {
    let meta = map.meta_servers().map(|s| (s, OpRequest::Statfs(StatfsRequest {})));
    let io = map.io_servers().map(|s| (s, OpRequest::IoStatfs(IoStatfsRequest {})));
    let asked: Vec<(ServerId, OpRequest)> = meta.chain(io).collect();
    let cx = fs.op().cx;
    let answers = fs.background.wait(move |worker| async move {
        let mut calls: Vec<Call<'_>> = asked.into_iter().map(|(s, op)| Call::new(s, op)).collect();
        worker.net().exchange(&cx, &mut calls).await;
        Ok(calls.into_iter().map(|c| (c.server, c.result)).collect::<Vec<_>>())
    })?;
    let mut rows = Vec::new();
    for (server, result) in answers {
        let alias = map.alias(server).to_owned();
        let reply = result.with_context(|| format!("{alias} gave no answer"))??;
        rows.push(match reply.op {
            Some(OpResponse::Statfs(r)) => Row {
                alias,
                role: "meta",
                bytes_total: r.bytes_total,
                bytes_free: r.bytes_free,
                objects: r.handles_used,
            },
            Some(OpResponse::IoStatfs(r)) => Row {
                alias,
                role: "io",
                bytes_total: r.bytes_total,
                bytes_free: r.bytes_free,
                objects: r.datafiles,
            },
            _ => bail!("{alias} answered something else than statfs; is it of another version?"),
        });
    }
    Ok(rows)
}
