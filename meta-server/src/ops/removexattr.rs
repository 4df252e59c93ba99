//! removexattr: removes an extended attribute.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | check; value out, attributes, reply in one change | answer | nothing happened |
//! | of a split directory: the same and an intent | tell the parts (`part_attr`), then answer | goes on in the background |
//!
//! Durable: all of it. An ACL that is not there is removed without a change, as in Linux. Errors: `Stale`, `NoAttribute`, `Access`, `NotPermitted`, `InUse` (layout of
//! a file with bytes), `NotSupported`.
use super::getxattr::no_attribute;
use super::setxattr::{may_change, may_lay_out};
use crate::server::MetaServer;
use crate::store::Change;
use crate::{keys, layouts};
use bytes::Bytes;
use pvfs2_proto::attr::{XATTR_ACL_ACCESS, XATTR_ACL_DEFAULT};
use pvfs2_proto::op::{OpResponse, RemovexattrRequest, RemovexattrResponse};
use pvfs2_proto::{Attr, AttrFlags, Handle, Result};
use pvfs2_server_core::scheduler::Guard;
use pvfs2_server_core::service::{Answer, OpCx};

pub(crate) async fn removexattr(
    server: &MetaServer,
    cx: &OpCx,
    r: RemovexattrRequest,
) -> Result<Answer> {
    let (guard, mut attr) = server.pass_attr(Handle(r.handle)).await?;
    may_change(cx, &attr, &r.name)?;
    if r.name == XATTR_ACL_ACCESS {
        if attr.acl.is_empty() {
            return Ok(Answer::new(response(server.seen(cx, attr))));
        }
        // The mode stays: what the mask said, the group now has.
        attr.acl = Bytes::new();
        return record(server, cx, Change::new(), attr, guard).await;
    }
    let all = server.store.xattrs(&attr)?;
    if !all.iter().any(|(name, _)| *name == r.name) {
        return match r.name.as_ref() {
            XATTR_ACL_DEFAULT => Ok(Answer::new(response(server.seen(cx, attr)))),
            _ => Err(no_attribute()),
        };
    }
    if r.name.starts_with(layouts::PREFIX) {
        may_lay_out(&attr, &r.name)?;
        server.store.growth.forget(attr.handle());
    }
    attr.set(AttrFlags::HAS_XATTR, all.len() > 1);
    let mut change = Change::new();
    change.delete(keys::xattr(attr.handle(), &r.name));
    record(server, cx, change, attr, guard).await
}

async fn record(
    server: &MetaServer,
    cx: &OpCx,
    mut change: Change,
    mut attr: Attr,
    guard: Option<Guard>,
) -> Result<Answer> {
    attr.ctime_ns = server.now_ns();
    attr.change += 1;
    change.put_attr(&attr);
    let response = response(server.seen(cx, attr.clone()));
    server.answer_attr(cx, change, &attr, guard, response).await
}

fn response(attr: Attr) -> OpResponse {
    OpResponse::Removexattr(RemovexattrResponse { attr: Some(attr) })
}
