//! mkdir: makes a directory, here or (to spread them) on another metadata server.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | check, choose the server; here: object, dirent, parent, reply in one change | answer | nothing happened |
//! | elsewhere: intent, synced | make | nothing happened |
//! | make (`crdir` there) | commit | undo, answer |
//! | commit: dirent, parent, reply in one change, intent out | answer | undo, answer |
//!
//! Durable: all of it. The directory takes over the parent's `user.pvfs2.*` attributes, default
//! ACL and sgid.
//! Errors: `Exists`, `Access`, `NotFound`, `NameTooLong`, `Invalid`, `Unreachable`.
use super::create::{fresh, hand_down, inherited, new_object};
use crate::names::Place;
use crate::server::MetaServer;
use crate::store::Change;
use crate::{intents, keys};
use pvfs2_proto::attr::mode::S_IFDIR;
use pvfs2_proto::op::{CrdirRequest, Cred, MkdirRequest, MkdirResponse, OpMessage, OpResponse};
use pvfs2_proto::{Attr, ErrorCode, Handle, PvfsError, Result, ServerId};
use pvfs2_server_core::service::{Answer, OpCx};
use pvfs2_server_core::{peer, prelude};

pub(crate) async fn mkdir(server: &MetaServer, cx: &OpCx, r: MkdirRequest) -> Result<Answer> {
    let to = home(server, &r);
    if to != server.id {
        return far(server, cx, r, to).await;
    }
    let _guard = server.pass_names(&[(r.dir, &r.name)], &[]).await;
    let mut place = free_place(server, cx, &r)?;
    let now = server.now_ns();
    let mut attr = new_object(server, cx, &place.dir, (mode(&r), r.umask), now)?;
    attr.nlink = 2;
    let mut change = Change::new();
    hand_down(server, &mut change, &place.dir, &mut attr)?;
    change.new_object(&attr);
    change.put_parent(attr.handle(), Handle(place.dir.home()));
    add_name(&mut change, &mut place, attr.handle(), now);
    server.answer(cx, change, response(attr, place.dir))
}

/// The server that shall hold the new directory: by hash over all of them.
fn home(server: &MetaServer, r: &MkdirRequest) -> ServerId {
    let servers: Vec<ServerId> = server.map.meta_servers().collect();
    if servers.len() < 2 {
        return server.id;
    }
    let hash = keys::name_hash(r.dir, &r.name) >> 20;
    servers[(hash % servers.len() as u64) as usize]
}

fn mode(r: &MkdirRequest) -> u32 {
    S_IFDIR | r.mode & 0o1777
}

fn response(attr: Attr, dir: Attr) -> OpResponse {
    OpResponse::Mkdir(MkdirResponse { attr: Some(attr), dir_attr: Some(dir) })
}

fn free_place(server: &MetaServer, cx: &OpCx, r: &MkdirRequest) -> Result<Place> {
    let place = server.place(cx, r.dir, &r.name)?;
    place.must_be_free()?;
    prelude::may_create(&cx.cred, &place.dir)?;
    Ok(place)
}

fn add_name(change: &mut Change, place: &mut Place, handle: Handle, now_ns: i64) {
    place.count(1, 1, now_ns);
    change.put_dirent(place.key.clone(), handle, S_IFDIR);
    change.put_attr(&place.dir);
}

async fn far(server: &MetaServer, cx: &OpCx, r: MkdirRequest, to: ServerId) -> Result<Answer> {
    let guard = server.lock_names(&[(r.dir, &r.name)], &[]).await;
    let mut place = free_place(server, cx, &r)?;
    let now = server.now_ns();
    let attr = fresh(server, cx, &place.dir, (mode(&r), r.umask), now)?;
    let attr = Attr { nlink: 2, ..attr };
    let intent = server.store.new_intent()?;
    let xattrs = inherited(server, &place.dir, &attr)?;
    let make = CrdirRequest {
        intent,
        attr: Some(attr),
        parent: place.dir.home(),
        xattrs: xattrs.into_iter().flat_map(|(name, value)| [name, value]).collect(),
        undo: false,
    };
    let undo = vec![intents::step(
        to,
        CrdirRequest { intent, undo: true, ..Default::default() }.into_request(),
    )];
    server.begin_intent(intent, undo.clone(), &[Handle(r.dir)]).await?;
    let made = peer::ask(server.peers(), &Cred::root(), cx.op_id, to, make).await;
    let made = made.and_then(|reply| {
        reply.attr.ok_or_else(|| PvfsError::new(ErrorCode::Protocol, "crdir brought no attributes"))
    });
    let committed = made.and_then(|attr| {
        let mut change = Change::new();
        change.delete(keys::intent(intent));
        add_name(&mut change, &mut place, attr.handle(), now);
        server.answer(cx, change, response(attr, place.dir))
    });
    if committed.is_err() {
        let _later = server.run_intent(intent, undo, Some(guard), Change::new()).await;
    }
    committed
}
