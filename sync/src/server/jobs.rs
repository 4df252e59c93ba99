//! Long work of the administrator (moves, backups, loads): one at a time, on a thread of its own, with
//! its progress and its end shown on the pages and by the API.
use super::http::App;
use super::users::now_ms;
use crate::error::{Result, SyncError};
use parking_lot::Mutex;
use serde::Serialize;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// So many that have ended are remembered.
const REMEMBERED: usize = 20;

/// A piece of long work.
#[derive(Clone, Debug, Serialize)]
pub struct Job {
    /// Its number.
    pub id: u64,
    /// What it does.
    pub what: String,
    /// Milliseconds since 1970.
    pub began_ms: i64,
    /// Milliseconds since 1970; 0: under way.
    pub ended_ms: i64,
    /// Bytes read so far; what is copied is read back, and counts twice.
    pub bytes: u64,
    /// How it ended, in words.
    pub result: String,
    /// Whether it ended well.
    pub ok: bool,
}

/// All of it, newest first.
#[derive(Debug, Default)]
pub struct Jobs {
    all: Mutex<(u64, VecDeque<Job>)>,
    /// Whether one runs.
    busy: Arc<AtomicBool>,
}

/// Lets the next one run, however this one ends.
struct Busy(Arc<AtomicBool>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Jobs {
    /// What runs and what ran, newest first.
    #[must_use]
    pub fn list(&self) -> Vec<Job> {
        self.all.lock().1.iter().cloned().collect()
    }

    /// Adds to the bytes of the one that runs.
    pub fn tick(&self, bytes: u64) {
        if let Some(job) = self.all.lock().1.iter_mut().find(|j| j.ended_ms == 0) {
            job.bytes += bytes;
        }
    }

    /// Runs something short that no job may run beside; not at all while one runs.
    pub fn between(&self, f: impl FnOnce()) {
        if !self.busy.swap(true, Ordering::AcqRel) {
            let _busy = Busy(self.busy.clone());
            f();
        }
    }

    fn begin(&self, what: &str) -> u64 {
        let mut all = self.all.lock();
        all.0 += 1;
        let job = Job {
            id: all.0,
            what: what.to_owned(),
            began_ms: now_ms(),
            ended_ms: 0,
            bytes: 0,
            result: String::new(),
            ok: false,
        };
        all.1.push_front(job);
        all.1.truncate(REMEMBERED);
        all.0
    }

    /// Whoever sees the job as ended can start the next one.
    fn end(&self, id: u64, result: &Result<String>, busy: Busy) {
        let mut all = self.all.lock();
        drop(busy);
        if let Some(job) = all.1.iter_mut().find(|j| j.id == id) {
            job.ended_ms = now_ms();
            job.ok = result.is_ok();
            job.result = match result {
                Ok(text) => text.clone(),
                Err(e) => e.to_string(),
            };
        }
    }
}

/// Starts a job; it is under way when this returns.
///
/// # Errors
/// [`SyncError::Taken`] while another runs; no thread.
pub fn start(
    app: &App,
    who: &str,
    what: String,
    work: impl FnOnce(&App) -> Result<String> + Send + 'static,
) -> Result<u64> {
    if app.jobs.busy.swap(true, Ordering::AcqRel) {
        let running = app.jobs.list().into_iter().find(|j| j.ended_ms == 0);
        let running = running.map_or_else(String::new, |j| format!(": {}", j.what));
        return Err(SyncError::Taken(format!("one job runs at a time{running}; wait for its end")));
    }
    let busy = Busy(app.jobs.busy.clone());
    app.accounts.audit(who, &format!("began: {what}"), now_ms())?;
    let id = app.jobs.begin(&what);
    let (app, who) = (app.clone(), who.to_owned());
    let run = move || {
        let result = work(&app);
        match &result {
            Ok(text) => tracing::info!(job = what, "{text}"),
            Err(e) => tracing::error!(job = what, error = %e, "failed"),
        }
        let end = match &result {
            Ok(_) => format!("done: {what}"),
            Err(e) => format!("failed: {what}: {e}"),
        };
        if let Err(e) = app.accounts.audit(&who, &end, now_ms()) {
            tracing::error!(error = %e, "audit");
        }
        app.jobs.end(id, &result, busy);
    };
    std::thread::Builder::new()
        .name("sync-job".into())
        .spawn(run)
        .map_err(|e| SyncError::io("thread", e))?;
    Ok(id)
}
