//! write_small: writes the body into a stuffed file.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | bytes, attributes, reply in one change | answer | nothing happened |
//!
//! Durable: all of it. Errors: `NotStuffed` (with the attributes: it has datafiles, or would outgrow
//! `small_file_bytes`), `Stale`, `IsDirectory`, `Invalid`, `Access`, `TooBig`.
use super::read_small::not_stuffed;
use super::setattr::drop_capability;
use super::unstuff::may_write;
use crate::keys;
use crate::server::MetaServer;
use crate::store::Change;
use bytes::{Bytes, BytesMut};
use pvfs2_bmi::service::Body;
use pvfs2_proto::op::{OpResponse, WriteSmallRequest, WriteSmallResponse};
use pvfs2_proto::{Attr, AttrFlags, ErrorCode, Handle, PvfsError, Result};
use pvfs2_server_core::prelude;
use pvfs2_server_core::scheduler::Mode;
use pvfs2_server_core::service::{Answer, OpCx};

pub(crate) async fn write_small(
    server: &MetaServer,
    cx: &OpCx,
    r: WriteSmallRequest,
    body: Body,
) -> Result<Answer> {
    let limit = server.map.small_file_bytes;
    let bytes = whole(body, limit as usize).await;
    let _guard = server.pass(&[(r.handle, Mode::Write)]).await;
    let mut attr = server.store.object(Handle(r.handle))?;
    may_write(server, cx, &attr)?;
    let response =
        |attr| OpResponse::WriteSmall(WriteSmallResponse { attr: Some(server.seen(cx, attr)) });
    let end = |bytes: &Bytes| r.logical_offset.checked_add(bytes.len() as u64);
    let fits = |bytes: &Bytes| end(bytes).is_some_and(|end| end <= limit);
    let bytes = match bytes {
        Ok(bytes) if fits(&bytes) && attr.has(AttrFlags::STUFFED) => bytes,
        Err(e) if e.code != ErrorCode::TooBig => return Err(e),
        _ => return Ok(Answer::refused(not_stuffed(), response(attr))),
    };
    let mut change = Change::new();
    put_bytes(server, &mut change, &mut attr, r.logical_offset, bytes)?;
    let times = (attr.mtime_ns, attr.ctime_ns);
    written(server, cx, &mut change, &mut attr, r.kill_suidgid);
    if r.keep_times {
        (attr.mtime_ns, attr.ctime_ns) = times;
    }
    change.put_attr(&attr);
    server.answer(cx, change, response(attr))
}

/// The body in one piece.
///
/// # Errors
/// `TooBig` above `max` bytes.
pub(crate) async fn whole(body: Body, max: usize) -> Result<Bytes> {
    let too_big =
        || PvfsError::new(ErrorCode::TooBig, format!("the body has more than {max} bytes"));
    match body {
        Body::Empty => Ok(Bytes::new()),
        Body::Whole(buf) if buf.len() <= max => Ok(Bytes::copy_from_slice(&buf)),
        Body::Whole(_) => Err(too_big()),
        Body::Shared(_) => Err(PvfsError::new(
            ErrorCode::Invalid,
            "only io_write takes its body from memory that the client shares",
        )),
        Body::Flow(mut flow) => {
            let mut all = BytesMut::new();
            while let Some(piece) = flow.next().await? {
                if all.len() + piece.len() > max {
                    return Err(too_big());
                }
                all.extend_from_slice(&piece);
            }
            Ok(all.freeze())
        }
    }
}

/// Puts bytes into a stuffed file; `logical_offset` and length fit into it.
pub(crate) fn put_bytes(
    server: &MetaServer,
    change: &mut Change,
    attr: &mut Attr,
    logical_offset: u64,
    bytes: Bytes,
) -> Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    let key = keys::bytes(attr.handle());
    let (from, to) = (logical_offset as usize, logical_offset as usize + bytes.len());
    if from == 0 && to as u64 >= attr.size {
        change.put(key, bytes);
    } else {
        let old =
            if attr.size == 0 { Bytes::new() } else { server.store.get(&key)?.unwrap_or_default() };
        let mut new = old[..old.len().min(attr.size as usize)].to_vec();
        if new.len() < to {
            new.resize(to, 0);
        }
        new[from..to].copy_from_slice(&bytes);
        change.put(key, new);
    }
    attr.size = attr.size.max(to as u64);
    Ok(())
}

/// What every write does to the attributes.
pub(crate) fn written(
    server: &MetaServer,
    cx: &OpCx,
    change: &mut Change,
    attr: &mut Attr,
    kill: bool,
) {
    let now = server.now_ns();
    (attr.mtime_ns, attr.ctime_ns) = (now, now);
    attr.change += 1;
    attr.data_changed(cx.session);
    if kill {
        attr.mode = prelude::without_suidgid(attr.mode);
        drop_capability(change, attr);
    }
}
