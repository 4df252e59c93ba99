//! unstuff: gives a stuffed file datahandles and moves its bytes to the datafiles, for ever.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | choose layout, name datahandles | begin, if there are bytes; else commit | answer |
//! | begin: commit the layout beside the bytes | write the bytes | nothing happened |
//! | empty the datafiles, if an earlier attempt had begun | write the bytes | answer |
//! | write the bytes to the datafiles | commit | answer; the file stays stuffed, and moving |
//! | commit: layout in, bytes out, reply | answer | the file stays stuffed, and moving |
//!
//! A file whose move was begun and not ended keeps that layout for the next attempt: its datahandles
//! may hold bytes of the first one, and a layout in another order (or a file that was shortened
//! meanwhile) would show them in the wrong place. They are emptied before they are written again,
//! and go to the reaper when the file goes.
//!
//! The file is locked until the end. Where the bytes may have been promised to survive loss of power
//! (an fsync, or an earlier run of the server), the datafiles are synced before the commit.
//! Errors: `Stale`, `Access`, `Invalid` (no regular file; a layout that cannot be met),
//! `Unreachable`.
use crate::keys;
use crate::server::MetaServer;
use crate::store::Change;
use prost::Message;
use pvfs2_proto::op::{OpResponse, UnstuffRequest, UnstuffResponse};
use pvfs2_proto::{Attr, AttrFlags, ErrorCode, Handle, PvfsError, Result};
use pvfs2_server_core::prelude::{self, WRITE};
use pvfs2_server_core::scheduler::Mode;
use pvfs2_server_core::service::{Answer, OpCx};

pub(crate) async fn unstuff(server: &MetaServer, cx: &OpCx, r: UnstuffRequest) -> Result<Answer> {
    let handle = Handle(r.handle);
    let respond = |attr| {
        let attr = Some(server.seen_by_holder(cx, attr));
        OpResponse::Unstuff(UnstuffResponse { attr })
    };
    let _guard = server.sched.lock(&[(handle, Mode::Write)]).await;
    let attr = server.store.object(handle)?;
    may_write(server, cx, &attr)?;
    let attr = if attr.layout.is_none() {
        move_out_like(server, cx, attr, Some(&respond), &r.like).await?
    } else {
        attr
    };
    Ok(Answer::new(respond(attr)))
}

/// Whether the session may change the file's bytes: it has it open for writing, or the mode says so.
pub(crate) fn may_write(server: &MetaServer, cx: &OpCx, attr: &Attr) -> Result<()> {
    if attr.is_dir() {
        return Err(PvfsError::new(ErrorCode::IsDirectory, "a directory has no bytes"));
    }
    if !attr.is_file() {
        return Err(PvfsError::new(ErrorCode::Invalid, "only regular files have bytes"));
    }
    if server.opens.borrow().has(cx.session, attr.handle(), true) {
        return Ok(());
    }
    prelude::access(&cx.cred, attr, WRITE)
}

/// Moves a stuffed file's bytes out; the caller holds its handle. `respond` makes the reply to
/// record, if there is one.
pub(crate) async fn move_out(
    server: &MetaServer,
    cx: &OpCx,
    attr: Attr,
    respond: Option<super::setattr::Respond<'_>>,
) -> Result<Attr> {
    move_out_like(server, cx, attr, respond, &[]).await
}

/// As [`move_out`], to the I/O servers of the datahandles `like` where that is nobody's wish.
async fn move_out_like(
    server: &MetaServer,
    cx: &OpCx,
    mut attr: Attr,
    respond: Option<super::setattr::Respond<'_>>,
    like: &[u64],
) -> Result<Attr> {
    let handle = attr.handle();
    let begun = server.store.moving(&attr)?;
    let mut change = Change::new();
    let layout = match begun {
        Some(layout) => {
            server.empty_datafiles(cx, &layout).await?;
            layout
        }
        None => server.new_layout(handle, &server.store.xattrs(&attr)?, like)?,
    };
    let bytes = server.store.get(keys::bytes(handle))?.unwrap_or_default();
    let bytes = bytes.slice(..bytes.len().min(attr.size as usize));
    if !bytes.is_empty() {
        if !attr.has(AttrFlags::MOVING) {
            attr.set(AttrFlags::MOVING, true);
            let mut begin = Change::new();
            begin.put(keys::moving(handle), layout.encode_to_vec());
            begin.put_attr(&attr);
            server.store.commit(begin)?;
        }
        server.write_datafiles(cx, &layout, 0, &bytes).await?;
        if !server.young.borrow().contains(&handle) {
            server.sync_datafiles(cx, &layout).await?;
        }
        change.delete(keys::bytes(handle));
    }
    if attr.has(AttrFlags::MOVING) {
        // A reader's time may have come meanwhile; nothing else can have changed.
        attr = server.store.object(handle)?;
        attr.set(AttrFlags::MOVING, false);
        change.delete(keys::moving(handle));
    }
    attr.layout = Some(layout);
    attr.set(AttrFlags::STUFFED, false);
    let written = server.opens.borrow().has_writers(handle);
    attr.set(AttrFlags::SIZE_DYNAMIC, written);
    attr.set(AttrFlags::MAY_JOIN, written && server.rights.borrow().is_held(handle));
    attr.change += 1;
    change.put_attr(&attr);
    if let Some(respond) = respond {
        change.reply(cx, &respond(attr.clone()));
    }
    server.store.commit(change)?;
    server.young.borrow_mut().remove(&handle);
    Ok(attr)
}
