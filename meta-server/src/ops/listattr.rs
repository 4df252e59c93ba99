//! listattr: attributes of many objects of this server, as `getattr` gives one's.
//!
//! For listings whose names and objects lie on different servers. Changes nothing. What is gone
//! comes without attributes (handle 0), and so does what has an ACL when ACLs have filled the frame.
//! Errors: `TooBig` (more than a listing has).
use crate::server::MetaServer;
use pvfs2_proto::limits::READDIR_MAX;
use pvfs2_proto::op::{ListattrRequest, ListattrResponse, OpResponse};
use pvfs2_proto::{Attr, ErrorCode, Handle, PvfsError, Result};
use pvfs2_server_core::service::{Answer, OpCx};

/// Bytes that the ACLs of one answer have together.
const ACLS_BYTES_MAX: usize = 1 << 20;

pub(crate) fn listattr(server: &MetaServer, cx: &OpCx, r: ListattrRequest) -> Result<Answer> {
    if r.handles.len() > READDIR_MAX as usize {
        return Err(PvfsError::new(
            ErrorCode::TooBig,
            format!("listattr takes at most {READDIR_MAX} objects"),
        ));
    }
    let mut room = ACLS_BYTES_MAX;
    let one = |handle: &u64| -> Result<Attr> {
        let attr = server.store.attr(Handle(*handle))?.filter(|a| a.acl.len() <= room);
        room -= attr.as_ref().map_or(0, |a| a.acl.len());
        Ok(attr.map(|a| server.seen(cx, a)).unwrap_or_default())
    };
    let attrs = r.handles.iter().map(one).collect::<Result<_>>()?;
    Ok(Answer::new(OpResponse::Listattr(ListattrResponse { attrs })))
}
