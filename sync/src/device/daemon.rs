//! The daemon: a pass whenever something changed here (hints of the kernel), whenever something changed
//! at the server (it is asked to say so), and every so often in any case, since a full scan is the truth
//! and hints get lost (trap 17). What it is doing is in `status.json` of the state directory.
use super::config::{Config, today};
use super::engine::{Engine, Report};
use crate::error::{Result, SyncError};
use crate::names::OWN_DIR;
use notify::{RecursiveMode, Watcher};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// Changes that come close together are one pass.
const SETTLE: Duration = Duration::from_millis(300);
/// Between attempts while the server is away: doubled up to the second.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// How long the server is asked to wait for changes.
const WAIT_S: u64 = 50;

/// Why a pass is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hint {
    /// Something changed in the folder.
    Local,
    /// Hints were lost; the scan that follows finds what they would have said.
    Overflow,
    /// Something changed at the server.
    Remote,
}

/// What the daemon tells of itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// `in step`, `working`, or what holds it up.
    pub state: String,
    /// Milliseconds since 1970 of the last pass that ended well.
    pub synced_ms: i64,
    /// How many passes there were.
    pub passes: u64,
    /// How often hints were lost.
    pub overflows: u64,
    /// Whether the folder is watched; without, changes here wait for the next full scan.
    pub watching: bool,
    /// Conflict copies that were made here.
    pub conflicts: Vec<String>,
    /// What is not synchronised, and why.
    pub skipped: Vec<String>,
    /// What failed in the last pass, and why.
    pub problems: Vec<String>,
}

impl Status {
    /// As it was written last.
    ///
    /// # Errors
    /// I/O, or none was written yet.
    pub fn load(state: &Path) -> Result<Self> {
        let path = state.join("status.json");
        let text = std::fs::read(&path)
            .map_err(|e| SyncError::io(format!("{} (no pass yet?)", path.display()), e))?;
        serde_json::from_slice(&text)
            .map_err(|e| SyncError::Invalid(format!("{}: {e}", path.display())))
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// I/O.
    pub fn save(&self, state: &Path) -> Result<()> {
        let text = serde_json::to_vec_pretty(self).unwrap_or_default();
        let (tmp, path) = (state.join("status.json.new"), state.join("status.json"));
        std::fs::write(&tmp, text)
            .and_then(|()| std::fs::rename(&tmp, &path))
            .map_err(|e| SyncError::io(path.display().to_string(), e))
    }

    /// Takes in how a pass ended.
    pub fn after(&mut self, result: &Result<Report>, now_ms: i64) {
        self.passes += 1;
        match result {
            Ok(report) => {
                self.state = if report.problems.is_empty() { "in step" } else { "problems" }.into();
                self.synced_ms = now_ms;
                self.conflicts.extend(report.conflicts.iter().cloned());
                self.skipped.clone_from(&report.skipped);
                self.problems.clone_from(&report.problems);
            }
            Err(e) => {
                self.state = e.to_string();
                self.problems = vec![e.to_string()];
            }
        }
    }
}

/// Asks the server to say when something changes, and passes it on. Ends when nobody listens.
fn watch_server(
    config: Config,
    state: Arc<parking_lot::Mutex<(String, i64)>>,
    hints: Sender<Hint>,
) {
    let Ok(client) = config.client() else { return };
    let mut told = (String::new(), -1);
    // The daemon holds the other end.
    while Arc::strong_count(&state) > 1 {
        let at = state.lock().clone();
        if at.0.is_empty() || at == told {
            // Not yet there, or the pass for the last news is still to come.
            std::thread::sleep(Duration::from_millis(50));
            continue;
        }
        match client.wait(&at.0, at.1, WAIT_S) {
            Ok(true) => {
                told = at;
                if hints.send(Hint::Remote).is_err() {
                    return;
                }
            }
            Ok(false) => {}
            Err(_) => std::thread::sleep(RETRY.0),
        }
    }
}

fn watch_folder(folder: &Path, hints: Sender<Hint>) -> Option<impl Watcher + use<>> {
    let own = folder.join(OWN_DIR);
    let on_event = move |event: notify::Result<notify::Event>| {
        let hint = match event {
            Ok(e) if e.need_rescan() => Hint::Overflow,
            Ok(e) if e.kind.is_access() => return,
            Ok(e) if !e.paths.is_empty() && e.paths.iter().all(|p| p.starts_with(&own)) => return,
            Ok(_) => Hint::Local,
            Err(_) => Hint::Overflow,
        };
        let _ = hints.send(hint);
    };
    let mut watcher = notify::recommended_watcher(on_event)
        .inspect_err(|e| tracing::warn!(error = %e, "the folder is not watched"))
        .ok()?;
    watcher
        .watch(folder, RecursiveMode::Recursive)
        .inspect_err(|e| tracing::warn!(error = %e, "the folder is not watched"))
        .ok()?;
    Some(watcher)
}

/// Asks a daemon that runs for a pass now: a file that it takes away. `allow_deletes` releases the brake
/// for that pass.
///
/// # Errors
/// I/O.
pub fn wish(state: &Path, allow_deletes: bool) -> Result<()> {
    let (tmp, path) = (state.join("wish.new"), state.join("wish"));
    std::fs::write(&tmp, if allow_deletes { "allow-deletes" } else { "now" })
        .and_then(|()| std::fs::rename(&tmp, &path))
        .map_err(|e| SyncError::io(path.display().to_string(), e))
}

/// Takes a wish; whether it releases the brake.
fn granted(state: &Path) -> Option<bool> {
    let path = state.join("wish");
    let text = std::fs::read(&path).ok()?;
    std::fs::remove_file(&path).ok()?;
    Some(text == b"allow-deletes")
}

/// One pass without a daemon.
///
/// # Errors
/// As the pass; no set-up; a folder that is another.
pub fn once(state: &Path, allow_deletes: bool) -> Result<Report> {
    let config = Config::load(state)?;
    let mut engine = config.engine(state)?;
    let result = engine.pass(&mut config.client()?, allow_deletes);
    let mut status = Status::load(state).unwrap_or_default();
    status.watching = false;
    status.after(&result, crate::server::users::now_ms());
    status.save(state)?;
    result
}

/// Waits for a hint or a wish, until `until` at most; what comes within [`SETTLE`] after a hint belongs
/// to it. Returns how many hints said that others were lost, and whether the brake is released.
fn wait(hints: &Receiver<Hint>, until: Instant, state: &Path, stop: &AtomicBool) -> (u64, bool) {
    let mut overflows = 0;
    let mut end = until;
    let mut any = false;
    while !stop.load(Ordering::Relaxed) {
        if let Some(allow_deletes) = granted(state) {
            return (overflows, allow_deletes);
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        match hints.recv_timeout(left.min(Duration::from_millis(100))) {
            Ok(hint) => {
                overflows += u64::from(hint == Hint::Overflow);
                if !any {
                    any = true;
                    end = until.min(Instant::now() + SETTLE);
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
    (overflows, false)
}

/// Runs until `stop`. `every`: a full scan at least so often; `hinted`: also whenever something changes.
///
/// # Errors
/// What no later pass can cure: no set-up, a folder that is another.
pub fn run(state: &Path, every: Duration, hinted: bool, stop: &AtomicBool) -> Result<()> {
    let config = Config::load(state)?;
    let Some(_lock) = Config::lock(state)? else {
        return Err(SyncError::Taken(format!("{}: a daemon runs already", state.display())));
    };
    let mut engine = config.engine(state)?;
    let mut client = config.client()?;
    let (sender, hints) = channel();
    let watcher = if hinted { watch_folder(&config.folder, sender.clone()) } else { None };
    let heard = Arc::new(parking_lot::Mutex::new((String::new(), 0)));
    if hinted {
        let (config, heard) = (config.clone(), heard.clone());
        std::thread::Builder::new()
            .name("sync-watch".into())
            .spawn(move || watch_server(config, heard, sender))
            .map_err(|e| SyncError::io("thread", e))?;
    }
    let mut status = Status::load(state).unwrap_or_default();
    status.watching = watcher.is_some();
    let mut retry = RETRY.0;
    let mut allow_deletes = granted(state).unwrap_or(false);
    while !stop.load(Ordering::Relaxed) {
        engine.set_date(today());
        let result = one_pass(&mut engine, &mut client, &heard, allow_deletes);
        status.after(&result, crate::server::users::now_ms());
        status.save(state)?;
        let pause = match &result {
            Ok(report) if report.problems.is_empty() => {
                retry = RETRY.0;
                every
            }
            other => {
                if let Err(e) = other {
                    tracing::warn!(error = %e, "pass");
                }
                retry = (retry * 2).min(RETRY.1);
                retry
            }
        };
        let (overflows, allowed) = wait(&hints, Instant::now() + pause, state, stop);
        status.overflows += overflows;
        allow_deletes = allowed;
    }
    Ok(())
}

fn one_pass(
    engine: &mut Engine,
    client: &mut super::http::Client,
    heard: &parking_lot::Mutex<(String, i64)>,
    allow_deletes: bool,
) -> Result<Report> {
    let result = engine.pass(client, allow_deletes);
    if let Ok(cursor) = engine.cursor() {
        *heard.lock() = cursor;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trap17_lost_hints_mean_a_scan_at_once_and_are_shown() {
        let dir = tempfile::tempdir().unwrap();
        let (sender, hints) = channel();
        let stop = AtomicBool::new(false);
        let begin = Instant::now();
        sender.send(Hint::Overflow).unwrap();
        sender.send(Hint::Local).unwrap();
        let far = begin + Duration::from_secs(3_600);
        assert_eq!(wait(&hints, far, dir.path(), &stop), (1, false));
        assert!(begin.elapsed() < Duration::from_secs(60), "it does not wait for the next scan");
        wish(dir.path(), true).unwrap();
        assert_eq!(wait(&hints, far, dir.path(), &stop), (0, true));
        assert_eq!(granted(dir.path()), None, "a wish is granted once");
        let status = Status { overflows: 3, ..Status::default() };
        status.save(dir.path()).unwrap();
        assert_eq!(Status::load(dir.path()).unwrap().overflows, 3);
    }
}
