//! readlink: what a symlink points to.
//!
//! Changes nothing. Errors: `Stale`, `Invalid` (no symlink).
use crate::keys;
use crate::server::MetaServer;
use pvfs2_proto::op::{OpResponse, ReadlinkRequest, ReadlinkResponse};
use pvfs2_proto::{ErrorCode, Handle, PvfsError, Result};
use pvfs2_server_core::service::{Answer, OpCx};

pub(crate) fn readlink(server: &MetaServer, _cx: &OpCx, r: ReadlinkRequest) -> Result<Answer> {
    let attr = server.store.object(Handle(r.handle))?;
    if !attr.is_symlink() {
        return Err(PvfsError::new(ErrorCode::Invalid, "the object is no symlink"));
    }
    let target = server.store.get(keys::bytes(attr.handle()))?;
    let target = target.ok_or_else(|| crate::store::damaged(attr.handle()))?;
    Ok(Answer::new(OpResponse::Readlink(ReadlinkResponse { target })))
}
