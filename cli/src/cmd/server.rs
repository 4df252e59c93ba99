//! `pvfs2 server`: runs one server of a cluster until a signal comes.
use crate::signals::StopSignals;
use crate::state::write_pid_file;
use crate::{daemon, launch, output};
use anyhow::{Context, Result, bail};
use pvfs2_config::Cluster;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Arguments of `pvfs2 server`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  pvfs2 server --config /etc/pvfs2/cluster.toml --alias io0
  pvfs2 server --config pvfs2-data/cluster.toml --alias io1     start one of a quickstart again
The server runs in the foreground, logs to stderr (--log-level, RUST_LOG) and prints one line when it
is ready. SIGTERM and SIGINT stop it cleanly.")]
pub struct ServerArgs {
    /// The cluster file
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Which of its servers
    #[arg(long, value_name = "ALIAS")]
    pub alias: String,
    /// Event loops of an I/O server [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub loops: Option<u32>,
    /// Write the process id here (below a quickstart's data directory this is done anyway)
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// End when this process ends, which must be the parent
    #[arg(long, value_name = "PID", hide = true)]
    pub parent: Option<i32>,
}

/// Runs it.
///
/// # Errors
/// Whatever keeps the server from starting, or from stopping cleanly.
pub fn run(args: ServerArgs) -> Result<()> {
    if let Some(parent) = args.parent {
        end_with(parent)?;
        daemon::become_daemon();
    }
    let mut signals = StopSignals::catch()?;
    let cluster = Cluster::load(&args.config)?;
    if cluster.by_alias(&args.alias).is_none() {
        bail!("the cluster file names no server '{}'; it has {}", args.alias, cluster.aliases());
    }
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let loops = args.loops.map_or(cores, |n| n as usize);
    let server = launch::start(&cluster, &args.alias, loops)?;
    let pid_file = args.pid_file.or_else(|| quickstart_pid_file(&args.config, &args.alias));
    if let Some(path) = &pid_file {
        write_pid_file(path)?;
    }
    output::line(format!("{}: ready at {}", args.alias, server.addresses().join(" ")))?;
    daemon::ready()?;
    let why = loop {
        if let Some(name) = signals.wait(Duration::from_millis(500)) {
            break name;
        }
        if server.has_failed() {
            break "a failure";
        }
        if server.was_told_to_end() {
            break "an order of the management service";
        }
    };
    tracing::info!("{why}: stopping {}", args.alias);
    let stopped = server.stop();
    if let Some(path) = &pid_file {
        // Gone already is as good.
        let _ = std::fs::remove_file(path);
    }
    stopped
}

/// `DATA/run/ALIAS.pid` when the cluster file is the one of a quickstart's data directory.
fn quickstart_pid_file(config: &Path, alias: &str) -> Option<PathBuf> {
    let run = config.parent()?.join("run");
    run.join("lock").is_file().then(|| run.join(format!("{alias}.pid")))
}

fn end_with(parent: i32) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::TERM))
        .context("cannot tie this server to its parent")?;
    // The parent may have ended before the line above.
    if getppid() != Pid::from_raw(parent) {
        bail!("the parent process {parent} is gone");
    }
    Ok(())
}
