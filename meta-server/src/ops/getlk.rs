//! getlk: which lock would stand in the way of another (F_GETLK).
//!
//! Changes nothing; takes no queue into account. Errors: `Invalid`; `Busy` in the grace time, while
//! it is not known what others have locked.
use super::lock::range;
use crate::locks::Owner;
use crate::server::MetaServer;
use pvfs2_proto::op::{GetlkRequest, GetlkResponse, LockState, OpResponse, lock_kind};
use pvfs2_proto::{ErrorCode, Handle, PvfsError, Result};
use pvfs2_server_core::service::{Answer, OpCx};

pub(crate) fn getlk(server: &MetaServer, cx: &OpCx, r: GetlkRequest) -> Result<Answer> {
    let owner = Owner { session: cx.session, owner: r.owner };
    let (handle, write) = (Handle(r.handle), r.kind == lock_kind::WRITE);
    let found = server.locks.borrow().conflict(owner, handle, range(r.first, r.last)?, write);
    if found.is_none() && server.in_grace.get() {
        let why = "the server has restarted and waits for others to say what they have locked";
        return Err(PvfsError::new(ErrorCode::Busy, why));
    }
    let conflict = found.map(|(owner, held)| LockState {
        handle: r.handle,
        owner: owner.owner,
        first: held.range.first,
        last: held.range.last,
        write: held.write,
        pid: held.pid,
    });
    Ok(Answer::new(OpResponse::Getlk(GetlkResponse { conflict })))
}
