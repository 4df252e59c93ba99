//! link_count: changes the link count of an object whose name is on another metadata server.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | count and mark in one change, synced; the last name: as `unlink` | answer | nothing happened |
//! | undo: the opposite, if it was done; mark | answer | repeated by the coordinator |
//!
//! Repeated, it answers the same. Errors: `Stale`, `NotFound` (no name any more), `NotPermitted` (a
//! directory), `TooManyLinks`, `Busy` (+1: another operation holds it), `Invalid` (taken back before it came).
use super::unlink::replace_name;
use crate::peer_steps::{StepKind, StepRecord, StepState, taken_back};
use crate::server::MetaServer;
use crate::store::Change;
use pvfs2_proto::limits::LINK_MAX;
use pvfs2_proto::op::{LinkCountRequest, LinkCountResponse, OpResponse};
use pvfs2_proto::{Attr, ErrorCode, Handle, PvfsError, Result};
use pvfs2_server_core::scheduler::Mode;
use pvfs2_server_core::service::{Answer, OpCx};

pub(crate) async fn link_count(
    server: &MetaServer,
    _cx: &OpCx,
    r: LinkCountRequest,
) -> Result<Answer> {
    let _guard = if r.delta > 0 && !r.undo {
        server.must_be_free(Handle(r.handle))?;
        None
    } else {
        server.pass(&[(r.handle, Mode::Write)]).await
    };
    let mark = server.mark(r.intent, StepKind::LinkCount, r.handle)?.map(|m| m.state());
    let delta = match (mark, r.undo) {
        (Some(StepState::Undone), false) => return Err(taken_back()),
        (Some(StepState::Done), false) => return answer(server.store.attr(Handle(r.handle))?),
        (Some(StepState::Done), true) => -r.delta,
        (_, true) => 0,
        (_, false) => r.delta,
    };
    let mut change = Change::new();
    let attr = if r.undo && delta == 0 {
        server.store.attr(Handle(r.handle))?
    } else {
        count(server, &mut change, Handle(r.handle), delta)?
    };
    let state = if r.undo { StepState::Undone } else { StepState::Done };
    let record = StepRecord { state: state as i32, handle: r.handle, ..Default::default() };
    server.put_mark(&mut change, r.intent, StepKind::LinkCount, r.handle, &record);
    server.commit_step(change).await?;
    answer(attr)
}

fn count(
    server: &MetaServer,
    change: &mut Change,
    handle: Handle,
    delta: i32,
) -> Result<Option<Attr>> {
    let mut attr = server.store.object(handle)?;
    let now = server.now_ns();
    if delta < 0 {
        // Whether a rename or an unlink took the name is not told: either way it lingers.
        return replace_name(server, change, attr, now);
    }
    if delta > 0 {
        may_link(&attr)?;
        attr.nlink += 1;
    }
    attr.ctime_ns = now;
    attr.change += 1;
    change.put_attr(&attr);
    Ok(Some(attr))
}

/// Whether the object may get another name.
pub(crate) fn may_link(attr: &Attr) -> Result<()> {
    if attr.is_dir() {
        return Err(PvfsError::new(ErrorCode::NotPermitted, "a directory has one name only"));
    }
    if attr.nlink == 0 {
        return Err(PvfsError::new(ErrorCode::NotFound, "the object has lost its last name"));
    }
    if attr.nlink >= LINK_MAX {
        return Err(PvfsError::new(
            ErrorCode::TooManyLinks,
            format!("an object has at most {LINK_MAX} names"),
        ));
    }
    Ok(())
}

fn answer(attr: Option<Attr>) -> Result<Answer> {
    Ok(Answer::new(OpResponse::LinkCount(LinkCountResponse { attr })))
}
