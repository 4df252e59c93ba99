//! append: writes the body at the end of the file, wherever that is.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | stuffed and fits: bytes, attributes, reply in one change | answer | nothing happened |
//! | else lock the file, unstuff it if need be | find the end | answer |
//! | find the end: stored, known by the sole writer, or told by the datafiles | note the place | answer |
//! | note the place (ticket -> offset), so that a repeat after a restart writes there again | write | answer |
//! | write the datafiles | commit | answer: part of it may be there |
//! | commit: size, times, reply in one change, the note out | answer | |
//!
//! The lock orders appends of all clients; no reader sees the new size before the bytes are there.
//! Durable: all of it. Errors: `Stale`, `IsDirectory`, `Invalid`, `Access`, `TooBig`, `FileTooBig`,
//! `Unreachable`.
use super::unstuff::{may_write, move_out};
use super::write_small::{put_bytes, whole, written};
use crate::datafiles::merge;
use crate::keys;
use crate::server::MetaServer;
use crate::store::Change;
use bytes::Bytes;
use pvfs2_bmi::service::Body;
use pvfs2_proto::limits::FILE_SIZE_MAX;
use pvfs2_proto::op::{AppendRequest, AppendResponse, OpResponse};
use pvfs2_proto::{Attr, AttrFlags, ErrorCode, Handle, PvfsError, Result};
use pvfs2_server_core::scheduler::Mode;
use pvfs2_server_core::service::{Answer, OpCx};

/// Longest body.
const APPEND_MAX: usize = 16 << 20;

pub(crate) async fn append(
    server: &MetaServer,
    cx: &OpCx,
    r: AppendRequest,
    body: Body,
) -> Result<Answer> {
    let bytes = whole(body, APPEND_MAX).await?;
    let handle = Handle(r.handle);
    let mut guard = server.pass(&[(r.handle, Mode::Write)]).await;
    let mut attr = server.store.object(handle)?;
    let small = |attr: &Attr| {
        let end = attr.size.saturating_add(bytes.len() as u64);
        attr.has(AttrFlags::STUFFED) && end <= server.map.small_file_bytes
    };
    if !small(&attr) && guard.is_none() {
        guard = Some(server.sched.lock(&[(handle, Mode::Write)]).await);
        attr = server.store.object(handle)?;
    }
    may_write(server, cx, &attr)?;
    if small(&attr) {
        let mut change = Change::new();
        let end = attr.size;
        put_bytes(server, &mut change, &mut attr, end, bytes)?;
        return commit(server, cx, change, attr, end, r.kill_suidgid);
    }
    let answer = striped(server, cx, &r, attr, bytes).await;
    drop(guard);
    answer
}

fn commit(
    server: &MetaServer,
    cx: &OpCx,
    mut change: Change,
    mut attr: Attr,
    logical_offset: u64,
    kill_suidgid: bool,
) -> Result<Answer> {
    written(server, cx, &mut change, &mut attr, kill_suidgid);
    change.put_attr(&attr);
    let attr = Some(server.seen(cx, attr));
    server.answer(cx, change, OpResponse::Append(AppendResponse { logical_offset, attr }))
}

async fn striped(
    server: &MetaServer,
    cx: &OpCx,
    r: &AppendRequest,
    mut attr: Attr,
    bytes: Bytes,
) -> Result<Answer> {
    if attr.has(AttrFlags::STUFFED) {
        attr = move_out(server, cx, attr, None).await?;
    }
    let layout = attr.layout.clone().ok_or_else(|| crate::store::damaged(attr.handle()))?;
    let note = cx.ticket.map(|(slot, seq)| (keys::append_note(cx.session, slot), seq));
    let begun = match &note {
        Some((key, seq)) => keys::append_place(server.store.get(key)?.as_deref(), *seq),
        None => None,
    };
    let end = match begun {
        Some(end) => end,
        None => {
            let end = find_end(server, cx, r, &mut attr, &layout).await?;
            if let Some((key, seq)) = &note {
                let mut change = Change::new();
                change.put(key, keys::append_value(*seq, end).to_vec());
                server.store.commit(change)?;
            }
            end
        }
    };
    let new_size = end.checked_add(bytes.len() as u64).filter(|n| *n <= FILE_SIZE_MAX);
    let new_size = new_size.ok_or_else(|| {
        PvfsError::new(ErrorCode::FileTooBig, format!("a file has at most {FILE_SIZE_MAX} bytes"))
    })?;
    server.write_datafiles(cx, &layout, end, &bytes).await?;
    attr.size = attr.size.max(new_size);
    let mut change = Change::new();
    if let Some((key, _)) = &note {
        change.delete(key);
    }
    commit(server, cx, change, attr, end, r.kill_suidgid)
}

/// Where the file ends now.
async fn find_end(
    server: &MetaServer,
    cx: &OpCx,
    r: &AppendRequest,
    attr: &mut Attr,
    layout: &pvfs2_proto::FileLayout,
) -> Result<u64> {
    if !attr.has(AttrFlags::SIZE_DYNAMIC) {
        return Ok(attr.size);
    }
    let sole = server.opens.borrow().is_sole_writer(cx.session, attr.handle());
    if sole && !server.in_grace.get() {
        return Ok(attr.size.max(r.known_end));
    }
    let extent = server.datafile_extent(cx, layout).await?;
    merge(attr, extent);
    Ok(attr.size)
}
