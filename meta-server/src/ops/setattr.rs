//! setattr: changes attributes; a size drives the I/O servers.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | check permission | change | answer |
//! | no size, or a stuffed file that stays one: one change with the reply | answer | nothing happened |
//! | mode or owner of a split directory: attributes and an intent | tell the parts (`part_attr`), then answer | goes on in the background |
//! | stuffed file grows beyond `small_file_bytes`: unstuff | as striped | answer |
//! | striped, may shrink: attributes and an intent | cut the datafiles | nothing happened |
//! | cut the datafiles | remove the intent, record the reply, answer | answer; goes on in the background |
//!
//! Durable: everything. A cut that cannot be finished now keeps the file's handle locked until it
//! is. Errors: `Stale`, `NotPermitted`, `Access`, `IsDirectory`, `Invalid`, `FileTooBig`,
//! `Unreachable`.
use crate::intents;
use crate::keys;
use crate::server::MetaServer;
use crate::store::Change;
use pvfs2_proto::limits::FILE_SIZE_MAX;
use pvfs2_proto::op::{OpResponse, SetattrRequest, SetattrResponse};
use pvfs2_proto::{Attr, AttrFlags, ErrorCode, Handle, PvfsError, Result, SetAttr, TimeSpec};
use pvfs2_server_core::scheduler::Mode;
use pvfs2_server_core::service::{Answer, OpCx};
use pvfs2_server_core::{acl, prelude};

/// Makes an operation's response out of the attributes afterwards.
pub(crate) type Respond<'a> = &'a dyn Fn(Attr) -> OpResponse;

pub(crate) async fn setattr(server: &MetaServer, cx: &OpCx, r: SetattrRequest) -> Result<Answer> {
    let set = r.set.unwrap_or_default();
    let respond =
        |attr| OpResponse::Setattr(SetattrResponse { attr: Some(server.seen_by_holder(cx, attr)) });
    let attr = apply(server, cx, Handle(r.handle), &set, Some(&respond)).await?;
    Ok(Answer::new(respond(attr)))
}

/// Changes attributes for any operation; `respond` makes the reply to record, if there is one.
pub(crate) async fn apply(
    server: &MetaServer,
    cx: &OpCx,
    handle: Handle,
    set: &SetAttr,
    respond: Option<Respond<'_>>,
) -> Result<Attr> {
    if let Some(size) = set.size {
        return resize(server, cx, handle, set, size, respond).await;
    }
    let (guard, mut attr) = server.pass_attr(handle).await?;
    prelude::may_setattr(&cx.cred, &attr, set)?;
    let mut change = Change::new();
    if fields(server, cx, &mut change, &mut attr, set)? {
        change.put_attr(&attr);
        let for_parts = set.mode.is_some() || set.uid.is_some() || set.gid.is_some();
        if let Some(respond) = respond.filter(|_| for_parts && attr.dir_map.is_some()) {
            let response = respond(attr.clone());
            server.answer_attr(cx, change, &attr, guard, response).await?;
            return Ok(attr);
        }
        record(cx, &mut change, respond, &attr);
        server.store.commit(change)?;
    }
    Ok(attr)
}

fn record(cx: &OpCx, change: &mut Change, respond: Option<Respond<'_>>, attr: &Attr) {
    if let Some(respond) = respond {
        change.reply(cx, &respond(attr.clone()));
    }
}

/// Everything but the size. `false`: nothing was asked for.
fn fields(
    server: &MetaServer,
    cx: &OpCx,
    change: &mut Change,
    attr: &mut Attr,
    set: &SetAttr,
) -> Result<bool> {
    let any = set.mode.is_some()
        || set.uid.is_some()
        || set.gid.is_some()
        || set.atime.is_some()
        || set.mtime.is_some()
        || set.ctime.is_some()
        || prelude::kills_suidgid(&cx.cred, set);
    if !any {
        return Ok(false);
    }
    let now = server.now_ns();
    let time = |spec: TimeSpec| if spec.now { now } else { spec.ns };
    attr.mode = prelude::mode_after(&cx.cred, attr, set);
    attr.uid = set.uid.unwrap_or(attr.uid);
    attr.gid = set.gid.unwrap_or(attr.gid);
    if set.mode.is_some() {
        acl::follow_mode(attr)?;
    }
    if let Some(spec) = set.atime {
        attr.atime_ns = time(spec);
    }
    if let Some(spec) = set.mtime {
        attr.mtime_ns = time(spec);
        attr.mtime_set_ns = now;
    }
    let chowned = set.uid.is_some() || set.gid.is_some();
    if chowned || prelude::kills_suidgid(&cx.cred, set) {
        drop_capability(change, attr);
    }
    attr.ctime_ns = set.ctime.map_or(now, time);
    attr.change += 1;
    Ok(true)
}

/// A write or truncation takes file capabilities away.
pub(crate) fn drop_capability(change: &mut Change, attr: &Attr) {
    if attr.has(AttrFlags::HAS_XATTR) {
        change.delete(keys::xattr(attr.handle(), b"security.capability"));
    }
}

async fn resize(
    server: &MetaServer,
    cx: &OpCx,
    handle: Handle,
    set: &SetAttr,
    size: u64,
    respond: Option<Respond<'_>>,
) -> Result<Attr> {
    if size > FILE_SIZE_MAX {
        return Err(PvfsError::new(
            ErrorCode::FileTooBig,
            format!("a file has at most {FILE_SIZE_MAX} bytes"),
        ));
    }
    let guard = server.sched.lock(&[(handle, Mode::Write)]).await;
    let mut attr = server.store.object(handle)?;
    prelude::may_setattr(&cx.cred, &attr, set)?;
    if attr.has(AttrFlags::STUFFED) && size > server.map.small_file_bytes {
        attr = super::unstuff::move_out(server, cx, attr, None).await?;
    }
    let now = server.now_ns();
    let mut change = Change::new();
    let may_shrink = size < attr.size || attr.has(AttrFlags::SIZE_DYNAMIC);
    let steps = match &attr.layout {
        Some(layout) if may_shrink => server.truncate_steps(layout, size)?,
        Some(_) => Vec::new(),
        None => {
            cut_stuffed(server, &mut change, &attr, size)?;
            Vec::new()
        }
    };
    (attr.size, attr.mtime_ns) = (size, now);
    attr.ctime_ns = now;
    fields(server, cx, &mut change, &mut attr, set)?;
    attr.change += 1;
    attr.data_changed(cx.session);
    change.put_attr(&attr);
    server.opens.borrow_mut().size_changed(cx.session, handle);
    if steps.is_empty() {
        record(cx, &mut change, respond, &attr);
        server.store.commit(change)?;
        return Ok(attr);
    }
    let intent = server.store.new_intent()?;
    let steps: Vec<_> = steps.into_iter().map(|(s, op)| intents::step(s, op)).collect();
    server.commit_intent(&mut change, intent, steps.clone(), &[handle]);
    server.store.commit(change)?;
    let mut last = Change::new();
    record(cx, &mut last, respond, &attr);
    server.run_intent(intent, steps, Some(guard), last).await?;
    Ok(attr)
}

/// Cuts the bytes of a stuffed file; what a longer size adds reads as zeros.
fn cut_stuffed(server: &MetaServer, change: &mut Change, attr: &Attr, size: u64) -> Result<()> {
    if size >= attr.size {
        return Ok(());
    }
    let key = keys::bytes(attr.handle());
    if size == 0 {
        change.delete(key);
        return Ok(());
    }
    let bytes = server.store.get(&key)?.unwrap_or_default();
    if bytes.len() as u64 > size {
        change.put(key, bytes.slice(..size as usize));
    }
    Ok(())
}
