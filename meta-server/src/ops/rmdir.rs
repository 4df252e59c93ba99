//! rmdir: removes an empty directory.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | check; object here: dirent, parent, object, reply in one change | answer | nothing happened |
//! | object, or parts of it, on other servers: intent, synced | prepare | nothing happened |
//! | prepare (`rmdir_peer` Prepare there: empty, nothing can be made in it) | commit | undo, answer |
//! | commit: dirent, parent, what is here of the object, reply, intent in one change, synced | finish | undo, answer |
//! | finish (`rmdir_peer` Finish there) | answer | answer all the same; goes on in the background |
//!
//! Durable: all of it. Errors: `NotFound`, `NotDirectory`, `NotEmpty`, `Access`, `NotPermitted`
//! (sticky), `NameTooLong`, `Invalid`, `Unreachable`.
use super::rmdir_peer::must_be_empty;
use super::unlink::{own_attr, owner_uid};
use crate::intents::{self, StepCall};
use crate::keys::DirentValue;
use crate::names::Place;
use crate::server::MetaServer;
use crate::split::settled_parts;
use crate::store::Change;
use pvfs2_proto::attr::mode::S_IFDIR;
use pvfs2_proto::op::{
    Cred, OpMessage, OpResponse, RmdirPeerRequest, RmdirRequest, RmdirResponse, RmdirStep,
};
use pvfs2_proto::{Attr, ErrorCode, Handle, PvfsError, Result, ServerId};
use pvfs2_server_core::scheduler::Guard;
use pvfs2_server_core::service::{Answer, OpCx};
use pvfs2_server_core::{peer, prelude};

impl MetaServer {
    /// One step of removing directory objects of other servers.
    pub(crate) fn rmdir_steps(
        &self,
        intent: u64,
        objects: &[Handle],
        step: RmdirStep,
    ) -> Result<Vec<(ServerId, RmdirPeerRequest)>> {
        let one = |h: &Handle| {
            let request = RmdirPeerRequest { intent, handle: h.0, step: step as i32, parent: 0 };
            Ok((self.owner(*h)?, request))
        };
        objects.iter().map(one).collect()
    }
}

pub(crate) async fn rmdir(server: &MetaServer, cx: &OpCx, r: RmdirRequest) -> Result<Answer> {
    server.until_free(async || attempt(server, cx, &r).await).await
}

/// What shall be removed.
struct Victim {
    handle: Handle,
    kind: u32,
    /// `None`: it lives on another server.
    attr: Option<Attr>,
    /// It, or parts of it, on other servers.
    others: Vec<Handle>,
}

fn find(server: &MetaServer, cx: &OpCx, r: &RmdirRequest) -> Result<(Place, Victim)> {
    let place = server.place(cx, r.dir, &r.name)?;
    let DirentValue { handle, kind } = place.existing()?;
    let attr = own_attr(server, handle)?;
    let others = match &attr {
        Some(attr) => settled_parts(attr)?,
        None => vec![handle],
    };
    Ok((place, Victim { handle, kind, attr, others }))
}

async fn attempt(server: &MetaServer, cx: &OpCx, r: &RmdirRequest) -> Result<Answer> {
    let names = [(r.dir, r.name.as_ref())];
    let mut guard = server.pass_names(&names, &[]).await;
    let (mut place, mut victim) = find(server, cx, r)?;
    if !victim.others.is_empty() {
        drop(guard.take());
        guard = Some(server.lock_names(&names, &[]).await);
        (place, victim) = find(server, cx, r)?;
    }
    let victim_uid = match &victim.attr {
        Some(attr) => attr.uid,
        None => owner_uid(server, cx, &place.dir, victim.handle).await?,
    };
    prelude::may_delete(&cx.cred, &place.dir, victim_uid)?;
    if victim.kind != S_IFDIR {
        return Err(PvfsError::new(ErrorCode::NotDirectory, "the name is no directory's"));
    }
    let mut change = Change::new();
    if let Some(attr) = &victim.attr {
        must_be_empty(attr)?;
        server.store.remove_object(&mut change, attr)?;
    }
    if !victim.others.is_empty() {
        return far(server, cx, (place, victim.handle), victim.others, change, guard).await;
    }
    remove_name(&mut change, &mut place, server.now_ns());
    server.answer(cx, change, response(victim.handle, place.dir))
}

fn response(handle: Handle, dir: Attr) -> OpResponse {
    OpResponse::Rmdir(RmdirResponse { handle: handle.0, dir_attr: Some(dir) })
}

fn remove_name(change: &mut Change, place: &mut Place, now_ns: i64) {
    change.delete(&place.key);
    place.count(-1, -1, now_ns);
    change.put_attr(&place.dir);
}

/// A request as an intent keeps it.
pub(crate) fn as_step((to, request): (ServerId, RmdirPeerRequest)) -> StepCall {
    intents::step(to, request.into_request())
}

async fn far(
    server: &MetaServer,
    cx: &OpCx,
    (mut place, handle): (Place, Handle),
    others: Vec<Handle>,
    mut change: Change,
    mut guard: Option<Guard>,
) -> Result<Answer> {
    let intent = server.store.new_intent()?;
    let steps = |step| server.rmdir_steps(intent, &others, step);
    let undo: Vec<_> = steps(RmdirStep::Undo)?.into_iter().map(as_step).collect();
    let locked = [Handle(place.dir.handle)];
    server.begin_intent(intent, undo.clone(), &locked).await?;
    let prepare = steps(RmdirStep::Prepare)?;
    if let Err(e) = peer::ask_all(server.peers(), &Cred::root(), cx.op_id, prepare).await {
        let _later = server.run_intent(intent, undo, guard, Change::new()).await;
        return Err(e);
    }
    if let Some(guard) = &mut guard {
        guard.keep(&locked);
    }
    let finish: Vec<_> = steps(RmdirStep::Finish)?.into_iter().map(as_step).collect();
    remove_name(&mut change, &mut place, server.now_ns());
    server.commit_intent(&mut change, intent, finish.clone(), &locked);
    let answer = match server.answer(cx, change, response(handle, place.dir)) {
        Ok(answer) => answer,
        Err(e) => {
            let _later = server.run_intent(intent, undo, guard, Change::new()).await;
            return Err(e);
        }
    };
    server.store.sync_now().await?;
    // The name is gone whatever becomes of the object.
    let _later = server.run_intent(intent, finish, guard, Change::new()).await;
    Ok(answer)
}
