//! Going to the background: the program starts itself again with `PVFS2_DETACHED=1`, its stdout a
//! pipe to the parent, its stderr a log file. What the child prints before it is ready the parent
//! passes on; then comes [`READY`], and the child points its stdout at the log.
//!
//! Re-executing instead of forking: no thread, lock or runtime has to survive a fork. The child has
//! a session of its own, so the terminal's signals pass it by.
use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const ENV: &str = "PVFS2_DETACHED";
/// The line after which the child is on its own.
const READY: &str = "\u{1}ready";
/// Begins a line that tells an error.
const ERROR: &str = "\u{1}error ";

/// Whether this process was started by [`Started::spawn`].
pub fn is_detached() -> bool {
    std::env::var_os(ENV).is_some()
}

/// A child that was started and may not be ready yet.
pub struct Started {
    child: Child,
    log: PathBuf,
}

impl Started {
    /// Starts this program again with `args`; it logs to `log`.
    ///
    /// # Errors
    /// When the program or its log cannot be opened.
    pub fn spawn(args: impl IntoIterator<Item = OsString>, log: &Path) -> Result<Started> {
        Started::spawn_as(OsString::from("pvfs2"), args, log)
    }

    /// As [`Started::spawn`] under another name, which decides the face it shows (`mount.pvfs2`).
    fn spawn_as(
        name: OsString,
        args: impl IntoIterator<Item = OsString>,
        log: &Path,
    ) -> Result<Started> {
        let exe = std::env::current_exe().context("cannot find this program's own file")?;
        let child = Command::new(exe)
            .arg0(name)
            .args(args)
            .env(ENV, "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(open_log(log)?)
            .spawn()
            .context("cannot start the background process")?;
        Ok(Started { child, log: log.to_owned() })
    }

    /// Waits until it is ready; what it prints before goes to `pass_on`.
    ///
    /// # Errors
    /// The child's own sentence when it ended before it was ready.
    pub fn wait_ready(mut self, pass_on: impl Fn(&str) -> std::io::Result<()>) -> Result<Child> {
        let stdout = self.child.stdout.take().context("the background process has no stdout")?;
        let mut error = None;
        for line in BufReader::new(stdout).lines() {
            let line = line.context("cannot hear the background process")?;
            if line == READY {
                return Ok(self.child);
            }
            match line.strip_prefix(ERROR) {
                Some(text) => error = Some(text.to_owned()),
                None => pass_on(&line)?,
            }
        }
        let status = self.child.wait().context("cannot wait for the background process")?;
        match error {
            Some(text) => bail!("{}", text.strip_prefix("pvfs2: ").unwrap_or(&text)),
            None => bail!(
                "the background process ended ({status}) before it was ready; see {}",
                self.log.display()
            ),
        }
    }

    /// Ends it, ready or not.
    pub fn kill(mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts this very command again in the background and waits until it is ready.
///
/// # Errors
/// As [`Started::spawn`] and [`Started::wait_ready`].
pub fn detach(log: &Path) -> Result<()> {
    let mut args = std::env::args_os();
    let name = args.next().unwrap_or_else(|| "pvfs2".into());
    Started::spawn_as(name, args, log)?.wait_ready(|line| crate::output::line(line))?;
    Ok(())
}

fn open_log(log: &Path) -> Result<File> {
    if let Some(dir) = log.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("cannot open the log {}", log.display()))
}

/// In the child, at its start: a session of its own, so that the terminal's signals pass it by.
pub fn become_daemon() {
    if is_detached() {
        // Fails only for a process group leader, which a fresh child is not.
        let _ = rustix::process::setsid();
    }
}

/// In the child: says that it is ready, and lets go of the parent's pipe. Harmless elsewhere.
///
/// # Errors
/// When stdout cannot be redirected.
pub fn ready() -> Result<()> {
    if !is_detached() {
        return Ok(());
    }
    let mut out = std::io::stdout().lock();
    // The parent may be gone already; the daemon goes on.
    let _ = writeln!(out, "{READY}").and_then(|()| out.flush());
    drop(out);
    rustix::stdio::dup2_stdout(std::io::stderr()).context("cannot redirect stdout")?;
    Ok(())
}

/// In the child: hands an error to the waiting parent. Harmless elsewhere.
pub fn tell_parent_error(line: &str) {
    if is_detached() {
        let _ = writeln!(std::io::stdout(), "{ERROR}{line}");
    }
}
