//! getattr: an object's attributes. A dynamic size is for the client to compute (see `attr.rs`).
//!
//! Changes nothing. Errors: `Stale`.
use crate::server::MetaServer;
use pvfs2_proto::op::{GetattrRequest, GetattrResponse, OpResponse};
use pvfs2_proto::{Handle, Result};
use pvfs2_server_core::service::{Answer, OpCx};

pub(crate) fn getattr(server: &MetaServer, cx: &OpCx, r: GetattrRequest) -> Result<Answer> {
    let attr = server.store.object(Handle(r.handle))?;
    let attr = Some(server.seen(cx, attr));
    Ok(Answer::new(OpResponse::Getattr(GetattrResponse { attr })))
}
