//! rename_peer: the old name's half of a rename that another metadata server coordinates.
//!
//! | step | does | on failure |
//! |---|---|---|
//! | Prepare | check, hold the directory (over a restart too), mark; synced | nothing happened |
//! | Commit | old name out (or pointed at the exchanged object), directory, mark; synced; let go | repeated by the coordinator |
//! | Abort | mark; synced; let go | repeated by the coordinator |
//!
//! Repeated, a step answers the same. Errors of Prepare: `NotFound`, `Access`, `NotPermitted`
//! (sticky), `Busy` (the directory is held by another operation), `Invalid` (taken back before it
//! came).
use super::unlink::owner_uid;
use crate::keys::DirentValue;
use crate::names::touch_dir;
use crate::peer_steps::{StepKind, StepRecord, StepState, taken_back};
use crate::server::MetaServer;
use crate::store::Change;
use pvfs2_proto::attr::mode::S_IFDIR;
use pvfs2_proto::op::{OpResponse, RenamePeerRequest, RenamePeerResponse, RenameStep};
use pvfs2_proto::{Attr, ErrorCode, Handle, PvfsError, Result};
use pvfs2_server_core::prelude;
use pvfs2_server_core::scheduler::Mode;
use pvfs2_server_core::service::{Answer, OpCx};

pub(crate) async fn rename_peer(
    server: &MetaServer,
    cx: &OpCx,
    r: RenamePeerRequest,
) -> Result<Answer> {
    server.must_own(Handle(r.dir))?;
    let mark = server.mark(r.intent, StepKind::Rename, r.dir)?;
    let state = mark.as_ref().map(StepRecord::state);
    match (r.step(), state, mark) {
        (RenameStep::Prepare, None, _) => prepare(server, cx, r).await,
        (RenameStep::Prepare, Some(StepState::Undone), _) => Err(taken_back()),
        (RenameStep::Prepare, _, Some(mark)) => {
            answer(mark.handle, mark.kind, server.store.attr(Handle(r.dir))?)
        }
        (RenameStep::Commit, Some(StepState::Prepared), Some(mark)) => {
            commit(server, r, mark).await
        }
        (RenameStep::Commit, _, _) => answer(0, 0, None),
        (RenameStep::Abort, Some(StepState::Done), _) => answer(0, 0, None),
        (RenameStep::Abort, _, mark) => {
            let mut change = Change::new();
            let record = StepRecord { state: StepState::Undone as i32, ..mark.unwrap_or_default() };
            server.put_mark(&mut change, r.intent, StepKind::Rename, r.dir, &record);
            server.commit_step(change).await?;
            server.held.borrow_mut().remove(&r.intent);
            answer(0, 0, None)
        }
        (RenameStep::Prepare, Some(_), None) => Err(crate::store::damaged(Handle(r.dir))),
    }
}

async fn prepare(server: &MetaServer, cx: &OpCx, r: RenamePeerRequest) -> Result<Answer> {
    let guard = server.sched.try_lock(Handle(r.dir), Mode::Write).ok_or_else(|| {
        PvfsError::new(ErrorCode::Busy, "the old name's directory is held by another operation")
    })?;
    let place = server.place(cx, r.dir, &r.name)?;
    let target = place.existing()?;
    let uid = owner_uid(server, cx, &place.dir, target.handle).await?;
    prelude::may_delete(&cx.cred, &place.dir, uid)?;
    let record = StepRecord {
        state: StepState::Prepared as i32,
        handle: target.handle.0,
        kind: target.kind,
        dir: r.dir,
        name: r.name,
        ..Default::default()
    };
    let mut change = Change::new();
    server.put_mark(&mut change, r.intent, StepKind::Rename, r.dir, &record);
    server.held.borrow_mut().insert(r.intent, guard);
    server.commit_step(change).await?;
    answer(target.handle.0, target.kind, Some(place.dir))
}

async fn commit(server: &MetaServer, r: RenamePeerRequest, mark: StepRecord) -> Result<Answer> {
    let dir = Handle(r.dir);
    let key = server.store.dirent_key(dir, &mark.name);
    let mut attr = server.store.directory(dir)?;
    let mut change = Change::new();
    let is_dir = |kind: u32| i64::from(kind == S_IFDIR);
    let held = server.store.dirent(&key, dir)?.is_some_and(|t| t.handle.0 == mark.handle);
    if held && r.exchange_handle != 0 {
        let other = DirentValue { handle: Handle(r.exchange_handle), kind: r.exchange_kind };
        change.put_dirent(key, other.handle, other.kind);
        let gains = is_dir(other.kind) - is_dir(mark.kind);
        touch_dir(&mut attr, 0, gains, server.now_ns());
    } else if held {
        change.delete(&key);
        touch_dir(&mut attr, -1, -is_dir(mark.kind), server.now_ns());
    }
    change.put_attr(&attr);
    let (handle, kind) = (mark.handle, mark.kind);
    let record = StepRecord { state: StepState::Done as i32, ..mark };
    server.put_mark(&mut change, r.intent, StepKind::Rename, r.dir, &record);
    server.commit_step(change).await?;
    server.held.borrow_mut().remove(&r.intent);
    answer(handle, kind, Some(attr))
}

fn answer(handle: u64, kind: u32, dir_attr: Option<Attr>) -> Result<Answer> {
    Ok(Answer::new(OpResponse::RenamePeer(RenamePeerResponse { handle, kind, dir_attr })))
}
