//! crdir: makes a directory object for a dirent on another metadata server, or a part of a directory
//! that splits there, or takes it back.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | make: object, parent, attributes, mark in one change, synced | answer | nothing happened |
//! | undo: object out, mark | answer | repeated by the coordinator |
//!
//! Repeated, it answers the same. Errors: `Invalid` (taken back before it came).
use crate::keys;
use crate::peer_steps::{StepKind, StepRecord, StepState, taken_back};
use crate::server::MetaServer;
use crate::store::Change;
use pvfs2_proto::op::{CrdirRequest, CrdirResponse, OpResponse};
use pvfs2_proto::{Attr, AttrFlags, ErrorCode, Handle, PvfsError, Result};
use pvfs2_server_core::service::{Answer, OpCx};

pub(crate) async fn crdir(server: &MetaServer, _cx: &OpCx, r: CrdirRequest) -> Result<Answer> {
    let mark = server.mark(r.intent, StepKind::Crdir, 0)?;
    let made = mark.as_ref().filter(|m| m.state() == StepState::Done);
    if r.undo {
        let mut change = Change::new();
        if let Some(made) = made
            && let Some(attr) = server.store.attr(Handle(made.handle))?
        {
            server.store.remove_object(&mut change, &attr)?;
        }
        let record = StepRecord { state: StepState::Undone as i32, ..Default::default() };
        server.put_mark(&mut change, r.intent, StepKind::Crdir, 0, &record);
        server.commit_step(change).await?;
        return answer(None);
    }
    match mark {
        Some(_) if made.is_none() => Err(taken_back()),
        Some(made) => answer(Some(server.store.object(Handle(made.handle))?)),
        None => make(server, r).await,
    }
}

async fn make(server: &MetaServer, r: CrdirRequest) -> Result<Answer> {
    let mut attr = r.attr.filter(Attr::is_dir).ok_or_else(|| {
        PvfsError::new(ErrorCode::Protocol, "crdir came without attributes of a directory")
    })?;
    attr.handle = server.store.new_handle()?.0;
    let mut change = Change::new();
    for pair in r.xattrs.chunks_exact(2) {
        change.put(keys::xattr(attr.handle(), &pair[0]), pair[1].clone());
        attr.set(AttrFlags::HAS_XATTR, true);
    }
    change.new_object(&attr);
    if let Some(map) = attr.dir_map.as_ref().filter(|_| attr.has(AttrFlags::DIR_PART)) {
        change.put_part(attr.handle(), map.seed);
    }
    change.put_parent(attr.handle(), Handle(r.parent));
    let record =
        StepRecord { state: StepState::Done as i32, handle: attr.handle, ..Default::default() };
    server.put_mark(&mut change, r.intent, StepKind::Crdir, 0, &record);
    server.commit_step(change).await?;
    answer(Some(attr))
}

fn answer(attr: Option<Attr>) -> Result<Answer> {
    Ok(Answer::new(OpResponse::Crdir(CrdirResponse { attr })))
}
