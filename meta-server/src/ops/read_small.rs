//! read_small: bytes of a stuffed file; they are the body.
//!
//! Changes nothing. Errors: `NotStuffed` (with the attributes), `Stale`, `IsDirectory`, `Invalid`,
//! `Access`.
use crate::server::MetaServer;
use pvfs2_bmi::service::OutBody;
use pvfs2_proto::op::{OpResponse, ReadSmallRequest, ReadSmallResponse};
use pvfs2_proto::{Attr, AttrFlags, ErrorCode, Handle, PvfsError, Result};
use pvfs2_server_core::prelude::{self, READ};
use pvfs2_server_core::service::{Answer, OpCx};

pub(crate) async fn read_small(
    server: &MetaServer,
    cx: &OpCx,
    r: ReadSmallRequest,
) -> Result<Answer> {
    let attr = server.store.object(Handle(r.handle))?;
    may_read(server, cx, &attr)?;
    let response =
        |attr| OpResponse::ReadSmall(ReadSmallResponse { attr: Some(server.seen(cx, attr)) });
    if !attr.has(AttrFlags::STUFFED) {
        return Ok(Answer::refused(not_stuffed(), response(attr)));
    }
    let from = r.logical_offset.min(attr.size);
    let to = from + r.len.min(attr.size - from);
    let bytes = server.store.stuffed_bytes(&attr)?.slice(from as usize..to as usize);
    Ok(Answer::with_body(response(attr), OutBody::Bytes(bytes)))
}

/// The client is to go to the datafiles.
pub(crate) fn not_stuffed() -> PvfsError {
    PvfsError::new(ErrorCode::NotStuffed, "the file's bytes are (or have to go) in datafiles")
}

fn may_read(server: &MetaServer, cx: &OpCx, attr: &Attr) -> Result<()> {
    if attr.is_dir() {
        return Err(PvfsError::new(ErrorCode::IsDirectory, "a directory has no bytes"));
    }
    if !attr.is_file() {
        return Err(PvfsError::new(ErrorCode::Invalid, "only regular files have bytes"));
    }
    if server.opens.borrow().has(cx.session, attr.handle(), false) {
        return Ok(());
    }
    prelude::access(&cx.cred, attr, READ)
}
