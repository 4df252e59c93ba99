//! fallocate: reserves space, punches holes, zeroes ranges.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | stuffed and stays so: bytes, attributes, reply in one change | answer | nothing happened |
//! | stuffed and outgrows `small_file_bytes`: unstuff | as striped | answer |
//! | striped: attributes and an intent in one change | drive the datafiles | nothing happened |
//! | drive the datafiles | remove the intent, record the reply, answer | answer; goes on in the background |
//!
//! Durable: all of it. Errors: `Stale`, `IsDirectory`, `Invalid`, `Access`, `FileTooBig`, `NoSpace`,
//! `Unreachable`.
use super::unstuff::{may_write, move_out};
use super::write_small::written;
use crate::server::MetaServer;
use crate::store::Change;
use crate::{intents, keys};
use pvfs2_proto::limits::FILE_SIZE_MAX;
use pvfs2_proto::op::{FallocateKind, FallocateRequest, FallocateResponse, OpResponse};
use pvfs2_proto::{Attr, AttrFlags, ErrorCode, Handle, PvfsError, Result};
use pvfs2_server_core::scheduler::Mode;
use pvfs2_server_core::service::{Answer, OpCx};

pub(crate) async fn fallocate(
    server: &MetaServer,
    cx: &OpCx,
    r: FallocateRequest,
) -> Result<Answer> {
    let handle = Handle(r.handle);
    if r.len == 0 {
        return Err(PvfsError::new(ErrorCode::Invalid, "fallocate needs a length"));
    }
    let end = r.logical_offset.checked_add(r.len).filter(|end| *end <= FILE_SIZE_MAX);
    let end = end.ok_or_else(|| {
        PvfsError::new(ErrorCode::FileTooBig, format!("a file has at most {FILE_SIZE_MAX} bytes"))
    })?;
    let (zeroes, extends) = match r.kind() {
        FallocateKind::Allocate => (false, true),
        FallocateKind::KeepSize => (false, false),
        FallocateKind::PunchHole | FallocateKind::ZeroKeepSize => (true, false),
        FallocateKind::ZeroRange => (true, true),
    };
    let guard = server.sched.lock(&[(handle, Mode::Write)]).await;
    let mut attr = server.store.object(handle)?;
    may_write(server, cx, &attr)?;
    if attr.has(AttrFlags::STUFFED) && extends && end > server.map.small_file_bytes {
        attr = move_out(server, cx, attr, None).await?;
    }
    let respond = |attr: &Attr| {
        let attr = Some(server.seen_by_holder(cx, attr.clone()));
        OpResponse::Fallocate(FallocateResponse { attr })
    };
    let mut change = Change::new();
    let steps = match &attr.layout {
        Some(layout) => server.fallocate_steps(layout, r.logical_offset, r.len, zeroes)?,
        None => {
            if zeroes {
                zero_stuffed(server, &mut change, &attr, r.logical_offset, end)?;
            }
            Vec::new()
        }
    };
    if extends {
        attr.size = attr.size.max(end);
    }
    written(server, cx, &mut change, &mut attr, r.kill_suidgid);
    change.put_attr(&attr);
    if steps.is_empty() {
        return server.answer(cx, change, respond(&attr));
    }
    if !zeroes {
        // Nothing to lose by a half-done reservation: ask first, so that `NoSpace` changes nothing.
        let calls = steps.into_iter().map(call).collect();
        for reply in server.peers().call(&cx.cred, cx.op_id, calls).await {
            reply?;
        }
        return server.answer(cx, change, respond(&attr));
    }
    let intent = server.store.new_intent()?;
    let steps: Vec<_> = steps.into_iter().map(|(s, op)| intents::step(s, op)).collect();
    server.commit_intent(&mut change, intent, steps.clone(), &[handle]);
    server.store.commit(change)?;
    let mut last = Change::new();
    last.reply(cx, &respond(&attr));
    server.run_intent(intent, steps, Some(guard), last).await?;
    Ok(Answer::new(respond(&attr)))
}

fn call((server, op): crate::datafiles::Step) -> pvfs2_server_core::peer::PeerCall {
    pvfs2_server_core::peer::PeerCall { server, op, body: bytes::Bytes::new() }
}

fn zero_stuffed(
    server: &MetaServer,
    change: &mut Change,
    attr: &Attr,
    from: u64,
    to: u64,
) -> Result<()> {
    let key = keys::bytes(attr.handle());
    let Some(bytes) = server.store.get(&key)? else { return Ok(()) };
    let len = bytes.len() as u64;
    if from >= len {
        return Ok(());
    }
    let mut bytes = bytes.to_vec();
    bytes[from as usize..to.min(len) as usize].fill(0);
    change.put(key, bytes);
    Ok(())
}
