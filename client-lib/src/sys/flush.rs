//! flush: a program closes one of its descriptors.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | unlock (lock, only if its owner may have locked something in the file) | check | given back in the background: check |
//! | check (no request) | done | the error that nobody was waiting for |
//!
//! What was held back is written out before (`joining.rs`), all other bytes were sent when they were
//! written; size and mtime travel with the release. So there is nothing to send but the end of the
//! owner's locks, and an error to tell that background work met.
//! Who closes may be on its way out: it never waits for a server that does not answer. Errors: those
//! of writing.
use crate::locks::Want;
use crate::machine::{Cx, Machine, Step};
use crate::open_table::OpenFile;
use pvfs2_bmi::call::Net;
use pvfs2_proto::Handle;
use pvfs2_proto::Result;
use pvfs2_proto::op::{LockRequest, lock_kind};
use smallvec::{SmallVec, smallvec};
use std::sync::Arc;

/// See the head of the file.
pub struct Flush {
    file: Arc<OpenFile>,
    owner: u64,
    unlocked: bool,
}

impl Flush {
    /// Flushes `file` for `owner`, whose locks on it end (POSIX: with any of its descriptors).
    pub fn new(file: Arc<OpenFile>, owner: u64) -> Flush {
        Flush { file, owner, unlocked: false }
    }

    async fn unlock<N: Net>(&self, cx: &mut Cx<'_, N>) {
        let (locks, handle) = (cx.client.locks(), self.file.handle);
        if !locks.may_hold(handle, self.owner) {
            return;
        }
        let Some(attempt) = locks.begin(handle, self.owner, Want::NOTHING) else {
            return locks.give_back(handle, self.owner);
        };
        let Ok(server) = cx.meta_server(handle) else { return };
        let request = LockRequest {
            handle: handle.0,
            owner: self.owner,
            first: Want::NOTHING.range.first,
            last: Want::NOTHING.range.last,
            kind: lock_kind::UNLOCK,
            ..Default::default()
        };
        if let Ok(answer) = cx.ask(server, request).await {
            attempt.done(answer.stamp);
        }
    }
}

impl Machine for Flush {
    type Out = ();
    const NAME: &'static str = "flush";
    fn state(&self) -> &'static str {
        if self.unlocked { "check" } else { "unlock" }
    }
    fn touches(&self) -> SmallVec<[Handle; 2]> {
        smallvec![self.file.handle]
    }
    async fn step<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<()>> {
        if !self.unlocked {
            self.unlock(cx).await;
            self.unlocked = true;
        }
        match self.file.take_error() {
            Some(e) => Err(e),
            None => Ok(Step::Done(())),
        }
    }
}
