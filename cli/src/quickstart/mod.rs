//! A whole file system on this machine: formats on the first start, starts the servers, mounts,
//! waits for a signal, then unmounts and stops everything in that order.
//!
//! Invariants: at most one quickstart per data directory (its lock); whatever happens between the
//! first server's start and the end, servers and mounts end with this process (threads by their
//! drop, child processes by PR_SET_PDEATHSIG too).
//!
//! - [`layout`]: the cluster file of a data directory, made on the first start, refreshed on later
//! - [`servers`]: the servers as threads or as processes
mod layout;
mod servers;

use crate::fsclient::{MountRequest, Mounted};
use crate::mounts;
use crate::output;
use crate::signals::StopSignals;
use crate::state::{DYING_PATIENCE, DataDir, ProcessId, State, show_dirs};
use crate::{daemon, launch};
use anyhow::{Context, Result, bail};
use pvfs2_config::Cluster;
use pvfs2_fuse::options::MountOptions;
use rustix::process::Signal;
use servers::Servers;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long `--stop` waits for a clean end.
const STOP_PATIENCE: Duration = Duration::from_secs(60);

/// What the user wants.
pub struct Wish {
    /// Metadata servers; none: as before, or 1.
    pub meta: Option<u32>,
    /// I/O servers; none: as before, or 4.
    pub io: Option<u32>,
    /// Strips of new files; none: as before, or 64 KiB.
    pub strip_size_bytes: Option<u64>,
    /// Each server a process of its own.
    pub processes: bool,
    /// Mount points, at least one.
    pub mounts: Vec<PathBuf>,
    /// Mount options.
    pub options: String,
}

/// What can be refused before anything is made.
///
/// # Errors
/// No FUSE, a data directory that is something else, or one in use.
pub fn check_before_start(data: &DataDir) -> Result<()> {
    pvfs2_fuse::mount::check_device()?;
    layout::check_directory(data)?;
    if data.run().is_dir() {
        data.lock()?;
    }
    Ok(())
}

/// Runs until a signal comes or the mounts are gone.
///
/// # Errors
/// Whatever keeps it from starting; everything that was started has been ended again.
pub fn run_here(data: &DataDir, wish: Wish) -> Result<()> {
    let options = MountOptions::parse(&wish.options).context("-o")?;
    check_before_start(data)?;
    let dirs = wish.mounts.iter().map(|m| prepare_mount_point(m)).collect::<Result<Vec<_>>>()?;
    if let [a, b] = dirs.as_slice()
        && a == b
    {
        bail!("--mount and --mount2 are the same directory; give --mount2 another one");
    }
    let mut signals = StopSignals::catch()?;
    let _lock = data.lock()?;
    clear_leftovers(data)?;
    let (cluster, news) = layout::prepare(data, &wish)?;
    for line in news {
        output::line(line)?;
    }
    let mut servers = Servers::start(&cluster, data, wish.processes)?;
    let mounted = match mount_all(&cluster, &dirs, &options) {
        Ok(mounted) => mounted,
        Err(e) => {
            servers.stop();
            return Err(e);
        }
    };
    data.write_state(&State { process: ProcessId::me(), mounts: dirs.clone() })?;
    // A reader of these lines that went away early (`| head`) is no reason to stop.
    let told = tell(&cluster, data, &dirs, wish.processes);
    if let Err(e) = daemon::ready().and(told) {
        tracing::info!("cannot write to the terminal ({e})");
    }
    let why = wait_for_end(&mut signals, &mut servers, &mounted);
    if !daemon::is_detached() {
        // The terminal may be gone; ending matters more.
        let _ = output::line(format!("{why}: writing out, unmounting, stopping the servers"));
    }
    tracing::info!("{why}: stopping");
    mounted.into_iter().for_each(Mounted::end);
    servers.stop();
    data.remove_state();
    Ok(())
}

/// Makes a mount point if it is missing; one that holds files is refused, because mounting would
/// hide them.
fn prepare_mount_point(dir: &Path) -> Result<PathBuf> {
    let dir = mounts::lexical(dir)?;
    if let Some(m) = mounts::on(&dir)? {
        if m.fs_type != mounts::FS_TYPE {
            bail!(
                "{} is already a mount point ({} of type {}); choose another with --mount",
                dir.display(),
                m.source,
                m.fs_type
            );
        }
        // Ours: alive is refused, dead is mended, both when mounting.
        return Ok(dir);
    }
    std::fs::create_dir_all(&dir).with_context(|| {
        format!(
            "cannot make the mount point {}; choose one that you may make with --mount",
            dir.display()
        )
    })?;
    let mut entries = std::fs::read_dir(&dir)
        .with_context(|| format!("cannot look into the mount point {}", dir.display()))?;
    if entries.next().is_some() {
        bail!(
            "the mount point {} is not empty, and mounting would hide what is in it; choose an empty one with --mount",
            dir.display()
        );
    }
    Ok(dir.canonicalize().unwrap_or(dir))
}

/// Ends server processes that a killed quickstart left (or that were started by hand since), and
/// takes away its dead mounts.
fn clear_leftovers(data: &DataDir) -> Result<()> {
    for (alias, process) in servers::running_processes(data) {
        output::line(format!(
            "server {alias} (process {}) is left from an earlier run; ending it",
            process.pid
        ))?;
        process.signal(Signal::TERM);
        if !process.wait_gone(Duration::from_secs(15)) {
            process.signal(Signal::KILL);
            process.wait_gone(Duration::from_secs(5));
        }
    }
    if let Some(state) = data.read_state() {
        for dir in mend(&state.mounts)? {
            output::line(format!(
                "took away the dead mount of a crashed run on {}",
                dir.display()
            ))?;
        }
        data.remove_state();
    }
    Ok(())
}

/// Takes away our dead mounts on these directories, whose program is known to have ended; says
/// which. A mount dies with the last of its program's threads, a moment after a kill.
fn mend(dirs: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let until = Instant::now() + DYING_PATIENCE;
    let mut mended = Vec::new();
    for dir in dirs {
        while mounts::on(dir)?.is_some_and(|m| m.fs_type == mounts::FS_TYPE) {
            let look = std::fs::metadata(dir);
            if look.is_err_and(|e| e.raw_os_error() == Some(libc::ENOTCONN)) {
                crate::cmd::umount::unmount(dir, true)?;
                mended.push(dir.clone());
            } else if Instant::now() >= until {
                // Somebody else's, mounted there since: mounting will say so.
                break;
            } else {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
    Ok(mended)
}

fn mount_all(cluster: &Cluster, dirs: &[PathBuf], options: &MountOptions) -> Result<Vec<Mounted>> {
    let spec = cluster
        .specs()
        .into_iter()
        .find(|s| s.starts_with("tcp://"))
        .context("the cluster file has no tcp address")?;
    let mut mounted: Vec<Mounted> = Vec::new();
    for dir in dirs {
        let request = MountRequest {
            spec: spec.parse()?,
            dir: dir.clone(),
            options: options.clone(),
            map: Some(cluster.to_map()),
            key_file: cluster.key_path(),
        };
        match Mounted::new(request) {
            Ok(m) => {
                if let Some(line) = m.mended() {
                    output::line(line)?;
                }
                mounted.push(m);
            }
            Err(e) => {
                mounted.into_iter().for_each(Mounted::end);
                return Err(e);
            }
        }
    }
    Ok(mounted)
}

fn tell(cluster: &Cluster, data: &DataDir, dirs: &[PathBuf], processes: bool) -> Result<()> {
    let metas = cluster.servers.iter().filter(|s| s.meta_range.is_some()).count();
    let ios = cluster.servers.iter().filter(|s| s.io_range.is_some()).count();
    let as_what = if processes { "each a process of its own" } else { "in this process" };
    let first = dirs.first().map(|d| d.display().to_string()).unwrap_or_default();
    let plural = |n: usize, one: &str| format!("{n} {one} server{}", if n == 1 { "" } else { "s" });
    output::line(format!(
        "PVFS2 is running: {} and {} ({as_what}), mounted on {}",
        plural(metas, "metadata"),
        plural(ios, "I/O"),
        show_dirs(dirs)
    ))?;
    output::line(format!(
        "  the file system:  {} (its files and cluster.toml are in {})",
        cluster.specs().iter().find(|s| s.starts_with("tcp://")).map_or("", |s| s),
        data.root.display()
    ))?;
    output::line(format!(
        "  try:              cp -r /etc/services {first}/ && pvfs2 viewdist {first}/services"
    ))?;
    output::line("                    pvfs2 ping; pvfs2 statfs; pvfs2 perf-mon")?;
    let default = Path::new("./pvfs2-data");
    let flag = match DataDir::new(default) {
        Ok(d) if d.root == data.root => String::new(),
        _ => format!(" --data {}", data.root.display()),
    };
    let how = if daemon::is_detached() { "" } else { "Ctrl-C, or " };
    output::line(format!("  stop:             {how}pvfs2 quickstart{flag} --stop"))?;
    Ok(())
}

/// Waits for a signal or the end of all mounts; says which.
fn wait_for_end(signals: &mut StopSignals, servers: &mut Servers, mounted: &[Mounted]) -> String {
    loop {
        if let Some(name) = signals.wait(Duration::from_millis(300)) {
            return name.to_owned();
        }
        servers.look();
        if mounted.iter().all(Mounted::has_ended) {
            return "unmounted from outside".to_owned();
        }
    }
}

/// `--stop`.
///
/// # Errors
/// When the running quickstart does not end in time.
pub fn stop(data: &DataDir) -> Result<()> {
    if !data.run().is_dir() {
        bail!(
            "{} is no data directory of a quickstart; name the right one with --data",
            data.root.display()
        );
    }
    let state = data.read_state();
    if data.try_lock()?.is_some() {
        clear_leftovers(data)?;
        return Ok(output::line(format!("nothing is running on {}", data.root.display()))?);
    }
    let Some(state) = state.filter(|s| s.process.is_alive()) else {
        bail!(
            "a quickstart on {} is just starting or ending; try again in a moment",
            data.root.display()
        );
    };
    state.process.signal(Signal::TERM);
    if !state.process.wait_gone(STOP_PATIENCE) {
        bail!(
            "process {} has not ended within {} s; look at {}, or end it with kill -9 {} and run --stop again",
            state.process.pid,
            STOP_PATIENCE.as_secs(),
            data.log_file("quickstart").display(),
            state.process.pid
        );
    }
    for dir in mend(&state.mounts)? {
        output::line(format!("took away a dead mount on {}", dir.display()))?;
    }
    let are = if state.mounts.len() == 1 { "is" } else { "are" };
    Ok(output::line(format!(
        "stopped; {} {are} unmounted, the files are in {}",
        show_dirs(&state.mounts),
        data.root.display()
    ))?)
}

/// How many event loops one I/O server has when all servers share this process.
const LOOPS_IN_ONE_PROCESS: usize = 1;

fn start_thread_server(cluster: &Cluster, alias: &str) -> Result<launch::RunningServer> {
    launch::start(cluster, alias, LOOPS_IN_ONE_PROCESS)
}
