//! lock: locks or unlocks a range of bytes, asks after a queued request, or takes it back.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | one step of the lock table (`locks.rs`) | tell whom it woke, answer | answer: nothing changed |
//!
//! Nothing is durable: clients say again what they hold after a restart, as with opens. A request
//! that waits is answered at once (`QUEUED`) and holds neither slot nor thread; when it waits no
//! longer, a notice names its id, and the client asks again with the same id (from time to time it
//! does so without a notice). Asking again is harmless: it finds its place in the queue, or that it
//! was granted. Errors: `Locked`, `Deadlock`, `NoLocks`, `Interrupted` (cancelled before it
//! came), `Busy` in the grace time, `Stale`, `Invalid`.
use crate::locks::{Ask, Event, Owner, Step, Verdict};
use crate::server::MetaServer;
use pvfs2_proto::op::{
    LockRequest, LockResponse, LockState, Notice, OpResponse, lock_kind, lock_state,
};
use pvfs2_proto::{ErrorCode, Handle, Held, LockRange, PvfsError, Result};
use pvfs2_server_core::service::{Answer, OpCx};
use std::collections::BTreeMap;

pub(crate) fn lock(server: &MetaServer, cx: &OpCx, r: LockRequest) -> Result<Answer> {
    let (handle, owner) = (Handle(r.handle), Owner { session: cx.session, owner: r.owner });
    let range = range(r.first, r.last)?;
    let write = r.kind == lock_kind::WRITE;
    let ask = Ask { id: r.id, range, write, pid: r.pid, wait: r.wait, seen: r.seen };
    let event = match r.kind {
        _ if r.cancel => Event::Cancel(owner, handle, ask),
        lock_kind::UNLOCK => Event::Unlock(owner, handle, range),
        lock_kind::READ | lock_kind::WRITE => {
            server.must_own(handle)?;
            server.store.object(handle)?;
            Event::Lock(owner, handle, ask)
        }
        other => {
            return Err(PvfsError::new(ErrorCode::Invalid, format!("{other} is no kind of lock")));
        }
    };
    let refuse = |code, why: String| Err(PvfsError::new(code, why));
    let (state, stamp, fresh) = match server.lock_step(event) {
        Verdict::Done { stamp, fresh } => (lock_state::DONE, stamp, fresh),
        Verdict::Queued => (lock_state::QUEUED, 0, false),
        Verdict::Cancelled if r.cancel => (lock_state::CANCELLED, 0, false),
        Verdict::Cancelled => return refuse(ErrorCode::Interrupted, "it was cancelled".into()),
        Verdict::Refused(held) => {
            let (pid, range) = (held.pid, held.range);
            let why = format!("process {pid} holds a lock on {range} of file {handle}");
            return refuse(ErrorCode::Locked, why);
        }
        Verdict::Deadlock => {
            let why = format!("whoever holds {range} of file {handle} waits for this process");
            return refuse(ErrorCode::Deadlock, why);
        }
        Verdict::Grace => {
            let why = "the server has restarted and waits for others to say what they have locked";
            return refuse(ErrorCode::Busy, why.into());
        }
        Verdict::TooMany => {
            return refuse(ErrorCode::NoLocks, "the session has too many locks".into());
        }
        Verdict::Lost => return refuse(ErrorCode::Stale, "the lock is lost".into()),
    };
    Ok(Answer::new(OpResponse::Lock(LockResponse { state, stamp, fresh })))
}

/// # Errors
/// `Invalid` for a range without bytes.
pub(super) fn range(first: u64, last: u64) -> Result<LockRange> {
    LockRange::new(first, last).ok_or_else(|| {
        let why = format!("a lock from byte {first} to byte {last} holds no byte");
        PvfsError::new(ErrorCode::Invalid, why)
    })
}

impl MetaServer {
    /// One step of the lock table; whom it woke hears of it.
    pub(crate) fn lock_step(&self, event: Event) -> Verdict {
        let Step { verdict, wakes } = self.locks.borrow_mut().step(event);
        let mut of_session: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for (session, id) in wakes {
            of_session.entry(session).or_default().push(id);
        }
        for (session, lock_ids) in of_session {
            self.notify(session, Notice { lock_ids, ..Default::default() });
        }
        verdict
    }

    /// A session says what it had locked before the restart; gives back what it has no more.
    pub(crate) fn reclaim_held(
        &self,
        session: u64,
        locks: &[LockState],
        allowed: bool,
    ) -> Vec<LockState> {
        let is_lost = |l: &&LockState| {
            let Some(range) = LockRange::new(l.first, l.last) else { return true };
            let owner = Owner { session, owner: l.owner };
            let held = Held { range, write: l.write, pid: l.pid, mark: 0 };
            self.lock_step(Event::Reclaim(owner, Handle(l.handle), held, allowed)) == Verdict::Lost
        };
        locks.iter().filter(is_lost).cloned().collect()
    }
}
