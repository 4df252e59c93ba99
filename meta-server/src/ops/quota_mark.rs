//! quota_mark: puts an object into a directory tree that has a quota, or takes it out.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | attributes and reply in one change (a split directory's parts hear of it first) | answer | nothing happened |
//!
//! A tool walks the tree with it, from its top: what is made in a marked directory is marked from
//! its beginning. Durable: all of it. Errors: `NotPermitted`, `Stale`, `InUse` (it belongs to another
//! tree: trees do not lie in each other).
use crate::server::MetaServer;
use crate::store::Change;
use pvfs2_proto::op::{OpResponse, QuotaMarkRequest, QuotaMarkResponse};
use pvfs2_proto::{ErrorCode, Handle, PvfsError, Result};
use pvfs2_server_core::service::{Answer, OpCx};

pub(crate) async fn quota_mark(
    server: &MetaServer,
    cx: &OpCx,
    r: QuotaMarkRequest,
) -> Result<Answer> {
    if !cx.cred.is_root() {
        return Err(PvfsError::new(ErrorCode::NotPermitted, "only root sets quotas"));
    }
    let (guard, mut attr) = server.pass_attr(Handle(r.handle)).await?;
    if attr.quota_tree != 0 && r.tree != 0 && attr.quota_tree != r.tree {
        return Err(PvfsError::new(
            ErrorCode::InUse,
            format!(
                "object {} belongs to the directory tree of {}, which has a quota of its own: take \
                 that away first",
                Handle(r.handle),
                Handle(attr.quota_tree)
            ),
        ));
    }
    let response = |attr| OpResponse::QuotaMark(QuotaMarkResponse { attr: Some(attr) });
    if attr.quota_tree == r.tree {
        return Ok(Answer::new(response(attr)));
    }
    attr.quota_tree = r.tree;
    attr.ctime_ns = server.now_ns();
    attr.change += 1;
    let mut change = Change::new();
    change.put_attr(&attr);
    server.answer_attr(cx, change, &attr.clone(), guard, response(attr)).await
}
