//! open: a session opens a regular file, perhaps truncating it.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | check permission | truncate if asked | answer |
//! | truncate (as setattr) | enter | answer |
//! | settle a dynamic size that nobody vouches for (first writer) | enter | enter as disturbed |
//! | enter the open; first writer of a striped file: set `SIZE_DYNAMIC`, durably | answer | answer |
//!
//! Durable: the truncation and `SIZE_DYNAMIC`; the open itself is memory (see `opens.rs`).
//! Errors: `Stale`, `IsDirectory`, `Invalid` (no regular file), `Access`.
use crate::server::MetaServer;
use crate::store::Change;
use pvfs2_proto::op::{OpResponse, OpenRequest, OpenResponse};
use pvfs2_proto::{Attr, AttrFlags, ErrorCode, Handle, PvfsError, Result, SetAttr};
use pvfs2_server_core::prelude::{self, EXEC, READ, WRITE};
use pvfs2_server_core::scheduler::Mode;
use pvfs2_server_core::service::{Answer, OpCx};

pub(crate) async fn open(server: &MetaServer, cx: &OpCx, r: OpenRequest) -> Result<Answer> {
    let handle = Handle(r.handle);
    let mut attr = server.store.object(handle)?;
    check(cx, &attr, &r)?;
    if r.truncate {
        // By anybody but root this clears suid and sgid (`prelude::kills_suidgid`).
        let set = SetAttr { size: Some(0), by_open_file: true, ..Default::default() };
        attr = super::setattr::apply(server, cx, handle, &set, None).await?;
    }
    let mut doubtful = false;
    if r.write && attr.layout.is_some() {
        (attr, doubtful) = begin_writing(server, handle, r.want_right).await?;
    }
    let mut right = 0;
    if cx.session != 0 {
        server.opens.borrow_mut().open(cx.session, handle, r.write);
        if doubtful {
            server.opens.borrow_mut().disturb(handle);
        }
        // Given since this open was asked for; now that it is entered no other will be.
        match server.end_right_of_others(cx, handle).await {
            Ok(false) => {}
            Ok(true) => attr = server.store.object(handle)?,
            Err(e) => {
                server.opens.borrow_mut().close(cx.session, handle, r.write);
                return Err(e);
            }
        }
        let wanted = r.write && r.want_right && (attr.layout.is_none() || may_join(&attr));
        right = server.grant(cx.session, handle, wanted);
    }
    let bytes = if r.want_bytes && attr.has(AttrFlags::STUFFED) {
        Some(server.store.stuffed_bytes(&attr)?)
    } else {
        None
    };
    let attr = Some(server.seen(cx, attr));
    Ok(Answer::new(OpResponse::Open(OpenResponse { attr, bytes, right })))
}

fn check(cx: &OpCx, attr: &Attr, r: &OpenRequest) -> Result<()> {
    if attr.is_dir() {
        return Err(PvfsError::new(ErrorCode::IsDirectory, "directories are not opened"));
    }
    if !attr.is_file() {
        return Err(PvfsError::new(ErrorCode::Invalid, "only regular files are opened here"));
    }
    let want = if r.read { READ } else { 0 }
        | if r.write || r.truncate { WRITE } else { 0 }
        | if r.exec { EXEC } else { 0 };
    prelude::access(&cx.cred, attr, want)
}

fn may_join(attr: &Attr) -> bool {
    attr.has(AttrFlags::SIZE_DYNAMIC) && attr.has(AttrFlags::MAY_JOIN)
}

/// The first writer of a striped file makes its size dynamic. `true`: what the file's size is,
/// only the datafiles know.
async fn begin_writing(server: &MetaServer, handle: Handle, joins: bool) -> Result<(Attr, bool)> {
    let unsettled = |attr: &Attr| {
        attr.has(AttrFlags::SIZE_DYNAMIC) && !server.opens.borrow().has_writers(handle)
    };
    // Left by a writer that never told: until the datafiles have, nobody knows the size.
    if unsettled(&server.store.object(handle)?)
        && let Err(e) = server.settle(handle).await
    {
        tracing::debug!("the size of object {handle} stays dynamic: {e}");
    }
    let _guard = server.pass(&[(handle.0, Mode::Write)]).await;
    let mut attr = server.store.object(handle)?;
    let doubtful = unsettled(&attr);
    if !attr.has(AttrFlags::SIZE_DYNAMIC) && attr.layout.is_some() {
        attr.set(AttrFlags::SIZE_DYNAMIC, true);
        attr.set(AttrFlags::MAY_JOIN, joins);
        let mut change = Change::new();
        change.put_attr(&attr);
        server.store.commit(change)?;
    }
    Ok((attr, doubtful))
}
