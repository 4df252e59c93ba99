//! quota_set: limits of a user, a group or a directory tree. The first metadata server's.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | check (root, a tree's directory) | commit | answer |
//! | commit the limit | tell | nothing happened |
//! | tell the other metadata servers | answer | answer; told again in the background |
//!
//! Durable: the limit. Until another server was told, it goes by the old limit. Errors:
//! `NotPermitted`, `Invalid`, `Stale`.
use crate::quota::Amount;
use crate::server::MetaServer;
use crate::store::Change;
use pvfs2_proto::op::{OpResponse, QuotaSetRequest, QuotaSetResponse};
use pvfs2_proto::{ErrorCode, PvfsError, Result};
use pvfs2_server_core::service::{Answer, OpCx};

pub(crate) async fn quota_set(
    server: &MetaServer,
    cx: &OpCx,
    r: QuotaSetRequest,
) -> Result<Answer> {
    if !cx.cred.is_root() {
        return Err(PvfsError::new(ErrorCode::NotPermitted, "only root sets quotas"));
    }
    if !server.is_first() {
        let why = "quotas are set on the first metadata server";
        return Err(PvfsError::new(ErrorCode::Invalid, why));
    }
    let limit = r.limit.as_ref().and_then(Amount::parse);
    let Some((id, limit)) = limit else {
        let why = "a quota is a user's, a group's or a directory's";
        return Err(PvfsError::new(ErrorCode::Invalid, why));
    };
    let mut change = Change::new();
    server.put_limit(&mut change, id, limit);
    server.store.commit(change)?;
    server.store.quota.borrow_mut().set_limit(id, limit);
    server.quota_version.set(server.quota_version.get() + 1);
    let others = server.other_metas();
    let silent = server.tell_limits(&others).await;
    if !silent.is_empty() {
        server.quota_untold.borrow_mut().extend(silent);
        server.quota_wake.notify_one();
    }
    Ok(Answer::new(OpResponse::QuotaSet(QuotaSetResponse {})))
}
