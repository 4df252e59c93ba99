//! The daemon: a pass whenever something changed here (hints of the kernel), whenever something changed
//! at the server (it is asked to say so), and every so often in any case, since a full scan is the truth
//! and hints get lost (trap 17); or only when its schedule says so. What it is doing is in `status.json` of
//! the state directory, how far a pass is in `progress.json`. [`super::settings`] are taken in at once.
use super::config::{Config, today};
use super::engine::{Engine, Progress, Report};
use super::keys::Keys;
use super::page;
use super::settings::{Schedule, Settings, minute_of_day};
use super::view::VaultState;
use crate::error::{Result, SyncError};
use crate::names::OWN_DIR;
use notify::{RecursiveMode, Watcher};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// Changes in the folder that come close together are one pass.
const SETTLE: Duration = Duration::from_millis(200);
/// So often settings, wishes and the time of day are looked at.
const TICK: Duration = Duration::from_millis(100);
/// Between attempts while the server is away: doubled up to the second.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// How long the server is asked to wait for changes.
const WAIT_S: u64 = 110;

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
    /// When passes are made; `paused`: none are.
    #[serde(default)]
    pub schedule: String,
    /// Conflict copies that were made here.
    pub conflicts: Vec<String>,
    /// What is not synchronised, and why.
    pub skipped: Vec<String>,
    /// What failed in the last pass, and why.
    pub problems: Vec<String>,
    /// The encrypted folders, and whether they are open here.
    #[serde(default)]
    pub vaults: Vec<VaultState>,
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
                self.vaults.clone_from(&report.vaults);
            }
            Err(e) => {
                self.state = e.to_string();
                self.problems = vec![e.to_string()];
            }
        }
    }
}

/// How far a pass is, `progress.json` in the state directory while one goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Working {
    /// Operations that are done.
    pub done: usize,
    /// Of so many in this round.
    pub of: usize,
    /// Bytes of contents that travelled.
    pub bytes: u64,
}

impl Working {
    /// `None`: no pass goes on.
    #[must_use]
    pub fn load(state: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(state.join("progress.json")).ok()?).ok()
    }

    /// As it is.
    #[must_use]
    pub fn of(p: &Progress) -> Self {
        let n = |a: &std::sync::atomic::AtomicUsize| a.load(Ordering::Relaxed);
        Self { done: n(&p.done), of: n(&p.of), bytes: p.bytes.load(Ordering::Relaxed) }
    }
}

/// Runs a pass, and tells from time to time how far it is.
fn told<T>(
    state: &Path,
    progress: &Progress,
    tell: &(dyn Fn(&Working) + Sync),
    pass: impl FnOnce() -> T,
) -> T {
    let over = (parking_lot::Mutex::new(false), parking_lot::Condvar::new());
    let path = state.join("progress.json");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut ended = over.0.lock();
            while !*ended {
                let late = over.1.wait_for(&mut ended, Duration::from_millis(500)).timed_out();
                if late && !*ended {
                    let now = Working::of(progress);
                    tell(&now);
                    let text = serde_json::to_vec(&now).unwrap_or_default();
                    let new = state.join("progress.json.new");
                    let _ = std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &path));
                }
            }
        });
        let result = pass();
        *over.0.lock() = true;
        over.1.notify_all();
        result
    })
}

/// Asks the server to say when something changes, and passes it on. Ends when nobody listens.
fn watch_server(
    config: Config,
    state: Arc<parking_lot::Mutex<(String, i64)>>,
    follows: Arc<AtomicBool>,
    hints: Sender<Hint>,
) {
    let Ok(client) = config.client() else { return };
    let mut told = (String::new(), -1);
    // The daemon holds the other end.
    while Arc::strong_count(&state) > 1 {
        let at = state.lock().clone();
        if at.0.is_empty() || at == told || !follows.load(Ordering::Relaxed) {
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
    once_told(state, allow_deletes, &|_| {})
}

/// The same; `tell` hears twice a second how far it is.
///
/// # Errors
/// As [`once`].
pub fn once_told(
    state: &Path,
    allow_deletes: bool,
    tell: &(dyn Fn(&Working) + Sync),
) -> Result<Report> {
    let (config, settings) = (Config::load(state)?, Settings::load(state)?);
    if settings.paused {
        return Err(SyncError::Invalid("paused: say `pvfs2 sync resume` first".into()));
    }
    let (mut engine, mut client) = (config.engine(state)?, config.client()?);
    client.pace().up.set(settings.up);
    client.pace().down.set(settings.down);
    engine.leave_out(settings.ignore, settings.only);
    engine.open_vaults(Keys::load(state)?.vaults());
    let progress = engine.progress();
    let result = told(state, &progress, tell, || engine.pass(&mut client, allow_deletes));
    let _ = std::fs::remove_file(state.join("progress.json"));
    let mut status = Status::load(state).unwrap_or_default();
    status.watching = false;
    status.after(&result, crate::server::users::now_ms());
    let saved = status.save(state);
    let report = result?;
    saved.map(|()| report)
}

/// Why the daemon makes a pass now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// Something changed, or the time has come.
    Due,
    /// Somebody wants it; the brake is released or not.
    Wish(bool),
}

/// What is known about when the next pass is due. Driven from outside: no clock, no channel.
#[derive(Debug, Default)]
struct Due {
    /// The last pass ended then.
    last: Option<Instant>,
    /// After a failure: not before.
    retry_at: Option<Instant>,
    /// A change is to be followed up from then on.
    changed: Option<Instant>,
}

impl Due {
    fn hint(&mut self, hint: Hint, now: Instant) {
        let settle = if hint == Hint::Remote { Duration::ZERO } else { SETTLE };
        self.changed = Some(self.changed.map_or(now + settle, |at| at.min(now + settle)));
    }

    /// Whether a pass is due without anybody wanting it.
    fn now(&self, set: &Settings, minute: u32, every: Duration, now: Instant) -> bool {
        if set.paused || self.retry_at.is_some_and(|at| now < at) {
            return false;
        }
        let passed = |d: Duration| self.last.is_none_or(|l| now.saturating_duration_since(l) >= d);
        match set.schedule {
            Schedule::Manual => false,
            Schedule::Every(minutes) => passed(Duration::from_secs(u64::from(minutes) * 60)),
            s if s.follows(minute) => {
                self.retry_at.is_some() || self.changed.is_some_and(|at| now >= at) || passed(every)
            }
            _ => false,
        }
    }
}

/// What the daemon's loop looks at.
struct Eyes<'a> {
    hints: Receiver<Hint>,
    state: &'a Path,
    every: Duration,
    stop: &'a AtomicBool,
    follows: Arc<AtomicBool>,
    settings: Settings,
    overflows: u64,
}

impl Eyes<'_> {
    /// Takes in what a person has set; what cannot be read is left as it was.
    fn look(&mut self) {
        match Settings::load(self.state) {
            Ok(now) => self.settings = now,
            Err(e) => tracing::warn!(error = %e, "settings"),
        }
        let follows = !self.settings.paused && self.settings.schedule.follows(minute_of_day());
        self.follows.store(follows, Ordering::Relaxed);
    }

    /// Waits until a pass is due; `None`: the daemon is to end.
    fn wait(&mut self, due: &mut Due) -> Option<Why> {
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return None;
            }
            self.look();
            if !self.settings.paused
                && let Some(allow_deletes) = granted(self.state)
            {
                return Some(Why::Wish(allow_deletes));
            }
            let now = Instant::now();
            if due.now(&self.settings, minute_of_day(), self.every, now) {
                return Some(Why::Due);
            }
            let soon = due.changed.map_or(TICK, |at| at.saturating_duration_since(now));
            match self.hints.recv_timeout(soon.clamp(Duration::from_millis(1), TICK)) {
                Ok(hint) => {
                    self.overflows += u64::from(hint == Hint::Overflow);
                    due.hint(hint, Instant::now());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(TICK),
            }
        }
    }
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
    let (mut engine, mut client) = (config.engine(state)?, config.client()?);
    let (sender, hints) = channel();
    let watcher = if hinted { watch_folder(&config.folder, sender.clone()) } else { None };
    let heard = Arc::new(parking_lot::Mutex::new((String::new(), 0)));
    let follows = Arc::new(AtomicBool::new(true));
    if hinted {
        let (config, heard, follows) = (config.clone(), heard.clone(), follows.clone());
        std::thread::Builder::new()
            .name("sync-watch".into())
            .spawn(move || watch_server(config, heard, follows, sender))
            .map_err(|e| SyncError::io("thread", e))?;
    }
    let progress = engine.progress();
    let _page = page::serve(state, progress.clone())
        .inspect_err(|e| tracing::warn!(error = %e, "no settings page"))
        .ok();
    let settings = Settings::load(state)?;
    let mut eyes = Eyes { hints, state, every, stop, follows, settings, overflows: 0 };
    let mut status = Status::load(state).unwrap_or_default();
    status.watching = watcher.is_some();
    let (mut due, mut retry) = (Due::default(), RETRY.0);
    while let Some(why) = eyes.wait(&mut due) {
        engine.set_date(today());
        let set = eyes.settings.clone();
        client.pace().up.set(set.up);
        client.pace().down.set(set.down);
        engine.leave_out(set.ignore, set.only);
        match Keys::load(state) {
            Ok(keys) => engine.open_vaults(keys.vaults()),
            Err(e) => tracing::warn!(error = %e, "keys of encrypted folders"),
        }
        due.changed = None;
        let over = AtomicBool::new(false);
        let result = std::thread::scope(|scope| {
            // A pass ends when the daemon is to, or when somebody pauses it.
            let watch = scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let paused = Settings::load(state).is_ok_and(|s| s.paused);
                    if paused || stop.load(Ordering::Relaxed) {
                        progress.stop.store(true, Ordering::Relaxed);
                    }
                    std::thread::park_timeout(TICK);
                }
            });
            let result = told(state, &progress, &|_| {}, || {
                one_pass(&mut engine, &mut client, &heard, why == Why::Wish(true))
            });
            over.store(true, Ordering::Relaxed);
            watch.thread().unpark();
            result
        });
        progress.stop.store(false, Ordering::Relaxed);
        progress.of.store(0, Ordering::Relaxed);
        let _ = std::fs::remove_file(state.join("progress.json"));
        status.after(&result, crate::server::users::now_ms());
        status.overflows += std::mem::take(&mut eyes.overflows);
        status.schedule = eyes.settings.schedule.to_string();
        // What a full disk takes is what is told, not the synchronising.
        if let Err(e) = status.save(state) {
            tracing::warn!(error = %e, "status");
        }
        let now = Instant::now();
        due.last = Some(now);
        due.retry_at = match &result {
            Ok(report) if report.problems.is_empty() => {
                retry = RETRY.0;
                None
            }
            Err(SyncError::Stopped) => None,
            other => {
                if let Err(e) = other {
                    tracing::warn!(error = %e, "pass");
                }
                retry = (retry * 2).min(RETRY.1);
                Some(now + retry)
            }
        };
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
        let mut eyes = Eyes {
            hints,
            state: dir.path(),
            every: Duration::from_secs(3_600),
            stop: &stop,
            follows: Arc::default(),
            settings: Settings::default(),
            overflows: 0,
        };
        let mut due = Due { last: Some(begin), ..Due::default() };
        sender.send(Hint::Overflow).unwrap();
        sender.send(Hint::Local).unwrap();
        assert_eq!(eyes.wait(&mut due), Some(Why::Due));
        assert_eq!(eyes.overflows, 1);
        assert!(begin.elapsed() < Duration::from_secs(60), "it does not wait for the next scan");
        due.changed = None;
        wish(dir.path(), true).unwrap();
        assert_eq!(eyes.wait(&mut due), Some(Why::Wish(true)));
        assert_eq!(granted(dir.path()), None, "a wish is granted once");
        let status = Status { overflows: 3, ..Status::default() };
        status.save(dir.path()).unwrap();
        assert_eq!(Status::load(dir.path()).unwrap().overflows, 3);
    }

    #[test]
    fn passes_are_due_when_the_schedule_says_so() {
        let (begin, every) = (Instant::now(), Duration::from_secs(300));
        let at = |s: u64| begin + Duration::from_secs(s);
        let set = |schedule: &str| Settings {
            schedule: schedule.parse().unwrap(),
            ..Settings::default()
        };
        let mut due = Due::default();
        let now = |due: &Due, s: &Settings, minute, secs| due.now(s, minute, every, at(secs));
        let (always, manual, quarter) = (set("always"), set("manual"), set("every 15 min"));
        let night = set("22:00-06:00");
        assert!(now(&due, &always, 0, 0) && now(&due, &quarter, 0, 0) && now(&due, &night, 0, 0));
        assert!(!now(&due, &manual, 0, 0) && !now(&due, &night, 720, 0));
        due.last = Some(at(0));
        due.hint(Hint::Local, at(10));
        assert!(!now(&due, &always, 0, 10) && now(&due, &always, 0, 11), "it settles first");
        assert!(!now(&due, &quarter, 0, 11) && !now(&due, &manual, 0, 11));
        assert!(!now(&due, &night, 720, 11) && now(&due, &night, 1_380, 11));
        due.hint(Hint::Remote, at(12));
        assert!(now(&due, &always, 0, 12));
        due.changed = None;
        assert!(!now(&due, &always, 0, 299) && now(&due, &always, 0, 300), "a scan now and then");
        assert!(!now(&due, &quarter, 0, 899) && now(&due, &quarter, 0, 900));
        due.retry_at = Some(at(1_000));
        assert!(!now(&due, &always, 0, 999) && now(&due, &always, 0, 1_000));
        assert!(!now(&due, &Settings { paused: true, ..always }, 0, 9_999));
    }
}
