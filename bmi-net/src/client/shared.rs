//! What all carriers of one client share: its identity, its session with each server, the slots,
//! and the guard that lets exactly one connection reclaim after a server's restart.
//!
//! A restart shows by a changed boot id in a hello's response, an expired session by a changed
//! session id. Whoever sees it first takes the guard and reclaims; others wait for the guard and
//! then find nothing left to do. Invariant: no request travels on a connection before what its
//! session had open was reclaimed.
use super::slots::Slots;
use super::{ClientOptions, SessionEvents};
use crate::call::{Call, Ticket};
use parking_lot::{Condvar, Mutex};
use pvfs2_proto::op::HelloResponse;
use pvfs2_proto::{ClusterMap, ErrorCode, PvfsError, Result, ServerId};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

/// A client: one per mount, tool, or server that asks others.
pub struct ClientShared {
    pub(super) opts: ClientOptions,
    pub(super) events: Arc<dyn SessionEvents>,
    client_id: u64,
    servers: Vec<ServerState>,
    pub(super) counts: Counts,
}

#[derive(Default)]
struct ServerState {
    known: Mutex<Known>,
    slot_freed: Condvar,
    slot_freed_async: Notify,
    reclaim_guard: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Known {
    boot_id: u64,
    lease_ms: u32,
    slots: Slots,
}

#[derive(Default)]
pub(super) struct Counts {
    pub(super) requests: AtomicU64,
    pub(super) resends: AtomicU64,
    pub(super) connects: AtomicU64,
    pub(super) stalls: AtomicU64,
    pub(super) bytes_out: AtomicU64,
    pub(super) bytes_lent: AtomicU64,
    pub(super) bytes_shared: AtomicU64,
    pub(super) bytes_in: AtomicU64,
}

/// What a client has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientCounters {
    /// Requests sent, repeats included.
    pub requests: u64,
    /// Requests sent again.
    pub resends: u64,
    /// Connections made.
    pub connects: u64,
    /// Calls that a FUSE thread gave up waiting for.
    pub stalls: u64,
    /// Bytes of bodies sent.
    pub bytes_out: u64,
    /// Those of them that were lent to a socket, not copied.
    pub bytes_lent: u64,
    /// Those of them that were not sent at all: the server found them in memory that the client shares.
    pub bytes_shared: u64,
    /// Bytes of bodies received.
    pub bytes_in: u64,
}

/// What a hello's response means for the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// The session goes on.
    Same,
    /// The client's first session with this server: nothing to reclaim.
    First,
    /// The server restarted or the session is another one: reclaim.
    Changed {
        /// The server restarted.
        restarted: bool,
    },
}

impl ClientShared {
    /// A client. Nothing is connected before it is used.
    pub fn new(opts: ClientOptions, events: Arc<dyn SessionEvents>) -> Arc<ClientShared> {
        // 0 means "no client" on the wire.
        let client_id = opts.env.rand_u64().max(1);
        let servers = opts.map.servers.iter().map(|_| ServerState::default()).collect();
        Arc::new(ClientShared { opts, events, client_id, servers, counts: Counts::default() })
    }

    /// The servers.
    pub fn map(&self) -> Arc<ClusterMap> {
        self.opts.map.clone()
    }

    /// The options it was made with.
    pub fn options(&self) -> &ClientOptions {
        &self.opts
    }

    /// The client's id, drawn at its making.
    pub fn client_id(&self) -> u64 {
        self.client_id
    }

    /// The session with `server`; 0: none yet.
    pub fn session(&self, server: ServerId) -> u64 {
        self.state(server).map_or(0, |s| s.known.lock().slots.session())
    }

    /// What it has done so far.
    pub fn counters(&self) -> ClientCounters {
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        ClientCounters {
            requests: get(&self.counts.requests),
            resends: get(&self.counts.resends),
            connects: get(&self.counts.connects),
            stalls: get(&self.counts.stalls),
            bytes_out: get(&self.counts.bytes_out),
            bytes_lent: get(&self.counts.bytes_lent),
            bytes_shared: get(&self.counts.bytes_shared),
            bytes_in: get(&self.counts.bytes_in),
        }
    }

    /// Counts what came back.
    pub(super) fn count_reply(&self, call: &Call<'_>) {
        if let Some(Ok(reply)) = &call.result {
            self.counts.bytes_in.fetch_add(reply.body_len as u64, Ordering::Relaxed);
        }
    }

    /// Gives a ticket back (see `Net::done`).
    pub fn done(&self, ticket: Ticket) {
        let Ok(state) = self.state(ticket.server) else { return };
        if state.known.lock().slots.done(ticket) {
            state.slot_freed.notify_one();
            state.slot_freed_async.notify_one();
        }
    }

    fn state(&self, server: ServerId) -> Result<&ServerState> {
        self.servers.get(server as usize).ok_or_else(|| {
            let detail = format!("the cluster map has no server number {server}");
            PvfsError::new(ErrorCode::Invalid, detail)
        })
    }

    /// The lease that the server gives; 0: nobody has asked it yet.
    pub fn lease_ms(&self, server: ServerId) -> u32 {
        self.state(server).map_or(0, |s| s.known.lock().lease_ms)
    }

    /// A ticket of the running session. `Ok(None)`: all slots are out; `Err`: there is no session.
    pub(super) fn try_ticket(&self, server: ServerId) -> Result<Option<Ticket>> {
        let state = self.state(server)?;
        let mut known = state.known.lock();
        if known.slots.session() == 0 {
            return Err(ErrorCode::BadSession.into());
        }
        Ok(known.slots.take(server))
    }

    /// Waits until a slot may be free.
    pub(super) fn wait_slot(&self, server: ServerId, at_most: Duration) {
        if let Ok(state) = self.state(server) {
            let mut known = state.known.lock();
            state.slot_freed.wait_for(&mut known, at_most);
        }
    }

    /// Waits until a slot may be free.
    pub(super) async fn wait_slot_async(&self, server: ServerId) {
        if let Ok(state) = self.state(server) {
            // A slot freed between the look and the wait is found by the next look.
            let wait = state.slot_freed_async.notified();
            let _ = tokio::time::timeout(Duration::from_millis(50), wait).await;
        }
    }

    pub(super) fn resolve(&self, ticket: Ticket) -> Ticket {
        self.state(ticket.server).map_or(ticket, |s| s.known.lock().slots.resolve(ticket))
    }

    /// Notes that a ticket's request is about to be sent; whether it may have been sent before.
    pub(super) fn mark_sent(&self, ticket: Ticket) -> bool {
        self.state(ticket.server).is_ok_and(|s| s.known.lock().slots.mark_sent(ticket))
    }

    /// A ticket of the running session in place of one of an ended session.
    pub(super) fn replace(&self, old: Ticket) -> Option<Ticket> {
        let state = self.state(old.server).ok()?;
        let mut known = state.known.lock();
        (known.slots.session() != old.session).then(|| known.slots.replace(old)).flatten()
    }

    /// What a hello's response means, compared with what is known.
    pub(super) fn standing(&self, server: ServerId, hello: &HelloResponse) -> Standing {
        let Ok(state) = self.state(server) else { return Standing::Same };
        let known = state.known.lock();
        let session = known.slots.session();
        match (known.boot_id, session) {
            (0, _) => Standing::First,
            (boot, s) if boot == hello.boot_id && s == hello.session => Standing::Same,
            (_, 0) => Standing::First,
            (boot, _) => Standing::Changed { restarted: boot != hello.boot_id },
        }
    }

    /// Takes over what a hello's response says, once everything has been reclaimed.
    pub(super) fn adopt(&self, server: ServerId, hello: &HelloResponse) {
        let Ok(state) = self.state(server) else { return };
        let mut known = state.known.lock();
        known.boot_id = hello.boot_id;
        known.lease_ms = hello.lease_ms;
        if known.slots.session() != hello.session {
            known.slots.reset(hello.session, hello.slots.clamp(1, 1024));
        }
        drop(known);
        state.slot_freed.notify_all();
        state.slot_freed_async.notify_waiters();
    }

    /// The guard of reclaims with `server`.
    pub(super) fn guard(&self, server: ServerId) -> Result<&tokio::sync::Mutex<()>> {
        Ok(&self.state(server)?.reclaim_guard)
    }

    /// Forgets the session with `server` after a goodbye.
    pub(super) fn forget(&self, server: ServerId) {
        if let Ok(state) = self.state(server) {
            *state.known.lock() = Known::default();
        }
    }
}
