//! The session table: who talks to this server, and what was answered to whom.
//!
//! A synchronous owner: every event (hello, request, answer, tick) is a method that gets the time as
//! a number and returns what to do; a test drives it without clock or socket. Place in the walks:
//! `service.rs` asks it before and after every operation that carries a ticket.
//!
//! Invariants:
//! - per slot, a sequence number above the last one executes; the last one gets the kept reply (or
//!   waits for it); a smaller one is a late duplicate that nobody waits for;
//! - a session's record is on disk (metadata servers) before its id is told, and the reply of a
//!   `Durable` operation is in the same transaction as its effect ([`OpCx::reply_record`]);
//! - a session ends by goodbye or when its lease has run out; its opens end with it. Time during
//!   which this server itself stood still does not count against anybody's lease.
//!
//! Records in the collection (keys by [`SessionKeys`]):
//!
//! | key | value |
//! |---|---|
//! | session prefix, session (8, big-endian) | [`SessionRecord`] |
//! | reply prefix, session (8, BE), slot (4, BE) | seq (8, little-endian), encoded `ResponseHead` |
//!
//! [`OpCx::reply_record`]: crate::service::OpCx::reply_record
use bytes::Bytes;
use pvfs2_proto::limits::SESSION_SLOTS;
use pvfs2_proto::op::HelloRequest;
use pvfs2_proto::{ErrorCode, PvfsError, Result, ServerId};
use pvfs2_trove::{Collection, Txn};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Prefix bytes of session and reply records in the server's collection.
#[derive(Clone, Copy, Debug)]
pub struct SessionKeys {
    /// Prefix of session records.
    pub session: u8,
    /// Prefix of reply records.
    pub reply: u8,
}

impl SessionKeys {
    /// Key of a session's record.
    pub fn session_key(&self, session: u64) -> [u8; 9] {
        let mut key = [0; 9];
        key[0] = self.session;
        key[1..].copy_from_slice(&session.to_be_bytes());
        key
    }
    /// Key of a slot's reply record.
    pub fn reply_key(&self, session: u64, slot: u32) -> [u8; 13] {
        let mut key = [0; 13];
        key[0] = self.reply;
        key[1..9].copy_from_slice(&session.to_be_bytes());
        key[9..].copy_from_slice(&slot.to_be_bytes());
        key
    }
}

/// A session as kept on disk.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SessionRecord {
    /// The client's own id.
    #[prost(uint64, tag = "1")]
    pub client_id: u64,
    /// Its name, for messages.
    #[prost(string, tag = "2")]
    pub client_name: String,
    /// Its server id plus 1, if it is a server.
    #[prost(uint32, tag = "3")]
    pub peer_server: u32,
}

/// Where a metadata server keeps its sessions over a restart.
#[derive(Clone)]
pub struct DurableSessions {
    /// The server's collection.
    pub collection: Arc<Collection>,
    /// Prefixes of the records.
    pub keys: SessionKeys,
}

enum Slot {
    Running {
        seq: u64,
        waiting: Vec<oneshot::Sender<Bytes>>,
    },
    /// `stored`: read back from an earlier run, and not asked for since.
    Done {
        seq: u64,
        reply: Bytes,
        stored: bool,
    },
}

struct Session {
    record: SessionRecord,
    slots: HashMap<u32, Slot>,
    last_seen_ms: u64,
    /// It came from disk and has not said what it has open.
    unclaimed: bool,
    /// It goes back to before this server's start.
    is_old: bool,
}

/// What a request with a ticket shall do.
#[derive(Debug)]
pub enum Admission {
    /// Execute it, then call [`SessionTable::complete`].
    Execute,
    /// It was answered: this was the reply.
    Kept(Bytes),
    /// It was answered by an earlier run of the server, whose memory is gone; told once.
    Stored(Bytes),
    /// It is being executed: this brings the reply.
    Wait(oneshot::Receiver<Bytes>),
    /// A late duplicate: nobody waits for an answer.
    Drop,
    /// No such session: `BadSession`.
    Unknown,
    /// The slot number is out of range: the peer breaks the protocol.
    BadSlot,
}

/// How a hello ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joined {
    /// The session.
    pub session: u64,
    /// It was made now.
    pub is_new: bool,
}

/// The table of sessions of one server.
pub struct SessionTable {
    sessions: HashMap<u64, Session>,
    by_client: HashMap<u64, u64>,
    durable: Option<DurableSessions>,
    lease_ms: u64,
    last_tick_ms: u64,
    grace_until_ms: Option<u64>,
}

impl SessionTable {
    /// A table; with `durable`, the sessions and replies of earlier runs are read back, and grace
    /// time begins if there were any.
    ///
    /// # Errors
    /// `Io` when the collection cannot be read, `Damaged` for a record that does not parse.
    pub fn open(durable: Option<DurableSessions>, lease_ms: u64, now_ms: u64) -> Result<Self> {
        let mut table = SessionTable {
            sessions: HashMap::new(),
            by_client: HashMap::new(),
            durable,
            lease_ms: lease_ms.max(1),
            last_tick_ms: now_ms,
            grace_until_ms: None,
        };
        table.load(now_ms)?;
        if !table.sessions.is_empty() {
            table.grace_until_ms = Some(now_ms + table.lease_ms);
        }
        Ok(table)
    }

    fn load(&mut self, now_ms: u64) -> Result<()> {
        let Some(durable) = self.durable.clone() else { return Ok(()) };
        scan_all(&durable.collection, durable.keys.session, |key, value| {
            let (Some(id), Ok(record)) =
                (be_u64(key, 1), <SessionRecord as prost::Message>::decode(value))
            else {
                return Err(damaged("a session record"));
            };
            self.by_client.insert(record.client_id, id);
            self.sessions.insert(
                id,
                Session {
                    record,
                    slots: HashMap::new(),
                    last_seen_ms: now_ms,
                    unclaimed: true,
                    is_old: true,
                },
            );
            Ok(())
        })?;
        scan_all(&durable.collection, durable.keys.reply, |key, value| {
            let (Some(id), Some(slot), Some(seq)) =
                (be_u64(key, 1), key.get(9..13), value.get(..8))
            else {
                return Err(damaged("a reply record"));
            };
            let slot = slot.iter().fold(0u32, |n, b| n << 8 | u32::from(*b));
            let seq = seq.iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b));
            if let Some(session) = self.sessions.get_mut(&id) {
                let reply = value.slice(8..);
                session.slots.insert(slot, Slot::Done { seq, reply, stored: true });
            }
            Ok(())
        })
    }

    /// A client introduces itself: it goes on with its session, or gets a new one, whose id is
    /// `fresh_id` (drawn by the caller).
    ///
    /// # Errors
    /// Those of writing the session's record.
    pub fn hello(&mut self, hello: &HelloRequest, fresh_id: u64, now_ms: u64) -> Result<Joined> {
        let mine = |s: &Session| s.record.client_id == hello.client_id;
        let known = self
            .sessions
            .get(&hello.session)
            .filter(|s| mine(s))
            .map(|_| hello.session)
            .or_else(|| self.by_client.get(&hello.client_id).copied());
        if let Some(id) = known
            && let Some(session) = self.sessions.get_mut(&id)
        {
            session.last_seen_ms = now_ms;
            return Ok(Joined { session: id, is_new: false });
        }
        let mut id = fresh_id.max(1);
        while self.sessions.contains_key(&id) {
            id = id.wrapping_add(1).max(1);
        }
        let record = SessionRecord {
            client_id: hello.client_id,
            client_name: hello.client_name.clone(),
            peer_server: hello.peer_server,
        };
        if let Some(durable) = &self.durable {
            let mut txn = Txn::default();
            txn.put(durable.keys.session_key(id).to_vec(), prost::Message::encode_to_vec(&record));
            durable.collection.commit(txn)?;
        }
        self.by_client.insert(hello.client_id, id);
        self.sessions.insert(
            id,
            Session {
                record,
                slots: HashMap::new(),
                last_seen_ms: now_ms,
                unclaimed: false,
                is_old: false,
            },
        );
        Ok(Joined { session: id, is_new: true })
    }

    /// The session is alive: its lease begins again. `false`: there is no such session.
    pub fn touch(&mut self, session: u64, now_ms: u64) -> bool {
        self.sessions.get_mut(&session).map(|s| s.last_seen_ms = now_ms).is_some()
    }

    /// The server that has this session, if a server has it.
    pub fn peer_server(&self, session: u64) -> Option<ServerId> {
        self.sessions.get(&session).and_then(|s| s.record.peer_server.checked_sub(1))
    }

    /// A request with a ticket has come.
    pub fn admit(&mut self, session: u64, slot: u32, seq: u64, now_ms: u64) -> Admission {
        let Some(session) = self.sessions.get_mut(&session) else { return Admission::Unknown };
        session.last_seen_ms = now_ms;
        if slot >= SESSION_SLOTS || seq == 0 {
            return Admission::BadSlot;
        }
        let last = session.slots.get_mut(&slot);
        match last {
            Some(Slot::Done { seq: last, reply, stored }) if *last == seq => {
                if std::mem::take(stored) {
                    Admission::Stored(reply.clone())
                } else {
                    Admission::Kept(reply.clone())
                }
            }
            Some(Slot::Running { seq: last, waiting }) if *last == seq => {
                let (tx, rx) = oneshot::channel();
                waiting.push(tx);
                Admission::Wait(rx)
            }
            Some(Slot::Done { seq: last, .. } | Slot::Running { seq: last, .. }) if *last > seq => {
                Admission::Drop
            }
            _ => {
                session.slots.insert(slot, Slot::Running { seq, waiting: Vec::new() });
                Admission::Execute
            }
        }
    }

    /// The request has been executed; whoever waited for its reply gets it.
    pub fn complete(&mut self, session: u64, slot: u32, seq: u64, reply: Bytes) {
        let Some(session) = self.sessions.get_mut(&session) else { return };
        let Some(entry) = session.slots.get_mut(&slot) else { return };
        // A client that gave up on a request may have gone on with the slot already.
        if !matches!(entry, Slot::Running { seq: running, .. } if *running == seq) {
            return;
        }
        let done = Slot::Done { seq, reply: reply.clone(), stored: false };
        if let Slot::Running { waiting, .. } = std::mem::replace(entry, done) {
            for tx in waiting {
                // Its connection may be gone: then nobody needs it.
                let _ = tx.send(reply.clone());
            }
        }
    }

    /// The reply just completed asked to come again (`Busy`, `Unreachable`: a flow that was cut off):
    /// a repeat with the same ticket executes instead of getting that refusal for ever.
    pub fn reopen(&mut self, session: u64, slot: u32, seq: u64) {
        let session = self.sessions.get_mut(&session);
        match session.and_then(|s| s.slots.get_mut(&slot)) {
            Some(Slot::Done { seq: done, .. }) if *done == seq => *done = seq - 1,
            _ => {}
        }
    }

    /// Ends a session, also on disk. `false`: there was none.
    ///
    /// # Errors
    /// Those of removing its records.
    pub fn end(&mut self, session: u64) -> Result<bool> {
        let Some(ended) = self.sessions.remove(&session) else { return Ok(false) };
        if self.by_client.get(&ended.record.client_id) == Some(&session) {
            self.by_client.remove(&ended.record.client_id);
        }
        if let Some(durable) = &self.durable {
            let mut txn = Txn::default();
            txn.delete(durable.keys.session_key(session).to_vec());
            for slot in ended.slots.keys() {
                txn.delete(durable.keys.reply_key(session, *slot).to_vec());
            }
            durable.collection.commit(txn)?;
        }
        Ok(true)
    }

    /// The session has said what it has open. `true`: grace time ends, it was the last one.
    pub fn reclaimed(&mut self, session: u64) -> bool {
        if let Some(s) = self.sessions.get_mut(&session) {
            s.unclaimed = false;
        }
        self.grace_until_ms.is_some() && self.sessions.values().all(|s| !s.unclaimed) && {
            self.grace_until_ms = None;
            true
        }
    }

    /// Whether nobody else can have had since the restart what this session says it had locked.
    pub fn may_reclaim_locks(&self, session: u64) -> bool {
        self.in_grace() && self.sessions.get(&session).is_some_and(|s| s.is_old)
    }

    /// Time passes: the sessions whose lease has run out (the caller calls [`SessionTable::end`]),
    /// and whether grace time ended now.
    pub fn tick(&mut self, now_ms: u64) -> (Vec<u64>, bool) {
        let stood_still = now_ms.saturating_sub(self.last_tick_ms + self.lease_ms);
        self.last_tick_ms = now_ms;
        if stood_still > 0 {
            for s in self.sessions.values_mut() {
                s.last_seen_ms = now_ms;
            }
            if let Some(until) = &mut self.grace_until_ms {
                *until = now_ms + self.lease_ms;
            }
            return (Vec::new(), false);
        }
        let expired: Vec<u64> = self
            .sessions
            .iter()
            .filter(|(_, s)| s.last_seen_ms + self.lease_ms < now_ms)
            .map(|(id, _)| *id)
            .collect();
        let ended = self.grace_until_ms.is_some_and(|until| until <= now_ms);
        if ended {
            self.grace_until_ms = None;
        }
        (expired, ended)
    }

    /// Whether the server waits for reclaims.
    pub fn in_grace(&self) -> bool {
        self.grace_until_ms.is_some()
    }
    /// Number of sessions.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }
    /// Whether there is no session.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }
    /// The client's name, for messages.
    pub fn client_name(&self, session: u64) -> &str {
        self.sessions.get(&session).map_or("", |s| s.record.client_name.as_str())
    }
    /// Names of all clients with their session ids, for the management service.
    pub fn clients(&self) -> Vec<(u64, String)> {
        self.sessions.iter().map(|(id, s)| (*id, s.record.client_name.clone())).collect()
    }
}

fn be_u64(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8).map(|b| b.iter().fold(0, |n, b| n << 8 | u64::from(*b)))
}

fn damaged(what: &str) -> PvfsError {
    PvfsError::new(
        ErrorCode::Damaged,
        format!("{what} in the keyval does not parse: the storage space is damaged; run fsck"),
    )
}

/// Calls `each` for every record below a one-byte prefix.
fn scan_all(
    collection: &Collection,
    prefix: u8,
    mut each: impl FnMut(&Bytes, Bytes) -> Result<()>,
) -> Result<()> {
    let mut after: Option<Bytes> = None;
    loop {
        let batch = collection.scan(&[prefix], after.as_deref(), 1_024)?;
        let Some((last, _)) = batch.last() else { return Ok(()) };
        after = Some(last.clone());
        for (key, value) in batch {
            each(&key, value)?;
        }
    }
}

#[cfg(test)]
mod tests;
