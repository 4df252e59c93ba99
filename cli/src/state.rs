//! The data directory of `quickstart` and what tells about the processes that use it.
//!
//! | below DATA | |
//! |---|---|
//! | `cluster.toml` | the cluster file; there as soon as every storage space is formatted |
//! | `cluster.toml.new` | the same while the first start has not ended |
//! | `storage/ALIAS/` | storage spaces |
//! | `run/lock` | locked (flock) by the quickstart that runs on this directory |
//! | `run/state.json` | its pid and mount points, while it runs |
//! | `run/ALIAS.pid` | pid and start time of a server that is a process of its own |
//! | `run/*.sock`, `run/*.log` | sockets, logs |
//!
//! Invariant: whoever holds the lock owns everything here; a state file without a held lock is what
//! a killed quickstart left.
use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long something that was killed just now may take to let go of locks and mounts.
pub const DYING_PATIENCE: Duration = Duration::from_secs(3);

/// Paths below a data directory.
#[derive(Clone, Debug)]
pub struct DataDir {
    /// The directory, absolute.
    pub root: PathBuf,
}

/// What a running quickstart tells.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct State {
    /// The process that mounts (and, without --processes, serves).
    pub process: ProcessId,
    /// Its mount points.
    pub mounts: Vec<PathBuf>,
}

/// A process, told apart from a later one with the same pid.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct ProcessId {
    /// The pid.
    pub pid: i32,
    /// Its start, in clock ticks since boot (field 22 of /proc/PID/stat).
    pub start_ticks: u64,
}

impl ProcessId {
    /// This process.
    pub fn me() -> ProcessId {
        let pid = std::process::id() as i32;
        ProcessId { pid, start_ticks: start_ticks(pid).unwrap_or(0) }
    }
    /// A process by its pid, if it exists.
    pub fn of(pid: i32) -> Option<ProcessId> {
        Some(ProcessId { pid, start_ticks: start_ticks(pid)? })
    }
    /// Whether it still runs (a zombie does not).
    pub fn is_alive(&self) -> bool {
        start_ticks(self.pid) == Some(self.start_ticks)
    }
    /// Sends a signal, if it still runs.
    pub fn signal(&self, signal: Signal) {
        if self.is_alive()
            && let Some(pid) = Pid::from_raw(self.pid)
        {
            // It may end between the look and the signal.
            let _ = kill_process(pid, signal);
        }
    }
    /// Waits until it has ended; false when it has not within `limit`.
    pub fn wait_gone(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        while self.is_alive() {
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        true
    }
}

fn start_ticks(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; fields are counted after its end.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Locked as long as it lives.
pub struct Lock {
    _file: File,
}

impl DataDir {
    /// The directory as named on the command line; it need not exist.
    ///
    /// # Errors
    /// When there is no current directory.
    pub fn new(path: &Path) -> Result<DataDir> {
        Ok(DataDir { root: crate::mounts::lexical(path)? })
    }
    /// The cluster file.
    pub fn cluster_file(&self) -> PathBuf {
        self.root.join("cluster.toml")
    }
    /// The cluster file of a first start that has not ended.
    pub fn new_cluster_file(&self) -> PathBuf {
        self.root.join("cluster.toml.new")
    }
    /// Storage spaces.
    pub fn storage(&self) -> PathBuf {
        self.root.join("storage")
    }
    /// Locks, pids, sockets, logs.
    pub fn run(&self) -> PathBuf {
        self.root.join("run")
    }
    /// A server's pid file.
    pub fn pid_file(&self, alias: &str) -> PathBuf {
        self.run().join(format!("{alias}.pid"))
    }
    /// A server's or the quickstart's log.
    pub fn log_file(&self, name: &str) -> PathBuf {
        self.run().join(format!("{name}.log"))
    }
    fn state_file(&self) -> PathBuf {
        self.run().join("state.json")
    }

    /// Takes the lock; `None` when another quickstart holds it.
    ///
    /// # Errors
    /// When the directory cannot be made or written.
    pub fn try_lock(&self) -> Result<Option<Lock>> {
        let run = self.run();
        std::fs::create_dir_all(&run).with_context(|| {
            format!("cannot make {}; choose a directory you may write with --data", run.display())
        })?;
        let path = run.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Lock { _file: file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(e) => Err(e).with_context(|| format!("cannot lock {}", path.display())),
        }
    }

    /// Takes the lock for a start. One that was killed just now holds it until its last thread is
    /// gone, so a holder that is dead is waited for.
    ///
    /// # Errors
    /// When a quickstart runs on this directory already.
    pub fn lock(&self) -> Result<Lock> {
        let until = Instant::now() + DYING_PATIENCE;
        loop {
            if let Some(lock) = self.try_lock()? {
                return Ok(lock);
            }
            let state = self.read_state();
            let is_dying = state.as_ref().is_some_and(|s| !s.process.is_alive());
            if is_dying && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(20));
                continue;
            }
            let who = state.map_or(String::new(), |s| {
                format!(" (process {}, mounted on {})", s.process.pid, show_dirs(&s.mounts))
            });
            let root = self.root.display();
            bail!(
                "a quickstart already runs on {root}{who}; use it, end it with `pvfs2 quickstart \
                 --data {root} --stop`, or choose another --data and --mount"
            )
        }
    }

    /// What the quickstart that holds (or held) the lock wrote.
    pub fn read_state(&self) -> Option<State> {
        serde_json::from_slice(&std::fs::read(self.state_file()).ok()?).ok()
    }

    /// Tells others about this process.
    ///
    /// # Errors
    /// The write's.
    pub fn write_state(&self, state: &State) -> Result<()> {
        write_atomically(&self.state_file(), &serde_json::to_vec_pretty(state)?)
    }

    /// Takes it back.
    pub fn remove_state(&self) {
        // Gone already is as good.
        let _ = std::fs::remove_file(self.state_file());
    }

    /// The process of a server of its own, if its pid file names one that runs.
    pub fn server_process(&self, alias: &str) -> Option<ProcessId> {
        read_pid_file(&self.pid_file(alias)).filter(ProcessId::is_alive)
    }
}

/// Reads a pid file: `PID START_TICKS`.
pub fn read_pid_file(path: &Path) -> Option<ProcessId> {
    let text = std::fs::read_to_string(path).ok()?;
    let mut words = text.split_whitespace();
    Some(ProcessId { pid: words.next()?.parse().ok()?, start_ticks: words.next()?.parse().ok()? })
}

/// Writes this process's pid file.
///
/// # Errors
/// The write's.
pub fn write_pid_file(path: &Path) -> Result<()> {
    let me = ProcessId::me();
    write_atomically(path, format!("{} {}\n", me.pid, me.start_ticks).as_bytes())
}

/// Replaces a file so that readers and a crash see the old one or the new one.
///
/// # Errors
/// The write's, naming the file.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let tmp = path.with_file_name(name);
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&tmp)?;
        std::io::Write::write_all(&mut file, bytes)?;
        file.sync_all()?;
        std::fs::rename(&tmp, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// Directories for a message.
pub fn show_dirs(dirs: &[PathBuf]) -> String {
    dirs.iter().map(|d| d.display().to_string()).collect::<Vec<_>>().join(" and ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_holds_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::new(dir.path()).unwrap();
        let lock = data.lock().unwrap();
        assert!(data.try_lock().unwrap().is_none());
        data.write_state(&State { process: ProcessId::me(), mounts: vec!["/mnt/x".into()] })
            .unwrap();
        let e = data.lock().err().unwrap().to_string();
        assert!(e.contains("already runs") && e.contains("--stop") && e.contains("/mnt/x"), "{e}");
        drop(lock);
        assert!(data.try_lock().unwrap().is_some());
    }

    #[test]
    fn processes_are_told_apart() {
        let me = ProcessId::me();
        assert!(me.is_alive());
        assert!(!ProcessId { start_ticks: me.start_ticks + 1, ..me }.is_alive());
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let id = ProcessId::of(child.id() as i32).unwrap();
        assert!(id.is_alive() && !id.wait_gone(Duration::from_millis(20)));
        id.signal(Signal::TERM);
        assert!(id.wait_gone(Duration::from_secs(10)), "a zombie counts as gone");
        child.wait().unwrap();
    }

    #[test]
    fn pid_files_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("io1.pid");
        write_pid_file(&path).unwrap();
        assert_eq!(read_pid_file(&path), Some(ProcessId::me()));
        assert_eq!(read_pid_file(&dir.path().join("none")), None);
    }
}
