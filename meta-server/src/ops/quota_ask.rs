//! quota_ask: another metadata server's objects are about to take more than it was granted.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | room there, or after others gave up theirs | note, answer | answer |
//!
//! What is granted is memory on both sides: after a restart of this server the others are asked what
//! they use before anything is granted. Errors: `Quota`, `Invalid`.
use crate::quota::Amount;
use crate::server::MetaServer;
use pvfs2_proto::op::{OpResponse, QuotaAskRequest, QuotaAskResponse};
use pvfs2_proto::{ErrorCode, PvfsError, Result};
use pvfs2_server_core::service::{Answer, OpCx};

pub(crate) async fn quota_ask(
    server: &MetaServer,
    cx: &OpCx,
    r: QuotaAskRequest,
) -> Result<Answer> {
    let from = cx.peer_server.filter(|_| server.is_first()).ok_or_else(|| {
        PvfsError::new(ErrorCode::Invalid, "a metadata server asks the first one for room")
    })?;
    let mut allowed = Vec::with_capacity(r.wants.len());
    for want in &r.wants {
        let used = want.used.as_ref().and_then(Amount::parse);
        let (id, used) =
            used.ok_or_else(|| PvfsError::new(ErrorCode::Protocol, "room is asked for somebody"))?;
        let more = Amount { bytes: want.more_bytes, files: want.more_files };
        allowed.push(server.grant_room(cx.op_id, from, (id, used), more).await?.of(id));
    }
    Ok(Answer::new(OpResponse::QuotaAsk(QuotaAskResponse { allowed })))
}
