//! rmdir_peer: steps of removing or re-parenting a directory whose name is on another server.
//!
//! | step | does | on failure |
//! |---|---|---|
//! | Prepare | if empty: `DIR_DYING`, mark; synced | nothing happened |
//! | Undo | takes the mark back | repeated by the coordinator |
//! | Finish | removes the object | repeated by the coordinator |
//! | SetParent | writes the parent, ctime | repeated by the coordinator |
//!
//! Of a split directory the home asks its parts in turn, with the same intent: after its own mark
//! when preparing, before it when undoing and finishing.
//!
//! Repeated, a step answers the same. Errors: `Stale`, `NotDirectory`, `NotEmpty`, `Busy` (another
//! operation is removing it), `Invalid` (taken back before it came).
use crate::peer_steps::{StepKind, StepRecord, StepState, taken_back};
use crate::server::MetaServer;
use crate::split::must_be_settled;
use crate::store::Change;
use pvfs2_proto::op::{Cred, OpResponse, RmdirPeerRequest, RmdirPeerResponse, RmdirStep};
use pvfs2_proto::{Attr, AttrFlags, ErrorCode, Handle, PvfsError, Result};
use pvfs2_server_core::scheduler::Mode;
use pvfs2_server_core::service::{Answer, OpCx};
use pvfs2_server_core::{peer, prelude};

pub(crate) async fn rmdir_peer(
    server: &MetaServer,
    cx: &OpCx,
    r: RmdirPeerRequest,
) -> Result<Answer> {
    let handle = Handle(r.handle);
    let _guard = match r.step() {
        RmdirStep::Prepare => {
            server.must_be_free(handle)?;
            None
        }
        // Touches nothing that an operation on the directory's names reads.
        RmdirStep::SetParent => None,
        RmdirStep::Undo | RmdirStep::Finish => server.pass(&[(r.handle, Mode::Write)]).await,
    };
    if r.step() != RmdirStep::SetParent
        && server.mark(r.intent, StepKind::Rmdir, r.handle)?.map(|m| m.state())
            == Some(StepState::Prepared)
    {
        let parts = server.store.attr(handle)?.as_ref().map(parts_of).unwrap_or_default();
        ask_parts(server, cx, &r, &parts).await?;
    }
    let attr = server.store.attr(handle)?;
    let parent = if attr.is_some() { server.store.parent(handle)?.0 } else { 0 };
    let mark = server.mark(r.intent, StepKind::Rmdir, r.handle)?.map(|m| m.state());
    let mut change = Change::new();
    let put = |state: StepState, change: &mut Change| {
        let record = StepRecord { state: state as i32, handle: r.handle, ..Default::default() };
        server.put_mark(change, r.intent, StepKind::Rmdir, r.handle, &record);
    };
    let attr = match (r.step(), mark, attr) {
        (RmdirStep::Prepare, Some(StepState::Undone), _) => return Err(taken_back()),
        (RmdirStep::Prepare, Some(_), attr) => attr,
        (RmdirStep::Prepare, None, Some(attr)) => {
            put(StepState::Prepared, &mut change);
            Some(dying(&mut change, attr)?)
        }
        (RmdirStep::Prepare | RmdirStep::SetParent, _, None) => {
            return Err(PvfsError::new(ErrorCode::Stale, "the directory does not exist any more"));
        }
        (RmdirStep::Undo, Some(StepState::Prepared), Some(mut attr)) => {
            attr.set(AttrFlags::DIR_DYING, false);
            change.put_attr(&attr);
            put(StepState::Undone, &mut change);
            Some(attr)
        }
        (RmdirStep::Undo, _, attr) => {
            put(StepState::Undone, &mut change);
            attr
        }
        (RmdirStep::Finish, Some(StepState::Prepared), Some(attr)) => {
            server.store.remove_object(&mut change, &attr)?;
            put(StepState::Done, &mut change);
            None
        }
        (RmdirStep::Finish, _, attr) => attr,
        (RmdirStep::SetParent, _, Some(mut attr)) => {
            change.put_parent(handle, Handle(r.parent));
            attr.ctime_ns = server.now_ns();
            attr.change += 1;
            change.put_attr(&attr);
            Some(attr)
        }
    };
    server.commit_step(change).await?;
    if r.step() == RmdirStep::Prepare && mark.is_none() {
        let parts = attr.as_ref().map(parts_of).unwrap_or_default();
        ask_parts(server, cx, &r, &parts).await?;
    }
    Ok(Answer::new(OpResponse::RmdirPeer(RmdirPeerResponse { attr, parent })))
}

/// The parts of a split directory.
fn parts_of(attr: &Attr) -> Vec<Handle> {
    attr.dir_map.iter().flat_map(|m| &m.parts).map(|p| Handle(*p)).collect()
}

/// Asks the parts of a split directory for the same step.
async fn ask_parts(
    server: &MetaServer,
    cx: &OpCx,
    r: &RmdirPeerRequest,
    parts: &[Handle],
) -> Result<()> {
    let asks = server.rmdir_steps(r.intent, parts, r.step())?;
    if asks.is_empty() {
        return Ok(());
    }
    peer::ask_all(server.peers(), &Cred::root(), cx.op_id, asks).await.map(|_| ())
}

fn dying(change: &mut Change, mut attr: Attr) -> Result<Attr> {
    prelude::is_directory(&attr)?;
    if attr.has(AttrFlags::DIR_DYING) {
        return Err(PvfsError::new(ErrorCode::Busy, "the directory is being removed already"));
    }
    must_be_settled(&attr)?;
    must_be_empty(&attr)?;
    attr.set(AttrFlags::DIR_DYING, true);
    change.put_attr(&attr);
    Ok(attr)
}

/// # Errors
/// `NotEmpty`.
pub(crate) fn must_be_empty(attr: &Attr) -> Result<()> {
    if attr.size == 0 {
        return Ok(());
    }
    Err(PvfsError::new(
        ErrorCode::NotEmpty,
        format!("directory {:x} has {} entries", attr.handle, attr.size),
    ))
}
