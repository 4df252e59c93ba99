//! rename, where a directory or an object lives on another metadata server. This one holds the new
//! name's directory and coordinates.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | a directory changes its parent: the tree lock (`tree_lock`) | lock | answer |
//! | lock the names here | intent, synced | |
//! | old name elsewhere: `rename_peer` Prepare (found, allowed, held) | check | undo; `Busy`: let go, try again |
//! | check; replaced directory, or parts of it, elsewhere: `rmdir_peer` Prepare | commit | undo, answer |
//! | commit: new name, what is here of the rest, reply, intent in one change, synced | finish | undo, answer |
//! | finish: `rename_peer` Commit, and what is left of the objects elsewhere | answer | answer all the same; goes on in the background |
//!
//! Readers of the old name wait from Prepare to Commit, so nobody sees both names or none. A server
//! that holds its own names never waits for another's (see `MetaServer::until_free`), so two
//! renames cannot wait for each other.
//!
//! The tree lock is taken before all else where it is known that a directory moves, else without
//! waiting when that is known; it is given back after every other step has been answered (the
//! directory's parent is written by then).
use super::rename::{DEPTH_MAX, Ends, refuse_loop};
use super::rmdir::as_step;
use super::tree_lock::TREE;
use crate::intents::{self, StepCall};
use crate::keys::DirentValue;
use crate::names::Place;
use crate::server::MetaServer;
use crate::store::Change;
use pvfs2_proto::attr::mode::S_IFDIR;
use pvfs2_proto::op::{
    Cred, GetattrRequest, OpMessage, ReaddirRequest, RenamePeerRequest, RenameRequest, RenameStep,
    RmdirStep,
};
use pvfs2_proto::{Attr, ErrorCode, Handle, PvfsError, Result};
use pvfs2_server_core::peer;
use pvfs2_server_core::scheduler::Guard;
use pvfs2_server_core::service::{Answer, OpCx};
use std::cell::Cell;

pub(crate) async fn rename_far(server: &MetaServer, cx: &OpCx, r: RenameRequest) -> Result<Answer> {
    // Whether to queue for the tree lock before anything is held: only a guess, and no error.
    let queue = Cell::new(
        server.owns(Handle(r.dir)) && {
            let old = server.place(cx, r.dir, &r.name).ok();
            let old = old.and_then(|p| Some((p.target?, p.dir.home())));
            let new = server.place(cx, r.new_dir, &r.new_name).ok();
            old.zip(new).is_some_and(|((moved, old_home), new)| {
                Ends { old: None, new, moved, old_home }.moves_a_directory(&r)
            })
        },
    );
    server.until_free(async || attempt(server, cx, &r, &queue).await).await
}

/// What an attempt has begun and holds.
struct Tried<'a> {
    intent: u64,
    /// The intent's record is written.
    begun: bool,
    undo: Vec<StepCall>,
    /// Whether it has the tree lock.
    has_tree: bool,
    /// The tree lock, where this server gives it.
    tree: Option<Guard>,
    /// Set when the next attempt shall queue for the tree lock.
    queue: &'a Cell<bool>,
}

impl Tried<'_> {
    /// Takes back what was begun.
    async fn give_up(self, server: &MetaServer, guard: Option<Guard>) {
        if self.begun {
            let _later = server.run_intent(self.intent, self.undo, guard, Change::new()).await;
        }
    }
}

async fn attempt(
    server: &MetaServer,
    cx: &OpCx,
    r: &RenameRequest,
    queue: &Cell<bool>,
) -> Result<Answer> {
    let intent = server.store.new_intent()?;
    let undo = Vec::new();
    let mut t = Tried { intent, begun: false, undo, has_tree: false, tree: None, queue };
    if queue.get() {
        t.begun = !server.owns(Handle::ROOT);
        match server.take_tree(intent, &mut t.undo, &[], true).await {
            Ok(guard) => (t.tree, t.has_tree) = (guard, true),
            Err(e) => {
                t.give_up(server, None).await;
                return Err(e);
            }
        }
    }
    let near = server.owns(Handle(r.dir));
    let names = [(r.new_dir, r.new_name.as_ref()), (r.dir, r.name.as_ref())];
    let mut guard = server.lock_names(if near { &names } else { &names[..1] }, &[]).await;
    let locked = [Handle(r.new_dir), Handle(r.dir)];
    let dirs = if near { &locked[..] } else { &locked[..1] };
    let held = match server.place(cx, r.new_dir, &r.new_name) {
        Ok(new) => hold(server, cx, r, new, &mut t, dirs).await,
        Err(e) => Err(e),
    };
    match held {
        Ok((ends, true)) => finish(server, cx, r, ends, t, guard).await,
        Ok((ends, false)) => {
            guard.keep(dirs);
            t.give_up(server, Some(guard)).await;
            Ok(Answer::new(ends.response()))
        }
        Err(e) => {
            guard.keep(dirs);
            t.give_up(server, Some(guard)).await;
            Err(e)
        }
    }
}

/// Intent, old name, checks. `false`: both names are one object's.
async fn hold(
    server: &MetaServer,
    cx: &OpCx,
    r: &RenameRequest,
    new: Place,
    t: &mut Tried<'_>,
    dirs: &[Handle],
) -> Result<(Ends, bool)> {
    let intent = t.intent;
    let near = server.owns(Handle(r.dir));
    let source = if near { None } else { Some(server.owner(Handle(r.dir))?) };
    let replaced = match new.target.filter(|t| !r.exchange && t.kind == S_IFDIR) {
        Some(dir) => server.far_objects(dir.handle)?,
        None => Vec::new(),
    };
    if let Some(to) = source {
        let abort = peer_step(intent, r, RenameStep::Abort, None);
        t.undo.push(intents::step(to, abort.into_request()));
    }
    let take_back = server.rmdir_steps(intent, &replaced, RmdirStep::Undo)?;
    t.undo.extend(take_back.into_iter().map(as_step));
    t.begun = true;
    server.begin_intent(intent, t.undo.clone(), dirs).await?;
    let ends = match source {
        None => {
            let old = server.place(cx, r.dir, &r.name)?;
            let (moved, old_home) = (old.existing()?, old.dir.home());
            Ends { old: Some(old), new, moved, old_home }
        }
        Some(to) => {
            let prepare = peer_step(intent, r, RenameStep::Prepare, None);
            let held = peer::ask(server.peers(), &cx.cred, cx.op_id, to, prepare).await?;
            let moved = DirentValue { handle: Handle(held.handle), kind: held.kind };
            let old_home = held.dir_attr.map_or(r.dir, |a| a.home());
            Ends { old: None, new, moved, old_home }
        }
    };
    if ends.moves_a_directory(r) && !t.has_tree {
        match server.take_tree(intent, &mut t.undo, dirs, false).await {
            Ok(guard) => (t.tree, t.has_tree) = (guard, true),
            Err(e) => {
                t.queue.set(e.code == ErrorCode::Busy);
                return Err(e);
            }
        }
    }
    let asks = check(server, cx, r, &ends, intent, &replaced).await?;
    Ok((ends, asks))
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

/// `false`: both names are one object's.
async fn check(
    server: &MetaServer,
    cx: &OpCx,
    r: &RenameRequest,
    ends: &Ends,
    intent: u64,
    replaced: &[Handle],
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
    let Some(dir) = ends.replaced_dir(r) else { return Ok(true) };
    // It holds the old name, and its handle (or that of its part) is held for that.
    if dir.handle.0 == ends.old_home {
        return Err(PvfsError::new(ErrorCode::NotEmpty, "the new name holds the old one"));
    }
    if server.owns(dir.handle)
        && let Some(other) = &other
    {
        super::rmdir_peer::must_be_empty(other)?;
    }
    if !replaced.is_empty() {
        let prepare = server.rmdir_steps(intent, replaced, RmdirStep::Prepare)?;
        peer::ask_all(server.peers(), &Cred::root(), cx.op_id, prepare).await?;
    }
    Ok(true)
}

async fn finish(
    server: &MetaServer,
    cx: &OpCx,
    r: &RenameRequest,
    ends: Ends,
    mut t: Tried<'_>,
    mut guard: Guard,
) -> Result<Answer> {
    let intent = t.intent;
    let exchange = ends.new.target.filter(|_| r.exchange);
    let far_source = ends.old.is_none();
    let mut change = Change::new();
    let committed =
        ends.carry_out(server, &mut change, intent, r).and_then(|(mut steps, response)| {
            if far_source {
                let to = server.owner(Handle(r.dir))?;
                let commit = peer_step(intent, r, RenameStep::Commit, exchange);
                steps.push(intents::step(to, commit.into_request()));
            }
            let mut locked = vec![Handle(r.new_dir)];
            locked.extend((!far_source).then_some(Handle(r.dir)));
            match &t.tree {
                Some(_) => locked.push(TREE),
                None if t.has_tree => steps.push(server.tree_release(intent)?),
                None => {}
            }
            server.commit_intent(&mut change, intent, steps.clone(), &locked);
            Ok((server.answer(cx, change, response)?, steps))
        });
    // What remains waits for others, who may wait for these objects.
    guard.keep(&[Handle(r.new_dir), Handle(r.dir)]);
    let (answer, steps) = match committed {
        Ok(committed) => committed,
        Err(e) => {
            t.give_up(server, Some(guard)).await;
            return Err(e);
        }
    };
    // Until the directory's parent is written.
    if let Some(tree) = t.tree.take() {
        guard.absorb(tree);
    }
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
    if ends.same_parent() {
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
