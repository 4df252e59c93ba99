//! rename, where a directory or an object lives on another metadata server. This one holds the new
//! name's directory and coordinates.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | lock the names here | intent, synced | |
//! | old name elsewhere: `rename_peer` Prepare (found, allowed, held) | check | undo; `Busy`: let go, try again |
//! | check; replaced directory elsewhere: `rmdir_peer` Prepare | commit | undo, answer |
//! | commit: new name, what is here of the rest, reply, intent in one change, synced | finish | undo, answer |
//! | finish: `rename_peer` Commit, and what is left of the objects elsewhere | answer | answer all the same; goes on in the background |
//!
//! Readers of the old name wait from Prepare to Commit, so nobody sees both names or none. A server
//! that holds its own names never waits for another's (see `MetaServer::until_free`), so two
//! renames cannot wait for each other.
//!
//! Known limit: two directories moved below each other at the same moment, over different servers,
//! are not noticed (the walk to the root is not locked over servers).
use super::rename::{DEPTH_MAX, Ends, refuse_loop};
use crate::intents::{self, StepCall};
use crate::keys::DirentValue;
use crate::server::MetaServer;
use crate::store::Change;
use pvfs2_proto::attr::mode::S_IFDIR;
use pvfs2_proto::op::{
    Cred, GetattrRequest, OpMessage, ReaddirRequest, RenamePeerRequest, RenameRequest, RenameStep,
    RmdirPeerRequest, RmdirStep,
};
use pvfs2_proto::{Attr, ErrorCode, Handle, PvfsError, Result};
use pvfs2_server_core::peer;
use pvfs2_server_core::scheduler::Guard;
use pvfs2_server_core::service::{Answer, OpCx};

pub(crate) async fn rename_far(server: &MetaServer, cx: &OpCx, r: RenameRequest) -> Result<Answer> {
    server.until_free(async || attempt(server, cx, &r).await).await
}

async fn attempt(server: &MetaServer, cx: &OpCx, r: &RenameRequest) -> Result<Answer> {
    let near = server.owns(Handle(r.dir));
    let names = [(r.new_dir, r.new_name.as_ref()), (r.dir, r.name.as_ref())];
    let mut guard = server.lock_names(if near { &names } else { &names[..1] }, &[]).await;
    let new = server.place(cx, r.new_dir, &r.new_name)?;
    let intent = server.store.new_intent()?;
    let source = if near { None } else { Some(server.owner(Handle(r.dir))?) };
    let replaced_dir =
        new.target.filter(|t| !r.exchange && t.kind == S_IFDIR && !server.owns(t.handle));
    let mut undo = Vec::new();
    if let Some(to) = source {
        undo.push(intents::step(to, peer_step(intent, r, RenameStep::Abort, None).into_request()));
    }
    if let Some(dir) = replaced_dir {
        let to = server.owner(dir.handle)?;
        undo.push(intents::step(to, rmdir_step(intent, dir, RmdirStep::Undo).into_request()));
    }
    let locked = [Handle(r.new_dir), Handle(r.dir)];
    let dirs = if near { &locked[..] } else { &locked[..1] };
    server.begin_intent(intent, undo.clone(), dirs).await?;
    let ends = match source {
        None => {
            let old = server.place(cx, r.dir, &r.name);
            old.and_then(|old| old.existing().map(|moved| Ends { old: Some(old), new, moved }))
        }
        Some(to) => {
            let prepare = peer_step(intent, r, RenameStep::Prepare, None);
            peer::ask(server.peers(), &cx.cred, cx.op_id, to, prepare).await.map(|held| {
                let moved = DirentValue { handle: Handle(held.handle), kind: held.kind };
                Ends { old: None, new, moved }
            })
        }
    };
    let checked = match &ends {
        Ok(ends) => check(server, cx, r, ends, intent, replaced_dir).await,
        Err(e) => Err(e.clone()),
    };
    match (ends, checked) {
        (Ok(ends), Ok(true)) => finish(server, cx, r, ends, intent, undo, guard).await,
        (Ok(ends), Ok(false)) => {
            guard.keep(dirs);
            let _later = server.run_intent(intent, undo, Some(guard), Change::new()).await;
            Ok(Answer::new(ends.response()))
        }
        (_, Err(e)) | (Err(e), _) => {
            guard.keep(dirs);
            let _later = server.run_intent(intent, undo, Some(guard), Change::new()).await;
            Err(e)
        }
    }
}

fn peer_step(
    intent: u64,
    r: &RenameRequest,
    step: RenameStep,
    exchange: Option<DirentValue>,
) -> RenamePeerRequest {
    RenamePeerRequest {
        intent,
        step: step as i32,
        dir: r.dir,
        name: r.name.clone(),
        exchange_handle: exchange.map_or(0, |t| t.handle.0),
        exchange_kind: exchange.map_or(0, |t| t.kind),
    }
}

fn rmdir_step(intent: u64, dir: DirentValue, step: RmdirStep) -> RmdirPeerRequest {
    RmdirPeerRequest { intent, handle: dir.handle.0, step: step as i32, parent: 0 }
}

/// `false`: both names are one object's.
async fn check(
    server: &MetaServer,
    cx: &OpCx,
    r: &RenameRequest,
    ends: &Ends,
    intent: u64,
    replaced_dir: Option<DirentValue>,
) -> Result<bool> {
    let asks = ends.asks_for_something(r)?;
    refuse_loop(is_below(server, cx, r, ends).await?)?;
    if !asks {
        return Ok(false);
    }
    let moved = attr_of(server, cx, ends.moved.handle).await?;
    let other = match ends.new.target {
        Some(target) => Some(attr_of(server, cx, target.handle).await?),
        None => None,
    };
    ends.may(cx, r, &moved, other.as_ref())?;
    match (replaced_dir, &other) {
        // It holds the old name, and its handle is held for that.
        (Some(dir), _) if dir.handle == Handle(r.dir) => {
            return Err(PvfsError::new(ErrorCode::NotEmpty, "the new name holds the old one"));
        }
        (Some(dir), _) => {
            let prepare = rmdir_step(intent, dir, RmdirStep::Prepare);
            let to = server.owner(dir.handle)?;
            peer::ask(server.peers(), &Cred::root(), cx.op_id, to, prepare).await?;
        }
        (None, Some(other)) if other.is_dir() && !r.exchange => {
            super::rmdir_peer::must_be_empty(other)?;
        }
        _ => {}
    }
    Ok(true)
}

async fn finish(
    server: &MetaServer,
    cx: &OpCx,
    r: &RenameRequest,
    ends: Ends,
    intent: u64,
    undo: Vec<StepCall>,
    mut guard: Guard,
) -> Result<Answer> {
    let exchange = ends.new.target.filter(|_| r.exchange);
    let far_source = ends.old.is_none();
    let response = ends.response();
    let mut change = Change::new();
    let committed = ends.carry_out(server, &mut change, intent, r).and_then(|mut steps| {
        if far_source {
            let to = server.owner(Handle(r.dir))?;
            let commit = peer_step(intent, r, RenameStep::Commit, exchange);
            steps.push(intents::step(to, commit.into_request()));
        }
        let locked = [Handle(r.new_dir), Handle(r.dir)];
        let locked = if far_source { &locked[..1] } else { &locked[..] };
        server.commit_intent(&mut change, intent, steps.clone(), locked);
        Ok((server.answer(cx, change, response)?, steps))
    });
    // What remains waits for others, who may wait for these objects.
    guard.keep(&[Handle(r.new_dir), Handle(r.dir)]);
    let (answer, steps) = match committed {
        Ok(committed) => committed,
        Err(e) => {
            let _later = server.run_intent(intent, undo, Some(guard), Change::new()).await;
            return Err(e);
        }
    };
    server.store.sync_now().await?;
    // The new name stands whatever becomes of the rest.
    let _later = server.run_intent(intent, steps, Some(guard), Change::new()).await;
    Ok(answer)
}

/// Attributes of an object, wherever it is.
async fn attr_of(server: &MetaServer, cx: &OpCx, handle: Handle) -> Result<Attr> {
    if server.owns(handle) {
        return server.store.attr(handle)?.ok_or_else(|| crate::store::damaged(handle));
    }
    let (to, ask) = (server.owner(handle)?, GetattrRequest { handle: handle.0 });
    let reply = peer::ask(server.peers(), &Cred::root(), cx.op_id, to, ask).await?;
    reply.attr.ok_or_else(|| PvfsError::new(ErrorCode::Protocol, "getattr brought no attributes"))
}

/// Whether an end lies below what comes there.
async fn is_below(server: &MetaServer, cx: &OpCx, r: &RenameRequest, ends: &Ends) -> Result<bool> {
    if r.dir == r.new_dir {
        return Ok(false);
    }
    let mut pairs = vec![(r.new_dir, ends.moved)];
    pairs.extend(ends.new.target.filter(|_| r.exchange).map(|t| (r.dir, t)));
    for (dir, object) in pairs.into_iter().filter(|p| p.1.kind == S_IFDIR) {
        let mut at = Handle(dir);
        for _ in 0..DEPTH_MAX {
            if at == object.handle {
                return Ok(true);
            }
            if at == Handle::ROOT {
                break;
            }
            at = parent_of(server, cx, at).await?;
        }
    }
    Ok(false)
}

async fn parent_of(server: &MetaServer, cx: &OpCx, dir: Handle) -> Result<Handle> {
    if server.owns(dir) {
        return server.store.parent(dir);
    }
    let ask = ReaddirRequest { dir: dir.0, max: 0, ..Default::default() };
    let to = server.owner(dir)?;
    let reply = peer::ask(server.peers(), &Cred::root(), cx.op_id, to, ask).await?;
    Ok(Handle(reply.parent))
}
