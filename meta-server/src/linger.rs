//! Files that a rename has replaced stay for a short while, so that whoever looked the name up just
//! before can still open, read and stat what it named then.
//!
//! Linux asks in two steps, lookup and open, and asks again only once: under a writer that replaces a
//! file all the time, an answer of `Stale` to the second step would reach programs as ESTALE, although
//! the name was there at every moment.
//!
//! On disk such an object is an orphan like one that is open; here stands how long it is kept in
//! memory. After a restart the end of the grace time removes it, as it does every orphan.
use crate::keys;
use crate::server::MetaServer;
use crate::store::Change;
use pvfs2_proto::{Attr, Handle, Result};
use std::cell::RefCell;
use std::collections::{HashSet, VecDeque};
use std::time::Duration;
use tokio::time::Instant;

/// How long a replaced object can still be opened.
pub const LINGER_MS: u64 = 3_000;

/// Who lingers, in the order in which they end.
#[derive(Default)]
pub(crate) struct Lingering(RefCell<Queue>);

#[derive(Default)]
struct Queue {
    order: VecDeque<(Instant, Handle)>,
    all: HashSet<Handle>,
}

impl Lingering {
    /// Whether the object is to be kept for now.
    pub(crate) fn has(&self, handle: Handle) -> bool {
        self.0.borrow().all.contains(&handle)
    }

    /// Adds one; whether it is the first, so that somebody must see to the end.
    fn add(&self, until: Instant, handle: Handle) -> bool {
        let mut queue = self.0.borrow_mut();
        queue.order.push_back((until, handle));
        queue.all.insert(handle);
        queue.order.len() == 1
    }

    /// Those whose time has come, and how long the next has still.
    fn ended(&self, now: Instant) -> (Vec<Handle>, Option<Duration>) {
        let mut queue = self.0.borrow_mut();
        let mut ended = Vec::new();
        while let Some(&(until, handle)) = queue.order.front() {
            if until > now {
                return (ended, Some(until - now));
            }
            queue.order.pop_front();
            queue.all.remove(&handle);
            ended.push(handle);
        }
        (ended, None)
    }
}

impl MetaServer {
    /// Keeps an object that is losing its last name in `change`: an orphan for [`LINGER_MS`].
    pub(crate) fn linger(&self, change: &mut Change, attr: &Attr) {
        let handle = attr.handle();
        change.put(keys::orphan(handle), Vec::new());
        change.put_attr(attr);
        let time = Duration::from_millis(LINGER_MS);
        if self.lingering.add(Instant::now() + time, handle) {
            let me = self.weak();
            tokio::task::spawn_local(async move {
                let mut pause = Some(time);
                while let Some(time) = pause {
                    tokio::time::sleep(time).await;
                    let Some(me) = me.upgrade() else { return };
                    pause = me.end_lingering();
                }
            });
        }
    }

    fn end_lingering(&self) -> Option<Duration> {
        let (ended, next) = self.lingering.ended(Instant::now());
        for handle in ended {
            if self.may_be_open(handle) {
                continue; // its last close, or the end of the grace time, removes it
            }
            if let Err(e) = self.reap_nameless(handle) {
                tracing::error!("cannot remove object {handle}, which was replaced: {e}");
            }
        }
        next
    }

    /// Removes an object that is an orphan; any other stays.
    pub(crate) fn reap_nameless(&self, handle: Handle) -> Result<()> {
        if self.store.get(keys::orphan(handle))?.is_none() {
            return Ok(());
        }
        self.reap_orphan(handle)
    }
}
