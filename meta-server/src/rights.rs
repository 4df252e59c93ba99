//! Rights to cache: which session alone has a file open and may hold back what it writes.
//!
//! Granted with an open for writing (`want_right`), while no other session has the file open. The
//! holder may join small writes of the striped file before it sends them. Whatever another session
//! asks about the file's bytes, size or times first recalls the right ([`MetaServer::recall`]): a
//! notice to the holder, which writes out and gives the right back (`give_back`), or whose session
//! ends; only then is the other answered. The notice is repeated while somebody waits, so a lost one
//! does no harm. A right also ends with the holder's last open for writing.
//!
//! A right on a file that is still stuffed is for later, when it has outgrown that: nothing of it is
//! held back yet, so nobody asks for it back, and an open by another session ends it without a word;
//! that the file's attributes then come without `MAY_JOIN` tells the holder.
//!
//! Rights live in memory, and end with the server: a client gives up all of them when its connection
//! is cut, and writes out. Files of which there may be unwritten bytes carry `MAY_JOIN` beside
//! `SIZE_DYNAMIC`, and for [`AFTER_START`] nobody else is answered about those.
//!
//! Invariants: a number is never given twice, over restarts too, so that a right given back late or
//! twice ends no later one; a session that has a file open is never without a right of another one
//! being recalled first (`open` looks again after it has entered its open).
use crate::server::MetaServer;
use pvfs2_proto::op::{NameRight, Notice, OpRequest};
use pvfs2_proto::{AttrFlags, ErrorCode, Handle, PvfsError, Result};
use pvfs2_server_core::service::OpCx;
use smallvec::{SmallVec, smallvec};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

/// How long an operation waits for a right before the client is asked to come again.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often the notice is repeated.
const AGAIN: Duration = Duration::from_millis(50);
/// Longest time that a client writes out after its connection was cut.
const AFTER_START: Duration = Duration::from_millis(1_500);

struct Right {
    session: u64,
    number: u64,
    /// It is asked back, so nobody is told of it any more.
    recalled: bool,
    ended: Rc<Notify>,
}

/// All rights of one kind.
pub(crate) struct Rights {
    /// To know directories' names (`name_rights.rs`), not to hold back files' bytes.
    of_names: bool,
    held: HashMap<Handle, Right>,
    last: u64,
    started: Instant,
}

impl Rights {
    /// None; numbers begin beyond those of earlier runs.
    pub(crate) fn new(of_names: bool, now_ns: i64) -> Rights {
        let last = now_ns.max(1) as u64;
        Rights { of_names, held: HashMap::new(), last, started: Instant::now() }
    }

    /// The session gets the right, or has it already; its number.
    pub(crate) fn grant(&mut self, session: u64, handle: Handle) -> u64 {
        if let Some(right) = self.held.get(&handle) {
            return if right.session == session && !right.recalled { right.number } else { 0 };
        }
        self.last += 1;
        let ended = Rc::default();
        let right = Right { session, number: self.last, recalled: false, ended };
        self.held.insert(handle, right);
        self.last
    }

    /// The right is asked back, unless its holder is `but`: the holder, the notice for it, and what
    /// tells the right's end.
    pub(crate) fn ask_back(
        &mut self,
        handle: Handle,
        but: Option<u64>,
    ) -> Option<(u64, Notice, Rc<Notify>)> {
        let right = self.held.get_mut(&handle).filter(|r| Some(r.session) != but)?;
        right.recalled = true;
        let notice = if self.of_names {
            let names = NameRight { dir: handle.0, right: right.number };
            Notice { recall_names: vec![names], ..Default::default() }
        } else {
            let (recall, recall_rights) = (vec![handle.0], vec![right.number]);
            Notice { recall, recall_rights, ..Default::default() }
        };
        Some((right.session, notice, right.ended.clone()))
    }

    /// Whether the right of this number is held.
    pub(crate) fn is_number(&self, handle: Handle, number: u64) -> bool {
        self.held.get(&handle).is_some_and(|r| r.number == number)
    }

    /// Whether another session than this one holds the right.
    pub(crate) fn is_others(&self, session: u64, handle: Handle) -> bool {
        self.held.get(&handle).is_some_and(|r| r.session != session)
    }

    /// Whether the session holds the right of this number.
    pub(crate) fn holds(&self, session: u64, handle: Handle, number: u64) -> bool {
        self.held.get(&handle).is_some_and(|r| r.session == session && r.number == number)
    }

    /// Whether anybody holds the right.
    pub(crate) fn is_held(&self, handle: Handle) -> bool {
        self.held.contains_key(&handle)
    }

    /// The session gives the right of this number back (`None`: whatever number it has).
    pub(crate) fn give_back(&mut self, session: u64, handle: Handle, number: Option<u64>) {
        let is_it = |r: &Right| r.session == session && number.is_none_or(|n| n == r.number);
        if self.held.get(&handle).is_some_and(is_it) {
            self.end(handle);
        }
    }

    /// The right on a file ends, whoever has it.
    pub(crate) fn end(&mut self, handle: Handle) {
        if let Some(right) = self.held.remove(&handle) {
            right.ended.notify_waiters();
        }
    }

    /// A session has ended.
    pub(crate) fn end_session(&mut self, session: u64) {
        self.held.retain(|_, right| {
            if right.session == session {
                right.ended.notify_waiters();
            }
            right.session != session
        });
    }
}

impl MetaServer {
    /// The right for a session that has just opened the file for writing; 0: none.
    pub(crate) fn grant(&self, session: u64, handle: Handle, wanted: bool) -> u64 {
        let alone = wanted && !self.in_grace.get() && self.opens.borrow().is_alone(session, handle);
        if alone { self.rights.borrow_mut().grant(session, handle) } else { 0 }
    }

    /// Whether another session than this one may hold back bytes of the file.
    ///
    /// # Errors
    /// The store's.
    pub(crate) fn others_may_hold(&self, session: u64, handle: Handle) -> Result<bool> {
        Ok(self.rights.borrow().is_others(session, handle) && self.is_striped(handle)?)
    }

    fn is_striped(&self, handle: Handle) -> Result<bool> {
        Ok(self.store.attr(handle)?.is_some_and(|attr| attr.layout.is_some()))
    }

    /// A session has opened the file, and no right is given from now on; another session's ends.
    /// Whether that was held by somebody who may hold back bytes.
    ///
    /// # Errors
    /// As [`MetaServer::recall`]; the open is to be undone.
    pub(crate) async fn end_right_of_others(&self, cx: &OpCx, handle: Handle) -> Result<bool> {
        if self.others_may_hold(cx.session, handle)? {
            self.recall(cx, handle).await?;
            return Ok(true);
        }
        let mut rights = self.rights.borrow_mut();
        if rights.is_others(cx.session, handle) {
            rights.end(handle);
        }
        Ok(false)
    }

    /// Returns when no other session than the asking one holds back bytes of the file.
    ///
    /// # Errors
    /// `Busy` when that takes long: the client asks again.
    pub(crate) async fn recall(&self, cx: &OpCx, handle: Handle) -> Result<()> {
        if cx.session == 0 || cx.peer_server.is_some() {
            return Ok(());
        }
        self.recall_from(handle, Some(cx.session)).await
    }

    /// As [`MetaServer::recall`]; without `but`: nobody at all holds back anything afterwards.
    ///
    /// # Errors
    /// As [`MetaServer::recall`].
    pub(crate) async fn recall_from(&self, handle: Handle, but: Option<u64>) -> Result<()> {
        self.after_start(handle, but)?;
        self.recall_of(&self.rights, handle, but).await
    }

    /// Returns when nobody but `but` holds a right of this kind.
    ///
    /// # Errors
    /// As [`MetaServer::recall`].
    pub(crate) async fn recall_of(
        &self,
        rights: &RefCell<Rights>,
        handle: Handle,
        but: Option<u64>,
    ) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            let of_names = rights.borrow().of_names;
            if !of_names && rights.borrow().is_held(handle) && !self.is_striped(handle)? {
                return Ok(());
            }
            let holder = rights.borrow_mut().ask_back(handle, but);
            let Some((session, notice, ended)) = holder else { return Ok(()) };
            if Instant::now() >= until {
                return Err(busy(handle));
            }
            self.notify(session, notice);
            let _ = timeout(AGAIN, ended.notified()).await;
        }
    }

    /// Recalls several rights at once.
    ///
    /// # Errors
    /// As [`MetaServer::recall`].
    pub(crate) async fn recall_all(&self, cx: &OpCx, handles: &[Handle]) -> Result<()> {
        if cx.session == 0 || cx.peer_server.is_some() {
            return Ok(());
        }
        for &handle in handles {
            if self.others_may_hold(cx.session, handle)?
                && let Some((session, notice, _)) =
                    self.rights.borrow_mut().ask_back(handle, Some(cx.session))
            {
                self.notify(session, notice);
            }
        }
        for &handle in handles {
            self.recall(cx, handle).await?;
        }
        Ok(())
    }

    /// # Errors
    /// `Busy` right after a start, for a file whose writers may be writing out what they held back.
    fn after_start(&self, handle: Handle, but: Option<u64>) -> Result<()> {
        if self.rights.borrow().started.elapsed() >= AFTER_START {
            return Ok(());
        }
        let opens = self.opens.borrow();
        let told = opens.has_writers(handle) && !opens.is_disturbed(handle);
        let own = but.is_some_and(|session| opens.has(session, handle, true));
        if told || own {
            return Ok(());
        }
        match self.store.attr(handle)? {
            Some(attr) if attr.has(AttrFlags::MAY_JOIN) => Err(busy(handle)),
            _ => Ok(()),
        }
    }
}

fn busy(handle: Handle) -> PvfsError {
    let why = format!("a client has not yet given back its right on object {handle}");
    PvfsError::new(ErrorCode::Busy, why)
}

/// The files about whose bytes, size or times an operation asks.
pub(crate) fn asked_about(op: &OpRequest) -> SmallVec<[Handle; 2]> {
    match op {
        OpRequest::Getattr(r) => smallvec![Handle(r.handle)],
        OpRequest::Setattr(r) => smallvec![Handle(r.handle)],
        OpRequest::Open(r) => smallvec![Handle(r.handle)],
        OpRequest::ReadSmall(r) => smallvec![Handle(r.handle)],
        OpRequest::WriteSmall(r) => smallvec![Handle(r.handle)],
        OpRequest::Append(r) => smallvec![Handle(r.handle)],
        OpRequest::Unstuff(r) => smallvec![Handle(r.handle)],
        OpRequest::Fallocate(r) => smallvec![Handle(r.handle)],
        OpRequest::CopySmall(r) => smallvec![Handle(r.source), Handle(r.handle)],
        OpRequest::Listattr(r) => r.handles.iter().map(|h| Handle(*h)).collect(),
        _ => SmallVec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    const F: Handle = Handle(9);

    #[tokio::test]
    async fn a_right_ends_only_by_its_number() {
        let mut t = Rights::new(false, 5);
        let first = t.grant(1, F);
        assert!(first > 5);
        assert_eq!((t.grant(1, F), t.grant(2, F)), (first, 0), "one holder");
        assert!(t.is_others(2, F) && !t.is_others(1, F));
        t.give_back(2, F, Some(first));
        t.give_back(1, F, Some(first - 1));
        assert!(t.is_held(F) && t.holds(1, F, first));
        assert!(!t.holds(2, F, first) && !t.holds(1, F, first - 1));
        t.give_back(1, F, Some(first));
        assert!(!t.is_held(F));
        let second = t.grant(2, F);
        assert!(second > first);
        t.give_back(1, F, Some(first));
        t.give_back(2, F, Some(first));
        assert!(t.is_held(F), "given back twice");
        t.end_session(1);
        assert!(t.is_held(F));
        t.end_session(2);
        assert!(!t.is_held(F));
    }
}
