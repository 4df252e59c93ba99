//! A mount by the `pvfs2` program, in the foreground of a child process, that ends on drop.
use crate::cluster::{die_with_parent, pid, program};
use crate::wait::{exit_within, secs, until, within};
use rustix::process::{Signal, kill_process};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// A mount.
pub struct Mount {
    /// Where it is mounted.
    pub dir: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

/// Options under which two mounts see each other's changes at once.
pub const NO_CACHES: &str = "acache-ms=0,ncache-ms=0";

impl Mount {
    /// Mounts `spec` on a new folder below `below`; returns when it is mounted.
    ///
    /// # Panics
    /// When that fails, with what the program said.
    pub fn new(spec: &str, below: &Path, options: &str) -> Mount {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = below.join(format!("mnt{number}"));
        let log = below.join(format!("mnt{number}.log"));
        std::fs::create_dir(&dir).expect("mount point");
        let mut command = Command::new(program());
        command.args(["mount", "--foreground", spec]).arg(&dir);
        if !options.is_empty() {
            command.args(["-o", options]);
        }
        let out = std::fs::File::create(&log).expect("log");
        command.stdin(Stdio::null()).stdout(out.try_clone().expect("log")).stderr(out);
        die_with_parent(&mut command);
        let mut child = command.spawn().expect("start a mount");
        until(secs(30), "the mount is there", || {
            if let Some(status) = child.try_wait().expect("wait") {
                let text = std::fs::read_to_string(&log).unwrap_or_default();
                panic!("mount ended with {status}:\n{text}");
            }
            is_mounted(&dir)
        });
        Mount { dir, log, child: Some(child) }
    }

    /// Processor time that the mount's process has used, in ticks of 10 ms.
    ///
    /// # Panics
    /// When it has ended.
    pub fn cpu_ticks(&self) -> u64 {
        let child = self.child.as_ref().expect("the mount runs");
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).expect("stat");
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or("").split(' ').collect();
        // utime and stime, counted from the state.
        [11, 12].iter().map(|i| fields[*i].parse::<u64>().expect("ticks")).sum()
    }

    /// A path below the mount.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Unmounts with umount(8); says how it ended.
    ///
    /// # Errors
    /// What umount said, or that the program did not end within `limit`.
    pub fn unmount(&mut self, limit: std::time::Duration) -> Result<(), String> {
        let mut umount = Command::new("umount")
            .arg(&self.dir)
            .stderr(Stdio::piped())
            .spawn()
            .expect("run umount");
        let status = exit_within(&mut umount, limit);
        if status.is_none() {
            let _ = umount.kill();
        }
        let out = umount.wait_with_output().expect("umount's output");
        match status {
            None => return Err(format!("umount did not end within {limit:?}")),
            Some(s) if !s.success() => {
                return Err(String::from_utf8_lossy(&out.stderr).into_owned());
            }
            Some(_) => {}
        }
        let Some(mut child) = self.child.take() else { return Ok(()) };
        if exit_within(&mut child, limit).is_none() {
            self.child = Some(child);
            return Err(format!("the mount's process did not end within {limit:?}"));
        }
        Ok(())
    }

    /// Stops its process (SIGSTOP), or lets it go on.
    pub fn freeze(&self, frozen: bool) {
        let signal = if frozen { Signal::STOP } else { Signal::CONT };
        if let Some(child) = &self.child {
            kill_process(pid(child), signal).expect("signal");
        }
    }

    /// Kills the mount's process with SIGKILL: whoever waits on the mount gets an error at once.
    pub fn kill(&self) {
        if let Some(child) = &self.child {
            let _ = kill_process(pid(child), Signal::KILL);
        }
    }

    /// Sends SIGTERM to the mount's process; whether it unmounted and ended well within `limit`.
    pub fn terminate(&mut self, limit: std::time::Duration) -> bool {
        let Some(mut child) = self.child.take() else { return true };
        kill_process(pid(&child), Signal::TERM).expect("signal");
        let ended = exit_within(&mut child, limit);
        if ended.is_none() {
            self.child = Some(child);
        }
        ended.is_some_and(|s| s.success()) && !is_mounted(&self.dir)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let text = std::fs::read_to_string(&self.log).unwrap_or_default();
            let tail: Vec<&str> = text.lines().rev().take(15).collect();
            eprintln!(
                "--- {}\n{}",
                self.log.display(),
                tail.into_iter().rev().collect::<Vec<_>>().join("\n")
            );
        }
        let _ = Command::new("umount").args(["-l"]).arg(&self.dir).stderr(Stdio::null()).status();
        if let Some(mut child) = self.child.take()
            && exit_within(&mut child, secs(3)).is_none()
        {
            let _ = child.kill();
            let _ = child.wait();
        }
        // A folder that is still mounted must not be walked into when the temporary folder goes.
        within(secs(2), || !is_mounted(&self.dir));
    }
}

/// Whether something is mounted on `dir`, by the kernel's table: asking the file system itself could
/// wait for a dead server.
pub fn is_mounted(dir: &Path) -> bool {
    let table = std::fs::read_to_string("/proc/self/mounts").expect("mount table");
    let dir = dir.to_string_lossy();
    table.lines().any(|l| l.split(' ').nth(1) == Some(&dir))
}
