//! copy_small: bytes of a stuffed file into a stuffed file of the same server.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | bytes, attributes, reply in one change | answer | nothing happened |
//!
//! Durable: all of it. Errors: `NotStuffed` (with the attributes: either file is striped, lives on
//! another server, or would outgrow `small_file_bytes`; the client carries the bytes itself),
//! `Stale`, `IsDirectory`, `Invalid`, `Access`.
use super::read_small::not_stuffed;
use super::unstuff::may_write;
use super::write_small::{put_bytes, written};
use crate::server::MetaServer;
use crate::store::Change;
use pvfs2_proto::op::{CopySmallRequest, CopySmallResponse, OpResponse};
use pvfs2_proto::{AttrFlags, Handle, Result};
use pvfs2_server_core::prelude::{self, READ};
use pvfs2_server_core::scheduler::Mode;
use pvfs2_server_core::service::{Answer, OpCx};

pub(crate) async fn copy_small(
    server: &MetaServer,
    cx: &OpCx,
    r: CopySmallRequest,
) -> Result<Answer> {
    let (source, handle) = (Handle(r.source), Handle(r.handle));
    let places = [(r.source, Mode::Read), (r.handle, Mode::Write)];
    let _guard = server.pass(if r.source == r.handle { &places[1..] } else { &places }).await;
    let mut attr = server.store.object(handle)?;
    may_write(server, cx, &attr)?;
    let response = |copied, attr| {
        let attr = Some(server.seen(cx, attr));
        OpResponse::CopySmall(CopySmallResponse { copied, attr })
    };
    let from = if server.owns(source) { server.store.attr(source)? } else { None };
    let Some(from) = from.filter(|a| a.has(AttrFlags::STUFFED)) else {
        return Ok(Answer::refused(not_stuffed(), response(0, attr)));
    };
    if !server.opens.borrow().has(cx.session, source, false) {
        prelude::access(&cx.cred, &from, READ)?;
    }
    let len = r.len.min(from.size.saturating_sub(r.source_offset));
    let fits = r.logical_offset.checked_add(len).is_some_and(|e| e <= server.map.small_file_bytes);
    if !attr.has(AttrFlags::STUFFED) || !fits {
        return Ok(Answer::refused(not_stuffed(), response(0, attr)));
    }
    if len == 0 {
        return Ok(Answer::new(response(0, attr)));
    }
    let start = r.source_offset as usize;
    let bytes = server.store.stuffed_bytes(&from)?.slice(start..start + len as usize);
    let mut change = Change::new();
    put_bytes(server, &mut change, &mut attr, r.logical_offset, bytes)?;
    written(server, cx, &mut change, &mut attr, r.kill_suidgid);
    change.put_attr(&attr);
    server.answer(cx, change, response(len, attr))
}
