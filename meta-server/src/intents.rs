//! Operations over several servers: written down before they begin, carried through or undone.
//!
//! An intent names the requests that finish the operation and those that undo it. Until it is
//! committed a restart undoes it; afterwards a restart finishes it. Every request does nothing when
//! repeated (marks of `peer_steps.rs`, or by its nature: a truncation). The record goes when every
//! request has been answered; until then the operation's handles stay locked, so that nobody builds
//! upon what may still change.
//!
//! | state | record | restart |
//! |---|---|---|
//! | begun | `committed` false, on disk before the first request leaves | `undo`, then removed |
//! | committed | `committed` true, in the transaction with the operation's local effect and reply | `finish`, then removed |
//! | over | none | |
use crate::keys;
use crate::server::MetaServer;
use crate::store::Change;
use bytes::Bytes;
use prost::Message;
use pvfs2_proto::op::{Cred, OpRequest, RequestHead};
use pvfs2_proto::{ErrorCode, Handle, PvfsError, Result, ServerId};
use pvfs2_server_core::peer::PeerCall;
use pvfs2_server_core::scheduler::{Guard, Mode};
use smallvec::SmallVec;
use std::sync::Arc;
use std::time::Duration;

/// Pause between attempts at servers that do not answer.
const RETRY_MS: u64 = 500;
/// Longest pause.
const RETRY_MAX_MS: u64 = 10_000;
/// Attempts at an operation for which another server is busy.
const ATTEMPTS: u32 = 40;
/// Longest pause between them.
const PAUSE_MS_MAX: u64 = 50;

/// A request of an intent.
#[derive(Clone, PartialEq, Message)]
pub struct StepCall {
    /// To which server.
    #[prost(uint32, tag = "1")]
    pub server: u32,
    /// The request, as a `RequestHead` with nothing but `op`.
    #[prost(bytes = "bytes", tag = "2")]
    pub request: Bytes,
    /// Leaves only when every other request has been answered.
    #[prost(bool, tag = "3")]
    pub last: bool,
}

/// An operation over several servers.
#[derive(Clone, PartialEq, Message)]
pub struct IntentRecord {
    /// It took effect.
    #[prost(bool, tag = "1")]
    pub committed: bool,
    /// Requests that take it back.
    #[prost(message, repeated, tag = "2")]
    pub undo: Vec<StepCall>,
    /// Requests that carry it through.
    #[prost(message, repeated, tag = "3")]
    pub finish: Vec<StepCall>,
    /// Handles locked until it is over.
    #[prost(uint64, repeated, tag = "4")]
    pub locked: Vec<u64>,
    /// When it was written.
    #[prost(int64, tag = "5")]
    pub begun_ns: i64,
}

/// A request of an intent, to be stored.
pub(crate) fn step(server: ServerId, op: OpRequest) -> StepCall {
    let head = RequestHead { op: Some(op), ..Default::default() };
    StepCall { server, request: head.encode_to_vec().into(), last: false }
}

fn parse(step: &StepCall) -> Option<PeerCall> {
    let op = RequestHead::decode(step.request.as_ref()).ok()?.op?;
    Some(PeerCall { server: step.server, op, body: Bytes::new() })
}

/// Whether a failed step may succeed later.
fn passing(e: &PvfsError) -> bool {
    e.is_retryable()
        || matches!(e.code, ErrorCode::Io | ErrorCode::NoSpace | ErrorCode::Interrupted)
}

impl MetaServer {
    /// Writes an intent that is not committed, durably: the first request may leave.
    pub(crate) async fn begin_intent(
        &self,
        intent: u64,
        undo: Vec<StepCall>,
        locked: &[Handle],
    ) -> Result<()> {
        let record = IntentRecord {
            committed: false,
            undo,
            finish: Vec::new(),
            locked: locked.iter().map(|h| h.0).collect(),
            begun_ns: self.now_ns(),
        };
        let mut change = Change::new();
        change.put(keys::intent(intent), record.encode_to_vec());
        let index = self.store.commit(change)?;
        self.store.sync(index).await
    }

    /// Repeats an attempt that another server answers with `Busy`.
    ///
    /// While a server holds handles of its own for an operation that is not decided, it waits for no
    /// handle of another server: the other refuses at once what it would have to wait for, this one
    /// lets go, and tries again after a random pause. So no operations wait for each other in a
    /// circle. Steps after the decision may wait, but hold only directories then, for which no
    /// decided operation waits.
    pub(crate) async fn until_free<T>(
        &self,
        mut attempt: impl AsyncFnMut() -> Result<T>,
    ) -> Result<T> {
        for _ in 0..ATTEMPTS {
            match attempt().await {
                Err(e) if e.code == ErrorCode::Busy => {}
                result => return result,
            }
            let pause = self.env.rand_u64() % PAUSE_MS_MAX + 1;
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        attempt().await
    }

    /// Refuses a step that would have to wait for a handle here.
    ///
    /// # Errors
    /// `Busy`.
    pub(crate) fn must_be_free(&self, handle: Handle) -> Result<()> {
        if self.sched.is_free(&[(handle, Mode::Write)]) {
            return Ok(());
        }
        Err(PvfsError::new(
            ErrorCode::Busy,
            format!("object {handle} is held by another operation: ask again"),
        ))
    }

    /// Adds a committed intent to the operation's own change.
    pub(crate) fn commit_intent(
        &self,
        change: &mut Change,
        intent: u64,
        finish: Vec<StepCall>,
        locked: &[Handle],
    ) {
        let locked = locked.iter().map(|h| h.0).collect();
        let begun_ns = self.now_ns();
        let record = IntentRecord { committed: true, undo: Vec::new(), finish, locked, begun_ns };
        change.put(keys::intent(intent), record.encode_to_vec());
    }

    /// Sends an intent's requests, all at once; when each is answered, removes its record together
    /// with `last`. What cannot be reached now is tried again in the background, with `guard` held
    /// (`last` is dropped then: the caller answers with the error, or has answered before).
    ///
    /// # Errors
    /// `Unreachable` and the like, when the intent is not over yet.
    pub(crate) async fn run_intent(
        &self,
        intent: u64,
        steps: Vec<StepCall>,
        guard: Option<Guard>,
        mut last: Change,
    ) -> Result<()> {
        match self.try_steps(steps).await {
            (_, None) => {
                last.delete(keys::intent(intent));
                self.store.commit(last).map(|_| ())
            }
            (rest, Some(e)) => {
                tracing::warn!(intent, "a step on another server has to wait: {e}");
                if let Some(me) = self.arc() {
                    tokio::task::spawn_local(async move { me.persist(intent, rest, guard).await });
                }
                Err(e)
            }
        }
    }

    /// As [`run_intent`](Self::run_intent), but waits until every request is answered, however long
    /// that takes; goes on in the background when nobody waits any more.
    ///
    /// # Errors
    /// What the removal of the record says; `Unreachable` when the server ends meanwhile.
    pub(crate) async fn end_intent(
        &self,
        intent: u64,
        steps: Vec<StepCall>,
        guard: Option<Guard>,
    ) -> Result<()> {
        let (rest, Some(e)) = self.try_steps(steps).await else {
            return self.forget_intent(intent);
        };
        tracing::warn!(intent, "a step on another server has to wait, and who asked with it: {e}");
        let Some(me) = self.arc() else { return Err(e) };
        let task = tokio::task::spawn_local(async move { me.persist(intent, rest, guard).await });
        task.await.map_err(|_| e)
    }

    async fn persist(self: Arc<Self>, intent: u64, mut steps: Vec<StepCall>, guard: Option<Guard>) {
        let mut pause = RETRY_MS;
        while !steps.is_empty() {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            pause = (pause * 2).min(RETRY_MAX_MS);
            (steps, _) = self.try_steps(steps).await;
        }
        if let Err(e) = self.forget_intent(intent) {
            tracing::error!(intent, "cannot remove the record of an intent that is over: {e}");
        }
        drop(guard);
    }

    fn forget_intent(&self, intent: u64) -> Result<()> {
        let mut change = Change::new();
        change.delete(keys::intent(intent));
        self.store.commit(change).map(|_| ())
    }

    /// One round: returns the steps to be sent again, with the first error among them.
    async fn try_steps(&self, steps: Vec<StepCall>) -> (Vec<StepCall>, Option<PvfsError>) {
        let (last, first): (Vec<_>, Vec<_>) = steps.into_iter().partition(|s| s.last);
        let (mut rest, e) = self.send_steps(first).await;
        if e.is_some() || last.is_empty() {
            rest.extend(last);
            return (rest, e);
        }
        self.send_steps(last).await
    }

    async fn send_steps(&self, steps: Vec<StepCall>) -> (Vec<StepCall>, Option<PvfsError>) {
        let mut first = None;
        let (mut sent, mut calls) = (Vec::new(), Vec::new());
        for s in steps {
            match parse(&s) {
                Some(call) => {
                    calls.push(call);
                    sent.push(s);
                }
                None => tracing::error!("a step of an intent does not parse: left out; run fsck"),
            }
        }
        let results = self.peers().call(&Cred::root(), 0, calls).await;
        let mut rest = Vec::new();
        for (s, result) in sent.into_iter().zip(results) {
            match result {
                Ok(_) => {}
                Err(e) if passing(&e) => {
                    rest.push(s);
                    first.get_or_insert(e);
                }
                // The object is gone, or the step has no meaning any more: nothing is left to do.
                Err(e) => tracing::debug!("a step of an intent was refused: {e}"),
            }
        }
        (rest, first)
    }

    /// Takes up the intents of an earlier run: locks their handles at once (before the first
    /// request is served), finishes or undoes them in the background.
    pub(crate) fn recover_intents(&self) -> Result<Vec<Recovery>> {
        let mut found = Vec::new();
        self.store.scan(&keys::intents(), |key, value| {
            let (Some(intent), Ok(record)) =
                (keys::intent_of(key), IntentRecord::decode(value.as_ref()))
            else {
                tracing::error!("the record of an intent does not parse: left alone; run fsck");
                return Ok(());
            };
            let steps = if record.committed { record.finish } else { record.undo };
            let guards = record
                .locked
                .iter()
                .filter_map(|h| self.sched.try_lock(Handle(*h), Mode::Write))
                .collect();
            found.push(Recovery { intent, steps, guards });
            Ok(())
        })?;
        Ok(found)
    }

    /// Finishes or undoes what [`MetaServer::recover_intents`] found.
    pub(crate) async fn run_recovery(self: Arc<Self>, recovery: Recovery) {
        let Recovery { intent, steps, guards } = recovery;
        tracing::info!(intent, "taking up an operation that was under way at the last stop");
        if self.run_intent(intent, steps, None, Change::new()).await.is_err() {
            // The rest goes on in the background; the handles stay locked until the record is gone.
            while self.store.get(keys::intent(intent)).is_ok_and(|r| r.is_some()) {
                tokio::time::sleep(Duration::from_millis(RETRY_MS)).await;
            }
        }
        drop(guards);
    }
}

/// An intent of an earlier run.
pub(crate) struct Recovery {
    intent: u64,
    steps: Vec<StepCall>,
    guards: SmallVec<[Guard; 2]>,
}
