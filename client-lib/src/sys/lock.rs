//! lock: locks or unlocks a range of bytes of an open file (fcntl, flock).
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | begin (while something of this owner is being given back: wait) | ask | - |
//! | ask (lock to the file's server) | done; or it is queued: wait | refused: nothing changed; else unknown: given back in the background |
//! | wait (a notice, or `POLL`; on no FUSE thread, in no slot) | ask, with the same id | killed: given back in the background; another signal: cancel |
//! | cancel (lock with `cancel`) | done, if it was granted just now; else `Interrupted` | as ask |
//!
//! Drops: the file's attributes from the acache and the bytes that came with its open, when another
//! client has held a write lock since this one looked last (then `fresh` is false, and the caller
//! drops what the kernel caches before it says [`LockTable::set_seen`]). Errors: `Locked`,
//! `Deadlock`, `NoLocks`, `Stale`, `Interrupted`.
//!
//! [`LockTable::set_seen`]: crate::locks::LockTable::set_seen
use crate::locks::{Attempt, Job, Want};
use crate::machine::{Cx, Machine, Step, pause};
use crate::open_table::OpenFile;
use pvfs2_bmi::call::Net;
use pvfs2_bmi::client::{Signal, signalled};
use pvfs2_proto::op::{LockRequest, LockResponse, lock_kind, lock_state};
use pvfs2_proto::{ErrorCode, PvfsError, Result};
use std::sync::Arc;
use std::time::Duration;

/// How often a request that waits is asked after although no notice came.
const POLL: Duration = Duration::from_secs(2);
/// How often a request looks whether its owner's last one has been given back.
const BEGIN_POLL: Duration = Duration::from_millis(5);
/// Pause before a server that does not answer is told again what is given back.
const TELL_AGAIN: Duration = Duration::from_secs(1);

/// A lock that was granted, or unlocked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Locked {
    /// The change's stamp.
    pub stamp: u64,
    /// What is cached of the file is good.
    pub fresh: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Ask,
    Wait,
    Cancel,
}

/// See the head of the file.
pub struct Lock {
    file: Arc<OpenFile>,
    owner: u64,
    want: Want,
    wait: bool,
    state: State,
    attempt: Option<Attempt>,
}

impl Lock {
    /// `wait`: F_SETLKW.
    pub fn new(file: Arc<OpenFile>, owner: u64, want: Want, wait: bool) -> Lock {
        Lock { file, owner, want, wait, state: State::Ask, attempt: None }
    }

    fn request(&self, id: u64, seen: u64) -> LockRequest {
        LockRequest {
            wait: self.wait,
            cancel: self.state == State::Cancel,
            ..request(self.file.handle.0, self.owner, &self.want, id, seen)
        }
    }

    fn done<N: Net>(&mut self, cx: &Cx<'_, N>, answer: &LockResponse) -> Step<Locked> {
        if let Some(attempt) = self.attempt.take() {
            attempt.done(answer.stamp);
        }
        let fresh = answer.fresh || self.want.kind == lock_kind::UNLOCK;
        if !fresh {
            cx.client.acache().drop_handle(self.file.handle);
            self.file.state.invalidated();
        } else if self.want.kind != lock_kind::UNLOCK {
            cx.client.locks().set_seen(self.file.handle, answer.stamp);
        }
        Step::Done(Locked { stamp: answer.stamp, fresh })
    }

    /// What an error leaves behind.
    fn failed<N: Net>(&mut self, cx: &Cx<'_, N>, e: PvfsError) -> PvfsError {
        use ErrorCode::{Deadlock, Invalid, Locked, NoLocks, Stale};
        if cx.op.will_retry(cx.client, &e) {
            return e;
        }
        match self.attempt.take() {
            Some(a) if matches!(e.code, Locked | Deadlock | NoLocks | Stale | Invalid) => {
                a.changed_nothing();
            }
            // Dropped: its fate is unknown.
            _ => {}
        }
        e
    }

    async fn ask<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<Locked>> {
        let Some(attempt) = &self.attempt else {
            self.attempt = cx.client.locks().begin(self.file.handle, self.owner, self.want);
            if self.attempt.is_none() {
                pause(BEGIN_POLL).await?;
            }
            return Ok(Step::Next);
        };
        let (client, handle) = (cx.client, self.file.handle);
        let reclaims = client.locks().reclaims();
        let request = self.request(attempt.id, client.locks().seen(handle));
        let server = cx.meta_server(handle)?;
        let answer = match cx.ask(server, request).await {
            Ok(answer) => answer,
            Err(e) => return Err(self.failed(cx, e)),
        };
        match answer.state {
            lock_state::QUEUED => self.state = State::Wait,
            // A reclaim in between did not know of it: to be sure, once more.
            lock_state::DONE if reclaims != client.locks().reclaims() => {}
            lock_state::DONE => return Ok(self.done(cx, &answer)),
            _ => {
                if let Some(attempt) = self.attempt.take() {
                    attempt.changed_nothing();
                }
                return Err(interrupted());
            }
        }
        Ok(Step::Next)
    }

    async fn wait<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<Locked>> {
        // A FUSE thread hands it over here.
        pause(Duration::ZERO).await?;
        let Some(attempt) = &self.attempt else { return Err(interrupted()) };
        self.state = tokio::select! {
            biased;
            () = attempt.woken.notified() => State::Ask,
            signal = signalled(cx.op.cx.caller_tid) => match signal {
                Signal::Other => State::Cancel,
                Signal::Kill => {
                    self.attempt = None;
                    return Err(interrupted());
                }
            },
            () = tokio::time::sleep(POLL) => State::Ask,
        };
        Ok(Step::Next)
    }
}

impl Machine for Lock {
    type Out = Locked;
    const NAME: &'static str = "lock";
    fn state(&self) -> &'static str {
        match self.state {
            State::Ask if self.attempt.is_none() => "begin",
            State::Ask => "ask",
            State::Wait => "wait",
            State::Cancel => "cancel",
        }
    }
    async fn step<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<Locked>> {
        match self.state {
            State::Wait => self.wait(cx).await,
            State::Ask | State::Cancel => self.ask(cx).await,
        }
    }
}

/// Gives back a lock whose unlock nobody waits for, until the server has heard of it or the session
/// has ended.
pub struct GiveBack {
    job: Job,
    cancelled: bool,
}

impl GiveBack {
    /// See [`crate::locks::LockTable::next_job`].
    pub fn new(job: Job) -> GiveBack {
        GiveBack { job, cancelled: job.id == 0 }
    }
}

impl Machine for GiveBack {
    type Out = ();
    const NAME: &'static str = "lock";
    fn state(&self) -> &'static str {
        if self.cancelled { "unlock" } else { "cancel" }
    }
    async fn step<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<()>> {
        let Job { handle, owner, id, want } = self.job;
        let server = cx.meta_server(handle)?;
        let request = match self.cancelled {
            false => LockRequest { cancel: true, ..request(handle.0, owner, &want, id, 0) },
            true => {
                let unlock = Want { kind: lock_kind::UNLOCK, ..want };
                request(handle.0, owner, &unlock, 0, 0)
            }
        };
        match cx.ask(server, request).await {
            Ok(answer) if !self.cancelled && answer.state == lock_state::DONE => {
                self.cancelled = true;
                return Ok(Step::Next);
            }
            Ok(answer) => {
                let stamp = self.cancelled.then_some(answer.stamp);
                cx.client.locks().job_done(&self.job, stamp);
            }
            Err(e) if cx.op.will_retry(cx.client, &e) => return Err(e),
            Err(e) if matches!(e.code, ErrorCode::Unreachable | ErrorCode::Busy) => {
                pause(TELL_AGAIN).await?;
                return Ok(Step::Next);
            }
            Err(e) => {
                tracing::warn!("a lock on file {handle} could not be given back: {e}");
                cx.client.locks().job_done(&self.job, None);
            }
        }
        Ok(Step::Done(()))
    }
}

fn request(handle: u64, owner: u64, want: &Want, id: u64, seen: u64) -> LockRequest {
    LockRequest {
        handle,
        owner,
        first: want.range.first,
        last: want.range.last,
        kind: want.kind,
        pid: want.pid,
        wait: false,
        id,
        seen,
        cancel: false,
    }
}

fn interrupted() -> PvfsError {
    PvfsError::new(ErrorCode::Interrupted, "a signal ended the wait for a lock")
}
