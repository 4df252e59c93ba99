//! The other side of intents: steps that other metadata servers ask of this one.
//!
//! Every step leaves a mark (`keys::step`), so that a repeat does nothing and a step that was taken
//! back cannot come later. Marks go when their coordinator says that the intent is over
//! (`prune`). A rename between servers holds the directory of the old name from its first step to
//! its last, over a restart too: the mark says so, and `MetaServer::recover_holds` takes it again.
use crate::keys;
use crate::server::MetaServer;
use crate::store::Change;
use bytes::Bytes;
use prost::Message;
use pvfs2_proto::op::{Cred, IntentStatusRequest};
use pvfs2_proto::{ErrorCode, Handle, PvfsError, Result, ServerId};
use pvfs2_server_core::peer;
use pvfs2_server_core::scheduler::{Guard, Mode};
use std::collections::HashMap;
use std::sync::Weak;
use std::time::Duration;

/// Pause between looks at marks that may go.
const PRUNE_MS: u64 = 30_000;
/// Bits of an intent number below its coordinator's id plus 1.
const INTENT_SHIFT: u32 = 48;

/// Kinds of step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum StepKind {
    /// `crdir`.
    Crdir = 1,
    /// `link_count`.
    LinkCount = 2,
    /// `rmdir_peer`: Prepare to Finish.
    Rmdir = 3,
    /// `rename_peer`.
    Rename = 4,
    /// `tree_lock`: Take to Release.
    Tree = 5,
}

/// Where a step stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum StepState {
    /// Checked and held, not done.
    Prepared = 0,
    /// Done.
    Done = 1,
    /// Taken back, or refused before it came.
    Undone = 2,
}

/// A step of another server's intent, as kept.
#[derive(Clone, PartialEq, Message)]
pub struct StepRecord {
    /// Where it stands.
    #[prost(enumeration = "StepState", tag = "1")]
    pub state: i32,
    /// The object: made, counted, or named by the old name.
    #[prost(uint64, tag = "2")]
    pub handle: u64,
    /// Its type bits (rename).
    #[prost(uint32, tag = "3")]
    pub kind: u32,
    /// Directory of the old name (rename).
    #[prost(uint64, tag = "4")]
    pub dir: u64,
    /// The old name (rename).
    #[prost(bytes = "bytes", tag = "5")]
    pub name: Bytes,
    /// When the mark was written.
    #[prost(int64, tag = "6")]
    pub at_ns: i64,
}

/// Directories held for renames of other servers, by intent.
pub(crate) type Held = HashMap<u64, Guard>;

impl MetaServer {
    /// The mark of a step.
    pub(crate) fn mark(
        &self,
        intent: u64,
        kind: StepKind,
        handle: u64,
    ) -> Result<Option<StepRecord>> {
        self.store
            .get(keys::step(intent, kind as u8, handle))?
            .map(|value| StepRecord::decode(value.as_ref()))
            .transpose()
            .map_err(|_| crate::store::damaged(Handle(handle)))
    }

    /// Adds a step's mark to its change.
    pub(crate) fn put_mark(
        &self,
        change: &mut Change,
        intent: u64,
        kind: StepKind,
        handle: u64,
        record: &StepRecord,
    ) {
        let record = StepRecord { at_ns: self.now_ns(), ..record.clone() };
        change.put(keys::step(intent, kind as u8, handle), record.encode_to_vec());
    }

    /// Commits a step, durably: the coordinator builds upon it.
    pub(crate) async fn commit_step(&self, change: Change) -> Result<()> {
        let index = self.store.commit(change)?;
        self.store.sync(index).await
    }

    /// Holds the directories, and the tree lock, of renames that were under way at the last stop.
    pub(crate) fn recover_holds(&self) -> Result<()> {
        self.store.scan(&keys::steps(), |key, value| {
            let held = match keys::step_kind(key) {
                Some(kind) if kind == StepKind::Rename as u8 => &self.held,
                Some(kind) if kind == StepKind::Tree as u8 => &self.tree_held,
                _ => return Ok(()),
            };
            let prepared = StepRecord::decode(value.as_ref()).ok();
            let prepared = prepared.filter(|r| r.state() == StepState::Prepared);
            // A tree lock's record names no directory: `tree_lock::TREE`.
            if let (Some(intent), Some(record)) = (keys::intent_of(key), prepared)
                && let Some(guard) = self.sched.try_lock(Handle(record.dir), Mode::Write)
            {
                held.borrow_mut().insert(intent, guard);
            }
            Ok(())
        })
    }

    /// Asks coordinators about the marks here, and removes those of intents that are over.
    async fn prune_round(&self) -> Result<()> {
        let mut marks: HashMap<u64, Vec<Bytes>> = HashMap::new();
        self.store.scan(&keys::steps(), |key, _| {
            if let Some(intent) = keys::intent_of(key) {
                marks.entry(intent).or_default().push(key.clone());
            }
            Ok(())
        })?;
        for (intent, keys_of) in marks {
            let coordinator = ((intent >> INTENT_SHIFT) as ServerId).wrapping_sub(1);
            let ask = IntentStatusRequest { intent };
            let status = peer::ask(self.peers(), &Cred::root(), 0, coordinator, ask).await;
            if !matches!(&status, Ok(s) if !s.pending) {
                continue;
            }
            let mut change = Change::new();
            for key in keys_of {
                change.delete(key);
            }
            self.store.commit(change)?;
            self.held.borrow_mut().remove(&intent);
            self.tree_held.borrow_mut().remove(&intent);
        }
        Ok(())
    }
}

/// A step that came after it had been taken back.
pub(crate) fn taken_back() -> PvfsError {
    PvfsError::new(ErrorCode::Invalid, "this step has been taken back by its coordinator")
}

/// Removes marks of intents that are over; runs until the server is gone.
pub(crate) async fn prune(server: Weak<MetaServer>) {
    loop {
        tokio::time::sleep(Duration::from_millis(PRUNE_MS)).await;
        let Some(me) = server.upgrade() else { return };
        if let Err(e) = me.prune_round().await {
            tracing::error!("cannot remove marks of operations that are over: {e}");
        }
    }
}
