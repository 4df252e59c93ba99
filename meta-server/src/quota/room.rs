//! Room: how the metadata servers share what a limit leaves.
//!
//! The first metadata server grants; each server counts its own objects. A server whose objects are
//! about to take more than it was granted asks the first one (`quota_ask`), which gives what is
//! needed and an eighth of the rest, at most [`STEP`]. When that is not there, it calls back what the
//! others were granted and do not use (`quota_tell`), and only then refuses. So one server costs
//! nothing, several cost one request between servers per step, and together they stay within the
//! limit. Beyond it goes only what operations that run at the same moment on one server were
//! promised together, and after a restart of a server the room that open writers had (`RESERVE_STEP`
//! per file). A server that does not answer when room is called back counts with what it was last
//! heard to have; with the first server out of reach, growth beyond what was granted fails.
use super::{Amount, Id};
use crate::quota::table::Ids;
use crate::server::MetaServer;
use pvfs2_proto::op::{
    Cred, OpMessage, QuotaAskRequest, QuotaKind, QuotaTellRequest, QuotaTellResponse, QuotaWant,
};
use pvfs2_proto::{ErrorCode, Handle, PvfsError, Result, ServerId};
use pvfs2_server_core::peer::{self, PeerCall};

/// Most that is granted beyond need.
const STEP: Amount = Amount { bytes: 64 << 20, files: 1_024 };

/// There is no room.
fn used_up(id: Id) -> PvfsError {
    let whose = match id.0 {
        QuotaKind::User => format!("user {}", id.1),
        QuotaKind::Group => format!("group {}", id.1),
        QuotaKind::Dir => format!("the directory tree of {}", Handle(id.1)),
    };
    PvfsError::new(
        ErrorCode::Quota,
        format!(
            "the quota of {whose} is used up: remove files, or have `pvfs2 quota set` raise it"
        ),
    )
}

impl MetaServer {
    /// Whether this is the server that grants.
    pub(crate) fn is_first(&self) -> bool {
        self.owns(Handle::ROOT)
    }

    /// The other metadata servers.
    pub(crate) fn other_metas(&self) -> Vec<ServerId> {
        self.map.meta_servers().filter(|s| *s != self.id).collect()
    }

    /// Makes sure that `more` fits for all of `ids`.
    ///
    /// # Errors
    /// `Quota`; `Unreachable` when the first metadata server is out of reach.
    pub(crate) async fn make_room(&self, op_id: u64, ids: &Ids, more: Amount) -> Result<()> {
        let mut lacking = self.lacking(ids, more);
        if lacking.is_empty() {
            return Ok(());
        }
        if self.is_first() {
            self.call_back(op_id, &lacking, None).await;
        } else {
            // One at a time: what is granted last must be what the first server remembers.
            let _one = self.quota_asking.lock().await;
            lacking = self.lacking(ids, more);
            if !lacking.is_empty() {
                self.ask_for_room(op_id, &lacking, more).await?;
            }
        }
        match self.lacking(ids, more).first() {
            None => Ok(()),
            Some(id) => Err(used_up(*id)),
        }
    }

    fn lacking(&self, ids: &Ids, more: Amount) -> Ids {
        let first = self.is_first();
        let table = self.store.quota.borrow();
        let mut lacking = table.lacking(ids, more, first);
        if first && self.map.meta_servers().nth(1).is_some() {
            // What the others hold was forgotten with the last stop.
            let limited = ids.iter().filter(|id| table.limits().contains_key(id));
            let unknown = limited.filter(|id| !table.is_surveyed(**id) && !lacking.contains(id));
            let unknown: Ids = unknown.copied().collect();
            lacking.extend(unknown);
        }
        lacking
    }

    async fn ask_for_room(&self, op_id: u64, lacking: &Ids, more: Amount) -> Result<()> {
        let wants = {
            let table = self.store.quota.borrow();
            let want = |id: &Id| QuotaWant {
                used: Some(table.taken(*id).of(*id)),
                more_bytes: more.bytes,
                more_files: more.files,
            };
            lacking.iter().map(want).collect()
        };
        let first = self.owner(Handle::ROOT)?;
        let ask = QuotaAskRequest { wants };
        let answer = peer::ask(self.peers(), &Cred::root(), op_id, first, ask).await?;
        let mut table = self.store.quota.borrow_mut();
        for (id, amount) in answer.allowed.iter().filter_map(Amount::parse) {
            table.allow(id, amount);
        }
        Ok(())
    }

    /// Has the other servers (but `except`) give up what they do not use.
    async fn call_back(&self, op_id: u64, ids: &Ids, except: Option<ServerId>) {
        let servers: Vec<ServerId> =
            self.other_metas().into_iter().filter(|s| Some(*s) != except).collect();
        if !servers.is_empty() {
            let recall = ids.iter().map(|id| Amount::default().of(*id)).collect();
            let tell = QuotaTellRequest { recall, ..Default::default() };
            for (server, told) in servers.iter().zip(self.tell(op_id, &servers, tell).await) {
                let Ok(told) = told else { continue };
                let mut table = self.store.quota.borrow_mut();
                for (id, used) in told.used.iter().filter_map(Amount::parse) {
                    table.grant(id, *server, used);
                }
            }
        }
        let mut table = self.store.quota.borrow_mut();
        ids.iter().for_each(|id| table.survey(*id));
    }

    /// Tells several servers the same.
    pub(crate) async fn tell(
        &self,
        op_id: u64,
        servers: &[ServerId],
        tell: QuotaTellRequest,
    ) -> Vec<Result<QuotaTellResponse>> {
        let call = |server: &ServerId| PeerCall {
            server: *server,
            op: tell.clone().into_request(),
            body: bytes::Bytes::new(),
        };
        let calls = servers.iter().map(call).collect();
        let replies = self.peers().call(&Cred::root(), op_id, calls).await;
        let parse = |reply: Result<peer::PeerReply>| {
            reply.and_then(|r| QuotaTellRequest::take_response(r.op)).inspect_err(|e| {
                tracing::debug!("a metadata server was not told of quotas: {e}");
            })
        };
        replies.into_iter().map(parse).collect()
    }

    /// (On the first server) grants `more` to another one whose objects take `used`.
    ///
    /// # Errors
    /// `Quota`.
    pub(crate) async fn grant_room(
        &self,
        op_id: u64,
        to: ServerId,
        (id, used): (Id, Amount),
        more: Amount,
    ) -> Result<Amount> {
        let ids: Ids = std::iter::once(id).collect();
        self.store.quota.borrow_mut().grant(id, to, used);
        let lacking = self.lacking(&ids, more);
        if !lacking.is_empty() {
            self.call_back(op_id, &lacking, Some(to)).await;
        }
        let mut table = self.store.quota.borrow_mut();
        let Some(room) = table.room(id, true) else {
            return Ok(Amount { bytes: u64::MAX, files: u64::MAX });
        };
        if more.bytes > 0 && more.bytes > room.bytes || more.files > 0 && more.files > room.files {
            return Err(used_up(id));
        }
        let grant = |used: u64, more: u64, room: u64, step: u64| {
            used.saturating_add(more).saturating_add((room.saturating_sub(more) / 8).min(step))
        };
        let allowed = Amount {
            bytes: grant(used.bytes, more.bytes, room.bytes, STEP.bytes),
            files: grant(used.files, more.files, room.files, STEP.files),
        };
        table.grant(id, to, allowed);
        Ok(allowed)
    }
}
