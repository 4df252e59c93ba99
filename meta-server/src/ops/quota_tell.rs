//! quota_tell: the first metadata server tells the limits, calls room back, asks for usage.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | limits in one change | give up room | answer |
//! | give up room that is not used (memory) | answer with usage | |
//!
//! Durable: the limits. Repeated, it does the same. Errors: `Invalid` (a server that is no other
//! server's to tell).
use crate::quota::{Amount, Id};
use crate::server::MetaServer;
use pvfs2_proto::op::{OpResponse, QuotaTellRequest, QuotaTellResponse};
use pvfs2_proto::{ErrorCode, PvfsError, Result};
use pvfs2_server_core::service::Answer;

pub(crate) async fn quota_tell(server: &MetaServer, r: QuotaTellRequest) -> Result<Answer> {
    if server.is_first() {
        let why = "the first metadata server is told by nobody of quotas";
        return Err(PvfsError::new(ErrorCode::Invalid, why));
    }
    if r.has_limits {
        server.put_limits(r.limits.iter().filter_map(Amount::parse).collect())?;
    }
    let corrected = if r.recount { server.store.recount()? } else { 0 };
    let mut table = server.store.quota.borrow_mut();
    let mut used = Vec::with_capacity(r.recall.len());
    for (id, _) in r.recall.iter().filter_map(Amount::parse) {
        used.push(table.give_up(id).of(id));
    }
    if r.all {
        let all: Vec<Id> = table.used().keys().copied().collect();
        used.extend(all.into_iter().map(|id| table.taken(id).of(id)));
    }
    Ok(Answer::new(OpResponse::QuotaTell(QuotaTellResponse { used, corrected })))
}
