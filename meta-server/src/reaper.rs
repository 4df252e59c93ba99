//! The reaper: removes what has lost its last name and its last open.
//!
//! Removing a file queues its datahandles in the transaction that removes the metafile (`keys::reap`);
//! this removes the datafiles on the I/O servers, and the queue's record when every server has
//! answered. Orphans (objects without a name that are open) join the queue at their last close, at
//! the end of the session that had them open, or after the grace time.
//!
//! Also here: settling the size of a file after its last writer went without a full report.
use crate::datafiles::merge;
use crate::keys;
use crate::server::MetaServer;
use crate::store::Change;
use bytes::Bytes;
use pvfs2_proto::op::{Cred, DfRemoveRequest, OpMessage};
use pvfs2_proto::{AttrFlags, Handle, Result, ServerId};
use pvfs2_server_core::peer::PeerCall;
use pvfs2_server_core::scheduler::Mode;
use pvfs2_server_core::service::OpCx;
use std::collections::{BTreeMap, HashSet};
use std::sync::Weak;
use std::time::Duration;

/// Files in one round.
const ROUND: usize = 512;
/// Pause after a round that not every server answered.
const RETRY_MS: u64 = 1_000;
/// Removals within this time travel together.
const GATHER_MS: u64 = 20;

/// Runs until the server is gone.
pub(crate) async fn run(server: Weak<MetaServer>) {
    loop {
        let Some(me) = server.upgrade() else { return };
        let round = me.reap_round().await;
        let queued = me.store.reap.clone();
        // The server is not kept alive by a reaper with nothing to do.
        drop(me);
        let pause = match round {
            Ok(Round::Empty) => {
                queued.notified().await;
                GATHER_MS
            }
            Ok(Round::Done) => continue,
            Ok(Round::Unanswered) => RETRY_MS,
            Err(e) => {
                tracing::error!("the reaper cannot read or write its queue: {e}");
                RETRY_MS
            }
        };
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
}

/// How a round of the reaper ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Round {
    /// Nothing was queued.
    Empty,
    /// Everything that was asked for is gone.
    Done,
    /// Some server did not answer: its datafiles stay queued.
    Unanswered,
}

impl MetaServer {
    /// Removes the datafiles of up to [`ROUND`] files.
    pub(crate) async fn reap_round(&self) -> Result<Round> {
        let queued = self.store.first(&keys::reaps(), ROUND)?;
        if queued.is_empty() {
            return Ok(Round::Empty);
        }
        let mut by_server: BTreeMap<ServerId, Vec<u64>> = BTreeMap::new();
        for (_, value) in &queued {
            for datahandle in keys::reap_datahandles(value) {
                match self.map.io_server_of(datahandle) {
                    Some(server) => by_server.entry(server).or_default().push(datahandle.0),
                    None => tracing::warn!("datahandle {datahandle} belongs to no I/O server"),
                }
            }
        }
        let servers: Vec<ServerId> = by_server.keys().copied().collect();
        let calls = by_server
            .into_iter()
            .map(|(server, datahandles)| PeerCall {
                server,
                op: DfRemoveRequest { datahandles }.into_request(),
                body: Bytes::new(),
            })
            .collect();
        let replies = self.peers().call(&Cred::root(), 0, calls).await;
        let mut silent = HashSet::new();
        for (server, reply) in servers.into_iter().zip(replies) {
            if let Err(e) = reply {
                let alias = self.map.alias(server);
                tracing::debug!("datafiles on {alias} stay queued for removal: {e}");
                silent.insert(server);
            }
        }
        let mut change = Change::new();
        for (key, value) in &queued {
            let waits = keys::reap_datahandles(value)
                .into_iter()
                .any(|h| self.map.io_server_of(h).is_some_and(|s| silent.contains(&s)));
            if !waits {
                change.delete(key);
            }
        }
        self.store.commit(change)?;
        Ok(if silent.is_empty() { Round::Done } else { Round::Unanswered })
    }

    /// Removes an object without a name that nobody has open.
    pub(crate) fn reap_orphan(&self, handle: Handle) -> Result<()> {
        let mut change = Change::new();
        change.delete(keys::orphan(handle));
        if let Some(attr) = self.store.attr(handle)? {
            self.store.remove_object(&mut change, &attr)?;
        }
        self.store.commit(change)?;
        self.young.borrow_mut().remove(&handle);
        Ok(())
    }

    /// Removes all orphans that nobody has open.
    pub(crate) fn reap_orphans(&self) -> Result<()> {
        let mut closed = Vec::new();
        self.store.scan(&keys::orphans(), |key, _| {
            closed.extend(keys::handle_of(key).filter(|h| !self.opens.borrow().is_open(*h)));
            Ok(())
        })?;
        closed.into_iter().try_for_each(|handle| self.reap_orphan(handle))
    }

    /// Whether the object is a file with a dynamic size.
    pub(crate) fn is_dynamic(&self, handle: Handle) -> bool {
        self.store.attr(handle).is_ok_and(|a| a.is_some_and(|a| a.has(AttrFlags::SIZE_DYNAMIC)))
    }

    /// Settles a file's size in the background; in the grace time: after it.
    pub(crate) fn settle_later(&self, handle: Handle) {
        let is_news = self.settling.borrow_mut().insert(handle);
        if !is_news || self.in_grace.get() {
            return;
        }
        let Some(me) = self.arc() else { return };
        tokio::task::spawn_local(async move {
            if let Err(e) = me.settle(handle).await {
                // Clients go on asking the datafiles; the next look or close tries again.
                tracing::debug!("the size of object {handle} stays dynamic: {e}");
            }
            me.settling.borrow_mut().remove(&handle);
        });
    }

    /// Asks the datafiles for the size of a file that nobody writes, and makes it the stored one.
    pub(crate) async fn settle(&self, handle: Handle) -> Result<()> {
        let _guard = self.sched.lock(&[(handle, Mode::Write)]).await;
        let Some(attr) = self.store.attr(handle)? else { return Ok(()) };
        let Some(layout) = attr.layout.as_ref().filter(|_| attr.has(AttrFlags::SIZE_DYNAMIC))
        else {
            return Ok(());
        };
        if self.opens.borrow().has_writers(handle) {
            return Ok(());
        }
        let cx = OpCx::internal(Cred::root());
        let extent = self.datafile_extent(&cx, layout).await?;
        // What happened while we waited: attributes may have changed, a writer may have come.
        let Some(mut attr) = self.store.attr(handle)? else { return Ok(()) };
        merge(&mut attr, extent);
        if !self.opens.borrow().has_writers(handle) && !self.in_grace.get() {
            attr.set(AttrFlags::SIZE_DYNAMIC, false);
            attr.set(AttrFlags::MAY_JOIN, false);
        }
        attr.change += 1;
        // Who wrote what before nobody told is not known.
        attr.data_changed(0);
        let mut change = Change::new();
        change.put_attr(&attr);
        self.store.commit(change).map(|_| ())
    }
}
